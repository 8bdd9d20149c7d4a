"""Turn what was generated and judged into a data set: filtered, without duplicates and test items, ranked, described.

    python -m mediflow.curate mediflow/recipes/curate_embedded.yml min_quality=3

A pure function of its input files: free to repeat with another threshold. Every row that goes is in `dropped.parquet`
with its reason, and, where it repeats something, of what and how nearly; `ledger.parquet` tells of every record that
was ever made what became of it. The rows of `data/` stand in an order whose every beginning is spread over the strata,
best first.

Millions of rows fit on one machine: their texts are read part by part (`columns`, once; the columns lie in `raw/` and
serve the next run with other thresholds), all is decided on numbers (`decide`), and texts are read again by their
places where a file is written (`curated`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mediflow.curation.columns import (
    LEXICAL,
    SCREEN,
    Columns,
    Part,
    Reading,
    edited_id,
    load_columns,
    read_part,
    sample_contents,
)
from mediflow.curation.curated import CRITERIA, Sheet, why, write_ledger, write_sheet
from mediflow.curation.decide import Decided, decide
from mediflow.curation.decisions import Conflict, Verdict, read_reviewers, read_verdicts
from mediflow.curation.describe import Curation, write_description
from mediflow.curation.filters import Limits
from mediflow.curation.scores import describe_judges, read_scores, require_own_judges
from mediflow.curation.semantic import LexicalEncoder, SemanticDuplicates
from medsmith import run
from medsmith.blocklists import Blocklist
from medsmith.code_identity import code_of
from medsmith.command import run_command
from medsmith.config import Block, execution
from medsmith.config import Config as BaseConfig
from medsmith.decontaminate import JUDGED_LATER, Decontamination, Screen, build_screen
from medsmith.errors import UserError
from medsmith.licences import Licences
from medsmith.progress import Bar
from medsmith.records import Instruction
from medsmith.spread import spread

if TYPE_CHECKING:
    import polars

RARITY_ROWS = 2000
Column = Literal["task_type", "input_data", "output_format", "difficulty_level"]


class NearDuplicates(Block):
    """When two rows say the same: the Jaccard similarity of the word sets of input and output."""

    threshold: float | None = Field(0.8, gt=0, le=1, description="similarity that drops the lesser row; null keeps all")
    guard: bool = Field(
        True, description="rows that differ in a number or unit, a negation, side or drug are no duplicates"
    )
    shingle_words: int = Field(3, ge=1, description="words in a shingle")
    permutations: int = Field(128, ge=16, description="MinHash permutations; more propose more surely and cost more")
    within: list[Column] = Field(
        ["task_type", "output_format"],
        description="only rows equal in these are compared, here and by meaning: one note may serve several tasks",
    )


class Config(BaseConfig):
    """What to keep."""

    schema_version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("polars", "pyarrow", "rensa", "scikit-learn")

    generated: Path = Field(description="a mediflow.generate folder")
    more_generated: list[Path] = Field([], description="further ones, each of another seed")
    judged: Path | None = Field(None, description="the mediflow.judge folder of the same instructions")
    more_judged: list[Path] = Field([], description="the judge folders of `more_generated`")
    decisions: list[Path] = Field([], description="journals of mediflow.review: what people accepted, rejected, edited")
    review_conflict: Conflict = Field(
        "reject", description="where reviewers disagree: one rejection is enough, or it needs half of them (majority)"
    )
    blocklists: list[Path] = Field(
        [], description="benchmark files, or folders of them, whose texts no row may hold; as published"
    )
    limits: Limits = Limits()
    near_duplicates: NearDuplicates = NearDuplicates()
    semantic: SemanticDuplicates = SemanticDuplicates()
    decontamination: Decontamination = Decontamination()
    min_quality: float | None = Field(None, ge=1, le=4, description="rows judged lower, or not at all, are dropped")
    top_rows: int | None = Field(None, ge=1, description="keep so many: the best of every stratum, in proportion")
    stratify: list[Column] = Field(
        ["task_type", "input_data", "output_format"],
        description="what a stratum is; [] ranks by quality alone, as the paper did for SFT",
    )
    shard_rows: int = Field(500_000, ge=1, description="rows in a Parquet file")
    map_rows: int = Field(1500, ge=0, le=5000, description="rows on the report's map; 0 makes none")
    title: str = Field("Synthetic clinical instructions", description="the data set's name on its card")
    license: str | None = Field(
        None,
        description="the licence on the card, a Hugging Face identifier; null: cdla-permissive-2.0 where all sources "
        "are synthetic, else other",
    )
    engine: Literal["local", "ray"] = execution("local", "where rows are read and compared: here, or on a Ray cluster")
    workers: int = execution(1, "processes (ray: tasks at a time); each holds a few hundred MB")
    keep_columns: bool = execution(True, "leave the columns in raw/ (1 kB a row), so that another threshold is quick")


def main(config: Config) -> Path:
    """Curate into config.out."""
    folders = [config.generated, *config.more_generated]
    records = [run.require_finished(folder) for folder in folders]
    # Whatever a mistake can be found in without the rows is read before `start` clears an earlier result.
    for folder in folders:
        part_files(folder)
    require_own_judges(config, records)
    verdicts = read_verdicts(config.decisions, config.review_conflict)
    blocked = config.decontamination.load(config.blocklists)
    with run.start(config, "mediflow.curate") as this:
        given = [bool(one["config"].get("passages")) for one in records]
        columns, screen = read_columns(config, this.folder / "raw" / "columns", blocked, verdicts, given)
        scores = read_scores(config, columns)
        decided = decide(columns, scores[:, 0], verdicts, screen, blocked, config)
        if not len(decided.rank):
            raise UserError(_nothing_left(decided, len(columns)))
        write_rows(config, this.folder, columns, decided, scores, verdicts, blocked)
        # The blocklists are read, not passed on: their licences and labels are not the data set's.
        this.facts["licences"] = Licences()
        for one in records:
            this.facts["licences"] |= one["facts"].get("licences", {})
        this.facts["simulated"] = any(one["facts"].get("simulated") for one in records)
        this.facts["teacher"] = ", ".join(sorted({str(one["facts"].get("teacher") or "") for one in records} - {""}))
        this.facts["own_passages"] = any(map(from_own_passages, records))
        kept = decided.rank
        this.facts |= {
            "reasons": decided.counts(),
            "contamination": decided.contamination,
            "judged_rows": int((~np.isnan(scores[:, 0])).sum()),
            "instructions": len(np.unique(columns.array("instruction_key")[kept])),
            "judges": describe_judges(config),
            "reviewers": len(read_reviewers(config.decisions)),
            "reviewed": dict(sorted(Counter(verdict.decision for verdict in verdicts.values()).items())),
        }
        write_description(this.folder, config, Curation(columns, decided, scores, this.facts), folders)
        if not config.keep_columns:
            shutil.rmtree(this.folder / "raw" / "columns")
        return this.finish(**{"in": len(columns), "kept": len(kept), "dropped": len(columns) - len(kept)})


def from_own_passages(record: Mapping[str, Any]) -> bool:
    """Whether a generate run was about passages of the user's own, not those of the simulated clinic."""
    return bool(record["config"].get("passages")) and "simulated clinic" not in record["facts"].get("licences", {})


