"""Rows for fine-tuning are a benchmark's own prompts and golds, of training parts alone, and align reads them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.rows import messages, usable
from eval import split
from eval.benchmark import load_benchmark, names
from eval.make_rows import Config, main, training_part
from mediflow import simulate
from medsmith import run
from medsmith.errors import UserError
from medsmith.records import read_jsonl, read_parquet
from tests import case_mts_dialog

WITHOUT = {"icd10cm", "pubmedqa", "medqa_shuffled", "sdoh_sentences"}
"""Of the first two the clinic has no twin, of the others the training part lies elsewhere or is tested below."""
TRAINING = sorted(
    name for name in names() if name not in WITHOUT and "shots" in getattr(load_benchmark(name), "FILES", {})
)
TRAIN = "MTS-Dialog-TrainingSet.csv"
TEST = "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {
        "patients": 1,
        "documents": {},
        "validation_questions": 0,
        "benchmark_rows": dict.fromkeys(("train", "dev", "test"), 9),
    }
    return simulate.main(simulate.Config(out=tmp_path_factory.mktemp("clinic") / "out", **sizes)) / "benchmarks"


@pytest.mark.parametrize("name", TRAINING)
def test_rows_are_the_benchmarks_own_prompts_and_golds(name: str, clinic: Path, tmp_path: Path) -> None:
    """A row an item of the training part, word for word; align takes every one; what is simulated stays so."""
    folder = main(Config(out=tmp_path / "rows", benchmark=name, data=clinic / name))
    items = load_benchmark(name).load(clinic / name, "shots").items
    rows = read_parquet(folder / "data")

    wanted = [[*item.messages, {"role": "assistant", "content": item.gold}] for item in items]
    assert [messages(row) for row in rows] == [row["messages"] for row in read_jsonl(folder / "rows.jsonl")] == wanted
    assert usable(rows).dropped == []
    record = run.require_finished(folder)
    assert record["facts"]["simulated"] is True
    assert record["counts"]["read"] == record["counts"]["rows"] + record["counts"]["dropped"]


def test_rows_may_be_in_other_words(clinic: Path, tmp_path: Path) -> None:
    """Each row has one of the given instructions, both occur, and the benchmark's own stands where it is asked for."""
    given = ["Which section is it?", "{instruction} Be brief."]
    folder = main(Config(out=tmp_path / "a", benchmark="mts_dialog", data=clinic / "mts_dialog", instructions=given))
    own = "Write the named section of the clinical note from this conversation. Be brief."

    assert {row.instruction for row in read_parquet(folder / "data")} == {"Which section is it?", own}


def test_options_are_answered_by_text_or_by_a_letter(clinic: Path, tmp_path: Path) -> None:
    """As a suite's `choice` has it: the gold's text; or its letter after lettered lines and a request to write it."""
    outputs = {}
    for choice in ("text", "written"):
        config = Config(out=tmp_path / choice, benchmark="medqa", data=clinic / "medqa", choice=choice, limit=3)
        outputs[choice] = read_parquet(main(config) / "data")
    items = {item.gold for item in load_benchmark("medqa").load(clinic / "medqa", "shots").items}

    assert {row.output for row in outputs["text"]} <= items
    for plain, row in zip(outputs["text"], outputs["written"], strict=True):
        assert row.input.endswith("Answer with the letter.")
        assert f"\n{row.output}. {plain.output}\n" in row.input
    assert run.require_finished(tmp_path / "text")["counts"] == {"read": 36, "rows": 3, "dropped": 33}


def test_a_test_part_is_refused_unless_a_reason_is_given(tmp_path: Path) -> None:
    """By its name, and under the training part's name by its digest; the reason is recorded, and so is the licence."""
    case_mts_dialog.write(tmp_path)
    settings: dict[str, Any] = {"out": tmp_path / "out", "benchmark": "mts_dialog"}
    with pytest.raises(UserError, match=r"TestSet-1.* is not known to be the training part"):
        main(Config(data=tmp_path / TEST, **settings))

    benchmark: Any = load_benchmark("mts_dialog")
    digest = hashlib.sha256((tmp_path / TRAIN).read_bytes()).hexdigest()
    known = SimpleNamespace(load=benchmark.load, FILES=benchmark.FILES)
    for pattern, allowed in ((benchmark.FILES["test"], False), (benchmark.FILES["shots"], True)):
        known.PUBLISHED = {pattern: SimpleNamespace(rows=1, sha256=digest)}
        for data in (tmp_path / TRAIN, tmp_path):
            if allowed:
                assert training_part(Config(data=data, **settings), known)[1] == "the published training part"
                continue
            with pytest.raises(UserError, match="is the published file MTS-Dialog-TestSet-1"):
                training_part(Config(data=data, **settings), known)

    main(Config(data=tmp_path / TEST, override="a demonstration", **settings))
    record = run.require_finished(tmp_path / "out")
    assert record["facts"]["benchmark_rows"]["override"] == "a demonstration"
    assert record["facts"]["licences"] == {"benchmark mts_dialog": "CC BY 4.0"}


def test_of_a_split_set_only_the_training_part_gives_rows(clinic: Path, tmp_path: Path) -> None:
    """MeQSum has one published part: refused whole, refused as `test`, taken as `train`."""
    settings: dict[str, Any] = {"benchmark": "meqsum", "out": tmp_path / "rows"}
    parts = split.main(
        split.Config(
            out=tmp_path / "parts", benchmark="meqsum", data=clinic / "meqsum", parts={"test": 3, "train": "rest"}
        )
    )
    file = next((clinic / "meqsum").iterdir())
    for data in (file, file.parent):
        with pytest.raises(UserError, match="without a training part; divide it by eval.split"):
            main(Config(data=data, **settings))
    with pytest.raises(UserError, match=r"the part 'test' of eval.split is not for training"):
        main(Config(data=parts / "test", **settings))
    rows = read_parquet(main(Config(data=parts / "train", **settings)) / "data")

    ids = json.loads((parts / "ids.json").read_text())["parts"]
    asked = {item.id: item.messages[-1]["content"] for item in load_benchmark("meqsum").load(file, "test").items}
    assert [row.input for row in rows] == [asked[name] for name in ids["train"]]
    assert run.require_finished(tmp_path / "rows")["facts"]["benchmark_rows"]["part"].startswith("a known part: train")
