"""Several processes of one training: the first one writes, the others follow it.

torchrun and accelerate start a command once for each GPU, with RANK and WORLD_SIZE in the environment. Process 0, the
main one, holds the run's folder: lock, logs, notes, the model, run.json. Every other one has a scratch folder in its
place, so that whatever it writes is nobody's; `checkpoints` in it is a link to the run's own, where the trainer
has each process keep its own part. Nothing here loads torch where there is one process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def count() -> int:
    """How many processes work on this run together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def tell(value: T) -> T:
    """The main process's value, in every process; all must ask."""
    if count() == 1:
        return value
    import torch

    join()
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def wait() -> None:
    """Go on when every process has come here."""
    if count() > 1:
        tell(None)
        import torch

        torch.distributed.barrier()


def alone(work: Callable[[], object]) -> None:
    """Have the main process do something that the others must not see half done: all wait before and after."""
    wait()
    if is_main():
        work()
    wait()


def join() -> None:
    """Find the other processes, as accelerate does it; what the trainer sets up later takes this over."""
    import torch

    if not torch.distributed.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())


@contextlib.contextmanager
def scratch_for(folder: Path) -> Iterator[Path]:
    """A folder for what a following process writes, in the place of the run's own; hidden, so that it is no result."""
    made = folder / f".process-{os.environ.get('RANK')}"
    shutil.rmtree(made, ignore_errors=True)  # of a try that was killed
    made.mkdir(parents=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (made / "checkpoints").symlink_to((folder / "checkpoints").resolve())
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def is_sharded(trainer: Any) -> bool:
    """Whether no process holds the whole model (FSDP), or only DeepSpeed's engine can run it."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def whole_weights(model: Any) -> dict[str, Any] | None:
    """The weights of a model whose parts lie in several processes, on the CPU; None where they are whole already.

    All processes must ask. Parts are put together one tensor at a time, and kept by the main process alone.
    """
    from torch.distributed.tensor import DTensor

    if any(hasattr(weight, "ds_id") for weight in model.parameters()):
        return _from_deepspeed(model)
    state = model.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return None
    found = {}
    for name, tensor in state.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_main():
            found[name] = whole.detach().cpu()
    return found


def _from_deepspeed(model: Any) -> dict[str, Any]:
    import deepspeed

    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        with deepspeed.zero.GatheredParameters([tensor] if hasattr(tensor, "ds_id") else []):
            if is_main():
                found[name] = tensor.detach().cpu().clone()
    return found
