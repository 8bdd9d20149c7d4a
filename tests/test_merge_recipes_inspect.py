"""What inspect says of experts is what was planted in them, and what it predicts of a recipe is what the merge does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medsmith import run
from medsmith.errors import UserError
from medsmith.records import read_json
from merge_recipes import inspect
from merge_recipes.geometry import STRETCH, Place, kind_order, place_of, summarise, tally_tensor
from merge_recipes.recipe import load_recipe
from merge_recipes.stream import Merger
from merge_recipes.weights import Entry, Tensor, Weights, create

DRAWN = "model.layers.0.mlp.down_proj.weight"

Change = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], np.ndarray[Any, Any]]
"""From a tensor of the base and a drawn change of its size to the expert's tensor."""

EXPERTS: dict[str, Change] = {
    "plus": lambda base, change: base + change,
    "minus": lambda base, change: base - change,
    "twice": lambda base, change: base + 2 * change,
    "even": lambda base, change: base + change * (np.arange(change.size) % 2 == 0),
    "odd": lambda base, change: base + change * (np.arange(change.size) % 2 == 1),
}


def make_expert(base: Path, target: Path, change: Change) -> Path:
    """A copy of a model folder with changed weights; what is drawn is the same for every expert."""
    shutil.copytree(base, target, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = Weights(base)
    with create(target, [Entry(name, "F32", tensor.shape) for name, tensor in weights.items()]) as views:
        for name in sorted(weights):
            drawn = np.random.default_rng(len(name)).standard_normal(weights[name].data.size) * 0.01
            views[name][:] = change(weights[name].float32(), drawn.astype(np.float32))
    return target


@pytest.fixture(scope="module")
def experts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("experts")
    return {name: make_expert(tiny_model, folder / name, change) for name, change in EXPERTS.items()}


def looked_at(out: Path, base: Path, models: dict[str, Path], **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = read_json(
        inspect.main(inspect.Config(out=out, base=base, models=models, **settings)) / "table.json"
    )
    return found


def some(experts: dict[str, Path], *names: str) -> dict[str, Path]:
    return {name: experts[name] for name in names}


def write_recipe(path: Path, method: str, models: dict[str, dict[str, Any]], **shared: Any) -> Path:
    listed = [{"model": name, "parameters": values} for name, values in models.items()]
    recipe = {"merge_method": method, "base_model": "base", "tokenizer": {"source": "base"}, "models": listed}
    path.write_text(yaml.safe_dump(recipe | ({"parameters": shared} if shared else {}) | {"dtype": "float32"}))
    return path


def flat(name: str, values: Any, dtype: str = "F32") -> Tensor:
    return Tensor(name, dtype, np.shape(values), np.asarray(values), Path("model.safetensors"))


def test_opposite_experts(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Base + d and base - d are equally far, at cosine -1, every sign opposite, and agree on what is largest."""
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "plus", "minus"))
    total = table["total"]
    assert total["experts"]["plus"]["norm"] == total["experts"]["minus"]["norm"] > 0
    assert total["cosine"] == [[1.0, -1.0], [-1.0, 1.0]]
    assert total["sign_conflict"] == [[0.0, 1.0], [1.0, 0.0]]
    assert total["top_overlap"][0][1] > 0.999
    assert total["outvoted"] == pytest.approx(0.5, abs=1e-4)


def test_an_expert_and_its_double(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Base + d and base + 2d: cosine 1, no conflict, the same largest changes, twice as far."""
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "plus", "twice"))
    total = table["total"]
    assert (total["cosine"][0][1], total["sign_conflict"][0][1], total["outvoted"]) == (1.0, 0.0, 0.0)
    assert total["top_overlap"][0][1] > 0.999
    assert total["experts"]["twice"]["norm"] == pytest.approx(2 * total["experts"]["plus"]["norm"], rel=1e-5)


def test_experts_that_change_other_weights(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Each changed half of the weights, none together: cosine 0, nothing shared, and no signs that could conflict."""
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "even", "odd"))
    total = table["total"]
    assert (total["cosine"][0][1], total["top_overlap"][0][1], total["sign_conflict"][0][1]) == (0.0, 0.0, None)
    assert [total["experts"][name]["changed"] for name in ("even", "odd")] == [0.5, 0.5]
    assert total["experts"]["odd"]["top"] == pytest.approx(0.1, abs=0.001)
    assert total["top_chance"][0][1] == pytest.approx(0.1, abs=0.001)


def test_the_minority_is_outvoted(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Of +d, +2d and -d the last is outvoted everywhere: a quarter of the size of all changes."""
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "plus", "twice", "minus"))
    outvoted = {name: one["outvoted"] for name, one in table["total"]["experts"].items()}
    assert outvoted == {"plus": 0.0, "twice": 0.0, "minus": 1.0}
    assert table["total"]["outvoted"] == pytest.approx(0.25, abs=1e-5)


