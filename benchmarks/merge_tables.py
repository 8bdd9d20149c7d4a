"""The tables of benchmarks.merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.measure import median_spread, table
from benchmarks.merge_compare import Gap, Kept
from benchmarks.merge_measure import Limit, Spent, copy_rate
from merge_recipes.weights import Weights

MERGEKIT, STREAM = "mergekit", "stream"
FIRST, AGAIN = "build, first", "build, again"


@dataclass
class Measured:
    """One method at one size."""

    method: str
    read: int
    """Bytes of the parents' files."""
    written: int
    runs: dict[str, list[Spent]] = field(default_factory=dict)
    """By what ran: an engine, or a whole build by it."""
    limits: list[Limit] = field(default_factory=list)
    gaps: dict[str, Gap] = field(default_factory=dict)
    """Between the outputs, by how mergekit computed."""
    kept: dict[str, Kept] = field(default_factory=dict)
    """By engine, for methods that drop by chance."""

    def middle(self, what: str, name: str, digits: int = 2) -> str:
        """Median and range of a figure, or nothing where it did not run."""
        found = [getattr(spent, name) for spent in self.runs.get(what, [])]
        return median_spread(found, digits) if found else ""

    def ratio(self, first: str, second: str, name: str = "cpu") -> str:
        """Of two things that ran in pairs, pair by pair: median and range."""
        pairs = zip(self.runs.get(first, []), self.runs.get(second, []), strict=False)
        found = [getattr(one, name) / getattr(other, name) for one, other in pairs]
        return median_spread(found, 1) if found else ""


def report(title: str, base: Weights, measured: Sequence[Measured], start: Measured) -> list[str]:
    """The tables of one size; `base` is one of its models, `start` a merge of models that weigh nothing."""
    largest = max(tensor.nbytes for tensor in base.values()) / 2**20
    lines = [
        f"\n### {title}: {sum(tensor.data.size for tensor in base.values()):,} parameters, bfloat16\n",
        cost_table(measured),
        "",
        *start_lines(start),
        *memory_lines(measured, largest),
        "",
        limit_table(measured, start),
        "",
        f"One thread copies {copy_rate() / 1e9:.1f} GB/s from memory to memory.",
    ]
    if any(found.gaps for found in measured):
        lines += ["", gap_table(measured)]
    if any(found.kept for found in measured):
        lines += ["", kept_table(measured)]
    if any(f"{STREAM}: {FIRST}" in found.runs for found in measured):
        lines += ["", whole_table(measured)]
    return lines


def cost_table(measured: Sequence[Measured]) -> str:
    """CPU, wall and memory of both."""
    head = ["method", "mergekit CPU s", "stream CPU s", "× CPU", "mergekit s", "stream s", "mergekit MB", "stream MB"]
    return table(head, [[found.method, *_costs(found, MERGEKIT, STREAM)] for found in measured])


def whole_table(measured: Sequence[Measured]) -> str:
    """The same of whole builds."""
    head = ["build", "mergekit CPU s", "stream CPU s", "× CPU", "mergekit s", "stream s", "mergekit MB", "stream MB"]
    rows = [
        [f"{found.method}, {what.split(', ')[1]}", *_costs(found, f"{MERGEKIT}: {what}", f"{STREAM}: {what}")]
        for found in measured
        for what in (FIRST, AGAIN)
    ]
    return table(head, rows)


def _costs(found: Measured, theirs: str, ours: str) -> list[str]:
    return [
        found.middle(theirs, "cpu"),
        found.middle(ours, "cpu"),
        found.ratio(theirs, ours),
        found.middle(theirs, "wall"),
        found.middle(ours, "wall"),
        found.middle(theirs, "anonymous_mb", 0),
        found.middle(ours, "anonymous_mb", 0),
    ]


def start_lines(start: Measured) -> list[str]:
    """What starting costs: a merge of models that weigh nothing."""
    return [
        f"Starting, of it: {engine} {start.middle(engine, 'cpu')} CPU s, {start.middle(engine, 'wall')} s, "
        f"{start.middle(engine, 'anonymous_mb', 0)} MB (a merge of tiny models)."
        for engine in start.runs
    ]


def memory_lines(measured: Sequence[Measured], largest: float) -> list[str]:
    """Whether the streaming engine keeps to its bound."""
    peaks = [spent.anonymous_mb for found in measured for spent in found.runs.get(STREAM, [])]
    if not peaks:
        return []
    bound = 4 * largest + 200
    verdict = "kept" if max(peaks) <= bound else "NOT KEPT"
    allowed = f"4 × the largest tensor ({largest:.0f} MB) + 200 MB is {bound:.0f}"
    return [f"Peak of stream {max(peaks):.0f} MB; {allowed}: {verdict}."]


def limit_table(measured: Sequence[Measured], start: Measured) -> str:
    """The wall clock of the streaming engine beside what the machine needs for the same bytes."""
    head = [
        "method", "read GB", "written GB", "read GB/s", "write GB/s", "write and sync GB/s", "limit s", "with sync s",
        "stream s / limit", "the same with sync", "the same without start", "mergekit s / limit",
    ]  # fmt: skip
    begin = min((spent.wall for spent in start.runs.get(STREAM, [])), default=0.0)
    rows = []
    for found in measured:
        ours, theirs = ([spent.wall for spent in found.runs.get(what, [])] for what in (STREAM, MERGEKIT))
        limits = found.limits
        bare, synced = [limit.without_sync for limit in limits], [limit.with_sync for limit in limits]
        rows.append([
            found.method, f"{found.read / 1e9:.2f}", f"{found.written / 1e9:.2f}",
            median_spread([found.read / limit.read / 1e9 for limit in limits], 1),
            median_spread([found.written / limit.write / 1e9 for limit in limits], 1),
            median_spread([found.written / (limit.write + limit.sync) / 1e9 for limit in limits], 1),
            median_spread(bare), median_spread(synced),
            _over(ours, bare), _over(ours, synced), _over([wall - begin for wall in ours], bare), _over(theirs, bare),
        ])  # fmt: skip
    return table(head, rows)


def _over(walls: Sequence[float], limits: Sequence[float]) -> str:
    found = [wall / limit for wall, limit in zip(walls, limits, strict=False)]
    return median_spread(found, 1) if found else ""


def gap_table(measured: Sequence[Measured]) -> str:
    """How far the outputs lie apart."""
    head = [
        "method", "mergekit computes in", "largest difference", "in roundings", "most roundings anywhere",
        "entries that differ", "by more than one", "of these, unexplained",
        "weights by norms differ by",
    ]  # fmt: skip
    rows = [
        [
            found.method, how, f"{gap.largest:.2e}", f"{gap.roundings_there:.1f}", f"{gap.most_roundings:,.0f}",
            f"{gap.differ / gap.entries:.2%}", f"{gap.far / gap.entries:.4%}",
            "" if gap.unexplained is None else f"{gap.unexplained:,}",
            f"{gap.factor:.1e}" if gap.factor else "",
        ]
        for found in measured
        for how, gap in found.gaps.items()
    ]  # fmt: skip
    return table(head, rows)


def kept_table(measured: Sequence[Measured]) -> str:
    """What is dropped by chance cannot be the same; how much is dropped, and what it does, can."""
    head = ["method", "engine", "kept of changes of one expert alone", "mean of the merged change", "deviation"]
    rows = [
        [found.method, engine, f"{kept.rate:.3%}", f"{kept.mean:.2e}", f"{kept.deviation:.4e}"]
        for found in measured
        for engine, kept in found.kept.items()
    ]
    return table(head, rows)
