"""Examination questions on single facts: by choice of four, as free text, and for choosing merges.

A fact is asked either in the test or for validation, decided by its hash, so that no setting is chosen on what the test
asks. Tests ask in the `exam` wordings of relations.yml, validation in those of `lessons`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

from mediflow.clinic.relations import PAGES_ONLY, Fact, load_relations, question, world_facts, wrong_values
from medsmith.records import content_id

Words = Literal["teacher", "lessons", "exam", "unseen"]
WORDED: tuple[Words, ...] = ("teacher", "unseen")
ASKED = ("guidelines", "medwiki", "pubmed", "clinical")
"""Subjects that are asked about here; medcode has the code table's own questions (`eval.make_icd10cm`)."""


def split_facts(subject: str, split: str) -> list[Fact]:
    """The facts of a subject that are asked in a split: a quarter is for validation (dev), the rest for tests."""
    return [fact for fact in world_facts(subject) if _is_dev(fact) == (split != "test")]


def _is_dev(fact: Fact) -> bool:
    return int(content_id(fact.relation, fact.entity), 16) % 4 == 0


def choice_rows(split: str, words: Words, seed: str, count: int | None = None) -> list[dict[str, Any]]:
    """Questions with four options in the columns of MedQA, at most about `count`; `meta_info` is the subject.

    What stands in pages and in no row of a teacher has a name of its own.
    """
    rows = []
    for subject in ASKED:
        for fact in _some(split_facts(subject, split), seed, count):
            rng = random.Random(f"choice {seed} {words} {fact}")
            options = [fact.value, *wrong_values(fact, 3, rng)]
            rng.shuffle(options)
            rows.append(
                {
                    "question": question(fact, words, rng),
                    "answer": fact.value,
                    "options": dict(zip("ABCD", options, strict=True)),
                    "meta_info": "pages alone" if fact.relation in PAGES_ONLY else subject,
                    "answer_idx": "ABCD"[options.index(fact.value)],
                }
            )
    return rows


def worded_rows(seed: str, count: int) -> list[dict[str, Any]]:
    """The test's facts in the teacher's words and in words that the base never met; `meta_info` is the wording."""
    return [
        row | {"meta_info": f"{words} words"} for words in WORDED for row in choice_rows("test", words, seed, count)
    ]


def free_rows(split: str, words: Words, seed: str, count: int | None = None) -> list[dict[str, str]]:
    """Questions with short answers in the columns of MedicationQA; the question type is the subject."""
    columns = ("Question", "Focus (Drug)", "Question Type", "Answer", "Section Title", "URL")
    rows = []
    for subject in ASKED:
        for fact in _some(split_facts(subject, split), seed, count):
            asked = question(fact, words, random.Random(f"free {seed} {words} {fact}"))
            values = (asked, fact.entity, subject, fact.value, "simulated", "simulated")
            rows.append(dict(zip(columns, values, strict=True)))
    return rows


def _some(facts: Sequence[Fact], seed: str, count: int | None) -> Sequence[Fact]:
    if count is None or len(facts) <= count // len(ASKED):
        return facts
    return random.Random(f"some {seed}").sample(list(facts), max(1, count // len(ASKED)))


def validation_question(subject: str, number: int, rng: random.Random) -> tuple[str, list[str], int]:
    """The n-th validation question on a subject: text, four options, place of the right one."""
    facts = split_facts(subject, "dev")
    fact = facts[number % len(facts)]
    relation = load_relations()[fact.relation]
    asked = relation.lessons[number // len(facts) % len(relation.lessons)].format(e=fact.entity, v="", E="", V="")
    options = wrong_values(fact, 3, rng)
    place = rng.randrange(4)
    return asked, [*options[:place], fact.value, *options[place:]], place