def test_parts_add_up_to_the_whole(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Layers, kinds, cells and tensors each hold every weight once: sizes and squared norms sum to the total's."""
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "even", "twice"))
    total = table["total"]
    assert total["parameters"] == sum(tensor.data.size for tensor in Weights(tiny_model).values())
    for part in ("layers", "kinds", "cells", "tensors"):
        assert sum(one["parameters"] for one in table[part]) == total["parameters"]
        for name in ("even", "twice"):
            squares = sum(one["experts"][name]["norm"] ** 2 for one in table[part])
            assert squares == pytest.approx(total["experts"][name]["norm"] ** 2, rel=1e-4)
    assert [one["layer"] for one in table["layers"]] == [0, 1, None]
    attention, mlp = ["self_attn.qkv_proj", "self_attn.o_proj"], ["mlp.gate_up_proj", "mlp.down_proj"]
    assert [one["kind"] for one in table["kinds"]] == [*attention, *mlp, "norms", "embeddings", "head"]
    assert (table["cells"][0]["layer"], table["cells"][0]["kind"]) == (0, "self_attn.qkv_proj")


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_every_number_is_what_it_is_by_hand(dtype: str) -> None:
    """On a tensor of several stretches that end in an odd place, each sum is the one over the whole tensor."""
    size = 2 * STRETCH + 77
    draw = np.random.default_rng(0)

    def tensor() -> Tensor:
        values = draw.standard_normal(size, dtype=np.float32)
        values[::3] = 0.5
        return flat("w", values if dtype == "F32" else (values.view(np.uint32) >> 16).astype(np.uint16), dtype)

    base, *experts = (tensor() for _ in range(4))
    merged = draw.standard_normal(size, dtype=np.float32)
    tally = tally_tensor(base, experts, 0.2, merged, np.array([5.0, 6.0, 7.0]))
    origin = base.float32()
    changes = np.stack([expert.float32() - origin for expert in experts]).astype(np.float64)
    sizes, sign = np.abs(changes), np.sign(changes)
    elected = np.sign(changes.sum(axis=0))
    against = np.where(elected == 0, 0.5, sign != elected)
    cuts = np.sort(sizes, axis=1)[:, -int(0.2 * size)]
    top = sizes >= cuts[:, None]
    for j in range(3):
        assert tally.largest[j] == np.float32(sizes[j].max())
        assert tally.magnitude[j] == pytest.approx(sizes[j].sum(), rel=1e-6)
        assert tally.outvoted[j] == pytest.approx((sizes[j] * against[j]).sum(), rel=1e-6)
        assert tally.onto[j] == pytest.approx(changes[j] @ (merged - origin).astype(np.float64), rel=1e-6)
        for k in range(3):
            assert tally.products[j, k] == pytest.approx(changes[j] @ changes[k], rel=1e-9)
            assert tally.changed[j, k] == ((sign[j] != 0) & (sign[k] != 0)).sum()
            assert tally.conflicts[j, k] == (sign[j] * sign[k] < 0).sum()
            assert tally.top[j, k] == (top[j] & top[k]).sum()
    assert tally.changed[0, 0] < size
    assert tally.base == pytest.approx((origin.astype(np.float64) ** 2).sum(), rel=1e-9)
    assert tally.merged == pytest.approx(((merged - origin).astype(np.float64) ** 2).sum(), rel=1e-6)
    assert tally.kept.tolist() == [5.0, 6.0, 7.0]


