"""What a model costs over its life, in floating-point operations: 6PT to train, 2PT to read and write.

P are parameters, T tokens. The counting of Lehman et al. (2023, "Do We Still Need Clinical Language Models?"): the
same notes are fewer tokens to a model whose vocabulary is clinical, so tokens of inference are counted in those of one
reference tokenizer, and a model needs `token_ratio` of its own for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

TRAINING, INFERENCE = 6, 2
"""Operations a parameter and token: forward is 2, forward and backward 6. Attention over the context is left out."""


@dataclass(frozen=True)
class Ledger:
    """One model. `trained_tokens` are its own tokenizer's."""

    name: str
    parameters: float
    trained_tokens: float
    token_ratio: float = 1.0

    @property
    def training_flops(self) -> float:
        """All training, pretraining and fine-tuning."""
        return TRAINING * self.parameters * self.trained_tokens

    @property
    def flops_per_token(self) -> float:
        """Inference on what is one token to the reference."""
        return INFERENCE * self.parameters * self.token_ratio

    def total_flops(self, inference_tokens: float) -> float:
        """Training and inference on so many tokens of the reference."""
        return self.training_flops + self.flops_per_token * inference_tokens

    def flops_for_notes(self, tokens_per_note: float, notes: float = 1) -> float:
        """Inference on notes of so many tokens of its own."""
        return INFERENCE * self.parameters * tokens_per_note * notes


class BreakEven(NamedTuple):
    """From how many inference tokens of the reference on `trained`, the dearer to train, is the cheaper in total.

    None: never, since it is no cheaper to run. 0: from the first token, since it is no dearer to train.
    """

    trained: str
    other: str
    tokens: float | None


def break_even(one: Ledger, another: Ledger) -> BreakEven:
    """Compare two models, in any order."""
    dear, other = sorted((one, another), key=lambda model: (-model.training_flops, model.flops_per_token, model.name))
    extra = dear.training_flops - other.training_flops
    saved = other.flops_per_token - dear.flops_per_token
    if saved <= 0:
        return BreakEven(dear.name, other.name, None)
    return BreakEven(dear.name, other.name, extra / saved)


def all_pairs(models: Sequence[Ledger]) -> Iterator[BreakEven]:
    """Every two models."""
    for one, another in combinations(models, 2):
        yield break_even(one, another)
