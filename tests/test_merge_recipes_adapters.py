"""An adapter is a model of a merge: folded into its base it is what peft makes of it, and no other base will do."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from medsmith.errors import UserError
from merge_recipes import parents
from merge_recipes.adapters import fold_all, remove_folded, round_to
from merge_recipes.parents import find_folders, planned_folders, prepare
from merge_recipes.stream import Merger
from merge_recipes.weights import Weights

ALL_LINEAR = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
QKV = "model.layers.0.self_attn.qkv_proj.weight"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning:transformers")


def train(base: Path, config: Any, folder: Path) -> Path:
    """An adapter of a model, trained as far as its numbers go: all that would be trained is moved at random."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    return folder


def lora(base: Path, folder: Path, **settings: Any) -> Path:
    values = {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM"}
    return train(base, LoraConfig(**(values | settings)), folder)


def by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    state: dict[str, torch.Tensor] = merged.state_dict()
    return state


def how_of(folder: Path) -> str:
    return str(json.loads((folder / "folded.json").read_text())["how"])


@pytest.fixture(scope="module")
def half(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in bfloat16."""
    folder = tmp_path_factory.mktemp("half") / "base"
    shutil.copytree(tiny_model, folder)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def gpt2(folder: Path) -> Path:
    """A model whose weights lie the other way round than in all others."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    settings = GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(settings).save_pretrained(folder)
    return folder


KINDS: dict[str, tuple[Any, str]] = {
    "plain": ({}, "tensor by tensor"),
    "rank-stabilised": ({"use_rslora": True, "r": 9}, "tensor by tensor"),
    "patterns": (
        {
            "rank_pattern": {"qkv_proj": 2, r"layers\.1\.mlp\..*": 7},
            "alpha_pattern": {"layers.0.self_attn.qkv_proj": 32, "down_proj": 1},
        },
        "tensor by tensor",
    ),
    "some layers": ({"layers_to_transform": [1], "lora_dropout": 0.1}, "tensor by tensor"),
    "whole embeddings": ({"modules_to_save": ["embed_tokens", "lm_head"]}, "tensor by tensor"),
    "output layer": ({"target_modules": [*ALL_LINEAR, "lm_head"]}, "tensor by tensor"),
    "DoRA": ({"use_dora": True}, "by peft"),
    "tokens": ({"trainable_token_indices": [3, 5]}, "by peft"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "by peft"),
    "embeddings": ({"target_modules": ["qkv_proj", "embed_tokens"]}, "by peft"),
}
"""Kinds of LoRA, with the way in which each is folded."""


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_folded_model_is_what_peft_makes(tiny_model: Path, half: Path, tmp_path: Path, kind: str, stored: str) -> None:
    """Each weight is peft's in float32, rounded once to the base's type; what is left alone is the base's."""
    settings, how = KINDS[kind]
    base = tiny_model if stored == "float32" else half
    adapter = lora(base, tmp_path / "adapter", **settings)
    folder = fold_all({"expert": adapter}, base, base, tmp_path / "in")["expert"]
    assert how_of(folder) == how
    found, wanted, old = load_file(folder / "model.safetensors"), by_peft(base, adapter), Weights(base)
    assert list(Weights(folder).shapes.items()) == list(old.shapes.items())
    changed = [name for name in found if not torch.equal(found[name].float(), load_file_tensor(base, name))]
    assert {QKV, "model.layers.1.self_attn.qkv_proj.weight"} & set(changed) and len(changed) < len(found)
    spacing = 2.0 ** (-22 if stored == "float32" else -8)
    for name, tensor in found.items():
        assert str(tensor.dtype) == f"torch.{stored}"
        off = (tensor.float() - wanted[name]).abs()
        assert (off <= spacing * (wanted[name].abs() + 1e-3 * (stored == "float32"))).all(), (name, off.max())


def load_file_tensor(folder: Path, name: str) -> torch.Tensor:
    tensor: torch.Tensor = load_file(folder / "model.safetensors")[name].float()
    return tensor


@pytest.mark.parametrize(
    ("config", "how"),
    [
        (LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM"), "by peft"),
        (IA3Config(target_modules=["c_attn"], feedforward_modules=[], task_type="CAUSAL_LM"), "by peft"),
    ],
)
def test_other_layouts_and_kinds_are_peft_s(tmp_path: Path, config: Any, how: str) -> None:
    """GPT-2 stores weights the other way round, two of them square; IA3 scales instead of adding."""
    base = gpt2(tmp_path / "base")
    adapter = train(base, config, tmp_path / "adapter")
    folder = fold_all({"expert": adapter}, base, base, tmp_path / "in")["expert"]
    found, wanted = load_file(folder / "model.safetensors"), by_peft(base, adapter)
    assert how_of(folder) == how and "lm_head.weight" not in found
    assert all(torch.allclose(tensor, wanted[name], atol=1e-6) for name, tensor in found.items())
    assert not torch.allclose(
        found["transformer.h.0.attn.c_attn.weight"], load_file_tensor(base, "transformer.h.0.attn.c_attn.weight")
    )


def test_hadamard_factors_are_peft_s(tiny_model: Path, tmp_path: Path) -> None:
    """Whatever peft can merge can be folded."""
    adapter = train(tiny_model, LoHaConfig(r=4, target_modules=["qkv_proj"], task_type="CAUSAL_LM"), tmp_path / "a")
    folder = fold_all({"expert": adapter}, tiny_model, tiny_model, tmp_path / "in")["expert"]
    found, wanted = load_file(folder / "model.safetensors"), by_peft(tiny_model, adapter)
    assert how_of(folder) == "by peft" and all(torch.equal(found[name], wanted[name]) for name in found)


def test_large_weights_are_folded_in_blocks_of_rows(tiny_model: Path, tmp_path: Path) -> None:
    """The blocks meet: an output layer that is cut into several gives the sum all the same."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn(300_000, 32)  # 9.6 million numbers
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    a, b = torch.randn(3, 32), torch.randn(300_000, 3)
    factors = {"base_model.model.lm_head.lora_A.weight": a, "base_model.model.lm_head.lora_B.weight": b}
    save_file(factors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}))
    folder = fold_all({"expert": adapter}, base, base, tmp_path / "in")["expert"]
    found = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.allclose(found, tensors["lm_head.weight"] + 2 * b @ a, atol=1e-5)


def test_rounding_is_torch_s() -> None:
    """Halves go to the even neighbour, up to and over the largest number of the type."""
    edges = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 3.3895e38, -3.39e38, 1e-40, 65519.0, 65520.0, 6e-8]
    values = torch.cat([torch.tensor(edges), torch.randn(10_000, generator=torch.Generator().manual_seed(0))])
    for dtype, kind in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        wanted = values.to(kind).view(torch.uint16).numpy()
        assert np.array_equal(round_to(values.numpy(), dtype), wanted)


def test_a_merge_takes_adapters_beside_models(tiny_model: Path, tmp_path: Path, caplog: Any) -> None:
    """Half of base plus adapter is base plus half of the adapter's change; scratch is used again, then removed."""
    adapter = lora(tiny_model, tmp_path / "adapter")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "expert", "parameters": {"weight": 0.5}}, {"model": "same", "parameters": {"weight": 1}}],
        "tokenizer": {"source": "base"},
    }  # fmt: skip
    models: dict[str, str | Path] = {"base": tiny_model, "expert": adapter, "same": tiny_model}
    out = tmp_path / "out"
    out.mkdir()
    with caplog.at_level(logging.INFO):
        folders = prepare(recipe, models, None, out)
    assert folders["expert"] == out / ".folded" / "expert" and folders["same"] == tiny_model
    assert (
        "the adapter 'expert' is folded into its base (tensor by tensor); rounding left 100.0% of it" in caplog.messages
    )
    found = Merger(folders, "base").tensor(recipe, QKV)
    factors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.qkv_proj.lora_{}.weight"
    change = 2 * factors[name.format("B")] @ factors[name.format("A")]
    wanted = load_file_tensor(tiny_model, QKV) + 0.5 * change
    assert change.abs().max() > 1e-4 and np.allclose(found, wanted.flatten(), atol=1e-6)

    before = (folders["expert"] / "model.safetensors").stat().st_mtime_ns
    prepare(recipe, models, None, out)
    assert (folders["expert"] / "model.safetensors").stat().st_mtime_ns == before
    lora(tiny_model, adapter, r=2)
    prepare(recipe, models, None, out)
    assert (folders["expert"] / "model.safetensors").stat().st_mtime_ns != before
    remove_folded(out)
    assert list(out.iterdir()) == []


