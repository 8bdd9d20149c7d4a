"""What a merge will take, before anything is read: engine, bytes, memory, disk and time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_recipes.arithmetic import SPARSE
from merge_recipes.recipe import names_of
from merge_recipes.result import Engine, choose_engine
from merge_recipes.weights import STORED, Weights

NANOSECONDS = {
    "linear": 0.6, "slerp": 1.0, "nuslerp": 1.2, "task_arithmetic": 0.6, "model_stock": 1.2, "multislerp": 1.2,
    "ties": 3.0, "breadcrumbs": 3.3, "breadcrumbs_ties": 3.5, "dare_linear": 2.0, "dare_ties": 2.1,
}  # fmt: skip
"""CPU time of the streaming engine a parameter and model, page faults included, as benchmarks/merge.py measured it on
one core of an AMD EPYC at 0.1 billion parameters (benchmarks/README.md); a rough guide elsewhere."""

MERGEKIT_NANOSECONDS = {"sorted": 45.0, "drawn": 23.0, "other": 4.0}
"""The same of mergekit 0.1.5: of what it sorts, of what it draws, and of all else."""


def describe(
    recipe: Mapping[str, Any], folders: Mapping[str, Path], out: Path, dtype: str | None, engine: Engine
) -> str:
    """The plan as lines of `name: value`.

    Raises:
        UserError: weights are missing or not whole, or the engine does not know the recipe.
    """
    merger, reason = choose_engine(recipe, folders, engine)
    names, method = names_of(recipe), recipe["merge_method"]
    weights = merger.weights if merger else {name: Weights(folders[name]) for name in names}
    base = weights[recipe["base_model"]]
    parameters = sum(tensor.data.size for tensor in base.values())
    read = sum(tensor.nbytes for model in weights.values() for tensor in model.values())
    wanted = recipe.get("out_dtype") or dtype or recipe.get("dtype")
    width = {"float32": 4, "bfloat16": 2, "float16": 2}.get(str(wanted))
    written = sum(tensor.data.size * (width or STORED[tensor.dtype].itemsize) for tensor in base.values())
    largest = max(base.values(), key=lambda tensor: tensor.nbytes)
    passes = {"slerp": 2, "nuslerp": 2, "model_stock": 2, "multislerp": 2}.get(method, 1)
    if method in SPARSE and method != "task_arithmetic":
        passes = 2 if method.startswith("dare") else 4
    place = next(path for path in [out, *out.parents] if path.exists())
    if merger:
        memory = "about 0.15 GB: blocks of tensors over mapped files"
        nanoseconds = NANOSECONDS[method]
    else:
        memory = f"about {(0.5e9 + 4 * len(names) * largest.nbytes) / 1e9:.1f} GB: whole tensors of all models"
        drawn = method.startswith(("dare", "della"))
        sorts = method in SPARSE and method != "task_arithmetic"
        nanoseconds = MERGEKIT_NANOSECONDS["drawn" if drawn else "sorted" if sorts else "other"]
    seconds = parameters * len(names) * nanoseconds / 1e9 + (0.25 if merger else 5)
    lines = {
        "engine": f"{'stream' if merger else 'mergekit'} ({reason})",
        "method": method,
        "models": f"{len(names)}: {', '.join(names)}",
        "parameters": f"{parameters:,} in {len(base):,} tensors",
        "largest tensor": f"{largest.name} ({largest.nbytes / 1e6:,.0f} MB)",
        "read": f"{read / 1e9:,.2f} GB on disk, looked at {passes} {'times' if passes > 1 else 'time'}",
        "written": f"{written / 1e9:,.2f} GB as {wanted or 'stored'}",
        "free disk": f"{shutil.disk_usage(place).free / 1e9:,.1f} GB at {place}",
        "memory": memory,
        "CPU": f"about {seconds:,.1f} s to merge (a guide: one core of a 2024 server)"
        + (", and some seconds to load the result and have it speak" if engine.verify else ""),
    }
    width_of_names = max(map(len, lines))
    return "\n".join(f"{name:<{width_of_names}}  {value}" for name, value in lines.items())
