"""Which training texts hold a benchmark's text: a shared 13-word sequence, or most of a (shorter or edited) text.

One screen for curation, corpora, validation sets and evaluation: what they call overlap is counted here. Both counts
are exact: no sampling, no hashing of sets. An edited text is looked for in windows of about its own length, so that it
is seen inside a longer one. How many rows hold a text says nothing: a leaked item may stand in thousands.

Language that several independent benchmarks share ("which of the following is the most likely …") is a template and no
sign of a copied item; it is left out of what is looked for, as is what `templates` names, and the texts that lose a
part so are counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medsmith.blocklists import Blocked, Blocklist, load_blocklists
from medsmith.config import Block
from medsmith.errors import UserError
from medsmith.shingles import Hashes, Lookup, Places, Shingles, Words, count_shared, ngrams, tokenize
from medsmith.template_language import find_template, own_language

SHORT_CONTAINMENT = 0.8
"""The least share for texts of fewer than twice `ngram_words` words, of which a stock phrase is the larger part."""
WINDOW = 1.25
"""Words of the window, for each word of the text that is looked for: room for what an edit puts in."""
SEEN_BEFORE = 3
"""Shingles that a row must share with a text's rarest ones before all are counted."""
FEW_ROWS = 20
"""So many rows may always go: a share of a handful says nothing."""


class Overlap(Block):
    """When a text counts as holding a benchmark's text; the same for curation, corpora and evaluation."""

    min_words: int = Field(8, ge=1, description="benchmark texts with fewer words are no evidence and not looked for")
    ngram_words: int = Field(13, ge=2, description="words of a sequence that tells a copy")
    ngram_share: float = Field(
        0.0, ge=0, le=1, description="the share of a benchmark text's sequences that must be met; 0: one is enough"
    )
    containment: float = Field(
        0.6,
        gt=0,
        le=1,
        description="the share of a benchmark text's shingles, within a window of its length, that tells an edited "
        "copy: 0.6 sees one with every eighth word changed; texts of fewer than twice ngram_words need 0.8",
    )
    shingle_words: int = Field(3, ge=1, description="words in a shingle of `containment`")
    common_benchmarks: int = Field(
        3, ge=2, description="language that so many independent benchmarks share is template, no leak"
    )
    common_documents: int = Field(
        10, ge=1, description="so is what more documents than this of one test set share, where documents are known"
    )
    templates: list[str] = Field([], description="further template language, word for word, that is no leak")


class Decontamination(Overlap):
    """What of the benchmarks is looked for in rows, and how much a step may lose to it."""

    leave_out: list[str] = Field(
        [],
        description="fields that are not looked for, as BENCHMARK:FIELD with * for anything: for a corpus "
        "of codes [icd10cm:option*], since the options are the code table",
    )
    cut_at: str | None = Field(None, description="a pattern from which on a text is not looked for: its options, say")
    most_dropped: float = Field(
        0.05, ge=0, le=1, description="a step that loses a larger share of its rows (and over 20) to blocklists stops"
    )

    def load(self, paths: Sequence[Path]) -> Blocklist:
        """The texts of blocklists that are looked for; none without a path."""
        return load_blocklists(paths, self.min_words, self.leave_out, self.cut_at)


JUDGED_LATER = {"ngram_share", "most_dropped"}
"""Settings that bear on what is made of findings, not on what is found."""


class Hit(NamedTuple):
    """What a training text was found to hold; `similarity` is the share of the benchmark text's shingles in it."""

    blocked: int
    rule: Literal["ngram", "containment"]
    similarity: float


class Contamination(NamedTuple):
    """The hits by number of the text, and how many blocked texts hold template language, by benchmark."""

    hits: dict[int, Hit]
    templates: dict[str, int]


