"""A candidate is measured as the model that would be written of it, whatever makes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsmith.errors import UserError
from medsmith.models import load_model, load_tokenizer
from medsmith.records import write_jsonl
from merge_recipes.candidates import Bench, Job, Shop, crew
from merge_recipes.stream import copy_small_files
from merge_recipes.validation import Question, answer
from merge_recipes.weights import Entry, Weights, create

QUESTIONS = tuple(
    Question(str(n), "t", "", f"Fever of {n}?", ("no fever", "chest pain", "pneumonia"), n % 3) for n in range(6)
)
ADDED = {
    "merge_method": "task_arithmetic", "base_model": "base", "tokenizer": {"source": "base"},
    "models": [{"model": "expert", "parameters": {"weight": 0.5}}], "dtype": "float32",
}  # fmt: skip
SHALLOW = {
    "merge_method": "passthrough", "base_model": "base", "tokenizer": {"source": "base"},
    "slices": [{"sources": [{"model": "expert", "layer_range": [0, 1]}]}], "dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The tiny model, and an expert some way off."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "expert").mkdir()
    source, draw = Weights(tiny_model), np.random.default_rng(0)
    with create(folder / "expert", [Entry(name, "F32", one.shape) for name, one in source.items()]) as views:
        for name, one in source.items():
            views[name][:] = one.float32() + 0.1 * draw.standard_normal(one.data.size)
    copy_small_files(tiny_model, folder / "expert", "F32")
    folders = (("base", tiny_model), ("expert", folder / "expert"))
    return Bench(
        folders, "base", QUESTIONS, (), None, "float32", "cpu", None, 0, "auto", "", folder / "scratch", threads=1
    )


def margins(folder: Path) -> list[float]:
    return answer(load_model(folder), load_tokenizer(folder), QUESTIONS).margins


def test_parents_and_depths_take_turns(bench: Bench) -> None:
    """A parent, a merge of one layer of two, and a parent again: each answers as its own folder does."""
    shop = Shop(bench)
    base, expert = (margins(folder) for _, folder in bench.folders)
    assert base != expert
    assert shop.work(Job("", "expert")).row["margins"] == expert
    shallow = shop.work(Job(json.dumps(SHALLOW))).row["margins"]
    assert shop.model.config.num_hidden_layers == 1 and shop.folder is not None
    assert shallow == margins(shop.folder) and shallow not in (base, expert)
    assert shop.work(Job("", "base")).row["margins"] == base
    assert shop.model.config.num_hidden_layers == 2
    assert shop.work(Job(json.dumps(ADDED))).row["margins"] not in (base, expert)


def test_numbers_that_make_no_model_give_a_row(bench: Bench) -> None:
    """Infinite weights are that candidate's error, without the name of a folder; the next one is measured."""
    far = {**ADDED, "models": [{"model": "expert", "parameters": {"weight": 1e39}}]}
    with crew(bench, 1, "local", None) as team:
        found = dict(team([Job(json.dumps(far)), Job(json.dumps(ADDED))]))
    assert "not all finite" in found[0].row["error"] and str(bench.scratch) not in found[0].row["error"]
    assert len(found[1].row["right"]) == 6 and found[1].making > 0 < found[1].measuring


def suite(folder: Path) -> dict[str, Any]:
    """Twenty codes of ICD-10-CM, to be described."""
    import polars

    folder.mkdir()
    rows = [
        {
            "question_id": n, "question": f"What is the description of the medical code A{n:02} in ICD10CM?",
            "answer_id": "ABCD"[n % 4], "vocab": "ICD10CM", "level": ("easy", "hard")[n % 2],
            **{f"option{o}": f"fever {n * o} pain {'x' * o}" for o in range(1, 5)},
        }
        for n in range(20)
    ]  # fmt: skip
    polars.DataFrame(rows).write_parquet(folder / "test.parquet")
    (folder / "suite.yml").write_text("benchmarks: {icd10cm: {}}")
    return {"suite": str(folder / "suite.yml"), "benchmarks": {"icd10cm": str(folder)}, "device": "cpu", "threads": 1}


@pytest.mark.slow
def test_a_suite_scores_the_candidate_as_by_hand(bench: Bench, tmp_path: Path) -> None:
    """The average of a suite is that of the model that is written; a suite that cannot be run ends the search."""
    from eval.run import Config, main
    from medsmith.config import load

    settings = suite(tmp_path / "suite")
    shop = Shop(replace(bench, suite=json.dumps(settings)))
    row = shop.work(Job(json.dumps(ADDED))).row
    by_hand = main(load(Config, settings | {"out": tmp_path / "hand", "model": str(shop.scratch / "written")}))
    value = json.loads((by_hand / "result.json").read_text())["average"]["value"]
    assert row["suite"] == pytest.approx(value, abs=1e-6) and len(row["suite_scores"]["icd10cm"]) == 20
    assert sum(row["suite_scores"]["icd10cm"]) / 20 == pytest.approx(value, abs=1e-4)
    # The one-layer merge is scored from the folder that mergekit wrote.
    assert 0 <= shop.work(Job(json.dumps(SHALLOW))).row["suite"] <= 1
    lost = Shop(replace(bench, suite=json.dumps(settings | {"benchmarks": {}})))
    with pytest.raises(UserError, match="the suite failed: .*no data for icd10cm"):
        lost.work(Job("", "base"))


def test_texts_without_text_are_refused(tmp_path: Path) -> None:
    """The row is named."""
    from merge_recipes.validation import read_texts

    write_jsonl(tmp_path / "d.jsonl", [{"text": "a"}, {"txt": "b"}])
    with pytest.raises(UserError, match="d.jsonl row 2: no `text`"):
        read_texts([tmp_path / "d.jsonl"])
