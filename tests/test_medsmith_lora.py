"""An adapter changes little, is a model to everything after it, and comes out the same whole or apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medsmith import lora
from medsmith.errors import UserError

TURNS = [{"role": "user", "content": "Fever?"}, {"role": "assistant", "content": "No pleural effusion."}]


def train(model: Path, out: Path, block: lora.Lora, seed: int = 0) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from medsmith.models import load_tokenizer
    from medsmith.training import trainer_arguments

    settings = {"max_steps": 12, "per_device_train_batch_size": 2, "learning_rate": 1.0e-2, "assistant_only_loss": True}
    tokenizer = load_tokenizer(model)
    trainer = SFTTrainer(
        model=lora.load_to_train(model, block, seed=seed),
        args=trainer_arguments(SFTConfig, settings | {"save_strategy": "no"}, out, seed, threads=1),
        train_dataset=Dataset.from_list([{"messages": TURNS}] * 4),
        processing_class=tokenizer,
        peft_config=lora.peft_config(block),
    )
    trainer.train()
    lora.save_trained(trainer.model, tokenizer, out, "float32", block, model)


def weights(folder: Path) -> dict[str, Any]:
    from medsmith.models import load_model

    return dict(load_model(folder, device="cpu").named_parameters())


@pytest.fixture(scope="module")
def apart(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny model."""
    folder = tmp_path_factory.mktemp("lora") / "apart"
    train(tiny_model, folder, lora.Lora(r=4))
    return folder


def test_an_adapter_loads_as_the_model_that_a_merged_run_saves(tiny_model: Path, apart: Path, tmp_path: Path) -> None:
    """Both have the same weights; only those of linear layers differ from the base, and the head does not."""
    train(tiny_model, tmp_path / "whole", lora.Lora(r=4, merge=True))
    base, one, other = (weights(folder) for folder in (tiny_model, apart, tmp_path / "whole"))
    assert base.keys() == one.keys() == other.keys()
    assert max(float((one[name] - other[name]).detach().abs().max()) for name in base) < 1e-6
    changed = {name for name in base if not base[name].equal(one[name])}
    assert changed and all("self_attn" in name or "mlp" in name for name in changed)
    assert not (tmp_path / "whole" / "adapter_config.json").exists()


def test_all_weights_of_an_adapted_model_can_be_trained_on(apart: Path) -> None:
    """A training without `lora` that begins from an adapter finds no frozen weight."""
    assert all(tensor.requires_grad for tensor in lora.load_to_train(apart, None).parameters())


def test_an_adapter_is_small_and_names_its_base(tiny_model: Path, apart: Path) -> None:
    """The folder has no weights but the adapter's, the tokenizer with its template, and the ends of a turn."""
    from medsmith.models import base_of, load_model, load_tokenizer

    assert [path.name for path in apart.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert base_of(apart) == tiny_model.resolve()
    tokenizer, model = load_tokenizer(apart), load_model(apart, "bfloat16")
    assert tokenizer.convert_tokens_to_ids("<|end|>") == model.generation_config.eos_token_id[0]
    assert str(model.dtype) == "torch.bfloat16" and not (apart / "README.md").exists()


def test_an_adapter_is_a_parent_of_a_merge(tiny_model: Path, apart: Path, tmp_path: Path) -> None:
    """Folded by the merge it has the weights that load_model gives it."""
    from merge_recipes.adapters import fold_all

    folded = fold_all({"expert": apart}, tiny_model, tiny_model, tmp_path)["expert"]
    ours, theirs = weights(apart), weights(folded)
    assert max(float((ours[name] - theirs[name]).detach().abs().max()) for name in ours) < 1e-6


def test_an_adapter_of_another_base_is_another_model(tiny_model: Path, apart: Path, tmp_path: Path) -> None:
    """The same adapter over other weights has other fingerprints, for the evaluator and for whoever samples."""
    import shutil

    from eval.engines.transformers import LocalModel
    from medsmith.local_chat import fingerprint

    shutil.copytree(tiny_model, tmp_path / "base")
    shutil.copytree(apart, tmp_path / "adapter")
    settings = json.loads((apart / "adapter_config.json").read_text())
    moved = settings | {"base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(moved))
    before = LocalModel(tmp_path / "adapter").fingerprint, fingerprint(tmp_path / "adapter")
    (tmp_path / "base" / "model.safetensors").write_bytes((apart / "adapter_model.safetensors").read_bytes())
    after = LocalModel(tmp_path / "adapter").fingerprint, fingerprint(tmp_path / "adapter")
    assert before[0] != after[0] and before[1] != after[1]


def test_an_adapter_on_a_base_of_other_depth_is_refused(tiny_model: Path, apart: Path, tmp_path: Path) -> None:
    """peft would pass over the layers that are not there, and train or answer with what is left."""
    import shutil

    from medsmith.models import load_model

    shutil.copytree(tiny_model, tmp_path / "base")
    shutil.copytree(apart, tmp_path / "adapter")
    for file, changed in (
        ("base/config.json", {"num_hidden_layers": 1}),
        ("adapter/adapter_config.json", {"base_model_name_or_path": str(tmp_path / "base")}),
    ):
        path = tmp_path / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError, match="adapter of a model of 2 layers, and the base has 1"):
        load_model(tmp_path / "adapter")


def test_the_seed_draws_an_adapter(tiny_model: Path, apart: Path, tmp_path: Path) -> None:
    """The same seed gives the same bytes, another seed others."""
    name = "adapter_model.safetensors"
    train(tiny_model, tmp_path / "again", lora.Lora(r=4))
    train(tiny_model, tmp_path / "other", lora.Lora(r=4), seed=1)
    assert (tmp_path / "again" / name).read_bytes() == (apart / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (apart / name).read_bytes()


@pytest.mark.parametrize("targets", ["ff", "down_proj", "[", ["down_proj", "w1"], ["own_proj"]])
def test_layers_that_the_model_has_not_are_refused(tiny_model: Path, targets: list[str] | str) -> None:
    """A word that is no group, a bare name, no pattern, one wrong name of two, a part of a name: all with the names."""
    wrong = targets if isinstance(targets, str) else targets[-1]
    with pytest.raises(UserError) as error:
        lora.load_to_train(tiny_model, lora.Lora(targets=targets))
    assert f"no layer of the model is called {wrong!r}" in str(error.value)
    assert "a list of some of down_proj, gate_up_proj, lm_head, o_proj, qkv_proj" in str(error.value)


@pytest.mark.parametrize("targets", ["ffn", "attn", "all-linear", ["down_proj"], r".*\.0\.mlp\.down_proj"])
def test_layers_that_the_model_has_are_taken(tiny_model: Path, targets: list[str] | str) -> None:
    """A group, a list of names and a pattern are what peft takes too."""
    lora.load_to_train(tiny_model, lora.Lora(targets=targets))


def test_what_cannot_be_is_refused(tiny_model: Path, apart: Path, tmp_path: Path) -> None:
    """An adapter on an adapter without a merge, 4 bits without a GPU, and a base that is gone: a line each."""
    import torch

    with pytest.raises(UserError, match="is an adapter itself.*set lora.merge=true"):
        lora.load_to_train(apart, lora.Lora())
    lora.load_to_train(apart, lora.Lora(merge=True))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="nf4 needs a CUDA GPU"):
            lora.load_to_train(tiny_model, lora.Lora(quantize="nf4"))
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "config.json").write_text("{}")
    (gone / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/not/there"}))
    from medsmith.models import load_model

    with pytest.raises(UserError, match="is an adapter of '/not/there', which is not there"):
        load_model(gone)
