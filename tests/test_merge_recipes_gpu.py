"""On a GPU a merge is what it is on a processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merge_recipes.arithmetic import METHODS
from merge_recipes.arithmetic_torch import merge_on_device
from merge_recipes.recipe import load_recipe, names_of
from merge_recipes.stream import Merger
from merge_recipes.weights import Weights
from tests.toy_merge import FAMILIES, family, inputs, numbers, roundings, stream

pytestmark = pytest.mark.gpu

RECIPES = Path(__file__).parents[1] / "merge_recipes"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_the_device_is_the_processors(method: str) -> None:
    """Same cuts, same ties, same draws; sums in another order are two roundings of float32 apart."""
    for kind in FAMILIES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            base, experts = family(kind, dtype)
            experts = experts[: {"slerp": 1, "nuslerp": 2}.get(method, 4)]
            for density in (0.2, 0.5, 1.0):
                given = numbers(method, len(experts), density=density, normalize=True)
                ours = stream(method, given, base, experts, seed=7)
                theirs = merge_on_device(method, given, inputs(base, experts, 7), "cuda").cpu().view(base.shape)
                scale = torch.stack([base.float().abs(), *(expert.float().abs() for expert in experts)]).max(0).values
                # A sum near zero may elect another sign on the two: at most one element in ten thousand.
                apart = (ours - theirs).abs() > 4 * roundings(scale, torch.float32)
                assert apart.float().mean() <= (1e-4 if method.endswith("ties") else 0), (kind, dtype, density)


def test_model_on_the_device_is_merged_in_place(tiny_model: Path, tmp_path: Path) -> None:
    """Into a model on the GPU: what the processor writes into a file, within a rounding."""
    from safetensors.torch import load_file, save_file

    from medsmith.models import load_model

    recipe = load_recipe(RECIPES / "ties.yml")
    folders = {"base": tiny_model}
    for number, name in enumerate(names_of(recipe)[1:]):
        draw = torch.Generator().manual_seed(number)
        folders[name] = tmp_path / name
        folders[name].mkdir()
        tensors = load_file(tiny_model / "model.safetensors")
        moved = {key: value + 0.02 * torch.randn(value.shape, generator=draw) for key, value in tensors.items()}
        save_file(moved, folders[name] / "model.safetensors", metadata={"format": "pt"})
    model = load_model(tiny_model, "float32", "cuda")
    Merger(folders, "base", device="cuda").into_model(recipe, model)
    (tmp_path / "out").mkdir()
    Merger(folders, "base", device="cuda").write(recipe, tmp_path / "out")
    cpu = Merger(folders, "base", threads=1)
    state = model.state_dict()
    for name, tensor in Weights(tmp_path / "out").items():
        there = state[name].cpu().float().view(-1)
        assert torch.equal(there, torch.tensor(tensor.float32()))
        here = torch.tensor(cpu.tensor(recipe, name))
        assert ((there - here).abs() > 1e-6).float().mean() <= 1e-3
