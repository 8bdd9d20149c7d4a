"""The simulated teacher's flaws: a good answer with one thing wrong, of the kind that is asked for.

A flaw that always took the first fact, raised every figure or opened every text alike would be learned by that mark.
So a wrong fact is any of those that a text states, figures go up and down, and manner is spoilt in many ways.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from mediflow.clinic.answers import LABELS
from mediflow.clinic.knowledge import Disease, load_knowledge
from mediflow.clinic.patients import ALLERGIES, FREQUENCIES, SIDES, SIZES
from mediflow.clinic.rewriting import POINTS

Values = dict[str, tuple[str, ...]]
"""By kind, everything that the clinic can say of it: a wrong value is another one of the same kind."""


class Fact(NamedTuple):
    """A statement at `start` to `end` of a text, and what may stand there in its place."""

    start: int
    end: int
    others: tuple[str, ...]


class About(NamedTuple):
    """What an answer is about: the input that it answers, and what the clinic knows."""

    context: str
    values: Values


def induce_error(request: dict[str, Any], rng: random.Random) -> str:
    """Answer a request of kind induce_error: the output with a flaw of the type; JSON keeps its keys and types."""
    output, kind = request["output"], request["error_type"].lower().replace("-", " ").replace("_", " ")
    about = About(str(request.get("input", "")), _values(load_knowledge()))
    try:
        value = json.loads(output)
    except json.JSONDecodeError:
        return _flaw(output, kind, about, rng)
    if not isinstance(value, dict | list):
        return _flaw(output, kind, about, rng)
    return json.dumps(_flaw_within(value, kind, about, rng), ensure_ascii=False)


def _flaw_within(value: Any, kind: str, about: About, rng: random.Random) -> Any:
    """The same JSON with one leaf made wrong."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        if value[key] == []:
            return value | {key: [rng.choice(list(POINTS) if key == "missing" else about.values["symptom"])]}
        return value | {key: _flaw_within(value[key], kind, about, rng)}
    if isinstance(value, list):
        if len(value) > 1 and any(word in kind for word in ("brevity", "partial", "unbalanced")):
            gone = rng.randrange(len(value))
            return [*value[:gone], *value[gone + 1 :]]
        if not value:
            return [rng.choice(about.values["symptom"])]
        at = rng.randrange(len(value))
        return [*value[:at], _flaw_within(value[at], kind, about, rng), *value[at + 1 :]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return type(value)(_wrong_fact(str(value), about, rng))
    return _flaw(str(value), kind, about, rng)


def _flaw(output: str, kind: str, about: About, rng: random.Random) -> str:
    # A label has no manner: it is right or wrong.
    is_label = any(output.strip() in about.values[name] for name in ("label", "side", "size", "level", "truth"))
    for name, change in CHANGES.items():
        if name in kind and not is_label:
            changed = change(output, rng)
            if changed.strip() and changed.strip().casefold() != output.strip().casefold():
                return changed
    return _wrong_fact(output, about, rng)


def _wrong_fact(text: str, about: About, rng: random.Random) -> str:
    """Another value than the right one for any one of the facts that the text states, wherever it states it."""
    facts = _facts(text, about)
    if not facts:
        return _other_word(text, about.context, rng)
    fact = rng.choice(facts)
    other = rng.choice(fact.others)
    said = text[fact.start : fact.end]
    if re.search(r"\d", said):
        return text[: fact.start] + other + text[fact.end :]
    return re.sub(rf"(?i)\b{re.escape(said)}\b", lambda match: _cased(match[0], other), text)


def _facts(text: str, about: About) -> list[Fact]:
    """What a text states and the teacher can change, in its order; what lies within a longer name is not its own."""
    low = text.casefold()
    found = [
        (match.start(), match.end(), kind)
        for kind, names in about.values.items()
        for match in _pattern(names).finditer(text)
    ]
    figures = [(match.start(), match.end()) for match in FIGURE.finditer(text)]
    named = [(a, b, kind) for a, b, kind in found if not any(c <= a and b <= d and d - c > b - a for c, d, _ in found)]
    facts = []
    for start, end, kind in named:
        others = tuple(other for other in about.values[kind] if other.casefold() not in low)
        if others:
            facts.append(Fact(start, end, others))
    for start, end in figures:
        if not any(a <= start and end <= b for a, b, _ in named):
            facts.append(Fact(start, end, _other_figures(text, text[start:end], about.context)))
    return sorted(facts)


def _other_figures(text: str, figure: str, context: str) -> tuple[str, ...]:
    """Values above and below, as exact as the figure; of a sentence's number, the numbers of the other sentences."""
    sentences = re.findall(r"(?m)^(\d+) ", context)
    if text.strip() == figure and len(sentences) > 1:
        return tuple(number for number in ["-1", *sentences] if number != figure)
    decimals = len(figure.partition(".")[2])
    value = float(figure)
    if decimals == 0 and value <= 10:
        near = [value + step for step in (-3, -2, -1, 1, 2, 3) if value + step >= 1]
    else:
        near = [value * factor for factor in (0.25, 0.5, 0.8, 1.25, 2, 4)]
    written = dict.fromkeys(f"{other:.{decimals}f}" for other in near)
    others = tuple(one for one in written if float(one) != value)
    return others or (f"{value + 10**-decimals:.{decimals}f}",)


def _other_word(text: str, context: str, rng: random.Random) -> str:
    """A word from what was asked about in the place of one of the text's, for what the clinic has no name of."""
    words = list(re.finditer(r"[A-Za-z]{4,}", text)) or list(re.finditer(r"\w+", text))
    known = {word.casefold() for word in re.findall(r"\w+", text)}
    others = sorted({word for word in re.findall(r"[a-z]{5,}", context) if word not in known})
    if not words or not others:
        return f"no {text}"
    word = rng.choice(words)
    return text[: word.start()] + _cased(word[0], rng.choice(others)) + text[word.end() :]


def _cased(model: str, text: str) -> str:
    """`text` with a capital where `model` has one that its name would not."""
    return text[0].upper() + text[1:] if model[0].isupper() and not model.isupper() else text


FIGURE = re.compile(r"(?:(?<![\w.])-)?(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)")


@lru_cache(8)
def _values(known: tuple[Disease, ...]) -> Values:
    return {
        "drug": tuple(drug.name for d in known for drug in d.drugs),
        "disease": tuple(d.name for d in known),
        "code": tuple(d.code for d in known),
        "specialty": tuple(sorted({d.specialty for d in known})),
        "symptom": tuple(sorted({symptom for d in known for symptom in d.symptoms})),
        "test": tuple(sorted({d.lab.name for d in known})),
        "allergy": ALLERGIES,
        "point": tuple(POINTS),
        "label": LABELS,
        "side": SIDES,
        "size": SIZES,
        "frequency": FREQUENCIES,
        "level": ("high", "low", "normal"),
        "truth": ("yes", "no"),
    }


@lru_cache(256)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"(?i)\b(?:{'|'.join(map(re.escape, longest))})\b")


