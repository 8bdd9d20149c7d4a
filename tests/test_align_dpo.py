"""DPO moves probability from the planted errors to the good answers, and says so when the good ones lose."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from align import dpo
from medsmith import run
from medsmith.errors import UserError
from medsmith.records import Instruction, write_parquet
from tests.toy_training import Killed, instruction, stop_at

TRAINER = {
    "max_steps": 24,
    "per_device_train_batch_size": 4,
    "learning_rate": 3.0e-3,
    "logging_steps": 4,
    "save_steps": 8,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pairs, and one whose answers are the same; the error is always a lost negation."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [
        instruction(
            n,
            instruction=f"Answer the question {n // 2}.",
            input=f"The patient denies fever {n}.",
            output="No fever.",
            rejected_output="No fever." if n == 16 else "Fever, chest pain.",
            error_type="factual inaccuracy",
        )
        for n in range(17)
    ]
    write_parquet(folder / "data" / "part-0.parquet", rows)
    return folder


def settings(out: Path, model: Path, data: Path, **changes: Any) -> dpo.Config:
    values = {
        "out": out,
        "model": model,
        "data": data,
        "heldout_share": 0.3,
        "trainer": TRAINER,
        "threads": 1,
        "show_text": True,
    }
    return dpo.Config(**(values | changes))


@pytest.fixture(scope="module")
def trained(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was never disturbed."""
    return dpo.main(settings(tmp_path_factory.mktemp("dpo") / "run", tiny_model, data))


def test_margin_rises_on_held_out_pairs(tiny_model: Path, trained: Path) -> None:
    """Every held-out pair is told apart after training, by margins that an own measurement confirms."""
    from align.preferences import measure
    from align.rows import hold_out, in_order, usable
    from medsmith.models import load_model, load_tokenizer
    from medsmith.records import read_parquet

    record = run.require_finished(trained)
    facts = record["facts"]["dpo"]
    assert record["counts"]["dropped"] == 1 and record["counts"]["rows"] == 17
    assert facts["measured_on"] == "held-out pairs" and facts["pairs"] == record["counts"]["heldout"] > 1
    assert facts["reward_accuracy"] == 1.0 and facts["reward_margin"] > 0.5
    assert facts["loss_first"] > facts["loss_last"]

    pairs = read_parquet(Path(record["inputs"]["data"]) / "data")
    held = hold_out(in_order(usable(pairs, pairs=True).rows, 0), 0.3)[1]
    tokenizer = load_tokenizer(trained)
    old, new = (measure(load_model(model), tokenizer, held) for model in (tiny_model, trained))
    gained = [(b.chosen - a.chosen) - (b.rejected - a.rejected) for a, b in zip(old, new, strict=True)]
    assert facts["reward_margin"] == pytest.approx(0.1 * sum(gained) / len(gained), abs=1e-6)


def test_first_loss_is_that_of_a_model_that_is_its_own_reference(trained: Path) -> None:
    """Before the first step no pair is told apart: the loss begins at log 2, so the precomputed reference is right."""
    import json

    rows = [json.loads(line) for line in (trained / "log" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] < 0.6931 + 0.05
    assert rows[0]["rewards/margins"] < rows[-1]["rewards/margins"]


def test_both_answers_are_shown_with_their_ends(trained: Path) -> None:
    """What is compared is the answer with its end of turn, after the same prompt."""
    text = (trained / "mask.txt").read_text()
    assert "⟦No fever.<|end|>" in text and "⟦Fever, chest pain.<|end|>" in text


def test_model_loads_and_stops(trained: Path) -> None:
    """Plain transformers load it, with chat template and the end of a turn in the generation config."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(trained), AutoModelForCausalLM.from_pretrained(trained)
    assert (
        tokenizer.chat_template and tokenizer.convert_tokens_to_ids("<|end|>") in model.generation_config.eos_token_id
    )


def test_killed_training_ends_with_the_same_weights(
    tiny_model: Path, data: Path, trained: Path, tmp_path: Path
) -> None:
    """Killed at step 13 and run again: the same folder, digest for digest, and the same facts."""
    config = settings(tmp_path / "run", tiny_model, data)
    with pytest.raises(Killed):
        dpo.main(config, stop_at(13))
    dpo.main(config)
    first, second = (run.require_finished(folder) for folder in (trained, config.out))
    assert first["digest"] == second["digest"] and first["facts"]["dpo"] == second["facts"]["dpo"]


def test_losses_are_those_of_trl(tiny_model: Path, tmp_path: Path) -> None:
    """Our list is what its trainer compares with, and another name ends the command before it reads a row."""
    import inspect

    from trl import DPOTrainer

    assert sorted(re.findall(r'loss_type == "(\w+)"', inspect.getsource(DPOTrainer._compute_loss))) == sorted(
        dpo.LOSSES
    )
    (tmp_path / "in").mkdir()
    trainer = {"loss_type": ["sigmod", "sft"]}
    with pytest.raises(UserError, match="unknown loss_type 'sigmod'; TRL has sigmoid, hinge"):
        dpo.main(settings(tmp_path / "run", tiny_model, tmp_path / "in", trainer=trainer))


def test_pairs_without_rejected_answers_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    """A curate folder given where a pair folder belongs ends in one line that says what is missing."""
    row = Instruction("r", "Do.", "a", "b", "qa", "note", "plain_text", "low")
    write_parquet(tmp_path / "in" / "data" / "a.parquet", [row])
    with pytest.raises(UserError, match="none is left to train on; most often: empty rejected_output"):
        dpo.main(settings(tmp_path / "run", tiny_model, tmp_path / "in"))
