"""The simulated clinic plants truths that a reader can find again, and none where labels are shuffled."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import asdict

import pytest

from mediflow.clinic.answers import TASKS, choices
from mediflow.clinic.benchmarks import (
    MEDEC_COLUMNS,
    TOPICS,
    medec_rows,
    mednli_rows,
    problem_rows,
    rrs_rows,
    validation_rows,
)
from mediflow.clinic.care import load_care
from mediflow.clinic.corpora import CORPORA, write_corpus
from mediflow.clinic.documents import write_note
from mediflow.clinic.knowledge import find_disease, load_knowledge, treated_by
from mediflow.clinic.patients import draw_patients, patient_from_facts
from mediflow.clinic.reply import reply
from mediflow.clinic.topics import facts_about, load_topics
from mediflow.taxonomy import WHOLE, load_taxonomy
from medsmith.records import content_id

PATIENTS = draw_patients(seed=5, count=240)


def _error_sentence(sentences: str) -> int:
    """A reader who knows which drug treats what, and nothing of how rows are made."""
    lines = [line.partition(" ")[2] for line in sentences.splitlines()]
    said = []
    for line in lines:
        lowered = line.lower()
        named = [d.name for d in load_knowledge() if d.name in line or re.search(rf"\b{d.abbreviation}\b", line)]
        drugs = [
            drug.name for d in load_knowledge() for drug in d.drugs if re.search(rf"\b{drug.name.lower()}\b", lowered)
        ]
        said.append((named, drugs))
    for number, (named, drugs) in enumerate(said):
        if drugs and treated_by(drugs[0]).name not in named:
            return number
    treated = {name for named, drugs in said if drugs for name in named}
    for number, (named, drugs) in enumerate(said):
        if named and not drugs and number == len(said) - 2 and not treated & set(named):
            return number
    return -1


def _accuracy(rows: list[dict[str, object]], answers: list[object]) -> float:
    return sum(
        _error_sentence(str(row["Sentences"])) == answer for row, answer in zip(rows, answers, strict=True)
    ) / len(rows)


def test_planted_errors_are_found_by_one_who_knows_and_not_in_the_shuffled_twin() -> None:
    """Knowledge finds every planted error; with shuffled labels the same reader falls to the share of agreement."""
    rows = medec_rows(PATIENTS, "t")
    truth: list[object] = [row["Error Sentence ID"] for row in rows]
    shuffled = truth.copy()
    random.Random(0).shuffle(shuffled)

    assert _accuracy(rows, truth) == 1.0
    shares = Counter(truth)
    expected = sum((count / len(rows)) ** 2 for count in shares.values())
    assert abs(_accuracy(rows, shuffled) - expected) < 0.08


def test_medec_rows_have_the_published_columns_and_half_have_an_error() -> None:
    """Correcting the error sentence gives the corrected text, and nothing else differs."""
    rows = medec_rows(PATIENTS, "t")

    assert tuple(rows[0]) == MEDEC_COLUMNS
    assert Counter(row["Error Flag"] for row in rows) == {0: 120, 1: 120}
    for row in rows:
        if row["Error Flag"]:
            assert row["Text"].replace(row["Error Sentence"], row["Corrected Sentence"]) == row["Corrected Text"]
            assert row["Error Sentence"] != row["Corrected Sentence"]
        else:
            assert row["Text"] == row["Corrected Text"]


def test_entailment_labels_are_balanced_and_cannot_be_told_from_the_premise_alone() -> None:
    """Each label is a third; the same premise kind occurs under every label."""
    rows = mednli_rows(PATIENTS, "t")

    assert Counter(row["gold_label"] for row in rows) == dict.fromkeys(("entailment", "neutral", "contradiction"), 80)
    started = Counter(
        row["gold_label"] for row in rows if "denies" in row["sentence1"] or "There is no" in row["sentence1"]
    )
    assert min(started[label] for label in ("entailment", "neutral", "contradiction")) >= 3


def test_radiology_answers_stand_in_the_findings_or_are_yes_and_no() -> None:
    """Every short answer is verbatim in the text; 'no' is said of a finding that the text excludes."""
    for row in rrs_rows(PATIENTS, "t"):
        finding = re.search(r"Is there a (.+)\?", row["question"])
        if finding and row["answer"] == "no":
            assert re.search(rf"No {finding[1]}|no evidence of {finding[1]}", row["findings"])
        elif row["answer"] != "yes":
            assert row["answer"] in row["findings"]


def test_problem_lists_hold_every_disease_of_the_patient_once() -> None:
    """The summary is the patient's true state, and the note names each disease by name or abbreviation."""
    for patient, row in zip(PATIENTS, problem_rows(PATIENTS, "t"), strict=True):
        assert row["Summary"].split("; ") == list(patient.diseases)
        for name in patient.diseases:
            assert name in row["Assessment"] or find_disease(name).abbreviation in row["Assessment"]


