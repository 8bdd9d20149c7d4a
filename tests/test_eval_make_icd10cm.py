"""Questions made from the code table: right answers, levels, balance, disjoint splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import icd10cm
from eval.make_icd10cm import Config, main
from medsmith.errors import UserError
from medsmith.records import read_json, read_jsonl

SETTINGS: dict[str, Any] = {"prefixes": ["E1", "I1", "i2", "J4", "K2"], "max_characters": 5, "per_level": 24}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return main(Config(out=tmp_path_factory.mktemp("icd") / "out", validation=12, **SETTINGS))


def place(code: str) -> tuple[str, str]:
    """The category and the chapter of a code."""
    import simple_icd_10_cm as table

    return code[:3], table.get_ancestors(code)[-1]


def code_of(question: str) -> str:
    return question.split("medical code ")[1].split(" in ICD10CM")[0]


def test_answers_are_those_of_the_table_and_levels_are_what_they_say(made: Path) -> None:
    """The gold is the code's description; wrong options lie in the chapters and categories of their level."""
    import simple_icd_10_cm as table

    described = {table.get_description(c, True): c for c in reversed(table.get_all_codes(True)) if "-" not in c}
    items = icd10cm.load(made, "test").items
    assert Counter(item.slice for item in items) == {"easy": 24, "medium": 24, "hard": 24}
    for item in items:
        code = code_of(item.messages[-1]["content"])
        assert item.messages[-1]["content"] == f"What is the description of the medical code {code} in ICD10CM?"
        assert item.gold == table.get_description(code, True)
        assert code.startswith(("E1", "I1", "I2", "J4", "K2"))
        assert len(code.replace(".", "")) <= 5
        assert len({option.casefold() for option in item.options}) == 4
        for option in item.options:
            if option == item.gold:
                continue
            other = described[option]
            (category, chapter), (own_category, own_chapter) = place(other), place(code)
            if item.slice == "easy":
                assert chapter != own_chapter
            else:
                assert chapter == own_chapter
                assert item.slice == "hard" or category != own_category
            assert not other.startswith(code) and not code.startswith(other)


def test_every_place_is_right_equally_often(made: Path) -> None:
    """Six of 24 each, by level; the facts say the balance of every split."""
    by_level = Counter((item.slice, item.options.index(item.gold)) for item in icd10cm.load(made, "test").items)
    assert set(by_level.values()) == {6}
    assert read_json(made / "run.json")["facts"]["answer_letters"]["test"] == dict.fromkeys("ABCD", 18)


def test_splits_share_no_code(made: Path) -> None:
    """Test, dev and validation ask about different codes, and every one asks about a code once."""
    asked = [
        code_of(item.messages[-1]["content"]) for split in ("test", "shots") for item in icd10cm.load(made, split).items
    ]
    validation = list(read_jsonl(made / "validation.jsonl"))
    asked += [code_of(row["question"]) for row in validation]
    assert len(asked) == len(set(asked)) == 72 + 12 + 12
    assert set(validation[0]) == {"id", "topic", "context", "question", "options", "answer_index"}


def test_same_seed_same_bytes(made: Path, tmp_path: Path) -> None:
    """Another seed asks other questions."""
    again = main(Config(out=tmp_path / "again", validation=12, **SETTINGS))
    other = main(Config(out=tmp_path / "other", validation=12, seed=1, **SETTINGS))
    for name in ("test.parquet", "dev.parquet", "validation.jsonl"):
        assert (made / name).read_bytes() == (again / name).read_bytes()
        assert (made / name).read_bytes() != (other / name).read_bytes()


def test_too_few_codes_are_named(tmp_path: Path) -> None:
    """How many are wanted, how many there are, what to change."""
    with pytest.raises(UserError, match=r"8 easy questions are wanted \(per_level, dev_per.*, the chosen codes give 0"):
        main(Config(out=tmp_path / "x", prefixes=["E1"], per_level=4, levels=["easy"]))
    with pytest.raises(UserError, match=r"no code of the table is chosen by prefixes=\['ZZ'\].*; loosen one"):
        main(Config(out=tmp_path / "y", prefixes=["ZZ"]))


def test_levels_by_distance_are_steps_in_the_tree(tmp_path: Path) -> None:
    """Hard: under the same parent; medium: three to five steps; never a code above or below; places are balanced."""
    import simple_icd_10_cm as table

    out = main(Config(out=tmp_path / "out", levels_by="distance", **SETTINGS))
    described = {table.get_description(c, True): c for c in reversed(table.get_all_codes(True)) if "-" not in c}

    def up(code: str) -> list[str]:
        return [code, *table.get_ancestors(code)]

    items = icd10cm.load(out, "test").items
    seen: dict[str, set[int]] = {"easy": set(), "medium": set(), "hard": set()}
    for item in items:
        asked = up(code_of(item.messages[-1]["content"]))
        for option in set(item.options) - {item.gold}:
            other = up(described[option])
            assert asked[0] not in other and other[0] not in asked
            shared = len(set(asked) & set(other))
            seen[item.slice].add(len(asked) + len(other) - 2 * shared)
    assert seen["hard"] == {2}
    assert seen["medium"] == {3, 4, 5}
    assert max(seen["easy"]) > 5
    by_level = Counter((item.slice, item.options.index(item.gold)) for item in items)
    assert set(by_level.values()) == {6}


def test_the_default_levels_are_those_of_the_table(made: Path, tmp_path: Path) -> None:
    """Another definition of the levels gives other questions."""
    other = main(Config(out=tmp_path / "other", validation=12, levels_by="distance", **SETTINGS))
    assert (made / "test.parquet").read_bytes() != (other / "test.parquet").read_bytes()
