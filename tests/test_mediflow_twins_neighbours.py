"""The neighbours' miniature twins: what they say is true of the patient, and the control holds nothing to learn."""

from __future__ import annotations

import ast
import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mediflow.clinic.exam import choice_rows
from mediflow.clinic.knowledge import find_disease, load_knowledge
from mediflow.clinic.patients import Patient, draw_patients
from mediflow.clinic.twins_neighbours import (
    SENTENCES,
    clip_rows,
    level_of,
    ner_rows,
    permuted,
    radqa_data,
    summary_rows,
    tagged,
    triage_rows,
    words,
    write_neighbours,
)

PATIENTS = draw_patients(11, 200)


def everything(patients: list[Patient], tag: str) -> list[Any]:
    return [write(patients, tag) for write in (radqa_data, clip_rows, ner_rows, summary_rows, triage_rows)]


def test_a_seed_decides_everything() -> None:
    """The same seed gives the same rows; another one other wordings, though triage is a function of patients alone."""
    first, again, other = (everything(PATIENTS[:40], tag) for tag in ("1 test", "1 test", "2 test"))

    assert first == again
    assert [a == b for a, b in zip(first, other, strict=True)] == [False] * 4 + [True]


def test_sizes_follow_the_patients(tmp_path: Path) -> None:
    """A row a patient; of sentences as many in whole documents, and their files of ids name every document once."""
    drawn = {
        split: draw_patients(seed, size) for seed, (split, size) in enumerate([("train", 24), ("dev", 3), ("test", 40)])
    }
    counts = write_neighbours(tmp_path, drawn, 5)

    for name in ("radqa/{}.json", "ner/{}.jsonl", "radiology_summary/{}.csv"):
        assert [counts[name.format(split)] for split in drawn] == [24, 3, 40]
    assert counts["triage/MIETIC-validate-samples.csv"] == 40
    assert counts["clip/sentence_level.csv"] == SENTENCES * (3 + 1 + 5)
    with (tmp_path / "clip/sentence_level.csv").open(encoding="utf-8", newline="") as file:
        documents = list(dict.fromkeys(row["doc_id"] for row in csv.DictReader(file)))
    named = [(tmp_path / f"clip/{name}_ids.csv").read_text().split() for name in ("train", "val", "test")]
    assert sum(named, []) == documents


def test_questions_on_reports_have_their_answer_there_or_none() -> None:
    """Half of the questions ask for a finding that the report lacks; the other answers stand where they are said to."""
    seen = Counter[bool]()
    for article, patient in zip(radqa_data(PATIENTS, "t")["data"], PATIENTS, strict=True):
        (paragraph,) = article["paragraphs"]
        (asked,) = paragraph["qas"]
        seen[asked["is_impossible"]] += 1
        if asked["is_impossible"]:
            finding = asked["question"].removeprefix("How large is the ").removesuffix("?")
            assert finding not in paragraph["context"]
        else:
            (answer,) = asked["answers"]
            assert paragraph["context"][answer["answer_start"] :].startswith(answer["text"])
            assert answer["text"] == (patient.size if patient.main.finding else patient.absent_finding)
    assert seen == {True: 100, False: 100}


def test_sentences_have_the_labels_that_they_were_written_for() -> None:
    """Of a document's sentences the first half asks for nothing; all seven labels and pairs of them occur."""
    rows = clip_rows(PATIENTS, "t")
    labels = [ast.literal_eval(row["labels"]) for row in rows]

    assert all(bool(found) == (row["sent_index"] >= 4) for row, found in zip(rows, labels, strict=True))
    assert len({label for found in labels for label in found}) == 7
    assert ["I-Appointment-related followup", "I-Lab-related followup"] in labels
    for row, found in zip(rows, labels, strict=True):
        assert ("pending" in ast.literal_eval(row["sentence"])) == (found == ["I-Lab-related followup"])


