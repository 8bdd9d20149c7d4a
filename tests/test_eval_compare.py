"""Two evaluations side by side: counts and p by hand, and refusal of what cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.compare import Config, main
from medsmith.errors import UserError
from medsmith.records import read_json, read_jsonl, write_json, write_jsonl


def evaluation(folder: Path, scores: list[float], **entry: Any) -> Path:
    """An evaluation of one benchmark, as eval.run writes it."""
    rows = [
        {
            "benchmark": "medec",
            "id": f"{n}",
            "group": f"{n}",
            "prompt": "?",
            "output": f"{score}",
            "gold": "1",
            "score": score,
        }
        for n, score in enumerate(scores)
    ]
    write_jsonl(folder / "samples.jsonl", rows)
    benchmark = {"version": 1, "metric": "accuracy", "settings": {"shots": 0}} | entry
    write_json(folder / "result.json", {"model": folder.name, "protocol": "strict", "benchmarks": {"medec": benchmark}})
    return folder


def test_differences_and_changed_items(tmp_path: Path) -> None:
    """Of 20 items 6 turn right and none wrong: +0.3, p = 2/64 (McNemar); a lost item stands before the gained ones."""
    before = evaluation(tmp_path / "base", [0.0] * 19 + [1.0])
    after = evaluation(tmp_path / "sft", [1.0] * 6 + [0.0] * 13 + [1.0])
    out = main(Config(out=tmp_path / "out", before=before, after=after))
    found = read_json(out / "compare.json")
    entry = found["benchmarks"]["medec"]
    assert (found["before"], found["after"]) == ("base", "sft")
    assert (entry["value"], entry["n"], entry["up"], entry["down"]) == (pytest.approx(0.3), 20, 6, 0)
    assert entry["p"] == pytest.approx(2 / 64)
    assert entry["low"] > 0 and entry["detectable"] > 0.2

    worse = evaluation(tmp_path / "dpo", [1.0] * 6 + [0.0] * 14)
    rows = list(read_jsonl(main(Config(out=tmp_path / "two", before=before, after=worse)) / "changed.jsonl"))
    assert [(row["id"], row["change"]) for row in rows] == [("19", -1.0), *((str(n), 1.0) for n in range(6))]


def test_unlike_evaluations_are_refused(tmp_path: Path) -> None:
    """Other items, another version, other settings: each named."""
    before = evaluation(tmp_path / "a", [0.0, 1.0])
    unlike: list[tuple[str, list[float], dict[str, Any], str]] = [
        ("b", [0.0], {}, "in only one of the two"),
        ("c", [0.0, 1.0], {"version": 2}, "medec: version is 1 in one and 2 in the other"),
        ("d", [0.0, 1.0], {"settings": {"shots": 3}}, "settings is"),
    ]
    for name, scores, entry, message in unlike:
        with pytest.raises(UserError, match=message):
            main(
                Config(out=tmp_path / f"out-{name}", before=before, after=evaluation(tmp_path / name, scores, **entry))
            )
