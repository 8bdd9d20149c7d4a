"""Synthetic rows in the shape of a generate folder, with copies, near-misses and benchmark leaks planted among them.

Rows are written from sentence frames about invented patients; each frame says the same in several ways, so that a
paraphrase (other wordings, other order, other words of a synonym table) is known to mean the same. What was planted of
which row is in `truth.jsonl`. Not medical knowledge.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.curate_frames import CONDITIONS, DRUGS, FINDINGS, FRAMES, HOBBIES, LABS, PARTS, PEOPLE, PLACES, SYNONYMS

Visit = tuple[dict[str, Any], list[int]]
TASKS = [f"task_{number:02}" for number in range(14)]
DOCUMENTS = [f"document_{number:02}" for number in range(36)]
LEVELS = ("easy", "medium", "hard", "very_hard", "extreme", "expert")
INSTRUCTIONS = (
    "Summarize the note for the next clinician.",
    "List the problems that need follow-up.",
    "Name the main reason for the visit.",
    "Write the assessment in two sentences.",
    "Extract the medications with their doses.",
    "State what the imaging shows.",
)
KINDS = {
    "case": 0.01,
    "near 2 %": 0.01,
    "near 6 %": 0.01,
    "paraphrase": 0.01,
    "leak 13-gram": 0.002,
    "leak item": 0.002,
}
MISSES = {"number": 0.0025, "negation": 0.0025, "side": 0.0025, "drug": 0.0025}
CRITICAL = {"no", "without", "denies", "left", "right", "man", "woman", "chronic", *DRUGS}


def slots(rng: random.Random) -> dict[str, Any]:
    """What a row says; every wording says the same."""
    f, c, d = rng.sample(FINDINGS, 6), rng.sample(CONDITIONS, 4), rng.sample(DRUGS, 3)
    lab, part, person, place, hobby = (rng.sample(of, 3) for of in (LABS, PARTS, PEOPLE, PLACES, HOBBIES))
    number = rng.randint
    return {
        **{f"f{i + 1}": value for i, value in enumerate(f)},
        **{f"c{i + 1}": value for i, value in enumerate(c)},
        **{f"d{i + 1}": value for i, value in enumerate(d)},
        "lab": lab[0],
        "lab2": lab[1],
        "lab3": lab[2],
        "part": part[0],
        "part2": part[1],
        "person": person[0],
        "person2": person[1],
        "person3": person[2],
        "place": place[0],
        "place2": place[1],
        "hobby": hobby[0],
        "hobby2": hobby[1],
        "age": number(18, 95),
        "sex": rng.choice(("man", "woman")),
        "side": rng.choice(("left", "right")),
        "side2": rng.choice(("left", "right")),
        "n1": number(2, 60),
        "n2": number(1, 80) * 5,
        "n3": number(3, 90),
        "n4": number(1, 99) * 10,
        "n5": number(1, 9),
        "n6": number(90, 200),
        "n7": number(50, 110),
        "n8": number(2, 26),
        "v1": f"{rng.uniform(0.1, 20):.1f}",
        "v2": f"{rng.uniform(20, 300):.0f}",
    }


def story(made: Made, visits: list[Visit], rng: random.Random | None) -> str:
    """The visits, each its chosen frames with its slots; with `rng` in other wordings and another order."""
    lines = []
    for said, chosen in visits:
        for number in rng.sample(chosen, len(chosen)) if rng else chosen:
            frame, own = FRAMES[number], made.wording[number]
            wording = rng.choice([one for one in range(len(frame)) if one != own]) if rng else own
            text = frame[wording].format_map(said)
            lines.append(text[0].upper() + text[1:])
    return " ".join(lines)


def filler(rng: random.Random, words: int) -> str:
    """Free remarks that make rows as long and as unlike as a teacher's are."""
    pool = VOCABULARY
    lines = []
    while words > 0:
        length = rng.randint(8, 15)
        lines.append(" ".join(rng.choices(pool, k=length)).capitalize() + ".")
        words -= length
    return " ".join(lines)


