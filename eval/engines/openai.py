"""A model behind an OpenAI-compatible address, with the floor's client: retries, limits, budget, price, key.

An address shows no weights: what its owner changes behind the same name goes unnoticed. Nor does it show tokens: a
prompt is a conversation, and its length is estimated. Texts come from chat completions at temperature 0. Likelihoods
need an endpoint that echoes a prompt with its log-probabilities (/completions, as vLLM's server has it), and the
model's own tokenizer, because such a prompt is sent as token ids; without either, options are answered by a letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from eval.engine import Reply
from medsmith.config import ModelRef
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.llm import ChatRequest, Summary, TeacherConfig, run_calls
from medsmith.records import content_id

if TYPE_CHECKING:
    from medsmith.likelihood import ChoiceItem, DocumentScore, OptionScores
    from medsmith.openai_chat import OpenAIChat

NOT_SERVED = re.compile(r"HTTP 4(?:00|04|05|22)")
"""How a server says that it has no such path, or does not echo."""

BYTES_PER_TOKEN = 3
"""Clinical text has more in most tokenizers: a prompt that is thought to fit does, and few are cut without need."""


class EndpointConfig(TeacherConfig):
    """Where the model is, and what cannot be seen from here."""

    context: int = Field(8192, ge=64, description="tokens that the model takes, prompt and answer together")
    tokenizer: ModelRef | None = Field(
        None,
        description="a folder or hub id with the model's tokenizer and template: options and documents are scored by "
        "likelihood, which the endpoint must give; none: options are answered by a letter",
    )
    allow_failed: float = Field(
        0.0, ge=0, lt=1, description="of the calls, the share that may stay without an answer; each counts as empty"
    )


@contextmanager
def open_endpoint(config: EndpointConfig, folder: Path, *, transport: Any = None) -> Iterator[Endpoint]:
    """Connect, starting a server where the config says so. `folder` gets calls.jsonl: no call is paid for twice."""
    from medsmith.serve import local_server

    if find_spec("openai") is None:
        raise UserError("engine openai needs the package openai; install medsmith with its extra: 'medsmith[generate]'")
    with ExitStack() as stack:
        base_url = config.base_url
        if config.serve is not None:
            base_url = stack.enter_context(local_server(config.serve, config.serve_timeout_seconds))
        if base_url is None:
            raise UserError("engine openai needs an address; set endpoint.base_url=http://127.0.0.1:8000/v1")
        yield Endpoint(config, base_url, stack.enter_context(_Calls(folder / "calls.jsonl")), transport)


@dataclass
class Endpoint:
    """One model at one address."""

    config: EndpointConfig
    base_url: str
    journal: Journal
    transport: Any = None
    """Of the HTTP client, in tests."""

    @property
    def fingerprint(self) -> str:
        """Of the address, the model's name there, and what is put into every request."""
        where = self.config.serve or self.base_url
        return content_id("openai", where, self.config.model, self.config.extra_body)

    @property
    def context(self) -> int:
        """What the config says."""
        return self.config.context

    def encode(self, messages: Sequence[Sequence[dict[str, str]]]) -> list[list[int]]:
        """Conversations as numbers that `decode` turns back: no token ids, but about as many, rather more."""
        return [_packed(json.dumps(list(chat), ensure_ascii=False)) for chat in messages]

    def decode(self, ids: list[int]) -> str:
        """The conversation as JSON."""
        return b"".join(number.to_bytes(BYTES_PER_TOKEN).lstrip(b"\0") for number in ids).decode(errors="surrogatepass")

    def begin_tokens(self, ids: list[int]) -> int:
        """None: the endpoint renders the prompt."""
        return 0

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        """About how many tokens each text has."""
        return [-(-len(text.encode()) // BYTES_PER_TOKEN) for text in texts]

    def usage(self) -> dict[str, Any]:
        """Calls, tokens and cost of this run folder, restarts included."""
        return Summary.of(self.journal.rows.values()).facts()

    def write(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        """Continue conversations at temperature 0."""
        from medsmith.openai_chat import OpenAIChat

        chats = [json.loads(self.decode(ids)) for ids in prompts]
        requests = [self.config.request(chat, temperature=0.0, max_tokens=max_new_tokens) for chat in chats]
        rows = self._call(requests, OpenAIChat)
        Summary.of(rows).refuse_silence(self.config.allow_failed)
        replies = []
        for row in rows:
            finish = "length" if row["finish"][:1] == ["length"] else "stop"
            text = row["texts"][0] if row["texts"] else ""
            replies.append(Reply(text, row["usage"].get("completion_tokens", 0), "failed" if row["error"] else finish))
        return replies

    def choose(self, items: list[ChoiceItem]) -> list[OptionScores]:
        """Score options by their likelihood."""
        from medsmith.likelihood import OptionScores, encode_options

        encoded = encode_options(self._tokenizer, items, self.context - 1)
        scores = self._scores([(prefix + branch, len(branch)) for prefix, branches in encoded for branch in branches])
        return [
            OptionScores([next(scores) for _ in branches], [len(branch) for branch in branches])
            for _, branches in encoded
        ]

    def read(self, texts: list[str], window: int) -> list[DocumentScore]:
        """Score texts by their likelihood."""
        from medsmith.likelihood import DocumentScore, document_pieces

        pieces = [list(document_pieces(self._tokenizer, text, window)) for text in texts]
        scores = self._scores([piece for parts in pieces for piece in parts])
        return [
            DocumentScore(-sum(next(scores) for _ in parts), sum(count for _, count in parts), len(text.encode()))
            for text, parts in zip(texts, pieces, strict=True)
        ]

    @cached_property
    def _tokenizer(self) -> Any:
        from medsmith.models import load_tokenizer

        if self.config.tokenizer is None:
            raise UserError(
                "likelihoods from an endpoint need the model's tokenizer; set endpoint.tokenizer to its folder or hub "
                "id, or leave out corpora"
            )
        return load_tokenizer(self.config.tokenizer)

    def _scores(self, rows: Sequence[tuple[list[int], int]]) -> Iterator[float]:
        """For each row of ids, the sum of the log-probabilities of its last `count`."""
        from eval.engines.openai_echo import EchoChat, echo_request, no_likelihoods

        requests = [echo_request(self.config, ids) for ids, _ in rows]
        try:
            found = self._call(requests, EchoChat)
        except UserError as error:
            raise no_likelihoods(self.base_url, str(error)) if NOT_SERVED.search(str(error)) else error from None
        refused = next((row["error"] for row in found if row["error"] and row["final"]), None)
        if refused:
            raise no_likelihoods(self.base_url, refused)
        Summary.of(found).refuse_silence(0.0)
        for (ids, count), row in zip(rows, found, strict=True):
            yield float(sum(json.loads(row["texts"][0])[len(ids) - count : len(ids)]))

    def _call(self, requests: list[ChatRequest], kind: type[OpenAIChat]) -> list[dict[str, Any]]:
        try:
            # A client for each batch: it is charged with all that the journal says was spent.
            chat = kind(self.base_url, self.config, transport=self.transport)
            # A model that declines has answered; its scorer says what that is worth.
            rows = run_calls(requests, chat, self.journal, self.config.concurrency, "asking", refusals=True)
        except UserError as error:
            # The floor calls its settings after the teacher of a generation.
            raise type(error)(str(error).replace("teacher.", "endpoint.")) from None
        return [rows[request.id] for request in requests]


class _Calls(Journal):
    """A journal without what was asked: samples.jsonl tells that, where it may be told."""

    def append(self, row: dict[str, Any]) -> None:
        """Write one row."""
        super().append({name: value for name, value in row.items() if name != "request"})


def _packed(text: str) -> list[int]:
    raw = text.encode(errors="surrogatepass")
    return [int.from_bytes(raw[start : start + BYTES_PER_TOKEN]) for start in range(0, len(raw), BYTES_PER_TOKEN)]
