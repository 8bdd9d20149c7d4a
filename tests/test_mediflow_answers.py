"""Each task asked of each input has the answer that is right for it, in both formats."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from mediflow.checking.checks import check_example, check_vocabulary
from mediflow.checking.verify import verify_example
from mediflow.clinic.answers import TASKS, ask
from mediflow.clinic.documents import Note, write_note
from mediflow.clinic.exchange import Exchange
from mediflow.clinic.patients import Patient, draw_patients
from mediflow.taxonomy import FORMATS, load_taxonomy

PATIENTS = draw_patients(seed=5, count=240)


def _exchanges(task: str, each: int = 1) -> Iterator[tuple[Patient, Note, Exchange]]:
    """The task asked of every input of the taxonomy, of `each` patients."""
    taxonomy = load_taxonomy()
    for number, (document, section) in enumerate(taxonomy.inputs() * each):
        rng = random.Random(f"{task} {number}")
        patient = PATIENTS[number * 7 % len(PATIENTS)]
        note = write_note(taxonomy.documents[document], section, patient, rng, taxonomy.tasks[task].needs)
        yield patient, note, ask(task, note, patient, rng)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_has_an_answer_for_every_input(task: str) -> None:
    """All 98 inputs can be asked every task; the answer is no copy, satisfies the schema, and both formats agree."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(load_taxonomy().tasks[task].schema)
    asked = list(_exchanges(task))
    for _, note, exchange in asked:
        assert exchange.output("plain_text").strip()
        assert exchange.text != exchange.input
        value = json.loads(exchange.output("json"))
        validator.validate(value)
        assert value and all(value[key] not in ("", []) for key in value if key != "missing")
        assert note.statements
    assert len(asked) == 98
    assert len({exchange.text for _, _, exchange in asked}) >= 3, "one answer fits all"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_known_answers_pass_the_checks_of_their_task(task: str) -> None:
    """In both formats the checks find no fault and have nothing to repair: the clinic's answers are the measure."""
    asked = load_taxonomy().tasks[task]
    check_vocabulary(asked)
    for _, _, exchange in _exchanges(task):
        for form in FORMATS:
            checked = check_example(asked, form, exchange.input, exchange.output(form))
            assert (checked.faults, checked.repairs) == ([], []), exchange.output(form)


def test_known_answers_contradict_no_fact() -> None:
    """What a task's `asserts` names agrees with the patient; read about another patient, it does not."""
    found, of_others, compared = 0, 0, 0
    for task in sorted(TASKS):
        asserts = load_taxonomy().tasks[task].asserts
        for patient, _, exchange in islice(_exchanges(task), 0, None, 3):
            verified = verify_example(asserts, patient.facts(), exchange.input, exchange.text)
            compared += verified.checked
            found += len(verified.contradicted)
            if compared % 5 == 0:
                other = PATIENTS[PATIENTS.index(patient) - 1].facts()
                of_others += bool(verify_example(asserts, other, exchange.input, exchange.text).contradicted)
    assert (found, compared > 5_000, of_others > 40) == (0, True, True)


def test_entities_stand_where_their_offsets_say() -> None:
    """Each span of the input is its text; present symptoms are the patient's, denied ones are not."""
    kinds: Counter[str] = Counter()
    for patient, _, exchange in _exchanges("named_entity_recognition", each=3):
        found = exchange.value["entities"]
        assert [exchange.input[one["start"] : one["end"]] for one in found] == [one["text"] for one in found]
        assert "; ".join(one["text"] for one in found) == exchange.text
        named = {one["text"].lower() for one in found}
        kinds[exchange.kind] += 1
        if exchange.kind == "symptoms that are present":
            assert named == set(patient.symptoms)
        elif exchange.kind == "symptoms that are denied":
            assert named == set(patient.denied)
        else:
            taken = {m.drug for m in (*patient.medications, patient.new_medication)}
            assert named - {"penicillin", "sulfa"} == taken
    assert min(kinds.values()) > 60


