"""An index over a curate or generate folder, so that a million rows can be filtered at once. It lies in the cache.

Small columns are copied into a DuckDB file; the texts of a curate folder are read from its Parquet files where they
lie, those of a generate folder from one Parquet file beside the index. The folder itself is never written to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from medsmith import run
from medsmith.errors import UserError

if TYPE_CHECKING:
    import duckdb

VERSION = 2
"""Raised when the index is built otherwise: older ones are made anew."""
MEMORY = "2GB"
REJECTED = "~"
"""Stands in the id of a record that generate did not accept, after its own id."""
CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")
TEXTS = ("instruction", "input", "output", "rejected_output")
CELL = ("task_type", "input_data", "output_format", "difficulty_level")
ABOUT = {
    "id": "VARCHAR", "instruction_id": "VARCHAR", "call_id": "VARCHAR", "facts_id": "VARCHAR", "teacher": "VARCHAR",
    "checked": "INTEGER", "contradicted": "INTEGER",
}  # fmt: skip
GENERATED = ABOUT | dict.fromkeys((*CELL, "instruction", "input", "output"), "VARCHAR")
LINKS = ("instruction_id", "call_id", "facts_id", "teacher")
LEDGER = {
    "id": "VARCHAR", "call_id": "VARCHAR", "status": "VARCHAR", "reason": "VARCHAR", "detail": "VARCHAR",
    "of": "VARCHAR", "similarity": "DOUBLE", "text": "JSON", "contradictions": "JSON",
    "checked": "INTEGER", "facts_id": "VARCHAR", "teacher": "VARCHAR",
    "task_type": "VARCHAR", "input_data": "VARCHAR", "document_type": "VARCHAR", "section": "VARCHAR",
    "output_format": "VARCHAR", "difficulty_level": "VARCHAR", "difficulty": "VARCHAR",
}  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """The files that are looked at. `rows` are Parquet shards; a generate folder has `instructions` instead."""

    folder: Path
    kind: str
    record: dict[str, Any]
    rows: tuple[Path, ...] = ()
    dropped: Path | None = None
    curate_ledger: Path | None = None
    instructions: tuple[Path, ...] = ()
    ledger: tuple[Path, ...] = ()
    facts: tuple[Path, ...] = ()
    scores: tuple[Path, ...] = ()

    def files(self) -> list[Path]:
        """Every file, in a fixed order."""
        single = [path for path in (self.dropped, self.curate_ledger) if path]
        return [*self.rows, *single, *self.instructions, *self.ledger, *self.facts, *self.scores]


def find_sources(folder: Path, generated: Path | None = None, judged: Path | None = None) -> Sources:
    """What there is to look at. The generate and judge folders of a curate folder are those that it was made from.

    Raises:
        UserError: not a finished curate or generate folder, or a folder given for it is none.
    """
    record = run.require_finished(folder)
    judges = [judged] if judged else _made_from(record, "judged", "scores.jsonl")
    for one in judges:
        if not (one / "scores.jsonl").is_file():
            raise UserError(f"judged: {one} holds no scores.jsonl; give a folder of mediflow.judge")
    shards = tuple(sorted((folder / "data").glob("*.parquet")))
    if not shards and not (folder / "instructions").is_dir():
        raise UserError(f"{folder} holds neither data/*.parquet nor instructions/; give a curate or generate folder")
    origins = [generated] if generated else _made_from(record, "generated", "instructions")
    for one in (origins := origins if shards else [folder]):
        if not (one / "instructions").is_dir():
            raise UserError(f"generated: {one} holds no instructions/; give a folder of mediflow.generate")
    # The ledger of a curate folder holds all that is needed of generate's, and is quicker to read.
    joined = _file(folder / "ledger.parquet") if shards else None
    read = [] if joined else origins
    return Sources(
        folder=folder,
        kind="curate" if shards else "generate",
        record=record,
        rows=shards,
        dropped=_file(folder / "dropped.parquet") if shards else None,
        curate_ledger=joined,
        instructions=tuple(path for one in read for path in sorted((one / "instructions").glob("part-*.jsonl"))),
        ledger=tuple(path for one in read for path in sorted((one / "ledger").glob("part-*.jsonl"))),
        facts=tuple(one / "facts.jsonl" for one in origins if (one / "facts.jsonl").is_file()),
        scores=tuple(one / "scores.jsonl" for one in judges),
    )


def open_index(sources: Sources, cache: Path | None = None) -> Path:
    """The index's folder, with `index.duckdb` and, of a generate folder, `texts.parquet`; built where it is not there.

    Equal files (path, size, time) have one index; that of an earlier state of the folder is removed.
    """
    home = (cache or default_cache()) / hashlib.sha256(str(sources.folder.resolve()).encode()).hexdigest()[:16]
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sources.files()]
    state = hashlib.sha256(json.dumps([VERSION, stamps]).encode()).hexdigest()[:16]
    wanted = home / state
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        if not (wanted / "index.duckdb").is_file():
            for old in home.iterdir():
                if old.is_dir():
                    # Another server may still read it; on POSIX it keeps what it has opened.
                    shutil.rmtree(old, ignore_errors=True)
            partial = home / f"{state}.partial"
            partial.mkdir()
            _build(sources, partial)
            partial.replace(wanted)
    return wanted


def default_cache() -> Path:
    """Where indexes lie: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "medsmith" / "review"


