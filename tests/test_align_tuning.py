"""What SFT can beside the plain case: mixtures, packing, noise, checkpointing and adapters, alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from align import mix, sft
from medsmith import run
from medsmith.config import Config, load
from medsmith.errors import UserError
from medsmith.records import Instruction, read_json, write_parquet
from tests.toy_training import Killed, instruction, stop_at

TRAINER = {
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "learning_rate": 3.0e-3,
    "logging_steps": 2,
    "save_steps": 2,
    # Equal to the last digits only where nothing is rounded to bfloat16.
    "bf16": False,
}


def rows(source: str, count: int) -> list[Instruction]:
    return [
        instruction(
            f"{source} {n}",
            id=f"{source}{n}",
            input="The patient denies fever. " * (1 + n % 4),
            output=("No pleural effusion.", "ENTAILMENT", "Left lower lobe pneumonia, chest pain.")[n % 3],
            difficulty_level=("low", "high")[n % 2],
            quality=3.0,
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curated")
    write_parquet(folder / "a" / "data" / "part-0.parquet", rows("a", 40))
    write_parquet(folder / "b" / "data" / "part-0.parquet", rows("b", 15))
    return folder


def train(
    out: Path,
    model: Path,
    source: Path,
    callbacks: Sequence[Any] = (),
    trainer: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    given = {} if "mix" in more else {"data": source / "a"}
    values: dict[str, Any] = {"out": out, "model": model, "heldout_share": 0.2, "max_tokens": 160, "threads": 1}
    sft.main(sft.Config(**(values | given | {"trainer": TRAINER | (trainer or {})} | more)), callbacks)
    facts: dict[str, Any] = run.require_finished(out)["facts"]["sft"]
    return facts


def weights(folder: Path) -> dict[str, Any]:
    from medsmith.models import load_model

    return dict(load_model(folder, device="cpu").named_parameters())


def distance(one: Path, other: Path) -> float:
    ours, theirs = weights(one), weights(other)
    return max(float((ours[name] - theirs[name]).detach().abs().max()) for name in ours)


@pytest.fixture(scope="module")
def plain(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "run"
    train(out, tiny_model, data)
    return out


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = run.require_finished(folder)["facts"]["sft"]
    return facts


# --- packing ---------------------------------------------------------------------------------------------------------


def test_packed_rows_cost_what_they_cost_alone(tiny_model: Path, data: Path, plain: Path, tmp_path: Path) -> None:
    """The loss on held-out rows is the same to a hundred-thousandth, in fewer sequences with the same tokens."""
    packed = train(tmp_path / "run", tiny_model, data, trainer={"packing": True})
    assert packed["heldout_loss_before"] == pytest.approx(facts_of(plain)["heldout_loss_before"], abs=1e-5)
    ours, theirs = read_json(tmp_path / "run" / "data.json"), read_json(plain / "data.json")
    assert ours["sources"] == theirs["sources"] and ours["sources"]["data"]["trained_tokens"] > 0
    assert ours["packed"] and ours["sequences"] < 0.6 * theirs["sequences"]
    assert packed["trained_share"] == pytest.approx(facts_of(plain)["trained_share"], abs=0.02)


def test_one_step_on_all_rows_is_the_same_packed(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """A step whose batch is all rows gives the same weights, whether the rows are packed or not: no token was lost."""
    one = {"max_steps": 1, "per_device_train_batch_size": 64, "save_strategy": "no", "optim": "sgd"}
    train(tmp_path / "apart", tiny_model, data, trainer=one)
    train(tmp_path / "packed", tiny_model, data, trainer=one | {"packing": True})
    assert distance(tmp_path / "apart", tiny_model) > 1e-4
    assert distance(tmp_path / "apart", tmp_path / "packed") < 1e-6


@pytest.mark.parametrize(
    ("key", "value"), [("packing_strategy", "wrapped"), ("padding_free", True), ("eval_packing", True)]
)
def test_other_packing_is_refused(tiny_model: Path, data: Path, tmp_path: Path, key: str, value: Any) -> None:
    """TRL's own would let rows see one another, or draw a mask over the whole batch."""
    with pytest.raises(UserError, match=f"'{key}' is not for a recipe"):
        train(tmp_path / "run", tiny_model, data, trainer={"packing": True, key: value})


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_a_mixture_is_trained_in_its_order(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """Batch by batch the rows are those of the schedule, and the table says how often each source was seen."""
    from transformers import TrainerCallback

    from align.prepare import choose_mix
    from medsmith.models import load_tokenizer

    seen: list[int] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            seen.extend(int(batch["attention_mask"].sum()) for batch in rest["train_dataloader"])

    blocks = {"a": {"data": data / "a", "epochs": 1.5}, "b": {"data": data / "b", "share": 0.25, "epochs": 3}}
    tokenizer = load_tokenizer(tiny_model)
    train(tmp_path / "run", tiny_model, data, [Watch()], mix=blocks, trainer={"per_device_train_batch_size": 1})
    sources = {name: mix.Source(**block) for name, block in blocks.items()}
    with run.start(Toy(out=tmp_path / "toy"), "toy") as this:
        chosen = choose_mix(this, sources, tokenizer, 160, 0.2)
    lengths = chosen.parts["a"].lengths | chosen.parts["b"].lengths
    assert seen == [lengths[row.id] for row in chosen.train]
    table = read_json(tmp_path / "run" / "data.json")["sources"]
    assert table["a"]["epochs"] == pytest.approx(1.5, abs=0.02) and table["b"]["turns"] == round(
        table["a"]["turns"] / 3
    )


class Toy(Config):
    """Stands in for a command."""


def test_a_mixture_can_be_packed(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """The same trained tokens by source as unpacked."""
    blocks = {"a": {"data": data / "a"}, "b": {"data": data / "b", "epochs": 2}}
    train(tmp_path / "apart", tiny_model, data, mix=blocks)
    train(tmp_path / "packed", tiny_model, data, mix=blocks, trainer={"packing": True})
    ours, theirs = (read_json(tmp_path / name / "data.json") for name in ("apart", "packed"))
    assert ours["sources"] == theirs["sources"] and theirs["sequences"] < ours["sequences"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "exactly one of data"),
        ({"data": "d", "mix": {"a": {"data": "d"}}}, "exactly one of data"),
        ({"mix": {"a": {"data": "d"}}, "top_rows": 3}, "of a mix each source has its own rows"),
        ({"mix": {"a": {"data": "d"}}, "trainer": {"num_train_epochs": 2}}, "of a mix each source has its own epochs"),
        ({"mix": {"a": {"data": "d", "shares": 0.1}}}, "unknown key 'mix.a.shares'; did you mean 'mix.a.share'"),
        ({"data": "d", "quotas": {"task_type": {"qa": 0.1}}}, "is a share"),
        ({"data": "d", "lora": {"rank": 3}}, "unknown key 'lora.rank'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    """Each with what to write instead."""
    with pytest.raises(UserError, match=message):
        load(sft.Config, {"out": "x", "model": "y/z"} | changes)


# --- noise, checkpointing, adapters ----------------------------------------------------------------------------------


def test_noise_is_for_training_only(tiny_model: Path, data: Path, plain: Path, tmp_path: Path) -> None:
    """NEFTune changes what is learned, and not how the loss is measured."""
    facts = train(tmp_path / "run", tiny_model, data, trainer={"neftune_noise_alpha": 5})
    assert facts["heldout_loss_before"] == facts_of(plain)["heldout_loss_before"]
    assert distance(tmp_path / "run", plain) > 1e-4


def test_checkpointing_costs_no_accuracy(tiny_model: Path, data: Path, plain: Path, tmp_path: Path) -> None:
    """Activations that are computed twice give the same weights."""
    train(tmp_path / "run", tiny_model, data, trainer={"gradient_checkpointing": True})
    assert distance(tmp_path / "run", plain) < 1e-6 < distance(tiny_model, plain)


def test_an_adapter_is_trained_killed_and_evaluated(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """Killed at step 3 it ends with the same adapter; the evaluator runs it; all else may be switched on with it."""
    from eval.engines.transformers import LocalModel

    block = {"r": 4, "alpha": 8, "dropout": 0.1}
    options = {"packing": True, "neftune_noise_alpha": 5, "gradient_checkpointing": True}
    facts = train(tmp_path / "whole", tiny_model, data, lora=block, trainer=options)
    with pytest.raises(Killed):
        train(tmp_path / "killed", tiny_model, data, stop_at(3), lora=block, trainer=options)
    train(tmp_path / "killed", tiny_model, data, lora=block, trainer=options)
    first, second = (run.require_finished(tmp_path / name) for name in ("whole", "killed"))
    assert first["digest"] == second["digest"]
    assert facts["heldout_loss_after"] < facts["heldout_loss_before"]
    engine = LocalModel(tmp_path / "whole")
    prompt = engine.encode([[{"role": "user", "content": "Fever?"}]])
    assert engine.context == 256 and engine.write(prompt, 4)[0].tokens > 0
    assert distance(tmp_path / "whole", tiny_model) > 1e-5


def test_a_merged_adapter_is_a_whole_model(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """It has the base's tensors, no adapter beside them, and can be the base of the next adapter."""
    train(tmp_path / "run", tiny_model, data, lora={"r": 4, "merge": True})
    assert not (tmp_path / "run" / "adapter_config.json").exists()
    assert weights(tmp_path / "run").keys() == weights(tiny_model).keys()
    train(tmp_path / "next", tmp_path / "run", data, lora={"r": 2})
    assert read_json(tmp_path / "next" / "adapter_config.json")["base_model_name_or_path"] == str(tmp_path / "run")
