"""One published file into parts by a fixed hash: sizes, groups, records, and what an evaluation says of a part."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.asking import prepare, sample_of
from eval.benchmark import Item, ask
from eval.parts import find_part
from eval.results import summarise
from eval.split import Config, fill, grouped, main
from eval.suite import BenchmarkSettings
from eval.summary import data_of
from medsmith import run
from medsmith.errors import UserError

NAME = "MTS-Dialog-TrainingSet.csv"


def rows(count: int = 60) -> list[tuple[str, str, str, str]]:
    """Every third conversation has two sections; the last row has no text."""
    made = [
        (str(n), "CC" if n % 3 else "PLAN", f"Text {n}.", f"Doctor: Case {n - (n % 3 == 1)}.") for n in range(count)
    ]
    return [*made, (str(count), "CC", "", "Doctor: Hi.")]


def write(path: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("ID", "section_header", "section_text", "dialogue"), *rows])
    return path


def split(folder: Path, data: Path, **settings: Any) -> dict[str, list[str]]:
    parts = {"test": 20, "train": "rest"}
    config = Config(out=folder, benchmark="mts_dialog", data=data, **{"parts": parts, **settings})
    return dict(json.loads((main(config) / "ids.json").read_text())["parts"])


def test_parts_have_their_sizes_and_no_conversation_stands_in_two(tmp_path: Path) -> None:
    """60 items and a row without a text: 20, 40, one dropped with its reason; both sections of a visit on one side."""
    found = split(tmp_path / "out", write(tmp_path / NAME, rows()))
    record = run.require_finished(tmp_path / "out")

    assert {name: len(ids) for name, ids in found.items()} == {"test": 20, "train": 40}
    assert record["counts"] == {"rows": 61, "test": 20, "train": 40, "dropped": 1}
    dropped = json.loads((tmp_path / "out/dropped.jsonl").read_text())
    assert dropped == {"row": 61, "id": "60", "reason": "no dialogue or section text"}
    conversations = [{int(one) - (int(one) % 3 == 1) for one in ids} for ids in found.values()]
    assert not conversations[0] & conversations[1]
    assert record["facts"]["licences"] == {"benchmark mts_dialog": "CC BY 4.0"}


def test_neither_the_order_of_the_file_nor_the_seed_has_a_bearing(tmp_path: Path) -> None:
    """The file turned round, and another seed, give the same parts; another draw, and another column, give others."""
    path = write(tmp_path / NAME, rows())
    turned = write(tmp_path / "turned" / NAME, rows()[::-1])
    first = split(tmp_path / "a", path)

    assert set(split(tmp_path / "b", turned)["test"]) == set(first["test"])
    assert split(tmp_path / "s", path, seed=1) == first
    assert set(split(tmp_path / "c", path, draw=1)["test"]) != set(first["test"])
    assert set(split(tmp_path / "d", path, by="ID")["test"]) != set(first["test"])


def test_an_evaluation_calls_a_part_a_known_part_until_it_is_changed(tmp_path: Path) -> None:
    """The published format is kept, so the benchmark reads it; one more row and it is no part any more."""
    split(tmp_path / "out", write(tmp_path / NAME, rows()), parts={"test": 20, "train": 30})
    file = tmp_path / "out/test" / NAME
    task = prepare("mts_dialog", BenchmarkSettings(), file, None, 4096)
    samples = [sample_of(task.name, task.benchmark, item, "", item.gold) | {"truncated": False} for item in task.items]
    entry = summarise([task], samples, [], 0)["benchmarks"]["mts_dialog"]

    assert data_of(entry, None) == "open file, a known part: test, 20 of 61 rows, split by content"
    part = find_part(tmp_path / "out/train")
    assert part is not None and (part.name, part.rows, part.file.name) == ("train", 30, NAME)
    assert find_part(tmp_path / NAME) is None
    with file.open("a") as lines:
        lines.write("99,CC,More.,Doctor: More.\n")
    assert find_part(file) is None


def test_what_belongs_together_is_found_over_several_steps() -> None:
    """A and B share a question, B and C a patient: one group of three; D is alone."""
    items = [
        Item("a", "1", ask("", "Same  words?"), ""),
        Item("d", "4", ask("", "Others?"), ""),
        Item("c", "2", ask("", "More?"), ""),
        Item("b", "2", ask("", "same words?"), ""),
    ]
    assert sorted(map(sorted, grouped(items))) == [["a", "b", "c"], ["d"]]


def test_a_group_that_does_not_fit_goes_to_the_next_part() -> None:
    """Of groups of two and one, a part of one takes the second; without `rest` what is left is in no part."""
    assert fill([["a", "b"], ["c"]], {"test": 1, "train": "rest"}) == {"test": ["c"], "train": ["a", "b"]}
    assert fill([["a"], ["b"], ["c"]], {"test": 1, "train": 1}) == {"test": ["a"], "train": ["b"]}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"test": 3, "train": "rest"}, "3 rows are asked for, 3 are there"),
        ({"test": "rest", "train": "rest"}, "test and train both ask for the rest"),
        ({"test": 1}, "no group of rows is small enough for test"),
    ],
)
def test_parts_that_cannot_be_are_refused(parts: dict[str, Any], said: str) -> None:
    """The rows that are there are named, and the part that stays empty."""
    groups = [["a", "b"], ["c"]] if len(parts) > 1 else [["a", "b", "c"]]
    with pytest.raises(UserError, match=said):
        fill(groups, parts)


def test_a_set_that_is_no_table_is_refused(tmp_path: Path) -> None:
    """PubMedQA's file is articles by id, and has a published test key: it is named, and those that can be split."""
    with pytest.raises(UserError, match=r"pubmedqa is no table .* those of .*meqsum"):
        main(Config(out=tmp_path / "out", benchmark="pubmedqa", data=tmp_path, parts={"test": 1}))
