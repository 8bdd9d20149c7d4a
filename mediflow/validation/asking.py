"""The calls of validation sets: one prompt for a few questions of a topic, its repair, and what came of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mediflow.prompt import render, render_block
from mediflow.validation.candidates import (
    Broken,
    Candidate,
    Limits,
    Slot,
    is_asked_again,
    mend,
    read_reply,
    reply_schema,
)
from mediflow.validation.topics import Topic, variety
from medsmith.llm import ChatRequest
from medsmith.records import content_id
from medsmith.replies import cut_note

if TYPE_CHECKING:
    from mediflow.validation_sets import Config

Row = dict[str, Any]


@dataclass
class Entry:
    """One question that was asked for, or came unasked: as it was read, and why it was dropped."""

    topic: str
    call_id: str
    model: str | None
    slot: Slot
    reason: str | None = None
    detail: str = ""
    cluster: int | None = None
    mended: str | None = None
    """For what reason the first try could not be used, where the repair can."""

    def __post_init__(self) -> None:
        """What cannot be used is dropped from the start."""
        if isinstance(self.slot, Broken):
            self.reason, self.detail = self.slot.reason, self.slot.detail

    @property
    def candidate(self) -> Candidate:
        """The question; only of those that can be used."""
        assert isinstance(self.slot, Candidate), "a broken question is dropped from the start"
        return self.slot

    @property
    def id(self) -> str:
        """A hash of the question with its answer."""
        one = self.candidate
        return content_id(one.topic, one.context, one.question, one.right)

    def drop(self, reason: str, detail: str = "") -> None:
        """Say why it is not kept."""
        assert self.reason is None, f"dropped twice: {self.reason}, {reason}"
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Asked:
    """One call: so many questions of a topic."""

    topic: str
    number: int
    count: int


@dataclass
class Calls:
    """The calls of a run, all of them functions of the settings, so that a restart builds the same again."""

    config: Config
    topics: Mapping[str, Topic]
    ids: dict[str, Asked] = field(default_factory=dict)
    """The planned calls by the id of their request, in the order of the plan."""

    def planned(self) -> Iterator[Asked]:
        """Every call; a topic's last asks for what is left."""
        each, wanted = self.config.per_call, self.config.candidates
        for name in self.topics:
            for number in range(-(-wanted // each)):
                yield Asked(name, number, min(each, wanted - number * each))

    def requests(self) -> Iterator[ChatRequest]:
        """Their requests, in order."""
        for asked in self.planned():
            request = self._first(asked)
            assert request.id not in self.ids, "two calls have one id"
            self.ids[request.id] = asked
            yield request

    def follow_up(self, request: ChatRequest, row: Row) -> ChatRequest | None:
        """The repair of an answer that has faults; None for a repair, or where nothing is to be mended."""
        asked = self.ids.get(request.id)
        return self._repair(asked, row) if asked is not None and self.config.repair else None

    def entries(self, rows: Mapping[str, Row]) -> list[Entry]:
        """What came of every call, in the order of the plan, whatever the order of the answers."""
        return [entry for key, asked in self.ids.items() for entry in self._entries(asked, rows[key], rows)]

    def _entries(self, asked: Asked, row: Row, rows: Mapping[str, Row]) -> Iterator[Entry]:
        first = slots = self._read(asked.topic, asked.count, row)
        repair = self._repair(asked, row) if self.config.repair else None
        again = rows[repair.id] if repair is not None else None
        if again is not None and again["texts"] is not None:
            slots = mend(first, self._read(asked.topic, sum(map(is_asked_again, first)), again))
        for before, slot in zip(first, slots, strict=True):
            mended = before.reason if slot is not before and isinstance(before, Broken) else None
            yield Entry(asked.topic, row["id"], row["model"], slot, mended=mended)

    def _read(self, name: str, count: int, row: Row) -> list[Slot]:
        if row["texts"] is None:
            return [Broken("no_answer", row["error"] or "", "")] * count
        limits = Limits(self.config.options, self.config.context_words)
        return read_reply(row["texts"][0], name, self.topics[name], count, limits, cut_note(row))

    def _first(self, asked: Asked) -> ChatRequest:
        config, topic = self.config, self.topics[asked.topic]
        about = variety(asked.topic, asked.number, config.seed)
        least, most = config.context_words
        request = {
            "kind": "question",
            "topic": asked.topic,
            "questions": asked.count,
            "options": config.options,
            "about": about,
            # Two calls of a topic may be about the same, and the same words invite the same answer.
            "variant": asked.number,
        }
        shown = {"topic": topic, "count": asked.count, "options": config.options, "about": about}
        messages = render("question", request, least=least, most=most, **shown)
        return self._request(asked.topic, messages, {"topic": asked.topic, "number": asked.number})

    def _repair(self, asked: Asked, row: Row) -> ChatRequest | None:
        if row["texts"] is None:
            return None
        slots = self._read(asked.topic, asked.count, row)
        problems = [
            f"question {number}: {slot.detail}"
            for number, slot in enumerate(slots, 1)
            if isinstance(slot, Broken) and is_asked_again(slot)
        ]
        if not problems:
            return None
        messages = [
            *row["request"]["messages"],
            # Some endpoints refuse an empty assistant message.
            {"role": "assistant", "content": row["texts"][0] or "(nothing)"},
            {"role": "user", "content": render_block("question", "repair", problems=problems)},
        ]
        return self._request(asked.topic, messages, {"repairs": row["id"], "problems": problems})

    def _request(self, name: str, messages: list[dict[str, str]], about: dict[str, Any]) -> ChatRequest:
        config = self.config
        return config.teacher.request(
            messages,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            response_schema=reply_schema(self.topics[name], config.options) if config.structured else None,
            about=about,
        )
