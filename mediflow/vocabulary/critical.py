"""What two texts may not differ in if they are to say the same: numbers, negations, sides, directions, drugs.

Likeness of words is blind to it: "no left effusion, 5 mg" and "left effusion, 50 mg" share nearly all their words.
`critical_keys` folds these words of a text into one number (equal for equal multisets, in any order), so that millions
of rows are compared at the cost of an integer; `agree` reads the two texts of a pair once more and looks at what each
number stands beside and what each negation denies.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import lru_cache

import numpy as np

from mediflow.vocabulary.drugs import known_drugs
from medsmith.shingles import (
    LEADING_MARK,
    TRAILING_MARK,
    Hashes,
    Lookup,
    Words,
    hash_words,
    mix,
    split_words,
    sums,
)

# One line a concept; the words of a line are taken for the same. A paraphrase may change the word, not the concept.
CONCEPTS = {
    "negation": "no not without denies denied deny denying negative never none neither nor absent cannot absence "
    "isn aren wasn weren doesn don didn hasn haven hadn couldn",
    "left": "left",
    "right": "right",
    "both sides": "bilateral bilaterally",
    "up": "increased increase increases increasing elevated elevation raised rising rise higher",
    "down": "decreased decrease decreases decreasing reduced reduction lowered lower fell falling decline declined",
    "acute": "acute acutely",
    "chronic": "chronic chronically longstanding",
    "mild": "mild mildly slight slightly",
    "moderate": "moderate moderately",
    "severe": "severe severely",
    "worse": "worsened worsening worse deteriorated deterioration",
    "stop": "stopped stop stopping discontinued discontinue ceased held withheld",
    "male": "male man boy gentleman",
    "female": "female woman girl lady",
}
SMALL = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
)
NUMBERS = {word: str(number) for number, word in enumerate(SMALL.split(), 2)} | {
    "nineteen": "19", "twenty": "20", "bid": "2", "twice": "2", "tid": "3", "thrice": "3", "qid": "4",
}  # fmt: skip
# Stems of international non-proprietary names; drugs.yml has names without one.
STEMS = re.compile(
    r"\w{2,}(?:pril|prilat|sartan|olol|alol|dipine|statin|fibrate|prazole|tidine|gliptin|gliflozin|glutide|glitazone"
    r"|formin|glinide|xaban|gatran|parin|grel|cillin|penem|mycin|micin|floxacin|cycline|oxacin|azole|navir|vudine"
    r"|ciclovir|cyclovir|vir|mab|tinib|ciclib|platin|rubicin|taxel|azepam|azolam|barbital|setron|triptan|oxetine"
    r"|traline|pram|triptyline|pramine|peridol|apine|idone|piprazole|lukast|terol|tropium|sone|solone|onide|profen"
    r"|coxib|codone|morphone|fentanil|thiazide|semide|tanide|lactone|xanthine|phylline|setil|limus|trexate|purinol"
    r"|dronate|caine|curonium|levir|amivir|cef\w+|thyroxine|thiouracil|imazole|gabalin|gabapentin)\Z|cef\w{3,}\Z"
)
# A number with another unit is another number. The words of a line are one unit; "mmol/L" is two.
UNITS = {
    word: words.split()[0]
    for words in (
        "hour hours h hr hrs", "day days d", "week weeks wk wks", "month months mo", "minute minutes min",
        "second seconds", "year years yr yrs y", "mg milligram milligrams", "mcg microgram micrograms ug \u03bcg",
        "g gram grams", "ng", "pg", "kg kilogram kilograms", "ml milliliter milliliters millilitre millilitres",
        "l liter liters litre litres", "dl", "mmol", "umol \u03bcmol", "nmol", "pmol", "meq", "iu", "units unit", "mm",
        "cm",
    )
    for word in words.split()
}  # fmt: skip
# How often something is taken, where no number says it.
FREQUENCIES = {
    name: re.compile(rf"\b(?:{pattern})\b")
    for name, pattern in {
        "day": r"daily|(?:a|per|every|each) day|qd",
        "week": r"weekly|(?:a|per|every|each) week",
        "month": r"monthly|(?:a|per|every|each) month",
        "night": r"nightly|bedtime|(?:at|every|each) night|qhs",
        "morning": r"(?:in the|every|each) morning|qam",
        "evening": r"(?:in the|every|each) evening|qpm",
        "other day": r"every other day|alternate days|qod",
        "meals": r"(?:with|before|after|at) (?:each |every )?meals?",
    }.items()
}
_CONCEPT_OF = {word: concept for concept, words in CONCEPTS.items() for word in words.split()}
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)*")
_CODE = re.compile(r"[a-z]{1,3}\d")
_SIGNED = re.compile(r"\D+[-+]\Z")
_BARE = {ord(LEADING_MARK): None, ord(TRAILING_MARK): None}
_CLAUSE = re.compile(r"[.;:!?](?=\s|\Z)|\n|\bbut\b")
_LINKS = frozenset(re.findall(r"\w+", "the and was were had has are been who with that this its for from into per not"))
_ENDS_SCOPE = frozenset(re.findall(r"\w+", "on in at with of for since during by from after before while because if"))
BEFORE = 3
"""Words before a number among which the one that it belongs to is looked for."""
SCOPE = 4
"""Words after a negation that it is taken to deny."""


def concept_of(word: str) -> str | None:
    """What a word of `split_words` says that must not change; None for a word that may."""
    if word in NUMBERS:
        return NUMBERS[word]
    if found := _NUMBER.match(word):
        return _canonical(found[0])
    if word in _CONCEPT_OF:
        return _CONCEPT_OF[word]
    if _CODE.match(word) or _SIGNED.match(word) or word in "<>":
        return f"sign {word}"
    return f"drug {word}" if word in known_drugs() or STEMS.match(word) else None


def critical_keys(words: Words) -> tuple[Hashes, np.ndarray]:
    """For each text a number that is equal for equal multisets of concepts, and how many concepts it has."""
    distinct = words.text.unique()
    named = [(place, code) for place, word in enumerate(distinct.to_list()) if (code := _code(word))]
    if not named:
        nothing = np.zeros(len(words), dtype=np.uint64)
        return nothing, nothing.astype(np.int32)
    hashes = hash_words(distinct.gather([place for place, _ in named]))
    order = np.argsort(hashes)
    codes = np.array([code for _, code in named], dtype=np.uint64)[order]
    places, at = Lookup(hashes[order]).find(words.hashes)
    values = np.zeros(len(words.hashes), dtype=np.uint64)
    values[places] = codes[at]
    met = np.zeros(len(words.hashes), dtype=np.uint64)
    met[places] = 1
    counts = sums(met, words.offsets)
    return mix(sums(values, words.offsets) ^ mix(counts)), counts.astype(np.int32)


def says_the_same(left: str, right: str) -> bool:
    """Whether two texts that look alike differ in nothing that matters: the guard of generation and of curation."""
    one, other = (Counter(filter(None, map(concept_of, split_words(text)))) for text in (left, right))
    return one == other and agree(left, right)


def agree(left: str, right: str) -> bool:
    """Whether two texts with the same concepts also say them of the same things, as far as words can show.

    Two numbers may not have changed places, nor a number its unit, a side its part or a drug how often it is taken, and
    what one text only denies, the other may not only affirm. Texts that fail this may still mean the same: what
    is in doubt is kept.
    """
    one, other = ([split_words(clause) for clause in _CLAUSE.split(text)] for text in (left, right))
    moved = _moved(_numbers_by_word(one), _numbers_by_word(other))
    if any((there, here) in moved for here, there in moved):
        return False
    if _moved(_sides_by_word(one), _sides_by_word(other)):
        return False
    if _other_units(_units_by_number(one), _units_by_number(other)):
        return False
    often, other_often = _frequencies(left), _frequencies(right)
    if often - other_often and other_often - often:
        return False
    (denied, affirmed), (denied_other, affirmed_other) = _polarity(one), _polarity(other)
    return not (denied & affirmed_other) and not (denied_other & affirmed)


def _moved(one: dict[str, set[str]], other: dict[str, set[str]]) -> set[tuple[str, str]]:
    """For each word that stands by exactly one value in either text, and not by the same: the two values."""
    return {
        (next(iter(values)), next(iter(other[word])))
        for word, values in one.items()
        if len(values) == 1 and len(other.get(word, ())) == 1 and values != other[word]
    }


def _numbers_by_word(clauses: list[list[str]]) -> dict[str, set[str]]:
    """The numbers that each word stands by: the words of content just before a number, and the word after it."""
    found: dict[str, set[str]] = {}
    for words in clauses:
        for place, word in enumerate(words):
            number = NUMBERS.get(word) or ((match := _NUMBER.match(word)) and _canonical(match[0]))
            if number:
                before = [one for one in words[max(0, place - BEFORE) : place] if _has_content(one)]
                for one in (*before, *filter(_has_content, words[place + 1 : place + 2])):
                    found.setdefault(one, set()).add(number)
    return found


def _units_by_number(clauses: list[list[str]]) -> dict[str, set[tuple[str, ...]]]:
    """The units that follow each number at once, one word or two ("mg/dL")."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for words in clauses:
        for place, word in enumerate(words):
            if match := _NUMBER.fullmatch(word):
                unit = [UNITS.get(after) for after in words[place + 1 : place + 3]]
                if unit and unit[0]:
                    known = tuple(one for one in unit if one)
                    found.setdefault(_canonical(match[0]), set()).add(known)
    return found


