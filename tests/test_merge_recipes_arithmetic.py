"""Each method of the streaming engine is mergekit's, within one rounding, also where tensors are of the worst kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medsmith.errors import UserError
from merge_recipes.arithmetic import METHODS
from merge_recipes.arithmetic_torch import METHODS as TORCH_METHODS
from merge_recipes.arithmetic_torch import draw, merge_on_device
from merge_recipes.cuts import draw_key, find_cuts, ranks_of
from merge_recipes.numbers import Numbers
from tests.toy_merge import FAMILIES, SHAPE, WEIGHTS, family, inputs, mergekit, named, numbers, roundings, stream

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPARSE = ("ties", "breadcrumbs", "breadcrumbs_ties")
DRAWN = ("dare_linear", "dare_ties")
EXACT = tuple(method for method in METHODS if method not in DRAWN)
EXPERTS = {"slerp": 1, "nuslerp": 2}

SETTINGS: list[dict[str, Any]] = [
    {},
    {"normalize": True, "lambda": 0.7},
    {"density": 0.2, "rescale": True},
    {"density": 0.93, "normalize": True},
    {"density": 1.0},
]


def of(method: str, experts: list[torch.Tensor]) -> list[torch.Tensor]:
    return experts[: EXPERTS.get(method, len(experts))]


def settled(method: str, given: Numbers, base: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    """Where the method says what comes out: no change stands at a cut, no election of signs hangs by rounding."""
    clear = torch.ones(base.shape, dtype=torch.bool)
    if method not in (*SPARSE, *DRAWN):
        return clear
    total, size = torch.zeros(base.shape), torch.zeros(base.shape)
    for name, expert in zip(named(len(experts)), experts, strict=True):
        change = expert.float() - base.float()
        kept = torch.ones(base.shape, dtype=torch.bool)
        gamma = given.own[name]["gamma"] if method.startswith("breadcrumbs") else None
        ranks = ranks_of(method, change.numel(), given.own[name]["density"], gamma) if method in SPARSE else None
        if ranks:
            order = change.abs().flatten().sort().values
            low = order[ranks[0] - 1] if ranks[0] > 0 else torch.tensor(-1.0)
            high = order[ranks[1]] if ranks[1] < len(order) else torch.tensor(math.inf)
            clear &= (change.abs() != low) & (change.abs() != high)
            kept = (change.abs() > low) & (change.abs() < high)
        total += given.own[name]["weight"] * change * kept
        size += given.own[name]["weight"] * change.abs() * kept
    return clear & (total.abs() >= 1e-5 * size) if method.endswith("ties") else clear


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("method", EXACT)
def test_every_method_is_mergekits_within_one_rounding(method: str, kind: str) -> None:
    """In half precision no element is farther off than one rounding; in float32, whose steps all round, sixteen.

    float32 is compared with mergekit's float64, since mergekit's own float32 is off by up to 78: of nearly parallel
    changes it takes angles from cosines of seven digits.
    """
    compared = 0
    for dtype in DTYPES:
        base, experts = family(kind, dtype)
        experts = of(method, experts)
        for changes in SETTINGS if method in (*SPARSE, "task_arithmetic") else SETTINGS[:2]:
            given = numbers(method, len(experts), **changes)
            ours = stream(method, given, base, experts, dtype)
            work = torch.float64 if dtype == torch.float32 else torch.float32
            theirs = mergekit(method, given, base, experts, dtype, work)
            clear = settled(method, given, base, experts)
            # float32 results are compared at the size of what was added up: cancellation is no engine's fault.
            scale = theirs.float().abs() if dtype != torch.float32 else largest(base, experts)
            off = ((ours.double() - theirs.double()).abs() / roundings(scale, dtype))[clear]
            assert (off <= (1 if dtype != torch.float32 else 16)).all(), (dtype, changes, off.max())
            assert off.numel() == 0 or off.mean() <= 1
            compared += len(off)
    # Of equal changes, every one stands at the cut; elsewhere most elements are compared.
    least = {"one": 3, "equal": 3000 if method not in SPARSE else 0}.get(kind, 3 * 2 * base.numel() // 3)
    assert compared >= least


def largest(base: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([base.float().abs(), *(expert.float().abs() for expert in experts)]).max(0).values


@pytest.mark.parametrize("method", METHODS)
def test_gpu_arithmetic_is_the_same(method: str) -> None:
    """Plain torch, which runs on a GPU, gives the compiled loops' result: same cuts, same ties, same draws."""
    for kind in FAMILIES:
        base, experts = family(kind, torch.bfloat16)
        experts = of(method, experts)
        for changes in SETTINGS:
            given = numbers(method, len(experts), **changes)
            ours = stream(method, given, base, experts, seed=7)
            theirs = merge_on_device(method, given, inputs(base, experts, 7), "cpu").view(base.shape)
            assert ((ours - theirs).abs() <= 2 * roundings(largest(base, experts), torch.float32)).all(), (
                kind,
                changes,
            )


