"""A planted change of low rank is found again, no more and no less of it; what was extracted folds back."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from medsmith import run
from medsmith.errors import UserError
from merge_recipes import build, extract
from merge_recipes.adapters import fold_all
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
    """The tiny model with a change of rank three in every layer's matrices, and one norm and some embeddings moved."""
    from merge_recipes.stream import copy_small_files

    folder, source = tmp_path_factory.mktemp("expert"), Weights(tiny_model)
    with create(folder, [Entry(name, "F32", tensor.shape) for name, tensor in source.items()]) as views:
        for number, (name, tensor) in enumerate(source.items()):
            views[name][:] = tensor.float32()
            if len(tensor.shape) == 2 and "layers" in name:
                views[name][:] += low_rank(tensor.shape, [0.6, 0.3, 0.2], number).numpy().ravel()
            elif name == "model.norm.weight":
                views[name][:] += 0.01
            elif name == "model.embed_tokens.weight":
                views[name][:64] += 0.02
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
    lost = {row["weight"]: row["length"] for row in whole["not_covered"]}
    assert lost == pytest.approx({"model.norm.weight": 0.01 * 32**0.5, "model.embed_tokens.weight": 0.16}, rel=1e-3)
    assert whole["kept"] == pytest.approx(8 * 0.49 / (8 * 0.49 + 0.01**2 * 32 + 0.16**2), abs=1e-5)
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
        aim = base[name] if name in ("model.norm.weight", "model.embed_tokens.weight") else tensor
        assert abs(found[name].float32() - aim.float32()).max() < 1e-5, name


def fold(adapter: Path, base: Path, into: Path) -> Weights:
    return Weights(fold_all({"expert": adapter}, base, base, into)["expert"])


def test_nothing_is_lost_at_full_rank_with_the_rest(tiny_model: Path, expert: Path, tmp_path: Path) -> None:
    """Factors of full rank, embeddings and norms whole: folded in, and loaded as people load it, it is the expert."""
    from transformers import AutoModelForCausalLM

    adapter, table = extracted(tmp_path / "lora", tiny_model, expert, rank=32, save_rest=True)
    assert table["not_covered"] == [] and table["kept"] == pytest.approx(1.0, abs=1e-6)
    assert [row["weight"] for row in table["saved_whole"]] == ["model.embed_tokens.weight", "model.norm.weight"]
    assert table["check"]["adapter_to_expert"] < 1e-6 < table["check"]["base_to_expert"]
    found = fold(adapter, tiny_model, tmp_path / "in")
    for name, tensor in Weights(expert).items():
        assert abs(found[name].float32() - tensor.float32()).max() < 1e-6, name
    tokens = torch.arange(40)[None]
    with torch.inference_mode():
        said = [AutoModelForCausalLM.from_pretrained(folder)(tokens).logits for folder in (adapter, expert, tiny_model)]
    assert (said[0] - said[1]).abs().max() < 1e-4 < (said[1] - said[2]).abs().max()


def test_output_layer_is_a_linear_layer_unless_it_is_tied(tiny_model: Path, tmp_path: Path) -> None:
    """An expert that changed it alone is extracted; of a base with one matrix for both ends neither can be covered."""
    import shutil

    from safetensors.torch import load_file, save_file

    def moved(base: Path, name: str) -> Path:
        folder = shutil.copytree(base, tmp_path / name)
        tensors = load_file(folder / "model.safetensors")
        for key in tensors:
            if key in (name, TARGET):
                tensors[key] += low_rank(tuple(tensors[key].shape), [0.6])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    _, table = extracted(tmp_path / "a", tiny_model, moved(tiny_model, "lm_head.weight"), rank=1)
    assert [row["weight"] for row in table["weights"]] == ["lm_head.weight", TARGET]
    assert table["kept"] == pytest.approx(1.0, abs=1e-6)

    tied = shutil.copytree(tiny_model, tmp_path / "tied")
    tensors = load_file(tied / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tied / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    other = moved(tied, "model.embed_tokens.weight")
    _, table = extracted(tmp_path / "b", tied, other, rank=1, save_rest=True)
    assert [row["weight"] for row in table["not_covered"]] == ["model.embed_tokens.weight"]
    assert table["saved_whole"] == [] and table["kept"] == pytest.approx(0.5, abs=1e-6)


def test_rank_that_is_too_small_for_the_energy_is_told(
    tiny_model: Path, expert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of three directions keep 92 %: at 95 % every matrix says that the largest rank allowed is not enough."""
    with caplog.at_level(logging.INFO):
        extracted(tmp_path / "lora", tiny_model, expert, rank=2, energy=0.95)
    assert "8 weights keep less than energy=0.95 at rank=2" in caplog.messages
    caplog.clear()
    with caplog.at_level(logging.INFO):
        _, table = extracted(tmp_path / "enough", tiny_model, expert, rank=8, energy=0.95)
    assert {row["rank"] for row in table["weights"]} == {3} and "keep less" not in caplog.text


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
    enough = decompose(change, 40, 0.75, large=100)
    assert enough.up.shape[1] == decompose(change, 40, 0.75).up.shape[1] == 2
