"""Training resumes bit for bit, refuses what TRL does not know, and saves a model that stops."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from medsmith import borders, resumption, run, training
from medsmith.config import Config, execution
from medsmith.errors import UserError

BLOCK = {"per_device_train_batch_size": 2, "max_steps": 8, "logging_steps": 2, "save_steps": 3, "learning_rate": 1.0e-2}


class Killed(Exception):
    """What a kill looks like from inside."""


class Toy(Config):
    """A command that trains."""

    model: Path
    stop_at: int = execution(0, "raise after this step")


def arguments(block: dict[str, Any], folder: Path) -> Any:
    from trl import SFTConfig

    return training.trainer_arguments(SFTConfig, block, folder, seed=0, threads=1)


def toy(config: Toy, block: dict[str, Any] = BLOCK, loss: float | None = None) -> dict[str, Any]:
    """Train the tiny model on ten fixed rows; raise after step `stop_at`, or log `loss` in place of the true one."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTTrainer

    from medsmith.models import load_model, load_tokenizer

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if config.stop_at == state.global_step < state.max_steps:
                raise Killed

        def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if config.stop_at == state.global_step:
                raise Killed

    tokenizer = load_tokenizer(config.model)
    rows = [{"input_ids": [(7 * i + j) % 300 + 5 for j in range(12 + i)]} for i in range(10)]
    with run.start(config, "toy") as this:
        trainer = SFTTrainer(
            model=load_model(config.model),
            args=arguments(block, this.folder),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Stop()],
        )
        if loss is not None:
            trainer.log = lambda logs, *rest: type(trainer).log(trainer, logs | {"loss": loss}, *rest)
        summary = training.run_trainer(trainer, this, "toy")
        training.save_model(trainer.model, tokenizer, this.folder)
        this.finish(rows=len(rows))
    return summary


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A training that was never disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, toy(Toy(out=folder, model=tiny_model))


