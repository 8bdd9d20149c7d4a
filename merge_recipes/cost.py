"""What a training step and an answer of a model cost here, measured in a process of its own.

    python -m merge_recipes.cost FOLDER '{"rows": 2, "tokens": 256}'

A step is forward, backward and AdamW for LoRA on the feed-forward matrices, of batches that lie in memory: nothing is
loaded meanwhile. Peak memory holds the weights, the activations and the optimiser's state: of the device where there is
one, else of the whole process, libraries included.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.lora import GROUPS

RANK = 16
"""Of the LoRA whose steps are timed, as Zhu et al. 2023 (arXiv 2305.08285) train on pruned models."""


@dataclass(frozen=True)
class Load:
    """The work that is timed."""

    rows: int = 2
    tokens: int = 256
    steps: int = 5
    answer_tokens: int = 32
    threads: int | None = None
    device: str = "cpu"
    dtype: str = "float32"


def measure_apart(folder: Path, load: Load) -> dict[str, Any]:
    """Measure in a new process, so that its peak of memory is the model's and not what ran here before.

    Raises:
        UserError: the process failed, e.g. for want of memory.
    """
    command = [sys.executable, "-m", "merge_recipes.cost", str(folder), json.dumps(asdict(load))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError(
            f"measuring {folder} failed ({said}); lower measure.tokens or measure.rows, or set measure=null"
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: Path, load: Load) -> dict[str, Any]:
    """Milliseconds a step (median, least, most), tokens a second of training and answering, peak memory in bytes."""
    import torch
    from peft import LoraConfig, get_peft_model

    from medsmith.models import load_model, set_threads

    set_threads(load.threads)
    torch.manual_seed(0)
    model = load_model(folder, load.dtype, load.device)
    rows = torch.randint(0, model.config.get_text_config().vocab_size, (load.rows, load.tokens), device=model.device)
    answering = _time_answer(model, rows[:1, : min(32, load.tokens)], load.answer_tokens)
    targets = feed_forward_of(model)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets)).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1.0e-4)
    seconds = []
    for number in range(load.steps + 1):
        began = time.perf_counter()
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        _wait(load.device)
        if number:  # the first step allocates
            seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds)
    return {
        "step_ms": round(1000 * middle, 2),
        "step_ms_least": round(1000 * min(seconds), 2),
        "step_ms_most": round(1000 * max(seconds), 2),
        "trained_tokens_per_second": round(rows.numel() / middle, 1),
        "answer_tokens_per_second": round(answering, 1),
        "peak_memory_bytes": _peak(load.device),
        "peak_memory_of": "device" if load.device.startswith("cuda") else "process",
    }


def _time_answer(model: Any, prompt: Any, tokens: int) -> float:
    """Tokens a second of greedy decoding with the cache, the prompt's reading included."""

    def answer(count: int) -> float:
        began = time.perf_counter()
        mask = prompt.new_ones(prompt.shape)
        model.generate(prompt, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        return time.perf_counter() - began

    answer(1)
    return tokens / answer(tokens)


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _peak(device: str) -> int:
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def feed_forward_of(model: Any) -> list[str]:
    """The names of a model's feed-forward matrices.

    Raises:
        UserError: none of the known names is there.
    """
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")}
    names = sorted(found & set(GROUPS["ffn"]))
    if not names:
        raise UserError(f"no feed-forward matrix of a known name in this model; there are {', '.join(sorted(found))}")
    return names


def lora_parameters(model: Any, targets: Sequence[str], rank: int) -> int:
    """The parameters that LoRA trains on these matrices: rank * (in + out) each. Weights may be on the meta device."""
    shapes = [
        module.weight.shape
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in targets and getattr(module, "weight", None) is not None
    ]
    return sum(rank * sum(shape) for shape in shapes)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Load(**json.loads(sys.argv[2])))))