def test_equal_changes_at_the_cut_all_count() -> None:
    """Where half of the changes are equally large, all of them are the largest, and chance is raised accordingly."""
    one, other = np.zeros(100, np.float32), np.zeros(100, np.float32)
    one[:50], other[25:75] = 1, 1
    found = summarise(
        tally_tensor(flat("w", np.zeros(100, np.float32)), [flat("w", one), flat("w", other)], 0.1), "ab", False
    )
    assert [found["experts"][name]["top"] for name in "ab"] == [0.5, 0.5]
    assert (found["top_overlap"][0][1], found["top_chance"][0][1]) == (0.5, 0.5)


def test_what_did_not_change_is_never_among_the_largest() -> None:
    """An expert that changed 3 of 100 weights has 3 largest changes, not 10; one that changed nothing has no cosine."""
    few, none = np.zeros(100, np.float32), np.zeros(100, np.float32)
    few[[1, 50, 99]] = (1, -2, 3)
    found = summarise(tally_tensor(flat("w", none), [flat("w", few), flat("w", none)], 0.1), ["few", "none"], False)
    assert found["experts"]["few"]["top"] == 0.03
    assert found["experts"]["none"]["top"] == 0.0
    assert (found["cosine"][0][1], found["top_overlap"][0][1], found["experts"]["few"]["relative"]) == (
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.self_attn.qkv_proj.weight", Place(3, "self_attn.qkv_proj")),
        ("model.layers.11.self_attn.q_proj.bias", Place(11, "self_attn.q_proj")),
        ("model.layers.0.self_attn.q_norm.weight", Place(0, "norms")),
        ("model.layers.0.post_attention_layernorm.weight", Place(0, "norms")),
        ("model.layers.1.mlp.experts.17.down_proj.weight", Place(1, "mlp.experts.down_proj")),
        ("transformer.h.2.attn.c_attn.weight", Place(2, "attn.c_attn")),
        ("transformer.h.2.ln_1.weight", Place(2, "norms")),
        ("model.embed_tokens.weight", Place(None, "embeddings")),
        ("transformer.wte.weight", Place(None, "embeddings")),
        ("model.norm.weight", Place(None, "norms")),
        ("transformer.ln_f.weight", Place(None, "norms")),
        ("lm_head.weight", Place(None, "head")),
    ],
)
def test_places_follow_from_names(name: str, place: Place) -> None:
    """Layer and kind of module, as Llama, Qwen, Phi, GPT-2 and mixtures name them."""
    assert place_of(name) == place


def test_kinds_come_in_the_order_of_a_forward_pass() -> None:
    """Attention, feed-forward, norms, and then what is outside of layers."""
    order = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
    order += ["mlp.up_proj", "mlp.down_proj", "norms", "embeddings", "head"]
    assert sorted(sorted(order), key=kind_order) == order


def test_task_arithmetic_goes_its_weight_of_the_way(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Experts that share nothing: the merge's projection on each is its weight, in all and in every layer."""
    recipe = write_recipe(tmp_path / "r.yml", "task_arithmetic", {"even": {"weight": 0.7}, "odd": {"weight": -0.2}})
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "even", "odd"), recipe=recipe)
    for part in (table["total"], *table["layers"], *table["cells"]):
        assert part["experts"]["even"]["projection"] == pytest.approx(0.7, abs=1e-4)
        assert part["experts"]["odd"]["projection"] == pytest.approx(-0.2, abs=1e-4)
    even, odd = (table["total"]["experts"][name] for name in ("even", "odd"))
    length = np.hypot(0.7 * even["norm"], 0.2 * odd["norm"])
    assert table["total"]["merged"]["norm"] == pytest.approx(length, rel=1e-4)
    assert even["merged_cosine"] == pytest.approx(0.7 * even["norm"] / length, abs=1e-4)
    assert even["kept"] is None, "this method thins nothing out"


