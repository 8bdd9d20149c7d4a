"""The arithmetic of merging in fused native loops: read half precision, compute in float32, write half precision.

Source of what native.py compiles and calls: this module is imported only where that has not been done yet. Every
function works on one tensor that lies flat at an address (a memory map of a file, or a model's parameter), block by
block in memory that the caller lends (`scratch`), so that nothing is allocated and nothing of a tensor's size is ever
held. Arguments are whole numbers, addresses among them, and floats, so that the compiled code needs no interpreter.

Kinds of storage: 0 float32, 1 bfloat16, 2 float16. Magnitudes are compared as the bits of a float32 without its sign,
which order like the numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from merge_recipes.layout import ALL, BFLOAT16, BINS, BLOCK, EXPONENT, FLOAT32

_jit = njit(nogil=True, error_model="numpy")
# Reassociation lets sums be vectorised; they are kept in float64, where the order of terms is beyond float32.
_jit_sums = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})


def _pointer_to(kind: Any) -> Any:
    """A function of compiled code that takes an address for a pointer to such numbers."""

    @intrinsic
    def cast(typingctx: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), code

    return cast


_as_u16 = _pointer_to(types.uint16)
_as_u32 = _pointer_to(types.uint32)
_as_i64 = _pointer_to(types.int64)
_as_f64 = _pointer_to(types.float64)


@_jit
def _block(scratch: int, number: int) -> Any:
    """The lent memory's block of that number, as 32-bit words."""
    return carray(_as_u32(scratch + 4 * BLOCK * number), BLOCK)


@_jit
def _load(address: int, kind: int, start: int, count: int, bits: Any) -> int:
    """Read `count` elements as the bits of float32; 1 where one of them is not finite, else 0."""
    worst = np.uint32(0)
    if kind == FLOAT32:
        words = carray(_as_u32(address + 4 * start), count)
        for i in range(count):
            word = words[i]
            bits[i] = word
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
    elif kind == BFLOAT16:
        halves = carray(_as_u16(address + 2 * start), count)
        for i in range(count):
            word = np.uint32(np.uint32(halves[i]) << np.uint32(16))
            bits[i] = word
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
    else:
        halves = carray(_as_u16(address + 2 * start), count)
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


@_jit
def _store(address: int, kind: int, start: int, count: int, bits: Any) -> int:
    """Round the float32 in `bits` to the kind, to nearest and ties to even; 1 where a result is not finite, else 0."""
    worst = np.uint32(0)
    if kind == FLOAT32:
        words = carray(_as_u32(address + 4 * start), count)
        for i in range(count):
            words[i] = bits[i]
            worst = max(worst, np.uint32(bits[i] & np.uint32(EXPONENT)))
    elif kind == BFLOAT16:
        halves = carray(_as_u16(address + 2 * start), count)
        for i in range(count):
            word = bits[i]
            # Both are looked at: a NaN may round to the bits of a number, a large number to those of an infinity.
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
            word = np.uint32(word + np.uint32(0x7FFF) + np.uint32((word >> np.uint32(16)) & np.uint32(1)))
            worst = max(worst, np.uint32(word & np.uint32(EXPONENT)))
            halves[i] = np.uint16(word >> np.uint32(16))
    else:
        halves = carray(_as_u16(address + 2 * start), count)
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


@_jit
def _load_change(
    base: int, base_kind: int, address: int, kind: int, start: int, count: int, below: Any, bits: Any
) -> int:
    """Read an expert's change, expert - base, as the bits of float32. Without a base (0): the expert itself.

    Returns what is not finite: 1 in the expert, 2 in the base, 3 in both.
    """
    bad = _load(address, kind, start, count, bits)
    if base != 0:
        bad |= 2 * _load(base, base_kind, start, count, below)
        values, origin = bits.view(np.float32), below.view(np.float32)
        for i in range(count):
            values[i] = values[i] - origin[i]
    return bad


