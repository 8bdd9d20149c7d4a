"""The plan before the money: counts, tokens, cost, hours; from assumptions, and from a pilot."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mediflow.generate import open_source, taxonomy_of
from mediflow.generation.calls import Calls
from mediflow.plan import Config, by_rows, from_pilot, main, make_plan, over_budget, read_pilot, say
from medsmith.config import load
from medsmith.costs import COMMANDS, View
from medsmith.errors import UserError
from medsmith.intervals import Interval
from medsmith.records import read_json
from medsmith.sizes import Sizes

PRICE = {"prompt_per_million": 2.0, "completion_per_million": 10.0, "batch_factor": 0.5}
TEACHER = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 10, "price": PRICE}


def settings(folder: Path, **values: Any) -> Config:
    given: dict[str, Any] = {"teacher": TEACHER, "instructions": 1000, "per_call": 10, "examples": [3, 4]}
    return Config(**{"out": folder, "grounding": "none", **given, **values})


def pilot(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / "raw" / "calls.jsonl"
    path.parent.mkdir(parents=True)
    lines = [
        {"id": str(number), "teacher": "m", "error": None, "about": {"round": 0}, "texts": ["…"], **row}
        for number, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"start": "x", "bound": 1.0}]) + '{"id": "to')


def test_a_plan_without_a_pilot(tmp_path: Path) -> None:
    """100 calls of ten instructions; replies as the paper's: 10 (316 + 3.5 × 170) tokens; up to a fifth more calls."""
    config = settings(tmp_path / "run")
    plan = make_plan(config)
    assert (plan["calls"], plan["instructions"], plan["cells"]) == (100, 1000, 100)
    assert 3000 < plan["records"] < 4000
    [part] = plan["teachers"]
    assert part.calls == pytest.approx((110, 100, 120))
    assert part.completion_tokens.value == pytest.approx(110 * 10 * (316 + 3.5 * 170))
    calls = Calls(config, taxonomy_of(config), open_source(config))
    lengths = [sum(len(m["content"]) for m in calls.request(c, calls.material(c)).messages) for c in calls.plan()]
    assert part.prompt_tokens.value == pytest.approx(110 * sum(lengths) / 100 / 4)
    assert part.cost is not None
    assert part.cost.value == pytest.approx(
        (part.prompt_tokens.value * 2 + part.completion_tokens.value * 10) / 1e6, rel=1e-4
    )
    seconds = 1 + 10 * (316 + 3.5 * 170) / 60
    assert part.hours.value == pytest.approx(110 * seconds / 10 / 3600)


def test_batches_cost_less_and_limits_take_longer(tmp_path: Path) -> None:
    """Half the price in batch mode; one request a minute makes 110 minutes of 110 calls."""
    [plain] = make_plan(settings(tmp_path / "run"))["teachers"]
    [batch] = make_plan(settings(tmp_path / "run", engine="batch"))["teachers"]
    assert batch.cost.value == pytest.approx(plain.cost.value / 2)
    [slow] = make_plan(settings(tmp_path / "run", teacher={**TEACHER, "requests_per_minute": 1}))["teachers"]
    assert slow.hours.value == pytest.approx(110 / 60)


def test_several_teachers_have_their_parts_and_unknown_prices_no_cost(tmp_path: Path) -> None:
    """Three quarters and one quarter of the calls; nobody guesses a price."""
    more = [{"base_url": "http://127.0.0.1:8/v1", "model": "other", "share": 1}]
    plan = make_plan(settings(tmp_path / "run", teacher={**TEACHER, "share": 3}, more_teachers=more))
    first, second = plan["teachers"]
    assert (first.calls.value, second.calls.value) == pytest.approx((82.5, 27.5))
    assert first.cost is not None
    assert second.cost is None


def test_a_pilot_takes_the_place_of_assumptions(tmp_path: Path) -> None:
    """Means and intervals of its answered calls; repairs and refills are further calls; failures and torn lines go."""
    rows: list[dict[str, Any]] = [
        {"usage": {"prompt_tokens": 90 + 20 * (n % 2), "completion_tokens": 50}, "seconds": 2.0} for n in range(8)
    ]
    rows[6]["about"] = {"repairs_number": 1, "round": 0}
    rows[7]["about"] = {"round": 1}
    failed = {"error": "HTTP 500", "usage": {}, "seconds": 0.0}
    pilot(tmp_path / "run", [*rows, failed])
    found = list(read_pilot(tmp_path / "run" / "raw" / "calls.jsonl"))
    assert len(found) == 8
    per_call = from_pilot(found)
    assert per_call.prompt_tokens is not None and per_call.prompt_tokens.value == 100
    assert per_call.prompt_tokens.high - 100 == pytest.approx(1.96 * (800 / 7) ** 0.5 / 8**0.5, rel=1e-3)
    assert per_call.completion_tokens == (50, 50, 50)
    assert per_call.extra.value == pytest.approx(2 / 6)
    assert per_call.extra.low < 2 / 6 < per_call.extra.high
    [part] = make_plan(settings(tmp_path / "run"))["teachers"]
    assert part.pilot_calls == 8
    assert part.calls.value == pytest.approx(100 * 8 / 6)
    assert part.hours.value == pytest.approx(100 * 8 / 6 * 2 / 10 / 3600)


