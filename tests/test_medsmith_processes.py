"""Two processes train what one does, the first alone writes, and a kill changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medsmith import processes, run
from medsmith.config import Config
from medsmith.records import Document, write_json, write_jsonl, write_parquet
from tests.toy_training import instruction

ROOT = Path(__file__).parents[1]
EXACT = {"learning_rate": 1.0e-3, "lr_scheduler_type": "constant", "logging_steps": 1, "bf16": False}
"""In float32: what differs is the order in which gradients are added up."""


def test_one_process_needs_no_other() -> None:
    """Alone, everything is said and done at once, and torch is not loaded for it."""
    code = (
        "import sys\nfrom medsmith import processes\ndone = []\n"
        "processes.wait()\nprocesses.alone(lambda: done.append(processes.tell(3)))\n"
        "assert done == [3] and processes.is_main() and 'torch' not in sys.modules\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=environment)


def test_a_followers_folder_goes_and_its_checkpoints_are_the_runs(tmp_path: Path) -> None:
    """What is written beside them is nobody's; what is written below them stays."""
    with processes.scratch_for(tmp_path / "run") as scratch:
        (scratch / "mask.txt").write_text("mine")
        (scratch / "checkpoints" / "rng_state_1.pth").write_text("kept")
    assert not scratch.exists()
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["checkpoints", "rng_state_1.pth"]


# --- two real processes ----------------------------------------------------------------------------------------------


def words(count: int, *program: str) -> list[str]:
    """The command line for so many processes on this machine's CPU."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    return [sys.executable, *start, *program]


def train(command: str, values: dict[str, Any], count: int) -> Path:
    """Run a command by so many processes; return its folder."""
    out = Path(values["out"])
    settings = out.with_suffix(".json")
    write_json(settings, values)
    done = subprocess.run(
        words(count, "-m", "medsmith.cli", command, str(settings)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out), "the folder is printed once"
    return out


def distance(one: Path, other: Path) -> float:
    """The largest difference between two models' weights."""
    from safetensors.torch import load_file

    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-two rows of unlike lengths, so that a mean of the processes' means would not be the mean of the tokens."""
    folder = tmp_path_factory.mktemp("rows")
    made = [
        instruction(
            n,
            input="The patient denies fever. " * (1 + n % 5),
            output="No pleural effusion. " * (1 + n % 3),
            quality=3.0,
        )
        for n in range(32)
    ]
    write_parquet(folder / "data" / "part-0.parquet", made)
    return folder


def sft(out: Path, model: Path, rows: Path, each: int, **trainer: Any) -> dict[str, Any]:
    block = EXACT | {"max_steps": 12, "per_device_train_batch_size": each, "save_steps": 5} | trainer
    return {
        "out": str(out), "model": str(model), "data": str(rows), "heldout_share": 0.0, "threads": 1, "trainer": block,
    }  # fmt: skip


def kill_at_checkpoint(values: dict[str, Any], command: Sequence[str], step: int) -> None:
    """Start it and end torchrun with SIGKILL as soon as the checkpoint is whole."""
    write_json(Path(values["out"]).with_suffix(".json"), values)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = Path(values["out"]) / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json"
    until = time.monotonic() + 240
    while not whole.is_file() and time.monotonic() < until:
        time.sleep(0.002)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_two_processes_train_what_one_does(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    """SFT of 12 steps, four rows by one process or two by each of two (2 minutes): weights within 1e-6 of one another.

    They moved by 1e-2, and where each process takes the mean of its own tokens they differ by more than 1e-3.
    """
    one = train("align.sft", sft(tmp_path / "one", tiny_model, rows, 4), 1)
    two = train("align.sft", sft(tmp_path / "two", tiny_model, rows, 2), 2)
    assert distance(one, tiny_model) > 5e-3
    assert distance(one, two) < 1e-6
    # Each step saw the same rows: else its loss would be another one.
    losses = [[row["loss"] for row in logged(folder)] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[1]) == 12
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    alike = ("mask.txt", "dropped.jsonl", "tokenizer.json")
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in alike)
    records = [run.require_finished(folder) for folder in (one, two)]
    assert records[0]["counts"] == records[1]["counts"]
    assert records[0]["facts"]["sft"]["tokens"] == records[1]["facts"]["sft"]["tokens"]

    unweighted = sft(tmp_path / "unweighted", tiny_model, rows, 2, average_tokens_across_devices=False)
    assert distance(one, train("align.sft", unweighted, 2)) > 1e-3