@pytest.mark.parametrize(
    ("method", "numbers", "of_all", "of_half"),
    [
        # Unchanged weights are the smallest: a cut by size drops them first, a draw does not.
        ("ties", {"density": 0.25}, 0.25, 0.5),
        ("breadcrumbs", {"density": 0.6, "gamma": 0.1}, 0.6, 0.8),
        ("breadcrumbs_ties", {"density": 0.6, "gamma": 0.1}, 0.6, 0.8),
        ("dare_linear", {"density": 0.5}, 0.5, 0.5),
        ("dare_ties", {"density": 0.5}, 0.5, 0.5),
    ],
)
def test_what_a_recipe_keeps(
    experts: dict[str, Path],
    tiny_model: Path,
    tmp_path: Path,
    method: str,
    numbers: dict[str, float],
    of_all: float,
    of_half: float,
) -> None:
    """The share that is left of an expert that changed all weights, and of one that changed half; votes come after."""
    models = {"minus": {"weight": 0.5, **numbers}, "even": {"weight": 2.0, **numbers}}
    recipe = write_recipe(tmp_path / "r.yml", method, models, normalize=True)
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "minus", "even", "odd"), recipe=recipe)
    total = table["total"]["experts"]
    assert total["minus"]["kept"] == pytest.approx(of_all, abs=0.01)
    assert total["even"]["kept"] == pytest.approx(of_half, abs=0.01)
    assert total["odd"]["kept"] is None, "the recipe does not name it"
    assert total["odd"]["projection"] is not None


def test_what_is_kept_is_what_the_merge_draws(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Of experts that share nothing, a merge by DARE has moved as many weights as are said to be kept of each."""
    models = {"even": {"weight": 1.0, "density": 0.3}, "odd": {"weight": 1.0, "density": 0.6}}
    recipe = write_recipe(tmp_path / "r.yml", "dare_linear", models)
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "odd", "even"), recipe=recipe, seed=7)
    (found,) = (one for one in table["tensors"] if one["name"] == DRAWN)
    merger = Merger({"base": tiny_model, **some(experts, "even", "odd")}, "base")
    base = merger.weights["base"][DRAWN].float32()
    moved = np.flatnonzero(merger.tensor(load_recipe(recipe), DRAWN, seed=7) != base)
    for name, parity in (("even", 0), ("odd", 1)):
        assert found["experts"][name]["kept"] == round(int((moved % 2 == parity).sum()) / (base.size // 2), 6)


def test_a_recipe_of_mergekits_own_is_predicted_too(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Slices are merged aside by mergekit; the projections are the same, and nothing of the merge is left."""

    def slices(layers: Sequence[int]) -> list[dict[str, Any]]:
        weights = {"even": 0.7, "odd": 0.2}
        sources = [{"model": n, "layer_range": list(layers), "parameters": {"weight": w}} for n, w in weights.items()]
        return [{"sources": [{"model": "base", "layer_range": list(layers)}, *sources]}]

    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "tokenizer": {"source": "base"}}
    path = tmp_path / "r.yml"
    path.write_text(yaml.safe_dump({**recipe, "slices": slices([0, 2]), "dtype": "float32", "out_dtype": "bfloat16"}))
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "even", "odd"), recipe=path)
    assert table["total"]["experts"]["even"]["projection"] == pytest.approx(0.7, abs=1e-4)
    assert table["total"]["experts"]["odd"]["projection"] == pytest.approx(0.2, abs=1e-4)
    assert sorted(file.name for file in (tmp_path / "out").iterdir() if file.name[0] != ".") == [
        "inspect.png", "run.json", "table.json", "table.md",
    ]  # fmt: skip
    assert not (tmp_path / "out" / inspect.PREDICTING).exists()

    path.write_text(yaml.safe_dump({**recipe, "slices": slices([0, 1]), "dtype": "float32"}))
    with pytest.raises(UserError, match="only a merge of the base's own shape"):
        looked_at(tmp_path / "shallow", tiny_model, some(experts, "even", "odd"), recipe=path)
    assert not (tmp_path / "shallow" / inspect.PREDICTING).exists()


