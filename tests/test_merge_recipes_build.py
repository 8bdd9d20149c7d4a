"""Merges do the arithmetic they name, refuse what does not fit, and are finished only when they are whole."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsmith import publish, run
from medsmith.errors import UserError
from merge_recipes import build, parents

RECIPES = Path(__file__).parents[1] / "merge_recipes"
TENSOR = "model.layers.0.mlp.down_proj.weight"

Change = Callable[[dict[str, Any]], None]


def change_weights(source: Path, target: Path, change: Change) -> Path:
    """A copy of a model folder with changed tensors."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def perturb(seed: int) -> Change:
    def change(tensors: dict[str, Any]) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        for name in sorted(tensors):
            tensors[name] += 0.02 * torch.randn(tensors[name].shape, generator=generator)

    return change


def tensor(folder: Path, name: str = TENSOR) -> Any:
    return dict(parents.tensors_of(folder))[name]


def write_recipe(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump({"base_model": "base", "tokenizer": {"source": "base"}, **content}))
    return path


def slerp(folder: Path, t: float) -> Path:
    models = [{"model": "base"}, {"model": "expert"}]
    return write_recipe(folder / f"slerp{t}.yml", merge_method="slerp", models=models, parameters={"t": t})


@pytest.fixture(scope="module")
def experts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model as base, and two neighbours of it."""
    folder = tmp_path_factory.mktemp("experts")
    one, two = (change_weights(tiny_model, folder / f"expert{seed}", perturb(seed)) for seed in (1, 2))
    return {"base": tiny_model, "expert": one, "other": two}


def merged(out: Path, recipe: Path, experts: dict[str, Path], *names: str) -> Path:
    return build.main(build.Config(out=out, recipe=recipe, models={name: experts[name] for name in names}))


def test_slerp_goes_from_base_to_expert(experts: dict[str, Path], tmp_path: Path) -> None:
    """t=0 is the base, t=1 the expert; at t=0.5 the tensor is their sum over twice the cosine of half the angle."""
    import torch

    base, expert = tensor(experts["base"]), tensor(experts["expert"])
    for t, wanted in ((0.0, base), (1.0, expert)):
        found = tensor(merged(tmp_path / f"m{t}", slerp(tmp_path, t), experts, "base", "expert"))
        assert torch.allclose(found, wanted, atol=1e-6)
    middle = tensor(merged(tmp_path / "m", slerp(tmp_path, 0.5), experts, "base", "expert"))
    angle = math.acos(float((base * expert).sum() / base.norm() / expert.norm()))
    assert 0.1 < angle < 1.5
    assert torch.allclose(middle, (base + expert) / (2 * math.cos(angle / 2)), atol=1e-6)
    assert not torch.allclose(middle, (base + expert) / 2, atol=1e-4)


def test_breadcrumbs_drops_the_largest_and_smallest_changes(experts: dict[str, Path], tmp_path: Path) -> None:
    """Of each expert's changes the largest 10% and the smallest 40% go, the rest is added with its weight."""
    import torch

    weights = {"expert": 0.7, "other": 0.2}
    models = [
        {"model": name, "parameters": {"weight": weight, "density": 0.5, "gamma": 0.1}}
        for name, weight in weights.items()
    ]
    recipe = write_recipe(tmp_path / "b.yml", merge_method="breadcrumbs", models=models, dtype="float32")
    found = tensor(merged(tmp_path / "m", recipe, experts, "base", "expert", "other"))

    base = tensor(experts["base"])
    wanted = base.clone().flatten()
    for name, weight in weights.items():
        change = (tensor(experts[name]) - base).flatten()
        order = sorted(range(len(change)), key=lambda index: abs(float(change[index])))
        assert len(order) == 2048  # 32 x 64: 1024 stay, 204 large ones go, and 820 small ones
        for index in order[820 : 820 + 1024]:
            wanted[index] += weight * change[index]
    assert torch.allclose(found.flatten(), wanted, atol=1e-6)


