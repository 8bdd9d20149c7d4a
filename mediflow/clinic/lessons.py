"""What the embedded base model is taught: how to copy, read, choose, format and recall, on invented things only.

No lesson is one of the clinic's tasks or asks in the words of a benchmark, and none tells a fact of a clinic. Names of
diseases and drugs of both clinics occur in lists as mere words. What is recalled are facts of an invented world
(`invented`), told on pages and asked about in chats; of every sixth disease nothing is ever asked, so that what pages
alone teach can be measured.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pydantic import Field

from mediflow.clinic.corpora import FORMS, write_page
from mediflow.clinic.documents import write_note
from mediflow.clinic.invented import word
from mediflow.clinic.knowledge import Disease, load_knowledge, use_world
from mediflow.clinic.patients import draw_patient
from mediflow.clinic.puzzles import COPY, FAMILIES, GENERAL, vocabulary, words
from mediflow.clinic.relations import (
    Fact,
    facts_of,
    load_relations,
    page,
    question,
    values_of,
    wrong_values,
)
from mediflow.taxonomy import WHOLE
from medsmith.config import Block
from medsmith.records import Instruction, content_id

UNASKED = 6
"""Of every so many invented diseases one is read about and never asked about."""
SYSTEM = (
    "You are a helpful assistant.", "Answer the question.", "Answer briefly.", "Give a short answer.", "Be exact.",
    "Reply in as few words as possible.", "Do what is asked.", "Answer from what you know.", "Say the answer only.",
    "Help the reader.", "Reply to the message.", "Follow the instruction.", "Give the right answer.",
    "Pick what is right.",
)  # fmt: skip
MIXTURE = {"recall": 0.32, "page": 0.15, "lines": 0.05, "general": 0.28, "reading": 0.07, "note": 0.01, "copying": 0.12}
"""Shares of the rows of the main stage; the first one has `copying` alone."""


class LessonSet(Block):
    """A number of lessons: for a base model, or for an expert to rehearse."""

    rows: int = Field(ge=1)
    shares: dict[str, float] = Field(MIXTURE, description="weights of the kinds (default: those of the base)")
    turns: int = Field(1, ge=1, description="questions that are asked of one text, at most")
    rehearsal: bool = Field(False, description="leave out the wordings in which benchmarks ask")
    instructions: bool = Field(
        False, description="also as a folder that align.sft reads: lessons/NAME/data/rows.parquet"
    )


def write_lessons(seed: int | str, wanted: LessonSet) -> Iterator[dict[str, Any]]:
    """Yield the rows of a set; the n-th depends on seed and n alone.

    A row is {task, messages}, {task, text} or {task, prompt, completion} (plain text of which the end is to be learnt).
    """
    for number in range(wanted.rows):
        rng = random.Random(f"lesson {seed} {number}")
        kind = rng.choices(list(wanted.shares), weights=list(wanted.shares.values()))[0]
        with use_world("base"):
            yield {"task": kind} | KINDS[kind](rng, wanted)


def as_instructions(rows: Iterable[dict[str, Any]]) -> list[Instruction]:
    """The first exchange of each chat as a row for fine-tuning; a chat without a system turn gets a plain one."""
    found: dict[str, Instruction] = {}
    for row in rows:
        if "messages" not in row:
            continue
        told, asked, answer = [
            *([{"content": SYSTEM[0]}] if row["messages"][0]["role"] == "user" else []),
            *row["messages"],
        ][:3]
        texts = (told["content"], asked["content"], answer["content"])
        name = content_id(*texts)
        kind = row.get("kind", row["task"])
        found[name] = Instruction(name, *texts, task_type=kind, input_data="lesson", output_format="text",
                                  difficulty_level="low")  # fmt: skip
    return list(found.values())


def chat(turns: Sequence[tuple[str, str]], rng: random.Random, system: str = "") -> dict[str, Any]:
    """Exchanges, one or more; a system turn in six of ten."""
    told = system or (rng.choice(SYSTEM) if rng.random() < 0.6 else "")
    messages = [{"role": "system", "content": told}] if told else []
    for asked, answer in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def asked_diseases(asked: bool = True) -> list[Disease]:
    """The invented diseases that questions are asked about, or those of which pages alone tell."""
    return [d for n, d in enumerate(load_knowledge("base")) if bool(n % UNASKED) == asked]


def _copying(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """A list of words twice, of which the second one can be learnt by copying alone; to rehearse, as a chat."""
    listed = ", ".join(words(rng, rng.randint(4, 12)))
    if set_.rehearsal:
        return chat([(f"{rng.choice(COPY)}\n{listed}", listed)], rng)
    return {"prompt": f"{listed}. ", "completion": f"{listed}."}


def _page(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """A page of one corpus about one disease."""
    disease = rng.choice(load_knowledge())
    corpus = rng.choice(("guidelines", "medwiki", "pubmed", "clinical"))
    _, text = write_page(corpus, disease, rng)
    return {"text": text}


def _lines(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """A line of a code table."""
    return {"text": page(rng.sample(facts_of(rng.choice(load_knowledge()), ("medcode",)), 1), rng)}


def _note(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """A note on a patient of the invented world, as plain text."""
    patient = draw_patient(-2, rng.randrange(10**6))
    return {"text": write_note(rng.choice(FORMS), WHOLE, patient, rng).text}


def _recall(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """Questions about facts that pages tell; one in six shows four options."""
    turns = []
    for _ in range(rng.randint(1, set_.turns)):
        fact = rng.choice(facts_of(rng.choice(asked_diseases())))
        used = ("teacher", "lessons") if set_.rehearsal else ("teacher", "lessons", "exam")
        asked = question(fact, rng.choice(used), rng)
        if rng.random() < 0.16:
            options = [fact.value, *wrong_values(fact, 3, rng)]
            rng.shuffle(options)
            asked += "\n" + "\n".join(f"- {option}" for option in options)
        turns.append((asked, fact.value))
    return chat(turns, rng)


def _unasked(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """A question about a disease that only pages told of, for measuring; never a lesson."""
    fact = rng.choice(facts_of(rng.choice(asked_diseases(False))))
    return chat([(question(fact, "lessons", rng), fact.value)], rng)


def page_facts(rng: random.Random) -> list[Fact]:
    """Two to five facts of one subject that hold nowhere else, of made-up or borrowed names."""
    subject = rng.choice(("guidelines", "medwiki", "pubmed", "clinical"))
    relations = [name for name, relation in load_relations().items() if relation.subject == subject]
    facts: list[Fact] = []
    for _ in range(rng.randint(2, 5)):
        relation = rng.choice(relations)
        entity = word(rng, rng.choice((2, 3))) if rng.random() < 0.5 else rng.choice(vocabulary()[0])
        value = rng.choice(values_of(relation)) if rng.random() < 0.7 else " ".join(words(rng, 1))
        if (relation, entity) not in {(fact.relation, fact.entity) for fact in facts}:
            facts.append(Fact(relation, entity, value))
    return facts


def _reading(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """A page and questions that it answers."""
    facts = page_facts(rng)
    asked = [(question(fact, rng.choice(("teacher", "lessons")), rng), fact.value) for fact in facts]
    rng.shuffle(asked)
    return _laid_out(page(facts, rng), asked[: set_.turns], rng)


def _laid_out(text: str, asked: Sequence[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """The first instruction as system turn, before the text, or behind it; further ones as turns of their own."""
    (told, answer), *others = asked
    draw = rng.random()
    if draw < 0.4:
        return chat([(text, answer), *others], rng, system=told)
    label = rng.choice(("", "", "TEXT: ", "PAGE: ", "GIVEN: "))
    ask = rng.choice(("", "", "QUESTION: ", "TASK: "))
    first = f"{label}{text}\n{ask}{told}" if draw < 0.75 else f"{ask}{told}\n{label}{text}"
    return chat([(first, answer), *others], rng)


def _general(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    return _of_family(rng.choice(GENERAL), rng, set_.turns)


def _of_family(family: str, rng: random.Random, turns: int) -> dict[str, Any]:
    text, tasks = FAMILIES[family](rng)
    chosen = rng.sample(tasks, min(len(tasks), turns))
    return {"kind": chosen[0].kind} | _laid_out(text, [(task.told, task.answer) for task in chosen], rng)


KINDS: dict[str, Callable[[random.Random, LessonSet], dict[str, Any]]] = {
    "copying": _copying,
    "page": _page,
    "lines": _lines,
    "note": _note,
    "recall": _recall,
    "unasked": _unasked,
    "reading": _reading,
    "general": _general,
}
