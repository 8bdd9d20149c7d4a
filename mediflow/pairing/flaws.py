"""Flaws brought into an answer by rule: pure functions of a text and a seeded generator, None where a rule has no hold.

Each changes one clinical meaning (a number, a negation, a side, a drug, a code) or leaves one part out, and nothing
else. A JSON answer stays JSON: only its values are touched, never its keys or layout.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mediflow.vocabulary.drugs import confusable_drugs, confused_drugs
from medsmith.errors import UserError

Rule = Callable[[str, random.Random], str | None]

# A number that is a value: no part of a word, code (E11.9), date part, or list label ("2." or "2)" at a line's start).
NUMBER = re.compile(r"(?<![\w.,/-])(?!\d+[.)](?:\s|$))\d{1,4}(?:\.\d+)?(?![\w-]|\.\d|,\d)")
CODE = re.compile(r"\b[A-TV-Z]\d[0-9A-Z](?:\.[0-9A-Z]{1,4})?\b")
# "left" that is no side: the verb ("left the hospital") and "right" that is none ("right away", "all right").
SIDE = re.compile(
    r"\b(left|right)\b(?![ -](?:the|a|against|without|after|before|to|for|his|her|their|home|away|now|after|before)\b)"
    r"|\b(L|R)(?=(?:UL|LL|UQ|LQ)\b)|\b(bilateral)\b",
    re.I,
)
NOT_A_SIDE = re.compile(r"\b(?:all|was|is|be|been|has|have|had|he|she|they|patient)\s$", re.I)
# Pairs that turn a finding into its opposite; both ways. The longer ones come first.
OPPOSITES = (
    ("there is no evidence of", "there is evidence of"),
    ("no evidence of", "evidence of"),
    ("no signs of", "signs of"),
    ("does not have", "has"),
    ("negative for", "positive for"),
    ("there is no", "there is"),
    ("there are no", "there are"),
    ("is not", "is"),
    ("was not", "was"),
    ("did not", "did"),
    ("denies", "reports"),
    ("denied", "reported"),
    ("without", "with"),
    ("negative", "positive"),
    ("absent", "present"),
    ("improved", "worsened"),
    ("increased", "decreased"),
    ("elevated", "reduced"),
    ("normal", "abnormal"),
    ("unremarkable", "abnormal"),
    ("stable", "unstable"),
    ("ENTAILMENT", "CONTRADICTION"),
    ("yes", "no"),
)
# These say the opposite only when they gain their negation, not when they lose a common word.
ONE_WAY = {"has", "there is", "there are", "is", "was", "did", "with", "evidence of", "abnormal", "no", "yes"}


def change_number(text: str, rng: random.Random) -> str | None:
    """Another value for one number: half, double, ten times, or near by; with as many decimals as before."""
    found = list(NUMBER.finditer(text))
    if not found:
        return None
    match = rng.choice(found)
    decimals = len(match[0].partition(".")[2])
    value = float(match[0])
    near = max(1.0, round(value * 0.2, 0)) if decimals == 0 else max(10**-decimals, round(value * 0.2, decimals))
    choices = [value * 2, value * 10, value + near, *([value / 2] if value >= 2 else []), max(0.0, value - near)]
    written = [f"{choice:.{decimals}f}" for choice in choices]
    others = [one for one in written if float(one) != value]
    return _replace(text, match, rng.choice(others))


def flip_negation(text: str, rng: random.Random) -> str | None:
    """The opposite of one finding: `denies fever` becomes `reports fever`; a bare yes becomes no."""
    spans: list[tuple[re.Match[str], str]] = []
    for negative, positive in OPPOSITES:
        for word, other in ((negative, positive), (positive, negative)):
            if word in ONE_WAY and text.strip().rstrip(".").casefold() != word:
                continue
            # "(normal 4 to 11)" and "normal range" name a reference, they find nothing.
            pattern = rf"\b{re.escape(word)}\b(?! (?:range|values?|limits|\d))"
            spans += [(match, other) for match in re.finditer(pattern, text, re.I)]
    if not spans:
        return None
    # "no evidence of" must not be seen a second time within "there is no evidence of".
    outer = [one for one in spans if not any(_inside(one[0], other[0]) for other in spans)]
    match, other = rng.choice(outer)
    return _replace(text, match, _like(match[0], other))


def swap_side(text: str, rng: random.Random) -> str | None:
    """Left for right and right for left; one side for both."""
    found = [match for match in SIDE.finditer(text) if not NOT_A_SIDE.search(text[: match.start()])]
    if not found:
        return None
    match = rng.choice(found)
    side = match[0].casefold()
    other = {"left": "right", "right": "left", "l": "r", "r": "l"}.get(side) or rng.choice(["left", "right"])
    return _replace(text, match, _like(match[0], other))


def swap_drug(text: str, rng: random.Random) -> str | None:
    """Another drug of the same kind for one drug, everywhere in the text."""
    found = sorted({match[0].casefold() for match in _drug_pattern().finditer(text)})
    if not found:
        return None
    name = rng.choice(found)
    others = sorted({drug for row in confused_drugs() if name in row for drug in row} - {name} - set(found))
    if not others:
        return None
    other = rng.choice(others)
    return re.sub(rf"\b{name}\b", lambda match: _like(match[0], other), text, flags=re.I)


def swap_code(text: str, rng: random.Random) -> str | None:
    """A sibling from the ICD-10-CM tree for one code, everywhere in the text."""
    candidates = [match[0] for match in CODE.finditer(text)]
    codes = sorted({code for code in candidates if _table().is_valid_item(code)}) if candidates else []
    if not codes:
        return None
    code = rng.choice(codes)
    family = _table().get_children(_table().get_parent(code))
    siblings = sorted({one for one in family if _table().is_leaf(one) == _table().is_leaf(code)} - set(codes))
    if not siblings:
        return None
    other = rng.choice(siblings)
    return re.sub(rf"\b{re.escape(code)}\b(?!\.\w)", other, text)


def omit_part(text: str, rng: random.Random) -> str | None:
    """One sentence, line or list item less, where there are at least two."""
    for pattern in (r"\n+", r"(?<=[.!?])\s+(?=[A-Z0-9])", r";\s*", r",\s+(?!and\b|or\b)"):
        parts = re.split(f"({pattern})", text.strip())
        pieces, seams = parts[::2], parts[1::2]
        if len(pieces) < 2 or not all(piece.strip() for piece in pieces):
            continue
        # A comma in prose joins clauses; in a list of short items it parts them.
        if pattern.startswith(",") and max(len(piece.split()) for piece in pieces) > 6:
            continue
        gone = rng.randrange(len(pieces))
        seam = gone if gone < len(seams) else gone - 1
        return "".join(part for number, part in enumerate(parts) if number not in (2 * gone, 2 * seam + 1))
    return None


RULES: dict[str, Rule] = {
    "rule_number": change_number,
    "rule_negation": flip_negation,
    "rule_side": swap_side,
    "rule_drug": swap_drug,
    "rule_code": swap_code,
    "rule_omission": omit_part,
}


def apply_rule(name: str, text: str, rng: random.Random) -> str | None:
    """The flawed text, different from `text`, or None; JSON with an object or a list stays JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict | list):
        changed = _omit_item(value, text, rng) if name == "rule_omission" else _change_value(RULES[name], text, rng)
    else:
        changed = RULES[name](text, rng)
    return changed if changed and changed.strip() != text.strip() else None