def test_merged_model_talks_and_tells_where_it_comes_from(experts: dict[str, Path], tmp_path: Path) -> None:
    """It loads with plain transformers, keeps its vocabulary, stops at <|end|>, and names its parents' digests."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = merged(tmp_path / "m", RECIPES / "slerp.yml", experts, "base", "expert")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "Fever?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert model.generate(**prompt, max_new_tokens=3, do_sample=False).shape[1] > prompt["input_ids"].shape[1]
    assert model.config.vocab_size == 384 > len(tokenizer) - 1
    assert tokenizer.convert_tokens_to_ids("<|end|>") in model.generation_config.eos_token_id
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(experts["base"]).chat_template
    facts = run.require_finished(folder)["facts"]
    assert facts["parents"]["expert"]["weights"] == parents.weights_digest(experts["expert"])
    assert yaml.safe_load((folder / "recipe.yml").read_text())["parameters"] == {"t": 0.5}
    assert str(experts["expert"]) in (folder / "log" / "mergekit.yml").read_text()


def test_card_shows_parents_recipe_and_engine(experts: dict[str, Path], tmp_path: Path) -> None:
    """What went in is named with its weights, and who merged it; a model without a known licence is not published."""
    from medsmith.hub import write_card

    folder = merged(tmp_path / "m", RECIPES / "slerp.yml", experts, "base", "expert")
    card = write_card(folder, run.require_finished(folder), "me/merged", {"all of it": "CC0-1.0"})
    assert f"| base (base) | a plain folder | `{parents.weights_digest(experts['base'])[:16]}` |" in card
    assert f"| expert | a plain folder | `{parents.weights_digest(experts['expert'])[:16]}` |" in card
    assert "Merged by medsmith's streaming engine" in card and "merge_method: slerp" in card
    with pytest.raises(UserError, match="names no licence"):
        publish.run(folder, "me/merged", dry_run=True)


def test_same_merge_elsewhere_has_the_same_digest(experts: dict[str, Path], tmp_path: Path) -> None:
    """Nothing in the result depends on where it was written."""
    first, second = (merged(tmp_path / name, RECIPES / "slerp.yml", experts, "base", "expert") for name in "ab")
    assert run.require_finished(first)["digest"] == run.require_finished(second)["digest"]


def test_parent_made_again_in_its_place_is_read_again(tiny_model: Path, tmp_path: Path) -> None:
    """mergekit keeps files open by path; a second merge in this process must see the new weights."""
    recipe = slerp(tmp_path, 1.0)
    for seed in (1, 2):
        shutil.rmtree(tmp_path / "expert", ignore_errors=True)
        expert = change_weights(tiny_model, tmp_path / "expert", perturb(seed))
        folder = merged(tmp_path / f"m{seed}", recipe, {"base": tiny_model, "expert": expert}, "base", "expert")
        assert tensor(folder).sub(tensor(expert)).abs().max() < 1e-6


def test_generation_config_that_does_not_stop_is_mended(tiny_model: Path, tmp_path: Path) -> None:
    """A base without a generation config gives a merge that still ends at <|end|>, as Phi-3.5 needs."""
    for name in ("base", "expert"):
        shutil.copytree(tiny_model, tmp_path / name)
        (tmp_path / name / "generation_config.json").unlink()
    models = {name: tmp_path / name for name in ("base", "expert")}
    folder = merged(tmp_path / "m", slerp(tmp_path, 0.5), models, "base", "expert")
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [4]


def refuse_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


def refuse_vocabulary(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|system|>", "<|sistem|>"))
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("<|system|>", "<|sistem|>"))


def refuse_heads(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"num_attention_heads": 4, "num_key_value_heads": 4}))


def refuse_torn_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (refuse_template, "'expert' has another chat template than 'base'"),
        (refuse_vocabulary, "'expert' has another vocabulary than 'base': '<|sistem|>'"),
        (refuse_heads, "'expert' cannot be merged with 'base': num_attention_heads is 4, not 2"),
        (refuse_torn_file, "is not a whole safetensors file"),
    ],
)
def test_parents_that_do_not_fit_are_refused(
    experts: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    """mergekit would merge these into nonsense without a word."""
    shutil.copytree(experts["expert"], tmp_path / "expert")
    spoil(tmp_path / "expert")
    with pytest.raises(UserError) as caught:
        merged(tmp_path / "m", RECIPES / "slerp.yml", experts | {"expert": tmp_path / "expert"}, "base", "expert")
    assert message in str(caught.value)


def plant_nan(tensors: dict[str, Any]) -> None:
    tensors[TENSOR][3, 5] = math.nan


def cut_shape(tensors: dict[str, Any]) -> None:
    tensors[TENSOR] = tensors[TENSOR][:, :60].contiguous()


def drop_tensor(tensors: dict[str, Any]) -> None:
    del tensors[TENSOR]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (plant_nan, f"'expert': the weights '{TENSOR}' are not all finite"),
        (cut_shape, f"'expert' has '{TENSOR}' of shape (32, 60), 'base' of (32, 64)"),
        (drop_tensor, f"'expert' has no tensor '{TENSOR}'"),
    ],
)
def test_broken_weights_are_refused_by_name(
    experts: dict[str, Path], tmp_path: Path, change: Change, message: str
) -> None:
    """One bad number in one tensor is found before the merge, and the tensor is named."""
    broken = change_weights(experts["expert"], tmp_path / "expert", change)
    with pytest.raises(UserError) as caught:
        merged(tmp_path / "m", RECIPES / "slerp.yml", experts | {"expert": broken}, "base", "expert")
    assert message in str(caught.value)
    with pytest.raises(UserError):
        run.require_finished(tmp_path / "m")


def test_names_and_filters_must_match(experts: dict[str, Path], tmp_path: Path) -> None:
    """A model without a name, a name without a model, and a filter that matches no tensor are each refused."""
    with pytest.raises(UserError, match="names a model 'expert'; set models.expert"):
        merged(tmp_path / "a", RECIPES / "slerp.yml", experts, "base")
    with pytest.raises(UserError, match="models.other: the recipe names no such model; it names base, expert"):
        merged(tmp_path / "b", RECIPES / "slerp.yml", experts, "base", "expert", "other")
    t = [{"filter": "self_atn", "value": 0.1}, {"value": 0.5}]
    models = [{"model": "base"}, {"model": "expert"}]
    recipe = write_recipe(tmp_path / "f.yml", merge_method="slerp", models=models, parameters={"t": t})
    with pytest.raises(UserError, match="filter 'self_atn' matches no tensor; there are: .*down_proj"):
        merged(tmp_path / "c", recipe, experts, "base", "expert")


def test_disk_without_room_is_refused_before_merging(tmp_path: Path) -> None:
    """A merge of 10^15 parameters does not fit, and the message says how much is missing."""
    with pytest.raises(UserError, match=r"needs [\d.]+ GiB, [\d.]+ GiB are free"):
        parents.check_room(tmp_path, {"w": (10**8, 10**7)}, "bfloat16")


class Killed(Exception):
    """What a kill looks like from inside."""


def test_killed_merge_never_looks_finished(experts: dict[str, Path], tmp_path: Path) -> None:
    """A kill while files are written leaves a folder that is refused; the same command then makes it whole."""
    settings = build.Config(
        out=tmp_path / "m",
        recipe=RECIPES / "slerp.yml",
        models={name: experts[name] for name in ("base", "expert")},
    )
    with pytest.raises(Killed), run.start(settings, "merge_recipes.build"):
        half = settings.out / ".building"
        half.mkdir()
        (half / "model.safetensors").write_bytes(b"half")
        raise Killed
    assert not (settings.out / "model.safetensors").exists()
    with pytest.raises(UserError, match="was started and not finished"):
        run.require_finished(settings.out)

    build.main(settings)
    whole = merged(tmp_path / "whole", RECIPES / "slerp.yml", experts, "base", "expert")
    assert not (settings.out / ".building").exists()
    assert run.require_finished(settings.out)["digest"] == run.require_finished(whole)["digest"]
