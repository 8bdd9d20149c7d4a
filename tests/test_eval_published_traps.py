"""What is known to be wrong or odd in published files is counted and said, never silently changed."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.asking import sample_of
from eval.benchmark import load_benchmark
from eval.benchmarks import aci_bench, icd10cm, longhealth, medec, medication_qa, sdoh, sdoh_sentences
from eval.metrics import table_of
from eval.statistics import estimate
from medsmith.errors import UserError
from medsmith.records import write_jsonl


def write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def test_blank_rows_of_medec_are_counted(tmp_path: Path) -> None:
    """597 texts and 328 blank rows, as in the published test file, which this is not by its digest."""
    columns = ("Text ID", "Text", "Sentences", "Error Flag", "Error Type", "Error Sentence ID")
    texts = [(f"t{n}", "", "0 One.", "0", "", "-1") for n in range(597)]
    path = tmp_path / "MEDEC-MS-TestSet-with-GroundTruth-and-ErrorType.csv"
    write_csv(path, columns, [*texts, *[("",) * 6] * 328])
    items, dropped, notes = medec.load(path, "test")
    assert (len(items), dropped) == (597, {"blank row": 328})
    assert (notes["rows"], notes["as_published"]) == (925, False)


def test_a_test_set_of_medec_with_its_published_labels_has_its_known_floor(tmp_path: Path) -> None:
    """311 texts with an error and 286 without, 597 in all, and 328 blank rows: always -1 scores 47.9 %, not 30.9 %."""
    columns = ("Text ID", "Text", "Sentences", "Error Flag", "Error Type", "Error Sentence ID")
    texts = [(f"t{n}", "", "0 One.\n1 Two.", "1", "", "1") for n in range(311)]
    texts += [(f"t{n}", "", "0 One.\n1 Two.", "0", "", "-1") for n in range(311, 597)]
    write_csv(tmp_path / "MEDEC-MS-TestSet.csv", columns, [*texts, *[("",) * 6] * 328])
    items = medec.load(tmp_path, "test").items
    samples = [sample_of("medec", load_benchmark("medec"), item, "", "-1") for item in items]
    assert round(100 * estimate(table_of(samples, "accuracy")).value, 1) == 47.9


def test_rows_of_medication_qa_are_counted_as_they_are(tmp_path: Path) -> None:
    """690 rows, all with an answer, not the 674 of the README; a row without one would be left out."""
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["Question", "Focus (Drug)", "Question Type", "Answer", "Section Title", "URL"])
    for number in range(690):
        book.active.append([f"Question {number}?", f"drug {number // 2}", "", "An answer", "", ""])
    book.save(tmp_path / "MedInfo2019-QA-Medications.xlsx")
    items, dropped, notes = medication_qa.load(tmp_path, "test")
    assert (len(items), dropped) == (690, {})
    assert (notes["rows"], notes["rows_by_readme"], notes["as_published"]) == (690, 674, None)
    assert len({item.group for item in items}) == 345
    with pytest.raises(UserError, match="one split.*set shots: 0"):
        medication_qa.load(tmp_path, "shots")
    book.active["D9"] = None
    book.save(tmp_path / "MedInfo2019-QA-Medications.xlsx")
    assert medication_qa.load(tmp_path, "test").dropped == {"no answer": 1}


CLINICIAN = [
    "tell me what happened",
    "do you have any fever",
    "does that hurt",
    "let me check",
    "i'm going to order an x-ray",
]
PATIENT = ["i fell", "no", "yes", "okay", "all right"]


def conversation(first: str, second: str) -> str:
    return "\n".join(f"[{first}] {ask}\n[{second}] {say}" for ask, say in zip(CLINICIAN, PATIENT, strict=True))


def test_swapped_speakers_are_named_and_asked_as_they_are(tmp_path: Path) -> None:
    """One conversation has its speakers swapped, one is opened by the patient, one is as it should be."""
    right = conversation("doctor", "patient")
    swapped = conversation("patient_guest", "doctor")
    rows = [
        ("aci", "D1", right, "Note."),
        ("aci", "D2", swapped, "Note."),
        ("aci", "D3", f"[patient] hi\n{right}", "Note."),
    ]
    write_csv(tmp_path / "x_taskB_test1.csv", ("dataset", "encounter_id", "dialogue", "note"), rows)
    items, _, notes = aci_bench.load(tmp_path, "test")
    assert (notes["swapped"], notes["opened_by_patient"]) == (["D2"], ["D3"])
    assert items[1].messages[-1]["content"] == swapped


def test_visits_of_one_named_patient_are_a_group(tmp_path: Path) -> None:
    """Where the metadata name a patient in full; a half name is no name, and without metadata nobody is grouped."""
    columns = ("dataset", "encounter_id", "dialogue", "note")
    write_csv(tmp_path / "x_taskB_test1.csv", columns, [("aci", f"D{n}", "[doctor] hi", "Note.") for n in range(4)])
    assert len({item.group for item in aci_bench.load(tmp_path, "test").items}) == 4
    named = ("encounter_id", "patient_firstname", "patient_familyname", "patient_gender")
    people = [
        ("D0", "Amy", "Lee", "female"),
        ("D1", "amy ", "lee", "female"),
        ("D2", "", "Lee", "male"),
        ("D3", "", "Lee", "male"),
    ]
    write_csv(tmp_path / "x_taskB_test1_metadata.csv", named, people)
    items, _, notes = aci_bench.load(tmp_path, "test")
    assert [item.group for item in items] == ["amy lee female", "amy lee female", "D2", "D3"]
    assert notes["patients_named"] == 2


def test_places_of_right_answers_and_questions_numbered_alike(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two levels with the same numbers are different items; that no right answer is the third is in notes and log."""
    import polars

    for level, letters in (("easy", "ABD"), ("hard", "DDA")):
        rows = [
            {"question_id": n, "question": f"Code {n}?", "answer_id": letter, "level": level, "answer": "x"}
            | {f"option{o}": f"{level} {n} {o}" for o in range(1, 5)}
            for n, letter in enumerate(letters)
        ]
        (tmp_path / f"icd10cm_{level}").mkdir()
        polars.DataFrame(rows).write_parquet(tmp_path / f"icd10cm_{level}" / "test-00000-of-00001.parquet")
    with caplog.at_level(logging.INFO):
        items, _, notes = icd10cm.load(tmp_path, "test")
    assert [item.id for item in items] == ["easy-0", "easy-1", "easy-2", "hard-0", "hard-1", "hard-2"]
    assert notes["answer_places"] == {
        "easy": {"A": 1, "B": 1, "C": 0, "D": 1},
        "hard": {"A": 1, "B": 0, "C": 0, "D": 2},
    }
    assert "'C': 0" in caplog.text


