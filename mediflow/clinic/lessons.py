"""What the embedded base model is taught: how to copy, read, choose, format and recall, on invented things only.

No lesson is one of the clinic's tasks or asks in the words of a benchmark, and none tells a fact of a clinic. Names of
diseases and drugs of both clinics occur in lists as mere words. What is recalled are facts of an invented world
(`invented`), told on pages and asked about in chats; of every sixth disease nothing is ever asked, so that what pages
alone teach can be measured.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from pydantic import Field

from mediflow.clinic.corpora import FORMS, write_page
from mediflow.clinic.documents import write_note
from mediflow.clinic.invented import word
from mediflow.clinic.knowledge import Disease, load_knowledge, use_world
from mediflow.clinic.patients import draw_patient
from mediflow.clinic.relations import (
    Fact,
    drawn_values,
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
NOUNS = [
    "apple",
    "bridge",
    "candle",
    "door",
    "engine",
    "flag",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "lamp",
    "mirror",
    "needle",
    "orange",
    "pencil",
    "queen",
    "river",
    "stone",
    "table",
    "umbrella",
    "violin",
    "window",
    "yard",
    "boat",
    "cloud",
    "drum",
    "forest",
    "glass",
    "horse",
    "iron",
    "jar",
    "key",
    "leaf",
    "moon",
    "nest",
    "oil",
    "paper",
    "ring",
    "ship",
    "tree",
    "vase",
    "wheel",
    "book",
    "chair",
    "clock",
    "coat",
    "cup",
    "dish",
    "fence",
]
PLACES = ["Box", "Room", "Shelf", "Drawer", "Tent", "Wagon", "House", "Cellar"]
PEOPLE = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Karla",
    "Leo",
    "Mona",
    "Nils",
    "Olga",
    "Paul",
    "Rita",
    "Sven",
    "Tara",
    "Udo",
]
FILLERS = (
    "The lamp was on.", "It had rained.", "Nobody else came.", "The day was long.", "They had met before.",
    "The room was quiet.", "Later it was dark.", "The list is not complete.",
)  # fmt: skip
MIXTURE = {"recall": 0.22, "page": 0.12, "lines": 0.04, "general": 0.4, "reading": 0.1, "note": 0.02, "copying": 0.1}
"""Shares of the rows of the main stage; `copying` and short `general` rows alone are the first stage."""


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


@cache
def _words() -> tuple[list[str], list[str]]:
    """Names of the clinics' diseases and drugs; words for symptoms, tests, findings and other values."""
    known = [disease for world in ("clinic", "second") for disease in load_knowledge(world)]
    names = {d.name for d in known} | {drug.name for d in known for drug in d.drugs}
    values = {s for d in known for s in (*d.symptoms, d.specialty, d.lab.name, d.finding) if s}
    return sorted(names), sorted(values | {value for values in drawn_values().values() for value in values})


def words(rng: random.Random, count: int) -> list[str]:
    """Different words and names in a random mixture; one in twenty is made up."""
    names, values = _words()
    found: list[str] = []
    while len(found) < count:
        draw = rng.random()
        source = names if draw < 0.45 else values if draw < 0.75 else NOUNS
        item = rng.choice(source) if draw < 0.95 else word(rng, rng.choice((1, 2)))
        if item not in found:
            found.append(item)
    return found


