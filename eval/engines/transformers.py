"""A model folder or hub id, run here by transformers."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.engine import Reply
from medsmith.digests import file_digest
from medsmith.errors import UserError
from medsmith.records import content_id

if TYPE_CHECKING:
    from medsmith.likelihood import ChoiceItem, DocumentScore, OptionScores

# What decides a model's outputs. A card or an optimizer state beside them does not.
IDENTITY = ("*.safetensors", "config.json", "adapter_config.json", "generation_config.json", "tokenizer*",
            "chat_template*", "special_tokens*", "added_tokens.json", "vocab.*", "merges.txt")  # fmt: skip

SHORTEST_START = 8
PLAIN_POSITIONS = {"default", "linear", "llama3", "yarn"}


@dataclass
class LocalModel:
    """Loads the tokenizer when first asked to encode, the weights when first asked to answer."""

    ref: str | Path
    dtype: str = "float32"
    device: str = "auto"

    @functools.cached_property
    def folder(self) -> Path:
        """Where the files are; a hub id is fetched, once, at its revision."""
        if isinstance(self.ref, Path):
            return self.ref
        from huggingface_hub import snapshot_download

        name, _, revision = self.ref.partition("@")
        try:
            return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(IDENTITY)))
        except (OSError, ValueError) as error:  # all that the hub's library raises is one of the two
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"model={self.ref} cannot be fetched: {reason}; give a folder, or connect") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the contents of weights, tokenizer and chat template, and of the libraries that turn them into text."""
        return content_id("transformers", self.content_digests(), self.dtype, version("torch"), version("transformers"))

    def content_digests(self) -> dict[str, str]:
        """The digest of every file that decides what the model answers."""
        files = sorted({path for pattern in IDENTITY for path in self.folder.glob(pattern)})
        if not any(path.suffix == ".safetensors" for path in files):
            raise UserError(f"{self.ref} holds no weights (*.safetensors); give the folder of a finished model")
        digests = {path.name: file_digest(path) for path in files}
        if (self.folder / "adapter_config.json").is_file():  # which answers with its base's weights
            from medsmith.models import base_of

            digests |= {"base": LocalModel(base_of(self.folder)).fingerprint}
        return digests

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, padding on the left."""
        from medsmith.models import load_tokenizer

        return load_tokenizer(self.folder)

    @functools.cached_property
    def model(self) -> Any:
        """The model, ready for inference."""
        from medsmith.models import load_model

        return load_model(self.folder, self.dtype, self.device)

    @functools.cached_property
    def config(self) -> Any:
        """The model's configuration."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.folder)

    @functools.cached_property
    def context(self) -> int:
        """The longest sequence that the model was built for."""
        return int(self.config.get_text_config().max_position_embeddings)

    def encode(self, messages: Sequence[Sequence[dict[str, str]]]) -> list[list[int]]:
        """Token ids of conversations, up to the opening of the assistant's turn."""
        from medsmith.likelihood import encode_chat

        return encode_chat(self.tokenizer, messages)

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens and all."""
        return str(self.tokenizer.decode(ids))

    def begin_tokens(self, ids: list[int]) -> int:
        """How many beginning-of-text tokens the ids open with."""
        begin = self.tokenizer.bos_token_id
        return next((place for place, token in enumerate(ids) if token != begin), len(ids))

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has."""
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    def write(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        """Continue prompts greedily; one batch, in the order given."""
        return generate(self.model, self.tokenizer, prompts, max_new_tokens)

    def choose(self, items: list[ChoiceItem]) -> list[OptionScores]:
        """Score options by their likelihood."""
        from medsmith.likelihood import score_options

        return score_options(self.model, self.tokenizer, items)

    def read(self, texts: list[str], window: int) -> list[DocumentScore]:
        """Score texts by their likelihood."""
        from medsmith.likelihood import document_nll

        return document_nll(self.model, self.tokenizer, texts, window)


def generate(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
    """Continue a batch of prompts greedily until the end of the turn or `max_new_tokens`.

    The most probable token is taken, whatever sampling or penalty the model's own generation settings ask for. Pass
    prompts of like length together: they are padded to the longest. What all begin with (an instruction, examples) is
    read once, and the padding stands behind it.
    """
    import torch
    from transformers import DynamicCache, GenerationConfig

    ends = end_ids(model.generation_config.eos_token_id, tokenizer)
    width, pad = max(map(len, prompts)), tokenizer.pad_token_id
    start = shared_start(prompts) if takes_shared_start(model) else 0
    rows = [(prompt[:start], width - len(prompt), prompt[start:]) for prompt in prompts]
    ids = torch.tensor([head + [pad] * gap + tail for head, gap, tail in rows], device=model.device)
    mask = torch.tensor([[1] * start + [0] * gap + [1] * len(tail) for _, gap, tail in rows], device=model.device)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=sorted(ends),
        pad_token_id=pad,
    )
    with torch.inference_mode(), _own_settings(model, settings):
        before = {}
        if start:
            cache = DynamicCache(config=model.config)
            model(input_ids=ids[:1, :start], past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
            before = {"past_key_values": cache}
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, **before)
    replies = []
    for row in written[:, width:].tolist():
        stop = next((place for place, token in enumerate(row) if token in ends), None)
        text = tokenizer.decode(row[:stop], skip_special_tokens=True)
        replies.append(Reply(text, len(row) if stop is None else stop + 1, "length" if stop is None else "stop"))
    return replies


def shared_start(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; at least one is left to each. 0 where it is not worth a pass of its own.

    On one thread a fifth of the time for instructions of 16 to 37 tokens before questions of 30 to 80, on 5.6M weights.
    """
    first, last = min(prompts), max(prompts)  # of sorted lists these two share the least
    room = min(map(len, prompts)) - 1
    same = next((place for place in range(room) if first[place] != last[place]), room)
    return same if len(prompts) > 1 and same >= SHORTEST_START else 0


def takes_shared_start(model: Any) -> bool:
    """Whether a start read alone is what it is in a longer text, and padding may stand in the midst of one.

    Not so with states in place of keys and values, with windows, and with positions that depend on the length.
    """
    config = model.config.get_text_config()
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "unknown")
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = layers == {"full_attention"} and not getattr(config, "sliding_window", None)
    return plain and rope in PLAIN_POSITIONS and not getattr(model, "_is_stateful", False)


@contextmanager
def _own_settings(model: Any, settings: Any) -> Iterator[None]:
    """Let `settings` be all: transformers fills what they leave open from the model's own, penalties among them."""
    kept, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = kept


def end_ids(named: int | list[int] | None, tokenizer: Any) -> set[int]:
    """Every token that ends the assistant's turn: those of the generation settings, and the tokenizer's."""
    listed = named if isinstance(named, list) else [named]
    ends = {int(token) for token in [*listed, tokenizer.eos_token_id] if token is not None}
    if not ends:
        raise UserError("the model names no end-of-turn token; set eos_token_id in generation_config.json")
    return ends
