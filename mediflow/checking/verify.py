"""Does a text contradict what is known of the patient? Pure, by rule, without a model.

A contradiction is only reported where the text speaks of a fact and says otherwise: another dose, side, age, code, a
symptom denied that is there. What the facts are silent about is unknown, and unknown is no contradiction. What is
asked, feared, considered, or true of a relative states nothing. A text without contradictions may still be wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from mediflow.checking.doubts import is_doubtful
from mediflow.checking.facts import PatientFacts, as_facts
from mediflow.checking.mentions import SENTENCE_END, TOKEN, Concept, Context, Lexicon, Mention, known_names
from medsmith.errors import UserError

KINDS = (
    "dose", "unit", "frequency", "lab_value", "lab_flag", "negation", "side", "size", "drug", "diagnosis", "code",
    "age", "sex", "duration", "vital", "allergy", "social", "date", "follow_up",
)  # fmt: skip


@dataclass(frozen=True)
class Contradiction:
    """One statement that is not so: what the text says, what is true, and the sentence."""

    kind: str
    said: str
    true: str
    where: str


@dataclass(frozen=True)
class Verification:
    """How many statements of the text could be compared with the facts, and those that contradict them."""

    checked: int
    contradicted: list[Contradiction]


@dataclass(slots=True)
class Sentence:
    """One sentence with what it names, and the findings so far."""

    text: str
    low: str
    words: frozenset[str]
    mentions: list[Mention]
    checked: int = 0
    contradicted: list[Contradiction] = field(default_factory=list)

    _context: Context | None = None

    @property
    def context(self) -> Context:
        """What is denied in it and what is left open."""
        if self._context is None:
            self._context = Context(self.low)
        return self._context

    def compare(self, kind: str, agrees: bool, said: object, true: object) -> None:
        """Count one statement that could be compared; one that seems wrong is none where its reading is doubtful."""
        if not agrees and is_doubtful(kind, str(said), str(true), self.text):
            return
        self.checked += 1
        if not agrees:
            self.contradicted.append(Contradiction(kind, str(said), str(true), self.text))

    def asserts(self, mention: Mention) -> bool | None:
        """True: it is so; False: it is not; None: neither is said."""
        if self.context.is_open(mention.start, mention.end):
            return None
        return not self.context.is_denied(mention.start, mention.end)


Rule = Callable[[PatientFacts, Sentence], None]
_DIGIT = re.compile(r"\d")


@cache
def _sort_rules(apply: tuple[tuple[str, Rule], ...]) -> dict[tuple[bool, bool], tuple[Rule, ...]]:
    return {
        (named, figures): tuple(
            rule for needs, rule in apply if (named or needs != "names") and (figures or needs != "figures")
        )
        for named in (False, True)
        for figures in (False, True)
    }


class Verifier:
    """The facts of one patient, ready to be compared with any number of texts."""

    def __init__(self, facts: PatientFacts) -> None:
        from mediflow.checking.verify_rules import RULES

        self.facts = facts
        self.lexicon = Lexicon(_names(facts), known_names())
        self.rules = _sort_rules(tuple((needs, rule) for needs, applies, rule in RULES if applies(facts)))
        """By whether a sentence names anything and whether it holds a figure: the rules that may find something."""

    def verify(self, text: str) -> Verification:
        """Compare one text, prose or JSON."""
        checked = 0
        contradicted: list[Contradiction] = []
        for part in SENTENCE_END.split(as_prose(text)):
            # A question states nothing.
            if len(part) < 4 or part[-1] == "?" or part.rstrip().endswith("?"):
                continue
            low = part.lower()
            if len(low) != len(part):  # a few letters are longer when small, and places would shift
                low = part
            tokens = TOKEN.findall(low) if low is not part else [one.lower() for one in TOKEN.findall(part)]
            mentions = self.lexicon.find(part, tokens)
            sentence = Sentence(part, low, frozenset(tokens), mentions)
            for rule in self.rules[bool(mentions), _DIGIT.search(part) is not None]:
                rule(self.facts, sentence)
            checked += sentence.checked
            contradicted += sentence.contradicted
        return Verification(checked, list(dict.fromkeys(contradicted)))


def verify(facts: dict[str, Any], text: str) -> Verification:
    """Compare a text with the facts of `mediflow.checking.facts`, or with a patient of the simulated clinic.

    The last few hundred patients are kept ready, at 65 kB each.

    Raises:
        UserError: the facts hold an unknown key or a value of another type.
    """
    return verifier(facts).verify(text)


def verifier(facts: dict[str, Any]) -> Verifier:
    """The facts made ready; equal facts are made ready once."""
    return _verifier(_as_bytes(facts))


@lru_cache(maxsize=256)
def _verifier(facts: bytes) -> Verifier:
    try:
        import orjson
    except ImportError:
        return Verifier(as_facts(json.loads(facts)))
    return Verifier(as_facts(orjson.loads(facts)))


def _as_bytes(facts: dict[str, Any]) -> bytes:
    try:
        import orjson
    except ImportError:
        return json.dumps(facts).encode()
    return orjson.dumps(facts)


def _names(facts: PatientFacts) -> Iterator[tuple[str, Concept]]:
    for condition in facts.conditions:
        for name in (condition.name, *condition.aliases):
            yield name, Concept("disease", condition.name.lower())
    for name in (*facts.present, *facts.absent):
        yield name, Concept("symptom", name.lower())
    for medicine in facts.medications:
        yield medicine.drug, Concept("drug", medicine.drug.lower())
    for lab in facts.labs:
        yield lab.name, Concept("lab", lab.name.lower())
    for finding in facts.imaging:
        yield finding.finding, Concept("finding", finding.finding.lower())
    for allergen in facts.allergies:
        yield allergen, Concept("allergen", allergen.lower())


def as_prose(text: str) -> str:
    """JSON as sentences (`drug: metformin, dose: 500 mg.`), other text as it is."""
    if text[:1] not in "{[":
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return "\n".join(_sentences(value))


def _sentences(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _sentences(item)
    elif isinstance(value, dict):
        flat = {key: item for key, item in value.items() if not isinstance(item, dict | list) and item is not None}
        names = {key.lower(): item for key, item in flat.items()}
        disease = next((names[key] for key in ("disease", "condition", "indication", "for") if key in names), None)
        if "drug" in names and disease is not None:
            rest = [
                str(item)
                for key, item in names.items()
                if key not in {"drug", "disease", "condition", "indication", "for"}
            ]
            yield f"{' '.join([str(names['drug']), *rest])} for {disease}."
        elif flat:
            long = any(len(str(item).split()) > 5 for item in flat.values())
            yield ("\n" if long else ", ").join(f"{key.replace('_', ' ')}: {item}" for key, item in flat.items())
        for item in value.values():
            if isinstance(item, dict | list):
                yield from _sentences(item)
    else:
        yield str(value)


# What of an example states something about the patient, by the names used in `asserts:` of a task's YAML.
def _document(input: str, output: str) -> str:
    """The input without its questions, options and second sentences."""
    kept = []
    for line in input.split("\n"):
        start = line.lstrip()
        if not start.startswith(("- ", "QUESTION:", "SENTENCE_2:", "Question:", "HYPOTHESIS:")) and not start.endswith(
            "?"
        ):
            kept.append(line)
    return "\n".join(kept)


def _other_sentences(input: str, output: str) -> str:
    """A numbered input without the sentence that the answer calls wrong."""
    numbers = re.findall(r"-?\d+", output)
    wrong = numbers[0] if numbers else ""
    kept = []
    for line in input.split("\n"):
        number, _, rest = line.partition(" ")
        if number != wrong:
            kept.append(rest if number.isdigit() else line)
    return "\n".join(kept)


_ASKED_AFTER = re.compile(r"(?i)\bhow large\b|\b(?:high|low|normal)(?:(?:, | or |, or )(?:high|low|normal))+\b")


def _answered(input: str, output: str) -> str:
    """The question turned into a statement by its answer: `On which side is the nodule: left`."""
    asked = [line.partition(":")[2] for line in input.split("\n") if line.lstrip().upper().startswith("QUESTION:")]
    answer = as_prose(output).partition("answer: ")[2] or as_prose(output)
    # What a question only asks after ("How large", "high, low or normal") is not said of the patient.
    said = _ASKED_AFTER.sub("", asked[-1]).strip().rstrip("?") if asked else ""
    return f"{said}: {answer}" if asked and len(answer) < 80 else output


PARTS: dict[str, Callable[[str, str], str]] = {
    "input": lambda input, output: input,
    "output": lambda input, output: output,
    "document": _document,
    "other_sentences": _other_sentences,
    "answered": _answered,
}


def verify_example(asserts: Sequence[str], facts: dict[str, Any], input: str, output: str) -> Verification:
    """Compare the parts of an example that state something about the patient; a task's YAML names them (`asserts`).

    Some tasks rightly show what is not so: the second sentence of an entailment, options, planted errors.

    Raises:
        UserError: a part that does not exist.
    """
    ready = verifier(facts)
    checked = 0
    contradicted: list[Contradiction] = []
    for name in asserts:
        if name not in PARTS:
            raise UserError(f"asserts: no part '{name}'; known are {', '.join(PARTS)}")
        found = ready.verify(PARTS[name](input, output))
        checked += found.checked
        contradicted += found.contradicted
    return Verification(checked, list(dict.fromkeys(contradicted)))
