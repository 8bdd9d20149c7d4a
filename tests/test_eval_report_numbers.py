"""The report's numbers without folders: noise, pooled metrics, marks, unevenness, fates, turns, layers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.report_findings import UNTESTED, find
from eval.report_groups import group_averages
from eval.report_inputs import (
    DocumentLikelihood,
    Model,
    Sample,
    corpus_key,
    headline_table,
)
from eval.report_lineage import GAP, NODE_WIDTH, lay_out
from eval.report_samples import fate_of, turns
from eval.report_tables import build_table
from eval.statistics import Table, holm, mark, unevenness
from medsmith.errors import UserError
from medsmith.intervals import wilson


def row(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in table["models"] if row["name"] == name)


def verdict(table: dict[str, Any], name: str) -> tuple[str, Any]:
    finding = next(finding for finding in table["findings"] if finding["name"] == name)
    return finding["verdict"], finding["value"]


def twins(seed: int, count: int) -> list[Model]:
    """Models that answer at random with one share, and predict documents alike but for chance."""
    draws = random.Random(seed)
    models = []
    for number in range(count):
        scores = {
            "mednli": [float(draws.random() < 0.5) for _ in range(100)],
            "rrs_qa": [draws.random() for _ in range(100)],
        }
        samples = {
            benchmark: {str(n): Sample(str(n), str(n), "", "", "", "", value, False) for n, value in enumerate(values)}
            for benchmark, values in scores.items()
        }
        documents = {"pubmed": {str(n): DocumentLikelihood(50 * draws.gauss(3, 0.2), 50, 200) for n in range(40)}}
        cell = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100, "unreadable": 0}
        result = {
            "benchmarks": dict.fromkeys(scores, cell),
            "perplexity": {
                "pubmed": dict.fromkeys(("per_token", "low", "high", "per_byte", "documents", "tokens", "bytes"), 1)
            },
        }
        name, stage = (f"twin {number}", "expert") if number else ("base", "base")
        evaluation: dict[str, Any] = {"facts": {}, "config": {"model": name}, "identity": {"inputs": {}}}
        ids = [str(n) for n in range(100)]
        tables = {key: Table(ids, ids, np.array([values, np.ones(100)]).T) for key, values in scores.items()}
        model = Model(name, stage, None, None, None, evaluation, result, samples, documents, tables)  # type: ignore[arg-type]
        models.append(model)
    return models


def test_models_of_equal_skill_differ_by_noise() -> None:
    """A/A control: 20 reports of twins; a report that calls any of their differences real is one in twenty or so."""
    wrong, off_zero, comparisons = 0, 0, 0
    for seed in range(20):
        table, joint = build_table(twins(seed, 5), "base", "twins", 0)
        rows = table["models"][1:]
        marks = [cell["gain"]["mark"] for one in rows for cell in one["benchmarks"].values()]
        marks += [one["perplexity"]["pubmed"]["change"]["mark"] for one in rows]
        wrong += bool({"gain", "loss"} & set(marks))
        off_zero += sum(one != "noise" for one in marks)
        comparisons += len(marks)
    assert wrong <= 4  # two families, each wrong in 5 %: 2 expected
    assert 0.02 < off_zero / comparisons < 0.10  # and without the correction 5 % of the intervals miss zero
    assert verdict({"findings": find(twins(0, 5), table, joint)}, "merge_gains")[0] == UNTESTED


def pooled(name: str, stage: str, hits: Sequence[int], levels: Sequence[float]) -> Model:
    """A model of eight texts, every second with ten things to find, and of an easy and a hard slice of options."""
    texts = [
        {"id": str(n), "group": "", "slice": "", "scores": {}, "unreadable": False, "counts": {"f1_micro": [h, t, t]}}
        for n, (h, t) in enumerate(zip(hits, [1, 10] * 4, strict=True))
    ]
    options = [
        {"id": str(n), "group": "", "slice": part, "scores": {"accuracy": share}, "unreadable": False, "counts": {}}
        for part, share, count in (("easy", levels[0], 9), ("hard", levels[1], 3))
        for n in ([f"{part}{number}" for number in range(count)])
    ]
    entry = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 8, "unreadable": 0}
    result = {"benchmarks": {"sdoh": entry | {"metric": "f1_micro"}, "icd10cm": entry | {"metric": "accuracy"}}}
    where = Path(name)
    tables = {
        "sdoh": headline_table({"metric": "f1_micro", "slice_mean": False}, texts, where),
        "icd10cm": headline_table({"metric": "accuracy", "slice_mean": True}, options, where),
    }
    samples: dict[str, dict[str, Sample]] = {"sdoh": {}, "icd10cm": {}}
    evaluation: dict[str, Any] = {"facts": {}, "config": {"model": name}, "identity": {"inputs": {}}}
    return Model(name, stage, None, None, None, evaluation, result, samples, {}, tables)  # type: ignore[arg-type]


def test_pooled_metrics_and_slice_means_are_those_of_the_counts() -> None:
    """Gains by hand: F1 of summed counts 22/44 → 40/44, not the items' mean; slices weigh alike, not by their items."""
    base = pooled("base", "base", [1, 4, 1, 5, 1, 4, 1, 5], (0.9, 0.3))
    merge = pooled("merge", "merge", [0, 10] * 4, (0.8, 0.6))
    table, joint = build_table([base, merge], "base", "t", 0)
    made = row(table, "merge")
    assert made["benchmarks"]["sdoh"]["gain"]["value"] == pytest.approx(40 / 44 - 22 / 44)
    assert made["benchmarks"]["icd10cm"]["gain"]["value"] == pytest.approx((0.8 + 0.6) / 2 - (0.9 + 0.3) / 2)
    assert made["average"]["value"] == pytest.approx((40 / 44 + 0.7) / 2)
    assert made["gain"]["value"] == pytest.approx((18 / 44 + 0.1) / 2)
    assert made["datasets_gained"]["value"] == 2  # by items the options would tie: 0.75 each
    assert joint.draws.shape == (2000, 2, 2) and joint.draws[:, 0, 0].std() > 0.01


