"""Which attention kernel a training uses: flash attention where it can, else what the model was built with.

set_attention(model, longest=4096)     # and a line in the log
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

LOG = logging.getLogger(__name__)

SHORT = 512
"""Up to this block length plain attention beats sdpa on a CPU: by 11% with blocks of 256 at 6M parameters."""

FLASH = "flash_attention_2"


class Chosen(NamedTuple):
    """A kernel, and why."""

    kernel: str
    reason: str


def choose_attention(built: str, longest: int, *, cuda: bool, flash: bool, half: bool) -> Chosen:
    """The kernel for sequences of up to `longest` tokens.

    `built` is the model's own choice; `flash`: the package is there and the model supports it; `half`: the computation
    is in 16 bits, without which flash attention does not work.
    """
    if cuda and flash and half:
        return Chosen(FLASH, "flash attention is installed")
    if cuda and flash:
        return Chosen(built, "flash attention needs bf16 or fp16")
    if cuda:
        return Chosen(built, "no flash attention here: pip install flash-attn, or the model does not support it")
    if built == "sdpa" and longest <= SHORT:
        return Chosen("eager", f"a CPU, and blocks of at most {SHORT}")
    return Chosen(built, "a CPU")


def set_attention(model: Any, longest: int, *, half: bool = True) -> Chosen:
    """Give the model its kernel and say which."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    built = str(model.config._attn_implementation)
    cuda = torch.cuda.is_available()
    flash = cuda and is_flash_attn_2_available() and bool(getattr(model, "_supports_flash_attn", False))
    chosen = choose_attention(built, longest, cuda=cuda, flash=flash, half=half)
    if chosen.kernel != built:
        model.set_attn_implementation(chosen.kernel)
    LOG.info("attention: %s (%s)", *chosen)
    return chosen
