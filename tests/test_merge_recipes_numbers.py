"""Each tensor is merged by the very numbers that mergekit's own planner gives it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medsmith.errors import UserError
from merge_recipes.methods import METHODS, SHARE, Kind
from merge_recipes.numbers import Numbers, check_numbers, conflict, layer_of, numbers_for
from merge_recipes.recipe import check_recipe, resolve

MODELS = ("base", "pubmed", "clinical", "medwiki")
PARTS = ("mlp", "self_attn", "layernorm", "layers.1.", "embed", "down_proj", "norm", "o_proj")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Path]]:
    """Model folders of so many layers, by name; the planner reads their configuration only."""
    place = tmp_path_factory.mktemp("planned")

    def made(layers: int) -> dict[str, Path]:
        found = {}
        for name in MODELS:
            folder = place / str(layers) / name
            if not folder.is_dir():
                folder.mkdir(parents=True)
                values = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "num_hidden_layers": layers}
                (folder / "config.json").write_text(json.dumps(values | {"pad_token_id": 0}))
            found[name] = folder
        return found

    return made


def planned(recipe: dict[str, Any], folders: dict[str, Path]) -> dict[str, Numbers]:
    """What mergekit's planner gives each tensor."""
    from mergekit.architecture import get_architecture_info
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions
    from mergekit.plan import MergePlanner

    configuration = MergeConfiguration.model_validate(resolve(recipe, folders, None))
    architecture = get_architecture_info(configuration, MergeOptions())
    assert configuration.base_model is not None
    planner = MergePlanner(configuration, architecture, MergeOptions(), configuration.base_model.config())
    found = {}
    for task in planner.plan_to_disk("nowhere")[:-1]:  # the last one closes the files
        merge, name = task.tensor_task, task.tensor_name
        own = {Path(ref.model.path).name: dict(values.items()) for ref, values in merge.input_parameters.items()}
        # What has no value is left out on our side.
        own = {model: {key: value for key, value in one.items() if value is not None} for model, one in own.items()}
        found[name] = Numbers(dict(merge.parameters.items()), {model: one for model, one in own.items() if one})
    return found


def types(numbers: Numbers) -> dict[Any, type]:
    own = {(model, key): type(value) for model, one in numbers.own.items() for key, value in one.items()}
    return own | {key: type(value) for key, value in numbers.shared.items()}


def draw_scalar(draw: random.Random, kind: Kind) -> Any:
    if kind.type is bool:
        return draw.random() < 0.5
    if kind.type is int:
        return draw.randrange(1, 9)
    value = draw.choice([0, 1, draw.random(), draw.random()])
    number = value if kind is SHARE else value * 3
    return draw.choice([number, str(number), number])


def draw_setting(draw: random.Random, kind: Kind) -> Any:
    """A scalar, a gradient, or filtered values with or without one for all others."""

    def plain() -> Any:
        # A whole number has no gradient: what lies between two of them is none.
        if kind.type is int or draw.random() < 0.6:
            return draw_scalar(draw, kind)
        return [draw_scalar(draw, kind) for _ in range(draw.randrange(1, 5))]

    if draw.random() < 0.5:
        return plain()
    filtered = [{"filter": part, "value": plain()} for part in draw.sample(PARTS, draw.randrange(1, 4))]
    last: list[Any] = draw.choice([[], [{"value": plain()}], [{"filter": "*", "value": plain()}]])
    return [*filtered, *last] if draw.random() < 0.9 else filtered[0]