def test_equal_runs_are_equal(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Two runs elsewhere have one digest, the picture included: no date, no version of a program in it."""
    recipe = write_recipe(tmp_path / "r.yml", "dare_ties", {"even": {"weight": 1.0, "density": 0.5}})
    for name in "ab":
        looked_at(tmp_path / name, tiny_model, some(experts, "even", "plus"), recipe=recipe, seed=3)
    assert run.require_finished(tmp_path / "a")["digest"] == run.require_finished(tmp_path / "b")["digest"]
    picture = (tmp_path / "a" / "inspect.png").read_bytes()
    assert picture[:4] == b"\x89PNG"
    assert not any(part in picture for part in (b"tIME", b"Software", b"Creation"))


def test_one_expert_alone(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """There are no pairs then, and nothing is outvoted."""
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "plus"))
    assert table["total"]["outvoted"] == 0.0
    page = (tmp_path / "out" / "table.md").read_text()
    assert "## In all" in page
    assert "Cosine" not in page


def test_the_page_says_what_the_table_holds(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """Totals, pairs below the diagonal with chance in brackets, layers, kinds and the recipe's reach, in words."""
    recipe = write_recipe(tmp_path / "r.yml", "task_arithmetic", {"plus": {"weight": 0.25}})
    table = looked_at(tmp_path / "out", tiny_model, some(experts, "plus", "minus"), recipe=recipe)
    page = (tmp_path / "out" / "table.md").read_text()
    plus, chance = table["total"]["experts"]["plus"], 100 * table["total"]["top_chance"][0][1]
    assert "# plus and minus: what each changed of the base" in page
    assert (
        f"| plus | {plus['norm']:.4g} | {100 * plus['relative']:.1f}% | 100.0% | 50.0% | {plus['largest']:.3g} |"
        in page
    )
    assert "| minus | −1.00 |" in page
    assert f"| minus | 100.0% ({chance:.1f}%) |" in page
    assert "| outside |" in page
    assert "| `mlp.gate_up_proj` |" in page
    assert "| plus | – | 0.25 | +1.00 |" in page
    assert "| minus | – | −0.25 | −1.00 |" in page


def test_rounding_is_told_from_learning(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """An expert stored more coarsely than its base has changed wherever it was rounded; the page says so."""
    rounded = tmp_path / "rounded"
    shutil.copytree(tiny_model, rounded, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = Weights(tiny_model)
    with create(rounded, [Entry(name, "BF16", tensor.shape) for name, tensor in weights.items()]) as views:
        for name, tensor in weights.items():
            views[name][:] = tensor.float32().view(np.uint32) >> 16
    table = looked_at(tmp_path / "out", tiny_model, {"rounded": rounded, **some(experts, "plus")})
    assert table["notes"] == ["rounded is stored as BF16, the base as F32: what rounding did counts as a change"]
    assert table["total"]["experts"]["rounded"]["changed"] > 0.5
    assert table["notes"][0] in (tmp_path / "out" / "table.md").read_text()


def test_mistakes_are_one_line(experts: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    """A recipe with other names, the base among the experts, weights that are not finite: each says what to do."""
    recipe = write_recipe(tmp_path / "r.yml", "task_arithmetic", {"even": {"weight": 1.0}, "odd": {"weight": 1.0}})
    with pytest.raises(UserError, match="the recipe names a model 'odd'; set models.odd=FOLDER"):
        looked_at(tmp_path / "a", tiny_model, some(experts, "even"), recipe=recipe)
    recipe.write_text(recipe.read_text().replace("base", "phi").replace("phi_model", "base_model"))
    with pytest.raises(UserError, match="base_model is 'phi', and the base is called 'base' here"):
        looked_at(tmp_path / "b", tiny_model, some(experts, "even", "odd"), recipe=recipe)
    with pytest.raises(UserError, match="models.base: the base is given as base=FOLDER"):
        looked_at(tmp_path / "c", tiny_model, {"base": tiny_model, **some(experts, "even")})
    broken = make_expert(tiny_model, tmp_path / "broken", lambda base, change: np.where(change > 0.03, np.nan, base))
    with pytest.raises(UserError, match=r"'broken': the weights '.*' are not all finite"):
        looked_at(tmp_path / "d", tiny_model, {"broken": broken})
    assert not (tmp_path / "d" / "run.json").exists()
