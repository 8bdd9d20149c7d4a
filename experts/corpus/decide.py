"""Which documents stay, and on which side: decided on numbers, all reasons in one place.

In this order: what a document is by itself, repeats of another's text or id, near duplicates, texts of benchmarks,
the limit; then the split. Of equals the one that was read first stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experts.corpus.measure import NO_TIME, Columns
from experts.corpus.split import hold_out
from medsmith.blocklists import Blocked
from medsmith.decontaminate import Decontamination, Screen, judge_found, refuse_losses
from medsmith.dedup import Sets, propose, search
from medsmith.errors import UserError
from medsmith.shingles import Places

if TYPE_CHECKING:
    from experts.corpora import Config

Numbers = NDArray[Any]


class Kind(IntEnum):
    """What became of a document."""

    KEPT = 0
    OWN = 1
    TEXT = 2
    ID = 3
    NEAR = 4
    BENCHMARK = 5
    NO_PATIENT = 6
    NO_TIME = 7
    LIMIT = 8
    PATIENT_HELD_OUT = 9


COUNTED_AS = {
    Kind.TEXT: "same text as another",
    Kind.ID: "its id belongs to another text",
    Kind.NEAR: "near duplicate of another",
    Kind.BENCHMARK: "holds a benchmark's text",
    Kind.NO_PATIENT: "no patient to split by",
    Kind.NO_TIME: "no time to split by",
    Kind.LIMIT: "beyond limit_documents",
    Kind.PATIENT_HELD_OUT: "its patient is held out",
}


@dataclass
class Decided:
    """One entry a document: what became of it, of which document (or blocked text) and how near, and its side."""

    kind: NDArray[np.uint8]
    of: NDArray[np.int64]
    amount: NDArray[np.float32]
    heldout: NDArray[np.bool_]
    templates: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> Places:
        """The numbers of the documents that stay."""
        return np.flatnonzero(self.kind == Kind.KEPT).astype(np.int64)

    def drop(self, numbers: Places | Sequence[int], kind: Kind) -> None:
        """Leave documents out."""
        self.kind[numbers] = kind


def decide(
    config: Config,
    columns: Columns,
    screen: Screen | None,
    blocked: Sequence[Blocked],
    shingles_of: Callable[[set[int]], Sets],
) -> Decided:
    """All decisions; `shingles_of` reads the corpus once more for those that may be near another.

    Raises:
        UserError: nothing to train on is left, or a patient would stand on both sides.
    """
    count = len(columns)
    numbers = columns.numbers
    decided = Decided(
        np.where(numbers["reason"] > 0, Kind.OWN, Kind.KEPT).astype(np.uint8),
        np.full(count, -1, dtype=np.int64),
        np.zeros(count, dtype=np.float32),
        np.zeros(count, dtype=bool),
    )
    drop_repeats(numbers, decided)
    if columns.signatures is not None and config.near_duplicates.threshold:
        drop_near(columns.signatures, decided, config.near_duplicates.threshold, shingles_of)
    if screen is not None:
        drop_benchmarks(columns, decided, screen, blocked, config.decontamination)
    if config.split.by == "patient":
        decided.drop(decided.kept[numbers["patient"][decided.kept] == 0], Kind.NO_PATIENT)
    if config.split.by == "time":
        decided.drop(decided.kept[numbers["time"][decided.kept] == NO_TIME], Kind.NO_TIME)
    if config.limit_documents is not None and config.limit_documents < len(decided.kept):
        ranks = numbers["limit_rank"][decided.kept]
        bound = np.partition(ranks, config.limit_documents - 1)[config.limit_documents - 1]
        decided.drop(decided.kept[ranks > bound], Kind.LIMIT)
    if len(decided.kept) < 2:
        reasons = sorted(count_reasons(columns, decided).items(), key=lambda item: -item[1])
        said = "; ".join(f"{count:,} dropped: {reason}" for reason, count in reasons[:3])
        raise UserError(
            f"{len(decided.kept)} documents are left of {config.corpus or config.known or config.table}"
            f"{f' ({said})' if said else ''}; see min_words, prefixes, licences"
        )
    _split(config, numbers, decided)
    return decided


def drop_repeats(numbers: dict[str, Numbers], decided: Decided) -> None:
    """Leave out what has another's words in the same order, then what has another's id.

    Only documents that share one of the two are looked at one by one.
    """
    kept = decided.kept
    keys = np.stack([numbers["first"][kept], numbers["second"][kept]])
    order = np.lexsort(keys)
    alike = np.zeros(len(kept), dtype=bool)
    same = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
    alike[order[1:][same]] = alike[order[:-1][same]] = True
    ids, inverse, counts = np.unique(numbers["key"][kept], return_inverse=True, return_counts=True)
    alike |= counts[inverse] > 1
    texts: dict[tuple[int, int], int] = {}
    taken: set[int] = set()
    for number in kept[alike].tolist():
        text = int(numbers["first"][number]), int(numbers["second"][number])
        key = int(numbers["key"][number])
        if text in texts:
            decided.kind[number], decided.of[number], decided.amount[number] = Kind.TEXT, texts[text], 1.0
        elif key in taken:
            decided.kind[number] = Kind.ID
        else:
            texts[text] = number
            taken.add(key)


def drop_near(
    signatures: NDArray[np.uint32], decided: Decided, threshold: float, shingles_of: Callable[[set[int]], Sets]
) -> None:
    """Leave out what is near an earlier document; how near is computed, not estimated."""
    # A class of its own for what is out already: it is compared with nothing.
    classes = np.where(decided.kind == Kind.KEPT, 0, np.arange(1, len(decided.kind) + 1)).astype(np.uint64)
    buckets = propose(signatures, threshold, classes)
    if not buckets:
        return
    found = search(signatures, shingles_of(set(buckets)), threshold, buckets=buckets)
    for number, duplicate in found.items():
        decided.kind[number], decided.of[number] = Kind.NEAR, duplicate.of
        decided.amount[number] = duplicate.similarity


def drop_benchmarks(
    columns: Columns, decided: Decided, screen: Screen, blocked: Sequence[Blocked], settings: Decontamination
) -> None:
    """Leave out what holds a benchmark's text; a corpus that loses much to one is refused."""
    left = decided.kind == Kind.KEPT
    found = columns.found.of(left)
    judged = judge_found(screen, found, blocked, columns.shingles.__getitem__)
    refuse_losses([hit.blocked for hit in judged.hits.values()], len(left), blocked, settings)
    for number, hit in judged.hits.items():
        decided.kind[number], decided.of[number], decided.amount[number] = Kind.BENCHMARK, hit.blocked, hit.similarity
    decided.templates = judged.templates


def _split(config: Config, numbers: dict[str, Numbers], decided: Decided) -> None:
    kept = decided.kept
    strata = numbers["source"][kept] if config.split.by_source else np.zeros(len(kept), dtype=np.uint32)
    held = hold_out(
        config.split,
        config.heldout_share,
        ranks=numbers["heldout_rank"][kept],
        strata=strata,
        times=numbers["time"][kept],
        patients=numbers["patient"][kept],
    )
    decided.facts["cutoff"] = held.cutoff
    decided.heldout[kept] = held.heldout
    decided.drop(kept[held.dropped], Kind.PATIENT_HELD_OUT)


def count_reasons(columns: Columns, decided: Decided) -> dict[str, int]:
    """Dropped documents by reason."""
    own = columns.numbers["reason"][decided.kind == Kind.OWN]
    reasons = {
        columns.names[int(place)]: int(count) for place, count in zip(*np.unique(own, return_counts=True), strict=True)
    }
    for kind, reason in COUNTED_AS.items():
        if count := int((decided.kind == kind).sum()):
            reasons[reason] = count
    return dict(sorted(reasons.items()))
