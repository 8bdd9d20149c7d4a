"""Which rows stay, decided on numbers alone: quality, keys, signatures, vectors and what rows share with benchmarks.

Every row goes for one reason, the first in this order: rejected by a person, faulty, contaminated, judged too low, an
exact, a near, a semantic duplicate, beyond the number that was asked for. Duplicates come after what drops a row for
itself, and what people accepted or edited comes first among them: so a row is only dropped for one that stays (`of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mediflow.curation import semantic
from mediflow.curation.columns import Columns, Part, Texts, edited_id, gather
from mediflow.curation.decisions import Verdict
from mediflow.curation.rank import order_by_quality, order_stratified
from mediflow.vocabulary.critical import agree
from medsmith import dedup
from medsmith.blocklists import Blocklist
from medsmith.decontaminate import Screen, judge_found, refuse_losses
from medsmith.progress import Bar
from medsmith.shingles import Hashes, Places, mix, ngrams, tokenize
from medsmith.spread import spread

if TYPE_CHECKING:
    from mediflow.curate import Config

REASONS = (
    "kept", "review_rejected", "exact_duplicate", "near_duplicate", "semantic_duplicate", "contaminated",
    "low_quality", "unjudged", "beyond_top_rows",
)  # fmt: skip
"""Faults of single rows have reasons of their own (mediflow/curation/filters.py)."""
HELD_SETS = 8192
READ_AT_ONCE = 1000


@dataclass
class Decided:
    """For every row why it went (0: it stays), of what it is a copy, and how nearly; `rank` are the rows that stay."""

    reason: NDArray[np.int16]
    names: list[str]
    of: Places
    blocked: Places
    similarity: NDArray[np.float64]
    rule: NDArray[np.int8]
    rank: Places = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    contamination: dict[str, dict[str, int]] = field(default_factory=dict)

    def drop(
        self, rows: Places, reason: str, of: Places | None = None, similarity: NDArray[np.float64] | None = None
    ) -> None:
        """Let rows go that have not gone before."""
        assert not self.reason[rows].any(), "a row went twice"
        if reason not in self.names:
            self.names.append(reason)
        self.reason[rows] = self.names.index(reason)
        if of is not None:
            self.of[rows] = of
        if similarity is not None:
            self.similarity[rows] = similarity

    def left(self, order: Places) -> Places:
        """The rows of `order` that have not gone."""
        left: Places = order[self.reason[order] == 0]
        return left

    def counts(self) -> dict[str, int]:
        """Rows that went, by reason."""
        numbers = np.bincount(self.reason, minlength=len(self.names)).tolist()
        return {name: count for name, count in sorted(zip(self.names[1:], numbers[1:], strict=False)) if count}


def decide(
    columns: Columns,
    quality: NDArray[np.float64],
    verdicts: Mapping[str, Verdict],
    screen: Screen | None,
    blocked: Blocklist,
    config: Config,
) -> Decided:
    """Part the rows; each is in `rank` or has a reason."""
    count = len(columns)
    none = np.full(count, -1, dtype=np.int64)
    decided = Decided(
        np.zeros(count, dtype=np.int16),
        list(REASONS),
        none,
        none.copy(),
        np.full(count, np.nan),
        np.zeros(count, dtype=np.int8),
    )
    accepted = _drop_rejected(columns, verdicts, decided)
    order = order_by_quality(quality, columns.table["id"])
    order = np.concatenate([order[accepted[order]], order[~accepted[order]]])
    _drop_faulty(columns, decided)
    _drop_contaminated(columns, screen, blocked, decided, config)
    left = decided.left(order)
    if (least := config.min_quality) is not None:
        low = left[~accepted[left] & ~(quality[left] >= least)]
        decided.drop(low[np.isnan(quality[low])], "unjudged")
        decided.drop(low[~np.isnan(quality[low])], "low_quality")
    _drop_exact(columns, decided.left(order), decided)
    _drop_alike(columns, decided.left(order), decided, config)
    _follow_exact(decided)
    left = decided.left(order)
    # Row numbers are in file order; ranks must not depend on it.
    strata = _codes(columns, config.stratify)[left]
    ranked = left[order_stratified(quality[left], columns.table["id"].gather(left), strata)]
    if config.top_rows is not None:
        others = ranked[~accepted[ranked]]
        decided.drop(others[max(0, config.top_rows - int(accepted[ranked].sum())) :], "beyond_top_rows")
        # What repeats a row beyond the number is beyond it too: it came after that row.
        copies = np.flatnonzero(decided.of >= 0)
        copies = copies[decided.reason[decided.of[copies]] > 0]
        decided.reason[copies], decided.of[copies] = REASONS.index("beyond_top_rows"), -1
        decided.similarity[copies] = np.nan
    decided.rank = decided.left(ranked)
    assert len(decided.rank) + int((decided.reason > 0).sum()) == count, "a row vanished"
    return decided


def _drop_rejected(columns: Columns, verdicts: Mapping[str, Verdict], decided: Decided) -> NDArray[np.bool_]:
    """Drop what people rejected; return which rows they accepted (an edited row is one)."""
    import polars

    accepted = np.zeros(len(columns), dtype=bool)
    if not verdicts:
        return accepted
    names = {edited_id(row, verdict.edited): verdict for row, verdict in verdicts.items()}
    held = polars.Series(list(names), dtype=polars.String)
    places = np.flatnonzero(columns.table["id"].is_in(held.implode()).to_numpy())
    by_id = dict(zip(columns.table["id"].gather(places).to_list(), places.tolist(), strict=True))
    rejected = [place for row, place in by_id.items() if names[row].decision == "reject"]
    decided.drop(np.array(rejected, dtype=np.int64), "review_rejected")
    accepted[[place for row, place in by_id.items() if names[row].decision != "reject"]] = True
    return accepted


def _drop_faulty(columns: Columns, decided: Decided) -> None:
    reasons = columns.table["reason"]
    for reason in sorted(reasons.drop_nulls().unique().to_list()):
        rows = np.flatnonzero((reasons == reason).fill_null(False).to_numpy())
        decided.drop(decided.left(rows), reason)


def _drop_exact(columns: Columns, left: Places, decided: Decided) -> None:
    """Rows whose words equal those of an earlier one, part by part; 128 bits stand for them."""
    keys = np.stack([columns.array("exact_a")[left], columns.array("exact_b")[left]], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    of = left[first[inverse.ravel()]]
    copies = of != left
    decided.drop(left[copies], "exact_duplicate", of[copies], np.ones(int(copies.sum())))


def _follow_exact(decided: Decided) -> None:
    """A row equal to one that then went as a near or semantic duplicate repeats the row for which that one went."""
    rows = np.flatnonzero(decided.of >= 0)
    rows = rows[decided.of[decided.of[rows]] >= 0]
    via = decided.of[rows]
    decided.reason[rows], decided.of[rows] = decided.reason[via], decided.of[via]
    decided.similarity[rows] = decided.similarity[via]


@dataclass(frozen=True)
class _Alike:
    """What the search needs besides a group; it may run in another process."""

    cache: Path
    parts: Sequence[Part]
    near: float | None
    guarded: bool
    shingle_words: int
    semantic: float | None
    least_concepts: int
    seed: int


@dataclass(frozen=True)
class _Group:
    """Rows that may be copies of one another, in order of preference, as arrays of equal length."""

    rows: Places
    texts: Texts
    places: Places
    guards: Hashes
    concepts: NDArray[np.int32]
    has_words: NDArray[np.bool_]


def _drop_alike(columns: Columns, left: Places, decided: Decided, config: Config) -> None:
    """Near and semantic duplicates, group by group: the groups are independent of one another."""
    near, alike = config.near_duplicates, config.semantic
    if near.threshold is None and alike.threshold is None:
        return
    codes = _codes(columns, near.within)[left]
    order = np.argsort(codes, kind="stable")
    groups = np.split(left[order], np.flatnonzero(np.diff(codes[order])) + 1)
    wanted = sorted((group for group in groups if len(group) > 1), key=lambda group: -len(group))
    own = [columns.array(name) for name in ("guard", "concepts", "has_words")]
    items = (
        _Group(rows, columns.texts.take(rows), columns.places(rows), *(one[rows] for one in own)) for rows in wanted
    )
    search = partial(
        _search,
        _Alike(
            columns.cache,
            columns.parts,
            near.threshold,
            near.guard,
            near.shingle_words,
            alike.threshold,
            alike.least_concepts,
            config.seed,
        ),
    )
    with Bar("near and semantic duplicates", total=len(wanted), unit="groups") as bar:
        for found in spread(search, items, engine=config.engine, workers=config.workers):
            for reason, (rows, of, similarity) in found.items():
                decided.drop(rows, reason, of, similarity)
            bar.advance()


def _search(settings: _Alike, group: _Group) -> dict[str, tuple[Places, Places, NDArray[np.float64]]]:
    """The duplicates among the rows of one group, near and semantic in one pass: what either drops is nobody's `of`."""

    def confirm(row: int, of: int) -> bool:
        return agree(group.texts.content(row), group.texts.content(of))

    near: dict[int, dedup.Duplicate] = {}
    meanings = None
    if settings.semantic is not None:
        vectors = gather(settings.cache, settings.parts, "vectors", group.texts.parts, group.places)
        # With too few concepts, equal ones say nothing: such a row has a class of its own.
        some = group.concepts >= settings.least_concepts
        classes = np.where(some, group.guards, mix(np.arange(len(some), dtype=np.uint64)))
        meanings = semantic.Meanings(vectors, settings.semantic, classes, confirm, settings.seed)
    if settings.near is not None:
        # A text without words is like no other: it gets a class of its own.
        classes = group.guards if settings.guarded else np.zeros(len(group.rows), dtype=np.uint64)
        classes = np.where(group.has_words, classes, mix(np.arange(len(group.rows), dtype=np.uint64)))
        signatures = gather(settings.cache, settings.parts, "signatures", group.texts.parts, group.places)
        near = dedup.search(
            signatures,
            _ReadSets(group.texts.content, settings.shingle_words),
            settings.near,
            classes,
            confirm if settings.guarded else lambda _row, _of: True,
            repeats=meanings.repeats if meanings else None,
        )
    elif meanings is not None:
        for number in range(len(group.rows)):
            meanings.repeats(number)
    return {
        "near_duplicate": _arrays(group.rows, near),
        "semantic_duplicate": _arrays(group.rows, meanings.found if meanings else {}),
    }


