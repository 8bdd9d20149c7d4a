"""Which rows get how many flawed answers of which kinds: a pure function of ranks, strata and a seed."""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mediflow.curation.rank import order_stratified
from mediflow.pairing.flaws import load_error_types
from medsmith.errors import UserError
from medsmith.records import Instruction, content_id

RANKED_BY = ("id", "instruction", "task_type", "input_data", "output_format", "difficulty_level", "quality")


class Settings(Protocol):
    """What planning needs of mediflow.pair's settings."""

    @property
    def seed(self) -> int:
        """Draws types, examples and who makes a flaw."""
        ...

    @property
    def ranks(self) -> list[tuple[float, int]]:
        """[instructions, pairs of each], the best first."""
        ...

    @property
    def rules(self) -> float:
        """The share of pairs made by rule."""
        ...

    @property
    def error_types(self) -> list[str]:
        """Types to draw from; [] for all."""
        ...

    @property
    def stratify(self) -> Sequence[str]:
        """Columns that make a stratum."""
        ...


@dataclass(frozen=True)
class Slot:
    """One planned pair: the row, and the error types to try, in order."""

    row: Instruction
    types: tuple[str, str]
    by_rule: bool


def plan_folder(folder: Path, settings: Settings) -> list[Slot]:
    """The slots of a curated `data` folder; only the texts of rows that get a slot are ever held."""
    slots = plan_pairs(_read_light(folder), settings)
    full = _read_rows(folder, {slot.row.id for slot in slots})
    return [replace(slot, row=full[slot.row.id]) for slot in slots]


def plan_pairs(rows: Iterable[Instruction], settings: Settings) -> list[Slot]:
    """Rank the instructions, give each its number of pairs, spread over its examples and over error types."""
    grouped: dict[tuple[str, ...], list[Instruction]] = defaultdict(list)
    for row in rows:
        about = (row.task_type, row.input_data, row.output_format, row.difficulty_level)
        grouped[row.instruction, *about].append(row)
    groups = list(grouped.values())
    order = order_stratified(
        [group[0].quality for group in groups],
        [content_id(key) for key in grouped],
        [tuple(getattr(group[0], column) for column in settings.stratify) for group in groups],
    )
    types = settings.error_types or list(load_error_types())
    slots = []
    for number, count in zip(order, _counts(settings.ranks, len(groups)), strict=False):
        examples = sorted(groups[number], key=lambda row: row.id)
        rng = random.Random(f"pair {settings.seed} {examples[0].id}")
        rng.shuffle(examples)
        drawn = rng.sample(types, len(types))
        for place in range(count):
            # The second type is tried where the first brings nothing; it is nobody else's first while types last.
            first, second = drawn[place % len(drawn)], drawn[(place + count) % len(drawn)]
            slots.append(Slot(examples[place % len(examples)], (first, second), rng.random() < settings.rules))
    return slots


def _counts(ranks: Sequence[tuple[float, int]], instructions: int) -> list[int]:
    """The number of pairs of the first, second, … instruction."""
    sizes = [size * instructions if size <= 1 else size for size, _ in ranks]
    scale = min(1.0, instructions / sum(sizes))
    counts: list[int] = []
    end = 0.0
    for size, (_, pairs) in zip(sizes, ranks, strict=True):
        end += size * scale
        counts += [pairs] * (round(end) - len(counts))
    return counts


def _read_light(folder: Path) -> Iterable[Instruction]:
    """The rows with what ranks them; the instruction is its hash, and texts are left out."""
    import pyarrow.parquet

    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        raise UserError(f"no Parquet file in {folder}")
    for shard in shards:
        for batch in pyarrow.parquet.ParquetFile(shard).iter_batches(20_000, columns=list(RANKED_BY)):
            for row in batch.to_pylist():
                yield Instruction(
                    id=row["id"],
                    instruction=content_id(row["instruction"]),
                    input="",
                    output="",
                    task_type=sys.intern(row["task_type"]),
                    input_data=sys.intern(row["input_data"]),
                    output_format=sys.intern(row["output_format"]),
                    difficulty_level=sys.intern(row["difficulty_level"]),
                    quality=row["quality"],
                )


def _read_rows(folder: Path, ids: set[str]) -> dict[str, Instruction]:
    import polars

    # A shard at a time: the filter of one must not hold the texts of all.
    tables = [
        polars.scan_parquet(shard).filter(polars.col("id").is_in(list(ids))).collect(engine="streaming")
        for shard in sorted(folder.glob("*.parquet"))
    ]
    names = Instruction.__dataclass_fields__
    return {
        row["id"]: Instruction(**{name: value for name, value in row.items() if name in names})
        for table in tables
        for row in table.iter_rows(named=True)
    }
