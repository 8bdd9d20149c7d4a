"""When a killed training goes on: from its latest whole checkpoint, and only as the training that it was.

What made a checkpoint is noted beside it, in `checkpoints/made_by.json`: the run's identity (settings, digests of data
and of a base model's folder, versions of libraries, and the code and files of ours: medsmith/code_identity.py). Where
anything of it has changed, the same command refuses to start, tells what, and removes nothing: the user puts it back,
chooses another out=, or starts anew with `--again`. A change of code or libraries alone may be passed over with
`--resume`, and the run says so in its facts. The commit is told but not compared: it changes with every document.

`base.json` beside a training's checkpoints notes the weights that it began from (a hub id may name others today) and
the rows of a step over all processes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsmith import processes
from medsmith.digests import STARTED
from medsmith.errors import UserError
from medsmith.records import write_json

if TYPE_CHECKING:
    from medsmith.run import Run

LOG = logging.getLogger(__name__)

FOLDER = "checkpoints"
MADE_BY = "made_by.json"
BASE = "base.json"
ACCEPT = "MEDSMITH_RESUME"
"""Set by `--resume`; for a step of a pipeline it is set by hand."""
SHOWN = 6
MISSING = "nothing"


def note_maker(this: Run) -> None:
    """Note what makes the checkpoints of this run, before the first one is there."""
    path = this.folder / FOLDER / MADE_BY
    if this.main and not path.is_file():
        from medsmith.run import git_state

        write_json(path, {"identity": this.identity, "git": git_state()})


def accepted_changes(folder: Path) -> list[str]:
    """What `--resume` passed over, over all tries of an unfinished run."""
    return list((_read(folder / FOLDER / MADE_BY) or {}).get("accepted", []))


def check_maker(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether what the checkpoints of an unfinished run were made by was other, and that was accepted.

    Raises:
        UserError: it was other. Nothing has been removed.
    """
    from medsmith.run import git_state

    path = folder / FOLDER / MADE_BY
    # Where the note is lost, the try that did not finish says as what it was started.
    made = _read(path) or {"identity": (_read(folder / STARTED) or {}).get("identity") or wanted}
    told = differences(*({**each, "code": None} for each in (made["identity"], wanted)))
    if changed := code_differences(made["identity"].get("code", {}), wanted["code"]):
        commits = [str(git.get("commit", ""))[:8] for git in (made.get("git", {}), git_state())]
        moved = f" (commit {commits[0]} → {commits[1]})" if all(commits) and commits[0] != commits[1] else ""
        told.append(f"{changed}{moved}")
    if not told:
        return False
    if not _has_trained(folder / FOLDER):
        path.unlink(missing_ok=True)  # a setting that was mended before the first checkpoint has nothing to lose
        return False
    passable = {one.partition(":")[0].partition(".")[0] for one in told} <= {"libraries", "code"}
    if passable and os.environ.get(ACCEPT):
        accepted = [*made.get("accepted", []), *told]
        write_json(path, {"identity": wanted, "git": git_state(), "accepted": accepted})
        return True
    more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    anyway = f", go on all the same with --resume ({ACCEPT}=1 for a pipeline)" if passable else ""
    raise UserError(
        f"{folder} holds checkpoints of another training ({'; '.join([*told[:SHOWN], *more])}); nothing was removed: "
        f"put that back to go on{anyway}, choose another out=, or start anew with --again (it removes "
        f"{folder / FOLDER})"
    )


def _has_trained(folder: Path) -> bool:
    """Whether weights were kept of an unfinished run: a checkpoint, the model of a phase, or a base's state."""
    return any(any(folder.rglob(kept)) for kept in ("checkpoint-*", "*.safetensors", "*.pt"))


def discard(folder: Path, command: str) -> None:
    """Remove the checkpoints of an unfinished run of this command, because the user asked for a new start."""
    made = _read(folder / FOLDER / MADE_BY)
    if made is not None and made["identity"].get("command") == command:
        shutil.rmtree(folder / FOLDER)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The values that are not the same, as `key.sub: old → new`; digests are shortened."""
    before, after = dict(_flat(old)), dict(_flat(new))
    return [
        f"{key}: {_short(before.get(key, MISSING))} → {_short(after.get(key, MISSING))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, MISSING) != after.get(key, MISSING)
    ]


def code_differences(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The modules and files of ours that are not what they were, files first; empty where all are."""
    changed = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    changed.sort(key=lambda name: ("/" not in name, name))
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return f"code: {', '.join(changed[:SHOWN])}{more}" if changed else ""


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:8]}…" if len(text) == 64 and not set(text) - set("0123456789abcdef") else text[:60]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# --- one training -----------------------------------------------------------------------------------------------------


def check_base(trainer: Any, resumed: bool) -> None:
    """Note what a training begins from; where it is resumed, hold it against the note.

    Raises:
        UserError: other weights, or another number of rows a step.
    """
    arguments = trainer.args
    if arguments.process_index:
        return  # the main process looks; the others may hold a part of the weights, or none yet
    rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    now = {"base weights": weights_digest(trainer.model), "rows a step": rows}
    path = Path(arguments.output_dir) / BASE
    if resumed and (told := differences(_read(path) or {}, now)):
        raise UserError(
            f"{arguments.output_dir} holds a checkpoint of a training from another beginning ({'; '.join(told)}) and "
            "nothing was removed: put that back to go on, choose another out=, or start anew with --again"
        )
    if not resumed:
        write_json(path, now)


def weights_digest(model: Any) -> str:
    """sha256 of the names and values of all weights; of a model with adapters, of those that stay as they are."""
    import torch

    adapted = hasattr(model, "peft_config")
    whole = hashlib.sha256()
    for name, tensor in model.named_parameters():
        if adapted and tensor.requires_grad:
            continue  # drawn anew for each try, and read from the checkpoint
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; what cannot be gone on from (a kill in the midst of saving) is renamed aside.

    Ask `check_base` first: what is no checkpoint of this training is to be refused, with everything in its place.
    """
    for path in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        if _is_whole(path):
            return path
        # Not deleted: what looks torn from here may be all that is left of days. The end of the run clears both.
        aside = next(each for n in count(1) if not (each := path.with_name(f"torn-{path.name}.{n}")).exists())
        path.rename(aside)
        LOG.warning("%s cannot be gone on from (torn, or of fewer processes); it is kept as %s", path, aside.name)
    return None


def step_of(path: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(path.name.rpartition("-")[2])


def is_last(checkpoint: Path) -> bool:
    """Whether the training had no step left."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return bool(state["global_step"] >= state["max_steps"])


def restore(trainer: Any, checkpoint: Path) -> None:
    """Take up a finished training. Given to `train`, its last checkpoint would be trained for one step more."""
    from transformers import TrainerState

    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def _is_whole(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        # The trainer writes this file last.
        state = json.loads((path / "trainer_state.json").read_text())
        for weights in path.glob("*.safetensors"):
            with safe_open(weights, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    drawn = list(path.glob("rng_state*.pth"))
    archives = [*path.glob("optimizer*.pt"), *drawn, *path.glob("scheduler.pt")]
    if any(path.glob("global_step*")):  # DeepSpeed keeps weights and optimiser there, and names it in `latest`
        whole = (path / "latest").is_file()
    else:
        whole = any(path.glob("*.safetensors")) and len(archives) >= 3
    whole &= len(drawn) >= processes.count() and all(map(zipfile.is_zipfile, archives))
    return whole and state.get("global_step") == step_of(path)