@_jit_sums
def gram(
    base: int,
    base_kind: int,
    experts: int,
    at: int,
    kinds_at: int,
    size: int,
    products_at: int,
    flaws_at: int,
    scratch: int,
) -> int:
    """Every pairwise scalar product of the experts' changes (without a base: of the experts), summed in float64.

    `products` (experts x experts, float64) is filled. `flaws[j]` counts the blocks of expert j in which a number is not
    finite, the last place of `flaws` those of the base.
    """
    addresses, kinds = carray(_as_i64(at), experts), carray(_as_i64(kinds_at), experts)
    products, flaws = carray(_as_f64(products_at), experts * experts), carray(_as_i64(flaws_at), experts + 1)
    below = _block(scratch, experts)
    for j in range(experts * experts):
        products[j] = 0.0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        for j in range(experts):
            bits = _block(scratch, j)
            bad = _load_change(base, base_kind, addresses[j], kinds[j], start, count, below, bits)
            flaws[j] += bad & 1
            flaws[experts] += bad >> 1
        for j in range(experts):
            left = _block(scratch, j).view(np.float32)
            for k in range(j, experts):
                right = _block(scratch, k).view(np.float32)
                total = 0.0
                for i in range(count):
                    total += np.float64(left[i]) * np.float64(right[i])
                products[j * experts + k] += total
    for j in range(experts):
        for k in range(j):
            products[j * experts + k] = products[k * experts + j]
    return 0


@_jit
def combine(
    base: int,
    base_kind: int,
    experts: int,
    at: int,
    kinds_at: int,
    weights_at: int,
    divisor: float,
    scale: float,
    size: int,
    out: int,
    out_kind: int,
    flaws_at: int,
    scratch: int,
) -> int:
    """base + scale * (sum of weights * changes) / divisor; without a base the sum runs over the experts themselves.

    Weights, divisor and scale are rounded to float32 first, in which everything is computed; a divisor or scale of
    one costs nothing. Returns in how many blocks a result is not finite; `flaws` as in `gram`.
    """
    addresses, kinds = carray(_as_i64(at), experts), carray(_as_i64(kinds_at), experts)
    weights, flaws = carray(_as_f64(weights_at), experts), carray(_as_i64(flaws_at), experts + 1)
    bits, below, total_bits = _block(scratch, 0), _block(scratch, 1), _block(scratch, 2)
    values, origin, total = bits.view(np.float32), below.view(np.float32), total_bits.view(np.float32)
    bad = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        if base != 0:
            flaws[experts] += _load(base, base_kind, start, count, below)
        for j in range(experts):
            flaws[j] += _load(addresses[j], kinds[j], start, count, bits)
            weight = np.float32(weights[j])
            if base != 0:
                for i in range(count):
                    values[i] = values[i] - origin[i]
            if j == 0:
                for i in range(count):
                    total[i] = weight * values[i]
            else:
                for i in range(count):
                    total[i] = total[i] + weight * values[i]
        if divisor != 1.0:
            for i in range(count):
                total[i] = total[i] / np.float32(divisor)
        if scale != 1.0:
            for i in range(count):
                total[i] = total[i] * np.float32(scale)
        if base != 0:
            for i in range(count):
                total[i] = origin[i] + total[i]
        bad += _store(out, out_kind, start, count, total_bits)
    return bad


@_jit
def histogram(base: int, base_kind: int, address: int, kind: int, size: int, counts_at: int, scratch: int) -> int:
    """Count the changes by the upper half of their magnitude's bits into `counts` (BINS, int64).

    Returns what is not finite, as `_load_change` does.
    """
    counts = carray(_as_i64(counts_at), BINS)
    bits, below = _block(scratch, 0), _block(scratch, 1)
    # Two tables by turns: equal magnitudes that follow one another would wait for each other's sum.
    even = carray(_as_u32(scratch + 8 * BLOCK), BINS)
    odd = carray(_as_u32(scratch + 8 * BLOCK + 4 * BINS), BINS)
    for k in range(BINS):
        even[k] = 0
        odd[k] = 0
    bad = 0
    pending = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        bad |= _load_change(base, base_kind, address, kind, start, count, below, bits)
        for i in range(count):
            bits[i] = np.uint32((bits[i] & np.uint32(ALL)) >> np.uint32(16))
        for i in range(0, count - 1, 2):
            even[bits[i]] += np.uint32(1)
            odd[bits[i + 1]] += np.uint32(1)
        if count % 2:
            even[bits[count - 1]] += np.uint32(1)
        pending += count
        if pending > 2**31:  # before 32 bits can overflow
            for k in range(BINS):
                counts[k] += even[k] + odd[k]
                even[k] = 0
                odd[k] = 0
            pending = 0
    for k in range(BINS):
        counts[k] += np.int64(even[k]) + np.int64(odd[k])
    return bad