def text_files(sources: Sources, index: Path) -> list[str]:
    """The Parquet files that hold the texts."""
    if sources.kind == "generate":
        return [str(index / "texts.parquet")]
    return [str(path) for path in (*sources.rows, sources.dropped) if path]


def _build(sources: Sources, place: Path) -> None:
    import duckdb

    with duckdb.connect(str(place / "index.duckdb")) as base:
        base.execute("SET preserve_insertion_order = true")
        base.execute(f"SET memory_limit = '{MEMORY}'")
        base.execute(f"SET temp_directory = {_text(str(place / 'spill'))}")
        if sources.kind == "generate":
            _write_texts(base, sources, place / "texts.parquet")
        _read_about(base, sources)
        _read_rows(base, sources, text_files(sources, place), place)
        base.execute("DROP TABLE about")
        base.execute("CHECKPOINT")
    shutil.rmtree(place / "spill", ignore_errors=True)


def _write_texts(base: duckdb.DuckDBPyConnection, sources: Sources, path: Path) -> None:
    """Accepted rows, then what the ledger holds of the others, with its raw text as output."""
    columns = ", ".join(f"{_name(name)}" for name in ("id", *CELL, "instruction", "input", "output"))
    rows = f"SELECT {columns}, 'accepted' AS reason, '' AS detail FROM {_jsonl(sources.instructions, GENERATED)}"
    if sources.ledger:
        # A rejected repeat has the id of the row that it repeats: the mark makes it a row of its own.
        rows += f""" UNION ALL BY NAME
            SELECT coalesce(id, call_id) || '{REJECTED}' || row_number() OVER () AS id, call_id, teacher, facts_id,
                task_type, coalesce(input_data, document_type || CASE WHEN section IS NULL
                    OR section IN ('', 'whole document') THEN '' ELSE ': ' || section END) AS input_data,
                output_format, coalesce(difficulty_level, difficulty) AS difficulty_level,
                coalesce("text"->>'$.instruction', '') AS instruction, coalesce("text"->>'$.input', '') AS input,
                coalesce(CASE json_type("text") WHEN 'OBJECT' THEN "text"->>'$.output' ELSE "text"->>'$' END, '')
                    AS output,
                coalesce(reason, status) AS reason, coalesce(detail, '') AS detail, "of", similarity,
                checked, json_array_length(contradictions)::INTEGER AS contradicted
            FROM {_jsonl(sources.ledger, LEDGER)} WHERE status <> 'accepted'"""
    # Small row groups: one row is read without its hundred thousand neighbours.
    base.execute(f"COPY ({rows}) TO {_text(str(path))} (FORMAT parquet, ROW_GROUP_SIZE 20000)")


def _read_about(base: duckdb.DuckDBPyConnection, sources: Sources) -> None:
    """What is known of rows beyond their columns, and the lines that are shown as they stand."""
    wanted = ", ".join(_name(name) for name in ABOUT)
    empty = ", ".join(f"NULL::{kind} AS {_name(name)}" for name, kind in ABOUT.items())
    found = f"SELECT {wanted} FROM {_jsonl(sources.instructions, ABOUT)}" if sources.instructions else None
    if sources.curate_ledger:
        held = f"read_parquet({_text(str(sources.curate_ledger))}, union_by_name = true)"
        known = {line[0] for line in base.execute(f"DESCRIBE SELECT * FROM {held}").fetchall()}
        columns = [f"{_name(name)}::{kind}" if name in known else f"NULL::{kind}" for name, kind in ABOUT.items()]
        if "edited_id" in known:
            # A row that a person edited has a new id; the ledger keeps both.
            columns[0] = "coalesce(edited_id, id)"
        named = ", ".join(f"{column} AS {_name(name)}" for column, name in zip(columns, ABOUT, strict=True))
        found = f"SELECT {named} FROM {held}"
    base.execute(f"CREATE TABLE about AS {found or f'SELECT {empty} WHERE false'}")
    lines = {
        "ledger": (sources.ledger, "json->>'$.id' AS id, json->>'$.call_id' AS call_id"),
        "facts": (sources.facts, "json->>'$.facts_id' AS facts_id"),
        "scores": (sources.scores, "json->>'$.instruction_id' AS instruction_id"),
    }
    for table, (files, keys) in lines.items():
        if files:
            source = f"read_json_objects({_list(files)}, format = 'newline_delimited', maximum_object_size = 67108864)"
            base.execute(f"CREATE TABLE {table} AS SELECT {keys}, json::VARCHAR AS line FROM {source}")
        else:
            names = [key.rsplit(" ", 1)[1] for key in keys.split(", ")]
            base.execute(f"CREATE TABLE {table} ({', '.join(f'{name} VARCHAR' for name in names)}, line VARCHAR)")