def test_both_tables_hold_the_same_methods() -> None:
    """What one engine learns the other must know too."""
    assert list(METHODS) == list(TORCH_METHODS)


@pytest.mark.parametrize("method", SPARSE)
def test_of_equal_changes_at_a_cut_the_first_are_kept(method: str) -> None:
    """mergekit's sort is not stable, so which of equal changes stay is chance there; here the first in the tensor."""
    base = torch.zeros(10)
    change = torch.tensor([1.0, 2.0, 1.0, 1.0, 5.0, 1.0, 3.0, 1.0, 4.0, 1.0])
    given = Numbers(
        {"normalize": False, "lambda": 1.0, "rescale": False}, {"m0": {"weight": 1.0, "density": 0.6, "gamma": 0.2}}
    )
    kept = stream(method, given, base, [change]).tolist()
    if method == "ties":  # six of ten: 5, 4, 3, 2 and the first two ones
        assert kept == [1.0, 2.0, 1.0, 0, 5.0, 0, 3.0, 0, 4.0, 0]
    else:  # without the two largest: 3, 2 and the first four ones
        assert kept == [1.0, 2.0, 1.0, 1.0, 0, 1.0, 3.0, 0, 0, 0]


@pytest.mark.parametrize(
    ("method", "density", "gamma", "ranks"),
    [
        ("ties", 0.5, None, (50, 100)),
        ("ties", 0.001, None, (99, 100)),  # at least one
        ("ties", 0.0, None, (0, 0)),
        ("ties", 1.0, None, None),
        ("breadcrumbs", 0.5, 0.1, (40, 90)),
        ("breadcrumbs", 0.95, 0.1, (0, 95)),  # fewer large ones go than gamma says, or the density would not be reached
        ("breadcrumbs", 0.001, 0.1, (90, 90)),
        ("breadcrumbs", 1.0, 0.1, None),
    ],
)
def test_ranks_that_stay(method: str, density: float, gamma: float | None, ranks: tuple[int, int] | None) -> None:
    """The first and last rank of a hundred that are kept, by rising magnitude, as mergekit counts them."""
    assert ranks_of(method, 100, density, gamma) == ranks


def test_half_precision_is_rounded_once() -> None:
    """Ours is within half a rounding of the exact result; mergekit, with `dtype: bfloat16`, is off by several."""
    base, experts = family("random", torch.bfloat16)
    given = numbers("task_arithmetic", 4)
    exact = base.double() + sum(w * (e.double() - base.double()) for w, e in zip(WEIGHTS, experts, strict=True))
    step = roundings(exact, torch.bfloat16)
    ours = (stream("task_arithmetic", given, base, experts, torch.bfloat16).double() - exact).abs() / step
    theirs = mergekit("task_arithmetic", given, base, experts, torch.bfloat16, work=torch.bfloat16)
    # Half a rounding, and what float32 may add to a result that almost stands between two numbers.
    large = exact.abs() > 0.01
    assert ours[large].max() <= 0.501
    assert ((theirs.double() - exact).abs() / step)[large].max() > 2