def records(folder: Path, **changed: Any) -> Path:
    """Fifteen patients with three documents, the first of which holds the answer to the one question."""
    question = {"question": "What?", "correct": "b", "answer_location": {"t0": {"start": [0.0], "end": [1.0]}}}
    question |= {f"answer_{letter}": letter for letter in "abcde"} | changed
    patients = {
        f"p{n}": {"texts": {f"t{k}": f"p{n} document {k}" for k in range(3)}, "questions": [question]}
        for n in range(15)
    }
    (folder / "benchmark_v5.json").write_text(json.dumps(patients))
    return folder


def test_long_records_show_the_documents_of_their_task(tmp_path: Path) -> None:
    """Task 1 all three of the patient; task 2 the one with the answer and ten of others; task 3 ten of others."""
    items = longhealth.load(records(tmp_path), "test").items
    own = {"task1": 3, "task2": 1, "task3": 0}
    for item in items:
        said = item.messages[-1]["content"].partition("QUESTION")[0].split("DOCUMENT ")[1:]
        mine = [text for text in said if f"{item.group} document" in text]
        assert (len(mine), len(said) - len(mine)) == (own[item.slice], 0 if item.slice == "task1" else 10)
        assert ("F: Question cannot be answered" in item.messages[-1]["content"]) == (item.slice != "task1")
        assert any("document 0" in text for text in mine) == (item.slice != "task3")
    assert Counter(item.group for item in items) == {f"p{n}": 3 for n in range(15)}
    assert [item.truth["letter"] for item in items[:3]] == ["B", "B", "F"]
    again = longhealth.load(tmp_path, "test").items
    assert [item.messages for item in again] == [item.messages for item in items]
    places = Counter("document 0" in item.messages[-1]["content"].split("DOCUMENT ")[1] for item in items[::3])
    assert 0 < places[True] < 15  # the document with the answer is not always the first