def test_every_drug_and_disease_that_a_sentence_names_is_tagged() -> None:
    """Read back from tags, entities are names that the clinic knows; no name in a text is left without a tag."""
    known = {"Drug": {drug.name for d in load_knowledge() for drug in d.drugs},
             "Disease": {name for d in load_knowledge() for name in (d.name, d.abbreviation.casefold())},
             "Symptom": {symptom for d in load_knowledge() for symptom in d.symptoms}}  # fmt: skip
    spelled = {kind: {" ".join(words(name.casefold())) for name in names} for kind, names in known.items()}
    found = Counter[str]()
    for row in ner_rows(PATIENTS, "t"):
        text, kind = "", ""
        for token, tag in [*zip(row["tokens"], row["tags"], strict=True), ("", "O")]:
            if tag.startswith("I-"):
                assert kind == tag[2:]
                text += f" {token}"
                continue
            assert not kind or text.casefold() in spelled[kind]
            text, kind = token, tag[2:]
            found[kind] += bool(kind)
        drugs = [token for token, tag in zip(row["tokens"], row["tags"], strict=True) if tag == "O"]
        assert not {token.casefold() for token in drugs} & {drug for drug in spelled["Drug"] if " " not in drug}
    assert min(found[kind] for kind in known) > 20


def test_names_are_tagged_as_whole_words() -> None:
    """Of "heart failure" both words, in any case, twice; of "gouty" none."""
    tokens, tags = tagged("Heart failure, gouty; heart failure.", {"heart failure": "Disease", "gout": "Disease"})

    assert tokens == ["Heart", "failure", ",", "gouty", ";", "heart", "failure", "."]
    assert tags == ["B-Disease", "I-Disease", "O", "O", "O", "B-Disease", "I-Disease", "O"]


def test_impressions_follow_from_findings() -> None:
    """An impression names finding, size and side of its findings, or that there is none."""
    for row, patient in zip(summary_rows(PATIENTS, "t"), PATIENTS, strict=True):
        if find_disease(patient.diseases[0]).finding is None:
            assert row["impression"] == "No acute finding."
        else:
            assert all(
                part.casefold() in row["findings"].casefold() for part in row["impression"][:-1].split(" on the ")
            )


def test_levels_follow_from_the_vital_signs_as_written() -> None:
    """The rule, applied to the file's own columns (Fahrenheit), gives the level; every level occurs."""
    for row in triage_rows(PATIENTS, "t"):
        celsius = (float(row["temperature"]) - 32) * 5 / 9 + 0.03  # written to a tenth of a degree
        urgent = [row["o2sat"] < 90, row["heartrate"] > 115 or row["resprate"] > 24,
                  celsius >= 38.5 or row["pain"] >= 8, celsius >= 37.5 or row["pain"] >= 5, True]  # fmt: skip
        assert row["acuity"] == urgent.index(True) + 1
    assert set(map(level_of, PATIENTS)) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("seed", range(3))
def test_the_control_keeps_shares_and_breaks_the_tie(seed: int) -> None:
    """Permuted, levels are as many as before and agree with the true ones as often as by chance (± 4 sd)."""
    rows = triage_rows(PATIENTS, "t")
    control = permuted(rows, ["acuity"], seed)
    shares = Counter(row["acuity"] for row in rows)

    assert Counter(row["acuity"] for row in control) == shares
    assert [row["stay_id"] for row in control] == [row["stay_id"] for row in rows]
    chance = sum((count / 200) ** 2 for count in shares.values())
    same = sum(a["acuity"] == b["acuity"] for a, b in zip(rows, control, strict=True)) / 200
    assert abs(same - chance) < 4 * (chance * (1 - chance) / 200) ** 0.5


def test_columns_are_permuted_together() -> None:
    """An answer keeps its letter."""
    rows = choice_rows("test", "exam", "t")
    pairs = {(row["answer"], row["answer_idx"]) for row in rows}
    control = permuted(rows, ["answer", "answer_idx"], 0)

    assert {(row["answer"], row["answer_idx"]) for row in control} == pairs
    assert control != rows
