"""SFT learns its rows and no prompt, resumes to the same weights, and leaves a model that talks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from align import sft
from medsmith import run
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import write_parquet
from tests.toy_training import Killed, instruction, stop_at

RECIPES = Path(__file__).parents[1] / "align" / "recipes"
TRAINER = {
    "max_steps": 90,
    "per_device_train_batch_size": 4,
    "learning_rate": 1.0e-2,
    "lr_scheduler_type": "constant",
    "logging_steps": 5,
    "save_steps": 20,
    "neftune_noise_alpha": 5,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen rows of eight instructions, which a model of 30,000 weights can learn: the answer is always the same."""
    folder = tmp_path_factory.mktemp("curated")
    rows = [
        instruction(
            n, instruction=f"Answer the question {n // 2}.", input=f"The patient denies fever {n}.", quality=3.0
        )
        for n in range(16)
    ]
    write_parquet(folder / "data" / "part-0.parquet", rows)
    return folder


def settings(out: Path, model: Path, data: Path, **changes: Any) -> sft.Config:
    values = {
        "out": out,
        "model": model,
        "data": data,
        "heldout_share": 0.2,
        "trainer": TRAINER,
        "threads": 1,
        "show_text": True,
    }
    return sft.Config(**(values | changes))


@pytest.fixture(scope="module")
def trained(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was never disturbed."""
    return sft.main(settings(tmp_path_factory.mktemp("sft") / "run", tiny_model, data))


def test_loss_falls_on_rows_seen_and_held_out(trained: Path) -> None:
    """The loss on the rows falls to less than half, the one on held-out rows with the same answers as well."""
    record = run.require_finished(trained)
    facts = record["facts"]["sft"]
    assert facts["loss_last"] < 0.5 * facts["loss_first"]
    assert facts["heldout_loss_after"] < 0.5 * facts["heldout_loss_before"]
    counts = record["counts"]
    assert counts["rows"] == 16 and counts["heldout"] > 0 and counts["dropped"] == 0
    assert counts["train"] + counts["heldout"] == 16 and facts["steps"] == 90


def test_only_answer_and_end_of_turn_are_trained(trained: Path) -> None:
    """The mask shown to the reader holds the answer and <|end|>, nothing of the prompt."""
    text = (trained / "mask.txt").read_text()
    parts = [part.split("⟧")[0] for part in text.split("⟦")[1:]]
    assert len(parts) == 3 and set(parts) == {"No pleural effusion.<|end|>"}
    facts = run.require_finished(trained)["facts"]["sft"]
    assert 0 < facts["trained_share"] < 0.5


def test_trained_model_answers_and_stops(trained: Path) -> None:
    """Plain transformers load it, and greedy decoding gives the learned answer and ends it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(trained), AutoModelForCausalLM.from_pretrained(trained)
    chat = [
        {"role": "system", "content": "Answer the question 3."},
        {"role": "user", "content": "The patient denies fever 7."},
    ]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "No pleural effusion.<|end|>"
    assert tokenizer.convert_tokens_to_ids("<|end|>") in model.generation_config.eos_token_id


def test_killed_training_ends_with_the_same_weights(
    tiny_model: Path, data: Path, trained: Path, tmp_path: Path
) -> None:
    """Killed at step 33 and run again: same bytes, same folder digest, same losses as the run never disturbed."""
    config = settings(tmp_path / "run", tiny_model, data)
    with pytest.raises(Killed):
        sft.main(config, stop_at(33))
    with pytest.raises(UserError, match="was started and not finished"):
        run.require_finished(config.out)
    sft.main(config)
    first, second = (run.require_finished(folder) for folder in (trained, config.out))
    assert first["digest"] == second["digest"] and first["facts"]["sft"] == second["facts"]["sft"]


def test_settings_that_would_harm_are_refused(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """A misspelt TRL key is named; max_length, which cuts answers, is turned into max_tokens."""
    with pytest.raises(UserError, match="did you mean 'neftune_noise_alpha'"):
        sft.main(settings(tmp_path / "a", tiny_model, data, trainer={"neftune_noise_alfa": 5}))
    with pytest.raises(UserError, match="set max_tokens"):
        sft.main(settings(tmp_path / "b", tiny_model, data, trainer={"max_length": 64}))


def test_a_row_beyond_the_context_ends_it(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """One row of more than the 256 tokens that the model was made for: nothing is trained."""
    from medsmith.records import read_parquet

    rows = read_parquet(data / "data")
    rows[0] = replace(rows[0], output="No pleural effusion. " * 100)
    write_parquet(tmp_path / "in" / "a.parquet", rows)
    with pytest.raises(UserError, match="1 rows are longer than that, up to .* set max_tokens=256"):
        sft.main(settings(tmp_path / "out", tiny_model, tmp_path / "in"))


def test_every_recipe_loads() -> None:
    """Each SFT and DPO recipe is right for our settings and for TRL's."""
    from trl import DPOConfig, SFTConfig

    from align import dpo
    from medsmith.training import trainer_arguments

    found = sorted(path for path in RECIPES.rglob("*.yml") if "sft" in path.stem or "dpo" in path.stem)
    assert len(found) >= 6
    for path in found:
        values = yaml.safe_load(path.read_text()) | {"out": "x", "model": "y/z"}
        mix = {name: source | {"data": "d"} for name, source in values.get("mix", {}).items()}
        values |= {"mix": mix} if mix else {"data": "d"}
        module, cls = (dpo, DPOConfig) if "dpo" in path.stem else (sft, SFTConfig)
        config = load(module.Config, values)
        assert trainer_arguments(cls, config.trainer, Path("x"), seed=0, threads=1).learning_rate > 0
