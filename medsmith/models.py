"""Tokenizers and causal language models, from a folder or a hub id. The only floor module that imports torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from medsmith.errors import UserError
from medsmith.layers import require_same_layers
from medsmith.records import read_json

ADAPTER = "adapter_config.json"


def set_threads(threads: int | None) -> int:
    """Give torch this many threads (default: OMP_NUM_THREADS, else all cores); return the number.

    Two processes with as many threads as cores each crawl: the pipeline runner sets OMP_NUM_THREADS for its steps.
    """
    count = threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
    torch.set_num_threads(count)
    return count


def choose_device(device: str = "auto") -> str:
    """`auto` is cuda where there is one, else cpu."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def load_tokenizer(ref: str | Path) -> Any:
    """Load a tokenizer that has a chat template, left padding and a pad token."""
    name, revision = split_ref(ref)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise _unloadable(ref, "tokenizer", error) from error
    if not tokenizer.chat_template:
        raise UserError(f"{ref} has no chat template; use an instruct model or add chat_template.jinja to the folder")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(ref: str | Path, dtype: str = "float32", device: str = "auto") -> Any:
    """Load a causal language model for inference in `dtype` (float32, bfloat16, float16) on `device`.

    A folder with an adapter gives the model that the adapter makes of its base, computed in float32.

    Raises:
        UserError: no such folder, torn weights, an adapter whose base is not there, or a weight that is not finite (it
            is named).
    """
    transformers_logging.disable_progress_bar()  # a bar for each file read, in every log of every step
    if is_adapter(ref):
        model = _load_adapter(Path(ref)).to(getattr(torch, dtype))
    else:
        name, revision = split_ref(ref)
        try:
            model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=getattr(torch, dtype))
        except (OSError, ValueError, SafetensorError) as error:
            raise _unloadable(ref, "weights", error) from error
    for tensor_name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{ref}: the weights '{tensor_name}' are not all finite; make the model again")
    return model.to(choose_device(device)).eval()


def context_of(ref: str | Path) -> int | None:
    """How many tokens the model was made to read at once; None where it does not say."""
    name, revision = split_ref(ref)
    settings = AutoConfig.from_pretrained(name, revision=revision).get_text_config()
    longest: int | None = getattr(settings, "max_position_embeddings", None)
    return longest


def _unloadable(ref: str | Path, what: str, error: Exception) -> UserError:
    """The library's own words are pages long; the first line names the trouble, the cause stays attached."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:, ")
    remedy = "give the folder of a finished model" if isinstance(ref, Path) else "check the id, and the way to the hub"
    return UserError(f"{ref}: the {what} cannot be loaded ({reason}); {remedy}")


def is_adapter(ref: str | Path) -> bool:
    """Whether a folder holds a low-rank adapter in place of a whole model."""
    return isinstance(ref, Path) and (ref / ADAPTER).is_file()


def base_of(adapter: Path) -> str | Path:
    """The model that an adapter belongs to: a folder, or a hub id with its revision.

    Raises:
        UserError: the adapter does not say, or its base is a folder that is not there.
    """
    settings = read_json(adapter / ADAPTER)
    said = str(settings.get("base_model_name_or_path") or "")
    if (Path(said) / "config.json").is_file():
        return Path(said)
    if not said or Path(said).is_absolute() or said.startswith("."):
        raise UserError(f"{adapter} is an adapter of '{said}', which is not there; make or fetch that model first")
    return f"{said}@{settings['revision']}" if settings.get("revision") else said


def _load_adapter(folder: Path) -> Any:
    from peft import PeftModel
    from transformers import GenerationConfig

    found = base_of(folder)
    if isinstance(found, Path):
        require_same_layers(folder.name, folder, found)
    name, revision = split_ref(found)
    base = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    model.requires_grad_(True)  # peft leaves the weights frozen, and no training could go on from them
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def split_ref(ref: str | Path) -> tuple[str, str | None]:
    """The name and the revision that transformers loads a model by; UserError where a folder holds none."""
    if isinstance(ref, Path):
        if not (ref / "config.json").is_file():
            raise UserError(f"{ref} is not a model folder (no config.json)")
        return str(ref), None
    name, _, revision = ref.partition("@")
    return name, revision or None
