"""Prices: of the recipe, of a file, of the file that is shipped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from medsmith.config import load
from medsmith.errors import UserError
from medsmith.llm import BudgetConfig, Price, TeacherConfig
from medsmith.prices import SHIPPED, find_price
from medsmith.yaml_files import read_yaml
from tests.toy_teacher import Endpoint, ask, teacher

REMOTE = "https://api.example.org/v1"


def test_the_shipped_prices_say_when_and_where_they_were_read() -> None:
    """Every entry is a price above 0 with date, source and the half price of the batch mode."""
    names = read_yaml(SHIPPED)
    assert len(names) > 5
    for name in names:
        price = find_price(name)
        assert price is not None
        assert price.date and price.source
        assert 0 < price.prompt_per_million < price.completion_per_million
        assert price.batch_factor == 0.5


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("gpt-4o", 2.5),
        ("gpt-4o-2024-08-06", 2.5),
        ("gpt-4o-2024-05-13", 5.0),
        ("gpt-4o-latest", 2.5),
        ("gpt-4o-mini-2024-07-18", 0.15),
        ("gpt-4o-turbo", None),
        ("gpt-4", None),
    ],
)
def test_a_dated_snapshot_costs_what_its_model_costs(model: str, prompt: float | None) -> None:
    """Unless the file names the snapshot itself; a name that only begins alike is another model."""
    price = find_price(model)
    assert (price.prompt_per_million if price else None) == prompt


def test_what_tokens_cost() -> None:
    """A million and a half million tokens at 2 and 8 cost 6, and 3 in a batch of half the price."""
    price = Price(prompt_per_million=2, completion_per_million=8, batch_factor=0.5)
    assert (price.cost(1_000_000, 500_000), price.cost(1_000_000, 500_000, batch=True)) == (6.0, 3.0)


def test_a_file_of_the_user_is_used_instead(tmp_path: Path) -> None:
    """Its prices count for local models too; those of medsmith say nothing of them; price goes before both."""
    file = tmp_path / "prices.yml"
    file.write_text("m: {prompt_per_million: 3, completion_per_million: 4, date: 2026-11-21}\n")
    assert teacher(prices=file).token_price == Price(prompt_per_million=3, completion_per_million=4, date="2026-11-21")
    own = Price(prompt_per_million=1, completion_per_million=1)
    assert teacher(prices=file, price=own).token_price == own
    assert teacher(model="gpt-4o").token_price is None
    remote = TeacherConfig(model="gpt-4o", base_url=REMOTE)
    assert remote.token_price is not None
    assert remote.model_copy(update={"prices": file}).token_price is None


def test_the_cost_is_in_the_reply(tmp_path: Path) -> None:
    """Ten prompt and five completion tokens at 3 and 4 a million."""
    file = tmp_path / "prices.yml"
    file.write_text("m: {prompt_per_million: 3, completion_per_million: 4}\n")
    config = teacher(prices=file)
    reply = asyncio.run(Endpoint(config).chat.complete(ask(config, 1)[0]))
    assert reply.cost == pytest.approx(50e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m2: {prompt_per_million: 3, completion_per_million: 4}", "does not name 'm'.*did you mean 'm2'.*give price"),
        ("m: {prompt_per_million: 3}", "'m'.*completion_per_million"),
        ("m: {prompt_per_million: 3, completion_per_million: 4, per: day}", "'m'.*unknown key 'per'"),
        ("m: 3", "'m'"),
    ],
)
def test_a_limit_of_money_without_a_price_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    """An unknown model and an entry that is no price are refused before anything is sent."""
    file = tmp_path / "prices.yml"
    file.write_text(text)
    settings = {"model": "m", "base_url": REMOTE, "prices": str(file), "budget": {"max_cost": 1}}
    with pytest.raises(UserError, match=said) as error:
        load(TeacherConfig, settings)
    assert "\n" not in str(error.value)
    missing = {**settings, "prices": str(tmp_path / "none.yml")}
    with pytest.raises(UserError, match=r"no such file.*none\.yml"):
        load(TeacherConfig, missing)
    assert TeacherConfig(model="gpt-4o", base_url=REMOTE, budget=BudgetConfig(max_cost=1)).token_price is not None