class _ReadSets:
    """Shingles of rows whose texts are read once more; the latest are kept, since copies come in flocks."""

    def __init__(self, read: Callable[[int], str], size: int) -> None:
        self._read = read
        self._size = size
        self._held: dict[int, Hashes] = {}

    def of(self, number: int) -> Hashes:
        """The sorted, distinct shingles of one text."""
        if number not in self._held:
            self.ready([number])
        return self._held[number]

    def ready(self, numbers: Sequence[int]) -> None:
        """Read some texts together: splitting one costs nearly as much as splitting a hundred."""
        if len(self._held) + len(numbers) > HELD_SETS:
            self._held = {number: self._held[number] for number in numbers if number in self._held}
        missing = [number for number in numbers if number not in self._held]
        for first in range(0, len(missing), READ_AT_ONCE):
            some = missing[first : first + READ_AT_ONCE]
            grams = ngrams(tokenize([self._read(number) for number in some]), self._size)
            for place, number in enumerate(some):
                self._held[number] = np.unique(grams.of(place))


def _arrays(rows: Places, found: Mapping[int, dedup.Duplicate]) -> tuple[Places, Places, NDArray[np.float64]]:
    numbers = np.array(list(found), dtype=np.int64)
    of = np.array([one.of for one in found.values()], dtype=np.int64)
    return rows[numbers], rows[of], np.array([one.similarity for one in found.values()], dtype=np.float64)