def _other_units(one: dict[str, set[tuple[str, ...]]], other: dict[str, set[tuple[str, ...]]]) -> bool:
    """Whether each text gives a number a unit that the other does not; a unit may be cut short ("mg" for "mg/dL")."""

    def missing(these: set[tuple[str, ...]], those: set[tuple[str, ...]]) -> bool:
        return any(all(this[: len(that)] != that[: len(this)] for that in those) for this in these)

    return any(
        missing(units, other[number]) and missing(other[number], units)
        for number, units in one.items()
        if number in other
    )


def _frequencies(text: str) -> set[str]:
    lowered = text.lower()
    return {name for name, pattern in FREQUENCIES.items() if pattern.search(lowered)}


def _sides_by_word(clauses: list[list[str]]) -> dict[str, set[str]]:
    """The sides that each word follows at once."""
    found: dict[str, set[str]] = {}
    for words in clauses:
        for word, after in zip(words, words[1:], strict=False):
            if word in ("left", "right") and _has_content(after):
                found.setdefault(after, set()).add(word)
    return found


def _has_content(word: str) -> bool:
    return len(word) > 2 and word not in _LINKS and not word[0].isdigit()


def _polarity(clauses: list[list[str]]) -> tuple[set[str], set[str]]:
    """The words that a text only denies, and those that it only affirms."""
    denied: set[str] = set()
    affirmed: set[str] = set()
    for words in clauses:
        left = 0
        for word in words:
            if _CONCEPT_OF.get(word) == "negation":
                left = SCOPE + 1
            elif word in _ENDS_SCOPE:
                left = 0
            elif len(word) > 3:
                (denied if left > 0 else affirmed).add(word)
            left -= 1
    return denied - affirmed, affirmed - denied


def _canonical(number: str) -> str:
    """`5`, `5.0` and `05` are one number."""
    sign, digits = (number[0], number[1:]) if number[0] in "-+" else ("", number)
    if digits.count(".") == 1:
        digits = digits.rstrip("0").rstrip(".")
    return sign + (digits.lstrip("0") or "0")


@lru_cache(maxsize=1 << 18)
def _code(word: str) -> int:
    concept = concept_of(word.translate(_BARE))
    if concept is None:
        return 0
    return int.from_bytes(hashlib.blake2b(concept.encode(), digest_size=8).digest(), "little") | 1
