"""Low-rank adapters: train a few numbers beside each weight of a model that itself stays as it is.

    lora: {r: 16, alpha: 32, merge: true}                            # a block of a training recipe
    model = load_to_train(config.model, config.lora)
    trainer = SFTTrainer(model=model, peft_config=peft_config(config.lora), …)
    save_trained(trainer.model, tokenizer, this.folder, config.dtype, config.lora)

Without `merge` the run folder holds the adapter alone: adapter_config.json, which names its base, and
adapter_model.safetensors; beside them the base's config.json and the tokenizer. `medsmith.models.load_model` puts it
into its base, so that it is evaluated like any model, and a merge takes it as one of its parents.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medsmith import processes
from medsmith.config import Block
from medsmith.errors import UserError

GROUPS = {
    "ffn": (
        "gate_proj", "up_proj", "down_proj", "gate_up_proj",  # Llama, Mistral, Qwen, Gemma, Phi-3
        "fc1", "fc2",  # Phi, OPT, BART
        "wi", "wi_0", "wi_1", "wo",  # T5
        "dense_h_to_4h", "dense_4h_to_h",  # GPT-NeoX, Falcon
    ),
    "attn": ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "c_attn", "query_key_value"),
}  # fmt: skip
"""Layers by what they are for, under every name that models have for them."""


class Lora(Block):
    """What is trained instead of the weights themselves; peft's own names are in brackets."""

    r: int = Field(16, ge=1, description="rank of the change of each weight [r]")
    alpha: float = Field(32, gt=0, description="the change counts alpha / r times [lora_alpha]")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into the change, in training [lora_dropout]")
    targets: list[str] | str = Field(
        "all-linear",
        description="names of the layers to change; all-linear: all but the output; ffn: the feed-forward matrices; "
        "attn: those of the attention [target_modules]",
    )
    rslora: bool = Field(False, description="alpha / sqrt(r) in place of alpha / r [use_rslora]")
    dora: bool = Field(False, description="train the size of each weight's rows apart from their direction [use_dora]")
    quantize: Literal["none", "nf4"] = Field(
        "none", description="nf4: the weights themselves in 4 bits (QLoRA); needs a GPU and bitsandbytes"
    )
    merge: bool = Field(False, description="save a whole model, the change put into the weights, not the adapter")


def target_modules(targets: list[str] | str) -> list[str] | str:
    """What peft is told: its own words, or a pattern for a group of layers."""
    if isinstance(targets, str) and targets in GROUPS:
        return rf".*\.({'|'.join(GROUPS[targets])})"
    return targets


def peft_config(lora: Lora | None) -> Any:
    """Peft's configuration, as TRL's trainers take it; None trains all weights."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_modules(lora.targets),
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="CAUSAL_LM",
    )


def load_to_train(ref: str | Path, lora: Lora | None, device: str = "auto", seed: int = 0) -> Any:
    """The model that a trainer is given: float32 weights, or 4 bits under an adapter. Seeds what an adapter draws.

    Raises:
        UserError: an adapter on an adapter, whose base would lie nowhere; no GPU for 4 bits; or targets that are no
            layers of the model.
    """
    from medsmith.models import is_adapter, load_model

    if lora is None:
        return load_model(ref, device=device)
    if not lora.merge and is_adapter(ref):
        raise UserError(
            f"{ref} is an adapter itself, and one trained on it would have no base to name; set lora.merge=true here, "
            "or in the run that made it"
        )
    import torch

    if lora.quantize == "nf4":
        model = _load_in_4_bits(ref)
    else:
        model = load_model(ref, device=device)
    check_targets(model, lora.targets)
    torch.manual_seed(seed)
    return model


def check_targets(model: Any, targets: list[str] | str) -> None:
    """Refuse a name that no layer has; peft passes over it as long as another one is found."""
    import torch

    if targets == "all-linear":
        return
    layers = dict(model.named_modules())
    wanted = target_modules(targets)
    if isinstance(wanted, str):
        absent = [] if any(_matches(wanted, name) for name in layers) else [targets]
    else:
        absent = [target for target in wanted if not any(f".{name}".endswith(f".{target}") for name in layers)]
    if absent:
        linear = {name.rpartition(".")[2] for name, layer in layers.items() if isinstance(layer, torch.nn.Linear)}
        raise UserError(
            f"lora.targets: no layer of the model is called {absent[0]!r}; give all-linear, ffn, attn, or a list of "
            f"some of {', '.join(sorted(linear))}"
        )


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False


def _load_in_4_bits(ref: str | Path) -> Any:
    import importlib.util

    import torch

    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("lora.quantize=nf4 needs a CUDA GPU and the package bitsandbytes; set lora.quantize=none")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from medsmith.models import split_ref

    name, revision = split_ref(ref)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        name, revision=revision, quantization_config=quantization, dtype=torch.bfloat16, device_map={"": 0}
    )


def save_trained(
    model: Any, tokenizer: Any, folder: Path, dtype: str, lora: Lora | None, base: str | Path | None = None
) -> None:
    """Write what a trainer trained: the whole model, or the adapter with the name of its base.

    Of a base in 4 bits the change is put into the weights as they were published, not into their 4 bits.
    """
    from medsmith.borders import end_tokens
    from medsmith.layers import note_layers
    from medsmith.models import load_model, split_ref
    from medsmith.training import save_model

    if lora is None:
        save_model(model, tokenizer, folder, dtype)
        return
    assert base is not None, "an adapter names its base"
    import torch

    for name, tensor in model.named_parameters():
        if tensor.requires_grad and not torch.isfinite(tensor).all():
            raise UserError(f"the trained weights '{name}' are not all finite; lower learning_rate in the recipe")
    place, revision = split_ref(base)
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = str(base.resolve()) if isinstance(base, Path) else place
    settings.revision = revision
    if lora.merge and lora.quantize == "none":
        save_model(model.merge_and_unload(), tokenizer, folder, dtype)
        return
    adapter = folder / "checkpoints" / "adapter" if lora.merge else folder
    if processes.is_main():
        model.save_pretrained(str(adapter), selected_adapters=["default"])
        model.config.save_pretrained(adapter)
        note_layers(model.config, adapter)
        generation = model.generation_config
        generation.eos_token_id = end_tokens(tokenizer)
        generation.save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)  # peft's own card, without a word on this run
        if not lora.merge:
            tokenizer.save_pretrained(folder)
    processes.wait()
    if lora.merge:
        save_model(load_model(adapter), tokenizer, folder, dtype)
