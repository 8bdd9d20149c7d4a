"""What is held out: by documents, by patients, or by time; never a patient on both sides.

By document or patient it depends on an id and the seed alone, so that adding documents moves no other.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medsmith.config import Block
from medsmith.errors import UserError

Numbers = NDArray[Any]
Mask = NDArray[np.bool_]


class Split(Block):
    """How documents are held out."""

    by: Literal["document", "patient", "time"] = Field(
        "document", description="by the hash of each document's id or its patient's; or the latest ones"
    )
    since: date | None = Field(None, description="by time: held out is what is of this day or later, not a share")
    by_source: bool = Field(False, description="the share is of every source, not of all documents together")
    overlap: Literal["refuse", "drop"] = Field(
        "refuse",
        description="where a patient (columns.patient) would stand on both sides: an error, or their documents leave "
        "the training side",
    )

    @model_validator(mode="after")
    def _of_one_kind(self) -> Split:
        if self.since is not None and self.by != "time":
            raise ValueError("split.since is a day to split at; set split.by=time")
        if self.by == "time" and self.by_source:
            raise ValueError("a split by time has one day for all sources; leave out split.by_source")
        return self


class HeldOut(NamedTuple):
    """The documents that are held out, those that must leave the training side, and the day that divides the two."""

    heldout: Mask
    dropped: Mask
    cutoff: str | None


def rank(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on the key and the salt alone."""
    return int.from_bytes(hashlib.sha256(f"{salt}|{key}".encode(errors="surrogatepass")).digest()[:6]) / 2**48


def hold_out(
    split: Split, share: float, *, ranks: Numbers, strata: Numbers, times: Numbers, patients: Numbers
) -> HeldOut:
    """Divide documents; one entry of each array a document.

    Raises:
        UserError: nothing would be left on one side, or a patient would stand on both.
    """
    cutoff = None
    if split.by == "time":
        bound = _cutoff(split, share, times)
        heldout = times >= bound if bound is not None else np.zeros(len(times), dtype=bool)
        if bound is not None:
            cutoff = datetime.fromtimestamp(bound, UTC).isoformat()
    else:
        heldout = _by_rank(ranks, strata, share, patients if split.by == "patient" else np.arange(len(ranks)))
    dropped = np.zeros(len(heldout), dtype=bool)
    both = _on_both_sides(heldout, patients)
    if len(both) and split.overlap == "refuse":
        raise UserError(
            f"{len(both)} patients would stand on both sides of the split, first {int(both[0]):016x} (a digest); "
            "set split.by=patient, or split.overlap=drop"
        )
    if len(both):
        dropped = ~heldout & np.isin(patients, both)
    if not (~heldout & ~dropped).any():
        raise UserError("every document would be held out or dropped; lower heldout_share, or set a later split.since")
    check_sides(heldout, ~heldout & ~dropped, patients, times if split.by == "time" else None)
    return HeldOut(heldout, dropped, cutoff)


def check_sides(heldout: Mask, train: Mask, patients: Numbers, times: Numbers | None) -> None:
    """No patient on both sides and, by time, nothing to train on that is as late as what is held out.

    Raises:
        UserError: there is; a patient is named by a digest.
    """
    both = np.intersect1d(patients[heldout & (patients != 0)], patients[train & (patients != 0)])
    if len(both):
        raise UserError(f"patient {int(both[0]):016x} (a digest) stands on both sides of the split")
    if times is not None and heldout.any() and times[train].max() >= times[heldout].min():
        late = datetime.fromtimestamp(int(times[train].max()), UTC).isoformat()
        raise UserError(f"a document of {late} would be trained on, and an earlier one is held out")


def _cutoff(split: Split, share: float, times: Numbers) -> int | None:
    """The first second that is held out; None where nothing is."""
    if split.since is not None:
        return int(datetime(split.since.year, split.since.month, split.since.day, tzinfo=UTC).timestamp())
    if share == 0:
        return None
    count = max(1, round(share * len(times)))
    bound = int(np.partition(times, len(times) - count)[len(times) - count])
    if bound == times.min():
        raise UserError(
            f"the latest {share:.0%} are of one time with all others; give split.since, or split by document"
        )
    return bound


def _by_rank(ranks: Numbers, strata: Numbers, share: float, units: Numbers) -> Mask:
    """The units with small ranks, by stratum: the share, but at least one and never all of a stratum's units.

    A unit's stratum is that of its first document.
    """
    heldout = np.zeros(len(ranks), dtype=bool)
    if share == 0:
        return heldout
    _, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    unit_ranks, unit_strata = ranks[first], strata[first]
    held = np.zeros(len(first), dtype=bool)
    order = np.lexsort((unit_ranks, unit_strata))
    edges = np.flatnonzero(np.diff(unit_strata[order])) + 1
    for members in np.split(order, edges):
        if len(members) > 1:
            own = unit_ranks[members]
            held[members] = own <= min(max(share, own[0]), own[-2])
    if not held.any():
        raise UserError("nothing can be held out: every source has but one document or patient; set heldout_share=0")
    mask: Mask = held[inverse]
    return mask


def _on_both_sides(heldout: Mask, patients: Numbers) -> Numbers:
    known = patients != 0
    return np.intersect1d(patients[heldout & known], patients[~heldout & known])
