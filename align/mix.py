"""Several sources of rows mixed into one training, each with its own number, share and epochs.

    mix:
      mediflow: {data: out/curate, rows: 800000, epochs: 2}
      codes: {data: out/codes, share: 0.1, epochs: 3}        # a tenth of all rows trained, none more than three times

When a row is trained follows from its id and the seed alone: a source that is added puts its rows between the others'
and moves none past another. Of a source that is seen several times every pass is over before the next one begins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from align.quotas import Quotas, Room
from medsmith.config import Block
from medsmith.errors import UserError
from medsmith.records import Instruction, content_id


class Source(Block):
    """Rows of one folder, and how much of them is trained."""

    data: Path = Field(description="a curate folder (data/*.parquet), a folder of Parquet files, or of experts.prepare")
    rows: int | None = Field(None, ge=1, description="the rows of highest judged quality; default: all")
    quotas: Quotas = Field({}, description="at most so many rows of a kind, e.g. {difficulty_level: {low: 1000}}")
    share: float | None = Field(None, gt=0, le=1, description="of all rows trained, repeats counted; default: all rows")
    epochs: float = Field(1.0, gt=0, description="how often each row is trained; with a share: at most so often")

    @model_validator(mode="after")
    def _shares_need_a_number(self) -> Source:
        Room(self.quotas, self.rows)
        return self


class Picked(NamedTuple):
    """Of one source: rows to train on, rows held out, and {id, reason, …} of every row that is neither."""

    train: list[Instruction]
    heldout: list[Instruction]
    dropped: list[dict[str, Any]]
    lengths: dict[str, int]
    """Tokens of each conversation, by id."""

    @property
    def rows(self) -> int:
        """How many there were."""
        return len(self.train) + len(self.heldout) + len(self.dropped)


class Turn(NamedTuple):
    """One time that a row is trained: when, from 0 to 1, and what."""

    place: float
    source: str
    row: Instruction


def distinct(found: Mapping[str, Picked]) -> dict[str, Picked]:
    """Drop what an earlier source has as well: a row belongs to the first that names it."""
    owner: dict[str, str] = {}
    parted = {}
    for name, picked in found.items():
        mine = {row.id for row in (*picked.train, *picked.heldout)}
        twice = [{"id": key, "reason": f"also in the source '{owner[key]}'"} for key in sorted(mine) if key in owner]
        gone = {row["id"] for row in twice}
        owner |= dict.fromkeys(mine - gone, name)
        parted[name] = Picked(
            [row for row in picked.train if row.id not in gone],
            [row for row in picked.heldout if row.id not in gone],
            [*picked.dropped, *twice],
            picked.lengths,
        )
    return parted


def turns_of(sources: Mapping[str, Source], sizes: Mapping[str, int]) -> dict[str, int]:
    """How many rows of each source are trained, repeats counted.

    Raises:
        UserError: shares that leave nothing to the others or do not fill the whole, or one that its rows cannot give.
    """
    most = {name: round(sizes[name] * source.epochs) for name, source in sources.items()}
    shares = {name: source.share for name, source in sources.items() if source.share is not None}
    given, whole = math.fsum(shares.values()), sum(most[name] for name in sources if name not in shares)
    if not shares:
        return most
    if len(shares) == len(sources):
        if abs(given - 1) > 1e-6:
            raise UserError(f"mix: the shares make {given:g}; let them make 1, or take one out")
        total = min(most[name] / share for name, share in shares.items())
    elif given >= 1:
        raise UserError(f"mix: the shares make {given:g} and leave nothing to the other sources; lower them")
    else:
        total = whole / (1 - given)
    wanted = {name: round(total * share) for name, share in shares.items()}
    for name, count in wanted.items():
        if count > most[name]:
            raise UserError(
                f"mix.{name}: a share of {shares[name]:g} is {count} rows, and {sizes[name]} rows with epochs "
                f"{sources[name].epochs:g} give {most[name]}; raise mix.{name}.epochs to "
                f"{math.ceil(count / max(1, sizes[name]))}, or lower the share"
            )
    return most | wanted


def schedule(found: Mapping[str, Sequence[Instruction]], counts: Mapping[str, int], seed: int) -> list[Turn]:
    """All turns in the order of training.

    A source that is seen E times takes a row's nth turn at (n + u) / E of the training, u being drawn from seed, id and
    n; of a last pass that is not whole come the rows of the lowest u.
    """
    turns = []
    for source, rows in found.items():
        if not rows:
            continue
        passes, rest = divmod(counts[source], len(rows))
        times = counts[source] / len(rows)
        for turn in range(passes + bool(rest)):
            drawn = sorted((_draw(seed, row.id, turn), row.id, row) for row in rows)
            kept = drawn if turn < passes else drawn[:rest]
            turns += [Turn((turn + u) / times, source, row) for u, _, row in kept]
    return sorted(turns, key=lambda one: (one.place, one.source, one.row.id))


def _draw(seed: int, key: str, turn: int) -> float:
    return int(content_id(seed, key, turn), 16) / 16**16


def describe(found: Mapping[str, Picked], counts: Mapping[str, int], trained: Mapping[str, int]) -> dict[str, Any]:
    """By source: rows as in = train + held out + dropped, epochs, turns, and the tokens of all turns.

    `tokens` are those of whole conversations; `trained`, by source, those under the loss.
    """
    table = {}
    for name, picked in found.items():
        turns, size = counts[name], len(picked.train)
        tokens = sum(picked.lengths[row.id] for row in picked.train)
        table[name] = {
            "rows": picked.rows,
            "train": size,
            "heldout": len(picked.heldout),
            "dropped": dict(sorted(Counter(row["reason"] for row in picked.dropped).items())),
            "epochs": round(turns / size, 4) if size else 0.0,
            "turns": turns,
            "tokens": round(tokens * turns / size) if size else 0,
            "trained_tokens": trained[name],
        }
    return table
