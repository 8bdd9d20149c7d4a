"""Sources are mixed by number, share and epochs; one more source moves no row of the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from align import mix, prepare, rows
from align.mix import Picked, Source
from align.quotas import Quotas, idle
from medsmith import run
from medsmith.config import Config
from medsmith.errors import UserError
from medsmith.records import Instruction, read_jsonl, write_parquet


def row(source: str, number: int, task: str = "qa", level: str = "low", quality: float | None = 3.0) -> Instruction:
    return Instruction(
        id=f"{source}{number}",
        instruction=f"Do thing {source} {number}.",
        input=f"Fever {number}?",
        output=f"No fever {number}.",
        task_type=task,
        input_data="note",
        output_format="plain_text",
        difficulty_level=level,
        quality=quality,
    )


def many(source: str, count: int) -> list[Instruction]:
    return [row(source, number) for number in range(count)]


def sources(**blocks: dict[str, float]) -> dict[str, Source]:
    return {name: Source(data=Path("x"), **block) for name, block in blocks.items()}


def order(found: dict[str, list[Instruction]], counts: dict[str, int], seed: int = 0) -> list[str]:
    return [turn.row.id for turn in mix.schedule(found, counts, seed)]


def test_another_source_moves_no_row_of_the_others() -> None:
    """The rows of the first two keep their order among themselves, and the new ones lie between them, not behind."""
    two = {"a": many("a", 60), "b": many("b", 30)}
    before = order(two, {"a": 150, "b": 30})
    after = order(two | {"c": many("c", 40)}, {"a": 150, "b": 30, "c": 40})
    assert [key for key in after if key[0] != "c"] == before
    places = [place for place, key in enumerate(after) if key[0] == "c"]
    assert 0.3 < sum(places) / len(places) / len(after) < 0.7 and places != sorted(places, reverse=True)


def test_another_row_moves_no_other() -> None:
    """A row's place depends on its id and the seed: one row more, and the rest stand as they stood."""
    before = order({"a": many("a", 60)}, {"a": 60})
    after = order({"a": many("a", 61)}, {"a": 61})
    assert [key for key in after if key != "a60"] == before
    assert order({"a": many("a", 60)}, {"a": 60}, seed=1) != before


def test_every_pass_is_over_before_the_next_and_has_an_order_of_its_own() -> None:
    """2.5 epochs of 40 rows: two whole passes in different orders, then half of them; each 2 or 3 times."""
    turns = order({"a": many("a", 40)}, {"a": 100})
    first, second, rest = turns[:40], turns[40:80], turns[80:]
    assert set(first) == set(second) and first != second
    assert len(set(rest)) == len(rest) == 20
    assert Counter(Counter(turns).values()) == {2: 20, 3: 20}


def test_less_than_an_epoch_is_spread_over_the_training() -> None:
    """A fifth of a source comes all the way, not at its beginning; a larger part holds the smaller."""
    found = {"a": many("a", 200), "b": many("b", 200)}
    turns = order(found, {"a": 40, "b": 200})
    places = [place / len(turns) for place, key in enumerate(turns) if key[0] == "a"]
    assert len(places) == 40 and min(places) < 0.1 and max(places) > 0.9
    assert {key for key in turns if key[0] == "a"} < set(order(found, {"a": 60, "b": 200}))


def test_shares_are_of_all_rows_trained() -> None:
    """Numbers stay what they are and a share fills up; of shares alone the scarcest source decides."""
    sizes = {"a": 100, "b": 500, "c": 50}
    assert mix.turns_of(sources(a={}, b={"epochs": 0.5}, c={"epochs": 3}), sizes) == {"a": 100, "b": 250, "c": 150}
    found = mix.turns_of(sources(a={"epochs": 2}, b={"share": 0.6}), sizes)
    assert found == {"a": 200, "b": 300}
    found = mix.turns_of(sources(a={"share": 0.25}, b={"share": 0.5}, c={"share": 0.25, "epochs": 3}), sizes)
    assert found == {"a": 100, "b": 200, "c": 100}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"a": {"share": 0.5}, "b": {"share": 0.4}}, "the shares make 0.9; let them make 1"),
        ({"a": {"share": 0.6}, "b": {"share": 0.4}, "c": {}}, "leave nothing to the other sources"),
        ({"b": {}, "c": {"share": 0.5}}, r"mix.c: a share of 0.5 is 500 rows.*raise mix.c.epochs to 10"),
    ],
)
def test_shares_that_cannot_be_are_refused(blocks: dict[str, dict[str, float]], message: str) -> None:
    """Each with what to change."""
    with pytest.raises(UserError, match=message):
        mix.turns_of(sources(**blocks), {"a": 100, "b": 500, "c": 50})


