"""A curated set on disk: shards in the order of rank, what was dropped, and the ledger of all that was ever made.

Rows are read from their places and written in groups; no more than one group of texts is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mediflow.curation.columns import Columns, Texts, edited_id
from mediflow.curation.decide import Decided
from mediflow.curation.decisions import Verdict
from medsmith.blocklists import Blocklist
from medsmith.errors import UserError
from medsmith.records import Instruction

if TYPE_CHECKING:
    import polars

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")
ORIGIN = ("instruction_id", "teacher")
FACTS = ("checked", "contradicted")
GROUP_ROWS = 5000
ROW_COLUMNS = [field.name for field in fields(Instruction)]
LEDGER_TEXT = (
    "id", "call_id", "repair_id", "instruction_id", "task_type", "document_type", "section", "input_data",
    "output_format", "difficulty_level", "teacher", "model", "schema_hash", "status", "reason", "detail", "of",
    "parent", "facts_id",
)  # fmt: skip
LEDGER_INTEGERS = ("number", "seed", "attempt", "round")
LEDGER_REALS = ("temperature", "similarity", "cost")
LEFT_OUT = ("text", *ROW_COLUMNS[1:4])


@dataclass(frozen=True)
class Sheet:
    """One Parquet file to write: rows in their order, with their scores and, for dropped ones, why."""

    path: Path
    texts: Texts
    scores: NDArray[np.float64]
    why: Mapping[str, Sequence[Any]] | None = None


def write_sheet(sheet: Sheet) -> int:
    """Write the rows in groups, equal rows byte for byte the same; return their number."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    real, text, integer = pyarrow.float64(), pyarrow.string(), pyarrow.int32()
    types = [(name, real if name in CRITERIA else text) for name in ROW_COLUMNS]
    types += [(name, text) for name in ORIGIN] + [(name, integer) for name in FACTS]
    if sheet.why is not None:
        types += [("reason", text), ("detail", text), ("of", text), ("similarity", real)]
    schema = pyarrow.schema(types)
    sheet.path.parent.mkdir(parents=True, exist_ok=True)
    partial = sheet.path.with_name(sheet.path.name + ".partial")
    with ParquetWriter(partial, schema, compression="zstd", compression_level=3) as writer:
        for first in range(0, len(sheet.texts.parts), GROUP_ROWS):
            some = slice(first, first + GROUP_ROWS)
            numbers = np.arange(len(sheet.scores), dtype=np.int64)[some]
            rows = _read(sheet.texts.take(numbers), sheet.scores[some])
            for name, values in (sheet.why or {}).items():
                for row, value in zip(rows, values[some], strict=True):
                    row[name] = value
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    partial.replace(sheet.path)
    return len(sheet.texts.parts)