class TestDare:
    """Drops are drawn from seed, model and tensor alone."""

    @pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
    def test_keeps_the_wanted_share(self, density: float) -> None:
        """Within four standard deviations of the binomial distribution, for each of twenty keys."""
        size = 50_000
        for key in range(20):
            kept = int(draw(size, density, draw_key(key, "m", "w"), "cpu").sum())
            assert abs(kept - size * density) < 4 * math.sqrt(size * density * (1 - density))

    def test_draws_are_independent(self) -> None:
        """Between neighbours, models, tensors and seeds two masks agree no more often than chance has it."""
        size = 200_000
        one = draw(size, 0.5, draw_key(0, "m0", "w"), "cpu")
        for other in (
            one.roll(1), one.roll(2), one.roll(64), one.flip(0),
            *(draw(size, 0.5, draw_key(*key), "cpu") for key in ((1, "m0", "w"), (0, "m1", "w"), (0, "m0", "v"))),
        ):  # fmt: skip
            agree = float((one == other).float().mean())
            assert abs(agree - 0.5) < 4 * 0.5 / math.sqrt(size)

    @pytest.mark.parametrize("method", DRAWN)
    def test_arithmetic_after_the_drop_is_mergekits(self, method: str) -> None:
        """mergekit, given experts that were dropped from and rescaled by hand, adds them up to the same."""
        base = torch.zeros(SHAPE)
        _, experts = family("random", torch.float32)
        given = numbers(method, 4)
        dropped = []
        for name, expert in zip(named(4), experts, strict=True):
            left = expert * draw(expert.numel(), 0.5, draw_key(3, name, "w"), "cpu").view(SHAPE)
            dropped.append(left * (expert.double().abs().sum() / left.double().abs().sum()).float())
        ours = stream(method, given, base, experts, seed=3)
        theirs = mergekit(
            "ties" if method == "dare_ties" else "task_arithmetic", numbers(method, 4, density=1.0), base, dropped
        )
        clear = settled(method, given, base, dropped)
        scale = roundings(largest(base, dropped), torch.float32)
        assert ((ours - theirs).abs() / scale)[clear].max() <= 4 and clear.float().mean() > 0.99

    def test_density_bounds(self) -> None:
        """A density of one keeps every change, of zero none."""
        base, experts = family("near", torch.float32)
        every, none = (numbers("dare_linear", 4, density=share, rescale=False) for share in (1.0, 0.0))
        added = sum(w * (e - base) for w, e in zip(WEIGHTS, experts, strict=True))
        assert torch.allclose(stream("dare_linear", every, base, experts), base + added, atol=1e-7)
        assert torch.equal(stream("dare_linear", none, base, experts), base)


Change = Callable[[torch.Tensor], torch.Tensor]
shapes = st.sampled_from([(1,), (3,), (17, 5), (2048,), (2049,), (4097,)])
kinds = st.sampled_from(DTYPES)
seeds = st.integers(0, 10_000)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int, scale: float = 0.05) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


@quick
@given(shapes, kinds, seeds, st.sampled_from(sorted(METHODS)))
def test_merge_of_identical_models_is_the_model(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, method: str
) -> None:
    """Whatever the method and its numbers: to the bit, but for sums of shares, which may round in float32."""
    model = drawn(shape, dtype, seed)
    count = EXPERTS.get(method, 4)
    merged = stream(method, numbers(method, count, normalize=True), model, [model.clone() for _ in range(count)], dtype)
    if method in {"linear", "slerp"} and dtype == torch.float32:
        assert ((merged - model).abs() <= 2 * roundings(model, dtype)).all()
    else:
        assert torch.equal(merged, model)


@quick
@given(shapes, kinds, seeds, st.sampled_from(["task_arithmetic", *SPARSE, *DRAWN]))
def test_weights_of_zero_give_the_base(shape: tuple[int, ...], dtype: torch.dtype, seed: int, method: str) -> None:
    """Nothing of an expert comes in with a weight of zero, normalised or not."""
    base, experts = drawn(shape, dtype, seed), [drawn(shape, dtype, seed + 1 + k) for k in range(3)]
    for normalize in (False, True):
        given_ = numbers(method, 3, weight=0.0, normalize=normalize)
        assert torch.equal(stream(method, given_, base, experts, dtype), base)


@quick
@given(shapes, kinds, seeds, st.sampled_from(sorted(set(METHODS) - {"slerp"})), st.permutations(range(4)))
def test_order_of_experts_changes_nothing(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, method: str, order: list[int]
) -> None:
    """To the bit: with the experts of a recipe in another order, with their own numbers, the merge is the same."""
    base, experts = drawn(shape, dtype, seed), [drawn(shape, dtype, seed + 1 + k) for k in range(4)]
    names = [number for number in order if number < EXPERTS.get(method, 4)]
    given_ = numbers(method, len(names))
    merged = [
        stream(method, given_, base, {f"m{number}": experts[number] for number in sequence}, dtype)
        for sequence in (sorted(names), names)
    ]
    assert torch.equal(*merged)