@_jit
def magnitudes(base: int, base_kind: int, address: int, kind: int, size: int, sizes_at: int, scratch: int) -> int:
    """Write the bits of every change's magnitude to `sizes` (32-bit words, one an element).

    Returns what is not finite, as `_load_change` does.
    """
    bits, below = _block(scratch, 0), _block(scratch, 1)
    bad = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        bad |= _load_change(base, base_kind, address, kind, start, count, below, bits)
        sizes = carray(_as_u32(sizes_at + 4 * start), count)
        for i in range(count):
            sizes[i] = np.uint32(bits[i] & np.uint32(ALL))
    return bad


@_jit
def refine(
    base: int,
    base_kind: int,
    address: int,
    kind: int,
    size: int,
    low: int,
    high: int,
    low_at: int,
    high_at: int,
    scratch: int,
) -> int:
    """Within the bins `low` and `high` of the histogram, count by the lower half of the bits (65,536 counts each)."""
    low_counts, high_counts = carray(_as_i64(low_at), 65536), carray(_as_i64(high_at), 65536)
    bits, below = _block(scratch, 0), _block(scratch, 1)
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        _load_change(base, base_kind, address, kind, start, count, below, bits)
        # Gathered without a branch, which a processor could not foresee.
        found = 0
        for i in range(count):
            magnitude = np.uint32(bits[i] & np.uint32(ALL))
            top = np.uint32(magnitude >> np.uint32(16))
            below[found] = magnitude
            found += np.intp((top == np.uint32(low)) | (top == np.uint32(high)))
        for i in range(found):
            if np.uint32(below[i] >> np.uint32(16)) == np.uint32(low):
                low_counts[below[i] & np.uint32(0xFFFF)] += 1
            else:
                high_counts[below[i] & np.uint32(0xFFFF)] += 1
    return 0


@_jit
def locate(
    base: int, base_kind: int, address: int, kind: int, size: int, magnitude: int, wanted: int, scratch: int
) -> int:
    """The place behind the `wanted`-th change of just this magnitude: those before it are kept, those from it not."""
    if wanted <= 0:
        return 0
    bits, below = _block(scratch, 0), _block(scratch, 1)
    seen = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        _load_change(base, base_kind, address, kind, start, count, below, bits)
        here = 0
        for i in range(count):
            here += np.int32((bits[i] & np.uint32(ALL)) == np.uint32(magnitude))
        if seen + here >= wanted:
            for i in range(count):
                seen += np.int32((bits[i] & np.uint32(ALL)) == np.uint32(magnitude))
                if seen == wanted:
                    return start + i + 1
        seen += here
    return size


@_jit
def _mix(number: Any) -> Any:
    """A 32-bit hash in which every bit of the input reaches every bit of the output (the finaliser of MurmurHash3)."""
    h = np.uint32(number)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@_jit
def _mask(bits: Any, start: int, count: int, cut: Any, key: int) -> None:
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


@_jit_sums
def norms(
    base: int, base_kind: int, address: int, kind: int, size: int, cut_at: int, key: int, sums_at: int, scratch: int
) -> int:
    """The sum of absolute changes before and after a cut into `sums`, and how many are kept; float64.

    Returns what is not finite, as `_load_change` does.
    """
    cut, sums = carray(_as_i64(cut_at), 5), carray(_as_f64(sums_at), 3)
    bits, below = _block(scratch, 0), _block(scratch, 1)
    values = bits.view(np.float32)
    bad = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        bad |= _load_change(base, base_kind, address, kind, start, count, below, bits)
        total = 0.0
        for i in range(count):
            total += np.float64(abs(values[i]))
        sums[0] += total
        _mask(bits, start, count, cut, key)
        total = 0.0
        kept = 0
        for i in range(count):
            total += np.float64(abs(values[i]))
            kept += np.int32((bits[i] & np.uint32(ALL)) != np.uint32(0))
        sums[1] += total
        sums[2] += kept
    return bad


