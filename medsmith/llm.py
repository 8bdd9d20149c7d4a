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
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from medsmith.calls import Summary, run_calls
from medsmith.chat import (
    BulkChat,
    Chat,
    ChatError,
    ChatModel,
    ChatReply,
    ChatRequest,
    Engine,
    FakeChat,
    Lane,
    Message,
    MeteredChat,
    Teachers,
    chat_request,
)
from medsmith.config import Block, execution
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.licences import is_loopback as is_loopback
from medsmith.prices import Price, find_price, no_price
from medsmith.records import content_id

__all__ = [
    "BudgetConfig",
    "BulkChat",
    "Chat",
    "ChatError",
    "ChatModel",
    "ChatReply",
    "ChatRequest",
    "Engine",
    "FakeChat",
    "Journal",
    "Message",
    "Price",
    "Summary",
    "TeacherConfig",
    "chat_request",
    "open_teacher",
    "open_teachers",
    "run_calls",
]


class BudgetConfig(Block):
    """The most a run folder may use, restarts included; at the limit the run stops and can be continued."""

    max_requests: int | None = Field(default=None, ge=0, description="the most requests sent, retries included")
    max_cost: float | None = Field(
        default=None, ge=0, description="the most money, in the currency of the price; needs a price"
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
    share: float = Field(1.0, gt=0, description="of the calls, beside the shares of the other teachers of the run")
    base_url: str | None = execution(None, "an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1")
    api_key_env: str | None = execution(None, "the environment variable that holds the key; a local server needs none")
    concurrency: int = execution(8, "calls in flight at most; fewer where the endpoint cannot take so many")
    max_retries: int = execution(7, "how often a call is tried again after 429, 5xx, a timeout or a cut connection")
    timeout_seconds: float = execution(120.0, "how long one attempt may take")
    retry_seconds: float = execution(0.5, "the first pause before a retry; doubles each time, at most a minute")
    requests_per_minute: float | None = execution(None, "starts of requests in a minute at most")
    tokens_per_minute: float | None = execution(None, "prompt and completion tokens in a minute at most")
    serve_timeout_seconds: float = execution(600.0, "how long the server of `serve` may take to start")
    batch_requests: int = execution(50_000, "calls in one batch at most (engine batch); a provider may allow fewer")
    vllm: dict[str, Any] | None = execution(
        None, "arguments of vllm.LLM as they stand, {} for none (engine vllm, or ray without an address)"
    )
    budget: BudgetConfig = execution(BudgetConfig(), "requests and money that may be spent")
    price: Price | None = execution(None, "what tokens cost; makes the cost known and max_cost possible")
    prices: Path | None = execution(
        None, "a YAML file of prices by model; none: that of medsmith, where base_url is not on this machine"
    )
    api_version: str | None = execution(
        None, "for an Azure deployment: sent as api-version, and the key as api-key, e.g. 2024-10-21"
    )
    allow_remote_credentialed: bool = execution(False, "may data under a use agreement be sent to a remote endpoint?")

    @model_validator(mode="after")
    def _one_endpoint(self) -> TeacherConfig:
        if (self.base_url is None) == (self.serve is None) and (self.vllm is None or self.serve is not None):
            raise ValueError(
                "give exactly one of base_url (an endpoint) and serve (a command that starts one); "
                "null takes out the recipe's: serve=null"
            )
        if self.serve is not None and not self.serve.strip():
            raise ValueError("serve is empty; give a command")
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"base_url {self.base_url!r} is no address; write https://host/v1")
            if parts.username or parts.password or parts.query:
                raise ValueError("base_url must hold no key or password; name the key's variable in api_key_env")
        if self.budget.max_cost is not None and self.token_price is None:
            raise ValueError(no_price(self.model, self.prices))
        if self.concurrency < 1 or self.max_retries < 0 or self.timeout_seconds <= 0:
            raise ValueError("concurrency must be at least 1, max_retries at least 0, timeout_seconds above 0")
        return self

    @property
    def token_price(self) -> Price | None:
        """What tokens cost: `price`, or the entry of the price file; the shipped one says nothing of local models."""
        if self.price is not None:
            return self.price
        local = self.base_url is None or is_loopback(self.base_url)
        return None if local and self.prices is None else find_price(self.model, self.prices)

    @property
    def name(self) -> str:
        """The model's name, and a few letters that stand for serve and extra_body where one is set."""
        if self.serve is None and not self.extra_body:
            return self.model
        return f"{self.model}#{content_id(self.serve, self.extra_body)[:6]}"

    def request(self, messages: Sequence[Message], **settings: Any) -> ChatRequest:
        """A request to this teacher; see `chat_request`."""
        extra = json.dumps(self.extra_body, sort_keys=True) if self.extra_body else None
        who = " ".join(filter(None, (self.model, self.serve, extra)))
        return chat_request(who, messages, teacher=self.name, **settings)


