"""The comparison of evaluators: the same prompts on both sides, and differences that are found."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import jinja2
import pytest

from benchmarks.evaluate import cases, our_command, peer_command
from benchmarks.evaluate_compare import Compared, compare
from benchmarks.evaluate_items import TEMPLATE, write_items, write_tasks
from eval.benchmark import load_benchmark
from medsmith.records import read_jsonl, write_jsonl

DESCRIPTIONS = [f"Sprain of part {n}{' of the left side' * (n % 3)}" for n in range(80)] + ["Gout", "Sepsis", "Mumps"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_items(tmp_path / "data", DESCRIPTIONS + [f"Fever {n}" for n in range(5)], random.Random(0))
    write_tasks(tmp_path)
    return tmp_path


def test_the_peer_is_given_our_prompts(folder: Path) -> None:
    """Each of 200 + 200 prompts is what the model's chat template makes of the turns; no white space is at its end."""
    template = jinja2.Environment(keep_trailing_newline=True).from_string(TEMPLATE)
    for name, task in (("icd10cm", "choices"), ("rrs_qa", "texts")):
        items = load_benchmark(name).load(folder / "data", "test").items
        rows = list(read_jsonl(folder / "data" / f"{task}-peer.jsonl"))
        assert len(items) == len(rows) == 200
        for item, row in zip(items, rows, strict=True):
            assert row["prompt"] == template.render(messages=item.messages) == row["prompt"].rstrip()
            assert item.gold == (row["options"][row["gold"]] if item.options else row["gold"])


def sides(folder: Path, ours: list[dict[str, Any]], choices: list[Any], texts: list[Any]) -> Compared:
    write_jsonl(folder / "ours" / "run" / "samples.jsonl", ours)
    write_jsonl(folder / "peer" / "model" / "samples_choices_1.jsonl", choices)
    write_jsonl(folder / "peer" / "model" / "samples_texts_1.jsonl", texts)
    return compare(folder / "peer", folder / "ours")


def test_planted_differences_are_counted(tmp_path: Path) -> None:
    """Of three options one is 2e-4 off, of two texts one differs, of two items one is on one side only."""
    scores = {"rouge1": 0.5, "rougeL": 0.25}
    ours: list[dict[str, Any]] = [
        {"benchmark": "icd10cm", "id": "a", "logprobs": [-1.0, -2.0, -3.0]},
        {"benchmark": "rrs_qa", "id": "t", "output": "same", "scores": scores},
        {"benchmark": "rrs_qa", "id": "u", "output": "mine", "scores": scores},
    ]
    choices = [
        {"doc": {"id": "a"}, "filtered_resps": [["-1.00005", "False"], ["-2.0002", "False"], ["-3.0", "False"]]},
        {"doc": {"id": "b"}, "filtered_resps": []},
    ]
    texts = [
        {"doc": {"id": "t"}, "resps": [["same"]], **scores},
        {"doc": {"id": "u"}, "resps": [["theirs"]], "rouge1": 0.5, "rougeL": 0.3},
    ]
    found = sides(tmp_path, ours, choices, texts)
    assert (found.options, found.close, found.texts, found.identical, found.scores, found.missing) == (3, 2, 2, 1, 1, 1)
    assert found.furthest == pytest.approx(2e-4)
    assert str(found).endswith("1/2 texts, 1 scores; 1 items on one side only")


def test_both_sides_are_asked_for_the_same(tmp_path: Path) -> None:
    """Seven lines: starting, and two tasks at three sizes; limit, batch and data agree between the commands."""
    lines = cases([1, 8, 32])
    assert [(line.name, line.batch, line.limit) for line in lines[:2]] == [("start", 1, 1), ("choices", 1, None)]
    assert len(lines) == 7
    for line in lines:
        peer = " ".join(peer_command(line, Path("/v/bin/python"), tmp_path, tmp_path / "a"))
        ours = " ".join(our_command(line, tmp_path, tmp_path / "b"))
        assert f"--batch_size {line.batch} " in peer and f"batch_rows={line.batch} " in ours
        assert ("--limit 1" in peer) == ("limit=1" in ours.split()) == (line.limit == 1)
        assert peer.startswith("/v/bin/lm_eval run --model hf --device cpu")
