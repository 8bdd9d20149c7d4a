"""Task metrics while a model trains: a small slice of validation data every so many steps, and what follows from it.

    evaluate: {every_steps: 200, questions: [data/validation], patience: 5}          # a block of a training recipe
    dev = open_slice(config.evaluate, tokenizer)
    summary = run_trainer(trainer, this, "sft", dev)

Multiple-choice questions are answered in this process, by the likelihood of each option, in the weights' own type and
not in the trainer's bfloat16: the score of a step is the score of the model that would be saved then. A suite is run on
a saved copy, as `python -m eval.run` would be by hand. Nothing that training draws or computes is touched, so the same
weights come out with and without it, but where it says to stop early or to keep the best.

Every score goes into `log/metrics.jsonl` as `dev` (the composite) and `dev_metrics`, where a killed training finds it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from medsmith import processes
from medsmith.config import Block
from medsmith.errors import UserError, nearest
from medsmith.questions import Question, answer, read_questions, tally
from medsmith.records import content_id

LOG = logging.getLogger(__name__)

MEAN = "mean"


class Suite(Block):
    """An evaluation suite, run as a command of its own on a copy of the model."""

    file: Path = Field(description="the suite's YAML, as in eval/suites")
    benchmarks: dict[str, Path] = Field(description="the file or folder of each of its benchmarks: never a test set")
    limit: int | None = Field(50, ge=1, description="at most so many items of every benchmark")


class Evaluate(Block):
    """Measure while training."""

    every_steps: int = Field(ge=1, description="steps between two measurements; the last step is measured too")
    questions: list[Path] = Field(
        [], description="files or folders of multiple-choice rows (topic, question, options, answer_index)"
    )
    limit: int = Field(200, ge=1, description="at most so many questions of each topic, drawn by the hash of their ids")
    suite: Suite | None = Field(None, description="a suite of eval.run; slower, a command of its own each time")
    metric: str = Field(MEAN, description="what is best: the plain mean of all, or one topic or benchmark by name")
    patience: int | None = Field(None, ge=1, description="stop after so many measurements without a better one")
    keep: Literal["best", "last"] = Field("best", description="which weights are saved")

    @model_validator(mode="after")
    def _something_to_measure(self) -> Evaluate:
        if not self.questions and self.suite is None:
            raise ValueError("give questions (files of multiple-choice rows), a suite, or both")
        return self


@dataclass(frozen=True)
class DevSlice:
    """What is measured, and how it is judged."""

    settings: Evaluate
    questions: Sequence[Question]
    tokenizer: Any

    def measure(self, model: Any, scratch: Path) -> dict[str, float]:
        """The value of every metric, 0 to 1: the accuracy on each topic, the headline of each benchmark."""
        found: dict[str, float] = {}
        with undisturbed(model):
            if self.questions:
                right = answer(model, self.tokenizer, self.questions).right
                found |= tally(right, self.questions).topics
            if self.settings.suite is not None:
                found |= run_suite(self.settings.suite, model, self.tokenizer, scratch)
        return found

    def composite(self, metrics: Mapping[str, float]) -> float:
        """The number that is looked at.

        Raises:
            UserError: the metric asked for is none of those measured.
        """
        name = self.settings.metric
        if name == MEAN:
            return round(sum(metrics.values()) / len(metrics), 6)
        if name not in metrics:
            raise UserError(f"evaluate.metric={name} is not measured; {nearest(name, [MEAN, *metrics])}")
        return metrics[name]


def open_slice(settings: Evaluate | None, tokenizer: Any) -> DevSlice | None:
    """Read what is to be measured; None where nothing is."""
    if settings is None:
        return None
    rows = read_questions(settings.questions) if settings.questions else []
    return DevSlice(settings, choose(rows, settings.limit), tokenizer)


def choose(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most `limit` of each topic, those of the smallest hash; in the order given."""
    kept = set()
    for topic in {question.topic for question in questions}:
        ids = sorted((question.id for question in questions if question.topic == topic), key=content_id)
        kept |= {(topic, key) for key in ids[:limit]}
    return [question for question in questions if (question.topic, question.id) in kept]


@dataclass(frozen=True)
class History:
    """The composites of a training by step; step 0 is the model before it."""

    scores: Mapping[int, float]

    @property
    def best(self) -> int | None:
        """The step of the highest score, the first of equal ones; the untrained model is not among them."""
        trained = [step for step in sorted(self.scores) if step > 0]
        return max(trained, key=lambda step: (self.scores[step], -step), default=None)

    def is_over(self, patience: int | None) -> bool:
        """Whether so many measurements in a row were no better than the best one before them."""
        if patience is None or self.best is None:
            return False
        return sum(step > self.best for step in self.scores) >= patience

    def summary(self, kept: str) -> dict[str, Any]:
        """What a card should say."""
        steps = sorted(self.scores)
        best = self.best
        return {
            "measurements": len(steps),
            "before": self.scores.get(0),
            "best": None if best is None else self.scores[best],
            "best_step": best,
            "last": self.scores[steps[-1]] if steps else None,
            "last_step": steps[-1] if steps else None,
            "kept": kept,
            "kept_step": best if kept == "best" else steps[-1] if steps else None,
        }


