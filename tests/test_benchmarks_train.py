"""The training benchmark: rows of the lengths that are told, the same settings on both sides, figures that add up."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from benchmarks.train import packing, per_million, ratios, report
from benchmarks.train_cases import CASES
from benchmarks.train_data import INSTRUCTION, OUTPUT, instructions, vocabulary, words_of
from benchmarks.train_losses import losses, shaped, twins
from benchmarks.train_sides import length_of, loop, next_token_loss, preference_loss
from medsmith.packing import IGNORED, Blocks, Labelled


def test_lengths_have_the_published_mean_and_deviation() -> None:
    """Of 20,000 instructions the mean is 301 / 8 and the deviation 295 / 8, give or take 3 % and 8 %."""
    draw = random.Random(0)
    found = [words_of(draw, INSTRUCTION) for _ in range(20_000)]
    assert mean(found) == pytest.approx(301 / 8, rel=0.03) and stdev(found) == pytest.approx(295 / 8, rel=0.08)
    assert min(found) >= 1
    whole = [words_of(draw, OUTPUT, 1) for _ in range(20_000)]
    assert mean(whole) == pytest.approx(79, rel=0.03) and stdev(whole) == pytest.approx(66, rel=0.08)


def test_a_word_is_a_token() -> None:
    """Behind a space each word of the vocabulary is one token of nano; rejected answers are as long as good ones."""
    from benchmarks.train_data import NANO
    from medsmith.models import load_tokenizer

    words, tokenizer = vocabulary(), load_tokenizer(NANO)
    assert len(words) > 500
    assert all(len(tokenizer(" " + word, add_special_tokens=False)["input_ids"]) == 1 for word in words)
    rows = instructions(random.Random(0), words, 20, pairs=True)
    assert all(len(row.output.split()) == len(row.rejected_output.split()) for row in rows)
    assert len({row.id for row in rows}) == 20


@pytest.mark.parametrize("name", CASES)
def test_both_sides_have_the_same_settings(name: str, tmp_path: Path) -> None:
    """What a step is, is the same; only checkpoints differ: ours has one each tenth, TRL one each 500 steps."""
    import importlib

    from trl import DPOConfig, SFTConfig

    from medsmith.config import load
    from medsmith.training import trainer_arguments

    case = CASES[name]
    for folder in case.data.values():
        (tmp_path / folder).mkdir()
    module = importlib.import_module(case.command)
    block = load(module.Config, case.ours(tmp_path, tmp_path / "out")).trainer
    cls: Any = DPOConfig if case.command == "align.dpo" else SFTConfig
    mine = trainer_arguments(cls, dict(block), tmp_path / "out", 0, 1)
    theirs = cls(**case.plain(tmp_path / "trl"))
    for key in (
        "learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "bf16",
        "lr_scheduler_type", "weight_decay", "max_grad_norm", "optim", "logging_steps", "train_sampling_strategy",
        "seed", "packing" if cls is SFTConfig else "beta",
    ):  # fmt: skip
        assert getattr(mine, key) == getattr(theirs, key), key
    assert not theirs.gradient_checkpointing and not mine.gradient_checkpointing
    assert (mine.save_steps, theirs.save_steps) == (0.1, 500)


def run(tokens: int, cpu: float, **values: float) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "train_cpu": cpu,
        "before_cpu": 5.0,
        "total_cpu": cpu + 6.0,
        "saving_cpu": 0.5,
        "checkpoints": 10,
    } | values


def test_ratios_are_taken_turn_by_turn_and_by_token() -> None:
    """Twice the tokens in the same time is twice as fast, whatever the turn before was."""
    assert per_million(run(20_000, 8.0)) == pytest.approx(400.0)
    assert ratios([run(10_000, 4.0), run(10_000, 8.0)], [run(20_000, 4.0), run(10_000, 16.0)]) == [2.0, 0.5]


def test_the_tables_hold_what_was_measured() -> None:
    """Packed rows at a third of the cost are 3.00 times as fast; the table of speed has a line for each side."""
    found = {
        "sft padded": {"ours": [run(1000, 9.0)], "trl": [run(1000, 10.0)]},
        "sft packed": {"ours": [run(1000, 3.0)], "trl": [run(1000, 5.0)], "loop": [run(1000, 2.5)]},
    }
    assert packing(found, {"sft packed": 0.04})[1] == [
        ["at random, padded", "", "1.00", "1.00"],
        ["packed", "4%", "3.00", "2.00"],
    ]
    text = report(found, {})
    assert "| sft packed | our command | 1,000 | 5.0 | 3.0 | 333 | 3000 | 10: 0.5 | 1.67 | 1.80 | 9.0 |" in text
    assert sum(line.startswith("| sft pa") for line in text.splitlines()) == 5


def test_a_pair_is_read_with_its_prompt_twice() -> None:
    """Prompt of 3, answers of 2 and 1: nine tokens; a row of text has its own."""
    assert length_of({"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "rejected_ids": [6]}) == 9
    assert length_of({"input_ids": [1, 2, 3, 4]}) == 4


def test_the_bare_loop_learns(tiny_model: Path) -> None:
    """Ten times the same batch: the loss falls by half a nat; of pairs it starts at log 2 and falls."""
    import torch

    from medsmith.models import load_model

    draw = random.Random(0)
    tokens = [draw.randrange(5, 200) for _ in range(24)]
    model = load_model(tiny_model, device="cpu")
    batch = Blocks(1)([{"input_ids": tokens, "labels": tokens, "seq_lengths": [24]}])
    before = float(next_token_loss(model, batch).detach())
    loop(model.train(), {"batches": [batch], "epochs": 10, "accumulation": 1}, next_token_loss, 3e-3)
    assert float(next_token_loss(model, batch).detach()) < before - 0.5

    model = load_model(tiny_model, device="cpu")
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1]] * 2)
    logits = model(ids).logits[:, :-1].detach()
    found = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
    reference = (found * mask[:, 1:]).sum(-1)
    pair = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask,
        "ref_chosen_logps": reference[:1], "ref_rejected_logps": reference[1:],
    }  # fmt: skip
    assert float(preference_loss(model, pair).detach()) == pytest.approx(math.log(2), abs=1e-5)
    loop(model.train(), {"batches": [pair], "epochs": 10, "accumulation": 1}, preference_loss, 3e-3)
    assert float(preference_loss(model, pair).detach()) < math.log(2) - 0.01


def test_every_shape_of_rows_has_the_same_losses(tiny_model: Path) -> None:
    """Padded, packed, flattened: each trained token once, at the same cost to 1e-4; torn-down borders change it."""
    from medsmith.models import load_model, load_tokenizer

    draw, model, tokenizer = random.Random(0), load_model(tiny_model, device="cpu"), load_tokenizer(tiny_model)
    rows = []
    for length in (9, 20, 14, 5):
        tokens = [draw.randrange(5, 200) for _ in range(length)]
        rows.append(Labelled(tokens, [IGNORED] * 3 + tokens[3:]))
    alone, *others = (sorted(losses(model, shaped(rows, shape, 1))) for shape in ("padded", "packed", "flattened"))
    assert len(alone) == 9 + 20 + 14 + 5 - 4 * 3
    for found in others:
        assert found == pytest.approx(alone, abs=1e-4)
    planted = twins(tokenizer, draw, 2)
    torn = [row | {"seq_lengths": [len(row["input_ids"])]} for row in planted]
    bordered, leaking = (losses(model, iter([Blocks(1)(part)])) for part in (planted, torn))
    assert len(bordered) == len(leaking) and max(abs(a - b) for a, b in zip(bordered, leaking, strict=True)) > 1e-3


def test_flops_and_lengths_of_the_gpu_script() -> None:
    """By hand: 6 × 10 × 4 + 12 × 2 × 3 × 16 / 2; padding of a block is no document, and a mask counts its tokens."""
    import torch

    from benchmarks.train_gpu import lengths_of, model_flops

    assert model_flops(4, 10, 2, 3) == 240 + 576
    assert lengths_of({"position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6]])}) == [3, 2, 7]
    assert lengths_of({"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}) == [2, 3]


def test_the_gpu_script_says_what_it_would_do() -> None:
    """Without a GPU each variant is told and nothing is called measured; the model has 3.8 billion parameters."""
    from benchmarks.train_gpu import PHI, VARIANTS, plan

    text = plan(VARIANTS)
    assert "nothing was measured" in text and all(one.name in text for one in VARIANTS)
    hidden, inner, layers = PHI["hidden_size"], PHI["intermediate_size"], PHI["num_hidden_layers"]
    assert 2 * PHI["vocab_size"] * hidden + layers * (4 * hidden**2 + 3 * hidden * inner) == pytest.approx(3.82e9, 0.01)


@pytest.mark.parametrize("variant", ["sft, no checkpointing", "dpo"])
def test_the_gpu_script_runs_tiny(variant: str) -> None:
    """Six steps of the very commands on a CPU: three are counted, tokens and FLOPs are those of the batches."""
    from benchmarks.train_gpu import VARIANTS, measure

    chosen = next(one for one in VARIANTS if variant in one.name)
    seen = measure(chosen, tiny=True, steps=6)
    assert len(seen.seconds) == 6 and len(seen.documents) >= 6 and seen.tokens_per_second > 0
    assert seen.flops_per_second > 6 * seen.parameters * seen.tokens_per_second > 0