def _read_rows(base: duckdb.DuckDBPyConnection, sources: Sources, files: list[str], place: Path) -> None:
    """The table of rows: one a row, in the order of the files. `n` numbers them from 0."""
    source = f"read_parquet({_list(files)}, union_by_name = true, filename = true, file_row_number = true)"
    known = {line[0] for line in base.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}

    def column(name: str, kind: str = "VARCHAR", empty: str = "NULL") -> str:
        return f"coalesce(t.{_name(name)}, {empty})::{kind}" if name in known else f"{empty}::{kind}"

    scores = ", ".join(
        f"coalesce({column(name, 'FLOAT')}, (s.line->>'$.mean.{name}')::FLOAT) AS {name}" for name in CRITERIA
    )
    links = ", ".join(f"coalesce(a.{name}, {column(name)}) AS {name}" for name in LINKS)
    decision = "coalesce(t.reason, 'kept')" if "reason" in known else "'kept'"
    base.execute("CREATE TEMP TABLE files (file INTEGER, path VARCHAR)")
    base.executemany("INSERT INTO files VALUES (?, ?)", list(enumerate(files)))
    base.execute(
        f"""CREATE TABLE rows AS SELECT
            row_number() OVER (ORDER BY f.file, t.file_row_number) - 1 AS n, t.id::VARCHAR AS id,
            {", ".join(f"{column(name, empty=_text(''))} AS {name}" for name in CELL)},
            trim(split_part({column("input_data", empty=_text(""))}, ':', 1)) AS document,
            {scores}, {decision} AS decision, {column("detail", empty=_text(""))} AS detail,
            {column("of", empty=_text(""))} AS partner, {column("similarity", "DOUBLE")} AS similarity,
            {column("error_type", empty=_text(""))} AS error_type,
            {links}, coalesce(a.checked, {column("checked", "INTEGER")}) AS checked,
            coalesce(a.contradicted, {column("contradicted", "INTEGER")}, 0) AS contradicted,
            left(regexp_replace(left(CASE WHEN t.output = '' THEN t.input ELSE t.output END, 400),
                '\\s+', ' ', 'g'), 120) AS label, f.file, t.file_row_number AS place
        FROM {source} t JOIN files f ON t.filename = f.path
        LEFT JOIN (SELECT * FROM about QUALIFY row_number() OVER (PARTITION BY id) = 1) a ON a.id = t.id
        LEFT JOIN (SELECT * FROM scores QUALIFY row_number() OVER (PARTITION BY instruction_id) = 1) s
            ON s.instruction_id = coalesce(a.instruction_id, {column("instruction_id")})
        ORDER BY n"""
    )
    count = base.execute("SELECT count(*), count(DISTINCT n) FROM rows").fetchone()
    came = base.execute(f"SELECT count(*) FROM {source}").fetchone()
    assert count is not None and came is not None and count[0] == count[1] == came[0], f"a row vanished: {count} {came}"


def _jsonl(files: tuple[Path, ...], columns: dict[str, str]) -> str:
    typed = ", ".join(f"{_text(name)}: {_text(kind)}" for name, kind in columns.items())
    limit = "maximum_object_size = 67108864"
    return f"read_json({_list(files)}, format = 'newline_delimited', columns = {{{typed}}}, {limit})"


def _list(files: Any) -> str:
    return f"[{', '.join(_text(str(file)) for file in files)}]"


def _text(value: str) -> str:
    """A text as SQL writes it. Paths may hold quotes."""
    return "'" + value.replace("'", "''") + "'"


def _name(column: str) -> str:
    return f'"{column}"'


def _file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _made_from(record: dict[str, Any], name: str, holds: str) -> list[Path]:
    """The folders of an input and of its `more_…`, as far as they are still there."""
    inputs = record.get("inputs", {}).items()
    found = [Path(path) for key, path in inputs if key == name or key.startswith(f"more_{name}.")]
    return [path for path in found if (path / holds).exists()]