def _vocabulary() -> list[str]:
    rng = random.Random("words")
    starts, middles, ends = (
        ["car", "pul", "neu", "hep", "ren", "gas", "der", "oph", "ort", "onc", "end", "imm", "vas", "mus", "bro"],
        ["di", "mo", "ro", "lo", "ti", "na", "pe", "sa", "ve", "ri"],
        ["al", "ic", "ous", "ium", "ation", "ment", "ing", "ly", "or", "ent"],
    )
    made = {
        rng.choice(starts) + "".join(rng.choices(middles, k=rng.randint(1, 2))) + rng.choice(ends) for _ in range(1500)
    }
    common = [
        "the",
        "of",
        "and",
        "with",
        "was",
        "at",
        "for",
        "in",
        "on",
        "to",
        "after",
        "during",
        "before",
        "while",
        "this",
        "that",
        "from",
        "by",
        "as",
    ] * 60
    return sorted(made) + common


VOCABULARY = _vocabulary()


@dataclass(frozen=True)
class Made:
    """A row's contents before they are words: two visits, a free remark, and what of the first visit is the answer."""

    visits: list[Visit]
    remark: str
    answer: list[int]
    wording: list[int]
    taste: int
    """Which wording of each frame and, by seed, which synonyms its author likes."""


def original(number: int, seed: int) -> Made:
    """Row `number`, a function of number and seed."""
    rng = random.Random(f"{seed} {number}")
    visits = [(slots(rng), rng.sample(range(len(FRAMES)), rng.randint(9, 13))) for _ in range(2)]
    wording = [rng.randrange(len(frame)) for frame in FRAMES]
    return Made(visits, filler(rng, rng.randint(15, 30)), visits[0][1][:3], wording, rng.randrange(1000))


def texts(made: Made, rng: random.Random | None = None) -> tuple[str, str]:
    """Input and output of a row as its author writes them; with `rng`, the same in other words and another order."""
    first = f"{story(made, made.visits, rng)} {made.remark}"
    second = story(made, [(made.visits[0][0], made.answer)], rng)
    taste = TASTES[rng.randrange(1000) if rng else made.taste]
    return _synonyms(first, taste), _synonyms(second, taste)


def _synonyms(text: str, taste: dict[str, str]) -> str:
    return " ".join(taste.get(word, word) for word in text.split(" "))


TASTES = [
    {word: other for word, other in SYNONYMS.items() if random.Random(f"{word} {taste}").random() < 0.5}
    for taste in range(1000)
]


def edit(text: str, share: float, rng: random.Random) -> str:
    """A share of the words replaced; never one that carries a number, a negation, a side or a drug."""
    words = text.split(" ")
    free = [
        place
        for place, word in enumerate(words)
        if word.strip(".,;:").lower() not in CRITICAL and word.strip(".,").isalpha()
    ]
    for place in rng.sample(free, max(1, round(share * len(words)))):
        words[place] = rng.choice(VOCABULARY)
    return " ".join(words)


def change(made: Made, kind: str, rng: random.Random) -> Made | None:
    """The facts with one of them altered, one that the row does say; None where it says none of that kind."""
    place = rng.randrange(len(made.visits))
    said, chosen = dict(made.visits[place][0]), set(made.visits[place][1])
    if kind == "side" and chosen & {5, 7}:
        name = "side" if 5 in chosen else "side2"
        said[name] = "left" if said[name] == "right" else "right"
    elif kind == "number" and 3 in chosen:
        said["n2"] = said["n2"] + 5
    elif kind == "drug" and 14 in chosen:
        said["d3"] = rng.choice([drug for drug in DRUGS if drug not in said.values()])
    else:
        return None
    visits = [(said, visit[1]) if number == place else visit for number, visit in enumerate(made.visits)]
    return replace(made, visits=visits)


def planted(kind: str, made: Made, rng: random.Random) -> tuple[str, str] | None:
    """Input and output of a copy or a near-miss of a row; None where the row does not lend itself."""
    first, second = texts(made)
    if kind == "case":
        return first.upper().replace(". ", " ;  ").replace(",", " -- "), second.lower().replace(". ", " ! ")
    if kind.startswith("near"):
        share = float(kind.split()[1]) / 100
        return edit(first, share, rng), edit(second, share, rng)
    if kind == "paraphrase":
        return texts(made, rng)
    wording = rng if rng.random() < 0.5 else None
    if kind == "negation":
        if not any(4 in chosen for _, chosen in made.visits):
            return None
        first, second = texts(made, wording)
        for old, new in (("There is no ", "There is "), ("is without", "is positive for"), ("denies", "confirms")):
            first, second = first.replace(old, new), second.replace(old, new)
        return first, second
    changed = change(made, kind, rng)
    return None if changed is None else texts(changed, wording)