def test_planning_folds_nothing(tiny_model: Path, tmp_path: Path) -> None:
    """A plan counts an adapter as a model of the base's size; commands that want whole models say so."""
    adapter = lora(tiny_model, tmp_path / "adapter")
    models: dict[str, str | Path] = {"base": tiny_model, "expert": adapter}
    assert planned_folders(models, "base") == {"base": tiny_model, "expert": tiny_model}
    for given in ((), ("expert", tmp_path)):
        with pytest.raises(UserError, match="models.expert: .*adapter is an adapter, and a whole model is needed here"):
            find_folders(models, *given)


def test_what_half_precision_loses_of_an_adapter_is_told(half: Path, tmp_path: Path) -> None:
    """A change far below the spacing of bfloat16 is mostly lost in folding; the note has the share that is left."""
    adapter = lora(half, tmp_path / "adapter", lora_alpha=0.02)
    folder = fold_all({"expert": adapter}, half, half, tmp_path / "in")["expert"]
    old, new, wanted = (
        load_file_tensor(half, QKV), load_file_tensor(folder, QKV), by_peft(half, adapter)[QKV]
    )  # fmt: skip
    kept = 1 - float((new - wanted).norm() / (wanted - old).norm())
    noted = json.loads((folder / "folded.json").read_text())["kept"]
    assert noted < 0.5 and noted == pytest.approx(kept, abs=0.15)