def draw_recipe(draw: random.Random, name: str) -> dict[str, Any]:
    """A recipe with numbers in every place where mergekit looks for them."""
    method = METHODS[name]
    models = list(MODELS)
    if method.max_inputs or method.max_non_base:
        models = models[: method.max_inputs or 3]
    draw.shuffle(models)
    if method.base != "ignored" and draw.random() < 0.5:
        models.remove("base")
    above = [p for p in method.parameters if p.required or draw.random() < 0.5]
    entries = []
    for model in models:
        below = [p for p in method.own if (model != "base" or p.scope == "input") and draw.random() < 0.6]
        entries.append({"model": model, "parameters": {p.name: draw_setting(draw, p.kind) for p in below}})
    shared: dict[str, Any] = {p.name: draw_setting(draw, p.kind) for p in above}
    for one in method.parameters:
        if one.required:  # one for all, so that every tensor has a value in the end
            shared[one.name] = draw.choice([draw_scalar(draw, one.kind), [{"value": draw_scalar(draw, one.kind)}]])
    return {"merge_method": name, "base_model": "base", "models": entries, "parameters": shared}


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("name", METHODS)
def test_numbers_are_those_of_mergekits_planner(
    folders: Callable[[int], dict[str, Path]], name: str, layers: int
) -> None:
    """Drawn recipes, all methods: each tensor's numbers are equal to the last bit, and of the same type."""
    found = folders(layers)
    draw = random.Random(f"{name} {layers}")
    told_apart = set()
    for _ in range(6):
        recipe = draw_recipe(draw, name)
        wanted = planned(recipe, found)
        assert len(wanted) == 3 + 6 * layers
        for tensor, numbers in wanted.items():
            ours = numbers_for(recipe, tensor, layer_of(tensor), layers)
            assert ours == numbers, (recipe, tensor)
            assert types(ours) == types(numbers)  # 1 and 1.0 and True are equal, and not the same
            told_apart.add(repr(ours))
    assert len(told_apart) >= (3 if any(one.kind.type is not bool for one in METHODS[name].parameters) else 1)


def ties(weight: Any) -> dict[str, Any]:
    """A recipe with this weight for one expert, and 1 for the other."""
    weights = {"pubmed": weight, "clinical": 1.0}
    models = [{"model": name, "parameters": {"weight": one, "density": 0.5}} for name, one in weights.items()]
    return {"merge_method": "ties", "base_model": "base", "models": models}


def test_a_gradient_runs_from_the_first_layer_to_the_last() -> None:
    """Of [0, 1, 0.5] over five layers: 0, 0.5, 1, 0.75, 0.5; outside of layers, the first; a single layer, the last."""
    recipe = ties([0, 1, 0.5])

    def weight(layer: int | None, layers: int) -> Any:
        return numbers_for(recipe, "x", layer, layers).own["pubmed"]["weight"]

    assert [weight(layer, 5) for layer in range(5)] == [0.0, 0.5, 1.0, 0.75, 0.5]
    assert (weight(None, 5), weight(0, 1)) == (0.0, 0.5)


def test_the_first_filter_that_fits_decides() -> None:
    """A model's own filtered value, then its rest; what no filter of it fits is looked for among those for all."""
    mlp = "model.layers.0.mlp.down_proj.weight"
    norm = "model.norm.weight"
    recipe = ties([{"filter": "down_proj", "value": 0.1}, {"filter": "mlp", "value": 0.2}])
    recipe["parameters"] = {"weight": 0.7}
    assert numbers_for(recipe, mlp, 0, 2).own["pubmed"] == {"weight": 0.1, "density": 0.5}
    assert numbers_for(recipe, mlp.replace("down", "up"), 0, 2).own["pubmed"]["weight"] == 0.2
    assert numbers_for(recipe, norm, None, 2).own["pubmed"]["weight"] == 0.7
    assert "base" not in numbers_for(recipe, norm, None, 2).own
    assert numbers_for(recipe, norm, None, 2).shared == {
        "int8_mask": False,
        "normalize": True,
        "rescale": False,
        "lambda": 1.0,
    }


