"""Why a row is not fit to train on, seen from the row alone. Pure: a row in, a reason and its detail (or None) out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medsmith.config import Block
from medsmith.records import Instruction
from medsmith.replies import REFUSAL, is_refusal
from medsmith.shingles import Lookup, Words, hash_words, ngrams, split_words, sums


class Finding(NamedTuple):
    """A reason, one word of a closed list, and what exactly was met; never the private text itself."""

    reason: str
    detail: str


# Made for US identifiers, as in Safe Harbor; what looks like one is dropped, invented or not: a model must not learn
# to write them.
PRIVATE = {
    "ssn": re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
    "phone": re.compile(
        r"(?<![\w.-])(?:\+?1[-. ]?)?(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w-])|\+\d{1,3}[ -]\d[\d -]{7,12}\d"
    ),
    "email": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}"),
    "mrn": re.compile(
        r"\b(?:MRN|medical record (?:number|no\.?|#))\s*(?:is|[:#=])*\s*[A-Z]{0,3}-?\d{5,}", re.IGNORECASE
    ),
}
MARKUP = re.compile(r"</?(?:instruction|examples?|input|output)>|\{\{\s*\w+\s*\}\}|<\|\w+\|>")
# Frequent function words that are no English words, no usual clinical abbreviation and no part of an eponym.
FOREIGN = frozenset(
    re.findall(
        r"\w+",
        "el los las del por con para una que está paciente der das und nicht mit ist ein eine einer wurde les une est "
        "avec dans pour sur il gli della nel uma não com foi het een van niet zijn",
    )
)
ENGLISH = frozenset(
    re.findall(r"\w+", "the of and with was is to for no in on has had not patient are were from this that")
)


class Limits(Block):
    """What a row must keep to. Counts are words as `shingles.split_words` sees them."""

    min_instruction_words: int = Field(3, ge=0, description="shorter instructions are dropped")
    min_input_words: int = Field(3, ge=0, description="shorter inputs are dropped")
    min_output_words: int = Field(1, ge=0, description="shorter outputs are dropped; labels are one word")
    max_instruction_words: int = Field(2000, description="longer instructions are dropped")
    max_input_words: int = Field(4000, description="longer inputs are dropped")
    max_output_words: int = Field(4000, description="longer outputs are dropped")
    max_repetition: float = Field(
        0.5, description="the largest share of a text's 5-word sequences that may repeat an earlier one of the text"
    )
    max_run: int = Field(8, description="the longest run of one word that may occur")
    max_sign_run: int = Field(60, ge=1, description="the longest run of one sign: dots, dashes of a drawn line")
    max_foreign_share: float = Field(
        0.1, description="the largest share of letters beyond Latin and Greek, or of foreign function words"
    )
    echo: bool = Field(True, description="drop rows whose output equals the input or the instruction")
    private: list[Literal["ssn", "phone", "email", "mrn"]] = Field(
        ["ssn", "phone", "email", "mrn"], description="drop what looks private, of these kinds"
    )


def find_fault(row: Instruction, limits: Limits) -> Finding | None:
    """The first fault of a row, or None."""
    parts = {"instruction": row.instruction, "input": row.input, "output": row.output}
    words = {name: split_words(text) for name, text in parts.items()}
    for name, text in parts.items():
        if not text.strip():
            return Finding("empty", name)
        low, high = getattr(limits, f"min_{name}_words"), getattr(limits, f"max_{name}_words")
        if len(words[name]) < low:
            return Finding("too_short", f"{name}: {len(words[name])} words of at least {low}")
        if len(words[name]) > high:
            return Finding("too_long", f"{name}: {len(words[name])} words of at most {high}")
    for name, text in parts.items():
        for kind in limits.private:
            if PRIVATE[kind].search(text):
                return Finding("private", f"{kind} in {name}")
        if found := MARKUP.search(text):
            return Finding("markup", f"{found[0]} in {name}")
    if is_refusal(row.output):
        return Finding("refusal", "output")
    if limits.echo:
        for name in ("input", "instruction"):
            if words["output"] == words[name]:
                return Finding("echo", f"output equals {name}")
    if row.output_format == "json" and not is_json(row.output):
        return Finding("invalid_json", "output")
    return _find_degenerate(parts, words, limits)


def _find_degenerate(parts: dict[str, str], words: dict[str, list[str]], limits: Limits) -> Finding | None:
    for name, text in parts.items():
        share = repeated_share(words[name])
        if share > limits.max_repetition:
            return Finding("repetition", f"{name}: {share:.0%} of its 5-word sequences")
        if longest_run(words[name]) > limits.max_run:
            return Finding("repetition", f"{name}: one word {longest_run(words[name])} times in a row")
        if found := _sign_run(limits.max_sign_run).search(text):
            return Finding("repetition", f"{name}: one sign {len(found[0])} times in a row")
        share = foreign_share(text, words[name])
        if share > limits.max_foreign_share:
            return Finding("foreign", f"{name}: {share:.0%}")
    return None


def repeated_share(words: list[str], size: int = 5) -> float:
    """The share of `size`-word sequences that repeat an earlier one; 0.0 below 30 words, where it says nothing."""
    if len(words) < 30:
        return 0.0
    total = len(words) - size + 1
    return 1 - len({tuple(words[i : i + size]) for i in range(total)}) / total


def longest_run(words: list[str]) -> int:
    """How often one word follows itself at most."""
    longest = run = 0
    previous = None
    for word in words:
        run = run + 1 if word == previous else 1
        longest = max(longest, run)
        previous = word
    return longest


@lru_cache(maxsize=8)
def _sign_run(longest: int) -> re.Pattern[str]:
    return re.compile(rf"([^\w\s])\1{{{longest},}}")


def foreign_share(text: str, words: list[str]) -> float:
    """The larger share of two: letters beyond Latin and Greek, and foreign function words if they outnumber English."""
    letters = [letter for letter in text if letter.isalpha()]
    # Latin with its accents ends at U+024F, Greek (units, mechanisms) at U+03FF.
    beyond = sum(ord(letter) > 0x3FF for letter in letters) / len(letters) if letters else 0.0
    if len(words) < 12:
        return beyond
    counts = Counter(words)
    # Two may be a name ("van der Woude").
    met = FOREIGN & counts.keys()
    foreign = sum(counts[word] for word in met) if len(met) > 2 else 0
    english = sum(counts[word] for word in ENGLISH)
    return max(beyond, foreign / len(words) if foreign > english else 0.0)


def is_json(text: str) -> bool:
    """Is it one JSON value?"""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# Each is a superset of its pattern above, without looking around, for a native engine.
_MAYBE_PRIVATE = r"\d{3}-\d{2}-\d{4}|\d{3}[-.]\d{4}|\+\d{1,3}[ -]\d|@|(?i:mrn|medical record)"
_MAYBE_MARKUP = r"</?(?:instruction|examples?|input|output)>|\{\{|<\|"
_BEYOND_LATIN = r"[\p{L}&&[^\x{0}-\x{3FF}]]"
_TABLE = 4096


def may_be_faulty(
    texts: Sequence[str], words: Words, output_formats: Sequence[str], limits: Limits
) -> NDArray[np.bool_]:
    """Which rows `find_fault` must look at; all others have no fault. `texts` holds three a row, as `words` does.

    Nearly every row has none: native code and arithmetic on the whole batch say so at a tenth of the cost.
    """
    import polars

    series = polars.Series(texts, dtype=polars.String)
    met = series.str.contains(_MAYBE_PRIVATE) | series.str.contains(_MAYBE_MARKUP) | series.str.contains(_BEYOND_LATIN)
    met |= series.str.contains(rf"[^\w\s]{{{limits.max_sign_run + 1}}}")
    suspect = np.array(met.to_numpy().reshape(-1, 3).any(axis=1))
    counts = words.counts.reshape(-1, 3)
    for place, part in enumerate(("instruction", "input", "output")):
        low, high = max(1, getattr(limits, f"min_{part}_words")), getattr(limits, f"max_{part}_words")
        suspect |= (counts[:, place] < low) | (counts[:, place] > high)
    outputs = series.gather_every(3, 2)
    suspect |= outputs.str.slice(0, 200).str.contains(REFUSAL).to_numpy()
    if limits.echo:
        suspect |= (counts[:, 2] == counts[:, 0]) | (counts[:, 2] == counts[:, 1])
    suspect |= _may_repeat(words, limits).reshape(-1, 3).any(axis=1)
    for number in np.flatnonzero(~suspect).tolist():
        if output_formats[number] == "json" and not _is_surely_json(texts[3 * number + 2]):
            suspect[number] = True
    return suspect


def _may_repeat(words: Words, limits: Limits) -> NDArray[np.bool_]:
    """Texts that may repeat too many sequences, hold one word too often in a row, or be foreign."""
    hashes, offsets, counts = words.hashes, words.offsets, words.counts
    owners = np.repeat(np.arange(len(words)), counts)
    # Different sequences fall into different places of a table or, by chance, into one: the distinct are undercounted.
    grams = ngrams(words, 5, whole_if_shorter=False)
    total = np.diff(grams.offsets)
    long = np.flatnonzero(counts >= 30)
    suspect = np.zeros(len(words), dtype=bool)
    for first in range(0, len(long), 512):
        some = long[first : first + 512]
        table = np.zeros((len(some), _TABLE), dtype=bool)
        row = np.full(len(words), -1)
        row[some] = np.arange(len(some))
        begin, end = grams.offsets[some[0]], grams.offsets[some[-1] + 1]
        rows = np.repeat(row[some[0] : some[-1] + 1], total[some[0] : some[-1] + 1])
        places = grams.hashes[begin:end] & np.uint64(_TABLE - 1)
        table[rows[rows >= 0], places[rows >= 0]] = True
        suspect[some] = 1 - table.sum(axis=1) / total[some] > limits.max_repetition
    same = np.zeros(len(hashes) + 1, dtype=np.uint64)
    if len(hashes):
        np.cumsum((hashes[1:] == hashes[:-1]) & (owners[1:] == owners[:-1]), out=same[1:-1])
        same[-1] = same[-2]
    suspect |= same[np.maximum(offsets[1:] - 1, 0)] - same[offsets[:-1].clip(max=len(hashes))] >= limits.max_run
    foreign = np.zeros(len(hashes), dtype=np.uint64)
    foreign[_foreign().find(hashes)[0]] = 1
    suspect |= sums(foreign, offsets) > 2
    return suspect


@lru_cache(maxsize=1)
def _foreign() -> Lookup:
    import polars

    return Lookup(np.sort(hash_words(polars.Series(sorted(FOREIGN)))))


def _is_surely_json(text: str) -> bool:
    import orjson

    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
