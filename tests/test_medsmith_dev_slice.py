"""Measuring while training changes nothing, tells what the saved model is worth, keeps the best, outlives a kill."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medsmith import run, training
from medsmith.config import Config, load
from medsmith.dev_slice import DevSlice, Evaluate, History, choose, open_slice, run_suite, undisturbed
from medsmith.errors import UserError
from medsmith.questions import Question, answer, tally
from medsmith.records import write_jsonl

BLOCK = {
    "per_device_train_batch_size": 2,
    "max_steps": 8,
    "logging_steps": 2,
    "save_steps": 3,
    "learning_rate": 1.0e-2,
    "neftune_noise_alpha": 5,  # draws noise in every step: whatever touches the source of chance shows in the weights
}


class Killed(Exception):
    """What a kill looks like from inside."""


class Toy(Config):
    """A command that trains and measures."""

    model: Path
    evaluate: Evaluate | None = None


def questions(folder: Path) -> Path:
    rows = [
        {
            "id": f"{topic}{n}",
            "topic": topic,
            "question": f"Does the patient deny fever {n}?",
            "options": ["No pleural effusion.", "Chest pain."],
            "answer_index": n % 2,
        }
        for topic in ("fever", "pain")
        for n in range(6)
    ]
    write_jsonl(folder / "questions.jsonl", rows)
    return folder / "questions.jsonl"


Scores = Callable[[DevSlice, Any, Path], dict[str, float]]


def toy(config: Toy, stop_at: int = 0, seen: dict[int, Any] | None = None) -> dict[str, Any]:
    """Train the tiny model on ten fixed rows; raise after step `stop_at`; copy a weight of each step into `seen`."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from medsmith.models import load_model, load_tokenizer

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if seen is not None:
                seen[state.global_step] = rest["model"].model.norm.weight.detach().clone()
            if stop_at == state.global_step:
                raise Killed

    tokenizer = load_tokenizer(config.model)
    rows = [{"input_ids": [(7 * i + j) % 300 + 5 for j in range(12 + i)]} for i in range(10)]
    with run.start(config, "toy") as this:
        trainer = SFTTrainer(
            model=load_model(config.model),
            args=training.trainer_arguments(SFTConfig, BLOCK, this.folder, seed=0, threads=1),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        dev = open_slice(config.evaluate, tokenizer)
        trainer.add_callback(Watch())
        summary = training.run_trainer(trainer, this, "toy", dev)
        training.save_model(trainer.model, tokenizer, this.folder)
        this.finish(rows=len(rows))
    return summary


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that is not measured."""
    out = tmp_path_factory.mktemp("plain") / "run"
    toy(Toy(out=out, model=tiny_model))
    return out


def test_measuring_changes_no_weight_and_tells_what_is_saved(plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Same bytes with and without; the first score is the base model's, the last the saved model's, to the digit."""
    from medsmith.models import load_model, load_tokenizer

    evaluate = Evaluate(every_steps=3, questions=[questions(tmp_path)], keep="last")
    summary = toy(Toy(out=tmp_path / "run", model=tiny_model, evaluate=evaluate))
    assert weights(tmp_path / "run") == weights(plain)
    rows = [row for row in metrics(tmp_path / "run") if "dev" in row]
    assert [row["step"] for row in rows] == [0, 3, 6, 8]
    dev = open_slice(evaluate, load_tokenizer(tiny_model))
    assert dev is not None and len(dev.questions) == 12
    for row, model in ((rows[0], tiny_model), (rows[-1], tmp_path / "run")):
        found = tally(answer(load_model(model), dev.tokenizer, dev.questions).right, dev.questions)
        assert row["dev_metrics"] == found.topics and row["dev"] == round(found.mean, 6)
    assert (summary["dev"]["before"], summary["dev"]["last"]) == (rows[0]["dev"], rows[-1]["dev"])
    assert [row["loss"] for row in metrics(plain)] == [
        row["loss"] for row in metrics(tmp_path / "run") if "loss" in row
    ]


def test_a_measurement_leaves_chance_mode_and_forward_as_they_were(tiny_model: Path) -> None:
    """Numbers drawn, a module in training and a wrapped forward inside; afterwards the same draws as without."""
    import numpy as np
    import torch

    from medsmith.models import load_model

    model = load_model(tiny_model, device="cpu").train()
    model.model.layers[0].eval()
    model._original_forward, model.forward = model.forward, lambda *_: "wrapped"
    for source in (random.seed, np.random.seed, torch.manual_seed):
        source(1)
    expected = random.random(), np.random.random(), float(torch.rand(1))
    for source in (random.seed, np.random.seed, torch.manual_seed):
        source(1)
    with undisturbed(model):
        assert not model.training and model.forward is model._original_forward
        drawn = random.random(), np.random.random(), float(torch.rand(1))
    assert drawn == expected == (random.random(), np.random.random(), float(torch.rand(1)))
    assert model.training and not model.model.layers[0].training and model.forward() == "wrapped"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Scores by the number of the measurement, in place of true ones; the base is measured first."""
    scores = {0: 0.4, 2: 0.5, 4: 0.9, 6: 0.3, 8: 0.9}
    monkeypatch.setattr(DevSlice, "measure", lambda self, model, scratch: {"fever": scores[_step_of(model)]})
    return scores


def _step_of(model: Any) -> int:
    """The step of a model in training, by how often the trainer has asked the watcher."""
    import inspect

    frame = inspect.currentframe()
    while frame is not None:
        if "state" in frame.f_locals:
            return int(frame.f_locals["state"].global_step)
        frame = frame.f_back
    raise AssertionError


def evaluated(out: Path, model: Path, **settings: Any) -> Toy:
    given = {"every_steps": 2, "questions": [str(questions(out.parent))]} | settings
    return load(Toy, {"out": out, "model": str(model), "evaluate": given})


def test_the_best_is_kept(planted: dict[int, float], plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Best at step 4, equalled at 8: the weights of step 4 are saved, not those of the last step."""
    from medsmith.models import load_model

    seen: dict[int, Any] = {}
    summary = toy(evaluated(tmp_path / "run", tiny_model), seen=seen)
    assert summary["steps"] == 8 and summary["dev"] == {
        "measurements": 5, "before": 0.4, "best": 0.9, "best_step": 4, "last": 0.9, "last_step": 8, "kept": "best",
        "kept_step": 4,
    }  # fmt: skip
    saved = load_model(tmp_path / "run", device="cpu").model.norm.weight
    assert saved.equal(seen[4]) and not saved.equal(seen[8])
    assert weights(tmp_path / "run") != weights(plain)
    planted[8] = 0.95
    assert toy(evaluated(tmp_path / "last", tiny_model))["dev"]["kept"] == "last"
    assert weights(tmp_path / "last") == weights(plain)


@pytest.mark.parametrize("stop_at", [1, 3, 5, 6, 7])
def test_a_kill_changes_nothing(
    planted: dict[int, float], tiny_model: Path, tmp_path: Path, stop_at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed before, at and after the best step and the checkpoints: the same best weights, scores and summary."""
    whole = toy(evaluated(tmp_path / "whole", tiny_model))
    config = evaluated(tmp_path / "run", tiny_model)
    with pytest.raises(Killed):
        toy(config, stop_at)
    assert toy(config) == whole
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    found = [[(row["step"], row.get("dev")) for row in metrics(tmp_path / name)] for name in ("run", "whole")]
    assert found[0] == found[1]


def test_training_stops_when_it_does_not_get_better(
    planted: dict[int, float], tiny_model: Path, tmp_path: Path
) -> None:
    """One measurement below the best is enough with patience 1; killed after that, nothing is trained again."""
    summary = toy(evaluated(tmp_path / "run", tiny_model, patience=1))
    assert (summary["steps"], summary["dev"]["best_step"], summary["dev"]["last_step"]) == (6, 4, 6)
    config = evaluated(tmp_path / "killed", tiny_model, patience=1)
    with pytest.raises(Killed):
        toy(config, stop_at=6)  # a checkpoint is written at step 6 only if the step ends
    seen: dict[int, Any] = {}
    assert toy(config, seen=seen) == summary and sorted(seen) == [4, 5, 6]
    assert weights(tmp_path / "run") == weights(tmp_path / "killed")


def test_history_by_hand() -> None:
    """The untrained model is never the best of a training, the first of equal scores is, and patience counts on."""
    history = History({0: 0.9, 2: 0.5, 4: 0.7, 6: 0.7, 8: 0.6})
    assert history.best == 4
    assert [history.is_over(patience) for patience in (None, 1, 2, 3)] == [False, True, True, False]
    assert History({0: 0.9}).best is None and not History({}).is_over(1)


def test_a_slice_is_drawn_by_ids(tmp_path: Path) -> None:
    """At most so many of each topic; more questions change no choice among the first but by smaller hashes."""
    rows = [Question(f"q{n}", topic, "", "?", ("a", "b"), 0) for topic in ("x", "y") for n in range(50)]
    few, more = choose(rows, 5), choose(rows, 9)
    assert len(few) == 10 and set(few) < set(more) and few == choose(rows, 5) and [*few] == sorted(few, key=rows.index)
    assert choose(rows, 100) == rows


def test_composite_is_the_plain_mean_or_the_one_asked_for() -> None:
    """A name that is not measured is refused, the nearest one told."""
    found = {"fever": 0.5, "pain": 1.0}

    def composite(metric: str) -> float:
        settings = Evaluate(every_steps=1, questions=[Path("x")], metric=metric)
        return DevSlice(settings, [], None).composite(found)

    assert composite("mean") == 0.75 and composite("pain") == 1.0
    with pytest.raises(UserError, match="metric=fevers is not measured; did you mean 'fever'"):
        composite("fevers")
    with pytest.raises(UserError, match="give questions"):
        load(Evaluate, {"every_steps": 1})


def test_a_suite_is_run_by_eval_on_a_copy(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What eval.run is told, what is read of its result, and that its last line is told where it fails."""
    import subprocess

    from medsmith.dev_slice import Suite
    from medsmith.models import load_model, load_tokenizer

    told: list[Any] = []

    def pretend(words: list[str], **_: Any) -> Any:
        folder = Path(words[5].removeprefix("model="))
        told.append((json.loads(Path(words[3]).read_text()), load_model(folder, device="cpu").num_parameters()))
        out = Path(words[4].removeprefix("out="))
        out.mkdir()
        (out / "result.json").write_text(
            json.dumps({"benchmarks": {"medec": {"value": 0.25}, "mednli": {"value": 0.5}}})
        )
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", pretend)
    suite = Suite(file=tmp_path / "s.yml", benchmarks={"medec": tmp_path / "m"}, limit=7)
    model, tokenizer = load_model(tiny_model, device="cpu"), load_tokenizer(tiny_model)
    assert run_suite(suite, model, tokenizer, tmp_path / "dev") == {"medec": 0.25, "mednli": 0.5}
    assert told == [
        (
            {"suite": str(tmp_path / "s.yml"), "benchmarks": {"medec": str(tmp_path / "m")}, "limit": 7},
            model.num_parameters(),
        )
    ]
    assert not (tmp_path / "dev").exists()
    fails = subprocess.CompletedProcess([], 2, stderr="one\nerror: no such file: m\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: fails)
    with pytest.raises(UserError, match=r"evaluate\.suite failed: no such file: m"):
        run_suite(suite, model, tokenizer, tmp_path / "dev")
