"""What the compiled loops and those who call them agree on."""

from __future__ import annotations

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
"""Kinds of storage."""

BLOCK = 2048
"""Elements at a time: five experts' changes of a block stay in the second-level cache."""

BINS = 32768
"""One for each exponent and the first seven bits of the mantissa: the upper half of a magnitude's bits."""

ALL = 0x7FFFFFFF
"""A magnitude's bits that no finite number has: a cut there keeps everything below."""

EXPONENT = 0x7F800000
"""The exponent's bits of a float32: all set where a number is not finite."""


def scratch_words(experts: int) -> int:
    """The 32-bit words that a loop over so many experts wants to be lent."""
    return max((experts + 4) * BLOCK, 2 * BLOCK + 2 * BINS)