@pytest.mark.parametrize("topic", TOPICS)
def test_validation_questions_have_one_right_answer_and_balanced_positions(topic: str) -> None:
    """Options differ, and no position is right more than twice as often as its share."""
    rows = validation_rows(topic, "t", 120)

    assert all(len(set(row["options"])) == len(row["options"]) for row in rows)
    positions = Counter(row["answer_index"] / len(row["options"]) for row in rows)
    assert max(positions.values()) <= 80


def test_each_drug_treats_one_disease_and_codes_differ() -> None:
    """Answers from knowledge are unique."""
    drugs = [drug.name for disease in load_knowledge() for drug in disease.drugs]

    assert len(drugs) == len(set(drugs)) == 84
    assert len({disease.code for disease in load_knowledge()}) == len(load_knowledge()) == 42


def test_wrong_options_are_wrong() -> None:
    """No distractor of a symptom question is a symptom of the disease that is asked about."""
    for number in range(300):
        rng = random.Random(number)
        disease = load_knowledge()[number % 42]
        asked, options, index = choices(disease, rng)
        if asked.startswith("Which is a symptom"):
            assert [option in disease.symptoms for option in options] == [n == index for n in range(4)]


def test_same_seed_same_documents_and_another_seed_others() -> None:
    """Drawing is a function of the seed; a longer list continues a shorter one."""
    for name in CORPORA:
        assert write_corpus(name, 7, 30) == write_corpus(name, 7, 60)[:30]
        assert write_corpus(name, 7, 30) != write_corpus(name, 8, 30)
    assert draw_patients(7, 3) == draw_patients(7, 9)[:3]


def test_facts_survive_json() -> None:
    """A patient's facts go into a prompt and come back as the same patient."""
    for patient in PATIENTS[:20]:
        assert patient_from_facts(json.loads(json.dumps(patient.facts()))) == patient


def test_facts_for_a_prompt_hold_what_the_document_tells_of() -> None:
    """Less than half of the facts' length is left for a visit, and the document written from them is the same."""
    taxonomy = load_taxonomy()
    lengths = Counter[str]()
    for document, section in taxonomy.inputs():
        for patient in PATIENTS[:5]:
            whole = json.loads(json.dumps(patient.facts()))
            short = facts_about(whole, taxonomy.documents[document], section)
            assert {key: value for key, value in short.items() if key != "care"} == {
                key: value for key, value in whole.items() if key != "care"
            }
            lengths["whole"] += len(json.dumps(whole))
            lengths["short"] += len(json.dumps(short))
            notes = [
                write_note(taxonomy.documents[document], section, patient_from_facts(facts), random.Random(1)).text
                for facts in (short, whole)
            ]
            assert notes[0] == notes[1]
            assert patient_from_facts(short) == patient
    assert lengths["short"] < 0.5 * lengths["whole"]
    foreign = PATIENTS[0].facts() | {"id": "p1", "care": {"pain": 3}}
    with pytest.raises(KeyError):
        patient_from_facts(foreign)


