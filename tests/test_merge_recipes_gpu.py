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


def test_candidates_are_measured_on_the_device(tiny_model: Path, tmp_path: Path) -> None:
    """A search's workshop on the GPU: parents and candidates, margins as the processor's, answers alike."""
    import json

    from safetensors.torch import load_file, save_file

    from merge_recipes.candidates import Bench, Job, Shop
    from merge_recipes.validation import Question

    recipe = load_recipe(RECIPES / "breadcrumbs.yml")
    folders = [("base", tiny_model)]
    tensors = load_file(tiny_model / "model.safetensors")
    for number, name in enumerate(names_of(recipe)[1:]):
        draw = torch.Generator().manual_seed(number)
        (tmp_path / name).mkdir()
        moved = {key: value + 0.02 * torch.randn(value.shape, generator=draw) for key, value in tensors.items()}
        save_file(moved, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        for path in (tiny_model / "config.json", *tiny_model.glob("token*"), *tiny_model.glob("chat*")):
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
        folders.append((name, tmp_path / name))
    options = ("red", "blue", "green")
    questions = tuple(Question(str(n), "t", "", f"Colour of {n}?", options, n % 3) for n in range(40))
    jobs = [Job("", "clinical"), Job(json.dumps(recipe)), Job(json.dumps(recipe | {"parameters": {"lambda": 0.5}}))]
    rows = {}
    for device in ("cpu", "cuda"):
        bench = Bench(
            tuple(folders), "base", questions, (), None, "float32", device, None, 0, "stream", "", tmp_path / "s", 1
        )
        shop = Shop(bench)
        rows[device] = [shop.work(job).row for job in jobs]
        assert shop.device == {"cpu": "cpu", "cuda": "cuda:0"}[device]
    for here, there in zip(rows["cpu"], rows["cuda"], strict=True):
        apart = [abs(a - b) for a, b in zip(here["margins"], there["margins"], strict=True)]
        assert max(apart) < 2e-3
        assert sum(a != b for a, b in zip(here["right"], there["right"], strict=True)) <= 1
    assert rows["cuda"][1]["margins"] != rows["cuda"][2]["margins"] != rows["cuda"][0]["margins"]