def read_key(config: TeacherConfig, base_url: str, local: bool) -> str:
    """The key of the endpoint, from its variable; "none" for a local server that has none.

    Raises:
        UserError: the variable is not named or empty, or what it holds fits no header.
    """
    if config.api_key_env is None:
        if not local:
            raise UserError(f"{base_url} is remote: name the variable that holds its key in teacher.api_key_env")
        return "none"
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(f"the environment variable {config.api_key_env} is empty; put the key of {base_url} there")
    wrong = next((number for number, sign in enumerate(key, 1) if not "!" <= sign <= "~"), None)
    if wrong is not None:
        raise UserError(
            f"the key in the environment variable {config.api_key_env} has a character, number {wrong}, that no header "
            "can hold (a curly quote or a space, say); copy it again"
        )
    return key


@contextmanager
def open_teacher(config: TeacherConfig, *, engine: Engine = "local", folder: Path | None = None) -> Iterator[Chat]:
    """Connect to the teacher, starting its server where the config says so; the server ends with the block.

    `folder` is the run's: the batch engine keeps there which batches are under way.

    Raises:
        UserError: no key where one is named, a server that does not start, or a remote endpoint in a run that is under
            a use agreement.
    """
    from medsmith.serve import local_server

    if engine in ("local", "batch") and importlib.util.find_spec("openai") is None:
        raise UserError("a teacher needs the package openai; install medsmith with its extra: 'medsmith[generate]'")
    with ExitStack() as stack:
        base_url = config.base_url
        if base_url is None and config.serve is None and engine in ("local", "batch"):
            raise UserError(f"engine={engine} needs teacher.base_url or teacher.serve; with neither, set engine=vllm")
        if config.serve is not None and engine != "vllm":
            base_url = stack.enter_context(local_server(config.serve, config.serve_timeout_seconds))
        chat = _build_chat(base_url, config, engine, folder)
        if isinstance(chat, MeteredChat):
            chat.refuse_remote()
        yield chat


@contextmanager
def open_teachers(
    configs: Sequence[TeacherConfig],
    *,
    engine: Engine = "local",
    folder: Path | None = None,
) -> Iterator[Chat]:
    """Connect to several teachers at once; each answers the requests that `config.request` of its own config made.

    Raises:
        UserError: two teachers that cannot be told apart, or what `open_teacher` raises.
    """
    names = [config.name for config in configs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two teachers are both '{twice}'; give each its own model or extra_body, or name it once")
    with ExitStack() as stack:
        lanes = {
            config.name: Lane(
                stack.enter_context(open_teacher(config, engine=engine, folder=folder)),
                config.concurrency,
            )
            for config in configs
        }
        yield Teachers(lanes) if len(lanes) > 1 else next(iter(lanes.values())).chat


def _build_chat(base_url: str | None, config: TeacherConfig, engine: Engine, folder: Path | None) -> Chat:
    if engine == "local":
        from medsmith.openai_chat import OpenAIChat

        assert base_url is not None, "the validator asks for one of base_url and serve"
        return OpenAIChat(base_url, config)
    if engine == "batch":
        from medsmith.openai_batch import BatchChat

        assert base_url is not None and folder is not None, "the batch engine keeps what is under way in the run folder"
        return BatchChat(base_url, config, folder)
    if engine == "vllm":
        from medsmith.vllm_chat import VllmChat

        return VllmChat(config)
    from medsmith.ray_chat import RayChat

    return RayChat(base_url, config)