def test_what_is_asked_for_is_not_written_in_the_input() -> None:
    """The disease to be reasoned out, the specialty and the expansion of the abbreviation cannot be copied."""
    for patient, note, exchange in _exchanges("reasoning_and_diagnosis", each=2):
        assert not re.search(rf"(?i){patient.main.name}", exchange.input)
        assert not re.search(rf"\b{patient.main.abbreviation}\b", exchange.input)
        assert all(term in exchange.input for term in exchange.value["evidence"])
        assert exchange.value["icd10cm"] == patient.main.code
        assert "the condition in question" in exchange.input and "the condition in question" not in note.text
    assert not [1 for p, _, e in _exchanges("classification", 2) if p.main.specialty in e.input]
    assert not [1 for p, _, e in _exchanges("abbreviation_expansion", 2) if p.main.name in e.input]


def test_relations_are_those_of_the_patient() -> None:
    """Drug and disease of every pair stand in the input, and the pairs are all that the patient takes and is given."""
    for patient, _, exchange in _exchanges("relation_extraction", each=2):
        pairs = {(one["drug"].lower(), one["disease"]) for one in exchange.value["relations"]}
        assert pairs == {(m.drug, m.disease) for m in (*patient.medications, patient.new_medication)}
        assert all(one["drug"] in exchange.input for one in exchange.value["relations"])


def test_plain_words_replace_terms_and_no_figure_changes() -> None:
    """After simplification no disease has its medical name; numbers stay the same, in order."""
    for patient, note, exchange in _exchanges("text_simplification", each=2):
        assert not re.search(rf"(?i)\b{patient.main.name}\b", exchange.text)
        figures = re.sub(r"type 2 diabetes mellitus|T2DM", "", note.text)
        assert re.findall(r"\d[\d./]*", exchange.text) == re.findall(r"\d[\d./]*", figures)
        assert len(exchange.text.splitlines()) == len(note.text.splitlines())


def test_a_telegraphic_note_keeps_every_figure_name_and_negation() -> None:
    """It is shorter than its expansion, and cutting took no number, no drug and no 'no'."""
    for patient, _, exchange in _exchanges("text_expansion", each=2):
        assert len(exchange.input) < len(exchange.text)
        short, full = (re.findall(r"\d+", re.sub(r"q8h", "", text)) for text in (exchange.input, exchange.text))
        assert short == full
        assert patient.new_medication.drug in exchange.input.lower()
        negations = r"(?i)\b(?:no|not|never|denies|without|w/o)\b"
        assert len(re.findall(negations, exchange.input)) == len(re.findall(negations, exchange.text))
        assert patient.main.name in exchange.text


def test_keywords_stand_in_the_document_and_belong_to_the_aspect() -> None:
    """Keywords are verbatim; the drug is one under 'new treatment' and never under 'complaints'."""
    aspects: Counter[str] = Counter()
    for patient, note, exchange in _exchanges("aspect_oriented_keyword_extraction", each=8):
        aspect = exchange.input.rpartition("ASPECT: ")[2]
        aspects[aspect] += 1
        assert all(word in note.text for word in exchange.value["keywords"])
        assert len(set(exchange.value["keywords"])) == len(exchange.value["keywords"])
        drug = patient.new_medication.drug in exchange.text.lower()
        if aspect in {"new treatment", "complaints"}:
            assert drug == (aspect == "new treatment")
    assert len(aspects) >= 40


def test_note_scores_are_what_a_reader_counts() -> None:
    """Counting the four points by their wording gives the score; all scores occur about equally often."""
    signs = (
        r"(?i)\b\w+-year-old .*for \d+ days",
        r"\(normal|\(reference|normal range",
        r"started on|was prescribed for|was begun for",
        r"Follow-up in|will be seen by",
    )
    scores: Counter[int] = Counter()
    for _, _, exchange in _exchanges("note_scoring", each=4):
        assert sum(re.search(sign, exchange.input) is not None for sign in signs) == exchange.value["score"]
        assert exchange.value["score"] + len(exchange.value["missing"]) == 4
        assert exchange.text == str(exchange.value["score"])
        scores[exchange.value["score"]] += 1
    assert min(scores.values()) > 70
