"""Made-up texts and what can be asked of them, with answers: lists, numbered lines, things in places, people, pairs.

Words are names and values of the clinics, taken as mere words, and common nouns; one in twenty is made up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from mediflow.clinic.invented import word
from mediflow.clinic.knowledge import load_knowledge
from mediflow.clinic.relations import drawn_values

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
COPY = ("Repeat the words.", "Copy the list.", "Write the same again.")
FILLERS = (
    "The lamp was on.", "It had rained.", "Nobody else came.", "The day was long.", "They had met before.",
    "The room was quiet.", "Later it was dark.", "The list is not complete.",
)  # fmt: skip


@cache
def vocabulary() -> tuple[list[str], list[str]]:
    """Names of the clinics' diseases and drugs; words for symptoms, tests, findings and other values."""
    known = [disease for world in ("clinic", "second") for disease in load_knowledge(world)]
    names = {d.name for d in known} | {drug.name for d in known for drug in d.drugs}
    values = {s for d in known for s in (*d.symptoms, d.specialty, d.lab.name, d.finding) if s}
    return sorted(names), sorted(values | {value for values in drawn_values().values() for value in values})


def words(rng: random.Random, count: int) -> list[str]:
    """Different words and names in a random mixture; one in twenty is made up."""
    names, values = vocabulary()
    found: list[str] = []
    while len(found) < count:
        draw = rng.random()
        source = names if draw < 0.45 else values if draw < 0.75 else NOUNS
        item = rng.choice(source) if draw < 0.95 else word(rng, rng.choice((1, 2)))
        if item not in found:
            found.append(item)
    return found


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
        Task("copy", rng.choice(COPY), text),
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