def test_killed_training_gives_the_same_weights(
    whole: tuple[Path, dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    """Killed after step 5, a run goes on from the checkpoint of step 3 and ends with the same bytes and metrics."""
    folder, summary = whole
    out = tmp_path / "run"
    with pytest.raises(Killed):
        toy(Toy(out=out, model=tiny_model, stop_at=5))
    assert [path.name for path in (out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]

    resumed = toy(Toy(out=out, model=tiny_model))

    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert resumed["steps"] == 8 and resumed["tokens"] == summary["tokens"]
    steps = [(row["step"], row["tokens"]) for row in metrics(out)]
    assert steps == [(row["step"], row["tokens"]) for row in metrics(folder)]
    assert [step for step, _ in steps] == [2, 4, 6, 8]
    assert not (out / "checkpoints").exists()


def test_torn_checkpoint_is_skipped(whole: tuple[Path, dict[str, Any]], tiny_model: Path, tmp_path: Path) -> None:
    """Weights cut short by a kill in the midst of saving are not resumed from; the one before is."""
    out = tmp_path / "run"
    with pytest.raises(Killed):
        toy(Toy(out=out, model=tiny_model, stop_at=7), BLOCK | {"save_total_limit": 2})
    weights = out / "checkpoints" / "checkpoint-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    assert resumption.latest_checkpoint(out / "checkpoints") == out / "checkpoints" / "checkpoint-3"
    toy(Toy(out=out, model=tiny_model))
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()


def test_no_checkpoint_is_deleted_because_it_does_not_fit(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under more processes the rows of a step are others: refused with all in place; a torn one is only renamed."""
    out = tmp_path / "run"
    with pytest.raises(Killed):
        toy(Toy(out=out, model=tiny_model, stop_at=7), BLOCK | {"save_total_limit": 2})
    (out / "checkpoints" / "base.json").write_text('{"rows a step": 4096}')
    with pytest.raises(UserError, match=r"rows a step: 4096 → \d+.*nothing was removed"):
        toy(Toy(out=out, model=tiny_model))
    left = sorted(path.name for path in (out / "checkpoints").glob("*checkpoint-*"))
    assert left == ["checkpoint-3", "checkpoint-6"]
    weights = {path.name: (path / "model.safetensors").read_bytes() for path in (out / "checkpoints").glob("*-[36]")}
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resumption.latest_checkpoint(out / "checkpoints") is None
    for name, content in weights.items():
        assert (out / "checkpoints" / f"torn-{name}.1" / "model.safetensors").read_bytes() == content


def test_killed_after_the_last_step_trains_nothing_again(
    whole: tuple[Path, dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    """A run killed between training and saving keeps its last checkpoint and only saves."""
    out = tmp_path / "run"
    with pytest.raises(Killed):
        toy(Toy(out=out, model=tiny_model, stop_at=8))
    assert toy(Toy(out=out, model=tiny_model)) == whole[1]
    assert [row["step"] for row in metrics(out)] == [2, 4, 6, 8]
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()


def test_metrics_tell_what_happened(whole: tuple[Path, dict[str, Any]]) -> None:
    """Losses are logged, fall on ten rows seen again and again, and tokens are counted without padding."""
    folder, summary = whole
    rows = metrics(folder)
    assert summary["loss_first"] == rows[0]["loss"] > summary["loss_last"] == rows[-1]["loss"]
    # ten rows of 12 … 21 tokens: 165 in an epoch of five steps
    assert summary["tokens"] > 165 and summary["epochs"] == 1.6
    assert {"training", "step", "epoch", "loss", "learning_rate", "tokens", "seconds"} <= rows[0].keys()


def test_loss_that_is_not_finite_stops_the_run(tiny_model: Path, tmp_path: Path) -> None:
    """A NaN in the loss ends the run with the step's number."""
    with pytest.raises(UserError, match="loss is nan at step 2"):
        toy(Toy(out=tmp_path / "run", model=tiny_model), loss=math.nan)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"learning_rat": 1.0}, "unknown key 'learning_rat' for trl.SFTConfig; did you mean 'learning_rate'"),
        ({"max_seq_length": 512}, "did you mean 'max_length'"),
        ({"warmup_ratio": 0.1}, "did you mean 'warmup_steps'"),
        ({"learning_rate": "2e-5"}, "got the text '2e-5'; write 2.0e-5"),
        ({"max_steps": "many"}, "'max_steps' must be a number, got the text 'many'"),
        ({"output_dir": "x"}, "set out= of the command"),
        ({"lr_scheduler_type": "cosinus"}, "SFTConfig refuses the settings.*cosinus"),
    ],
)
def test_wrong_setting_is_refused(block: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The message names the value and what to write."""
    with pytest.raises(UserError, match=message):
        arguments(block, tmp_path)


def test_defaults_are_safe_and_the_recipe_wins(tmp_path: Path) -> None:
    """No warning from our own defaults; what the recipe says is what TRL gets."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = arguments({"bf16": False, "warmup_steps": 0.1, "neftune_noise_alpha": 5}, tmp_path)
    assert (made.bf16, made.warmup_steps, made.neftune_noise_alpha) == (False, 0.1, 5)
    assert made.gradient_checkpointing is False and made.report_to == [] and made.data_seed == 0
    assert made.output_dir == str(tmp_path / "checkpoints")


def test_saved_model_stops_at_the_end_of_a_turn(whole: tuple[Path, dict[str, Any]]) -> None:
    """The end-of-turn token comes first, the end of a document after it; the chat template is there."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(whole[0])
    ends = GenerationConfig.from_pretrained(whole[0]).eos_token_id
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|end|>", "<|endoftext|>"]
    assert tokenizer.chat_template
    assert json.loads((whole[0] / "config.json").read_text())["dtype"] == "float32"


def test_end_of_turn_is_read_from_the_template(tiny_model: Path) -> None:
    """A tokenizer whose eos is the end of a document (as Phi-3.5's) still ends its turns with <|end|>."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model, eos_token="<|endoftext|>")
    assert tokenizer.convert_ids_to_tokens(borders.end_of_turn(tokenizer)) == "<|end|>"
    assert tokenizer.convert_ids_to_tokens(borders.end_of_document(tokenizer)) == "<|endoftext|>"


def test_broken_weights_are_not_saved(tiny_model: Path, tmp_path: Path) -> None:
    """The tensor that is not finite is named, and nothing is written."""
    import torch

    from medsmith.models import load_model, load_tokenizer

    model = load_model(tiny_model)
    with torch.no_grad():
        model.model.norm.weight[0] = math.inf
    with pytest.raises(UserError, match=r"model\.norm\.weight"):
        training.save_model(model, load_tokenizer(tiny_model), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_save_casts(tiny_model: Path, tmp_path: Path) -> None:
    """Asked for bfloat16, the file holds half the bytes."""
    from medsmith.models import load_model, load_tokenizer

    training.save_model(load_model(tiny_model), load_tokenizer(tiny_model), tmp_path / "half", dtype="bfloat16")
    whole_size = (tiny_model / "model.safetensors").stat().st_size
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.6 * whole_size
