"""Tokenizers and causal language models, from a folder or a hub id. The only floor module that imports torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from medsmith.errors import UserError


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
    name, revision = _split(ref)
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if not tokenizer.chat_template:
        raise UserError(f"{ref} has no chat template; use an instruct model or add chat_template.jinja to the folder")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(ref: str | Path, dtype: str = "float32", device: str = "auto") -> Any:
    """Load a causal language model for inference in `dtype` (float32, bfloat16, float16) on `device`.

    Raises:
        UserError: no such folder, or a weight that is not finite (the tensor is named).
    """
    name, revision = _split(ref)
    transformers_logging.disable_progress_bar()  # a bar for each file read, in every log of every step
    model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=getattr(torch, dtype))
    for tensor_name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{ref}: the weights '{tensor_name}' are not all finite; make the model again")
    return model.to(choose_device(device)).eval()


def _split(ref: str | Path) -> tuple[str, str | None]:
    if isinstance(ref, Path):
        if not (ref / "config.json").is_file():
            raise UserError(f"{ref} is not a model folder (no config.json)")
        return str(ref), None
    name, _, revision = ref.partition("@")
    return name, revision or None
