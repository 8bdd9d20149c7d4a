"""Which findings of the paper reappear, each from one paired contrast that was chosen beforehand.

Averages are over the shared benchmarks; intervals are 95 %, over test items resampled for all models together. `holds`:
the interval lies wholly on the paper's side; `does not hold`: wholly on the other; `no real difference`: it holds zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from eval.report_inputs import Model, corpus_key
from eval.report_joint import Contrast, Joint, Table
from eval.statistics import datasets_gained, unevenness

HOLDS, PARTLY, FAILS = "holds", "partly", "does not hold"
NO_DIFFERENCE, UNDECIDED, UNTESTED = "no real difference", "undecided", "not tested"
LITTLE = 0.02
"""What counts as little change of the average (finding `dpo`): two points, five times the paper's +0.4."""


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, what it measured, and what this run says to it."""

    name: str
    claim: str
    paper: str
    paper_value: float | None
    verdict: str = UNTESTED
    measure: str = ""
    unit: str = "points"
    """points (of 100, of a score), % (of a perplexity) or data sets."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    detail: list[dict[str, Any]] = field(default_factory=list)
    """Its parts: {label, value, low, high}."""
    note: str = ""


class Chain:
    """The models by their part in the chain, as the findings ask for them."""

    def __init__(self, models: Sequence[Model], baseline: str, joint: Joint) -> None:
        self.joint = joint
        self.base = next(model for model in models if model.name == baseline)
        self.models = {model.name: model for model in models}
        self.raw = [model for model in models if model.stage == "raw_expert"]
        self.experts = [model for model in models if model.stage == "expert"]
        self.dpo = next((model for model in reversed(models) if model.stage == "dpo"), None)
        self.sft = self._of("sft", models, self.dpo)
        self.merge = self._of("merge", models, self.sft or self.dpo)
        self.final = self.dpo or self.sft or self.merge

    def _of(self, stage: str, models: Sequence[Model], child: Model | None) -> Model | None:
        """The model of a stage on the way to `child`; else the last of that stage."""
        found = [model for model in models if model.stage == stage]
        if child is not None:
            lineage = [model for model in found if model.name == child.parent or model.key in child.ancestors]
            found = lineage or found
        return found[-1] if found else None

    def raw_of(self, expert: Model) -> Model | None:
        """The raw expert that a SLERP expert was merged from."""
        for raw in self.raw:
            if expert.parent == raw.name or raw.key in expert.ancestors:
                return raw
        return next((raw for raw in self.raw if corpus_key(raw.name) == corpus_key(expert.name)), None)

    def way(self) -> list[Model]:
        """Base, merge, SFT, DPO: as far as there are such."""
        return [model for model in (self.base, self.merge, self.sft, self.dpo) if model is not None]


def find(models: Sequence[Model], table: dict[str, Any], joint: Joint) -> list[dict[str, Any]]:
    """Every finding, tested or said to be untestable; as plain JSON values."""
    chain = Chain(models, table["baseline"], joint)
    makers: list[Callable[[Chain, dict[str, Any]], Finding]] = [
        _own_corpus, _raw_falls, _slerp_restores, _experts_beat_base, _medcode, _merge_gains, _merge_even, _sft_lifts,
        _dpo_little, _problem_list, _whole_chain,
    ]  # fmt: skip
    return [asdict(make(chain, table)) for make in makers]