def _read(texts: Texts, scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Rows as the data set's columns; read in the order of their files, which disks like better."""
    rows: list[dict[str, Any]] = [{}] * len(scores)
    for place in np.lexsort((texts.offsets, texts.parts)).tolist():
        held = texts.row(place)
        row = {name: held.get(name, "") for name in ROW_COLUMNS} | {name: held.get(name) for name in ORIGIN}
        row |= {name: value if isinstance(value := held.get(name), int) else None for name in FACTS}
        means = scores[place].tolist()
        rows[place] = row | {name: None if mean != mean else mean for name, mean in zip(CRITERIA, means, strict=True)}
    return rows


def why(
    columns: Columns,
    decided: Decided,
    quality: NDArray[np.float64],
    least: float | None,
    verdicts: Mapping[str, Verdict],
    blocked: Blocklist,
) -> polars.DataFrame:
    """For every row id, reason, detail, of (a row id or a benchmark's place) and similarity; null where it is kept."""
    import polars

    ids = columns.table["id"]
    gone = np.flatnonzero(decided.reason > 0)
    names = polars.Series(decided.names, dtype=polars.String)
    reasons = names.gather(decided.reason.astype(np.int64)).set(polars.Series(decided.reason == 0), None)
    of = np.where(decided.of >= 0, decided.of, 0)
    partners = ids.gather(of).set(polars.Series(decided.of < 0), "")
    details = columns.table["detail"].fill_null("").to_list()
    partner_list = partners.to_list()
    by = {edited_id(row, verdict.edited): verdict.by for row, verdict in verdicts.items()}
    for number in gone.tolist():
        reason = decided.names[decided.reason[number]]
        if reason == "contaminated":
            # Place and not text: a benchmark under a use agreement must not leak by way of a report.
            source = blocked.texts[decided.blocked[number]]
            partner_list[number] = f"{source.benchmark}/{source.place}"
            details[number] = f"{source.benchmark} by {('ngram', 'containment')[decided.rule[number]]}"
        elif reason == "low_quality":
            details[number] = f"{quality[number]:g} of at least {least:g}"
        elif reason == "review_rejected":
            details[number] = f"by {by[ids[number]]}"
    return polars.DataFrame(
        {
            "id": ids,
            "reason": reasons,
            "detail": polars.Series(details, dtype=polars.String),
            "of": polars.Series(partner_list, dtype=polars.String),
            "similarity": polars.Series(decided.similarity).fill_nan(None),
        }
    )


def write_ledger(path: Path, parts: Sequence[Path], fates: polars.DataFrame) -> None:
    """Join the ledger of generate with what became of each row.

    `fates` has one line a row: `id` as generate wrote it, then what the ledger is to tell of it.

    Raises:
        UserError: the ledger does not hold each row once.
    """
    import polars
    from pyarrow.parquet import ParquetWriter

    met = 0
    partial = path.with_name(path.name + ".partial")
    writer = None
    try:
        for part in parts:
            for records in _records(part):
                # A refused repeat of a row has the row's id: what became of the row is told of the accepted one alone.
                row = polars.when(polars.col("status").fill_null("accepted") == "accepted").then("id").alias("row")
                joined = records.with_columns(row).join(
                    fates, left_on="row", right_on="id", how="left", maintain_order="left"
                )
                joined = joined.drop("row")
                met += len(joined) - joined["decision"].null_count()
                table = joined.with_columns(polars.col(polars.Categorical).cast(polars.String)).to_arrow()
                writer = writer or ParquetWriter(partial, table.schema, compression="zstd", compression_level=3)
                writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    if met != len(fates):
        raise UserError(f"the ledger beside {parts[0]} names {met} of {len(fates)} rows; run mediflow.generate again")
    partial.replace(path)


def _records(part: Path) -> Iterator[polars.DataFrame]:
    """Lines of a ledger, or of rows where there is none, without texts; what is not known here goes into `more`."""
    import orjson
    import polars

    known = {
        **dict.fromkeys(LEDGER_TEXT, polars.String),
        **dict.fromkeys(LEDGER_INTEGERS, polars.Int64),
        **dict.fromkeys(LEDGER_REALS, polars.Float64),
        "more": polars.String,
    }
    number = 0
    with part.open("rb") as lines:
        while batch := list(islice(lines, 10 * GROUP_ROWS)):
            columns: dict[str, list[Any]] = {name: [] for name in known}
            for line in batch:
                number += 1
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise UserError(
                        f"{part} line {number}: not valid JSON ({error}); mend or remove the line"
                    ) from None
                # `difficulty` is the judge's score here, as in the data set.
                record.setdefault("difficulty_level", record.pop("difficulty", None))
                for name in LEDGER_TEXT:
                    value = record.get(name)
                    columns[name].append(
                        value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
                    )
                for name in (*LEDGER_INTEGERS, *LEDGER_REALS):
                    value = record.get(name)
                    columns[name].append(value if isinstance(value, int | float) else None)
                more = {name: record[name] for name in record if name not in known and name not in LEFT_OUT}
                columns["more"].append(orjson.dumps(more).decode() if more else None)
            yield polars.DataFrame(columns, schema=known, strict=False)
