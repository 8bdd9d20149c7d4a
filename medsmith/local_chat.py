"""A model folder that answers chat requests in this process, by transformers: no server, no address.

    with Journal(this.folder / "raw" / "calls.jsonl") as journal:
        rows = run_calls(requests, LocalChat(config.model), journal, 1, "sample")

What is drawn for a request depends on its id and the model alone, not on its neighbours in a batch nor on the batch's
width: each token is the one whose logit, with Gumbel noise of the request's own, is the largest, and that is a draw
from the softmax. So a run that was killed goes on with the answers that it would have given. (Padding changes a logit's
last digits: where two are equal but for those, as in 16 bits they may be, the other may be drawn.)
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medsmith.chat import ChatError, ChatReply, ChatRequest
from medsmith.errors import UserError
from medsmith.records import content_id
from medsmith.run import digest

if TYPE_CHECKING:
    import torch

Done = Callable[[ChatRequest, ChatReply | ChatError], None]
BATCH_ROWS = 64


class _Draw(NamedTuple):
    """One text to write: the request, the how manieth of its texts, the prompt, the most tokens of the answer.

    `alike` is what texts of one batch share: temperature, `most`, and, of those that change how the model sees them
    while they are written (longrope) or that fill its context, the length of the prompt.
    """

    request: ChatRequest
    number: int
    prompt: list[int]
    most: int
    alike: tuple[float, int, int]


class LocalChat:
    """A BulkChat over a model folder or a hub id; the model is loaded by the first call."""

    bulk_size = 256

    def __init__(
        self, ref: str | Path, *, top_p: float = 1.0, dtype: str = "float32", device: str = "auto", tokens: int = 16_384
    ) -> None:
        """`tokens` bounds a batch, prompts and answers together; `top_p` leaves out what is less likely than the rest.

        Raises:
            UserError: the folder does not exist or is not finished.
        """
        self.ref, self.top_p, self.dtype, self.device, self.tokens = ref, top_p, dtype, device, tokens
        self.name = content_id(fingerprint(ref), top_p, dtype)
        """All that says who answers; a request is made with it."""

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from medsmith.models import load_tokenizer

        return load_tokenizer(self.ref)

    @functools.cached_property
    def _model(self) -> Any:
        from medsmith.models import load_model

        return load_model(self.ref, self.dtype, self.device)

    async def complete_all(self, requests: Sequence[ChatRequest], done: Done) -> None:
        """Answer every request; one that leaves no room for an answer is its own failure."""
        from medsmith.likelihood import context_of, encode_chat

        encoded = encode_chat(self._tokenizer, [list(request.messages) for request in requests])
        context, border = context_of(self._model), rope_border(self._model)
        draws = []
        for request, prompt in zip(requests, encoded, strict=True):
            most = min(request.max_tokens, context - len(prompt))
            if most < 1:
                done(request, ChatError(f"the prompt has {len(prompt)} tokens, the context no more", final=True))
                continue
            crosses = len(prompt) <= border < len(prompt) + most
            # Beyond the border all prompts are alike: -1; before it: 0.
            width = len(prompt) if crosses or most < request.max_tokens else -(len(prompt) > border)
            alike = (request.temperature, most, width)
            draws += [_Draw(request, number, prompt, most, alike) for number in range(request.n)]
        texts: dict[tuple[str, int], tuple[list[int], str]] = {}
        for batch in self._batches(draws):
            await asyncio.sleep(0)  # a Ctrl-C that came while a batch was written ends it here, not after the last
            for draw, written in zip(batch, self._write(batch), strict=True):
                texts[draw.request.id, draw.number] = written
                if all((draw.request.id, number) in texts for number in range(draw.request.n)):
                    done(draw.request, self._reply(draw, [texts[draw.request.id, n] for n in range(draw.request.n)]))

    def _batches(self, draws: list[_Draw]) -> Iterator[list[_Draw]]:
        """Prompts of like length together, longest first; of one temperature and length of answer."""
        draws = sorted(draws, key=lambda one: (one.alike, -len(one.prompt), one.request.id, one.number))
        batch: list[_Draw] = []
        for draw in draws:
            width = len(batch[0].prompt) + batch[0].most if batch else 0
            full = len(batch) >= BATCH_ROWS or (len(batch) + 1) * width > self.tokens
            if batch and (full or draw.alike != batch[0].alike):
                yield batch
                batch = []
            batch.append(draw)
        if batch:
            yield batch

    def _write(self, batch: list[_Draw]) -> list[tuple[list[int], str]]:
        """The tokens of each text without the end, and why it ended."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        from medsmith.borders import end_tokens

        model, tokenizer = self._model, self._tokenizer
        width = len(batch[0].prompt)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(one.prompt)) + one.prompt for one in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(one.prompt)) + [1] * len(one.prompt) for one in batch])
        named = model.generation_config.eos_token_id
        ends = {*(named if isinstance(named, list) else [named]), *end_tokens(tokenizer)} - {None}
        request = batch[0].request
        settings = GenerationConfig(
            max_new_tokens=batch[0].most,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=pad,
        )
        noise = LogitsProcessorList()
        if request.temperature > 0:
            seeds = [content_id(one.request.id, one.number) for one in batch]
            noise.append(gumbel(seeds, request.temperature, self.top_p))
        # What `settings` leave open, transformers would fill from the model's own: a repetition penalty, say.
        kept, model.generation_config = model.generation_config, settings
        try:
            with torch.inference_mode():
                written = model.generate(
                    input_ids=ids,
                    attention_mask=mask.to(model.device),
                    generation_config=settings,
                    logits_processor=noise,
                )
        finally:
            model.generation_config = kept
        found = []
        for row in written[:, width:].tolist():
            stop = next((place for place, token in enumerate(row) if token in ends), None)
            found.append((row[:stop], "length" if stop is None else "stop"))
        return found

    def _reply(self, draw: _Draw, written: list[tuple[list[int], str]]) -> ChatReply:
        texts = [self._tokenizer.decode(tokens, skip_special_tokens=True) for tokens, _ in written]
        usage = {"prompt_tokens": len(draw.prompt), "completion_tokens": sum(len(tokens) for tokens, _ in written)}
        return ChatReply(texts, usage, Path(str(self.ref)).name, finish=[why for _, why in written])


