"""How fast a training went, beside what the machine can do: tokens a second and model FLOPs utilisation.

Model FLOPs a token are 6 for each weight, of a forward and a backward pass: 4 where a weight is read only, as under an
adapter, and 2 more where it is trained. Attention's own work, which grows with the length, is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PEAKS = {
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}
"""Dense bfloat16 FLOPs a second by the makers' data sheets, by a part of the device's name; the first that fits."""

SECONDS = 0.2
"""How long a peak is measured for."""


class Peak(NamedTuple):
    """What one device can do, and how that is known."""

    flops_per_second: float
    how: str


def find_peak(device: str, half: bool) -> Peak:
    """The data sheet's number for a known GPU, else what a matrix product reaches here and now."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else ""
    known = next((part for part in PEAKS if part in name), None)
    if known and half:
        return Peak(PEAKS[known], f"{name}: dense bfloat16 by its data sheet")
    return measure_peak(device, half)


def measure_peak(device: str, half: bool) -> Peak:
    """The best of some matrix products in the training's precision. Draws no number."""
    import torch

    size = 8192 if device == "cuda" else 1024
    dtype = torch.bfloat16 if half else torch.float32
    matrix = torch.full((size, size), 0.5, dtype=dtype, device=device)

    def once() -> float:
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()  # the first one loads kernels
    times, began = [once()], time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        times.append(once())
    threads = f", {torch.get_num_threads()} thread(s)" if device == "cpu" else ""
    kind = "bfloat16" if half else "float32"
    return Peak(2 * size**3 / min(times), f"measured here: {kind} product of {size} × {size} on {device}{threads}")


def count_parameters(model: Any) -> tuple[int, int]:
    """All parameters of a model, and those that are trained."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def flops_per_token(parameters: int, trained: int) -> int:
    """Model FLOPs of training on one token."""
    return 4 * parameters + 2 * trained


def tokens_per_second(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """From the first logged loss to the last, without the time of measurements; None of fewer than two."""
    losses = [row for row in rows if "loss" in row]
    if len(losses) < 2:
        return None
    first, last = losses[0], losses[-1]
    apart = sum(
        row["dev_seconds"] for row in rows if "dev_seconds" in row and first["step"] < row["step"] <= last["step"]
    )
    seconds = last["seconds"] - first["seconds"] - apart
    return (last["tokens"] - first["tokens"]) / seconds if seconds > 0 else None