@quick
@given(shapes, kinds, seeds)
def test_slerp_ends_are_the_models(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    """t=0 is the base and t=1 the expert, to the bit, near or far apart."""
    base = drawn(shape, dtype, seed)
    for expert in (drawn(shape, dtype, seed + 1), (base.float() * 1.001).to(dtype), -base):
        for t, end in ((0.0, base), (1.0, expert)):
            merged = stream("slerp", numbers("slerp", 1, t=t), base, [expert], dtype)
            assert torch.equal(merged + 0.0, end + 0.0)  # a zero may change its sign


@quick
@given(seeds, st.sampled_from(["ties", "breadcrumbs"]), st.floats(0.01, 0.99), st.floats(0.0, 0.3))
def test_just_the_wanted_number_is_kept(seed: int, method: str, density: float, gamma: float) -> None:
    """The cut leaves int(density x size) changes, however many of them are equal."""
    size = 5000
    change = torch.randint(1, 2 + seed % 50, (size,), generator=torch.Generator().manual_seed(seed)) * 0.25
    given_ = Numbers(
        {"normalize": False, "lambda": 1.0, "rescale": False},
        {"m0": {"weight": 1.0, "density": density, "gamma": gamma}},
    )
    merged = stream(method, given_, torch.zeros(size), [change])
    wanted = max(1 if method == "ties" else 0, int(density * size))
    assert int((merged != 0).sum()) == wanted
    assert set(merged[merged != 0].tolist()) <= set(change.tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", METHODS)
def test_number_that_is_none_is_found_while_merging(method: str, bad: float, dtype: torch.dtype) -> None:
    """One bad weight of one expert, or of the base, ends the merge with the model's and the tensor's name."""
    for broken in ("base", "m0"):
        base, experts = family("near", dtype)
        (base if broken == "base" else experts[0]).view(-1)[1234] = bad
        with pytest.raises(UserError, match=f"'{broken}': the weights 'w' are not all finite"):
            stream(method, numbers(method, len(of(method, experts))), base, of(method, experts), dtype)


def test_result_beyond_its_type_is_refused() -> None:
    """Sums that float16 or bfloat16 cannot hold are no model; float32 holds them."""
    base, experts = torch.zeros(4), [torch.full((4,), 60000.0), torch.full((4,), 3.0e38)]
    for dtype, expert, weight in ((torch.float16, experts[0], 2.0), (torch.bfloat16, experts[1], 1.134)):
        given_ = Numbers({"normalize": False, "lambda": 1.0, "rescale": False}, {"m0": {"weight": weight}})
        with pytest.raises(UserError, match="the merged weights 'w' are not all finite; use smaller weights"):
            stream("task_arithmetic", given_, base, [expert], dtype)
        assert stream("task_arithmetic", given_, base, [expert]).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_number_is_read_and_rounded_right(dtype: torch.dtype) -> None:
    """All finite bit patterns come through unchanged; and what lies between two is rounded as torch rounds it."""
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype)
    every = every[every.isfinite()]
    given_ = Numbers({"normalize": False, "lambda": 1.0, "rescale": False}, {"m0": {"weight": 1.0}})
    merged = stream("task_arithmetic", given_, torch.zeros_like(every), [every], dtype)
    assert torch.equal(merged.float(), every.float())
    between = torch.linspace(-1, 1, 40_001, dtype=torch.float32) ** 3 * 3e-3
    rounded = stream("task_arithmetic", given_, torch.zeros_like(between), [between], dtype)
    assert torch.equal(rounded, between.to(dtype))


def test_changes_that_cancel_are_refused_and_frozen_tensors_are_not() -> None:
    """multi-SLERP of opposite experts has no direction; of a tensor that nobody changed the merge is the base.

    mergekit gives up at such a tensor from three experts on, so that frozen embeddings end its merge.
    """
    base, experts = family("near", torch.float32)
    change = experts[0] - base
    opposed = {"m0": base + change, "m1": base - change, "m2": base + change, "m3": base - change}
    weights = {name: {"weight": 1.0} for name in opposed}
    given_ = Numbers({"normalize_weights": False, "eps": 1e-4}, weights)
    with pytest.raises(UserError, match="changes of 'w' cancel one another"):
        stream("multislerp", given_, base, opposed)
    frozen = [base.clone() for _ in range(3)]
    with pytest.raises(ValueError, match="weighted sum of the input tensors is zero"):
        mergekit("multislerp", numbers("multislerp", 3), base, frozen)
    assert torch.equal(stream("multislerp", numbers("multislerp", 3), base, frozen), base)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "one"])
def test_a_search_finds_the_cuts_of_a_single_merge(kind: str, dtype: torch.dtype) -> None:
    """What a search keeps sorted gives the cut that counting gives, for every method and density, and is kept."""
    base, experts = family(kind, dtype)
    job = inputs(base, experts)
    job.memos = {}
    for method in SPARSE:
        for density in (0.01, 0.2, 0.5, 0.93, 1.0):
            given_ = numbers(method, 4, density=density)
            counted, _ = find_cuts(method, given_, inputs(base, experts))
            assert find_cuts(method, given_, job)[0] == counted
    kept = job.memos["m0"].sizes
    assert kept is not None and find_cuts("ties", numbers("ties", 4, density=0.4), job)
    assert job.memos["m0"].sizes is kept and len(job.memos["m0"].cuts) == 4 + 4 + 1
    if kind == "ties" and dtype == torch.float32:
        assert len(kept.values) < 200 and kept.upto is not None  # seven changes, rounded
    if kind == "near" and dtype == torch.float32:
        assert kept.upto is None