def read_columns(
    config: Config, cache: Path, blocked: Blocklist, verdicts: Mapping[str, Verdict], given: Sequence[bool]
) -> tuple[Columns, Screen | None]:
    """All rows as columns, from the cache where they are there; and the index of the benchmarks' texts.

    `given` tells of which folders the inputs were given.
    """
    folders = (config.generated, *config.more_generated)
    files = [(file, own) for folder, own in zip(folders, given, strict=True) for file in part_files(folder)]
    parts = [Part(number, file, own) for number, (file, own) in enumerate(files)]
    edits = {row: dict(verdict.edited) for row, verdict in verdicts.items() if verdict.edited}
    near = config.near_duplicates
    about = {
        "code": code_of(read_part.__module__),
        "inputs": [run.digest(path) for path in (config.generated, *config.more_generated, *config.blocklists)],
        "libraries": [importlib.metadata.version(name) for name in config.libraries],
        "settings": [config.limits.model_dump(), near.shingle_words, near.permutations, config.seed],
        "signatures": near.threshold is not None,
        "decontamination": config.decontamination.model_dump(exclude=JUDGED_LATER) if blocked.texts else None,
        "semantic": config.semantic.model_dump(exclude={"threshold", "least_concepts"})
        if config.semantic.threshold
        else None,
        "model": run.digest(config.semantic.model) if config.semantic.model else None,
        "edits": edits,
        "given": list(given),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    folder = cache / key
    for old in cache.glob("*"):
        if old != folder:
            shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    reading = Reading(
        folder.resolve(),
        config.limits,
        edits,
        near.shingle_words,
        near.permutations if near.threshold is not None else None,
        config.seed,
        config.decontamination if blocked.texts else None,
        config.semantic if config.semantic.threshold is not None else None,
    )
    screen = _prepare(config, reading, parts, blocked)
    with Bar("reading rows", unit="rows") as bar:
        work = partial(read_part, reading=reading)
        for count in spread(work, parts, engine=config.engine, workers=config.workers):
            bar.advance(count)
    return load_columns(reading.cache, parts, edits), screen


def part_files(folder: Path) -> list[Path]:
    """The files of a generate folder's rows, in order.

    Raises:
        UserError: it has none.
    """
    files = sorted((folder / "instructions").glob("part-*.jsonl"))
    if not files:
        raise UserError(f"{folder} has no instructions/part-*.jsonl; give a folder of mediflow.generate")
    return [file.resolve() for file in files]


def _prepare(config: Config, reading: Reading, parts: Sequence[Part], blocked: Blocklist) -> Screen | None:
    """What reading a part needs beforehand: the benchmarks' index, and an encoder fitted on a sample."""
    paths = [part.path for part in parts]
    screen = None
    if reading.decontamination is not None:
        rows = sample_contents(paths, RARITY_ROWS, random.Random(f"rarity {config.seed}"))
        screen = build_screen(blocked.texts, reading.decontamination, rows)
        if not (reading.cache / SCREEN).is_file():
            screen.save(reading.cache / SCREEN)
    settings = reading.semantic
    if settings is not None and settings.encoder == "lexical" and not (reading.cache / LEXICAL).is_file():
        texts = sample_contents(paths, settings.sample, random.Random(f"lexical {config.seed}"))
        LexicalEncoder.fit(texts, settings.dimensions, config.seed).save(reading.cache / LEXICAL)
    return screen


def _nothing_left(decided: Decided, count: int) -> str:
    reasons = decided.counts()
    if not reasons:
        return "there is no row to curate; look into the ledger of the generate folder"
    reason, most = max(reasons.items(), key=lambda item: item[1])
    return f"none of {count} rows is left; {most} went as {reason}; loosen that threshold"


def write_rows(
    config: Config,
    folder: Path,
    columns: Columns,
    decided: Decided,
    scores: NDArray[np.float64],
    verdicts: Mapping[str, Verdict],
    blocked: Blocklist,
) -> None:
    """Write data/, dropped.parquet and ledger.parquet; each row of the input is in one of the first two."""
    import polars

    fates = why(columns, decided, scores[:, 0], config.min_quality, verdicts, blocked)
    dropped = np.flatnonzero(decided.reason > 0)
    dropped = dropped[columns.table["id"].gather(dropped).arg_sort().to_numpy()]
    kept = decided.rank
    written = 0
    with Bar("writing rows", total=len(columns)) as bar:
        for count in spread(
            write_sheet, _sheets(config, folder, columns, kept, dropped, scores, fates), workers=config.workers
        ):
            written += count
            bar.advance(count)
    assert written == len(columns), "a row vanished"
    more = polars.DataFrame({name: scores[:, place] for place, name in enumerate(CRITERIA)}).fill_nan(None)
    ledgers = [file for one in (config.generated, *config.more_generated) for file in _ledger_files(one)]
    edited = {edited_id(row, verdict.edited): row for row, verdict in verdicts.items() if verdict.edited}
    ids = fates["id"].replace(edited) if edited else fates["id"]
    told = fates.select(
        ids,
        polars.when(ids != fates["id"]).then(fates["id"]).alias("edited_id"),
        polars.when(polars.col("reason").is_null())
        .then(polars.lit("kept"))
        .otherwise(polars.lit("dropped"))
        .alias("decision"),
        *(polars.col(name).alias(f"decision_{name}") for name in ("reason", "detail", "of", "similarity")),
    ).hstack(more)
    write_ledger(folder / "ledger.parquet", ledgers, told)


def _ledger_files(folder: Path) -> list[Path]:
    return sorted((folder / "ledger").glob("part-*.jsonl")) or part_files(folder)


def _sheets(
    config: Config,
    folder: Path,
    columns: Columns,
    kept: NDArray[np.int64],
    dropped: NDArray[np.int64],
    scores: NDArray[np.float64],
    fates: polars.DataFrame,
) -> Iterator[Sheet]:
    shards = -(-len(kept) // config.shard_rows)
    for number in range(shards):
        rows = kept[number * config.shard_rows : (number + 1) * config.shard_rows]
        path = folder / "data" / f"train-{number:05}-of-{shards:05}.parquet"
        yield Sheet(path.resolve(), columns.texts.take(rows), scores[rows])
    told = fates.select("reason", "detail", "of", "similarity")[dropped]
    yield Sheet(
        (folder / "dropped.parquet").resolve(),
        columns.texts.take(dropped),
        scores[dropped],
        {name: told[name].to_list() for name in told.columns},
    )


@dataclass(frozen=True)
class Dropped:
    """A row that was not kept. `of` names the row or the benchmark text that it repeats."""

    row: Instruction
    reason: str
    detail: str = ""
    of: str = ""
    similarity: float | None = None


def write_dropped(path: Path, dropped: list[Dropped]) -> None:
    """One Parquet file: the columns of the row, then reason, detail, of, similarity."""
    import polars

    names = {"row": Instruction.__dataclass_fields__, "why": Dropped.__dataclass_fields__}
    schema = {
        name: polars.Float64 if "float" in str(field.type) else polars.String
        for fields in names.values()
        for name, field in fields.items()
        if name != "row"
    }
    rows = []
    for one in dropped:
        values = asdict(one)
        rows.append(values.pop("row") | values)
    partial = path.with_name(path.name + ".partial")
    polars.DataFrame(rows, schema=schema).write_parquet(partial)
    partial.replace(path)


if __name__ == "__main__":
    run_command(main, Config)
