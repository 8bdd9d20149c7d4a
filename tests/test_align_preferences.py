"""DPO teaches what the pairs prefer and nothing else, keeps its reference, and takes TRL's losses as they are."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align import dpo, sft
from align.preferences import compare_lengths
from medsmith import run
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import Instruction, write_parquet
from tests.toy_training import Killed, instruction, stop_at

ONE, OTHER = "No pleural effusion.", "Patient denies fever."
TRAINER = {"max_steps": 24, "per_device_train_batch_size": 8, "learning_rate": 3.0e-3, "save_strategy": "no"}


def pair(number: int, chosen: str = ONE, rejected: str = OTHER) -> Instruction:
    return instruction(
        number,
        input=f"Blood pressure {90 + number}?",
        output=chosen,
        rejected_output=rejected,
        error_type="factual inaccuracy",
    )


@pytest.fixture(scope="module")
def undecided(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned two answers, whatever is asked."""
    folder = tmp_path_factory.mktemp("undecided")
    drawn = random.Random(0)
    rows = [pair(n, drawn.choice((ONE, OTHER))) for n in range(64)]
    write_parquet(folder / "rows" / "a.parquet", rows)
    trainer = TRAINER | {"max_steps": 40, "learning_rate": 1.0e-2}
    config = sft.Config(
        out=folder / "run", model=tiny_model, data=folder / "rows", heldout_share=0, trainer=trainer, threads=1
    )
    return sft.main(config)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in which the one answer is always preferred."""
    folder = tmp_path_factory.mktemp("pairs")
    write_parquet(folder / "a.parquet", [pair(n) for n in range(40)])
    return folder


def train(out: Path, model: Path, data: Path, callbacks: Sequence[Any] = (), **changes: Any) -> dict[str, Any]:
    trainer = TRAINER | changes.pop("trainer", {})
    values: dict[str, Any] = {"out": out, "model": model, "data": data, "heldout_share": 0.2, "threads": 1}
    dpo.main(dpo.Config(**(values | {"trainer": trainer} | changes)), callbacks)
    facts: dict[str, Any] = run.require_finished(out)["facts"]["dpo"]
    return facts


def rate(model: Path) -> float:
    """How probable the one answer is beside the other, on prompts that nothing was trained on."""
    from medsmith.likelihood import ChoiceItem, score_options
    from medsmith.models import load_model, load_tokenizer

    rows = [pair(n) for n in range(200, 216)]
    items = [
        ChoiceItem(
            [{"role": "system", "content": row.instruction}, {"role": "user", "content": row.input}], [ONE, OTHER]
        )
        for row in rows
    ]
    found = score_options(load_model(model), load_tokenizer(model), items)
    return sum(1 / (1 + math.exp(one.logprobs[1] - one.logprobs[0])) for one in found) / len(found)


# --- what is learned -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_preference_is_learned_and_shuffled_labels_teach_none(
    undecided: Path, pairs: Path, tmp_path: Path, seed: int
) -> None:
    """On new prompts the preferred answer becomes the likely one; where the sides were drawn, neither does."""
    sides = [0, 1] * 64
    random.Random(seed).shuffle(sides)
    shuffled = [pair(n, *((ONE, OTHER) if side else (OTHER, ONE))) for n, side in enumerate(sides)]
    write_parquet(tmp_path / "shuffled" / "a.parquet", shuffled)
    # Each pair once, so that none is learned by heart.
    once = {"max_steps": 16, "learning_rate": 2.0e-3}
    train(tmp_path / "taught", undecided, pairs, seed=seed, heldout_share=0, trainer=once)
    train(tmp_path / "drawn", undecided, tmp_path / "shuffled", seed=seed, heldout_share=0, trainer=once)
    before = rate(undecided)
    assert 0.2 < before < 0.8
    assert rate(tmp_path / "taught") > 0.95
    assert abs(rate(tmp_path / "drawn") - before) < 0.3


def test_losses_of_trl_may_be_mixed(undecided: Path, pairs: Path, tmp_path: Path) -> None:
    """With a term for the chosen answers these gain probability; the plain loss moves them less."""
    alone = train(tmp_path / "alone", undecided, pairs)
    mixed = train(
        tmp_path / "mixed", undecided, pairs, trainer={"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
    )
    assert mixed["reward_accuracy"] == alone["reward_accuracy"] == 1.0
    assert mixed["chosen_change"] > alone["chosen_change"] and not mixed["likelihood_displacement"]


def test_losses_without_their_weights_are_refused(undecided: Path, pairs: Path, tmp_path: Path) -> None:
    """Two losses and one weight: TRL's own sentence is the error, in one line."""
    with pytest.raises(UserError, match="loss_weights"):
        train(tmp_path / "run", undecided, pairs, trainer={"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]})


def test_an_adapter_learns_beside_its_own_base(undecided: Path, pairs: Path, tmp_path: Path) -> None:
    """The reference is the model without the adapter: the loss begins at log 2, and the preference is learned."""
    block = {"r": 8, "alpha": 32}
    facts = train(tmp_path / "run", undecided, pairs, lora=block, trainer={"learning_rate": 1.0e-2, "logging_steps": 1})
    rows = [json.loads(line) for line in (tmp_path / "run" / "log" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=0.02)
    assert facts["reward_accuracy"] == 1.0 and rate(tmp_path / "run") > 0.95
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()


# --- the reference ---------------------------------------------------------------------------------------------------


def references(out: Path) -> dict[str, float]:
    """The files of a run's reference, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "raw" / "reference").glob("*.json")}


def test_a_reference_is_computed_once(undecided: Path, pairs: Path, tmp_path: Path) -> None:
    """After a kill, and for another beta in the same folder, the file is read; it decides what is trained."""
    with pytest.raises(Killed):
        train(tmp_path / "run", undecided, pairs, stop_at(3))
    first = references(tmp_path / "run")
    assert len(first) == 1
    train(tmp_path / "run", undecided, pairs)
    assert references(tmp_path / "run") == first
    train(tmp_path / "run", undecided, pairs, trainer={"beta": 0.3})
    assert references(tmp_path / "run") == first


def test_a_reference_is_read_and_not_made_anew(undecided: Path, pairs: Path, tmp_path: Path) -> None:
    """A file with other numbers is believed: the first loss is that of the numbers in it."""
    one = {"max_steps": 1, "logging_steps": 1, "per_device_train_batch_size": 64}
    train(tmp_path / "run", undecided, pairs, trainer=one)
    (file,) = (tmp_path / "run" / "raw" / "reference").glob("*.json")
    values = json.loads(file.read_text())
    shifted = values | {"ref_rejected_logps": [value + 5.0 for value in values["ref_rejected_logps"]]}
    file.write_text(json.dumps(shifted))
    train(tmp_path / "run", undecided, pairs, trainer=one | {"learning_rate": 1.0e-6})
    row = json.loads((tmp_path / "run" / "log" / "metrics.jsonl").read_text().splitlines()[0])
    # The rejected answers seem to have lost 5 nats already: -log sigmoid(0.1 * 5).
    assert row["loss"] == pytest.approx(math.log(1 + math.exp(-0.5)), abs=0.02)


def test_other_weights_and_other_pairs_have_another_reference(
    undecided: Path, tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    """The same folder, another model, then other pairs: a new file each time, and none of the old is used."""
    one = {"max_steps": 1}
    train(tmp_path / "run", undecided, pairs, trainer=one)
    first = references(tmp_path / "run")
    train(tmp_path / "run", tiny_model, pairs, trainer=one)
    second = references(tmp_path / "run")
    assert len(second) == 2 and first.items() < second.items()
    write_parquet(tmp_path / "more" / "a.parquet", [pair(n) for n in range(41)])
    train(tmp_path / "run", undecided, tmp_path / "more", trainer=one)
    assert len(references(tmp_path / "run")) == 3


# --- lengths and settings --------------------------------------------------------------------------------------------


def test_lengths_of_the_sides_are_told(tiny_model: Path, undecided: Path, pairs: Path, tmp_path: Path) -> None:
    """By hand on words of one token; equal sides give 0 and a half; run.json has it of the training pairs."""
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    found = compare_lengths(tokenizer, [pair(0, "fever", "fever" * 4), pair(1, "fever" * 4, "fever")])
    assert found["mean_log_ratio"] == 0.0 and found["chosen_longer"] == 0.5
    uneven = compare_lengths(tokenizer, [replace(pair(0), output="a", rejected_output="a a a")])
    assert uneven["mean_log_ratio"] > 0.5 and uneven["chosen_longer"] == 0.0
    facts = train(tmp_path / "run", undecided, pairs, trainer={"max_steps": 1})
    told = compare_lengths(tokenizer, [pair(0)])
    assert facts["lengths"] == told and abs(told["mean_log_ratio"]) < 0.5


def test_the_recipe_of_the_paper_says_its_table() -> None:
    """Table 8: one epoch, 1e-6 by a cosine after 50 steps, beta 0.1, eight pairs a device."""
    import yaml

    from medsmith.training import trainer_arguments

    path = Path(__file__).parents[1] / "align" / "recipes" / "mediphi_dpo.yml"
    config = load(dpo.Config, yaml.safe_load(path.read_text()) | {"out": "x", "model": "y/z", "data": "d"})
    from trl import DPOConfig

    made = trainer_arguments(DPOConfig, config.trainer, Path("x"), seed=0, threads=1)
    assert (made.beta, made.learning_rate, made.warmup_steps, made.num_train_epochs) == (0.1, 1e-6, 50, 1)
    assert made.lr_scheduler_type == "cosine" and made.per_device_train_batch_size == 8
    assert made.loss_type == ["sigmoid"] and made.optim.startswith("adamw")