@pytest.mark.slow
def test_two_processes_are_killed_and_go_on(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    """torchrun ended with SIGKILL takes both with it; run again, they end with the same bytes (2 minutes)."""
    whole = train("align.sft", sft(tmp_path / "whole", tiny_model, rows, 2), 2)
    values = sft(tmp_path / "killed", tiny_model, rows, 2)
    command = words(2, "-m", "medsmith.cli", "align.sft", str(tmp_path / "killed.json"))
    kill_at_checkpoint(values, command, 5)
    assert not (tmp_path / "killed" / "run.json").exists()
    folder = train("align.sft", values, 2)  # no orphan holds the lock
    assert run.require_finished(folder)["digest"] == run.require_finished(whole)["digest"]
    assert [row["step"] for row in logged(folder)] == list(range(1, 13))
    assert not (folder / "checkpoints").exists()


class Corpus(Config):
    """Stands in for experts.corpora."""


@pytest.mark.slow
def test_two_processes_make_the_expert_that_one_does(tiny_model: Path, tmp_path: Path) -> None:
    """Packed blocks, four by one process or two by each of two (1 minute): weights within 1e-6, one held-out loss."""
    with run.start(Corpus(out=tmp_path / "corpus"), "experts.corpora") as this:
        text = "The patient denies fever. No pleural effusion. "
        documents = [Document(f"d{n}", "", text * (2 + n % 7), "S", "CC0-1.0").__dict__ for n in range(40)]
        write_jsonl(this.folder / "train.jsonl", documents[:36])
        write_jsonl(this.folder / "heldout.jsonl", documents[36:])
        corpus = this.finish(train=36, heldout=4)

    def values(name: str, each: int) -> dict[str, Any]:
        block = EXACT | {"max_steps": 6, "per_device_train_batch_size": each, "save_steps": 3}
        inputs = {"base": str(tiny_model), "documents": str(corpus), "method": "dapt", "max_tokens": 64}
        return {"out": str(tmp_path / name), "threads": 1, "trainer": block, **inputs}

    one, two = train("experts.train", values("one", 4), 1), train("experts.train", values("two", 2), 2)
    assert distance(one, tiny_model) > 3e-3 and distance(one, two) < 1e-6
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    facts = [run.require_finished(folder)["facts"] for folder in (one, two)]
    assert facts[0]["heldout_loss_after"] == pytest.approx(facts[1]["heldout_loss_after"], abs=1e-5)
    assert (one / "data.json").read_text().replace('"per_device_train_batch_size": 4', "") == (
        (two / "data.json").read_text().replace('"per_device_train_batch_size": 2', "")
    )


SHARDED = """
import sys
from pathlib import Path
import torch
from torch.distributed.fsdp import fully_shard
from medsmith import processes
from medsmith.models import load_model, load_tokenizer
from medsmith.training import save_model

processes.join()
source, target = map(Path, sys.argv[1:])
model = load_model(source, device="cpu")
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
held = sum(weight.to_local().numel() for weight in model.parameters())
whole = sum(weight.numel() for weight in model.parameters())
assert 0.4 < held / whole < 0.6, "each process holds half"
save_model(model, load_tokenizer(source), target)
assert (target / "model.safetensors").is_file(), "nobody goes on before it is written"
"""


@pytest.mark.slow
def test_a_model_in_parts_is_saved_whole(tiny_model: Path, tmp_path: Path) -> None:
    """FSDP2 over two processes on CPUs, each holding half of the weights (38 s): the file has them all, unchanged."""
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    command = words(2, str(script), str(tiny_model), str(tmp_path / "saved"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert distance(tiny_model, tmp_path / "saved") == 0.0
