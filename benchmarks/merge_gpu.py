"""Merging on a GPU: a candidate into a living model with everything resident, and a merge into files, beside the CPU.

    python -m benchmarks.merge_gpu --size 1b --folder /dev/shm/merge-benchmark

Needs a CUDA device and memory for the six models on it. The first candidate reads the files; the others find base and
experts on the device. Every candidate has weights of its own. The CPU's figures are for one thread of the same machine.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, table
from benchmarks.merge_models import FOLDER, SHAPES, make
from merge_recipes.recipe import load_recipe, names_of
from merge_recipes.stream import Merger

ROOT = Path(__file__).parent.parent
METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "breadcrumbs", "model_stock", "multislerp")


def main() -> None:
    """Measure every method, print one table."""
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="1b", choices=list(SHAPES))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    folders = make(given.size, given.folder)
    from transformers import AutoModelForCausalLM

    print(machine(), torch.cuda.get_device_name() if given.device == "cuda" else "", given.size, flush=True)
    model = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.bfloat16).to(given.device)
    host = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.bfloat16)
    gpu, cpu = Merger(folders, "base", given.device), Merger(folders, "base", threads=1)
    rows = []
    for method in METHODS:
        recipe = load_recipe(ROOT / "merge_recipes" / f"{method}.yml") | {"dtype": "float32", "out_dtype": "bfloat16"}
        recipe["models"] = [entry for entry in recipe["models"] if entry["model"] in folders]
        assert set(names_of(recipe)) <= set(folders)
        seconds = [_timed(gpu, _moved(recipe, number), model) for number in range(given.candidates)]
        others = [_timed(cpu, _moved(recipe, number), host) for number in range(2)]
        out = given.folder / "written"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        began = time.perf_counter()
        gpu.write(recipe, out)
        written = time.perf_counter() - began
        last = given.candidates - 1
        apart = _apart(gpu, cpu, _moved(recipe, last), model, host)
        first, later = f"{seconds[0]:.2f}", f"{statistics.median(seconds[1:]):.3f}"
        rows.append([method, first, later, f"{others[-1]:.2f}", f"{written:.2f}", f"{apart:.1e}"])
    head = ["method", "GPU first s", "GPU later s", "CPU later s", "GPU to files s", "entries apart"]
    print(table(head, rows))
    print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if given.device == "cuda" else "")


def _moved(recipe: dict[str, Any], number: int) -> dict[str, Any]:
    """The recipe with weights and densities of this candidate."""
    moved = copy.deepcopy(recipe)
    for entry in moved["models"]:
        for name, value in (entry.get("parameters") or {}).items():
            entry["parameters"][name] = value * (1 - 0.03 * number) if name in {"weight", "density"} else value
    return moved


def _timed(merger: Merger, recipe: dict[str, Any], model: Any) -> float:
    import torch

    began = time.perf_counter()
    merger.into_model(recipe, model)
    if merger.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _apart(gpu: Merger, cpu: Merger, recipe: dict[str, Any], model: Any, host: Any) -> float:
    """The share of entries that the two devices round to different numbers of bfloat16."""
    gpu.into_model(recipe, model)
    cpu.into_model(recipe, host)
    there, here = model.state_dict(), host.state_dict()
    differ = sum(int((there[name].cpu() != value).sum()) for name, value in here.items())
    return differ / sum(value.numel() for value in here.values())


if __name__ == "__main__":
    main()