def _copying(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """A list of words twice, of which the second one can be learnt only by copying the first."""
    listed = ", ".join(words(rng, rng.randint(4, 12)))
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
        entity = word(rng, rng.choice((2, 3))) if rng.random() < 0.5 else rng.choice(_words()[0])
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


def _easy(rng: random.Random, set_: LessonSet) -> dict[str, Any]:
    """A text with questions that copying answers."""
    return _of_family(rng.choice(EASY), rng, set_.turns)


def _of_family(family: str, rng: random.Random, turns: int) -> dict[str, Any]:
    text, tasks = FAMILIES[family](rng)
    chosen = rng.sample(tasks, min(len(tasks), turns))
    return {"kind": chosen[0].kind} | _laid_out(text, [(task.told, task.answer) for task in chosen], rng)


class Task(NamedTuple):
    """One thing that can be asked of a text."""

    kind: str
    told: str
    answer: str


def _listed(rng: random.Random) -> tuple[str, list[Task]]:
    listed = words(rng, rng.randint(3, 6))
    text, place = ", ".join(listed), rng.randrange(len(listed) - 1)
    old, new = rng.choice(listed), words(rng, 1)[0]
    item = rng.choice((rng.choice(listed), new))
    ordinals = ("first", "second", "third", "fourth")[: len(listed)]
    tasks = [
        Task("copy", rng.choice(("Repeat the words.", "Copy the list.", "Write the same again.")), text),
        Task("reverse", rng.choice(("Write the list backwards.", "Reverse the list.")), ", ".join(listed[::-1])),
        Task("replace", f"Write {new} in place of {old}.", ", ".join(new if x == old else x for x in listed)),
        Task("contains", f"Is {item} in the list? Answer yes or no.", "yes" if item in listed else "no"),
        Task("pick", "Which word is the last?", listed[-1]),
        Task(
            "behind",
            rng.choice((f"Which word comes after {listed[place]}?", f"What stands behind {listed[place]}?")),
            listed[place + 1],
        ),
    ]
    for ordinal, word_there in rng.sample(list(zip(ordinals, listed, strict=False)), 2):
        tasks.append(
            Task("pick", rng.choice((f"Which word is the {ordinal}?", f"Give the {ordinal} word.")), word_there)
        )
    return text, tasks


def _numbered(rng: random.Random) -> tuple[str, list[Task]]:
    listed = words(rng, rng.randint(3, 6))
    spoken = ("There is {}.", "We saw {}.", "Somebody spoke of {}.", "It was about {}.", "They wrote of {}.")
    lines = [f"{number} {rng.choice(spoken).format(item)}" for number, item in enumerate(listed)]
    find = ("Which line speaks of {}? Answer with its number.", "Find the line with {}. Give its number.")
    tasks = [Task("numbered", f"Of what does line {number} speak?", item) for number, item in enumerate(listed)]
    tasks += [Task("line", rng.choice(find).format(item), str(number)) for number, item in enumerate(listed)]
    return "\n".join(lines), tasks


def _same(rng: random.Random) -> tuple[str, list[Task]]:
    first, second = words(rng, 2)
    wording = rng.choice(("There is {} in the box.", "We bought {}.", "The story is about {}."))
    same = rng.random() < 0.5
    text = f"A: {wording.format(first)}\nB: {wording.format(first if same else second)}"
    told = rng.choice(("Are the two sentences the same? Answer yes or no.", "Do both say the same? Answer yes or no."))
    return text, [Task("same", told, "yes" if same else "no"), Task("holds", "Of what does A speak?", first)]


def _places(rng: random.Random) -> tuple[str, list[Task]]:
    """Things in places; of one of them also as a choice among options, and as JSON."""
    listed = words(rng, rng.randint(2, 5))
    places = [f"{rng.choice(PLACES)} {number}" for number in rng.sample(range(1, 100), len(listed))]
    wordings = ("{p} holds {v}.", "In {p} there is {v}.", "{v} lies in {p}.", "Look for {v} in {p}.")
    said = [rng.choice(wordings).format(p=p, v=v) for p, v in zip(places, listed, strict=True)]
    what = ("What is in {}?", "What does {} hold?", "Name what lies in {}.")
    where = ("Where is {}?", "In what place does one find {}?")
    tasks = [Task("holds", rng.choice(what).format(p), v) for p, v in zip(places, listed, strict=True)]
    tasks += [Task("holds", rng.choice(where).format(v), p) for p, v in zip(places, listed, strict=True)]
    asked = rng.choice(tasks)
    key = rng.choice(("answer", "item", "value", "result"))
    json_task = Task("json", f"{asked.told} Answer as JSON with the key {key}.", json.dumps({key: asked.answer}))
    options = rng.sample(listed, len(listed))
    chosen = rng.randrange(len(listed))
    told = rng.choice(what).format(places[chosen]) + "\n" + "\n".join(f"- {option}" for option in options)
    return " ".join(said), [*tasks, json_task, Task("one_of", told, listed[chosen])]


def _people(rng: random.Random) -> tuple[str, list[Task]]:
    listed = words(rng, rng.randint(2, 5))
    people = rng.sample(PEOPLE, len(listed))
    counts = [rng.randint(2, 90) for _ in listed]
    wordings = ("{n} has {c} {v}.", "{n} brought {c} pieces of {v}.", "From {n} came {c} times {v}.")
    said = [rng.choice(wordings).format(n=n, c=c, v=v) for n, c, v in zip(people, counts, listed, strict=True)]
    tasks = []
    for name, count, item in zip(people, counts, listed, strict=True):
        tasks += [
            Task("who", f"What did {name} bring?", item),
            Task("who", f"Who had {item}?", name),
            Task("who", f"How many had {name}?", str(count)),
        ]
    return " ".join(said), tasks


def _mentioned(rng: random.Random) -> tuple[str, list[Task]]:
    """What sentences of one form name, in their order; other sentences stand between."""
    listed = words(rng, rng.randint(1, 4))
    said = [rng.choice(("They spoke of {}.", "It mentions {}.", "One reads of {}.")).format(item) for item in listed]
    for filler in rng.sample(FILLERS, rng.randint(1, 3)):
        said.insert(rng.randrange(len(said) + 1), filler)
    return " ".join(said), [
        Task("mentioned", "List what is mentioned, separated by semicolons.", "; ".join(listed)),
        Task("mentioned", "Name all that one reads of, with semicolons between.", "; ".join(listed)),
        Task("mentioned", "Name what is mentioned, with commas between.", ", ".join(listed)),
        Task("mentioned", "How many things are mentioned?", str(len(listed))),
    ]


def _pairs(rng: random.Random) -> tuple[str, list[Task]]:
    """Pairs that a text joins: A for B."""
    listed = words(rng, 2 * rng.randint(1, 3))
    pairs = list(zip(listed[::2], listed[1::2], strict=True))
    wordings = ("{a} is used for {b}.", "They took {a} for {b}.", "For {b} one needs {a}.")
    text = " ".join(rng.choice(wordings).format(a=a, b=b) for a, b in pairs)
    whole = "; ".join(f"{a} for {b}" for a, b in pairs)
    tasks = [Task("pairs", "What is used for what? Write pairs.", whole)]
    for a, b in pairs:
        tasks += [Task("holds", f"For what is {a} used?", b), Task("holds", f"What is used for {b}?", a)]
    return text, tasks


Family = Callable[[random.Random], tuple[str, list[Task]]]
FAMILIES: dict[str, Family] = {
    "list": _listed,
    "lines": _numbered,
    "places": _places,
    "people": _people,
    "mentioned": _mentioned,
    "pairs": _pairs,
    "same": _same,
}
GENERAL = (*FAMILIES, "list", "list", "mentioned")
EASY = ("list", "list", "places", "people", "lines")

KINDS: dict[str, Callable[[random.Random, LessonSet], dict[str, Any]]] = {
    "copying": _copying,
    "easy": _easy,
    "page": _page,
    "lines": _lines,
    "note": _note,
    "recall": _recall,
    "unasked": _unasked,
    "reading": _reading,
    "general": _general,
}
