"""The simulated clinic plants truths that a reader can find again, and none where labels are shuffled."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice

import pytest

from mediflow.checks import check_example, check_vocabulary
from mediflow.clinic.answers import TASKS, ask, choices
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
from mediflow.clinic.documents import Note, write_note
from mediflow.clinic.exchange import Exchange
from mediflow.clinic.knowledge import find_disease, load_knowledge, treated_by
from mediflow.clinic.lessons import write_lessons
from mediflow.clinic.patients import Patient, draw_patients, patient_from_facts
from mediflow.clinic.reply import reply
from mediflow.clinic.topics import facts_about, load_topics
from mediflow.taxonomy import FORMATS, WHOLE, load_taxonomy
from mediflow.verify import verify_example
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


def test_rare_diseases_come_in_the_share_that_is_asked_for() -> None:
    """A share of 0 names no rare disease as what the patient has; 0.5 names as many rare ones as common ones."""
    rare = {disease.name for disease in load_knowledge() if not disease.common}
    shares = {
        asked: sum(p.diseases[0] in rare for p in draw_patients(3, 600, asked)) / 600 for asked in (0.0, 0.1, 0.5)
    }
    titles = [doc.text.lower() for doc in write_corpus("medwiki", 3, 100, 0.0)]

    assert len(rare) == 21
    assert shares[0.0] == 0
    assert abs(shares[0.1] - 0.1) < 0.04
    assert abs(shares[0.5] - 0.5) < 0.06
    assert not [name for name in rare for text in titles if text.startswith(name.lower())]
    assert list(write_lessons(3, 20, None, 0.1)) == list(write_lessons(3, 40, None, 0.1))[:20]


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


def _exchanges(task: str, each: int = 1) -> Iterator[tuple[Patient, Note, Exchange]]:
    """The task asked of every input of the taxonomy, of `each` patients."""
    taxonomy = load_taxonomy()
    for number, (document, section) in enumerate(taxonomy.inputs() * each):
        rng = random.Random(f"{task} {number}")
        patient = PATIENTS[number * 7 % len(PATIENTS)]
        note = write_note(taxonomy.documents[document], section, patient, rng, taxonomy.tasks[task].needs)
        yield patient, note, ask(task, note, patient, rng)


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
    assert content_id(clinical) == "a2b81fef09b48c36"
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
    good = {"kind": "judge", "instruction": "Answer the question briefly from the document.", "facts": []}
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


def test_questions_on_a_page_are_answered_by_the_page() -> None:
    """The reading task of pre-instruction tuning asks what the text says, and every answer stands in it."""
    page = write_corpus("medwiki", 5, 1)[0]
    said = reply({"kind": "pit", "task": "question_answer", "document": {"title": page.title, "text": page.text}}, 0)
    answers = re.findall(r"Question: .+? Answer: (.+)", said)

    assert len(answers) >= 6
    assert all(answer.lower() in page.text.lower() for answer in answers)
