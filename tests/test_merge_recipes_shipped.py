"""Every shipped recipe runs through mergekit, and does to a model what its numbers say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from merge_recipes.recipe import load_recipe, names_of

FOLDER = Path(__file__).parents[1] / "merge_recipes"

CHANGES = {"pubmed": 1.0, "clinical": 2.0, "medwiki": 1.0, "guidelines": 1.0, "medcode": 1.0, "expert": 1.0}
"""How often each planted expert makes one and the same change to the base."""

BUILT = {
    "breadcrumbs": (0.9, 0.3 * 6),
    "breadcrumbs_ties": (0.9, 0.3 * 6),
    "karcher": (1.0, 6 / 6),
    "linear": (1.0, 6 / 6),
    "mediphi": (0.9, 0.2 * 6),
    "model_stock": (1.0, 6 / 5),
    "multislerp": (1.0, 6 / 5),
    "nuslerp": (1.0, (2 + 1) / 2),
    "sce": (0.5, (4 * 1 * 1 + 4 * 2) / (4 * 1 + 4)),
    "slerp": (1.0, 0.5),
    "slerp_10": (1.0, 0.1),
    "slerp_25": (1.0, 0.25),
    "task_arithmetic": (1.0, 0.3 * 6),
    "ties": (0.5, 6 / 5),
}
"""What each recipe makes of those experts: the share of weights that it changes, and by how many of their changes."""

DRAWN = {
    "dare_linear": (1 - 0.5**5, 0.3 * 6),
    "dare_ties": (1 - 0.5**5, 0.3 * 6),
    "della": (1 - (0.65**6 - 0.35**6) / (6 * 0.3), None),
    "della_linear": (1 - (0.65**6 - 0.35**6) / (6 * 0.3), 0.3 * 6),
}
"""The same of the recipes that draw: at least one of five draws hits, and in the sum of magnitudes nothing is lost."""


def test_every_recipe_in_the_folder_is_built_here() -> None:
    """A new recipe needs a line in one of the tables above."""
    assert {path.stem for path in FOLDER.glob("*.yml")} == {*BUILT, *DRAWN, "prune"}


@pytest.fixture(scope="module")
def planted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model as base, and experts that all make one small change to it, one of them twice (CHANGES)."""
    import torch
    from safetensors.torch import load_file, save_file

    top = tmp_path_factory.mktemp("planted")
    generator = torch.Generator().manual_seed(0)
    # Rounded, so that a merge that is saved in bfloat16 leaves untouched what it does not change.
    base = {name: value.bfloat16().float() for name, value in load_file(tiny_model / "model.safetensors").items()}
    change = {name: 1e-3 * torch.randn(value.shape, generator=generator) for name, value in sorted(base.items())}
    folders = {}
    for model, times in {"base": 0.0, **CHANGES}.items():
        folders[model] = shutil.copytree(tiny_model, top / model)
        tensors = {name: value + times * change[name] for name, value in base.items()}
        save_file(tensors, top / model / "model.safetensors", metadata={"format": "pt"})
    return folders


def merged(recipe: Mapping[str, Any], folders: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """The tensors of a merge by mergekit."""
    from safetensors.torch import load_file

    from merge_recipes.merge import merge

    out.mkdir()
    merge(recipe, {name: folders[name] for name in names_of(recipe)}, out, None, 0)
    tensors: dict[str, Any] = load_file(out / "model.safetensors")
    return tensors


def made_of(name: str, folders: Mapping[str, Path], out: Path) -> tuple[Any, Any]:
    """What a shipped recipe changes in one tensor, in units of the planted change and in weights; all are finite."""
    from safetensors.torch import load_file

    base, other = (load_file(folders[model] / "model.safetensors") for model in ("base", "pubmed"))
    found = merged(load_recipe(FOLDER / f"{name}.yml"), folders, out)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in base.items()}
    assert all(value.isfinite().all() for value in found.values())
    tensor = "model.layers.0.mlp.down_proj.weight"
    change = found[tensor].float() - base[tensor]
    return change / (other[tensor] - base[tensor]), change.abs().sum() / (other[tensor] - base[tensor]).abs().sum()


@pytest.mark.parametrize("name", BUILT)
def test_shipped_recipes_do_what_their_numbers_say(name: str, planted: dict[str, Path], tmp_path: Path) -> None:
    """By mergekit, on experts that differ by one known change: each changes the share and by the factor expected."""
    share, factor = BUILT[name]
    times, _ = made_of(name, planted, tmp_path / "m")
    changed = times.abs() > 0.02
    assert changed.float().mean().item() == pytest.approx(share, abs=0.01)
    assert times[changed].median().item() == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("name", DRAWN)
def test_shipped_recipes_that_draw_do_so(name: str, planted: dict[str, Path], tmp_path: Path) -> None:
    """As many weights change as five draws hit; rescaling keeps the sum of magnitudes; same seed, same merge."""
    share, factor = DRAWN[name]
    times, total = made_of(name, planted, tmp_path / "m")
    assert (times.abs() > 0.02).float().mean().item() == pytest.approx(share, abs=0.02)
    assert len((times * 1000).round().unique()) > 5  # not one factor for all, as where nothing is drawn
    if factor is not None:
        assert total.item() == pytest.approx(factor, rel=0.001)
    assert times.equal(made_of(name, planted, tmp_path / "again")[0])


def test_pruning_takes_the_layers_that_the_recipe_says(tiny_model: Path, tmp_path: Path) -> None:
    """Of 32 layers 28 are left, the 28th in the place of the 24th; the model loads whole and talks."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from experts.architecture import build_model, untie

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = build_model(tokenizer, hidden=32, layers=32, heads=2, feed_forward=64, context=256, seed=0)
    untie(model)
    shutil.copytree(tiny_model, tmp_path / "base")
    model.save_pretrained(tmp_path / "base")
    found = merged(load_recipe(FOLDER / "prune.yml"), {"base": tmp_path / "base"}, tmp_path / "m")

    base = load_file(tmp_path / "base" / "model.safetensors")
    name = "model.layers.{}.mlp.down_proj.weight"
    kept = [*range(24), *range(28, 32)]
    assert all(found[name.format(at)].equal(base[name.format(old)].bfloat16()) for at, old in enumerate(kept))
    assert name.format(28) not in found
    shallow, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and shallow.dtype == torch.bfloat16
    assert shallow.config.num_hidden_layers == len(shallow.model.layers) == 28
    answer = shallow.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False)
    assert answer.shape[1] > 3