def rename(adapter: Path, old: str, new: str) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name.replace(old, new): tensor for name, tensor in tensors.items()}, path)


def change(adapter: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def say(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def plant_nan(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values()))[0, 0] = math.nan


def add_tokens(tensors: dict[str, Any]) -> None:
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(448, 32)


def widen(tensors: dict[str, Any]) -> None:
    for name in [name for name in tensors if name.endswith("qkv_proj.lora_A.weight")]:
        tensors[name] = torch.zeros(4, 48)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn configuration": (
        lambda folder: (folder / "adapter_config.json").write_text('{"peft_ty'),
        "adapter_config.json is not a whole configuration; fetch or make the adapter again",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        "is not a model folder (needs config.json and *.safetensors, or adapter_config.json and adapter_model",
    ),
    "torn weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(
            (folder / "adapter_model.safetensors").read_bytes()[:-9]
        ),
        "is not a whole safetensors file (9 bytes are gone)",
    ),
    "not a number": (lambda folder: change(folder, plant_nan), "'expert': the adapter's weights 'base_model.model."),
    "added tokens": (
        lambda folder: change(folder, add_tokens),
        "an adapter with 448 tokens in 'model.embed_tokens.weight', the base has 384; a merge needs one vocabulary",
    ),
    "other architecture": (
        lambda folder: rename(folder, "qkv_proj", "q_proj"),
        "changes 'model.layers.0.self_attn.q_proj.weight', and the base has no such weights",
    ),
    "other width": (
        lambda folder: change(folder, widen),
        f"changes '{QKV}' in the shape (96, 48), the base's is (96, 32)",
    ),
    "configuration of another": (
        lambda folder: say(folder, r=8),
        "adapter_config.json gives 'model.layers.0.mlp.down_proj' the rank 8, adapter_model.safetensors has 4 and 4",
    ),
    "half of the factors": (
        lambda folder: change(folder, lambda tensors: tensors.pop(next(name for name in tensors if "lora_B" in name))),
        "not all of this adapter is there (Found missing adapter keys",
    ),
}  # fmt: skip
"""What may be wrong with an adapter, and how the one line that refuses it begins or goes on."""