def test_a_tensor_without_a_number_is_named(folders: Callable[[int], dict[str, Path]]) -> None:
    """A tensor that no filter fits is told with parameter and model; mergekit's planner gives up there too."""
    recipe = ties([{"filter": "layers", "value": 0.1}]) | {"tokenizer": {"source": "base"}}
    check_recipe(recipe, "r.yml")  # right for a model of which all is layers
    inside = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2)]
    check_numbers(recipe, inside)
    with pytest.raises(UserError, match="^model.norm.weight: no value of 'weight' for 'pubmed' reaches this tensor"):
        check_numbers(recipe, [*inside, "model.norm.weight"])
    with pytest.raises(RuntimeError, match="Missing required parameter weight"):
        planned(recipe, folders(2))


@pytest.mark.parametrize(
    ("name", "weights", "shared", "message"),
    [
        ("linear", [1.0, -1.0], {}, "weights sum to 0 and are divided by their sum"),
        ("linear", [0.0, 0.0], {}, "weights sum to 0"),
        ("linear", [0.1, 0.2, -0.3], {}, "weights sum to 5.55e-17"),
        ("linear", [1.0, -1.0], {"normalize": False}, None),
        ("ties", [0.5, -0.5], {}, "weights sum to 0"),
        ("ties", [0.0, 0.0], {}, None),
        ("breadcrumbs", [0.5, -0.5], {}, None),
        ("breadcrumbs", [0.5, -0.5], {"normalize": True}, "weights sum to 0"),
        ("multislerp", [0.0, 0.0], {}, "weights sum to 0"),
        ("multislerp", [0.5, -0.5], {"normalize_weights": False}, None),
        ("nuslerp", [0.5, -0.5], {}, "weights sum to 0"),
    ],
)
def test_weights_that_cancel_out_are_found(
    name: str, weights: list[float], shared: dict[str, Any], message: str | None
) -> None:
    """Divided by their sum they give NaN or nonsense; not divided, or all zero below a base, they are what they say."""
    models = [{"model": model, "parameters": {"weight": w}} for model, w in zip("abc", weights, strict=False)]
    recipe = {"merge_method": name, "base_model": "a" if name == "linear" else "base", "models": models}
    found = conflict(METHODS[name], numbers_for(recipe | {"parameters": shared}, "x", None, 2))
    assert (found is None) if message is None else (found is not None and message in found)


def test_a_conflict_of_one_layer_is_found() -> None:
    """Weights that cancel out in the middle layer only: the check of all tensors names that one."""
    recipe = ties([0.5, -1.0, 0.5]) | {"tokenizer": {"source": "base"}}
    check_recipe(recipe, "r.yml")
    names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(3)]
    with pytest.raises(UserError, match=r"^model.layers.1.mlp.down_proj.weight: the weights sum to 0"):
        check_numbers(recipe, names)


def test_dellas_epsilon_leaves_room() -> None:
    """Density 0.9 ± 0.15 is no probability, 0.8 ± 0.15 is; a density of 1 draws nothing."""
    for density, fits in ((0.9, False), (0.8, True), (0.1, False), (1.0, True)):
        parameters = {"weight": 1.0, "density": density, "epsilon": 0.15}
        recipe = {"merge_method": "della", "base_model": "base", "models": [{"model": "a", "parameters": parameters}]}
        assert (conflict(METHODS["della"], numbers_for(recipe, "x", None, 2)) is None) is fits


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.mlp.down_proj.weight", 12),
        ("transformer.h.3.attn.weight", 3),
        ("h.3.attn.weight", 3),
        ("transformer.blocks.7.norm_1.weight", 7),
        ("model.vision.layers.1.blocks.5.weight", 1),
        ("model.embed_tokens.weight", None),
        ("model.layers.weight", None),
        ("lm_head.weight", None),
        ("model.graph.2.weight", None),
    ],
)
def test_the_layer_stands_in_the_name(name: str, layer: int | None) -> None:
    """The number after `layers`, `h` or `blocks`, the first of them; other tensors are in no layer."""
    assert layer_of(name) == layer