def _drop_contaminated(
    columns: Columns, screen: Screen | None, blocked: Blocklist, decided: Decided, config: Config
) -> None:
    counts = {
        benchmark: {"texts": 0, "ngram": 0, "containment": 0, "templates": 0, "unprotected": items}
        for benchmark, items in blocked.unprotected.items()
    }
    for one in blocked.texts:
        counts[one.benchmark]["texts"] += 1
    if screen is not None:
        left = columns.found.of(decided.reason == 0)
        sets = _ReadSets(columns.texts.screened, screen.settings.shingle_words)
        judged = judge_found(screen, left, blocked.texts, sets.of)
        for benchmark, templates in judged.templates.items():
            counts[benchmark]["templates"] = templates
        for number, hit in judged.hits.items():
            counts[blocked.texts[hit.blocked].benchmark][hit.rule] += 1
            decided.blocked[number] = hit.blocked
            decided.rule[number] = hit.rule == "containment"
        one_each = [hit.blocked for hit in judged.hits.values()]
        refuse_losses(one_each, len(columns), blocked.texts, config.decontamination)
        rows = np.array(list(judged.hits), dtype=np.int64)
        decided.drop(rows, "contaminated", None, np.array([hit.similarity for hit in judged.hits.values()]))
    decided.contamination = dict(sorted(counts.items()))


def _codes(columns: Columns, names: Sequence[str]) -> Places:
    """One number a row, equal for rows that are equal in these columns."""
    codes = np.zeros(len(columns), dtype=np.int64)
    for name in names:
        values: Any = columns.table[name].to_physical().to_numpy()
        codes = np.unique(codes * (int(values.max(initial=0)) + 1) + values, return_inverse=True)[1]
    return codes
