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
    "linear": 0.4, "slerp": 1.0, "nuslerp": 1.0, "task_arithmetic": 0.5, "model_stock": 1.2, "multislerp": 1.2,
    "ties": 4.0, "breadcrumbs": 4.0, "breadcrumbs_ties": 4.0, "dare_linear": 2.5, "dare_ties": 2.5,
}  # fmt: skip
"""CPU time of the streaming engine a parameter and model, page faults included, as benchmarks/merge.py measured it on
one core of an AMD EPYC (see benchmarks/README.md); a rough guide on others."""

MERGEKIT_NANOSECONDS = {"sorted": 60.0, "other": 8.0}
"""The same of mergekit 0.1.5, which sorts every tensor in the sparse methods."""


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
        nanoseconds = MERGEKIT_NANOSECONDS["sorted" if method in SPARSE and method != "task_arithmetic" else "other"]
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
        "CPU": f"about {parameters * len(names) * nanoseconds / 1e9 + (0.5 if merger else 5):,.1f} s (a guide: "
        "one core of a 2024 server)",
    }
    width_of_names = max(map(len, lines))
    return "\n".join(f"{name:<{width_of_names}}  {value}" for name, value in lines.items())