@dataclass(frozen=True)
class Inverted:
    """Distinct hashes in order, and the owners of each in one array with its starts."""

    values: Hashes
    owners: Places
    starts: Places

    @cached_property
    def lookup(self) -> Lookup:
        """The hashes as a set to look others up in."""
        return Lookup(self.values)

    def pairs(self, rows: Places, values: Places) -> tuple[Places, Places, Places]:
        """Of rows that hold the hashes at these places: (row, owner, hashes that both have), each pair once."""
        times = self.starts[values + 1] - self.starts[values]
        ends = np.cumsum(times)
        inner = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - times, times)
        owners = self.owners[np.repeat(self.starts[values], times) + inner]
        width = np.int64(self.owners.max() + 1) if len(self.owners) else np.int64(1)
        both, counts = np.unique(np.repeat(rows, times) * width + owners, return_counts=True)
        return both // width, both % width, counts


class Found(NamedTuple):
    """What a batch of texts shares with the benchmarks, as columns of equal length.

    `sequences` are (text, place of the sequence among the screen's) and `contained` (text, blocked text) with `shares`.
    """

    sequences: tuple[Places, Places]
    contained: tuple[Places, Places]
    shares: NDArray[np.float64]

    def of(self, kept: NDArray[np.bool_]) -> Found:
        """What was found in some of the texts."""
        rows = [kept[self.sequences[0]], kept[self.contained[0]]]
        (a, b), (c, d) = self.sequences, self.contained
        return Found((a[rows[0]], b[rows[0]]), (c[rows[1]], d[rows[1]]), self.shares[rows[1]])


@dataclass(frozen=True)
class Screen:
    """The benchmarks' texts as arrays that any number of batches of rows are held against.

    Sequences: the distinct long n-grams, and the blocked texts that own each. Containment: a row that holds n of a
    text's m shingles misses m-n of them, so it holds k of any m-n+k; the rarest of each blocked text are its `prefix`,
    and nothing else is looked up first. Nothing is lost. `lengths` are the texts' shingles, repeated ones and template
    included; `templates` tells which texts lost a part as template.
    """

    settings: Overlap
    banned: Shingles
    sequences: Inverted
    prefixes: Inverted
    lengths: Places
    templates: NDArray[np.bool_]

    def find(self, words: Words, grams: Shingles | None = None) -> Found:
        """Look for every blocked text in every text; `grams` are the words' shingles in order, if at hand."""
        settings = self.settings
        long = ngrams(words, settings.ngram_words, whole_if_shorter=False)
        sequences = _match(long, self.sequences)
        rows = grams or ngrams(words, settings.shingle_words)
        numbers, owners, counts = self.prefixes.pairs(*_match(rows, self.prefixes))
        likely = counts >= np.minimum(self.needed[owners], SEEN_BEFORE)
        texts, ones, shares = [], [], []
        for number, one in zip(numbers[likely].tolist(), owners[likely].tolist(), strict=True):
            held = _held_within(self.banned.of(one), rows.of(number), int(np.ceil(WINDOW * self.lengths[one])))
            if held >= self.needed[one]:
                texts.append(number)
                ones.append(one)
                shares.append(held / self.sizes[one])
        contained = (np.array(texts, dtype=np.int64), np.array(ones, dtype=np.int64))
        return Found(sequences, contained, np.array(shares, dtype=np.float64))

    @cached_property
    def sizes(self) -> Places:
        """The distinct shingles of each blocked text that are looked for."""
        return np.diff(self.banned.offsets)

    @cached_property
    def needed(self) -> Places:
        """How many of them tell a copy."""
        return _needed(self.sizes, self.lengths, self.settings)

    @cached_property
    def sequence_counts(self) -> Places:
        """The distinct sequences of each blocked text that are looked for."""
        return np.bincount(self.sequences.owners, minlength=len(self.banned))

    @cached_property
    def looked_for(self) -> NDArray[np.bool_]:
        """Of which blocked texts enough is left beside template to tell a copy."""
        return (np.bincount(self.prefixes.owners, minlength=len(self.banned)) + self.sequence_counts) > 0

    def share(self, one: int, shingles: Hashes) -> float:
        """The share of a blocked text's shingles that a text's set of shingles holds."""
        banned = self.banned.of(one)
        return count_shared(banned, shingles) / len(banned) if len(banned) else 0.0

    def save(self, path: Path) -> None:
        """Write to one file, which other processes load."""
        np.savez(
            path,
            hashes=self.banned.hashes,
            offsets=self.banned.offsets,
            lengths=self.lengths,
            templates=self.templates,
            **{f"s_{name}": getattr(self.sequences, name) for name in ("values", "owners", "starts")},
            **{f"p_{name}": getattr(self.prefixes, name) for name in ("values", "owners", "starts")},
        )