def rope_border(model: Any) -> int:
    """The longest sequence with the short factors of longrope, which a whole batch has or has not; else the context."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if "longrope" not in (rope.get("rope_type"), rope.get("type")):
        return int(config.max_position_embeddings)
    given = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(given or config.max_position_embeddings)


def fingerprint(ref: str | Path) -> str:
    """The content of a model folder, and of an adapter's base with it; a hub id stands for itself.

    Raises:
        UserError: the folder does not exist or is not finished.
    """
    from medsmith.models import base_of, is_adapter

    if isinstance(ref, str):
        return ref
    if not ref.is_dir():
        raise UserError(f"no such model folder: {ref}; give a folder, or a hub id as owner/name")
    return content_id(digest(ref), fingerprint(base_of(ref)) if is_adapter(ref) else "")


def gumbel(seeds: Sequence[str], temperature: float, top_p: float = 1.0) -> Any:
    """A logits processor after which the largest value is a draw: each row's noise is of its own seed."""
    import torch
    from transformers import LogitsProcessor

    generators = [torch.Generator().manual_seed(int(seed, 16) >> 1) for seed in seeds]

    class Gumbel(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores = scores.float() / temperature
            if top_p < 1:
                ordered, places = scores.sort(descending=True)
                before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
                ordered = ordered.masked_fill(before >= top_p, -torch.inf)
                scores = torch.empty_like(scores).scatter_(-1, places, ordered)
            size = scores.shape[-1]
            drawn = torch.stack([torch.empty(size).exponential_(generator=one) for one in generators])
            return scores - drawn.to(scores.device).log()

    return Gumbel()
