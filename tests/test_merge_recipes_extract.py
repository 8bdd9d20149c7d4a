"""A planted change of low rank is found again, no more and no less of it; what was extracted folds back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medsmith import run
from medsmith.errors import UserError
from merge_recipes import build, extract
from merge_recipes.extract import decompose
from merge_recipes.weights import Entry, Weights, create

TARGET = "model.layers.0.mlp.down_proj.weight"


def low_rank(shape: tuple[int, ...], sizes: list[float], seed: int = 0) -> torch.Tensor:
    """A matrix whose singular values are these."""
    draw = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(shape[0], len(sizes), generator=draw))
    right, _ = torch.linalg.qr(torch.randn(shape[1], len(sizes), generator=draw))
    return left @ torch.diag(torch.tensor(sizes)) @ right.T


@pytest.fixture(scope="module")
def expert(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a change of rank three in every matrix, and one of its norms moved."""
    from merge_recipes.stream import copy_small_files

    folder, source = tmp_path_factory.mktemp("expert"), Weights(tiny_model)
    with create(folder, [Entry(name, "F32", tensor.shape) for name, tensor in source.items()]) as views:
        for number, (name, tensor) in enumerate(source.items()):
            views[name][:] = tensor.float32()
            if len(tensor.shape) == 2 and "layers" in name:
                views[name][:] += low_rank(tensor.shape, [0.6, 0.3, 0.2], number).numpy().ravel()
            elif name == "model.norm.weight":
                views[name][:] += 0.01
    copy_small_files(tiny_model, folder, "F32")
    return folder


def extracted(out: Path, tiny_model: Path, expert: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    folder = extract.main(extract.Config(out=out, base=tiny_model, model=expert, **changes))
    return folder, json.loads((folder / "table.json").read_text())


def test_rank_that_is_there_is_enough(tiny_model: Path, expert: Path, tmp_path: Path) -> None:
    """At rank three every matrix is kept whole; at two just the share of the two largest directions."""
    _, whole = extracted(tmp_path / "three", tiny_model, expert, rank=3)
    assert {row["rank"] for row in whole["weights"]} == {3}
    assert all(row["kept"] == pytest.approx(1.0, abs=1e-6) for row in whole["weights"])
    assert [row["weight"] for row in whole["not_covered"]] == ["model.norm.weight"]
    assert whole["not_covered"][0]["length"] == pytest.approx(0.01 * 32**0.5, rel=1e-3)
    _, two = extracted(tmp_path / "two", tiny_model, expert, rank=2)
    share = (0.6**2 + 0.3**2) / (0.6**2 + 0.3**2 + 0.2**2)
    assert all(row["kept"] == pytest.approx(share, abs=1e-5) for row in two["weights"])
    assert 0 < whole["check"]["adapter_to_expert"] < two["check"]["adapter_to_expert"] < two["check"]["base_to_expert"]


@pytest.mark.parametrize(("energy", "rank"), [(0.7, 1), (0.9, 2), (0.93, 3), (1.0, 3)])
def test_energy_takes_the_smallest_rank(energy: float, rank: int) -> None:
    """0.36, 0.09 and 0.04 of 0.49: one direction keeps 73 %, two 92 %."""
    part = decompose(low_rank((40, 24), [0.6, 0.3, 0.2]), 24, energy)
    assert part.up.shape == (40, rank) and part.down.shape == (rank, 24)
    assert part.kept / part.squared == pytest.approx([0, 0.7347, 0.9184, 1.0][rank], abs=1e-3)


def test_what_was_extracted_folds_back(tiny_model: Path, expert: Path, tmp_path: Path) -> None:
    """As a parent of a merge the adapter is its expert again, but for what no adapter covers."""
    adapter, _ = extracted(tmp_path / "lora", tiny_model, expert, rank=8, energy=0.9999)
    recipe = tmp_path / "r.yml"
    recipe.write_text(
        "merge_method: task_arithmetic\nbase_model: base\ntokenizer: {source: base}\n"
        "models: [{model: expert, parameters: {weight: 1.0}}]\ndtype: float32\n"
    )
    merged = build.main(build.Config(out=tmp_path / "m", recipe=recipe, models={"base": tiny_model, "expert": adapter}))
    wanted, found, base = Weights(expert), Weights(merged), Weights(tiny_model)
    for name, tensor in wanted.items():
        aim = base[name] if name == "model.norm.weight" else tensor
        assert abs(found[name].float32() - aim.float32()).max() < 1e-5, name


def test_targets_and_mistakes(tiny_model: Path, expert: Path, tmp_path: Path) -> None:
    """Only the named weights are taken; a name that is none, and a model that is its base, are said so."""
    _, table = extracted(tmp_path / "mlp", tiny_model, expert, rank=3, targets=["mlp.down_proj"])
    assert [row["weight"] for row in table["weights"]] == [TARGET, TARGET.replace(".0.", ".1.")]
    assert table["kept"] < 0.5 and len(table["not_covered"]) > 5
    with pytest.raises(UserError, match="no changed matrix has such a name"):
        extracted(tmp_path / "none", tiny_model, expert, targets=["q_projj"])
    with pytest.raises(UserError, match="to the bit; there is nothing to extract"):
        extracted(tmp_path / "same", tiny_model, tiny_model)


def test_card_calls_it_an_adapter(tiny_model: Path, expert: Path, tmp_path: Path) -> None:
    """The hub is told the library and what it is; the page says what was kept."""
    from medsmith.hub import kind_of, write_card

    folder, table = extracted(tmp_path / "lora", tiny_model, expert, rank=2)
    assert kind_of(folder) == "model"
    card = write_card(folder, run.require_finished(folder), "me/lora", {"all of it": "CC0-1.0"})
    assert "library_name: peft" in card and "- lora" in card and "A LoRA adapter" in card
    page = (folder / "table.md").read_text()
    assert f"Kept: {100 * table['kept']:.1f} %" in page and f"| {TARGET} | 2 | 91.8 % |" in page


def test_large_matrices_are_projected_to_the_same() -> None:
    """Of a planted low rank under noise, random projections find what the whole decomposition finds."""
    change = low_rank((300, 200), [6.0, 3.0, 2.0]) + 0.01 * torch.randn(
        300, 200, generator=torch.Generator().manual_seed(1)
    )
    whole, projected = decompose(change, 3, None), decompose(change, 3, None, large=100)
    assert torch.allclose(whole.up @ whole.down, projected.up @ projected.down, atol=1e-3)
    assert projected.kept == pytest.approx(whole.kept, rel=1e-4) and projected.squared == whole.squared