def benchmark_items(count: int, seed: int) -> list[dict[str, str]]:
    """Test items of another pool of rows: a long note and a short question."""
    items = []
    for number in range(count):
        rng = random.Random(f"benchmark {seed} {number}")
        items.append({"note": filler(rng, 80), "question": filler(rng, 12)})
    return items


def write_rows(
    folder: Path, count: int, seed: int, part_rows: int = 50_000, rows: Iterator[dict[str, Any]] | None = None
) -> dict[str, int]:
    """Write instructions/, ledger/, scores.jsonl, benchmark/ and truth.jsonl; return how many of each kind.

    `rows`: other rows than this file's, in the same shape.
    """
    items = benchmark_items(2000, seed)
    (folder / "benchmark").mkdir(parents=True)
    with (folder / "benchmark" / "test.jsonl").open("w") as file:
        file.writelines(json.dumps(item) + "\n" for item in items)
    for name in ("instructions", "ledger"):
        (folder / name).mkdir()
    counts: dict[str, int] = {}
    files: list[Any] = []
    with (folder / "truth.jsonl").open("w") as truth, (folder / "scores.jsonl").open("w") as scores:
        for place, row in enumerate(rows or _rows(count, seed, items)):
            if place % part_rows == 0:
                for file in files:
                    file.close()
                name = f"part-{place // part_rows:05}.jsonl"
                files = [(folder / kind / name).open("w") for kind in ("instructions", "ledger")]
            plant = row.pop("planted")
            quality = row.pop("quality")
            files[0].write(json.dumps(row) + "\n")
            record = {
                "id": row["id"],
                "call_id": row["instruction_id"],
                "number": place,
                "status": "accepted",
                "teacher": "made",
                "seed": seed,
            }
            files[1].write(json.dumps(record) + "\n")
            means = dict.fromkeys(("quality", "alignment", "coherence", "realism", "difficulty"), quality)
            scores.write(json.dumps({"instruction_id": row["instruction_id"], "mean": means}) + "\n")
            if plant:
                truth.write(json.dumps({"id": row["id"], **plant}) + "\n")
                counts[plant["kind"]] = counts.get(plant["kind"], 0) + 1
    for file in files:
        file.close()
    return counts


def _rows(count: int, seed: int, items: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"plan {seed}")
    kinds = list(KINDS) + list(MISSES)
    weights = [*KINDS.values(), *MISSES.values()]
    share = sum(weights)
    plain: list[int] = []  # rows that copy nothing, of which copies may be made
    for number in range(count):
        kind = rng.choices(kinds, weights)[0] if number > 100 and rng.random() < share else ""
        of = rng.choice(plain) if kind else number
        one = original(of, seed)
        made = texts(one) if not kind or kind.startswith("leak") else planted(kind, one, rng)
        if kind in MISSES and made is not None:
            # Two near-misses of one row may be the same in other words.
            plain.remove(of)
        if made is None:
            kind, of = "", number
            one = original(number, seed)
            made = texts(one)
        first, second = made
        if kind.startswith("leak"):
            one = original(number, seed)
            first, second = texts(one)
            item = items[rng.randrange(len(items))]
            if kind == "leak 13-gram":
                words = item["note"].split()
                start = rng.randrange(len(words) - 13)
                first += " " + " ".join(words[start : start + 13])
            else:
                # A short item word for word, a long one with some words changed.
                first += " " + (item["question"].upper() if rng.random() < 0.5 else edit(item["note"], 0.05, rng))
        # Copies are judged lower than what they copy, so that it is they that must go.
        if not kind:
            plain.append(number)
        quality = round(rng.uniform(1, 1.9), 2) if kind else round(rng.uniform(2, 4), 2)
        about = random.Random(f"cell {seed} {number if kind.startswith('leak') or not kind else of}")
        yield {
            "id": f"{number:016x}",
            "instruction_id": f"i{number}",
            "instruction": about.choice(INSTRUCTIONS),
            "input": first,
            "output": second,
            "task_type": about.choice(TASKS),
            "input_data": about.choice(DOCUMENTS),
            "output_format": "plain_text",
            "difficulty_level": about.choice(LEVELS),
            "call_id": "c",
            "teacher": "made",
            "checked": 0,
            "contradicted": 0,
            "quality": quality,
            "planted": {"kind": kind, "of": f"{of:016x}"} if kind else None,
        }
