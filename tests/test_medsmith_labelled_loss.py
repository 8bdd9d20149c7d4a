"""The loss of labelled tokens alone is TRL's own, and the output layer sees no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medsmith.packing import IGNORED, Blocks, Labelled, pack_rows


def trainer_of(model: Any, tokenizer: Any, folder: Path) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    sequences = [Labelled([5 + n, 9, 8 + n, 7, 6], [IGNORED, IGNORED, IGNORED, 7, 6]) for n in range(6)]
    arguments = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", max_length=None,
        remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, activation_checkpointing=False,
    )  # fmt: skip
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(pack_rows(sequences, 16)),
        data_collator=Blocks(0),
        processing_class=tokenizer,
    )


def test_same_loss_and_gradients_from_fewer_logits(tiny_model: Path, tmp_path: Path) -> None:
    """Loss, gradients and logged measures are TRL's; of 28 positions the output layer sees the twelve labelled."""
    import torch

    from medsmith.labelled_loss import score_labelled
    from medsmith.models import load_model, load_tokenizer

    found: dict[bool, Any] = {}
    for ours in (False, True):
        trainer = trainer_of(load_model(tiny_model, device="cpu"), load_tokenizer(tiny_model), tmp_path / str(ours))
        if ours:
            assert score_labelled(trainer)
        shapes: list[int] = []
        model = trainer.model
        model.get_output_embeddings().register_forward_hook(lambda layer, given, out: shapes.append(given[0].shape[0]))  # noqa: B023
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(2)])
        loss = trainer.compute_loss(model.train(), batch)
        loss.backward()
        measures = {name: values[-1] for name, values in trainer._metrics["train"].items()}
        found[ours] = loss.item(), [p.grad.clone() for p in model.parameters()], measures, shapes
    (theirs, grads, measured, _), (own, own_grads, own_measured, shapes) = found[False], found[True]
    assert own == pytest.approx(theirs, abs=1e-5)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(grads, own_grads, strict=True))
    assert own_measured == pytest.approx(measured, abs=1e-5) and shapes == [12]
