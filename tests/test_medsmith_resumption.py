"""A killed training goes on only as what it was; what differs is told, nothing is removed, and the user chooses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medsmith import command, resumption, run
from medsmith.config import Config
from medsmith.errors import UserError

ROOT = Path(__file__).parents[1]


class Toy(Config):
    """A command that leaves a checkpoint and is killed."""

    data: Path
    rate: float = 1.0
    fail: bool = True


def work(config: Toy) -> Path:
    """Find the checkpoint of an earlier try, or leave one; fail or finish."""
    with run.start(config, "toy.work") as this:
        resumption.note_maker(this)
        state = this.folder / "checkpoints" / "checkpoint-4" / "weights"
        went_on = this.resumed and state.is_file()
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text("trained")
        if os.environ.get("TOY_FAILS"):
            raise RuntimeError("killed")
        this.facts |= {"went_on": went_on, "across": resumption.accepted_changes(this.folder)}
        return this.finish(rows=1)


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A try that ended with a checkpoint."""
    (tmp_path / "data").write_text("1")
    settings = Toy(out=tmp_path / "run", data=tmp_path / "data")
    monkeypatch.setenv("TOY_FAILS", "1")
    with pytest.raises(RuntimeError):
        work(settings)
    monkeypatch.delenv("TOY_FAILS")
    return settings


def kept(settings: Toy) -> bool:
    return (settings.out / "checkpoints" / "checkpoint-4" / "weights").is_file()


def facts(settings: Toy) -> dict[str, Any]:
    found: dict[str, Any] = run.require_finished(settings.out)["facts"]
    return found


@pytest.mark.parametrize(
    "left", ["checkpoints/base.json", "checkpoints/phase1/model.safetensors", "checkpoints/state.pt"]
)
def test_before_the_first_checkpoint_a_setting_may_change(killed: Toy, left: str) -> None:
    """A try that left no weights stands in nobody's way; the model of a finished phase does."""
    state = killed.out / "checkpoints" / "checkpoint-4"
    shutil.rmtree(state)
    (killed.out / left).parent.mkdir(exist_ok=True)
    (killed.out / left).write_text("{}")
    changed = killed.model_copy(update={"rate": 2.0})
    if not left.endswith("json"):
        with pytest.raises(UserError, match="holds checkpoints of another training"):
            work(changed)
    else:
        work(changed)
        assert facts(changed)["went_on"] is False and facts(changed)["across"] == []


def test_the_same_training_goes_on(killed: Toy) -> None:
    """Nothing has changed: the checkpoint is used."""
    work(killed)
    assert facts(killed)["went_on"] is True


def test_other_settings_are_refused_and_putting_them_back_goes_on(killed: Toy) -> None:
    """The key is named with both values, twice over; the checkpoint stays, and the first settings still find it."""
    other = killed.model_copy(update={"rate": 2.0})
    for _ in range(2):
        with pytest.raises(UserError, match=r"settings\.rate: 1\.0 → 2\.0\); nothing was removed.*--again") as error:
            work(other)
        assert "--resume" not in str(error.value) and kept(killed)
    work(killed)
    assert facts(killed)["went_on"] is True


def test_a_lost_note_loses_no_checkpoint(killed: Toy) -> None:
    """Without made_by.json another setting is refused all the same, and the first ones find their checkpoint."""
    (killed.out / "checkpoints" / "made_by.json").unlink()
    with pytest.raises(UserError, match=r"settings\.rate: 1\.0 → 2\.0\); nothing was removed"):
        work(killed.model_copy(update={"rate": 2.0}))
    work(killed)
    assert facts(killed)["went_on"] is True


def test_other_data_are_refused(killed: Toy) -> None:
    """Another byte in the data is another training."""
    killed.data.write_text("2")
    with pytest.raises(UserError, match=r"inputs\.data: [0-9a-f]{8}… → [0-9a-f]{8}…"):
        work(killed)
    assert kept(killed)


def test_other_code_is_refused_unless_the_user_says_so(killed: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is named; with --resume the run goes on and says across what."""
    monkeypatch.setattr(run, "code_of", lambda command: {"medsmith.models": "0" * 16})
    with pytest.raises(UserError, match=r"code: medsmith\.models\).*go on all the same with --resume"):
        work(killed)
    monkeypatch.setenv(resumption.ACCEPT, "1")
    work(killed)
    assert facts(killed) == facts(killed) | {"went_on": True, "across": ["code: medsmith.models"]}


def test_other_libraries_are_refused_unless_the_user_says_so(killed: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new torch is told with both versions; --resume passes over libraries, and over settings never."""
    wanted = run.step_identity("toy.work", killed) | {"libraries": {"torch": "2.9"}}
    note = killed.out / "checkpoints" / resumption.MADE_BY
    made = json.loads(note.read_text())
    made["identity"]["libraries"] = {"torch": "2.8"}
    note.write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"libraries\.torch: 2\.8 → 2\.9\).*--resume"):
        resumption.check_maker(killed.out, wanted)
    monkeypatch.setenv(resumption.ACCEPT, "1")
    settings = run.step_identity("toy.work", killed.model_copy(update={"rate": 3.0}))
    with pytest.raises(UserError, match=r"settings\.rate: 1\.0 → 3\.0"):
        resumption.check_maker(killed.out, settings)
    assert resumption.check_maker(killed.out, wanted)
    assert not resumption.check_maker(killed.out, wanted), "what was accepted is the training now"


