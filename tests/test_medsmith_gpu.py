"""What the floor does on a CUDA device: it goes there by itself, and the numbers are those of the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _a_device() -> None:
    """`make gpu` on a machine without one says so instead of failing."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


def test_models_go_to_the_device_and_score_as_on_the_cpu(tiny_model: Path) -> None:
    """`auto` is cuda, and the log-probabilities of options in float32 are the CPU's within rounding."""
    from medsmith.likelihood import ChoiceItem, score_options
    from medsmith.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    items = [
        ChoiceItem([{"role": "user", "content": f"Case {number}: which code?"}], ["E11.9", "pneumonia", "no fever"])
        for number in range(7)
    ]
    scores: dict[str, list[float]] = {}
    for device in ("auto", "cpu"):
        model = load_model(tiny_model, device=device)
        assert model.device.type == ("cuda" if device == "auto" else "cpu")
        scores[device] = [value for score in score_options(model, tokenizer, items) for value in score.logprobs]
    assert scores["auto"] == pytest.approx(scores["cpu"], abs=2e-3)


def test_training_uses_the_device_in_bfloat16(tiny_model: Path, tmp_path: Path) -> None:
    """With nothing said about devices, TRL trains on cuda under bfloat16 autocast, and the loss of one fact halves."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from medsmith.models import load_model, load_tokenizer
    from medsmith.training import trainer_arguments

    block = {"max_steps": 40, "per_device_train_batch_size": 8, "learning_rate": 1.0e-2, "logging_steps": 1}
    arguments: Any = trainer_arguments(SFTConfig, block, tmp_path, seed=0)
    assert (arguments.use_cpu, arguments.bf16, arguments.device.type) == (False, True, "cuda")
    trainer = SFTTrainer(
        model=load_model(tiny_model),
        args=arguments,
        train_dataset=Dataset.from_list([{"input_ids": [5 + (3 * place) % 90 for place in range(24)]}] * 8),
        processing_class=load_tokenizer(tiny_model),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0] / 2
