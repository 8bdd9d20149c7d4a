"""How much of each corpus goes into a mixture, and which documents. Pure functions of counts, shares and ids.

Which documents a corpus gives depends on their ids, the seed and the amount alone: of two amounts the smaller is a
part of the larger, and another corpus beside it changes nothing but its amount.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experts.sequences import Phase
from medsmith.errors import UserError


def amounts(
    sizes: Mapping[str, int], shares: Mapping[str, float], tokens: int | None = None, repeats: float = 1.0
) -> dict[str, int]:
    """Tokens of each corpus in one epoch of the mixture.

    Without shares each corpus is taken whole. With them the mixture has `tokens` in all, by default as many as it can
    have before a corpus would have to be read more than `repeats` times.

    Raises:
        UserError: a corpus too small for its share of `tokens`.
    """
    if not shares:
        return dict(sizes)
    parts = {name: share / sum(shares.values()) for name, share in shares.items()}
    room = {name: int(repeats * sizes[name] / part) for name, part in parts.items() if part > 0}
    scarce = min(room, key=lambda name: (room[name], name))
    total = room[scarce] if tokens is None else tokens
    if total > room[scarce]:
        raise UserError(
            f"mix: of {total:,} tokens '{scarce}' has to give {total * parts[scarce]:,.0f}, and it has "
            f"{sizes[scarce]:,}; lower mix.tokens to {room[scarce]:,}, lower its share, or raise mix.repeats "
            f"(now {repeats:g})"
        )
    return {name: round(total * part) for name, part in parts.items()}


def draw(tokens: Sequence[int] | np.ndarray, ranks: Sequence[float] | np.ndarray, amount: int) -> np.ndarray:
    """The numbers of the documents that make up `amount` tokens: whole passes, then those of lowest rank.

    The last one may go beyond the amount; none is cut.
    """
    counts = np.asarray(tokens, dtype=np.int64)
    size = int(counts.sum())
    if size == 0 or amount <= 0:
        return np.empty(0, dtype=np.int64)
    passes, rest = divmod(amount, size)
    order = np.argsort(np.asarray(ranks), kind="stable")
    part = order[: int(np.searchsorted(np.cumsum(counts[order]), rest)) + 1] if rest else order[:0]
    # In the order of the file, so that a mixture of everything is read as it lies.
    return np.concatenate([np.tile(np.arange(len(counts)), passes), np.sort(part)])


def choose(
    phase: Phase, shares: Mapping[str, float], tokens: int | None, repeats: float
) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """The pieces of a mixture, corpus by corpus, and of each corpus what it gives and how much it has."""
    trained = phase.pieces.lengths - 1
    counts = np.bincount(phase.pieces.documents, trained, phase.documents).astype(np.int64)
    sizes = {name: int(counts[numbers.start : numbers.stop].sum()) for name, numbers in phase.corpora.items()}
    wanted = amounts(sizes, shares, tokens, repeats)
    # The pieces of a document lie one after another.
    begins = np.searchsorted(phase.pieces.documents, np.arange(phase.documents + 1))
    chosen: list[np.ndarray] = []
    table: dict[str, dict[str, float]] = {}
    for name, numbers in phase.corpora.items():
        of = slice(numbers.start, numbers.stop)
        drawn = numbers.start + draw(counts[of], phase.ranks[of], wanted[name])
        chosen.append(_ranges(begins[drawn], begins[drawn + 1]))
        table[name] = {
            "documents": len(drawn),
            "tokens": int(counts[drawn].sum()),
            "available_documents": len(numbers),
            "available_tokens": sizes[name],
        }
    total = sum(row["tokens"] for row in table.values())
    for row in table.values():
        row["share"] = round(row["tokens"] / max(1, total), 4)
    return np.concatenate(chosen), table


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """All numbers from each start up to its stop."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    numbers: np.ndarray = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return numbers