def load_screen(path: Path, settings: Overlap) -> Screen:
    """What `Screen.save` wrote."""
    with np.load(path) as held:
        sequences, prefixes = (
            Inverted(*(held[f"{kind}_{name}"] for name in ("values", "owners", "starts"))) for kind in "sp"
        )
        banned = Shingles(held["hashes"], held["offsets"])
        return Screen(settings, banned, sequences, prefixes, held["lengths"], held["templates"])


def build_screen(blocked: Sequence[Blocked], settings: Overlap, sample: Sequence[str] = ()) -> Screen:
    """Index the blocked texts; `sample` are some of the rows, from which it is learnt what shingles are rare."""
    words = tokenize([one.text for one in blocked])
    template = find_template(
        words,
        [one.benchmark for one in blocked],
        [one.document for one in blocked],
        settings.ngram_words,
        settings.common_benchmarks,
        settings.common_documents,
        settings.templates,
    )
    grams = ngrams(words, settings.shingle_words)
    banned = own_language(grams, words, settings.shingle_words, template)
    long = ngrams(words, settings.ngram_words, whole_if_shorter=False)
    long = own_language(long, words, settings.ngram_words, template)
    lengths, sizes = np.diff(grams.offsets), np.diff(banned.offsets)
    needed = _needed(sizes, lengths, settings)
    lost = np.add.reduceat(np.append(template, False), words.offsets[:-1]) * (words.counts > 0) > 0
    seen = ngrams(tokenize(sample), settings.shingle_words).hashes if sample else np.zeros(0, dtype=np.uint64)
    values, counts = np.unique(np.concatenate([seen, banned.hashes]), return_counts=True)
    rarity = counts[np.searchsorted(values, banned.hashes)] if len(values) else counts
    prefixes = [np.zeros(0, dtype=np.uint64)]
    owners = [np.zeros(0, dtype=np.int64)]
    for one in range(len(banned)):
        # Of a text that is nearly all template, too little is left to tell a copy.
        if lost[one] and sizes[one] < settings.min_words - settings.shingle_words + 1:
            continue
        order = np.argsort(rarity[banned.offsets[one] : banned.offsets[one + 1]], kind="stable")
        prefixes.append(banned.of(one)[order[: sizes[one] - needed[one] + SEEN_BEFORE]])
        owners.append(np.full(len(prefixes[-1]), one))
    return Screen(
        settings,
        banned,
        _invert(long.hashes, long.owners()),
        _invert(np.concatenate(prefixes), np.concatenate(owners)),
        lengths,
        lost,
    )


def find_contaminated(texts: Sequence[str], blocked: Sequence[Blocked], settings: Overlap) -> Contamination:
    """Compare every text with every blocked text; the hit with the largest similarity is named."""
    if not texts or not blocked:
        return Contamination({}, {})
    screen = build_screen(blocked, settings, texts)
    words = tokenize(texts)
    rows = ngrams(words, settings.shingle_words)
    found = screen.find(words, rows)
    return judge_found(screen, found, blocked, lambda number: np.unique(rows.of(number)))