@pytest.mark.parametrize("kind", BAD)
def test_bad_adapters_are_refused_in_one_line(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    """The model's name, what was met, what to do; and no scratch is left."""
    spoil, message = BAD[kind]
    adapter = lora(tiny_model, tmp_path / "adapter")
    spoil(adapter)
    recipe = {
        "merge_method": "slerp", "base_model": "base", "models": [{"model": "base"}, {"model": "expert"}],
        "parameters": {"t": 0.5}, "tokenizer": {"source": "base"},
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError) as caught:
        prepare(recipe, {"base": tiny_model, "expert": adapter}, None, tmp_path / "out")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_adapter_of_another_base_is_refused(tiny_model: Path, tmp_path: Path, caplog: Any) -> None:
    """The base is known by its weights, not by its place; of one that is not here the log says that it is trusted."""
    other = shutil.copytree(tiny_model, tmp_path / "other")
    adapter = lora(other, tmp_path / "adapter")
    tensors = load_file(other / "model.safetensors")
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):  # the same weights in two files
        save_file({name: tensors[name] for name in part}, other / f"part{number}.safetensors")
    (other / "model.safetensors").unlink()
    fold_all({"expert": adapter}, tiny_model, tiny_model, tmp_path / "a")

    tensors[QKV][0, 0] += 0.01
    save_file({name: tensors[name] for name in names[::2]}, other / "part0.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, other / "part1.safetensors")
    with pytest.raises(UserError) as caught:
        fold_all({"expert": adapter}, tiny_model, tiny_model, tmp_path / "a")
    assert f"'expert' is an adapter of {other}, whose weights are not those of this merge's base ({tiny_model})" in str(
        caught.value
    )

    say(adapter, base_model_name_or_path="owner/large")
    with pytest.raises(UserError, match="adapter of owner/large, and this merge's base is owner/small; merge it with"):
        fold_all({"expert": adapter}, tiny_model, "owner/small", tmp_path / "a")
    fold_all({"expert": adapter}, tiny_model, "owner/large@v1", tmp_path / "b")
    with caplog.at_level(logging.INFO):
        fold_all({"expert": adapter}, tiny_model, tiny_model, tmp_path / "b")
    said = "the adapter 'expert' says that it is one of owner/large, which is not here to compare; taken to be one of "
    assert caplog.messages == [said + str(tiny_model)]


def test_prompts_are_no_weights(tiny_model: Path, tmp_path: Path) -> None:
    """An adapter that changes no weights cannot be merged."""
    adapter = train(tiny_model, PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), tmp_path / "adapter")
    with pytest.raises(UserError, match="'expert': peft cannot fold this adapter of type PREFIX_TUNING into its base"):
        fold_all({"expert": adapter}, tiny_model, tiny_model, tmp_path / "in")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modules_to_save": ["embed_tokens"]}, "trains embeddings or output layer alone, which the base ties"),
        ({"modules_to_save": ["lm_head"]}, "trains the output layer, which the base ties to its embeddings"),
        ({"target_modules": ["lm_head"]}, "trains the output layer, which the base ties to its embeddings"),
    ],
)
def test_adapter_that_unties_the_output_is_refused(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    """Of a base with one matrix for both, the folded model would be another than the one that was trained."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    adapter = lora(base, tmp_path / "adapter", **settings)
    with pytest.raises(UserError) as caught:
        fold_all({"expert": adapter}, base, base, tmp_path / "in")
    assert message in str(caught.value)


def test_adapter_brings_its_own_tokenizer_to_be_compared(tiny_model: Path, tmp_path: Path) -> None:
    """A chat template that the adapter was trained with, and the base has not, is refused as of a whole model."""
    adapter = lora(tiny_model, tmp_path / "adapter")
    folders = find_folders({"base": tiny_model, "expert": adapter}, "base", tmp_path / "a")
    parents.check_parents(folders, "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, adapter / name)
    (adapter / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    folders = find_folders({"base": tiny_model, "expert": adapter}, "base", tmp_path / "a")
    with pytest.raises(UserError, match="'expert' has another chat template than 'base'"):
        parents.check_parents(folders, "base")