def test_a_pilot_at_an_endpoint_without_usage_leaves_tokens_and_money_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither nothing nor 0 is a usage; where some calls tell theirs, those count. Hours are known all the same."""
    rows = [{"usage": usage, "seconds": 2.0} for usage in ({}, {"prompt_tokens": 0, "completion_tokens": 0}) * 4]
    pilot(tmp_path / "run", rows)
    [part] = make_plan(settings(tmp_path / "run"))["teachers"]
    assert (part.prompt_tokens, part.completion_tokens, part.cost) == (None, None, None)
    assert part.hours.value > 0
    plan = read_json(main(settings(tmp_path / "run")) / "plan.json")
    assert plan["teachers"][0]["cost"] is None and plan["disk_bytes"] > 0
    said = capsys.readouterr().out
    assert "unknown" in said and "tells no usage" in said
    told = {"usage": {"prompt_tokens": 90, "completion_tokens": 50}, "seconds": 2.0, "about": {}}
    assert from_pilot([{"about": {}, **row} for row in rows] + [told]).prompt_tokens == (90, 90, 90)


@pytest.mark.parametrize("engine", ["local", "batch"])
@pytest.mark.parametrize("more", [{}, {"repair": False, "refills": 0}, {"more_teachers": [{**TEACHER, "model": "o"}]}])
def test_medsmith_plan_prices_a_run_as_mediflow_plan_does(tmp_path: Path, engine: str, more: dict[str, Any]) -> None:
    """Of the same calls, tokens and settings: batch factor, repairs and refills, shares."""
    config = settings(tmp_path / "run", engine=engine, **more)
    plan = make_plan(config)
    once = plan["teachers"][0].calls.value
    size = {
        "prompt_tokens": plan["teachers"][0].prompt_tokens.value / once,
        "completion_tokens": plan["teachers"][0].completion_tokens.value / once,
        "from": "the other plan",
    }
    sizes = Sizes.model_validate({"model": {"parameters": 1, "layers": 1, "hidden": 1}, "steps": {"generate": size}})
    step: Any = SimpleNamespace(name="generate", config=config)
    work = COMMANDS["mediflow.generate"](View(step, sizes))
    assert work.cost == pytest.approx(sum(part.cost.value for part in plan["teachers"]), rel=1e-4)


def test_the_command_prints_and_writes_and_leaves_the_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table on stdout, plan.json beside the run's folder, and no folder for the run itself."""
    folder = main(settings(tmp_path / "run"))
    assert folder == tmp_path / "run-plan"
    assert not (tmp_path / "run").exists()
    said = capsys.readouterr().out
    assert "1,000 instructions in 100 calls" in said
    assert "money" in said
    assert "assumed are" in said
    plan = read_json(folder / "plan.json")
    assert plan["calls"] == 100
    assert set(plan["teachers"][0]["cost"]) == {"value", "low", "high"}
    assert say(Interval(1234.5, 1000, 1500), ",.0f") == "1,234 (1,000 to 1,500)"


def test_rows_budgets_and_foreign_recipes(tmp_path: Path) -> None:
    """700 rows at 3.5 each are 200 instructions; a budget below the plan is told; a judge's recipe is named as such."""
    config = by_rows(settings(tmp_path / "run", rows=700))
    assert config.instructions == 200
    parts = make_plan(config)["teachers"]
    assert list(over_budget(config, parts)) == []
    small, large = (
        settings(tmp_path / "run", rows=700, teacher=TEACHER | {"budget": {"max_cost": most}}) for most in (0.01, 1000)
    )
    [line] = over_budget(small, parts)
    assert "passes budget.max_cost 0.01" in line and list(over_budget(large, parts)) == []
    with pytest.raises(UserError, match="rows=0"):
        by_rows(settings(tmp_path / "run", rows=0))
    with pytest.raises(UserError, match=r"plans runs of mediflow\.generate"):
        load(Config, None, ["out=x", "samples=5"])
