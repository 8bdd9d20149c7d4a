"""A model folder or hub id, run here by vLLM: its own environment is best (see the extra `vllm`).

The tokens that are asked and the texts that come back are made as for transformers, by the same tokenizer; only the
arithmetic is vLLM's. A request for log-probabilities reads no cached prefix (vLLM would leave cached positions out), so
each option is computed with its whole prompt; prompts that are continued do share their prefixes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from eval.engine import Reply
from eval.engines.transformers import LocalModel, end_ids
from medsmith.errors import UserError
from medsmith.records import content_id

if TYPE_CHECKING:
    from medsmith.likelihood import ChoiceItem, DocumentScore, OptionScores


@dataclass
class VllmModel(LocalModel):
    """Loads the tokenizer when first asked to encode, the weights when first asked to answer."""

    arguments: dict[str, Any] = field(default_factory=dict)
    """Of vllm.LLM, as they stand: tensor_parallel_size, gpu_memory_utilization, max_model_len, …"""
    library: Any = None
    """Stands for the module vllm in tests."""

    def __post_init__(self) -> None:
        """UserError where vLLM is not installed: before data are read, not after."""
        if self.library is None and find_spec("vllm") is None:
            raise UserError(
                "engine vllm needs the package vllm (Linux, a CUDA device); pip install 'medsmith[vllm]', start a "
                "server elsewhere and set engine=openai, or set engine=transformers"
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of contents and version as for transformers, and of who computes."""
        return content_id("vllm", self.content_digests(), self.dtype, _version(), self.arguments.get("quantization"))

    @functools.cached_property
    def context(self) -> int:
        """The longest sequence that the model was built for, or that vLLM was told; it always writes one token more."""
        built_for = int(self.config.get_text_config().max_position_embeddings)
        return min(built_for, int(self.arguments.get("max_model_len", built_for))) - 1

    @functools.cached_property
    def llm(self) -> Any:
        """The engine. Nothing is drawn: the seed only keeps vLLM from making one up."""
        library = self.library or _import()
        settings = {"dtype": self.dtype, "seed": 0, "enable_prefix_caching": True} | self.arguments
        try:
            return library.LLM(model=str(self.folder), **settings)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"vLLM cannot load {self.ref}: {said}; check model and vllm") from error

    @functools.cached_property
    def ends(self) -> set[int]:
        """Every token that ends the assistant's turn."""
        from transformers import GenerationConfig

        named = None
        if (self.folder / "generation_config.json").is_file():
            named = GenerationConfig.from_pretrained(self.folder).eos_token_id
        return end_ids(named, self.tokenizer)

    def write(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        """Continue prompts greedily, whatever the model's own generation settings say."""
        settings = {"max_tokens": max_new_tokens, "stop_token_ids": sorted(self.ends), "detokenize": False}
        replies = []
        for output in self._run(prompts, settings):
            row = list(output.outputs[0].token_ids)
            stop = next((place for place, token in enumerate(row) if token in self.ends), None)
            text = self.tokenizer.decode(row[:stop], skip_special_tokens=True)
            replies.append(Reply(text, len(row) if stop is None else stop + 1, "length" if stop is None else "stop"))
        return replies

    def choose(self, items: list[ChoiceItem]) -> list[OptionScores]:
        """Score options by their likelihood."""
        from medsmith.likelihood import OptionScores, encode_options

        encoded = encode_options(self.tokenizer, items, self.context)
        rows = [(prefix + branch, len(branch)) for prefix, branches in encoded for branch in branches]
        scores = self._scores(rows)
        found = []
        for _, branches in encoded:
            values = [next(scores) for _ in branches]
            found.append(OptionScores(values, [len(branch) for branch in branches]))
        return found

    def read(self, texts: list[str], window: int) -> list[DocumentScore]:
        """Score texts by their likelihood."""
        from medsmith.likelihood import DocumentScore, document_pieces

        pieces = [list(document_pieces(self.tokenizer, text, window)) for text in texts]
        scores = self._scores([piece for parts in pieces for piece in parts])
        return [
            DocumentScore(-sum(next(scores) for _ in parts), sum(count for _, count in parts), len(text.encode()))
            for text, parts in zip(texts, pieces, strict=True)
        ]

    def _scores(self, rows: Sequence[tuple[list[int], int]]) -> Iterator[float]:
        """For each row of ids, the sum of the log-probabilities of its last `count`."""
        outputs = self._run([ids for ids, _ in rows], {"max_tokens": 1, "prompt_logprobs": 1, "detokenize": False})
        for (ids, count), output in zip(rows, outputs, strict=True):
            there = output.prompt_logprobs[-count:]
            yield sum(float(found[token].logprob) for token, found in zip(ids[-count:], there, strict=True))

    def _run(self, prompts: list[list[int]], settings: dict[str, Any]) -> Any:
        if not prompts:
            return []
        sampling = (self.library or _import()).SamplingParams(temperature=0.0, **settings)
        return self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)


def _import() -> Any:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import vllm

    return vllm


def _version() -> str:
    try:
        return version("vllm")
    except PackageNotFoundError:  # a test's stand-in
        return ""
