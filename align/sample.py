"""Preference pairs from a model's own answers: sample several for each row, score them, pair the best with the worst.

    python -m align.sample align/recipes/sample.yml model=out/… data=out/… out=out/…

On-policy: what is rejected is what the model itself would say, so training moves what is likely. Answers come from a
model folder (`model`) or an endpoint (`server`); they are scored against the row's own output (JSON by its values, a
label by equality, all else by ROUGE-L) or by a `judge`. So pairs attack the errors that the model makes, as often as it
makes them: `error_type` says what is wrong with the rejected answer (align/error_types.py). Writes a pair folder as
mediflow.pair does (`data/*.parquet` with rejected_output), which align.dpo reads as it is, `scores.jsonl` and
`dropped.jsonl`. A killed run continues; another margin costs nothing, for the calls are kept in raw/.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from align import rows as select
from align.answering import Answers, answer_rows, open_speaker
from align.error_types import Terms, answers_by_task, find_errors, read_terms
from align.pairing import ON_POLICY, Limits, Scored, describe, make_pair
from align.quotas import Quotas
from align.scores import judge_messages, measure_of, read_grade, score
from medsmith import config, run
from medsmith.answer_balance import balance_answers, count_answers, largest_difference
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.llm import Engine, Summary, TeacherConfig, open_teacher, run_calls
from medsmith.records import Instruction, read_parquet, write_jsonl, write_parquet

LOG = logging.getLogger(__name__)
UNEVEN = "its answer is rejected or chosen too often"
Known = Mapping[str, Collection[str]]


class Config(config.Config):
    """Whose answers, how many, and what makes a pair."""

    libraries: ClassVar[tuple[str, ...]] = ("polars", "torch", "transformers")

    data: Path = Field(description="a curate folder (data/*.parquet), or a folder of Parquet files")
    model: ModelRef | None = Field(None, description="the model that answers, in this process: a folder or a hub id")
    server: TeacherConfig | None = Field(None, description="or an endpoint, or a server that is started for it")
    top_rows: int | None = Field(None, ge=1, description="the rows of highest judged quality; default: all")
    quotas: Quotas = Field({}, description="at most so many rows of a kind, e.g. {task_type: {summarization: 1000}}")
    samples: int = Field(4, ge=2, description="answers to each row")
    temperature: float = Field(1.0, gt=0, description="of the sampling")
    top_p: float = Field(1.0, gt=0, le=1, description="sample from the likeliest tokens with this mass (model only)")
    max_tokens: int = Field(512, ge=1, description="the longest answer; one that is cut is no candidate")
    judge: TeacherConfig | None = Field(None, description="the model that grades answers; default: the row's output")
    margin: float = Field(0.1, gt=0, le=1, description="the least difference of scores, from 0 to 1")
    least: float = Field(0.0, ge=0, le=1, description="the least score of the better answer")
    max_length_ratio: float = Field(4.0, gt=1, description="drop pairs in which one answer is so many times longer")
    balance_answers: bool = Field(
        False, description="drop pairs until each short answer of a task is rejected as often as chosen, within one"
    )
    generated: Path | None = Field(
        None, description="the mediflow.generate folder whose facts name drugs, diseases and symptoms, for error types"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights when run")
    device: str = execution("auto", "auto, cpu or cuda")
    engine: Engine = execution("local", "who makes the calls to server and judge: local, batch, vllm or ray")
    allow_failed: float = execution(0.05, "the share of calls without any answer above which the run stops")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")

    @model_validator(mode="after")
    def _one_answers(self) -> Config:
        if (self.model is None) == (self.server is None):
            raise ValueError("give exactly one of model (a folder or hub id) and server (an endpoint)")
        if self.server is not None and self.top_p < 1:
            raise ValueError("top_p of a server goes into server.extra_body: {top_p: …}")
        return self


def main(settings: Config) -> Path:
    """Sample, score, pair."""
    with run.start(settings, "align.sample") as this:
        found = read_parquet(settings.data / "data" if (settings.data / "data").is_dir() else settings.data)
        rows, dropped = select.usable(found)
        rows, rest = select.best(rows, settings.top_rows, settings.seed, settings.quotas)
        dropped = [*dropped, *rest]
        answers, usage = sample(settings, this.folder, rows)
        scored, judging = grade(settings, this.folder, rows, answers)
        limits = Limits(settings.margin, settings.least, settings.max_length_ratio)
        terms = read_terms(settings.generated / "facts.jsonl") if settings.generated else {}
        known = answers_by_task(rows)
        made = {row.id: _typed(make_pair(row, scored[row.id], limits), row, known, terms) for row in rows}
        pairs = [pair for pair in made.values() if isinstance(pair, Instruction)]
        dropped += [
            {"id": key, "reason": why, **_lost(answers[key])} for key, why in made.items() if isinstance(why, str)
        ]
        uneven = largest_difference(count_answers(pairs))
        if settings.balance_answers:
            rows_of = {pair.id: key for key, pair in made.items() if isinstance(pair, Instruction)}
            balanced = balance_answers(pairs, settings.seed, swap=False)
            dropped += [{"id": rows_of[pair.id], "reason": UNEVEN, "answers": why} for pair, why in balanced.dropped]
            pairs = list(balanced.kept)
        assert len(found) == len(pairs) + len(dropped), "no row vanishes"
        write_jsonl(this.folder / "dropped.jsonl", dropped)
        if not pairs:
            raise UserError(f"none of {len(found)} rows gave a pair; {this.folder}/dropped.jsonl says why")
        write_parquet(this.folder / "data" / "train-00000-of-00001.parquet", pairs)
        write_jsonl(this.folder / "scores.jsonl", [_score_line(settings, row, scored[row.id]) for row in rows])
        this.facts["sample"] = describe(scored, pairs, dropped) | {"usage": usage, "judging": judging}
        this.facts["sample"]["answer_difference"] = {
            "before": uneven,
            "after": largest_difference(count_answers(pairs)),
        }
        LOG.info("%d pairs of %d rows; %s", len(pairs), len(found), this.facts["sample"]["reasons"])
        return this.finish(rows=len(found), kept=len(pairs), dropped=len(dropped))


def sample(settings: Config, folder: Path, rows: Sequence[Instruction]) -> tuple[dict[str, Answers], dict[str, Any]]:
    """The model's answers to every row."""
    with (
        Journal(folder / "raw" / "answers.jsonl") as journal,
        open_speaker(
            settings.model,
            settings.server,
            folder,
            settings.engine,
            top_p=settings.top_p,
            dtype=settings.dtype,
            device=settings.device,
        ) as speaker,
    ):
        if settings.model is not None:
            from medsmith.models import set_threads

            set_threads(settings.threads)
        return answer_rows(
            rows,
            speaker,
            journal,
            samples=settings.samples,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            allow_failed=settings.allow_failed,
            seed=settings.seed,
        )


