"""Ask a model everything once: answers are kept in a journal, by all that decides them.

The key of an answer holds the fingerprint of weights, tokenizer and template, the rendered prompt, and how it is
answered. So a killed run repeats no finished batch, scoring again is free, and other weights under the same path find
nothing. Batches are composed from all questions, not from those still open: a continued run computes the very numbers
of an unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from medsmith.journal import Journal
from medsmith.progress import Bar
from medsmith.records import content_id

if TYPE_CHECKING:
    from eval.engine import Engine

BATCH_ROWS = 64
BATCH_TOKENS = 32_768

T = TypeVar("T")


@dataclass(frozen=True)
class Responses:
    """An engine with its journal."""

    engine: Engine
    journal: Journal
    rows: int = BATCH_ROWS
    """The most items of a batch."""

    def write(self, prompts: Sequence[str], encoded: Sequence[list[int]], max_new_tokens: int, bar: Bar) -> list[Any]:
        """Rows {text, tokens, finish} that continue the prompts, in their order."""
        keys = [self._key("write", prompt, max_new_tokens) for prompt in prompts]

        def answer(indices: list[int]) -> list[dict[str, Any]]:
            replies = self.engine.write([encoded[index] for index in indices], max_new_tokens)
            return [reply._asdict() for reply in replies]

        return self._all(keys, [len(ids) + max_new_tokens for ids in encoded], answer, bar)

    def choose(self, prompts: Sequence[str], items: Sequence[Any], lengths: Sequence[int], bar: Bar) -> list[Any]:
        """Rows {logprobs, tokens} for the options of ChoiceItems, in their order."""
        keys = [self._key("choose", prompt, item.options) for prompt, item in zip(prompts, items, strict=True)]

        def answer(indices: list[int]) -> list[dict[str, Any]]:
            scores = self.engine.choose([items[index] for index in indices])
            return [{"logprobs": [round(p, 5) for p in s.logprobs], "tokens": s.tokens} for s in scores]

        return self._all(keys, lengths, answer, bar)

    def read(self, texts: Sequence[str], lengths: Sequence[int], window: int, bar: Bar) -> list[Any]:
        """Rows {nll, tokens, bytes} of texts, in their order."""
        keys = [self._key("read", text, window) for text in texts]

        def answer(indices: list[int]) -> list[dict[str, Any]]:
            scores = self.engine.read([texts[index] for index in indices], window)
            return [{"nll": round(s.nll, 4), "tokens": s.tokens, "bytes": s.bytes} for s in scores]

        return self._all(keys, lengths, answer, bar)

    def _key(self, *parts: Any) -> str:
        return content_id(self.engine.fingerprint, *parts)

    def _all(
        self,
        keys: list[str],
        lengths: Sequence[int],
        answer: Callable[[list[int]], list[dict[str, Any]]],
        bar: Bar,
    ) -> list[Any]:
        for indices in batches(lengths, self.rows):
            if any(keys[index] not in self.journal.rows for index in indices):
                for index, row in zip(indices, answer(indices), strict=True):
                    self.journal.append({"id": keys[index], **row})
            bar.advance(len(indices))
        return [{name: value for name, value in self.journal.rows[key].items() if name != "id"} for key in keys]


def batches(lengths: Sequence[int], most: int = BATCH_ROWS) -> Iterator[list[int]]:
    """Indices in batches of like length, the longest first: what does not fit into memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        rows = max(1, min(most, BATCH_TOKENS // max(1, lengths[order[0]])))
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
