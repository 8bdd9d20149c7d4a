"""The tensors that are merged into one, where the result goes, and what a search remembers of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medsmith.errors import UserError
from merge_recipes.layout import BFLOAT16, FLOAT16, FLOAT32
from merge_recipes.weights import Tensor

KINDS = {"F32": FLOAT32, "BF16": BFLOAT16, "F16": FLOAT16}
"""Stored types that the loops read and write."""

Cut = tuple[int, int, int, int, int]
"""What is left of one expert's change in one tensor; see kernels.sparse."""


@dataclass
class Place:
    """Where a merged tensor goes: an address with room for `size` elements of a kind."""

    address: int
    kind: int


@dataclass(frozen=True)
class Ordered:
    """The magnitudes of a change in order, as bits: each once with how many there are up to it, or all of them.

    Of an expert in half precision few magnitudes differ, of one in float32 nearly all do.
    """

    values: np.ndarray[Any, np.dtype[np.uint32]]
    upto: np.ndarray[Any, np.dtype[np.int64]] | None

    @classmethod
    def of(cls, sizes: np.ndarray[Any, np.dtype[np.uint32]]) -> Ordered:
        """Sort the magnitudes, in place."""
        sizes.sort()
        last = np.flatnonzero(np.append(sizes[1:] != sizes[:-1], True))
        if 3 * len(last) < len(sizes):
            return cls(sizes[last], last + 1)
        return cls(sizes, None)

    def at(self, rank: int) -> tuple[int, int, int]:
        """(the magnitude's bits, how many are smaller, how many are just as large) of a rank."""
        if self.upto is not None:
            place = int(np.searchsorted(self.upto, rank, side="right"))
            smaller = int(self.upto[place - 1]) if place else 0
            return int(self.values[place]), smaller, int(self.upto[place]) - smaller
        value = self.values[rank]
        smaller = int(np.searchsorted(self.values, value, side="left"))
        return int(value), smaller, int(np.searchsorted(self.values, value, side="right")) - smaller


@dataclass
class Memo:
    """What one expert's change in one tensor was found to be, kept between the candidates of a search."""

    sizes: Ordered | None = None
    cuts: dict[tuple[float, float | None], Cut] = field(default_factory=dict)


@dataclass
class Inputs:
    """The tensors of one name: the base's, and the experts' in order of their names."""

    base_name: str
    base: Tensor
    experts: dict[str, Tensor]
    seed: int = 0
    memos: dict[str, Memo] | None = None
    """By expert; filled and read where a search keeps it."""

    def __post_init__(self) -> None:
        self.size = self.base.data.size
        self.base_address = self.base.data.ctypes.data
        self.base_kind = KINDS[self.base.dtype]
        self.names = sorted(self.experts)
        self.addresses = np.array([self.experts[name].data.ctypes.data for name in self.names], np.int64)
        self.kinds = np.array([KINDS[self.experts[name].dtype] for name in self.names], np.int64)
        self.flaws = np.zeros(len(self.names) + 1, np.int64)

    def source(self, expert: int) -> tuple[int, int, int, int, int]:
        """(base address, base kind, address, kind, size) of one expert's change."""
        return (self.base_address, self.base_kind, int(self.addresses[expert]), int(self.kinds[expert]), self.size)

    def note(self, expert: int, bad: int) -> None:
        """Take down what a pass over one expert's change found not finite; see blocks.load_change."""
        self.flaws[expert] += bad & 1
        self.flaws[-1] += bad >> 1
        self.require_finite()

    def require_finite(self) -> None:
        """UserError where a pass has met a number that is not finite, with the model's name."""
        for name, flaws in zip([*self.names, self.base_name], self.flaws, strict=True):
            if flaws:
                folder = (self.experts.get(name) or self.base).file.parent
                raise UserError(
                    f"'{name}': the weights '{self.base.name}' are not all finite ({folder}); make that model again"
                )
