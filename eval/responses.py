"""Ask a model everything once: answers are kept, by all that decides them.

The key of an answer holds the fingerprint (of engine, weights, tokenizer and template), the rendered prompt, and how it
is answered. So scoring again is free, and other weights under the same path find nothing. A batch is one line of the
journal: a kill leaves all of it or nothing, and as batches are composed from all questions, not from those still open,
a continued run computes the very numbers of an unbroken one.

With a store, answers are also taken from every earlier run that had the same store, one by one. Then a batch may be
asked in part, among fewer neighbours than at first, and a likelihood may differ in the last of its five digits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.progress import Bar
from medsmith.records import content_id, to_line

if TYPE_CHECKING:
    from eval.engine import Engine

Answer = dict[str, Any]


class BatchSize(NamedTuple):
    """The most that is asked at once. One item is asked however long it is."""

    rows: int
    tokens: int


LOCAL = BatchSize(64, 32_768)
"""For an engine that computes a batch as one."""

BULK = BatchSize(1024, 2**62)
"""For an engine that arranges its work itself: it wants many at once. A kill costs a batch at most."""


@dataclass
class Responses:
    """An engine with its journal and, where there is one, the store that runs share."""

    engine: Engine
    journal: Journal
    size: BatchSize = LOCAL
    store: Path | None = None
    known: dict[str, Answer] = field(init=False)
    """All answers by their keys."""

    def __post_init__(self) -> None:
        """Read what was answered before."""
        self._own = dict(_answers_of(self.journal.rows.values()))
        # A folder for each model, so that those of models that are gone can be removed.
        self._shelf = None if self.store is None else self.store / self.engine.fingerprint
        self.reused = 0
        self._shard = f"{time.time_ns()}-{os.getpid()}.jsonl"
        self.known = ({} if self._shelf is None else dict(_answers_of(read_store(self._shelf)))) | self._own

    def write(self, prompts: Sequence[str], encoded: Sequence[list[int]], max_new_tokens: int, bar: Bar) -> list[Any]:
        """Rows {text, tokens, finish} that continue the prompts, in their order."""
        keys = [self._key("write", prompt, max_new_tokens) for prompt in prompts]

        def answer(indices: list[int]) -> list[Answer]:
            replies = self.engine.write([encoded[index] for index in indices], max_new_tokens)
            return [reply._asdict() for reply in replies]

        return self._all(keys, [len(ids) + max_new_tokens for ids in encoded], answer, bar)

    def choose(self, prompts: Sequence[str], items: Sequence[Any], lengths: Sequence[int], bar: Bar) -> list[Any]:
        """Rows {logprobs, tokens} for the options of ChoiceItems, in their order."""
        keys = [self._key("choose", prompt, item.options) for prompt, item in zip(prompts, items, strict=True)]

        def answer(indices: list[int]) -> list[Answer]:
            scores = self.engine.choose([items[index] for index in indices])
            return [{"logprobs": [round(p, 5) for p in s.logprobs], "tokens": s.tokens} for s in scores]

        return self._all(keys, lengths, answer, bar)

    def read(self, texts: Sequence[str], lengths: Sequence[int], window: int, bar: Bar) -> list[Any]:
        """Rows {nll, tokens, bytes} of texts, in their order."""
        keys = [self._key("read", text, window) for text in texts]

        def answer(indices: list[int]) -> list[Answer]:
            scores = self.engine.read([texts[index] for index in indices], window)
            return [{"nll": round(s.nll, 4), "tokens": s.tokens, "bytes": s.bytes} for s in scores]

        return self._all(keys, lengths, answer, bar)

    def _key(self, *parts: Any) -> str:
        return content_id(self.engine.fingerprint, *parts)

    def _all(
        self, keys: list[str], lengths: Sequence[int], answer: Callable[[list[int]], list[Answer]], bar: Bar
    ) -> list[Answer]:
        self.reused += sum(key in self.known for key in keys)
        for indices in batches(lengths, self.size):
            asked = list({keys[index]: index for index in indices if keys[index] not in self.known}.values())
            if asked:
                self._keep({keys[index]: row for index, row in zip(asked, answer(asked), strict=True)}, share=True)
            found = {keys[index]: self.known[keys[index]] for index in indices if keys[index] not in self._own}
            if found:
                # The folder of a run is complete by itself, whatever becomes of the store.
                self._keep(found, share=False)
            bar.advance(len(indices))
        return [self.known[key] for key in keys]

    def _keep(self, answers: dict[str, Answer], *, share: bool) -> None:
        self._own |= answers
        self.known |= answers
        # A call that failed counts as empty in this result; the next run makes it again.
        kept = {key: row for key, row in answers.items() if row.get("finish") != "failed"}
        line = {"id": content_id(*kept), "answers": kept}
        if kept:
            self.journal.append(line)
        if kept and share and self._shelf is not None:
            self._shelf.mkdir(parents=True, exist_ok=True)
            with (self._shelf / self._shard).open("ab", buffering=0) as shard:
                shard.write(to_line(line))


def read_store(shelf: Path) -> Iterator[dict[str, Any]]:
    """The lines of every run that has written to a folder of a store.

    Each run writes a file of its own, so that runs need not wait for one another; the last line of one that is still
    being written, or was killed, may be torn, and is passed over.
    """
    for file in sorted(shelf.glob("*.jsonl")):
        *whole, _ = file.read_bytes().split(b"\n")
        for number, line in enumerate(whole, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise UserError(f"{file} line {number}: not an answer; remove that line and run again") from None


def _answers_of(lines: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Answer]]:
    for line in lines:
        yield from line.get("answers", {}).items()


def batches(lengths: Sequence[int], size: BatchSize = LOCAL) -> Iterator[list[int]]:
    """Indices in batches of like length, the longest first: what does not fit into memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        rows = max(1, min(size.rows, size.tokens // max(1, lengths[order[0]])))
        yield order[:rows]
        order = order[rows:]


def fit(engine: Engine, messages: list[dict[str, str]], room: int) -> list[dict[str, str]] | None:
    """The conversation with the middle of its last turn cut out so that it fits into `room` tokens.

    The beginning and the end stay, as they hold the question in most layouts. None where nothing would be left.
    """
    *before, last = messages
    text = last["content"]

    def cut(kept: int) -> list[dict[str, str]]:
        head, tail = text[: kept - kept // 2], text[len(text) - kept // 2 :]
        return [*before, {**last, "content": f"{head}\n[…]\n{tail}"}]

    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if len(engine.encode([cut(middle)])[0]) <= room:
            low = middle
        else:
            high = middle - 1
    return cut(low) if low else None