def judge_found(
    screen: Screen, found: Found, blocked: Sequence[Blocked], shingles_of: Callable[[int], Hashes]
) -> Contamination:
    """What of all that was found is a leak, in however many rows; `shingles_of` gives one row's set of shingles."""
    numbers, ones, counts = screen.sequences.pairs(*found.sequences)
    enough = counts >= screen.settings.ngram_share * screen.sequence_counts[ones]
    owners: dict[int, list[int]] = defaultdict(list)
    for number, one in zip(numbers[enough].tolist(), ones[enough].tolist(), strict=True):
        owners[number].append(one)
    hits = {}
    for number, own_ones in owners.items():
        own = shingles_of(number)
        similarity, one = max((screen.share(one, own), -one) for one in own_ones)
        hits[number] = Hit(-one, "ngram", similarity)
    for number, one, share in zip(*(part.tolist() for part in (*found.contained, found.shares)), strict=True):
        known = hits.get(number)
        # Of equal shares the sequence is the stronger evidence, then the first of the blocked texts.
        if known is None or share > known.similarity:
            hits[number] = Hit(one, "containment", share)
    lost = np.flatnonzero(screen.templates).tolist()
    return Contamination(dict(sorted(hits.items())), dict(Counter(blocked[one].benchmark for one in lost)))


def refuse_losses(hits: Sequence[int], rows: int, blocked: Sequence[Blocked], settings: Decontamination) -> None:
    """Stop a step of which blocklists take more than a few rows: then the corpus is what a benchmark is made of.

    `hits` are the blocked texts for which each of the dropped rows goes, of `rows` rows.

    Raises:
        UserError: more than `most_dropped` of the rows go, and more than a handful.
    """
    if len(hits) <= max(FEW_ROWS, settings.most_dropped * rows):
        return
    places: Counter[str] = Counter(f"{blocked[hit].benchmark}:{blocked[hit].place.rpartition(':')[2]}" for hit in hits)
    (most, count), *_ = places.most_common()
    raise UserError(
        f"blocklists drop {len(hits):,} of {rows:,} rows ({len(hits) / rows:.0%}; most, {count:,}, for {most}): leave "
        "such fields out by decontamination.leave_out, name shared phrases in decontamination.templates, or allow it "
        f"by decontamination.most_dropped (now {settings.most_dropped:g})"
    )


def _needed(sizes: Places, lengths: Places, settings: Overlap) -> Places:
    short = lengths + settings.shingle_words - 1 < 2 * settings.ngram_words
    share = np.where(short, max(settings.containment, SHORT_CONTAINMENT), settings.containment)
    needed: Places = np.maximum(1, np.ceil(share * sizes - 1e-9)).astype(np.int64)
    return needed


def _held_within(banned: Hashes, row: Hashes, window: int) -> int:
    """The most hashes of a set that a row, in its order, holds within so many places that follow one another."""
    at = np.minimum(np.searchsorted(banned, row), len(banned) - 1)
    places = np.flatnonzero(banned[at] == row)
    held = at[places]
    if len(row) <= window:
        return len(np.unique(held))
    counts: dict[int, int] = defaultdict(int)
    most = distinct_held = first = 0
    for place, one in zip(places.tolist(), held.tolist(), strict=True):
        distinct_held += not counts[one]
        counts[one] += 1
        while places[first] <= place - window:
            gone = int(held[first])
            counts[gone] -= 1
            distinct_held -= not counts[gone]
            first += 1
        most = max(most, distinct_held)
    return most


def _invert(hashes: Hashes, owners: Places) -> Inverted:
    order = np.argsort(hashes, kind="stable")
    values, starts = np.unique(hashes[order], return_index=True)
    return Inverted(values, owners[order], np.append(starts, len(hashes)).astype(np.int64))


def _match(rows: Shingles, inverted: Inverted) -> tuple[Places, Places]:
    """Which rows hold which of the hashes, each pair once."""
    places, at = inverted.lookup.find(rows.hashes)
    pairs = np.unique(rows.owners()[places] * np.int64(len(inverted.values) + 1) + at)
    return pairs // (len(inverted.values) + 1), pairs % (len(inverted.values) + 1)
