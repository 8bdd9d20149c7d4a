"""Turn what was generated and judged into a data set: filtered, without duplicates and test items, ranked, described.

    python -m mediflow.curate mediflow/recipes/curate_embedded.yml min_quality=3

A pure function of its input files: free to repeat with another threshold. Every row that goes is in `dropped.parquet`
with its reason, and, where it repeats something, of what and how nearly. The rows of `data/` stand in an order whose
every beginning is spread over the strata, best first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from mediflow.blocklists import Blocklist, load_blocklists
from mediflow.card import write_curated_card
from mediflow.coverage import describe_coverage, read_planned
from mediflow.decontaminate import Decontamination, find_contaminated
from mediflow.dedup import Duplicate, find_exact_duplicates, find_near_duplicates
from mediflow.filters import Limits, find_fault
from mediflow.page import Described, write_page
from mediflow.rank import order_by_quality, order_stratified
from mediflow.shingles import split_words
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Block
from medsmith.config import Config as BaseConfig
from medsmith.errors import UserError
from medsmith.records import Instruction, parse_row, read_jsonl, write_json, write_parquet

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")
Column = Literal["task_type", "input_data", "output_format", "difficulty_level"]


class NearDuplicates(Block):
    """When two rows say the same: the Jaccard similarity of the word sets of input and output."""

    threshold: float | None = Field(0.8, gt=0, le=1, description="similarity that drops the lesser row; null keeps all")
    shingle_words: int = Field(3, ge=1, description="words in a shingle")
    permutations: int = Field(128, ge=16, description="MinHash permutations; more propose more surely and cost more")
    within: list[Column] = Field(
        ["task_type", "output_format"],
        description="only rows equal in these are compared: one note may serve several tasks",
    )


class Config(BaseConfig):
    """What to keep."""

    libraries: ClassVar[tuple[str, ...]] = ("polars", "rensa")

    generated: Path = Field(description="a mediflow.generate folder")
    judged: Path | None = Field(None, description="the mediflow.judge folder of the same instructions")
    blocklists: list[Path] = Field(
        [], description="benchmark files, or folders of them, whose texts no row may hold; as published"
    )
    limits: Limits = Limits()
    near_duplicates: NearDuplicates = NearDuplicates()
    decontamination: Decontamination = Decontamination()
    min_quality: float | None = Field(None, ge=1, le=4, description="rows judged lower, or not at all, are dropped")
    top_rows: int | None = Field(None, ge=1, description="keep so many: the best of every stratum, in proportion")
    stratify: list[Column] = Field(
        ["task_type", "input_data", "output_format"],
        description="what a stratum is; [] ranks by quality alone, as the paper did for SFT",
    )
    shard_rows: int = Field(500_000, ge=1, description="rows in a Parquet file")
    title: str = Field("Synthetic clinical instructions", description="the data set's name on its card")
    license: str = Field("cdla-permissive-2.0", description="the licence on the card, a Hugging Face identifier")


@dataclass(frozen=True)
class Dropped:
    """A row that was not kept. `of` names the row or the benchmark text that it repeats."""

    row: Instruction
    reason: str
    detail: str = ""
    of: str = ""
    similarity: float | None = None


@dataclass(frozen=True)
class Curated:
    """Everything that came in, parted; `contamination` is {benchmark: counts}."""

    kept: list[Instruction]
    dropped: list[Dropped]
    contamination: dict[str, dict[str, int]]


def main(config: Config) -> Path:
    """Curate into config.out."""
    record = run.require_finished(config.generated)
    with run.start(config, "mediflow.curate") as this:
        rows = read_judged(config)
        blocked = load_blocklists(config.blocklists, config.decontamination.min_words)
        result = curate(rows, blocked, config)
        if not result.kept:
            raise UserError(_nothing_left(result.dropped))
        for number, shard in enumerate(shards := _shards(result.kept, config.shard_rows)):
            write_parquet(this.folder / "data" / f"train-{number:05}-of-{len(shards):05}.parquet", shard)
        write_dropped(this.folder / "dropped.parquet", result.dropped)
        # The blocklists are read, not passed on: their licences and labels are not the data set's.
        this.facts["licences"] = dict(record["facts"].get("licences", {}))
        this.facts["simulated"] = bool(record["facts"].get("simulated"))
        reasons = Counter(one.reason for one in result.dropped)
        judged = sum(row.quality is not None for row in rows)
        facts = {
            "reasons": dict(sorted(reasons.items())),
            "contamination": result.contamination,
            "judged_rows": judged,
            "instructions": len({row.instruction for row in result.kept}),
        }
        this.facts |= facts | {"teacher": record["facts"].get("teacher", "")}
        table = describe_rows(rows, result.dropped)
        coverage = describe_coverage(table, read_planned(config.generated / "coverage.json"))
        write_json(this.folder / "coverage.json", coverage)
        write_curated_card(this.folder / "README.md", config, result.kept, len(rows), this.facts)
        samples = [asdict(row) for row in result.kept[:300]]
        about = (table, table.clear(), samples, coverage, result.contamination, this.facts)
        write_page(this.folder / "report.html", Described(config.title, *about))
        return this.finish(**{"in": len(rows), "kept": len(result.kept), "dropped": len(result.dropped)})


def describe_rows(rows: list[Instruction], dropped: list[Dropped]) -> Any:
    """One line a row that came in, for the page and the coverage: its columns, lengths, and what became of it."""
    import polars

    why = {one.row.id: one.reason for one in dropped}
    lines = []
    for row in rows:
        words = {f"{part}_words": len(split_words(getattr(row, part))) for part in ("instruction", "input", "output")}
        lines.append({**asdict(row), **words, "decision": why.get(row.id, "kept")})
    return polars.DataFrame(lines, infer_schema_length=None)


def read_judged(config: Config) -> list[Instruction]:
    """The generated rows with the mean scores of their instruction, None where no judge answered.

    Raises:
        UserError: a judge folder that knows none of the instructions.
    """
    scores: dict[str, dict[str, Any]] = {}
    if config.judged is not None:
        run.require_finished(config.judged)
        scores = {str(row["instruction_id"]): row for row in read_jsonl(config.judged / "scores.jsonl")}
    path = config.generated / "instructions.jsonl"
    rows = []
    met = 0
    for number, values in enumerate(read_jsonl(path), 1):
        row = parse_row(Instruction, values, f"{path} row {number}")
        found = scores.get(str(values.get("instruction_id")))
        if found is not None:
            met += 1
            means: dict[str, Any] = {name: found["mean"][name] for name in CRITERIA}
            row = replace(row, **means)
        rows.append(row)
    if config.judged is not None and rows and not met:
        raise UserError(
            f"{config.judged} judged none of the instructions of {config.generated}; give their own judge run"
        )
    return rows


def _nothing_left(dropped: list[Dropped]) -> str:
    if not dropped:
        return "there is no row to curate; look into failed.jsonl of the generate folder"
    (reason, count), *_ = Counter(one.reason for one in dropped).most_common(1)
    return f"none of {len(dropped)} rows is left; {count} went as {reason}; loosen that threshold"


def curate(rows: list[Instruction], blocked: Blocklist, config: Config) -> Curated:
    """Part the rows into kept and dropped; every row is in exactly one of the two.

    Thresholds on quality and number come last, so that another one changes nothing but what it drops.
    """
    dropped: list[Dropped] = []
    left = [rows[number] for number in order_by_quality([row.quality for row in rows], [row.id for row in rows])]
    faults = {number: fault for number, row in enumerate(left) if (fault := find_fault(row, config.limits))}
    dropped += [Dropped(left[number], fault.reason, fault.detail) for number, fault in faults.items()]
    left = _without(left, faults)

    exact = find_exact_duplicates([(row.instruction, row.input, row.output) for row in left])
    dropped += _repeats(left, exact, "exact_duplicate")
    left = _without(left, exact)

    settings = config.near_duplicates
    if settings.threshold is not None:
        near = find_near_duplicates(
            [_content(row) for row in left],
            settings.threshold,
            [tuple(getattr(row, column) for column in settings.within) for row in left],
            settings.shingle_words,
            settings.permutations,
            config.seed,
        )
        dropped += _repeats(left, near, "near_duplicate")
        left = _without(left, near)

    left, leaks, contamination = _decontaminate(left, blocked, config.decontamination)
    dropped += leaks

    if (least := config.min_quality) is not None:
        low = {number: row.quality for number, row in enumerate(left) if row.quality is None or row.quality < least}
        for number, quality in low.items():
            reason = "unjudged" if quality is None else "low_quality"
            dropped.append(
                Dropped(left[number], reason, "" if quality is None else f"{quality:g} of at least {least:g}")
            )
        left = _without(left, low)

    strata = [tuple(getattr(row, column) for column in config.stratify) for row in left]
    order = order_stratified([row.quality for row in left], [row.id for row in left], strata)
    ranked = [left[number] for number in order]
    kept = ranked[: config.top_rows]
    dropped += [Dropped(row, "beyond_top_rows") for row in ranked[len(kept) :]]

    dropped.sort(key=lambda one: one.row.id)
    assert len(rows) == len(kept) + len(dropped), "a row vanished"
    assert Counter(row.id for row in rows) == Counter([row.id for row in kept] + [one.row.id for one in dropped])
    return Curated(kept, dropped, contamination)


def _content(row: Instruction) -> str:
    """What makes a row itself: instructions share templates and are no sign of likeness."""
    return f"{row.input}\n{row.output}"


def _without(rows: list[Instruction], numbers: dict[int, Any]) -> list[Instruction]:
    return [row for number, row in enumerate(rows) if number not in numbers]


def _repeats(rows: list[Instruction], found: dict[int, Duplicate], reason: str) -> list[Dropped]:
    return [Dropped(rows[one], reason, of=rows[it.of].id, similarity=it.similarity) for one, it in found.items()]


def _decontaminate(
    rows: list[Instruction], blocked: Blocklist, settings: Decontamination
) -> tuple[list[Instruction], list[Dropped], dict[str, dict[str, int]]]:
    found = find_contaminated([_content(row) for row in rows], blocked.texts, settings)
    dropped = []
    counts = {
        benchmark: {"texts": 0, "ngram": 0, "containment": 0, "templates": 0, "unprotected": items}
        for benchmark, items in blocked.unprotected.items()
    }
    for one in blocked.texts:
        counts[one.benchmark]["texts"] += 1
    for benchmark, templates in found.templates.items():
        counts[benchmark]["templates"] = templates
    for number, hit in found.hits.items():
        source = blocked.texts[hit.blocked]
        counts[source.benchmark][hit.rule] += 1
        # Place and not text: a benchmark under a use agreement must not leak by way of a report.
        of = f"{source.benchmark}/{source.place}"
        dropped.append(Dropped(rows[number], "contaminated", f"{source.benchmark} by {hit.rule}", of, hit.similarity))
    return _without(rows, found.hits), dropped, dict(sorted(counts.items()))


def _shards(rows: list[Instruction], size: int) -> list[list[Instruction]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


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