def test_repeated_prompts_of_a_question_are_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five drawings of distractors, five ids, one patient; and the drawings differ."""
    monkeypatch.setattr(longhealth, "REPEATS", 5)
    items = [item for item in longhealth.load(records(tmp_path), "test").items if item.group == "p0"]
    assert len(items) == len({item.id for item in items}) == 15
    assert len({item.messages[-1]["content"] for item in items if item.slice == "task2"}) == 5


def test_documents_with_the_answer_come_before_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is room for two documents of three, one is the right one."""
    monkeypatch.setattr(longhealth, "TASK1_CHARACTERS", 2 * len("p10 document 0"))
    for item in longhealth.load(records(tmp_path), "test").items[::3]:
        shown = item.messages[-1]["content"]
        assert "document 0" in shown and shown.count("DOCUMENT") == 2


def test_the_right_answer_is_a_whole_option(tmp_path: Path) -> None:
    """Not a part of one; two equal options are an error; without a document that holds it, task 3 alone is asked."""
    items = longhealth.load(records(tmp_path, answer_a="b and more"), "test").items
    assert items[0].truth["letter"] == "B"
    with pytest.raises(UserError, match="options A and B are both the right answer"):
        longhealth.load(records(tmp_path, answer_a=" B"), "test")
    items, dropped, _ = longhealth.load(records(tmp_path, answer_location={}), "test")
    assert {item.slice for item in items} == {"task3"}
    assert sum(dropped.values()) == 30
    with pytest.raises(UserError, match="the answer lies in 't9'"):
        longhealth.load(records(tmp_path, answer_location={"t9": {}}), "test")


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("The correct answer is B: vitamins A, C and D.", "B"),
        ("the correct answer is: **b**", "B"),
        ("The correct answer is (B): vitamins A, C and D", "B"),
        ("C", "C"),
        ("A or B", None),
    ],
)
def test_letters_are_read_tolerantly(output: str, letter: str | None, tmp_path: Path) -> None:
    """An option whose own text names letters does not confuse; two letters do."""
    item = longhealth.load(records(tmp_path, answer_b="vitamins A, C and D", correct="vitamins A, C and D")).items[0]
    assert longhealth.parse(output, item) == letter


def brat(folder: Path, name: str, text: str, lines: str) -> None:
    path = folder / "test" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".txt").write_text(text)
    path.with_suffix(".ann").write_text(lines)


ANN = """T1\tTobacco 0 6\tSmokes
T2\tStatusTime 0 6\tSmokes
A1\tStatusTimeVal T2 current
T3\tAmount 7 13\t1 pack
E1\tTobacco:T1 Status:T2 Amount:T3
T4\tLivingStatus 22 27\tLives
T5\tStatusTime 22 27\tLives
T6\tTypeLiving 28 37;38 42\twith wife kids
A2\tTypeLivingVal T6 with_family
E2\tLivingStatus:T4 Status:T5 Type:T6
#1\tAnnotatorNotes T1\tsure
"""


def test_brat_files_of_shac_are_read(tmp_path: Path) -> None:
    """Arguments of events become entries; one without its value is left out and counted; folders are slices."""
    brat(tmp_path, "mimic/0001", "Smokes 1 pack a day.  Lives with wife and kids.", ANN)
    brat(tmp_path, "uw/0002", "Nothing said.", "")
    items, _, notes = sdoh.load(tmp_path, "test")
    assert [(item.id, item.slice, item.gold == "[]") for item in items] == [
        ("mimic/0001", "mimic", False),
        ("uw/0002", "uw", True),
    ]
    assert json.loads(items[0].gold) == [
        {"entity": "Tobacco", "label": "StatusTime", "value": "current"},
        {"entity": "Tobacco", "label": "Amount", "value": "1 pack"},
        {"entity": "LivingStatus", "label": "TypeLiving", "value": "with family"},
    ]
    assert notes["annotations_left_out"] == {"LivingStatus StatusTime without value": 1}
    (tmp_path / "test" / "uw" / "0002.txt").unlink()
    with pytest.raises(UserError, match="has no 0002.txt beside it"):
        sdoh.load(tmp_path, "test")


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ([("Tobacco", "Amount", "1 pack"), ("Tobacco", "StatusTime", "Current")], 1.0),
        ([("tobacco", "amount", "pack a day"), ("Tobacco", "StatusTime", "current")], 1.0),  # an overlap is enough
        ([("Alcohol", "Amount", "1 pack"), ("Tobacco", "StatusTime", "current")], 0.5),  # another type is none
        ([("Tobacco", "Amount", "two packs"), ("Tobacco", "StatusTime", "current")], 0.5),  # words not in the text
        ([("Tobacco", "Amount", "1 pack"), ("Tobacco", "StatusTime", "past")], 0.5),  # another value
        ([("Tobacco", "Amount", "1 pack")] * 2, 0.5),  # said twice, right once
        ([], 0.0),
    ],
)
def test_entries_agree_by_type_and_overlap(said: list[tuple[str, str, str]], score: float, tmp_path: Path) -> None:
    """F1 of two true entries."""
    brat(tmp_path, "1", "Smokes 1 pack a day.", "\n".join(ANN.splitlines()[:5]))
    item = sdoh.load(tmp_path, "test").items[0]
    output = json.dumps([dict(zip(("entity", "label", "value"), row, strict=True)) for row in said])
    answer = sdoh.parse(output, item)
    assert sdoh.score(answer, item) == {"entity_f1_type": pytest.approx(score)}


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"entity": "Tobacco", "label": "Dose", "value": "x"}, "'Tobacco', 'Dose', 'x' is no annotation"),
        ({"entity": "Tobacco", "label": "StatusTime", "value": "future"}, "'StatusTime', 'future' is no annotation"),
        (
            {"entity": "Tobacco", "label": "Amount", "value": "pack", "start": 0, "end": 4},
            "not what stands at its start",
        ),
    ],
)
def test_annotations_are_checked(annotation: dict[str, Any], said: str, tmp_path: Path) -> None:
    """A label or value of no table, and a span on other words, are errors."""
    write_jsonl(tmp_path / "test.jsonl", [{"id": 1, "text": "Smokes 1 pack.", "annotations": [annotation]}])
    with pytest.raises(UserError, match=said):
        sdoh.load(tmp_path, "test")