def test_a_row_of_two_sources_belongs_to_the_first() -> None:
    """It is dropped from the second with the first one's name, trained or held out."""
    both = {
        "a": Picked(many("a", 3), [row("h", 0)], [], {}),
        "b": Picked([*many("a", 1), *many("b", 2), row("h", 0)], [], [], {}),
    }
    parted = mix.distinct(both)
    assert [each.id for each in parted["b"].train] == ["b0", "b1"] and parted["a"] == both["a"]
    assert parted["b"].dropped == [{"id": key, "reason": "also in the source 'a'"} for key in ("a0", "h0")]
    assert parted["b"].rows == both["b"].rows


def test_quotas_bound_every_kind_best_first() -> None:
    """Two columns at once, `*` for the rest, a share of the number wanted; what goes says which quota was full."""
    found = [row("x", n, ("ner", "qa", "icd")[n % 3], ("low", "high")[n % 2], quality=n / 100) for n in range(90)]
    quotas: Quotas = {"task_type": {"ner": 5, "*": 12}, "difficulty_level": {"low": 0.25}}
    kept, dropped = rows.best(found, 40, 0, quotas)
    assert Counter(each.task_type for each in kept) == {"ner": 5, "qa": 12, "icd": 12}
    assert Counter(each.difficulty_level for each in kept)["low"] == 10
    assert len(kept) + len(dropped) == 90
    assert {each["reason"] for each in dropped} == {
        "the quota of task_type=ner is full",
        "the quota of task_type=qa is full",
        "the quota of task_type=icd is full",
        "the quota of difficulty_level=low is full",
    }
    best_ner = [each.id for each in sorted(found, key=lambda each: -(each.quality or 0)) if each.task_type == "ner"]
    assert [each.id for each in kept if each.task_type == "ner"] == best_ner[:5]
    assert rows.best(found, 40, 0).rows == rows.best(found, 40, 0, {}).rows
    with pytest.raises(UserError, match=r"quotas.difficulty_level.low=0.25 is a share.*set top_rows"):
        rows.best(found, None, 0, quotas)
    with pytest.raises(UserError, match="neither a number of rows nor a share"):
        rows.best(found, 5, 0, {"task_type": {"ner": -2}})


def test_a_quota_of_a_value_that_no_row_has_is_told() -> None:
    """A misspelt level is named with those there are; `*` and a value that some row has are not."""
    found = [row("x", n, "ner", ("low", "high")[n % 2]) for n in range(4)]
    assert idle({"task_type": {"ner": 1, "*": 2}}, found) == []
    told = idle({"difficulty_level": {"lo": 1, "high": 1}}, found)
    assert told == ["quotas.difficulty_level.lo: no row has it; there are high, low"]


class Toy(Config):
    """A command that only chooses rows."""


def test_every_row_of_every_source_is_counted(tiny_model: Path, tmp_path: Path) -> None:
    """Rows in are train + held out + dropped by source and in all; the table counts epochs and tokens."""
    from medsmith.models import load_tokenizer

    write_parquet(tmp_path / "a" / "data" / "a.parquet", [*many("a", 30), row("a", 30, level="high")])
    write_parquet(tmp_path / "b" / "a.parquet", [*many("a", 2), *many("b", 10)])
    blocks = {
        "a": Source(data=tmp_path / "a", rows=25, quotas={"difficulty_level": {"high": 0}}),
        "b": Source(data=tmp_path / "b", epochs=2),
    }
    tokenizer = load_tokenizer(tiny_model)
    with run.start(Toy(out=tmp_path / "run"), "toy") as this:
        chosen = prepare.choose_mix(this, blocks, tokenizer, 100, 0.2)
    table = mix.describe(chosen.parts, chosen.turns, {"a": 7, "b": 8})
    assert table["a"]["rows"] == 31 and table["b"]["rows"] == 12
    for entry in table.values():
        assert entry["rows"] == entry["train"] + entry["heldout"] + sum(entry["dropped"].values())
    assert table["b"]["epochs"] == 2.0 and table["b"]["turns"] == 2 * table["b"]["train"]
    assert table["b"]["tokens"] == 2 * sum(chosen.parts["b"].lengths[each.id] for each in chosen.parts["b"].train)
    assert table["a"]["dropped"]["the quota of difficulty_level=high is full"] == 1
    assert len(chosen.train) == len(chosen.sources) == table["a"]["turns"] + table["b"]["turns"]
    assert chosen.counts["rows"] == 43 == sum(chosen.counts[part] for part in ("train", "heldout", "dropped"))
    named = {each["source"] for each in read_jsonl(tmp_path / "run" / "dropped.jsonl")}
    assert named == {"a", "b"} and 0 < len(chosen.heldout) < 20