def history_of(rows: Sequence[Mapping[str, Any]]) -> History:
    """What the rows of a training in metrics.jsonl tell."""
    return History({row["step"]: row["dev"] for row in rows if "dev" in row})


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Run a model outside of training: no dropout, no autocast, and every source of chance as it was afterwards."""
    import random

    import numpy as np
    import torch

    modes = {module: module.training for module in model.modules()}
    chance = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    # accelerate puts a forward in bfloat16 over the model's own, and notes that one.
    wrapped = model.__dict__.get("forward") if "_original_forward" in model.__dict__ else None
    model.eval()
    if wrapped is not None:
        model.forward = model._original_forward
    try:
        with torch.no_grad():
            yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
        for module, training in modes.items():
            module.training = training
        random.setstate(chance[0])
        np.random.set_state(chance[1])
        torch.set_rng_state(chance[2])
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)


def run_suite(suite: Suite, model: Any, tokenizer: Any, scratch: Path) -> dict[str, float]:
    """The headline value of each benchmark, found by eval.run on a copy of the model: stages meet in files.

    Raises:
        UserError: the suite fails; its last line is told.
    """
    from medsmith.training import save_model

    if hasattr(model, "peft_config"):
        raise UserError("evaluate.suite needs a model folder, and an adapter is none; give evaluate.questions instead")
    folder, out = scratch / "model", scratch / "evaluation"
    shutil.rmtree(scratch, ignore_errors=True)
    save_model(model, tokenizer, folder, str(model.dtype).removeprefix("torch."))
    settings = scratch / "suite.json"
    places = {name: str(path.resolve()) for name, path in suite.benchmarks.items()}
    told = {"suite": str(suite.file.resolve()), "benchmarks": places, "limit": suite.limit}
    settings.write_text(json.dumps(told))
    words = [sys.executable, "-m", "eval.run", str(settings), f"out={out}", f"model={folder.resolve()}", "name=dev"]
    clone = Path(__file__).parents[1]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=clone, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        raise UserError(f"evaluate.suite failed: {said}")
    benchmarks = json.loads((out / "result.json").read_text())["benchmarks"]
    shutil.rmtree(scratch)
    return {name: round(entry["value"], 6) for name, entry in benchmarks.items()}


# --- in a training ----------------------------------------------------------------------------------------------------


def dev_watcher(dev: DevSlice, metrics: Any, folder: Path) -> Any:
    """A callback that measures, keeps the best weights in `folder`, and says when to stop.

    `metrics` is the training's log (medsmith/training_log.py). Of several processes the main one measures.
    """
    from transformers import TrainerCallback

    settings = dev.settings

    class DevWatcher(TrainerCallback):
        history = processes.tell(history_of(metrics.rows))

        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            for path in folder.glob("best-*"):
                # Of steps that are to be done again.
                if processes.is_main() and _step(path) > state.global_step:
                    path.unlink()
            if state.global_step == 0:
                self.look(state, rest["model"])

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            last = state.global_step >= state.max_steps
            if state.global_step % settings.every_steps and not last:
                return
            self.look(state, rest["model"])
            if self.history.best == state.global_step and settings.keep == "best" and processes.is_main():
                _save(rest["model"], folder / f"best-{state.global_step}.safetensors")
            if self.history.is_over(settings.patience) and not last:
                LOG.info("step %d: no better for %d measurements; stopped", state.global_step, settings.patience)
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            # No earlier step than this checkpoint will be the beginning of another try.
            for path in folder.glob("best-*"):
                if processes.is_main() and _step(path) != self.history.best:
                    path.unlink()

        def look(self, state: Any, model: Any) -> None:
            began = time.monotonic()
            found = processes.tell(dev.measure(model, folder / "dev") if processes.is_main() else None)
            assert found is not None, "the main process has measured"
            score = dev.composite(found)
            if not math.isfinite(score):
                raise UserError(f"the dev score is {score} at step {state.global_step}; lower learning_rate")
            self.history = History({**self.history.scores, state.global_step: score})
            if processes.is_main():
                values = {"dev": score, "dev_metrics": found, "dev_seconds": round(time.monotonic() - began, 3)}
                metrics.append(state.global_step, state.num_input_tokens_seen, values)
            LOG.info("step %d: dev score %.4f (best %.4f)", state.global_step, score, max(self.history.scores.values()))

    return DevWatcher()


def check_whole(dev: DevSlice, trainer: Any) -> None:
    """Refuse what several processes cannot measure.

    Raises:
        UserError: the model lies in parts, or a suite is asked for and the others would wait for it.
    """
    if processes.is_sharded(trainer):
        raise UserError(
            "evaluate needs the whole model in one process; leave `evaluate` out, or train without sharding"
        )
    if dev.settings.suite is not None and processes.count() > 1:
        raise UserError("evaluate.suite works in a training of one process; give evaluate.questions instead")


def keep_best(dev: DevSlice, model: Any, folder: Path, history: History) -> dict[str, Any]:
    """Put the best weights into the model where they are wanted; return what a card should say."""
    best = history.best
    steps = sorted(history.scores)
    if dev.settings.keep == "last" or best is None or best == steps[-1]:
        return history.summary("last")
    path = folder / f"best-{best}.safetensors"
    if not path.is_file():
        LOG.warning(
            "the weights of step %d, the best, are gone (a checkpoint after it was torn); the last are kept", best
        )
        return history.summary("last")
    _load(model, path)
    return history.summary("best")


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2].partition(".")[0])


def _save(model: Any, path: Path) -> None:
    from safetensors.torch import save_file

    trained = {
        name: weight.detach().cpu().contiguous() for name, weight in model.named_parameters() if weight.requires_grad
    }
    partial = path.with_suffix(".partial")
    save_file(trained, partial)
    partial.replace(path)


def _load(model: Any, path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    trained = load_file(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(trained.pop(name))
    assert not trained, "the file holds the weights that are trained and no others"