def _swap_letters(text: str, rng: random.Random) -> str:
    """One word misspelt: two letters swapped, one lost or one doubled."""
    words = [word for word in re.finditer(r"[A-Za-z]{5,}", text) if word[0] not in LABELS]
    if not words:
        return text
    word = rng.choice(words)
    at = word.start() + 1 + rng.randrange(len(word[0]) - 3)
    how = rng.randrange(3)
    new = (text[at + 1] + text[at], text[at], text[at] * 2 + text[at + 1])[how]
    return text[:at] + new + text[at + 2 :]


def _wordy(text: str, rng: random.Random) -> str:
    before, after = rng.choice(_manner("wordy"))
    return f"{before}{text}{after}"


def _vague(text: str, rng: random.Random) -> str:
    before, after = rng.choice(_manner("vague"))
    return f"{before}{text}{after}"


def _shorter(text: str, rng: random.Random) -> str:
    """Some words less: the end cut at any place, or a stretch within."""
    words = text.split()
    if len(words) < 2:
        return text
    gone = rng.randint(1, max(1, len(words) // 2))
    start = len(words) - gone if rng.random() < 0.5 else rng.randrange(len(words) - gone + 1)
    return " ".join(words[:start] + words[start + gone :])


def _ungrammatical(text: str, rng: random.Random) -> str:
    """One place: a small word lost, a verb in the wrong number, or two neighbours swapped."""
    changes: list[Callable[[], str]] = []
    small = list(re.finditer(r"\b(?:the|a|an|of|with|for|in|is|was|to)\b ", text))
    if small:
        changes.append(lambda: _cut(text, rng.choice(small)))
    verbs = [match for match in re.finditer(r"\b\w+\b", text) if match[0] in NUMBER_OF_VERBS]
    if verbs:
        changes.append(lambda: _put(text, rng.choice(verbs), NUMBER_OF_VERBS))
    words = text.split()
    if len(words) > 3:
        changes.append(lambda: _neighbours(words, rng.randrange(len(words) - 1)))
    return rng.choice(changes)() if changes else text


NUMBER_OF_VERBS = {"is": "are", "was": "were", "has": "have", "takes": "take", "denies": "deny", "shows": "show"}
COLLOQUIAL = {
    "patient": "guy",
    "treated with": "put on",
    "denies": "says no to",
    "reports": "moans about",
    "daily": "every single day",
    "presents": "shows up",
    "severe": "super bad",
    "because": "'cause",
}


def _colloquial(text: str, rng: random.Random) -> str:
    """Words that no clinician writes, in the text or around it."""
    found = [name for name in COLLOQUIAL if re.search(rf"\b{name}\b", text)]
    if found and rng.random() < 0.4:
        name = rng.choice(found)
        return re.sub(rf"\b{name}\b", COLLOQUIAL[name], text, count=1)
    before, after = rng.choice(_manner("colloquial"))
    return f"{before}{text}{after}"


def _cut(text: str, match: re.Match[str]) -> str:
    return text[: match.start()] + text[match.end() :]


def _put(text: str, match: re.Match[str], words: dict[str, str]) -> str:
    return text[: match.start()] + words[match[0]] + text[match.end() :]


def _neighbours(words: Sequence[str], at: int) -> str:
    return " ".join([*words[:at], words[at + 1], words[at], *words[at + 2 :]])


@cache
def _manner(name: str) -> list[tuple[str, str]]:
    """What may stand around an answer; [before, after]."""
    return {
        "wordy": [
            ("Based on the information above, the answer is as follows: ", ""),
            ("After careful review of everything in the document: ", ""),
            ("It should be said first that this takes some thought. ", ""),
            ("", " This is what the document says, as far as can be seen from reading it."),
            ("", " Again, this is the answer, and it is given here in full."),
            ("To answer the question that was asked: ", " That is all there is to say about it."),
            ("In other words, and to put it plainly: ", ""),
            ("", " This answers the question that was asked above, which should be read with it."),
        ],
        "vague": [
            ("Possibly ", ""),
            ("", ", or something like it"),
            ("It may be ", ""),
            ("", ", though this is not certain"),
            ("Perhaps ", ", perhaps not"),
            ("", " or so"),
            ("One could say ", ""),
            ("", ", depending on how it is read"),
        ],
        "colloquial": [
            ("So yeah, ", ""),
            ("", ", you know"),
            ("Well, ", " I guess"),
            ("", "!!"),
            ("Ok so ", ""),
            ("", ", no big deal"),
            ("Pretty much ", ""),
            ("", " and stuff"),
            ("Looks like ", ""),
            ("", ", for real"),
        ],
    }[name]


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "verbosity": _wordy,
    "brevity": _shorter,
    "partial": _shorter,
    "unbalanced": _shorter,
    "ambiguity": _vague,
    "stylistic": _colloquial,
    "spelling": _swap_letters,
    "grammatical": _ungrammatical,
}
"""How each type of manner and length is made; of every other type, and where one has no hold, a fact is made wrong."""
