"""What every merge loop does with a block of elements: read it, make it a change, drop from it, write it.

Compiled into the loops of kernels.py, and imported by nobody else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from merge_recipes.layout import ALL, BFLOAT16, BLOCK, EXPONENT, FLOAT32

jit = njit(nogil=True, error_model="numpy")
# Reassociation lets sums be vectorised; they are kept in float64, where the order of terms is beyond float32.
jit_sums = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})


def _pointer_to(kind: Any) -> Any:
    """A function of compiled code that takes an address for a pointer to such numbers."""

    @intrinsic
    def cast(typingctx: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), code

    return cast


as_u16 = _pointer_to(types.uint16)
as_u32 = _pointer_to(types.uint32)
as_i64 = _pointer_to(types.int64)
as_f64 = _pointer_to(types.float64)


@intrinsic
def as_float(typingctx: Any, word: Any) -> Any:
    """A 32-bit word as the float32 of these bits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


@jit
def block(scratch: int, number: int) -> Any:
    """The lent memory's block of that number, as 32-bit words."""
    return carray(as_u32(scratch + 4 * BLOCK * number), BLOCK)


@jit
def load(address: int, kind: int, start: int, count: int, bits: Any) -> int:
    """Read `count` elements as the bits of float32; 1 where one of them is not finite, else 0."""
    worst = np.uint32(0)
    if kind == FLOAT32:
        words = carray(as_u32(address + 4 * start), count)
        for i in range(count):
            word = words[i]
            bits[i] = word
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
    elif kind == BFLOAT16:
        halves = carray(as_u16(address + 2 * start), count)
        for i in range(count):
            word = np.uint32(np.uint32(halves[i]) << np.uint32(16))
            bits[i] = word
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
    else:
        halves = carray(as_u16(address + 2 * start), count)
        values = bits.view(np.float32)
        for i in range(count):
            half = np.uint32(halves[i])
            # Exponent and mantissa moved into place, then scaled by 2^112: right for subnormal numbers too.
            bits[i] = np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13))
            endless = (half & np.uint32(0x7C00)) == np.uint32(0x7C00)
            worst = max(worst, np.uint32(EXPONENT) if endless else np.uint32(0))
        for i in range(count):
            values[i] = values[i] * np.float32(5.192296858534828e33)
        for i in range(count):
            bits[i] = bits[i] | np.uint32((np.uint32(halves[i]) & np.uint32(0x8000)) << np.uint32(16))
    return 1 if worst >= np.uint32(EXPONENT) else 0


@jit
def store(address: int, kind: int, start: int, count: int, bits: Any) -> int:
    """Round the float32 in `bits` to the kind, to nearest and ties to even; 1 where a result is not finite, else 0."""
    worst = np.uint32(0)
    if kind == FLOAT32:
        words = carray(as_u32(address + 4 * start), count)
        for i in range(count):
            words[i] = bits[i]
            worst = max(worst, np.uint32(bits[i] & np.uint32(EXPONENT)))
    elif kind == BFLOAT16:
        halves = carray(as_u16(address + 2 * start), count)
        for i in range(count):
            word = bits[i]
            # Both are looked at: a NaN may round to the bits of a number, a large number to those of an infinity.
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
            word = np.uint32(word + np.uint32(0x7FFF) + np.uint32((word >> np.uint32(16)) & np.uint32(1)))
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
            halves[i] = np.uint16(word >> np.uint32(16))
    else:
        halves = carray(as_u16(address + 2 * start), count)
        values = bits.view(np.float32)
        for i in range(count):
            word = bits[i]
            sign = np.uint32((word >> np.uint32(16)) & np.uint32(0x8000))
            size = np.uint32(word & np.uint32(ALL))
            odd = np.uint32((size >> np.uint32(13)) & np.uint32(1))
            normal = np.uint32(np.uint32(size - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13))
            # Below 2^-14 a half counts in steps of 2^-24.
            small = np.uint32(np.rint(min(abs(values[i]), np.float32(1.0)) * np.float32(16777216.0)))
            chosen = small if size < np.uint32(0x38800000) else normal
            chosen = chosen if size < np.uint32(0x477FF000) else np.uint32(0x7C00)
            worst = max(worst, np.uint32(EXPONENT) if chosen >= np.uint32(0x7C00) else np.uint32(0))
            halves[i] = np.uint16(sign | chosen)
    return 1 if worst >= np.uint32(EXPONENT) else 0


@jit
def load_change(
    base: int, base_kind: int, address: int, kind: int, start: int, count: int, below: Any, bits: Any
) -> int:
    """Read an expert's change, expert - base, as the bits of float32. Without a base (0): the expert itself.

    Returns what is not finite: 1 in the expert, 2 in the base, 3 in both.
    """
    bad = load(address, kind, start, count, bits)
    if base != 0:
        bad |= 2 * load(base, base_kind, start, count, below)
        values, origin = bits.view(np.float32), below.view(np.float32)
        for i in range(count):
            values[i] = values[i] - origin[i]
    return bad


