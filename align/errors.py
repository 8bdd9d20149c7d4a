"""Which errors does a model make? Its answers to rows with known answers, counted by kind of error; before and after.

    medsmith align.errors model=out/sft data=out/curate generated=out/generate out=out/errors/sft
    medsmith align.errors model=out/dpo data=out/curate generated=out/generate out=out/errors/dpo before=out/errors/sft

By default the rows that align.sft and align.dpo hold out with the same `heldout_share`, never rows that were trained
on. Answers are greedy. Kinds of error are told by comparison with the right answer (align/error_types.py); a row may
have several. Writes errors.md and errors.json (with `before`: the change of every rate, with its paired 95 % interval
over instructions), and answers.jsonl. The answers are kept in raw/: a killed run continues.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from align import rows as select
from align.answering import answer_rows, open_speaker
from align.error_types import answers_by_task, find_errors, read_terms
from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError
from medsmith.intervals import Interval, paired_change, wilson
from medsmith.journal import Journal
from medsmith.records import Instruction, content_id, read_jsonl, read_parquet, write_json, write_jsonl

LOG = logging.getLogger(__name__)
RIGHT = "right"


class Config(config.Config):
    """A model and rows with known answers."""

    libraries: ClassVar[tuple[str, ...]] = ("polars", "torch", "transformers")

    model: ModelRef = Field(description="the model that answers: a folder or a hub id")
    data: Path = Field(description="a curate folder (data/*.parquet), or a folder of Parquet files")
    generated: Path | None = Field(
        None, description="the mediflow.generate folder whose facts name drugs, diseases and symptoms; none: not told"
    )
    heldout_share: float | None = Field(
        0.02, gt=0, le=1, description="as in the training: only rows that it held out; null: all rows, if none trained"
    )
    before: Path | None = Field(None, description="a folder of align.errors on the same rows, to compare with")
    max_tokens: int = Field(128, ge=1, description="the longest answer; a longer one is an error of form")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights when run")
    device: str = execution("auto", "auto, cpu or cuda")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")


def main(settings: Config) -> Path:
    """Answer, compare, count."""
    with run.start(settings, "align.errors") as this:
        every = read_parquet(settings.data / "data" if (settings.data / "data").is_dir() else settings.data)
        usable = select.usable(every).rows
        share = settings.heldout_share
        rows = usable if share is None else select.hold_out(usable, share)[1]
        if not rows:
            raise UserError(f"heldout_share={share} of {len(usable)} rows holds out none; set the training's, or null")
        told = _answer(settings, this.folder, rows, answers_by_task(usable))
        write_jsonl(this.folder / "answers.jsonl", told)
        found = summarise(told)
        if settings.before is not None:
            found["changes"] = compare(list(read_jsonl(settings.before / "answers.jsonl")), told)
        write_json(this.folder / "errors.json", found)
        (this.folder / "errors.md").write_text(render(found), encoding="utf-8")
        this.facts["errors"] = {name: one["share"] for name, one in found["rates"].items()}
        LOG.info("\n%s", render(found))
        return this.finish(**{"in": len(every), "kept": len(rows), "dropped": len(every) - len(rows)})


def summarise(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows, and of each kind of error (and of right answers) its share with Wilson's interval, the commonest first."""
    counts = Counter(name for row in told for name in row["errors"] or [RIGHT])
    order = [RIGHT, *sorted(set(counts) - {RIGHT}, key=lambda name: (-counts[name], name))]
    rates = {name: wilson(counts[name], len(told)) for name in order}
    return {
        "rows": len(told),
        "rates": {
            name: {"rows": counts[name], "share": one.value, "low": one.low, "high": one.high}
            for name, one in rates.items()
        },
    }


def compare(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By how much each rate changed, after minus before on the same rows.

    Raises:
        UserError: the two were not asked the same rows.
    """
    old = {row["id"]: row for row in before}
    if old.keys() != {row["id"] for row in after}:
        raise UserError("before was asked other rows; run align.errors on the same data with the same heldout_share")
    names = sorted({name for row in [*before, *after] for name in row["errors"]})
    groups = [row["instruction"] for row in after]
    changes = {}
    for name in [RIGHT, *names]:
        was, now = [_has(old[row["id"]], name) for row in after], [_has(row, name) for row in after]
        changes[name] = {"before": sum(was) / len(after), **paired_change(was, now, groups)._asdict()}
    return changes


def render(found: dict[str, Any]) -> str:
    """A table of kinds of error."""
    if "changes" in found:
        lines = ["| kind of error | before | after | change (95 %) |", "| --- | ---: | ---: | ---: |"]
        for name, one in found["changes"].items():
            value, low, high = (100 * one[key] for key in ("value", "low", "high"))
            after = 100 * one["before"] + value
            change = f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
            lines.append(f"| {name} | {100 * one['before']:.1f} % | {after:.1f} % | {change} |")
    else:
        lines = ["| kind of error | rows | share (95 %) |", "| --- | ---: | ---: |"]
        for name, one in found["rates"].items():
            share = Interval(one["share"], one["low"], one["high"])
            lines.append(f"| {name} | {one['rows']} | {share} |")
    return f"Of {found['rows']:,} rows; one row may have several errors.\n\n" + "\n".join(lines) + "\n"


def _has(row: dict[str, Any], name: str) -> float:
    return float(not row["errors"] if name == RIGHT else name in row["errors"])


def _answer(settings: Config, folder: Path, rows: Sequence[Instruction], known: Any) -> list[dict[str, Any]]:
    from medsmith.models import set_threads

    set_threads(settings.threads)
    terms = read_terms(settings.generated / "facts.jsonl") if settings.generated else {}
    with (
        Journal(folder / "raw" / "answers.jsonl") as journal,
        open_speaker(settings.model, None, folder, "local", dtype=settings.dtype, device=settings.device) as speaker,
    ):
        answers, _ = answer_rows(
            rows, speaker, journal, samples=1, temperature=0.0, max_tokens=settings.max_tokens, allow_failed=1.0
        )
    told = []
    for row in rows:
        text = next(iter(answers[row.id].texts), None)
        # No whole answer: cut at max_tokens, empty, or no room for one beside the prompt.
        errors = ["format"] if text is None else list(find_errors(row, text, known[row.task_type], terms))
        about: dict[str, Any] = {"id": row.id, "instruction": content_id(row.instruction), "task_type": row.task_type}
        told.append(about | {"output": row.output, "answer": text, "errors": errors})
    return told


if __name__ == "__main__":
    run_command(main, Config)