def _own_corpus(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding(
        "own_corpus",
        "Each expert predicts its own corpus better than the base does",
        "the premise of continued pre-training; the paper prints no perplexity",
        None,
    )
    rows = {row["name"]: row for row in table["models"]}
    pooled = {model.name for model in chain.experts or chain.raw}
    parts, logs = [], []
    for model in [*chain.raw, *chain.experts]:
        for corpus, cell in rows[model.name]["perplexity"].items():
            if not cell["own"] or "change" not in cell:
                continue
            change = {key: cell["change"][key] for key in ("value", "low", "high")}
            parts.append({"label": f"{model.name} on {corpus}", **change})
            if model.name in pooled:
                logs.append([math.log1p(change[key]) for key in ("value", "low", "high")])
    if not logs:
        return _untested(finding, "no expert was evaluated on a corpus of its name")
    # The corpora are independent samples: the errors of their logarithms add as squares.
    mean = sum(value for value, _, _ in logs) / len(logs)
    half = math.sqrt(sum(((high - low) / 2) ** 2 for _, low, high in logs)) / len(logs)
    below = sum(part["high"] < 0 for part in parts)
    return Finding(
        **_head(finding),
        verdict=_each([-part["high"] for part in parts], [-part["low"] for part in parts]),
        unit="%",
        measure="perplexity of an expert's own corpus against the base, geometric mean over the experts",
        value=math.expm1(mean),
        low=math.expm1(mean - half),
        high=math.expm1(mean + half),
        detail=parts,
        note=f"{below} of {len(parts)} are really below",
    )


def _raw_falls(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding(
        "raw_falls",
        "Raw experts, not merged back, fall below the base on average",
        "Guideline without SLERP 27.2 against 36.5",
        -0.093,
    )
    pairs = [(raw.name, chain.base.name) for raw in chain.raw]
    return _pooled(finding, chain, pairs, -1, "average of the raw experts minus base", "there is no raw expert")


def _slerp_restores(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding(
        "slerp_restores",
        "Merging a raw expert back into the base (SLERP) restores what it lost",
        "Guideline 27.2 → 39.2",
        0.120,
    )
    pairs = [(expert.name, raw.name) for expert in chain.experts if (raw := chain.raw_of(expert)) is not None]
    missing = "there is no raw expert together with its SLERP expert"
    return _pooled(finding, chain, pairs, 1, "average of the SLERP experts minus their raw ones", missing)


def _experts_beat_base(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding(
        "experts_beat_base",
        "Each SLERP expert is above the base on average",
        "all five: 36.7 to 39.7 against 36.5",
        0.0208,
    )
    pairs = [(expert.name, chain.base.name) for expert in chain.experts]
    pooled = _pooled(finding, chain, pairs, 1, "average of the SLERP experts minus base", "there is no SLERP expert")
    if pooled.verdict == UNTESTED:
        return pooled
    parts = pooled.detail
    verdict = _each([part["low"] for part in parts], [part["high"] for part in parts])
    above = sum(part["low"] > 0 for part in parts)
    note = f"{above} of {len(parts)} experts are really above the base"
    return Finding(**(asdict(pooled) | {"verdict": verdict, "note": note}))


def _medcode(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding(
        "medcode_icd10cm",
        "The MedCode expert wins ICD10CM by far",
        "68.7, the next expert 50.2, base 49.3",
        0.185,
    )
    medcode = next((model for model in chain.experts if corpus_key(model.name) == "medcode"), None)
    column = next((name for name in chain.joint.benchmarks if corpus_key(name) == "medcode"), None)
    others = [model for model in chain.experts if model is not medcode]
    if medcode is None or column is None or not others:
        return _untested(finding, "it needs a MedCode expert, another expert and the ICD10CM benchmark")
    place = chain.joint.column(column)
    best = max(others, key=lambda model: chain.joint.observed[chain.joint.row(model.name), place])
    parts = [
        _part(f"{medcode.name} minus {other.name}", chain.joint.contrast(_cell(chain.joint, medcode, other, place)))
        for other in (best, chain.base)
    ]
    return Finding(
        **_head(finding),
        verdict=_directional(parts[0]["low"], parts[0]["high"], 1),
        measure=f"{column}: {medcode.name} minus the next best expert ({best.name})",
        **{key: parts[0][key] for key in ("value", "low", "high")},
        detail=parts,
    )


def _merge_gains(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding("merge_gains", "The merge of the experts is above the base on average", "36.5 → 39.3", 0.028)
    if chain.merge is None:
        return _untested(finding, "there is no merge")
    pairs = [(chain.merge.name, chain.base.name)]
    return _pooled(finding, chain, pairs, 1, f"average of {chain.merge.name} minus base", "")


def _merge_even(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding(
        "merge_even",
        "The merge gains on more data sets than an expert does, and more evenly (lower CV)",
        "#DG 11 against 8.8 on average, 10 at most; CV 1.5 against a median of 1.8",
        None,
    )
    joint = chain.joint
    if chain.merge is None or not chain.experts or len(joint.benchmarks) < 2:
        return _untested(finding, "it needs a merge, its experts and two benchmarks")
    origin, own = joint.row(chain.base.name), joint.row(chain.merge.name)
    places = [joint.row(expert.name) for expert in chain.experts]

    def counts(table: Table, row: int) -> Any:
        return datasets_gained(table[..., row, :] - table[..., origin, :])

    def more(table: Table) -> Any:
        return counts(table, own) - sum(counts(table, row) for row in places) / len(places)

    contrast = joint.contrast(more)
    gains = joint.observed - joint.observed[origin]
    spread = unevenness(gains)
    median = float(np.median(spread[places]))
    counted = datasets_gained(gains)
    more_sets = _directional(contrast.low, contrast.high, 1)
    detail = [
        {"label": joint.models[row], "value": float(counted[row]), "cv": _finite(float(spread[row]))}
        for row in [own, *places]
    ]
    return Finding(
        **_head(finding),
        verdict=PARTLY if more_sets == HOLDS and not spread[own] < median else more_sets,
        unit="data sets",
        measure=f"#DG of {chain.merge.name} minus the mean #DG of the experts (data sets, of {len(joint.benchmarks)})",
        value=contrast.value,
        low=contrast.low,
        high=contrast.high,
        detail=detail,
        note=f"CV {_shown(float(spread[own]))} against a median of {_shown(median)}; "
        f"most #DG of an expert: {counted[places].max():.0f}",
    )


def _sft_lifts(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding("sft_lifts", "SFT lifts the average of the merge", "39.3 → 43.0", 0.037)
    if chain.merge is None or chain.sft is None:
        return _untested(finding, "it needs a merge and an SFT model")
    pairs = [(chain.sft.name, chain.merge.name)]
    return _pooled(finding, chain, pairs, 1, f"average of {chain.sft.name} minus {chain.merge.name}", "")


def _dpo_little(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding("dpo_little", "DPO changes the average little", "43.0 → 43.4", 0.004)
    if chain.sft is None or chain.dpo is None or not chain.joint.benchmarks:
        return _untested(finding, "it needs an SFT and a DPO model")
    contrast = chain.joint.contrast(chain.joint.gain(chain.dpo.name, chain.sft.name))
    verdict = UNDECIDED
    if contrast.low >= -LITTLE and contrast.high <= LITTLE:
        verdict = HOLDS
    elif contrast.low > LITTLE or contrast.high < -LITTLE:
        verdict = FAILS
    return Finding(
        **_head(finding),
        verdict=verdict,
        measure=f"average of {chain.dpo.name} minus {chain.sft.name}",
        value=contrast.value,
        low=contrast.low,
        high=contrast.high,
        note=f"little means: the whole interval within ±{100 * LITTLE:.0f} points",
    )


def _problem_list(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding("problem_list", "Alignment hurts problem list summarization", "28.8 → 26.0 (merge → DPO)", -0.028)
    aligned = chain.dpo or chain.sft
    if chain.merge is None or aligned is None or "problem_list" not in chain.joint.benchmarks:
        return _untested(finding, "it needs a merge, an aligned model and the problem_list benchmark")
    place = chain.joint.column("problem_list")
    contrast = chain.joint.contrast(_cell(chain.joint, aligned, chain.merge, place))
    return Finding(
        **_head(finding),
        verdict=_directional(contrast.low, contrast.high, -1),
        measure=f"problem_list: {aligned.name} minus {chain.merge.name}",
        value=contrast.value,
        low=contrast.low,
        high=contrast.high,
    )


def _whole_chain(chain: Chain, table: dict[str, Any]) -> Finding:
    finding = Finding("whole_chain", "The finished model is above the base on average", "36.5 → 43.4", 0.069)
    final = chain.dpo or chain.sft
    if final is None:
        return _untested(finding, "there is no aligned model")
    pairs = [(final.name, chain.base.name)]
    return _pooled(finding, chain, pairs, 1, f"average of {final.name} minus base", "")


def _pooled(
    finding: Finding, chain: Chain, pairs: Sequence[tuple[str, str]], side: int, measure: str, missing: str
) -> Finding:
    """A finding about the mean of several differences of averages; the parts are shown beside it."""
    if not pairs or not chain.joint.benchmarks:
        return _untested(finding, missing or "no benchmark was answered by all models")
    pooled = chain.joint.contrast(chain.joint.mean_gain(pairs))
    parts = [
        _part(f"{model} minus {over}", chain.joint.contrast(chain.joint.gain(model, over))) for model, over in pairs
    ]
    verdict = _directional(pooled.low, pooled.high, side)
    return Finding(
        **_head(finding),
        verdict=verdict,
        measure=measure,
        value=pooled.value,
        low=pooled.low,
        high=pooled.high,
        detail=parts if len(parts) > 1 else [],
    )


def _head(finding: Finding) -> dict[str, Any]:
    return {key: getattr(finding, key) for key in ("name", "claim", "paper", "paper_value")}


def _untested(finding: Finding, why: str) -> Finding:
    return Finding(**_head(finding), note=why)


def _part(label: str, contrast: Contrast) -> dict[str, Any]:
    return {"label": label, "value": contrast.value, "low": contrast.low, "high": contrast.high}


def _cell(joint: Joint, model: Model, over: Model, place: int) -> Callable[[Table], Any]:
    a, b = joint.row(over.name), joint.row(model.name)
    return lambda table: table[..., b, place] - table[..., a, place]


def _directional(low: float, high: float, side: int) -> str:
    if low <= 0 <= high:
        return NO_DIFFERENCE
    return HOLDS if (low > 0) == (side > 0) else FAILS


def _each(lows: Sequence[float], highs: Sequence[float]) -> str:
    """A claim about each of several: all above zero, some above and none below, one below, or nothing to see."""
    if all(low > 0 for low in lows):
        return HOLDS
    if any(high < 0 for high in highs):
        return FAILS
    return PARTLY if any(low > 0 for low in lows) else NO_DIFFERENCE


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "without meaning (no mean gain)"
