"""Facts of the library: each is told by one corpus and asked in words that nothing else uses, in one split."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from eval.benchmark import load_benchmark
from mediflow.clinic.corpora import CORPORA, write_corpus
from mediflow.clinic.exam import ASKED, choice_rows, free_rows, split_facts, validation_question
from mediflow.clinic.knowledge import load_knowledge, use_world
from mediflow.clinic.lessons import KINDS, LessonSet, asked_diseases, write_lessons
from mediflow.clinic.relations import PAGES_ONLY, Fact, facts_of, load_relations, say, world_facts
from mediflow.clinic.reply import reply

WORDINGS = ("pages", "teacher", "lessons", "exam", "unseen")


def texts(rows: list[dict[str, object]]) -> list[str]:
    """All that rows of lessons say."""
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def test_no_wording_is_used_twice() -> None:
    """What a test asks is asked so nowhere else: wordings differ between uses and between relations."""
    seen = Counter(
        wording for relation in load_relations().values() for use in WORDINGS for wording in getattr(relation, use)
    )

    assert len(load_relations()) == 12
    assert [wording for wording, count in seen.items() if count > 1] == []


@pytest.mark.parametrize("world", ["clinic", "second"])
def test_a_corpus_tells_of_its_own_subject_alone(world: str) -> None:
    """Every fact of a subject is in its corpus, in several wordings; no page states a fact of another subject."""
    with use_world(world):
        found: dict[str, Counter[Fact]] = {}
        for corpus in CORPORA:
            text = "\n".join(document.text for document in write_corpus(corpus, 3, 420) if document.title not in NOTES)
            for subject in ASKED:
                for fact in world_facts(subject):
                    said = [w for w in load_relations()[fact.relation].pages if say(w, fact) in text]
                    if said:
                        found.setdefault(corpus, Counter())[fact] += len(said)
        missing = {corpus: [f for f in world_facts(corpus) if f not in found[corpus]] for corpus in CORPORA}
        foreign = {corpus: set(found[corpus]) - set(world_facts(corpus)) for corpus in CORPORA}

    assert {corpus: len(facts) for corpus, facts in missing.items()} == dict.fromkeys(CORPORA, 0)
    assert {corpus: len(facts) for corpus, facts in foreign.items()} == dict.fromkeys(CORPORA, 0)
    assert min(sum(count.values()) / len(count) for count in found.values()) > 2.5


NOTES = {"Admission Note", "Discharge Summary", "Doctor-Patient Conversation", "Laboratory Report", "Prescription Note",
         "Radiology Report", "Referral Letter", "SOAP Clinical Note", "Social Work Note", "Triage Note"}  # fmt: skip


def test_validation_and_test_ask_different_facts() -> None:
    """A fact is in one of the two; both have every subject; the test has three quarters."""
    for subject in ASKED:
        dev, test = (set(split_facts(subject, split)) for split in ("dev", "test"))
        assert not dev & test
        assert dev | test == set(world_facts(subject))
        assert 0.65 < len(test) / len(dev | test) < 0.85
    asked = {validation_question("medwiki", number, random.Random(number))[0] for number in range(300)}
    tested = {row["question"] for row in choice_rows("test", "exam", "0")}
    assert not asked & tested


def test_what_a_test_asks_is_nowhere_in_what_is_read_or_trained_on() -> None:
    """No examination wording about any fact occurs in a corpus, in a teacher's row or in a rehearsed lesson."""
    asked = [row["question"] for row in choice_rows("test", "exam", "0")]
    asked += [row["Question"] for row in free_rows("test", "exam", "0")]
    documents = [document for corpus in CORPORA for document in write_corpus(corpus, 5, 120)]
    taught = [document.text for document in documents]
    taught += [
        reply({"kind": "pit", "task": "question_answer", "document": {"title": d.title, "text": d.text}}, 0)
        for d in documents
    ]
    rehearsed = texts(list(write_lessons(5, LessonSet(rows=800, rehearsal=True))))
    heads = {w.split("{")[0] for relation in load_relations().values() for w in relation.exam if w[0] != "{"}

    assert len(asked) == 2 * 409
    assert [question for question in asked if any(question in text for text in taught + rehearsed)] == []
    assert [head for head in heads if len(head) > 12 and any(head in text for text in taught + rehearsed)] == []
    assert any(
        head in text for head in heads if len(head) > 12 for text in texts(list(write_lessons(5, LessonSet(rows=800))))
    )


