"""The arithmetic of merging in fused native loops: read half precision, compute in float32, write half precision.

Source of what native.py compiles and calls: this module is imported only where that has not been done yet. Every
function works on one tensor that lies flat at an address (a memory map of a file, or a model's parameter), block by
block in memory that the caller lends (`scratch`), so that nothing is allocated and nothing of a tensor's size is ever
held. Arguments are whole numbers, addresses among them, and floats, so that the compiled code needs no interpreter.

Kinds of storage: 0 float32, 1 bfloat16, 2 float16. Magnitudes are compared as the bits of a float32 without its sign,
which order like the numbers.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from merge_recipes.blocks import (
    add_scaled,
    add_two,
    as_f64,
    as_i64,
    as_u32,
    block,
    jit,
    jit_sums,
    load,
    load_change,
    mask,
    store,
)
from merge_recipes.layout import ALL, BFLOAT16, BINS, BLOCK


@jit_sums
def gram(
    base: int,
    base_kind: int,
    experts: int,
    at: int,
    kinds_at: int,
    size: int,
    wide: int,
    products_at: int,
    flaws_at: int,
    scratch: int,
) -> int:
    """Every pairwise scalar product of the experts' changes, or of the experts where there is no base (0).

    Summed in float64 over the blocks, and within a block too with `wide`: needed where changes may cancel one another
    and what is left is small. Without, in float32 in many lanes: right to some 1e-8 of the lengths, in half the time.
    `products` (experts x experts, float64) is filled. `flaws[j]` counts the blocks of expert j in which a number is not
    finite, the last place of `flaws` those of the base.
    """
    addresses, kinds = carray(as_i64(at), experts), carray(as_i64(kinds_at), experts)
    products, flaws = carray(as_f64(products_at), experts * experts), carray(as_i64(flaws_at), experts + 1)
    below = block(scratch, experts)
    origin = below.view(np.float32)
    for j in range(experts * experts):
        products[j] = 0.0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        if base != 0:
            flaws[experts] += load(base, base_kind, start, count, below)
        for j in range(experts):
            bits = block(scratch, j)
            flaws[j] += load(addresses[j], kinds[j], start, count, bits)
            if base != 0:
                values = bits.view(np.float32)
                for i in range(count):
                    values[i] = values[i] - origin[i]
        for j in range(experts):
            left = block(scratch, j).view(np.float32)
            for k in range(j, experts):
                right = block(scratch, k).view(np.float32)
                if wide:
                    total = 0.0
                    for i in range(count):
                        total += np.float64(left[i]) * np.float64(right[i])
                    products[j * experts + k] += total
                else:
                    narrow = np.float32(0.0)
                    for i in range(count):
                        narrow += left[i] * right[i]
                    products[j * experts + k] += np.float64(narrow)
    for j in range(experts):
        for k in range(j):
            products[j * experts + k] = products[k * experts + j]
    return 0


@jit
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
    addresses, kinds = carray(as_i64(at), experts), carray(as_i64(kinds_at), experts)
    weights, flaws = carray(as_f64(weights_at), experts), carray(as_i64(flaws_at), experts + 1)
    bits, below, total_bits = block(scratch, 0), block(scratch, 1), block(scratch, 2)
    origin, total = below.view(np.float32), total_bits.view(np.float32)
    bad = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        if base != 0:
            flaws[experts] += load(base, base_kind, start, count, below)
        for i in range(count):
            total[i] = np.float32(0.0)
        j = 0
        while j < experts:
            if j + 1 < experts and kinds[j] == BFLOAT16 and kinds[j + 1] == BFLOAT16:
                found = add_two(
                    addresses[j],
                    addresses[j + 1],
                    start,
                    count,
                    weights[j],
                    weights[j + 1],
                    int(base != 0),
                    origin,
                    total,
                )
                flaws[j] += found & 1
                flaws[j + 1] += found >> 1
                j += 2
            else:
                flaws[j] += add_scaled(
                    addresses[j], kinds[j], start, count, weights[j], int(base != 0), origin, total, bits
                )
                j += 1
        if divisor != 1.0:
            for i in range(count):
                total[i] = total[i] / np.float32(divisor)
        if scale != 1.0:
            for i in range(count):
                total[i] = total[i] * np.float32(scale)
        if base != 0:
            for i in range(count):
                total[i] = origin[i] + total[i]
        bad += store(out, out_kind, start, count, total_bits)
    return bad


@jit
def histogram(base: int, base_kind: int, address: int, kind: int, size: int, counts_at: int, scratch: int) -> int:
    """Count the changes by the upper half of their magnitude's bits into `counts` (BINS + 1, int64).

    The last place counts those that are zero.

    Returns what is not finite, as `load_change` does.
    """
    counts = carray(as_i64(counts_at), BINS + 1)
    bits, below = block(scratch, 0), block(scratch, 1)
    # Two tables by turns: equal magnitudes that follow one another would wait for each other's sum.
    even = carray(as_u32(scratch + 8 * BLOCK), BINS)
    odd = carray(as_u32(scratch + 8 * BLOCK + 4 * BINS), BINS)
    for k in range(BINS):
        even[k] = 0
        odd[k] = 0
    bad = 0
    pending = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        bad |= load_change(base, base_kind, address, kind, start, count, below, bits)
        zeros = np.int32(0)
        for i in range(count):
            magnitude = np.uint32(bits[i] & np.uint32(ALL))
            zeros += np.int32(magnitude == np.uint32(0))
            bits[i] = np.uint32(magnitude >> np.uint32(16))
        counts[BINS] += zeros
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


@jit
def magnitudes(base: int, base_kind: int, address: int, kind: int, size: int, sizes_at: int, scratch: int) -> int:
    """Write the bits of every change's magnitude to `sizes` (32-bit words, one an element).

    Returns what is not finite, as `load_change` does.
    """
    bits, below = block(scratch, 0), block(scratch, 1)
    bad = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        bad |= load_change(base, base_kind, address, kind, start, count, below, bits)
        sizes = carray(as_u32(sizes_at + 4 * start), count)
        for i in range(count):
            sizes[i] = np.uint32(bits[i] & np.uint32(ALL))
    return bad


@jit
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
    low_counts, high_counts = carray(as_i64(low_at), 65536), carray(as_i64(high_at), 65536)
    bits, below = block(scratch, 0), block(scratch, 1)
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        load_change(base, base_kind, address, kind, start, count, below, bits)
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


@jit
def locate(
    base: int, base_kind: int, address: int, kind: int, size: int, magnitude: int, wanted: int, scratch: int
) -> int:
    """The place behind the `wanted`-th change of just this magnitude: those before it are kept, those from it not."""
    if wanted <= 0:
        return 0
    bits, below = block(scratch, 0), block(scratch, 1)
    seen = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        load_change(base, base_kind, address, kind, start, count, below, bits)
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


@jit_sums
def norms(
    base: int, base_kind: int, address: int, kind: int, size: int, cut_at: int, key: int, sums_at: int, scratch: int
) -> int:
    """The sum of absolute changes before and after a cut into `sums`, and how many are kept; float64.

    Returns what is not finite, as `load_change` does.
    """
    cut, sums = carray(as_i64(cut_at), 5), carray(as_f64(sums_at), 3)
    bits, below = block(scratch, 0), block(scratch, 1)
    values = bits.view(np.float32)
    bad = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        bad |= load_change(base, base_kind, address, kind, start, count, below, bits)
        total = 0.0
        for i in range(count):
            total += np.float64(abs(values[i]))
        sums[0] += total
        mask(bits, start, count, cut, key)
        total = 0.0
        kept = 0
        for i in range(count):
            total += np.float64(abs(values[i]))
            kept += np.int32((bits[i] & np.uint32(ALL)) != np.uint32(0))
        sums[1] += total
        sums[2] += kept
    return bad


@jit
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
    addresses, kinds = carray(as_i64(at), experts), carray(as_i64(kinds_at), experts)
    weights, scales = carray(as_f64(weights_at), experts), carray(as_f64(scales_at), experts)
    cuts, keys = carray(as_i64(cuts_at), 5 * experts), carray(as_i64(keys_at), experts)
    flaws = carray(as_i64(flaws_at), experts + 1)
    below, total_bits = block(scratch, experts), block(scratch, experts + 1)
    chosen, divisor = block(scratch, experts + 2).view(np.float32), block(scratch, experts + 3).view(np.float32)
    origin, total = below.view(np.float32), total_bits.view(np.float32)
    whole = 0.0
    for j in range(experts):
        whole += weights[j]
    if abs(whole) < 1e-8:
        whole = 1.0
    bad = 0
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        flaws[experts] += load(base, base_kind, start, count, below)
        for j in range(experts):
            bits = block(scratch, j)
            values = bits.view(np.float32)
            flaws[j] += load(addresses[j], kinds[j], start, count, bits)
            for i in range(count):
                values[i] = values[i] - origin[i]
            mask(bits, start, count, cuts[5 * j : 5 * j + 5], keys[j])
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
                values = block(scratch, j).view(np.float32)
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
        bad += store(out, out_kind, start, count, total_bits)
    return bad


LOOPS = (gram, combine, histogram, magnitudes, refine, locate, norms, sparse)
"""What native.py compiles; the annotations of their arguments are their types: int of 64 bits, float of 64."""
