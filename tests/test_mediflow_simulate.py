"""mediflow.simulate writes the same bytes for the same seed, in the published file formats."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.asking import sample_of
from eval.benchmark import load_benchmark, names
from eval.metrics import table_of
from eval.results import headline
from mediflow.simulate import Config, main
from medsmith import run
from medsmith.records import read_documents

SMALL = {
    "patients": 12,
    "documents": {"pubmed": 6, "clinical": 12, "medwiki": 5, "guidelines": 5},
    "benchmark_rows": {"train": 4, "dev": 4, "test": 9},
    "validation_questions": 8,
    "lessons": {"copying": {"rows": 5, "shares": {"copying": 1.0}}, "rehearsal": {"rows": 10, "rehearsal": True}},
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


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return main(Config(out=tmp_path_factory.mktemp("clinic") / "out", **SMALL)) / "benchmarks"


# The public code table makes icd10cm, and PubMedQA's articles are real: neither has a twin in the clinic.
TWINS = [name for name in names() if name not in {"icd10cm", "pubmedqa"}]
SAME_FILE = {"medqa_shuffled": "medqa"}


@pytest.mark.parametrize("name", TWINS)
def test_every_twin_is_read_and_its_gold_is_a_perfect_answer(name: str, clinic: Path) -> None:
    """The clinic's file is read by the benchmark's loader; the oracle earns 1.0, and an empty text is unreadable."""
    benchmark = load_benchmark(name)
    items, _, notes = benchmark.load(clinic / SAME_FILE.get(name, name), "test")
    samples = [sample_of(name, benchmark, item, "", item.gold) for item in items]
    table = table_of(samples, headline(benchmark, samples), bool(getattr(benchmark, "SLICE_MEAN", False)))

    assert notes["as_published"] is not True
    assert table.value(table.counts.sum(0)) == pytest.approx(1.0)
    empty = [sample_of(name, benchmark, item, "", "") for item in items]
    assert all(row["unreadable"] and row["reading"] == "empty" for row in empty)


def test_the_twins_of_long_records_hold_what_they_say(clinic: Path) -> None:
    """Twelve patients at most, three questions each in three tasks; the document with the answer holds it."""
    items = load_benchmark("longhealth").load(clinic / "longhealth", "test").items
    assert len(items) == 9 * 3 * 3
    assert {item.slice for item in items} == {"task1", "task2", "task3"}
    for item in items:
        letter, options = item.truth["letter"], item.truth["options"]
        said = item.messages[-1]["content"].partition("QUESTION: ")[0]
        documents = [text for text in said.split("DOCUMENT ") if f"of patient {item.group}" in text]
        assert len(documents) == {"task1": 4, "task2": 1, "task3": 0}[item.slice]
        if item.slice != "task3":
            assert any(options[letter].removeprefix("in ") in document.lower() for document in documents)


def test_the_twins_of_social_history_mark_their_words(clinic: Path) -> None:
    """Every annotation stands on its words; one note in ten has none."""
    items = load_benchmark("sdoh").load(clinic / "sdoh", "test").items
    for item in items:
        for row in item.truth:
            words = item.messages[-1]["content"][row["start"] : row["end"]]
            assert words and (words == row["value"] or row["label"] in {"StatusTime", "StatusEmploy", "TypeLiving"})
    assert len(load_benchmark("sdoh").load(clinic / "sdoh", "shots").items) == 4


def test_a_conversation_of_the_clinic_has_its_speakers_right(clinic: Path) -> None:
    """No visit looks swapped; all five sections are in the note."""
    loaded = load_benchmark("aci_bench").load(clinic / "aci_bench", "test")
    assert (loaded.notes["swapped"], loaded.notes["opened_by_patient"]) == ([], [])
    assert all("PHYSICAL EXAM\n\nMeasured: Temperature is" in item.gold for item in loaded.items)


def test_a_section_of_the_clinic_states_what_was_said_in_its_conversation(clinic: Path) -> None:
    """Headers take turns, and of each section the figures are those of its own conversation."""
    items = load_benchmark("mts_dialog").load(clinic / "mts_dialog", "test").items
    asked = [item.messages[-1]["content"].partition("\nCONVERSATION:\n") for item in items]
    assert len({header for header, _, _ in asked}) == 7
    for item, (_, _, talked) in zip(items, asked, strict=True):
        assert set(re.findall(r"\d+(?:\.\d+)?", item.gold)) == set(re.findall(r"\d+(?:\.\d+)?", talked))
        assert len(talked.splitlines()) == 2 * len(item.gold.splitlines())
