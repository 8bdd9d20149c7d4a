"""experts.pretrain makes a model that loads, learns, and is the same after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsmith import run
from medsmith.config import load
from medsmith.records import read_jsonl, write_jsonl


def _recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    texts: list[dict[str, Any]] = [
        {"text": f"The patient takes metformin {n} mg for diabetes. No fever."} for n in range(60)
    ]
    copies: list[dict[str, Any]] = [{"prompt": f"{n}, {n + 1}. ", "completion": f"{n}, {n + 1}."} for n in range(60)]
    chats = [
        {
            "task": "dose",
            "messages": [{"role": "user", "content": f"Dose {n}?"}, {"role": "assistant", "content": f"{n} mg"}],
        }
        for n in range(60)
    ]
    for name, rows in (("first", copies), ("second", [*texts, *chats]), ("held_out", chats[:10])):
        write_jsonl(folder / f"{name}.jsonl", rows)
    size = {"vocabulary": 300, "hidden": 32, "layers": 2, "heads": 2, "feed_forward": 64, "context": 128}
    return {
        "stages": [
            {"name": "first", "rows": [str(folder / "first.jsonl")], "tokens": 3_000, "prompt_weight": 0.0},
            {"name": "second", "rows": [str(folder / "second.jsonl")], "tokens": 9_000},
        ],
        "held_out": str(folder / "held_out.jsonl"),
        "size": size,
        "batch_tokens": 256,
        "learning_rate": 0.01,
        "threads": 1,
        "save_every": 5,
    } | changes


def test_a_killed_training_gives_the_same_model_and_it_has_learnt(tmp_path: Path) -> None:
    """kill -9 after a checkpoint, then again: every digested byte as in a training that was left alone."""
    from transformers import AutoModelForCausalLM

    from experts.pretrain import Config, main

    recipe = _recipe(tmp_path)
    whole = main(load(Config, {**recipe, "out": str(tmp_path / "whole")}))
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe | {"out": str(tmp_path / "killed")}))
    process = subprocess.Popen(
        [sys.executable, "-m", "experts.pretrain", str(tmp_path / "recipe.yml")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    state = tmp_path / "killed" / "checkpoints" / "state.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (tmp_path / "killed" / "run.json").exists()
    again = main(load(Config, {**recipe, "out": str(tmp_path / "killed")}))

    assert run.digest(again) == run.digest(whole)
    losses = [row["loss"] for row in read_jsonl(whole / "log" / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert run.require_finished(whole)["facts"]["held_out"].keys() == {"first", "second"}
    model = AutoModelForCausalLM.from_pretrained(whole)
    assert model.config.tie_word_embeddings is False
    assert model.generation_config.eos_token_id[0] == model.config.eos_token_id


def test_answers_count_fully_and_prompts_little(tmp_path: Path) -> None:
    """The weights of a chat row: 1 on the answer and the end of its turn, prompt_weight on all else."""
    from experts.architecture import build_tokenizer
    from experts.pretrain import _encode

    tokenizer = build_tokenizer(["Dose 5 mg"], 300)
    chat = {"messages": [{"role": "user", "content": "Dose"}, {"role": "assistant", "content": "5"}]}
    row = _encode(tokenizer, chat, 0.25)
    copied = _encode(tokenizer, {"prompt": "5 mg. ", "completion": "5"}, 0.25)

    full = [token for token, weight in zip(row.ids, row.weights, strict=True) if weight == 1.0]
    assert tokenizer.decode(full) == "5<|end|>"
    assert set(row.weights) == {0.25, 1.0}
    assert tokenizer.decode([t for t, w in zip(copied.ids, copied.weights, strict=True) if w]) == "5<|endoftext|>"
    assert set(copied.weights) == {0.0, 1.0}


def test_batches_hold_every_row_once_an_epoch_and_mix_kinds(tmp_path: Path) -> None:
    """So many tokens as asked for; within an epoch no row comes twice; no batch is longer than asked for."""
    from experts.pretrain import Row, _batches

    rows = [Row([n] * (1 + n % 9), [1.0] * (1 + n % 9)) for n in range(200)]
    per_epoch = sum(len(row.ids) for row in rows)
    once = [row for batch in _batches(rows, per_epoch, 40, "s") for row in batch]
    twice = [row for batch in _batches(rows, 2 * per_epoch, 40, "s") for row in batch]

    assert sorted(row.ids[0] for row in once) == list(range(200))
    assert sorted(row.ids[0] for row in twice) == sorted([*range(200), *range(200)])
    assert max(len(b) * max(len(r.ids) for r in b) for b in _batches(rows, per_epoch, 40, "s")) <= 40


def test_a_stage_that_did_not_teach_what_it_must_ends_the_run(tmp_path: Path) -> None:
    """The line names the kind, what was reached and what to do; the weights of the stage are not lost."""
    from experts.pretrain import Config, main
    from medsmith.errors import UserError

    recipe = _recipe(tmp_path)
    recipe["stages"][0]["require"] = {"dose": 0.99}
    with pytest.raises(UserError, match=r"stage first: \d+% of the held-out 'dose' are exact, 99% are required"):
        main(load(Config, {**recipe, "out": str(tmp_path / "out")}))


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    """An empty file gives one line that says what is needed."""
    from experts.pretrain import Config, main
    from medsmith.errors import UserError

    recipe = _recipe(tmp_path)
    (tmp_path / "second.jsonl").write_text("")
    with pytest.raises(UserError, match="needs rows in every stage"):
        main(load(Config, {**recipe, "out": str(tmp_path / "out")}))