def test_again_starts_anew(killed: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--again` removes the checkpoint of this command and trains from the beginning; another command's stays."""
    resumption.discard(killed.out, "toy.other")
    assert kept(killed)
    words = [f"out={killed.out}", f"data={killed.data}", "rate=2.0"]
    described = command.Command("toy.work", Toy, work)
    with pytest.raises(UserError, match="nothing was removed"):
        command._run(described, "Toy.", words)
    command._run(described, "Toy.", [*words, "--again"])
    assert facts(killed)["went_on"] is False


def test_finished_runs_and_others_are_as_before(killed: Toy) -> None:
    """A finished run is made anew without a question, and so is a try that left no checkpoints."""
    work(killed)
    work(killed.model_copy(update={"rate": 2.0}))
    assert facts(killed)["went_on"] is False


def test_differences_are_told_by_key() -> None:
    """Nested keys with dots, digests shortened, values that came or went told as nothing."""
    old = {"a": {"b": 1, "c": "0" * 64}, "same": [1]}
    new = {"a": {"b": 2, "c": "1" * 64, "d": None}, "same": [1]}
    assert resumption.differences(old, new) == [
        "a.b: 1 → 2",
        "a.c: 00000000… → 11111111…",
        "a.d: nothing → None",
    ]


def test_weights_of_a_hub_id_that_moved_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    """The digest sees one changed weight; a resumed training from it is refused, and so are other rows a step."""
    from types import SimpleNamespace

    import torch

    from medsmith.models import load_model

    model = load_model(tiny_model, device="cpu")
    arguments = SimpleNamespace(
        output_dir=str(tmp_path), train_batch_size=4, gradient_accumulation_steps=2, world_size=1, process_index=0
    )
    trainer = SimpleNamespace(model=model, args=arguments)
    resumption.check_base(trainer, resumed=False)
    resumption.check_base(trainer, resumed=True)
    arguments.world_size = 2
    with pytest.raises(UserError, match=r"rows a step: 8 → 16\) and nothing was removed"):
        resumption.check_base(trainer, resumed=True)
    arguments.gradient_accumulation_steps = 1  # two processes with half the accumulation are the same training
    resumption.check_base(trainer, resumed=True)
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-6
    with pytest.raises(UserError, match=r"base weights: [0-9a-f]{8}… → [0-9a-f]{8}…"):
        resumption.check_base(trainer, resumed=True)


KILL = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from medsmith.config import load
import {module} as stage

class Killer(TrainerCallback):
    def on_step_end(self, args, state, control, **rest):
        if state.global_step == {step} and Path(args.output_dir).name.endswith({phase!r}):
            os.kill(os.getpid(), signal.SIGKILL)

stage.main(load(stage.Config, {settings!r}), [Killer()] if {step} else [])
"""


def run_stage(module: str, settings: dict[str, Any], step: int, phase: str = "") -> int:
    """Train in a process of its own, killed by force at a step (0: not); its return code."""
    code = KILL.format(module=module, settings=settings, step=step, phase=phase)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True).returncode


def instructions(folder: Path) -> Path:
    from medsmith.records import Instruction, write_parquet

    rows = [
        Instruction(f"r{n}", f"Do {n // 2}.", f"Fever {n}?", "No fever.", "qa", "note", "text", "low", "Fever.")
        for n in range(12)
    ]
    write_parquet(folder / "data" / "part-0.parquet", rows)
    return folder


def corpus(folder: Path) -> Path:
    from experts import corpora
    from medsmith.config import load
    from medsmith.records import write_jsonl

    rows = [
        {"id": f"d{n}", "title": "", "text": f"Case {n}: the patient has fever {n}.", "source": "S", "license": "CC0"}
        for n in range(30)
    ]
    write_jsonl(folder / "in.jsonl", rows)
    return corpora.main(load(corpora.Config, {"out": folder / "corpus", "corpus": str(folder / "in.jsonl")}))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["align.sft", "align.dpo", "experts.train"])
def test_killed_by_force_ends_with_the_same_bytes(module: str, tiny_model: Path, tmp_path: Path) -> None:
    """SIGKILL at step 5 of 8, then the same command again: the weights of the run that was never disturbed."""
    trainer = {
        "max_steps": 8,
        "save_steps": 3,
        "logging_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1.0e-2,
    }
    settings: dict[str, Any] = {"trainer": trainer, "threads": 1}
    if module == "experts.train":
        settings |= {"base": str(tiny_model), "documents": str(corpus(tmp_path)), "method": "dapt", "max_tokens": 32}
    else:
        settings |= {"model": str(tiny_model), "data": str(instructions(tmp_path / "rows"))}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_stage(module, settings | {"out": str(whole)}, 0) == 0
    assert run_stage(module, settings | {"out": str(cut)}, 5) == -signal.SIGKILL
    assert [path.name for path in cut.rglob("checkpoint-*")] == ["checkpoint-3"]
    assert run_stage(module, settings | {"out": str(cut)}, 0) == 0
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()
    assert run.digest(whole) == run.digest(cut)