def _change_value(rule: Rule, text: str, rng: random.Random) -> str | None:
    """Apply the rule to one value of a JSON text, in place, so that its layout stays."""
    changed = []
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"(?!\s*:)|-?\d+(?:\.\d+)?(?=\s*[,\]}])', _without_keys(text)):
        quoted = match[0].startswith('"')
        inner = str(json.loads(match[0])) if quoted else match[0]
        other = rule(inner, rng)
        if other and other != inner:
            changed.append((match, json.dumps(other, ensure_ascii=False) if quoted else other))
    if not changed:
        return None
    match, other = rng.choice(changed)
    return _replace(text, match, other)


def _without_keys(text: str) -> str:
    """The text with every key blanked out, at the same places; a string is a key where a colon follows."""
    strings = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?')
    return strings.sub(lambda match: " " * len(match[0]) if match[1] else match[0], text)


def _omit_item(value: Any, text: str, rng: random.Random) -> str | None:
    """One item less in one list; without any list of two, one sentence less in one value."""
    lists = [one for one in _lists(value) if len(one) > 1]
    if not lists:
        return _change_value(omit_part, text, rng)
    chosen = rng.choice(lists)
    del chosen[rng.randrange(len(chosen))]
    indent = re.search(r"\n( +)", text)
    return json.dumps(value, ensure_ascii=False, indent=len(indent[1]) if indent else None)


def _lists(value: Any) -> list[list[Any]]:
    if isinstance(value, list):
        return [value, *(inner for item in value for inner in _lists(item))]
    return [inner for item in value.values() for inner in _lists(item)] if isinstance(value, dict) else []


def _replace(text: str, match: re.Match[str], other: str) -> str:
    return text[: match.start()] + other + text[match.end() :]


def _inside(one: re.Match[str], other: re.Match[str]) -> bool:
    wider = other.end() - other.start() > one.end() - one.start()
    return wider and other.start() <= one.start() and one.end() <= other.end()


def _like(model: str, text: str) -> str:
    """`text` in the case of `model`."""
    if model.isupper():
        return text.upper()
    if model.islower():
        return text.casefold()
    return text[0].upper() + text[1:].casefold()


@cache
def load_error_types() -> dict[str, str]:
    """Name and definition of the error types that a teacher is asked for."""
    return {name: " ".join(text.split()) for name, text in _data()["types"].items()}


@cache
def _data() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parent / "errors.yml").read_text(encoding="utf-8")))


@cache
def _drug_pattern() -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(confusable_drugs()) + r")\b", re.I)


@cache
def _table() -> Any:
    try:
        import simple_icd_10_cm
    except ImportError:
        raise UserError("swapping ICD-10-CM codes needs simple-icd-10-cm; pip install 'medsmith[train]'") from None
    return simple_icd_10_cm
