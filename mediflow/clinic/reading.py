"""The simulated reader: answers examination questions by the clinic's knowledge and by what stands in the text.

It sees a question as any reader does, without its key. It reads by rules, so it errs where they do; how often is
measured in the tests, and says nothing of a real model.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from mediflow.clinic.answers import LABELS
from mediflow.clinic.knowledge import Disease, load_knowledge
from medsmith.shingles import split_words

_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z0-9])|\n+")
_NO = {"no", "not", "denies", "without", "never"}
_OPPOSITE = (
    {"left", "right"}, {"high", "low", "normal"}, {"normal", "abnormal"}, {"small", "moderate", "large"},
    {"positive", "negative"}, {"alone", "family"}, {"women", "only"}, {"single", "many"}, {"good", "poor"},
)  # fmt: skip
_COMMON = frozenset(
    split_words("a an and are as at be by for from in is it of on or patient s that the their this to was will with")
)
_LAY = {"signs": "symptoms", "done": "treatments", "often": "dosage", "taken": "dosage", "could": "can"}
SLIP = 0.02
"""How often it errs by chance."""


def choose(request: dict[str, Any], rng: random.Random) -> str:
    """Answer a request of kind choose: {"answer": number of the option, from 1}."""
    options: list[str] = request["options"]
    index = _best(request["context"], request["question"], options)
    if rng.random() < SLIP:
        index = rng.randrange(len(options))
    return json.dumps({"answer": 0 if index is None else index + 1})


def _best(context: str, question: str, options: Sequence[str]) -> int | None:
    if set(options) == set(LABELS):
        return list(options).index(relate(context, question))
    for pattern, fits in KNOWN:
        found = re.search(pattern, question)
        if found:
            right = [number for number, option in enumerate(options) if fits(found.groups(), option)]
            return right[0] if len(right) == 1 else None
    if "main diagnosis" in question:
        return _most(options, lambda option: _named(_coded(option), context) if _coded(option) else 0)
    if "diagnosis" in question or "treat the patient" in question:
        return _most(options, lambda option: _likely(option, context))
    if "problems" in question:
        return _most(options, lambda option: min(_named(_disease(name), context) for name in option.split("; ")))
    if "sums up" in question:
        asked = " ".join(sentence for sentence in _SENTENCE.split(context) if sentence.endswith("?"))
        words = {_LAY.get(word, word) for word in _telling(asked)}
        return _most(options, lambda option: len(_telling(option) & words))
    return _most(options, lambda option: _quoted(option, question, options, context))


def relate(first: str, second: str) -> str:
    """ENTAILMENT, NEUTRAL or CONTRADICTION, by the words that two sentences share and whether both deny."""
    one, two = (_telling(re.sub(r"SENTENCE_\d:", "", text)) for text in (first, second))
    for words in _OPPOSITE:
        if one & words and two & words and not one & two & words:
            return "CONTRADICTION"
    shared = (one & two) - _NO - {"complains", "denies", "has", "have", "takes", "treated", "there"}
    if not shared:
        return "NEUTRAL"
    if bool(one & _NO) != bool(two & _NO):
        return "CONTRADICTION"
    drugs = [d for d in load_knowledge() if any(drug.name in two for drug in d.drugs)]
    if "given" in two and drugs and not _named(drugs[0], second):
        return "CONTRADICTION"
    return "ENTAILMENT"


def _quoted(option: str, question: str, options: Sequence[str], context: str) -> int:
    """How much of the question stands in the sentence that holds the option, and no longer one; 0 where none does."""
    longer = [other for other in options if other != option and _holds(other, option)]
    held = [s for s in _SENTENCE.split(context) if _holds(s, option) and not any(_holds(s, other) for other in longer)]
    return max((1 + len(_telling(question) & _telling(sentence)) for sentence in held), default=0)


def _holds(text: str, part: str) -> bool:
    return f" {' '.join(split_words(part))} " in f" {' '.join(split_words(text))} "


def _likely(option: str, context: str) -> int:
    """How many of its signs the text holds: of a disease, or of the one that a drug is for."""
    disease = _disease(option) or _treated(option)
    if disease is None:
        return 0
    signs = (*disease.symptoms, disease.lab.name, disease.finding or "")
    return sum(bool(sign) and sign.lower() in context.lower() for sign in signs)


def _most(options: Sequence[str], value: Callable[[str], int]) -> int | None:
    """The one option of the highest value; None for a tie or where all are worth nothing."""
    values = [value(option) for option in options]
    best = max(values)
    return values.index(best) if best > 0 and values.count(best) == 1 else None


def _named(disease: Disease | None, text: str) -> int:
    if disease is None:
        return 0
    # "IS" is a stroke, "is" is not.
    short = re.search(rf"\b{re.escape(disease.abbreviation)}\b", text)
    return int(bool(short or re.search(rf"\b{re.escape(disease.name)}\b", text, re.IGNORECASE)))


def _disease(name: str) -> Disease | None:
    return next((d for d in load_knowledge() if d.name == name), None)


def _coded(code: str) -> Disease | None:
    return next((d for d in load_knowledge() if d.code == code), None)


def _treated(drug: str) -> Disease | None:
    return next((d for d in load_knowledge() if any(known.name == drug for known in d.drugs)), None)


def _telling(text: str) -> set[str]:
    return set(split_words(text)) - _COMMON


def _is(read: Callable[[Disease], Sequence[str]]) -> Callable[[tuple[str, ...], str], bool]:
    """Whether an option is among what is known of the disease that the question names."""

    def fits(groups: tuple[str, ...], option: str) -> bool:
        disease = _disease(groups[0])
        return disease is not None and option in read(disease)

    return fits


KNOWN: tuple[tuple[str, Callable[[tuple[str, ...], str], bool]], ...] = (
    (r"^Which drug treats (.+)\?$", _is(lambda d: [drug.name for drug in d.drugs])),
    (r"^What is (.+) used for\?$", lambda groups, option: _treated(groups[0]) == _disease(option) is not None),
    (r"^Which is a symptom of (.+)\?$", _is(lambda d: d.symptoms)),
    (r"^What is the ICD-10-CM code of (.+)\?$", _is(lambda d: [d.code])),
    (r"^Which disease has the ICD-10-CM code (.+)\?$", lambda groups, option: _coded(groups[0]) == _disease(option)),
    (r"^Which specialty treats (.+)\?$", _is(lambda d: [d.specialty])),
    (r"^Which laboratory test is used in (.+)\?$", _is(lambda d: [d.lab.name])),
)
"""Questions of the clinic's own books, and whether an option answers them."""