def test_a_slice_is_a_part_of_a_group() -> None:
    """Half of the items of one benchmark are a subject: its own mean and gain, and the corrected p is of both cells."""
    base, made = twins(3, 2)
    half = {str(n) for n in range(50)}
    models = [replace(model, slices={"mednli/easy": model.tables["mednli"].only(half)}) for model in (base, made)]
    groups = group_averages(models, "base", {"easy": ["mednli/easy"], "all": ["mednli", "rrs_qa"]}, 0)
    easy, every = (group["models"]["twin 1"] for group in groups)
    values = [model.tables["mednli"].counts[:50, 0].mean() for model in (base, made)]
    assert (easy["value"], easy["gain"]["value"]) == (values[1], pytest.approx(values[1] - values[0]))
    assert easy == easy | wilson(int(50 * values[1]), 50)._asdict()
    assert [easy["gain"]["p_holm"], every["gain"]["p_holm"]] == holm([easy["gain"]["p"], every["gain"]["p"]])
    single = [replace(model, slices={"mednli/one": model.tables["mednli"].only({"0"})}) for model in (base, made)]
    with pytest.raises(UserError, match="all of 'mednli/one' in one is about one document"):
        group_averages(single, "base", {"one": ["mednli/one"]}, 0)


def test_holm_and_marks() -> None:
    """Holm by hand; a mark needs both the interval and the corrected p."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert mark(0.1, 0.05, 0.15, 0.01) == "gain" and mark(0.1, 0.05, 0.15, 0.2) == "weak gain"
    assert mark(-0.1, -0.2, 0.01, 0.0) == "noise" and mark(-0.1, -0.2, -0.01, 0.0) == "loss"


def test_unevenness_is_the_papers() -> None:
    """CV of PubMed's gains in the paper's Tables 11 and 12 is the printed 1.8 (1.84, ddof = 1)."""
    base = [66.6, 28.4, 36.7, 45.9, 25.9, 41.1, 41.2, 11.2, 14.8, 42.3, 35.1, 49.3]
    pubmed = [68.3, 29.2, 37.6, 45.7, 26.3, 41.0, 44.1, 10.3, 22.2, 42.7, 35.8, 49.5]
    assert float(unevenness(np.array(pubmed) - np.array(base))) == pytest.approx(1.84, abs=0.01)


def test_fates_and_names() -> None:
    """What became of an item, and which expert belongs to which corpus."""
    assert [fate_of(scores) for scores in ([0, 1], [1, 0, 0], [1, 0, 1], [0.3, 0.4])] == [
        "turned right", "turned wrong", "right at both ends", "wrong at both ends",
    ]  # fmt: skip
    assert {corpus_key(name) for name in ("MedCode (raw)", "icd10cm", "medcode-raw", "raw_medcode")} == {"medcode"}
    assert corpus_key("guideline") == corpus_key("guidelines") != corpus_key("pubmed")


def test_prompts_are_shown_as_turns() -> None:
    """Lists, templated text and plain text become turns; withheld text becomes none."""
    templated = "<|system|>\nDecide.<|end|>\n<|user|>\nSENTENCE_1: a\nSENTENCE_2: b<|end|>\n<|assistant|>\n"
    assert turns(templated) == [
        {"role": "system", "content": "Decide."},
        {"role": "user", "content": "SENTENCE_1: a\nSENTENCE_2: b"},
    ]
    assert turns([{"role": "user", "content": "a"}]) == turns("a") == [{"role": "user", "content": "a"}]
    assert turns("sha256:0f") == turns("") == []


def test_the_lineage_is_drawn_in_layers() -> None:
    """Parents above children, nothing overlaps, a way that a longer one implies is marked."""
    entries = [
        {"key": key, "name": key, "command": "x.y", "parents": parents}
        for key, parents in {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c", "a"], "e": []}.items()
    ]
    entries[3]["parents"] = ["b", "c", "a", "e"]
    drawing = lay_out(entries)
    place = {node.key: (node.x, node.y) for node in drawing.nodes}
    assert place["a"][1] < place["b"][1] == place["c"][1] == place["e"][1] < place["d"][1]
    assert len({round(place[key][0]) for key in "bce"}) == 3
    gaps = sorted(place[key][0] for key in "bce")
    assert gaps[1] - gaps[0] >= NODE_WIDTH + GAP - 1e-6 and gaps[2] - gaps[1] >= NODE_WIDTH + GAP - 1e-6
    implied = [edge for edge in drawing.edges if edge.implied]
    assert len(drawing.edges) == 6 and len(implied) == 1 and len(implied[0].points) == 3
    assert all(0 <= node.x <= drawing.width and 0 <= node.y <= drawing.height for node in drawing.nodes)


def test_the_headline_shows_the_merge_that_was_aligned() -> None:
    """Of three merges that from which SFT was made, wherever it stands in the list; without alignment the last one."""
    from eval.report_page import headline

    def made(name: str, stage: str, parent: str | None) -> dict[str, object]:
        return {"name": name, "stage": stage, "parent": parent, "average": {"value": 0.5}}

    merges = [made(name, "merge", "base") for name in ("arithmetic", "ties", "breadcrumbs")]
    table = {"models": [made("base", "base", None), *merges], "baseline": "base", "derived": []}
    aligned = table | {"models": [*table["models"], made("sft", "sft", "arithmetic")]}

    assert [step["name"] for step in headline(aligned)["steps"]] == ["base", "arithmetic", "sft"]
    assert [step["name"] for step in headline(table)["steps"]] == ["base", "breadcrumbs"]
