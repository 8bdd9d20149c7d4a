"""What `eval.run` asks of a model, however it is run: prompts in, texts and likelihoods out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from medsmith.likelihood import ChoiceItem, DocumentScore, OptionScores


class Reply(NamedTuple):
    """What a model wrote, how many tokens it is, and why it ended: "stop", "length", or "failed" (nothing came)."""

    text: str
    tokens: int
    finish: str


class Engine(Protocol):
    """A model. Everything is deterministic; equal fingerprints answer alike."""

    @property
    def fingerprint(self) -> str:
        """Of all that decides the answers."""

    @property
    def context(self) -> int:
        """The longest sequence, prompt and answer together."""

    def encode(self, messages: Sequence[Sequence[dict[str, str]]]) -> list[list[int]]:
        """Token ids of conversations, up to the opening of the assistant's turn."""

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""

    def begin_tokens(self, ids: list[int]) -> int:
        """How many beginning-of-text tokens a prompt opens with: one or none; two would change what a model says."""

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has."""

    def write(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        """Continue a batch of prompts."""

    def choose(self, items: list[ChoiceItem]) -> list[OptionScores]:
        """Score the options of a batch of items."""

    def read(self, texts: list[str], window: int) -> list[DocumentScore]:
        """Score a batch of texts."""


@runtime_checkable
class RemoteEngine(Protocol):
    """An engine that may send what it is asked to another machine, and may cost money."""

    def usage(self) -> dict[str, Any]:
        """Calls, tokens and cost."""