def test_lessons_tell_no_fact_of_a_clinic_and_ask_of_no_reserved_disease() -> None:
    """The base's world shares no disease, drug or code with the clinics; one disease in six is never asked about."""
    named = {
        part for w in ("clinic", "second") for d in load_knowledge(w) for part in (d.code, *(x.name for x in d.drugs))
    }
    own = {part for d in load_knowledge("base") for part in (d.code, *(x.name for x in d.drugs))}
    unasked = {d.name for d in asked_diseases(False)} | {x.name for d in asked_diseases(False) for x in d.drugs}
    rows = [row for row in write_lessons(7, LessonSet(rows=2000)) if row["task"] == "recall"]
    stated = {say(w, fact) for d in load_knowledge("clinic") for fact in facts_of(d)
              for w in load_relations()[fact.relation].pages}  # fmt: skip
    pages = [row["text"] for row in write_lessons(7, LessonSet(rows=1500)) if row["task"] in {"page", "lines"}]

    assert not named & own
    assert len(unasked) == 3 * 20
    assert len(rows) > 400
    assert [r for r in rows if any(name in r["messages"][-2]["content"].split("\n")[0] for name in unasked)] == []
    assert [text for text in pages if any(sentence in text for sentence in stated)] == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_lesson_is_a_function_of_its_seed_and_its_number(kind: str) -> None:
    """A longer list continues a shorter one; another seed gives others."""
    assert (
        list(write_lessons(3, LessonSet(rows=8, shares={kind: 1.0})))
        == list(write_lessons(3, LessonSet(rows=20, shares={kind: 1.0})))[:8]
    )
    assert list(write_lessons(3, LessonSet(rows=8, shares={kind: 1.0}))) != list(
        write_lessons(4, LessonSet(rows=8, shares={kind: 1.0}))
    )


def test_options_hold_the_answer_once_and_letters_are_even() -> None:
    """Four different options of one relation; no letter is right much more often than another."""
    rows = choice_rows("test", "exam", "0")

    assert all(row["options"][row["answer_idx"]] == row["answer"] for row in rows)
    assert all(len(set(row["options"].values())) == 4 for row in rows)
    assert all(abs(count - len(rows) / 4) < 45 for count in Counter(row["answer_idx"] for row in rows).values())
    assert Counter(row["meta_info"] for row in rows).keys() == {*ASKED, "pages alone"}


def test_the_teacher_asks_what_a_page_states_and_answers_from_it() -> None:
    """Of facts on a page one question each in the teacher's words, of those of PAGES_ONLY none; the answer is there."""
    relations = load_relations()
    wanted = {w for name in relations.keys() - {*PAGES_ONLY} for w in relations[name].teacher}
    for corpus in CORPORA:
        page = write_corpus(corpus, 5, 1)[0]
        request = {"kind": "pit", "task": "question_answer", "document": {"title": page.title, "text": page.text}}
        pairs = [line.removeprefix("Question: ").split(" Answer: ") for line in reply(request, 0).split("\n")]
        disease = load_knowledge()[0]
        entities = (disease.name, *(drug.name for drug in disease.drugs))

        assert len(pairs) >= (1 if corpus == "pubmed" else 2)
        assert all({text.replace(entity, "{e}") for entity in entities} & wanted for text, _ in pairs)
        assert all(answer.lower() in page.text.lower() for _, answer in pairs)


def test_the_benchmarks_report_each_subject(tmp_path: object) -> None:
    """Both files keep the subject as a slice of the benchmark."""
    from pathlib import Path

    from mediflow.clinic.files import put

    folder = Path(str(tmp_path))
    counts: dict[str, int] = {}
    put(counts, folder, "medqa/phrases_no_exclude_test.jsonl", choice_rows("test", "exam", "0"))
    put(counts, folder, "medication_qa/MedInfo2019-QA-Medications.xlsx", free_rows("test", "exam", "0"))

    for name in ("medqa", "medication_qa"):
        items = load_benchmark(name).load(folder / name, "test").items
        assert {item.slice for item in items} == {*ASKED, *(["pages alone"] if name == "medqa" else [])}
        assert len(items) == 409
