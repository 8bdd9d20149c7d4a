"""experts.pretrain makes a model that loads, learns, and is the same after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsmith import run
from medsmith.config import load
from medsmith.records import Document, read_jsonl, write_jsonl


def _recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    texts = [f"The patient takes metformin {n} mg for diabetes. No fever." for n in range(60)]
    documents = [Document(f"d{n}", "t", text, "made up", "CC0-1.0") for n, text in enumerate(texts)]
    write_jsonl(folder / "documents.jsonl", map(asdict, documents))
    chats = [
        {"messages": [{"role": "user", "content": f"Dose {n}?"}, {"role": "assistant", "content": f"{n} mg"}]}
        for n in range(60)
    ]
    write_jsonl(folder / "lessons.jsonl", chats)
    size = {"vocabulary": 300, "hidden": 32, "layers": 2, "heads": 2, "feed_forward": 64, "context": 128}
    return {
        "documents": [str(folder / "documents.jsonl")],
        "lessons": str(folder / "lessons.jsonl"),
        "size": size,
        "tokens": 12_000,
        "batch_tokens": 256,
        "block": 48,
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
    losses = [row["loss"] for row in read_jsonl(whole / "log" / "metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]
    model = AutoModelForCausalLM.from_pretrained(whole)
    assert model.config.tie_word_embeddings is False
    assert model.generation_config.eos_token_id[0] == model.config.eos_token_id


def test_answers_count_fully_and_prompts_little(tmp_path: Path) -> None:
    """The weights of a chat row: 1 on the answer and the end of its turn, prompt_weight on all else."""
    from experts.architecture import build_tokenizer
    from experts.pretrain import _chat

    tokenizer = build_tokenizer(["Dose 5 mg"], 300)
    row = _chat(tokenizer, [{"role": "user", "content": "Dose"}, {"role": "assistant", "content": "5"}], 0.25)

    full = [token for token, weight in zip(row.ids, row.weights, strict=True) if weight == 1.0]
    assert tokenizer.decode(full) == "5<|end|>"
    assert set(row.weights) == {0.25, 1.0}


@pytest.mark.parametrize("missing", ["documents", "lessons"])
def test_nothing_to_learn_from_is_an_error(tmp_path: Path, missing: str) -> None:
    """An empty file gives one line that says what is needed."""
    from experts.pretrain import Config, main
    from medsmith.errors import UserError

    recipe = _recipe(tmp_path)
    (tmp_path / f"{missing}.jsonl").write_text("")
    with pytest.raises(UserError, match="needs documents and lessons"):
        main(load(Config, {**recipe, "out": str(tmp_path / "out")}))
