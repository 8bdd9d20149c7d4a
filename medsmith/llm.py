"""Calls to a teacher: any OpenAI-compatible endpoint, a local server that is started for the run, or a fake.

    with open_teacher(config.teacher) as chat, Journal(folder / "raw" / "calls.jsonl") as journal:
        requests = [config.teacher.request(messages, temperature=1.0) for messages in prompts]
        rows = run_calls(requests, chat, journal, config.teacher.concurrency, "generate")
        rows[requests[0].id]["texts"]             # or None, and ["error"] says why

A request's id is a hash of all that bears on its answer, so a restart finds what was already paid for. Retries live in
medsmith.openai_chat and nowhere else; a caller that wants a call repaired gives `follow_up`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from medsmith.calls import refuse_silence, run_calls, summarise
from medsmith.chat import ChatError, ChatModel, ChatReply, ChatRequest, FakeChat, Message, chat_request
from medsmith.config import Block, execution
from medsmith.errors import UserError
from medsmith.journal import Journal

__all__ = [
    "BudgetConfig",
    "ChatError",
    "ChatModel",
    "ChatReply",
    "ChatRequest",
    "FakeChat",
    "Journal",
    "Message",
    "Price",
    "TeacherConfig",
    "chat_request",
    "open_teacher",
    "refuse_silence",
    "run_calls",
    "summarise",
]


class Price(Block):
    """What the teacher costs, in any currency, per million tokens."""

    prompt_per_million: float = Field(description="price of a million prompt tokens")
    completion_per_million: float = Field(description="price of a million completion tokens")


class BudgetConfig(Block):
    """The most a run folder may use, restarts included; at the limit the run stops and can be continued."""

    max_requests: int | None = Field(default=None, ge=0, description="the most requests sent, retries included")
    max_cost: float | None = Field(
        default=None, ge=0, description="the most money, in the currency of `price`; needs `price`"
    )


class TeacherConfig(Block):
    """A chat model: an address, or a command that starts a local server. Model, serve and extra_body bear identity."""

    model: str = Field("simulated", description="the model's name at the endpoint")
    serve: str | None = Field(
        None,
        description="a command that starts a local OpenAI-compatible server, e.g. 'python -m mediflow.teacher --port "
        '0\'; its first line on stdout is {"base_url": …} and it exits when its stdin closes',
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="put into every request as it stands, e.g. {chat_template_kwargs: {enable_thinking: false}}; "
        "null takes one of ours out, e.g. {max_tokens: null, max_completion_tokens: 4096}",
    )
    base_url: str | None = execution(None, "an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1")
    api_key_env: str | None = execution(None, "the environment variable that holds the key; a local server needs none")
    concurrency: int = execution(8, "calls in flight at most")
    max_retries: int = execution(6, "how often a call is tried again after 429, 5xx, a timeout or a cut connection")
    timeout_seconds: float = execution(120.0, "how long one attempt may take")
    retry_seconds: float = execution(0.5, "the first pause before a retry; doubles each time, at most a minute")
    requests_per_minute: float | None = execution(None, "starts of requests in a minute at most")
    serve_timeout_seconds: float = execution(600.0, "how long the server of `serve` may take to start")
    budget: BudgetConfig = execution(BudgetConfig(), "requests and money that may be spent")
    price: Price | None = execution(None, "what tokens cost; makes the cost known and max_cost possible")
    allow_remote_credentialed: bool = execution(False, "may data under a use agreement be sent to a remote endpoint?")

    @model_validator(mode="after")
    def _one_endpoint(self) -> TeacherConfig:
        if (self.base_url is None) == (self.serve is None):
            raise ValueError("give exactly one of base_url (an endpoint) and serve (a command that starts one)")
        if self.serve is not None and not self.serve.strip():
            raise ValueError("serve is empty; give a command")
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"base_url {self.base_url!r} is no address; write https://host/v1")
            if parts.username or parts.password or parts.query:
                raise ValueError("base_url must hold no key or password; name the key's variable in api_key_env")
        if self.budget.max_cost is not None and self.price is None:
            raise ValueError("budget.max_cost needs price (prompt_per_million, completion_per_million)")
        if self.concurrency < 1 or self.max_retries < 0 or self.timeout_seconds <= 0:
            raise ValueError("concurrency must be at least 1, max_retries at least 0, timeout_seconds above 0")
        return self

    def request(self, messages: Sequence[Message], **settings: Any) -> ChatRequest:
        """A request to this teacher; see `chat_request`."""
        extra = json.dumps(self.extra_body, sort_keys=True) if self.extra_body else None
        return chat_request(" ".join(filter(None, (self.model, self.serve, extra))), messages, **settings)


@contextmanager
def open_teacher(config: TeacherConfig, *, credentialed: bool = False) -> Iterator[ChatModel]:
    """Connect to the teacher, starting its server where the config says so; the server ends with the block.

    Raises:
        UserError: no key where one is named, a server that does not start, or credentialed data and a remote endpoint.
    """
    from medsmith.openai_chat import OpenAIChat
    from medsmith.serve import local_server

    if importlib.util.find_spec("openai") is None:
        raise UserError("a teacher needs the package openai; install medsmith with its extra: 'medsmith[generate]'")
    if config.serve is None:
        assert config.base_url is not None, "the validator asks for one of base_url and serve"
        chat = OpenAIChat(config.base_url, config)
        if credentialed:
            chat.refuse_remote()
        yield chat
        return
    with local_server(config.serve, config.serve_timeout_seconds) as base_url:
        yield OpenAIChat(base_url, config)
