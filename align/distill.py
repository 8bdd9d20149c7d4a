"""Teach a small model what a larger one knows, from its texts, its probabilities, or on the small one's own words.

    python -m align.distill align/recipes/distill.yml model=out/… teacher=out/… data=out/… out=out/…

* `sequence`: SFT on the teacher's texts. With `teacher` or `server` these are written first, one to each row of `data`;
  without either, `data` holds them (a folder of mediflow.curate, say). Any teacher will do.
* `logit`: alpha CE(gold) + (1 - alpha) T² KL(teacher ‖ student) on the tokens of the answers; one tokenizer for both.
  With `top_k` the teacher is asked once and its likeliest tokens are kept in raw/teacher.
* `onpolicy`: the student writes, and is corrected toward the teacher on what it wrote (trl.DistillationTrainer).

The teacher is frozen. Otherwise all is as in align.sft: its data, mixtures, packing and adapters, and what it writes.
Mind the terms of a teacher's provider, and look with eval.contamination whether its texts hold items of a test set.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from align import rows as select
from align import sft
from align.answering import answer_rows, open_speaker
from medsmith import run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.llm import Engine, TeacherConfig
from medsmith.records import read_parquet, write_jsonl, write_parquet

LOG = logging.getLogger(__name__)
TAUGHT = "taught"
"""The folder of what a teacher wrote for this run."""


class Config(sft.Config):
    """A student, a teacher, and how the one learns from the other."""

    method: Literal["sequence", "logit", "onpolicy"] = Field(description="what is learned from: see above")
    teacher: ModelRef | None = Field(None, description="a model folder or hub id; it is run in this process")
    server: TeacherConfig | None = Field(None, description="an endpoint in its place (sequence only)")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the gold answer; the teacher has the rest (logit)")
    temperature: float = Field(2.0, gt=0, description="softens the probabilities of both (logit)")
    sampling_temperature: float = Field(0.0, ge=0, description="of the teacher's writing; 0: the likeliest (sequence)")
    top_k: int | None = Field(None, ge=1, description="keep so many of the teacher's likeliest tokens (logit)")
    max_new_tokens: int = Field(512, ge=1, description="the longest text of the teacher; one that is cut is dropped")
    teacher_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of its weights")
    engine: Engine = execution("local", "who makes the calls to server: local, batch, vllm or ray")
    allow_failed: float = execution(0.05, "the share of calls without any answer above which the run stops")

    @model_validator(mode="after")
    def _who_teaches(self) -> Config:
        if self.method != "sequence" and (self.teacher is None or self.server is not None):
            raise ValueError(f"method {self.method} needs the teacher's probabilities: teacher=, a folder or hub id")
        if self.teacher is not None and self.server is not None:
            raise ValueError("give one of teacher and server, or neither where data holds the teacher's texts")
        if self.method == "onpolicy" and self.mix:
            raise ValueError("method onpolicy takes its prompts from data, not from a mix")
        if self.mix and (self.teacher or self.server) and self.method == "sequence":
            raise ValueError("a teacher writes to the rows of data; write them first, then name that folder in mix")
        if self.top_k is not None and self.method != "logit":
            raise ValueError("top_k belongs to method logit")
        return self


def main(settings: Config, callbacks: Sequence[Any] = ()) -> Path:
    """Distill by the method; `callbacks` are transformers' own."""
    with run.start(settings, "align.distill") as this:
        this.facts["teacher"] = str(settings.teacher or (settings.server.model if settings.server else settings.data))
        if settings.method == "onpolicy":
            from align.onpolicy import distill_on_policy

            return distill_on_policy(settings, this, callbacks)
        if settings.method == "logit":
            return _from_logits(settings, this, callbacks)
        if settings.teacher or settings.server:
            settings = settings.model_copy(
                update={"data": _write_texts(settings, this), "quotas": {}, "top_rows": None}
            )
        return sft.tune(settings, this, "distill", callbacks)


def _from_logits(settings: Config, this: run.Run, callbacks: Sequence[Any]) -> Path:
    from align.distillation import check_same_tokens
    from align.distiller import Teaching, freeze, trainer_class
    from medsmith.local_chat import fingerprint
    from medsmith.models import load_model, load_tokenizer

    assert settings.teacher is not None, "the validator asks for one"
    ours, theirs = load_tokenizer(settings.model), load_tokenizer(settings.teacher)
    check_same_tokens(ours, theirs)
    if ours.chat_template != theirs.chat_template:
        LOG.warning("the teacher has another chat template: it reads the student's, which it was not trained on")
    teaching = Teaching(
        freeze(load_model(settings.teacher, settings.teacher_dtype)),
        f"{fingerprint(settings.teacher)} {settings.teacher_dtype}",
        settings.alpha,
        settings.temperature,
        settings.top_k,
        settings.out / "raw" / "teacher",
    )
    return sft.tune(settings, this, "distill", callbacks, trainer_class(teaching))


def _write_texts(settings: Config, this: run.Run) -> Path:
    """Let the teacher answer the rows; return the folder that holds them with its texts in place of theirs."""
    from medsmith.models import set_threads

    set_threads(settings.threads)
    assert settings.data is not None, "the validator asks for data where a teacher writes"
    found = read_parquet(settings.data / "data" if (settings.data / "data").is_dir() else settings.data)
    rows, dropped = select.usable(found)
    rows, rest = select.best(rows, settings.top_rows, settings.seed, settings.quotas)
    dropped = [*dropped, *rest]
    with (
        Journal(this.folder / "raw" / "answers.jsonl") as journal,
        open_speaker(
            settings.teacher, settings.server, this.folder, settings.engine, dtype=settings.teacher_dtype
        ) as speaker,
    ):
        answers, usage = answer_rows(
            rows,
            speaker,
            journal,
            samples=1,
            temperature=settings.sampling_temperature,
            max_tokens=settings.max_new_tokens,
            allow_failed=settings.allow_failed,
            seed=settings.seed,
            refusals=False,
        )
    written = [replace(row, output=answers[row.id].texts[0]) for row in rows if answers[row.id].texts]
    for row in rows:
        if not (answer := answers[row.id]).texts:
            why = answer.error or ("longer than max_new_tokens" if answer.cut else "empty")
            dropped.append({"id": row.id, "reason": f"no text of the teacher: {why}"})
    assert len(found) == len(written) + len(dropped), "no row vanishes"
    write_jsonl(this.folder / TAUGHT / "dropped.jsonl", dropped)
    if not written:
        raise UserError(f"the teacher wrote to none of {len(found)} rows; see {this.folder / TAUGHT}/dropped.jsonl")
    write_parquet(this.folder / TAUGHT / "data" / "train-00000-of-00001.parquet", written)
    reasons = dict(sorted(Counter(row["reason"] for row in dropped).items()))
    this.facts["taught"] = {"rows": len(found), "written": len(written), "dropped": reasons, "usage": usage}
    return this.folder / TAUGHT


if __name__ == "__main__":
    run_command(main, Config)