@jit
def _mix(number: Any) -> Any:
    """A 32-bit hash in which every bit of the input reaches every bit of the output (the finaliser of MurmurHash3)."""
    h = np.uint32(number)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@jit
def add_scaled(
    address: int, kind: int, start: int, count: int, weight: float, from_base: int, origin: Any, total: Any, bits: Any
) -> int:
    """total + weight * (what is stored - origin); without a base, of what is stored. 1 where it is not finite, else 0.

    In one pass for bfloat16, which is what models are stored in; others are read into `bits` first.
    """
    if kind != BFLOAT16:
        bad = load(address, kind, start, count, bits)
        values = bits.view(np.float32)
        for i in range(count):
            value = values[i] - origin[i] if from_base else values[i]
            total[i] = total[i] + np.float32(weight) * value
        return bad
    worst = np.uint32(0)
    halves = carray(as_u16(address + 2 * start), count)
    if from_base:
        for i in range(count):
            word = np.uint32(np.uint32(halves[i]) << np.uint32(16))
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
            total[i] = total[i] + np.float32(weight) * (as_float(word) - origin[i])
    else:
        for i in range(count):
            word = np.uint32(np.uint32(halves[i]) << np.uint32(16))
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
            total[i] = total[i] + np.float32(weight) * as_float(word)
    return 1 if worst >= np.uint32(EXPONENT) else 0


@jit
def add_two(
    first: int, second: int, start: int, count: int, one: float, two: float, from_base: int, origin: Any, total: Any
) -> int:
    """add_scaled for two in bfloat16 in one pass: plus 1 where the first is not finite, plus 2 where the second is."""
    worst, other = np.uint32(0), np.uint32(0)
    left, right = carray(as_u16(first + 2 * start), count), carray(as_u16(second + 2 * start), count)
    if from_base:
        for i in range(count):
            word = np.uint32(np.uint32(left[i]) << np.uint32(16))
            next_word = np.uint32(np.uint32(right[i]) << np.uint32(16))
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
            other = max(other, np.uint32(next_word & np.uint32(EXPONENT)))
            added = total[i] + np.float32(one) * (as_float(word) - origin[i])
            total[i] = added + np.float32(two) * (as_float(next_word) - origin[i])
    else:
        for i in range(count):
            word = np.uint32(np.uint32(left[i]) << np.uint32(16))
            next_word = np.uint32(np.uint32(right[i]) << np.uint32(16))
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
            other = max(other, np.uint32(next_word & np.uint32(EXPONENT)))
            added = total[i] + np.float32(one) * as_float(word)
            total[i] = added + np.float32(two) * as_float(next_word)
    return int(worst >= np.uint32(EXPONENT)) + 2 * int(other >= np.uint32(EXPONENT))


@jit
def mask(bits: Any, start: int, count: int, cut: Any, key: int) -> None:
    """Set to zero what a cut drops; see `sparse` for what a cut is. With its mode 2, draw instead of compare."""
    mode = cut[0]
    if mode == 0:
        return
    if mode == 1:
        low, high = np.uint32(cut[1]), np.uint32(cut[3])
        low_place = np.int32(min(max(cut[2] - start, 0), count))
        high_place = np.int32(min(max(cut[4] - start, 0), count))
        for i in range(count):
            size = np.uint32(bits[i] & np.uint32(ALL))
            place = np.int32(i)
            above = (size > low) | ((size == low) & (place < low_place))
            under = (size < high) | ((size == high) & (place < high_place))
            bits[i] = bits[i] if above & under else np.uint32(0)
        return
    if mode == 3:
        for i in range(count):
            bits[i] = np.uint32(0)
        return
    # The element's number and the key of tensor, model and seed decide alone: no order of threads or models matters.
    first = np.uint32(_mix(np.uint32(start >> 32)) ^ np.uint32(key & 0xFFFFFFFF))
    second = np.uint32(key >> 32)
    last = np.uint32(cut[1])
    for i in range(count):
        h = np.uint32(np.uint32(np.uint32(start) + np.uint32(i)) ^ first)
        h = np.uint32(h ^ (h >> np.uint32(16)))
        h = np.uint32(h * np.uint32(0x85EBCA6B) + second)
        h = np.uint32(h ^ (h >> np.uint32(13)))
        h = np.uint32(h * np.uint32(0xC2B2AE35))
        h = np.uint32(h ^ (h >> np.uint32(16)))
        bits[i] = bits[i] if h <= last else np.uint32(0)
