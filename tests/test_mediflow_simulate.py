"""mediflow.simulate writes the same bytes for the same seed, in the published file formats."""

from __future__ import annotations

from pathlib import Path

from mediflow.simulate import Config, main
from medsmith import run
from medsmith.records import read_documents

SMALL = {
    "patients": 12,
    "documents": {"pubmed": 6, "clinical": 12, "medwiki": 5, "guidelines": 5},
    "benchmark_rows": {"train": 4, "dev": 4, "test": 9},
    "validation_questions": 8,
    "lessons": 10,
}


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs differ in nothing that is digested; another seed differs."""
    digests = [
        run.digest(main(Config(out=tmp_path / name, seed=seed, **SMALL)))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]

    assert digests[0] == digests[1] != digests[2]


def test_splits_share_no_item_and_everything_is_labelled_simulated(tmp_path: Path) -> None:
    """Train, dev and test hold different rows; the run and every document say that they are simulated."""
    folder = main(Config(out=tmp_path / "clinic", **SMALL))
    rows = {
        s: (folder / f"benchmarks/mednli/mli_{s}_v1.jsonl").read_text().splitlines() for s in ("train", "dev", "test")
    }

    assert [len(set(rows[s])) for s in ("train", "dev", "test")] == [4, 4, 9]
    assert not set(rows["train"]) & set(rows["test"])
    assert run.require_finished(folder)["facts"]["simulated"] is True
    assert all("simulated" in d.license for d in read_documents(folder / "corpora/clinical.jsonl"))