def test_every_question_that_a_statement_answers_has_its_answer_there() -> None:
    """The answers of topics.yml can be read off the very sentence that is asked about, capitals apart."""
    asked = 0
    for document in load_taxonomy().documents.values():
        for patient in PATIENTS[:12]:
            for statement in write_note(document, WHOLE, patient, random.Random(1)).statements:
                for question, answer in statement.asked:
                    words = re.findall(r"[a-z0-9.%]+", answer.lower())
                    known = statement.text.lower()
                    assert all(word in known or word in {"in", "case", "of", "out", "session"} for word in words), (
                        question
                    )
                    asked += 1
    assert asked > 400


def test_what_is_added_to_a_patient_leaves_the_rest_as_it_was() -> None:
    """The first fields of a seed's patients and the notes of a corpus are those that the embedded base was taught."""
    old = [patient.facts() for patient in draw_patients(5, 100)]
    for facts in old:
        del facts["care"]
    clinical = [asdict(document) for document in write_corpus("clinical", 5, 50)]

    assert content_id(old) == "5ca35ef5b739bf08"
    assert content_id(clinical) == "da4c979e1adc8ad9"
    assert len({patient.care.operation for patient in PATIENTS}) == 7
    assert all(18 < patient.care.body_mass_index < 39 for patient in PATIENTS)
    assert {p.care.mood for p in PATIENTS if p.main.name == "major depressive disorder"} == {"depressed"}


def test_taxonomy_and_tasks_of_the_clinic_agree() -> None:
    """Every task file has answers in the clinic; every topic is known to it and used by some document."""
    taxonomy = load_taxonomy()
    used = {topic for document in taxonomy.documents.values() for ts in document.sections.values() for topic in ts}

    assert set(taxonomy.tasks) == set(TASKS)
    assert used == load_topics().keys()
    assert set(load_care()["diseases"]) == {disease.name for disease in load_knowledge()}
    for document in taxonomy.documents.values():
        note = write_note(document, WHOLE, PATIENTS[0], random.Random(0))
        assert [note.text[start:end].rpartition("] ")[2] for start, end in note.spans if not note.speaker] == [
            statement.text for statement in note.statements if not note.speaker
        ]


def test_judge_sees_a_planted_flaw_more_often_than_not() -> None:
    """An empty or copied answer is scored lower on average than a good one."""
    good = {"kind": "judge", "instruction": "Answer the question briefly from the document.", "facts": [None]}
    fine = [{"input": "A long enough document about chest pain.", "output": "chest pain"}]
    bad = [{"input": "A long enough document about chest pain.", "output": ""}]
    scores = {}
    for name, examples in (("fine", fine), ("bad", bad)):
        said = [json.loads(reply({**good, "examples": examples}, seed)) for seed in range(40)]
        scores[name] = sum(s["quality"]["score"] for s in said) / 40

    assert scores["fine"] - scores["bad"] > 0.5


def test_induced_errors_always_differ() -> None:
    """Whatever the error type, the flawed answer is not the good one."""
    for number, error in enumerate(("brevity", "over-verbosity", "factual inaccuracy", "spelling errors", "ambiguity")):
        for output in ("left", "metformin 500 mg", "ENTAILMENT", "3", '{"answer": "yes"}'):
            request = {"kind": "induce_error", "instruction": "x", "input": "y", "output": output, "error_type": error}
            assert reply(request, number).strip() != output


def test_a_flaw_in_a_json_answer_keeps_its_keys_and_types() -> None:
    """A rejected answer must be wrong in content, not in format: a model would learn the format alone."""
    good = {"relations": [{"drug": "metformin", "disease": "gout"}], "sentence": 3, "label": "NEUTRAL"}
    for number, error in enumerate(("brevity", "over-verbosity", "factual inaccuracy", "spelling errors") * 5):
        request = {"kind": "induce_error", "output": json.dumps(good), "error_type": error}
        flawed = json.loads(reply(request, number))
        assert flawed != good
        assert flawed.keys() == good.keys()
        assert isinstance(flawed["sentence"], int)
        assert flawed["label"] in {"ENTAILMENT", "NEUTRAL", "CONTRADICTION"}
