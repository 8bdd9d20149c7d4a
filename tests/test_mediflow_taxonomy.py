"""The taxonomy has the paper's numbers; the sampling plan keeps its quotas, its order and its continuation."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from mediflow.taxonomy import (
    DIFFICULTIES,
    FORMATS,
    WHOLE,
    Cell,
    Weights,
    check_weights,
    input_name,
    iter_plan,
    load_taxonomy,
    plan,
)
from medsmith.errors import UserError

# Appendix A.4 of the paper: 36 document types, and how many inputs each gives (itself and its separate sections).
INPUTS = {
    "Discharge Summary": 6, "SOAP Clinical Note": 5, "Clinical Note": 6, "Progress Note": 4, "Admission Note": 6,
    "Scientific Article": 8, "Clinical Case": 3, "Nursing Note": 1, "Monitoring Data of Vital Signs": 1,
    "Referral Letter": 1, "Emergency Department Note": 7, "Laboratory Report": 1, "Radiology Report": 3,
    "Doctor-Patient Conversation": 5, "Nurse-Patient Dialog": 5, "Operative Note": 8, "Consultation Note": 1,
    "Pathology Report": 1, "Prescription Note": 1, "Preoperative Assessment": 1, "Postoperative Note": 1,
    "Therapy Notes": 5, "Immunization Record": 1, "Screening Report": 1, "Consent Form": 1, "Care Plan": 1,
    "Dietary Notes": 1, "Psychiatric Evaluation": 5, "Social Work Note": 1, "End-of-Life Care Documentation": 1,
    "Triage Note": 1, "Dental Record": 1, "Home Health Care Report": 1, "Genetic Testing Report": 1,
    "Incident Report": 1, "Patient Education Material": 1,
}  # fmt: skip
TASKS = {
    "summarization", "question_answering", "multiple_choice_question_answering", "named_entity_recognition",
    "relation_extraction", "classification", "reasoning_and_diagnosis", "textual_entailment", "text_simplification",
    "text_expansion", "abbreviation_expansion", "aspect_oriented_keyword_extraction", "error_detection_and_correction",
    "note_scoring",
}  # fmt: skip
CHECKS = {"spans", "in_input", "icd10cm", "option", "sentence_number", "shorter", "longer", "differs", "range"}
PAIRS = 14 * 98


def _shares(cells: list[Cell], axis: str) -> dict[object, float]:
    seen = Counter(
        input_name(cell.document_type, cell.section) if axis == "input" else getattr(cell, axis) for cell in cells
    )
    return {value: count / len(cells) for value, count in seen.items()}


def test_documents_have_the_papers_number_of_inputs() -> None:
    """36 document types, each with the printed number of inputs, 98 in all, no two of one name."""
    taxonomy = load_taxonomy()
    titles = {name: document.title for name, document in taxonomy.documents.items()}

    assert Counter(titles[document] for document, _ in taxonomy.inputs()) == INPUTS
    assert len(taxonomy.inputs()) == len({input_name(*place) for place in taxonomy.inputs()}) == 98
    for document in taxonomy.documents.values():
        assert set(document.alone) <= set(document.sections)
        assert len(document.alone) != 1, "a lone section is the whole document again"


def test_task_types_are_the_papers_and_say_what_is_checked() -> None:
    """14 task types, each with several wordings, a closed JSON object and checks of the known vocabulary."""
    from jsonschema import Draft202012Validator

    taxonomy = load_taxonomy()

    assert set(taxonomy.tasks) == TASKS
    for task in taxonomy.tasks.values():
        Draft202012Validator.check_schema(task.schema)
        assert task.schema["type"] == "object" and task.schema["additionalProperties"] is False
        assert set(task.schema["required"]) == set(task.schema["properties"])
        assert len(set(task.instructions)) >= 3
        assert task.checks and {check["check"] for check in task.checks} <= CHECKS
        assert {check["at"].split(".")[0] for check in task.checks if "at" in check} <= set(task.schema["properties"])


@pytest.mark.parametrize("weights", [None, "uniform", {"task_type": {"summarization": 3, "note_scoring": 1}}])
def test_a_longer_plan_continues_a_shorter_one(weights: Weights) -> None:
    """Asking for more keeps what was planned, over several blocks; the seed alone decides; cells are numbered."""
    taxonomy = load_taxonomy()
    longer = plan(taxonomy, 3000, 1, weights)

    assert plan(taxonomy, 40, 1, weights) == longer[:40]
    assert list(islice(iter_plan(taxonomy, 1, weights), 2900, 2950)) == longer[2900:2950]
    assert plan(taxonomy, 40, 2, weights) != longer[:40]
    assert [cell.number for cell in longer] == list(range(3000))


def test_every_pair_of_task_and_input_is_visited_once_in_a_block() -> None:
    """After 1,372 cells all of the taxonomy has been asked for once; after three blocks, three times."""
    taxonomy = load_taxonomy()
    cells = plan(taxonomy, 3 * PAIRS, 0)
    pairs = [(cell.task_type, cell.document_type, cell.section) for cell in cells]

    assert len(set(pairs[:PAIRS])) == PAIRS
    assert set(Counter(pairs).values()) == {3}
    assert pairs[:PAIRS] != pairs[PAIRS : 2 * PAIRS], "each block has its own order"
    assert len({pair[1:] for pair in pairs[:98]}) > 85, "inputs do not wait for one another"


@pytest.mark.parametrize("count", [100, 700, 2000])
def test_any_beginning_of_the_plan_has_the_papers_shares(count: int) -> None:
    """Hard levels three to one without 'low', temperatures seven to three, formats and tasks equal, to five cells."""
    cells = plan(load_taxonomy(), count, 7)
    levels: dict[object, float] = {
        "moderate": 1 / 11,
        "moderate-hard": 1 / 11,
        "hard": 3 / 11,
        "very hard": 3 / 11,
        "extreme": 3 / 11,
    }
    wanted: dict[str, dict[object, float]] = {
        "difficulty": levels,
        "temperature": {1.0: 0.7, 1.25: 0.3},
        "output_format": {"plain_text": 0.5, "json": 0.5},
        "task_type": dict.fromkeys(TASKS, 1 / 14),
    }
    for axis, shares in wanted.items():
        found = _shares(cells, axis)
        assert found.keys() == shares.keys()
        assert max(abs(found[value] - share) for value, share in shares.items()) * count <= 5


def test_axes_do_not_follow_one_another() -> None:
    """Over many blocks each task and each input has both formats and all levels in their shares."""
    cells = plan(load_taxonomy(), 28 * PAIRS, 0, "uniform")
    for axis, size in (("task_type", 14), ("document_type", 36)):
        seen = Counter((getattr(cell, axis), cell.difficulty, cell.output_format) for cell in cells)
        assert len(seen) == size * len(DIFFICULTIES) * len(FORMATS)
        totals = Counter(getattr(cell, axis) for cell in cells)
        worst = max(abs(count - totals[key[0]] / 12) / (totals[key[0]] / 12) ** 0.5 for key, count in seen.items())
        assert worst < 4.5, "further from its share than chance would bring it"


def test_weights_on_every_axis_are_followed() -> None:
    """Shares of tasks, document types, inputs, formats and temperatures are as asked, to one cell in 2,000."""
    taxonomy = load_taxonomy()
    weights: dict[str, dict[Any, float]] = {
        "task_type": {"summarization": 5, "note_scoring": 3, "classification": 2},
        "document_type": {"soap_note": 3, "triage_note": 1},
        "output_format": {"json": 9, "plain_text": 1},
        "temperature": {0: 1},
        "difficulty": {"low": 1, "extreme": 0},
    }
    cells = plan(taxonomy, 2000, 3, weights)

    for axis, value, share in (
        ("task_type", "summarization", 0.5),
        ("task_type", "classification", 0.2),
        ("document_type", "soap_note", 0.75),
        ("input", "soap_note: Plan", 0.15),
        ("input", "triage_note", 0.25),
        ("output_format", "json", 0.9),
        ("temperature", 0.0, 1.0),
        ("difficulty", "low", 1.0),
    ):
        assert abs(_shares(cells, axis)[value] - share) * 2000 <= 3, value
    both = Counter((cell.task_type, cell.document_type) for cell in cells)
    assert abs(both["summarization", "soap_note"] - 750) <= 20, "the axes are independent"


def test_one_input_may_be_asked_for() -> None:
    """`input` names a section as rows do; the rest has no share, and a single pair makes a plan too."""
    weights = {"input": {"soap_note: Plan": 1}, "task_type": {"note_scoring": 1}}
    cells = plan(load_taxonomy(), 220, 0, weights)

    assert {(c.task_type, c.document_type, c.section) for c in cells} == {("note_scoring", "soap_note", "Plan")}
    assert Counter(cell.difficulty for cell in cells)["extreme"] == 60
    assert input_name("soap_note", WHOLE) == "soap_note"


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("papers", "did you mean 'paper'"),
        ({"task": {"summarization": 1}}, "no axis 'task'; did you mean 'task_type'"),
        ({"task_type": {"sumarization": 1}}, "did you mean 'summarization'"),
        ({"document_type": {"Soap Note": 1}}, "did you mean 'soap_note'"),
        ({"input": {"soap_note: Plans": 1}}, "did you mean 'soap_note: Plan'"),
        ({"input": {"zzz": 1}}, "and 94 more"),
        ({"output_format": {"xml": 1}}, "known are plain_text, json"),
        ({"difficulty": {"hard": 0}}, "no share above 0"),
        ({"difficulty": {"hard": -1, "low": 2}}, "no share above 0"),
        ({"temperature": {"warm": 1}}, "'warm' is not a number from 0 to 2"),
        ({"document_type": {"soap_note": 1}, "input": {"triage_note": 1}}, "asks for 'soap_note'"),
    ],
)
def test_wrong_weights_are_refused_with_the_nearest_name(weights: Weights, says: str) -> None:
    """Each mistake is one line that names the value and the remedy, before anything is planned."""
    with pytest.raises(UserError) as error:
        check_weights(weights, load_taxonomy())
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError):
        plan(load_taxonomy(), 1, 0, weights)


@pytest.mark.parametrize("weights", [None, "paper", "uniform", {"temperature": {0: 1}}])
def test_right_weights_pass(weights: Weights) -> None:
    """The negative control of the refusals."""
    check_weights(weights, load_taxonomy())
    assert len(plan(load_taxonomy(), 3, 0, weights)) == 3
