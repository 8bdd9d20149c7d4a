"""Rows answered anew by a model, in this process or behind an endpoint; every call is kept in a journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from align import rows as select
from medsmith.chat import Chat, ChatRequest, chat_request
from medsmith.journal import Journal
from medsmith.llm import Engine, Summary, TeacherConfig, open_teacher, run_calls
from medsmith.records import Instruction


class Answers(NamedTuple):
    """By row: whole texts (one that was cut is none), how many there were to be, and why a call failed."""

    texts: list[str]
    cut: int
    error: str | None


@dataclass(frozen=True)
class Speaker:
    """A chat model, how a request to it is made, and how many calls it takes at once."""

    chat: Chat
    request: Callable[..., ChatRequest]
    concurrency: int


@contextmanager
def open_speaker(
    model: str | Path | None,
    server: TeacherConfig | None,
    folder: Path,
    engine: Engine,
    *,
    top_p: float = 1.0,
    dtype: str = "float32",
    device: str = "auto",
) -> Iterator[Speaker]:
    """The model that answers: `model` in this process, else `server`.

    Raises:
        UserError: as LocalChat and open_teacher do.
    """
    if model is not None:
        from medsmith.local_chat import LocalChat

        chat = LocalChat(model, top_p=top_p, dtype=dtype, device=device)

        def request(messages: Any, **settings: Any) -> ChatRequest:
            return chat_request(chat.name, messages, **settings)

        yield Speaker(chat, request, 1)
        return
    assert server is not None, "one of model and server is given"
    with open_teacher(server, engine=engine, folder=folder) as remote:
        yield Speaker(remote, server.request, server.concurrency)


def answer_rows(
    rows: Sequence[Instruction],
    speaker: Speaker,
    journal: Journal,
    *,
    samples: int,
    temperature: float,
    max_tokens: int,
    allow_failed: float,
    seed: int = 0,
    refusals: bool = True,
) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Whole answers to each row by its id, and the usage of all calls.

    `refusals=False` for a teacher, whose answers are trained on: an answer that declines is none.

    Raises:
        UserError: more than `allow_failed` of the calls have no answer.
    """
    asked = {
        row.id: speaker.request(
            select.prompt(row), temperature=temperature, max_tokens=max_tokens, n=samples, sample=seed
        )
        for row in rows
    }
    calls = run_calls(list(asked.values()), speaker.chat, journal, speaker.concurrency, "answers", refusals=refusals)
    usage = Summary.of(calls.values())
    usage.refuse_silence(allow_failed)
    found = {}
    for key, request in asked.items():
        call = calls[request.id]
        texts = call["texts"] or []
        ends = call["finish"] or ["stop"] * len(texts)
        whole = [text for text, why in zip(texts, ends, strict=True) if why != "length" and text.strip()]
        found[key] = Answers(whole, len(texts) - len(whole), call["error"])
    return found, usage.facts()