@_jit
def sparse(
    base: int,
    base_kind: int,
    experts: int,
    at: int,
    kinds_at: int,
    weights_at: int,
    scales_at: int,
    cuts_at: int,
    keys_at: int,
    elect: int,
    normalize: int,
    scale: float,
    size: int,
    out: int,
    out_kind: int,
    flaws_at: int,
    scratch: int,
) -> int:
    """base + scale * (sum of weights * scales * what the cuts leave of the changes), by elected signs where asked.

    `cuts` (experts x 5, int64): mode 0 keeps all; 1 keeps magnitudes between two cuts: above the bits [1], or just
    there and before the place [2], and below the bits [3], or just there and before [4]; 2 keeps where a drawn 32-bit
    number is at most [1]; 3 keeps nothing. `elect`: only terms with the sign of their sum (a sum of zero is
    positive) count. `normalize`: divide by the sum of the weights, of the terms that count where signs are elected.
    """
    addresses, kinds = carray(_as_i64(at), experts), carray(_as_i64(kinds_at), experts)
    weights, scales = carray(_as_f64(weights_at), experts), carray(_as_f64(scales_at), experts)
    cuts, keys = carray(_as_i64(cuts_at), 5 * experts), carray(_as_i64(keys_at), experts)
    flaws = carray(_as_i64(flaws_at), experts + 1)
    below, total_bits = _block(scratch, experts), _block(scratch, experts + 1)
    chosen, divisor = _block(scratch, experts + 2).view(np.float32), _block(scratch, experts + 3).view(np.float32)
    origin, total = below.view(np.float32), total_bits.view(np.float32)
    whole = 0.0
    for j in range(experts):
        whole += weights[j]
    if abs(whole) < 1e-8:
        whole = 1.0
    bad = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        flaws[experts] += _load(base, base_kind, start, count, below)
        for j in range(experts):
            bits = _block(scratch, j)
            values = bits.view(np.float32)
            flaws[j] += _load(addresses[j], kinds[j], start, count, bits)
            for i in range(count):
                values[i] = values[i] - origin[i]
            _mask(bits, start, count, cuts[5 * j : 5 * j + 5], keys[j])
            if scales[j] != 1.0:
                for i in range(count):
                    values[i] = values[i] * np.float32(scales[j])
            weight = np.float32(weights[j])
            if j == 0:
                for i in range(count):
                    values[i] = values[i] * weight
                    total[i] = values[i]
            else:
                for i in range(count):
                    values[i] = values[i] * weight
                    total[i] = total[i] + values[i]
        if elect:
            for i in range(count):
                chosen[i] = np.float32(0.0)
                divisor[i] = np.float32(0.0)
            for j in range(experts):
                values = _block(scratch, j).view(np.float32)
                weight = np.float32(weights[j])
                for i in range(count):
                    value = values[i]
                    agrees = ((value > 0) & (total[i] >= 0)) | ((value < 0) & (total[i] < 0))
                    chosen[i] = chosen[i] + (value if agrees else np.float32(0.0))
                    divisor[i] = divisor[i] + (weight if agrees else np.float32(0.0))
            if normalize:
                for i in range(count):
                    below_line = divisor[i] if divisor[i] != 0 else np.float32(1.0)
                    total[i] = chosen[i] / below_line
            else:
                for i in range(count):
                    total[i] = chosen[i]
        elif normalize:
            for i in range(count):
                total[i] = total[i] / np.float32(whole)
        if scale != 1.0:
            for i in range(count):
                total[i] = total[i] * np.float32(scale)
        for i in range(count):
            total[i] = origin[i] + total[i]
        bad += _store(out, out_kind, start, count, total_bits)
    return bad


LOOPS = (gram, combine, histogram, magnitudes, refine, locate, norms, sparse)
"""What native.py compiles; the annotations of their arguments are their types: int of 64 bits, float of 64."""