def grade(
    settings: Config, folder: Path, rows: Sequence[Instruction], answers: dict[str, Answers]
) -> tuple[dict[str, list[Scored]], dict[str, Any] | None]:
    """What every answer earned, and the judge's usage where there is one. An answer without a grade is left out."""
    if settings.judge is None:
        return {row.id: [Scored(text, score(row, text)) for text in answers[row.id].texts] for row in rows}, None
    judge = settings.judge
    asked = {
        (row.id, text): judge.request(judge_messages(row, text), temperature=0.0, max_tokens=64)
        for row in rows
        for text in answers[row.id].texts
    }
    with (
        Journal(folder / "raw" / "grades.jsonl") as journal,
        open_teacher(judge, engine=settings.engine, folder=folder / "raw") as chat,
    ):
        calls = run_calls(list(asked.values()), chat, journal, judge.concurrency, "grades")
        usage = Summary.of(calls.values())
        usage.refuse_silence(settings.allow_failed)
        grades = {key: read_grade((calls[request.id]["texts"] or [None])[0]) for key, request in asked.items()}
    ungraded = sum(value is None for value in grades.values())
    scored = {
        row.id: [Scored(text, value) for text in answers[row.id].texts if (value := grades[row.id, text]) is not None]
        for row in rows
    }
    return scored, usage.facts() | {"ungraded": ungraded}


def _typed(made: Instruction | str, row: Instruction, known: Known, terms: Terms) -> Instruction | str:
    """The pair with what is wrong with its rejected answer beside the row's own."""
    if isinstance(made, str):
        return made
    errors = find_errors(row, made.rejected_output, known[row.task_type], terms)
    return replace(made, error_type=f"{ON_POLICY}: {', '.join(errors)}") if errors else made


def _lost(answers: Answers) -> dict[str, Any]:
    """What explains a missing pair beside its reason."""
    return {"cut": answers.cut} | ({"error": answers.error} if answers.error else {})


def _score_line(settings: Config, row: Instruction, scored: Sequence[Scored]) -> dict[str, Any]:
    measure = "judge" if settings.judge else measure_of(row)
    return {"id": row.id, "measure": measure, "scores": [round(one.score, 6) for one in scored]}


if __name__ == "__main__":
    run_command(main, Config)
