"""Amounts, frequencies and durations as clinicians write them, each read into one form that can be compared."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+"
# Each unit: what it measures, and how many of the smallest usual unit one of it is.
_UNITS = {
    "mcg": ("mass", 0.001), "µg": ("mass", 0.001), "μg": ("mass", 0.001), "ug": ("mass", 0.001),
    "microgram": ("mass", 0.001), "micrograms": ("mass", 0.001), "mg": ("mass", 1.0), "mgs": ("mass", 1.0),
    "milligram": ("mass", 1.0), "milligrams": ("mass", 1.0), "g": ("mass", 1000.0), "gm": ("mass", 1000.0),
    "gram": ("mass", 1000.0), "grams": ("mass", 1000.0), "ml": ("volume", 1.0), "milliliter": ("volume", 1.0),
    "milliliters": ("volume", 1.0), "millilitres": ("volume", 1.0), "unit": ("units", 1.0), "units": ("units", 1.0),
    "iu": ("units", 1.0), "%": ("share", 1.0),
}  # fmt: skip
# mg/dL is a concentration and no dose; 5 mg/day would be compared with a single dose.
AMOUNT = re.compile(
    rf"(?<![\w.,/])({_NUMBER})[\s-]*({'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})(?![\w/])", re.I
)

FREQUENCY = re.compile(
    r"(?P<weekly>\b(?:once (?:a|per|each|every) week|once weekly|every week|weekly)\b)"
    r"|(?P<four>\b(?:four times (?:daily|(?:a|per|each) day)|q\.?i\.?d\b\.?|(?:every|q) ?(?:6|six) ?(?:hours|h)\b))"
    r"|(?P<three>\b(?:(?:three|3) times (?:daily|(?:a|per|each) day)|thrice (?:daily|a day)|t\.?i\.?d\b\.?"
    r"|(?:every|q) ?(?:8|eight) ?(?:hours|hrs|h)\b|(?:8|eight)[- ]hourly))"
    r"|(?P<twice>\b(?:twice (?:daily|(?:a|per|each|every) day)|(?:two|2) times (?:daily|(?:a|per|each) day)"
    r"|b\.?i\.?d\b\.?|(?:every|q) ?(?:12|twelve) ?(?:hours|hrs|h)\b|(?:12|twelve)[- ]hourly"
    r"|(?:in the )?morning and (?:in the )?evening))"
    r"|(?P<bedtime>\b(?:at bed ?time|before (?:bed|sleep)(?:time)?|(?:every|each) night|at night|nightly"
    r"|q\.?h\.?s\b\.?))"
    r"|(?P<once>\b(?:once (?:daily|(?:a|per|each|every) day)|(?:one|1) time (?:daily|(?:a|per|each) day)"
    r"|(?:every|each) (?:day|morning|evening)|in the (?:morning|evening)|q\.?d\b\.?|every (?:24|twenty-four) hours"
    r"|q ?24 ?h|daily(?! (?:dose|total|living|life|activit))))",
    re.I,
)
"""The name of the group that matched is the frequency."""

_WORDS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
# "3 wks", "x5d", "2w": the short units only after figures.
DURATION = re.compile(
    rf"(?<![\w./-])(?:(?:x ?)?(\d{{1,3}})[\s-]*(wk|mo|d(?!/)|w(?!/))s?\b(?![\s-]+old)"
    rf"|(\d{{1,3}}|{'|'.join(_WORDS)})[\s-]+(day|week|fortnight|month)s?\b(?![\s-]+old))",
    re.I,
)
_DAYS = {"day": 1, "week": 7, "fortnight": 14, "month": 30}
_SHORT = {"wk": "week", "w": "week", "mo": "month", "d": "day"}
NUMBER = re.compile(rf"(?<![\w./-])({_NUMBER})(?![\w-]|/\d|\.\d|,\d)")


class Amount(NamedTuple):
    """A number with a unit, and the same in the smallest usual unit of its dimension."""

    number: float
    unit: str
    dimension: str
    base: float


class Duration(NamedTuple):
    """A length of time; `unit` is the one it was given in."""

    days: int
    unit: str


def to_number(text: str) -> float:
    """`1,000.5` → 1000.5."""
    return float(text.replace(",", ""))


@lru_cache(maxsize=4096)
def to_amount(number: str, unit: str) -> Amount | None:
    """None for a unit that is not known."""
    known = _UNITS.get(unit.lower())
    return Amount(to_number(number), unit.lower(), known[0], to_number(number) * known[1]) if known else None


def find_amounts(text: str) -> list[tuple[Amount, int, int]]:
    """The amounts of a text with their places."""
    found = []
    for match in AMOUNT.finditer(text):
        amount = to_amount(match[1], match[2])
        if amount is not None:
            found.append((amount, match.start(), match.end()))
    return found


def find_frequencies(text: str) -> list[str]:
    """weekly, once, twice, three, four (times a day) or bedtime, in the order of the text."""
    return [match.lastgroup for match in FREQUENCY.finditer(text) if match.lastgroup]


def find_durations(text: str) -> list[tuple[Duration, int, int]]:
    """Lengths of time in days, weeks and months with their places; a month counts as 30 days."""
    found = []
    for match in DURATION.finditer(text):
        number = match[1] or match[3]
        unit = _SHORT[match[2].lower()] if match[2] else match[4].lower()
        days = int(_WORDS.get(number.lower(), 0) or number) * _DAYS[unit]
        found.append((Duration(days, unit), match.start(), match.end()))
    return found


def is_near(one: float, other: float) -> bool:
    """Equal but for rounding in a conversion."""
    return abs(one - other) <= 0.005 * max(abs(one), abs(other))


def is_rounded(said: str, true: float) -> bool:
    """Whether the figure as written is the true value, rounded to as many decimals as it has."""
    decimals = len(said.partition(".")[2])
    if not decimals and true < 10:
        return to_number(said) == true  # 1 is not 0.6
    return abs(to_number(said) - true) <= 0.5 * 0.1**decimals + 1e-9