def test_labels_of_sentences_are_counted(tmp_path: Path) -> None:
    """Macro F1 over the labels that occur; adverse ones by themselves; an unknown label costs precision."""
    rows = [("a", "PARENT,EMPLOYMENT", "adverse,nonadverse"), ("b", "PARENT", "adverse"), ("c", "NO_SDOH", "")]
    write_csv(tmp_path / "own_annotated.csv", ("text", "label", "adverse"), rows)
    items = sdoh_sentences.load(tmp_path, "test").items
    outputs = [
        '[{"label": "Parent", "adverse": false}, {"label": "jobs", "adverse": false}]',
        "PARENT",
        '[{"label": "DEBT", "adverse": true}]',
    ]
    benchmark = load_benchmark("sdoh_sentences")
    samples = [sample_of("x", benchmark, item, "", output) for item, output in zip(items, outputs, strict=True)]
    found = {name: table_of(samples, name) for name in samples[0]["counts"]}
    values = {name: float(table.value(table.counts.sum(0))) for name, table in found.items()}
    assert values == {
        "f1_macro": pytest.approx((2 / 3 + 1) / 2),  # PARENT once of twice, EMPLOYMENT found
        "f1_micro": pytest.approx(2 * 2 / (3 + 3)),  # DEBT is said and wrong
        "f1_macro_adverse": pytest.approx(0.0),
        "f1_micro_adverse": pytest.approx(0.0),
    }
    write_csv(tmp_path / "own_annotated.csv", ("text", "label", "adverse"), [("a", "PARENT", "adverse,adverse")])
    with pytest.raises(UserError, match="is no label of"):
        sdoh_sentences.load(tmp_path, "test")


@pytest.mark.parametrize("bad", [1, 3])
def test_one_bad_row_does_not_take_the_set_with_it(bad: int, tmp_path: Path) -> None:
    """Two values for one label, as a published row has: left out and said; many such rows are another file."""
    rows = [f"Sentence {number}.,HOUSING,adverse" for number in range(40)]
    rows[:bad] = [f'Mrs. Zanzibar {number}.,SUPPORT,"nonadverse,adverse"' for number in range(bad)]
    folder = tmp_path / "SDoH" / "synthetic_data"
    folder.mkdir(parents=True)
    (folder / "Partial_Iteration_2_annotated.csv").write_text("\n".join(["text,label,adverse", *rows]))
    (folder / "Partial_Iteration_2_demographic_annotated.csv").write_text("text\n")
    benchmark = load_benchmark("sdoh_sentences")
    if bad == 1:  # the clone of the repository is given
        found = benchmark.load(tmp_path / "SDoH", "test")
        assert len(found.items) == 39 and found.dropped.total() == 1
        assert "row 1: 'SUPPORT' with 'nonadverse,adverse' is no label" in next(iter(found.dropped))
    else:
        with pytest.raises(UserError, match=r"row 1: .* is no label .*\(3 such rows\)") as error:
            benchmark.load(folder, "test")
        assert "Zanzibar" not in str(error.value)
