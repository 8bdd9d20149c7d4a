import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import report
from eval.report_costs import by_command, read_costs
from eval.report_findings import NO_DIFFERENCE, UNTESTED, find
from eval.report_inputs import (
    Entry,
    find_runs,
    headline_table,
    load_models,
)
from eval.report_tables import build_table
from medsmith import run
from medsmith.config import Config
from medsmith.errors import UserError
from medsmith.records import read_json, write_json, write_jsonl
from tests.test_eval_report_numbers import row, twins, verdict

BENCHMARKS = ("mednli", "icd10cm", "problem_list", "rrs_qa")
CORPORA = ("pubmed", "medcode")
ITEMS = 200
# name: stage, inputs, share of items answered rightly on each benchmark, perplexity on each corpus
CHAIN: dict[str, tuple[str, list[str], tuple[float, ...], tuple[float, ...]]] = {
    "base": ("base", [], (0.50, 0.40, 0.60, 0.30), (20.0, 30.0)),
    "pubmed raw": ("raw_expert", ["base"], (0.30, 0.20, 0.50, 0.20), (15.0, 33.0)),
    "medcode raw": ("raw_expert", ["base"], (0.25, 0.45, 0.30, 0.20), (22.0, 12.0)),
    "pubmed": ("expert", ["pubmed raw", "base"], (0.60, 0.50, 0.65, 0.40), (16.0, 30.0)),
    "medcode": ("expert", ["medcode raw", "base"], (0.50, 0.90, 0.55, 0.35), (20.5, 14.0)),
    "merge": ("merge", ["pubmed", "medcode", "base"], (0.60, 0.70, 0.64, 0.40), (17.0, 18.0)),
    "sft": ("sft", ["merge"], (0.70, 0.80, 0.60, 0.60), (18.0, 19.0)),
    "dpo": ("dpo", ["sft"], (0.70, 0.80, 0.55, 0.65), (18.0, 19.0)),
}


class Step(Config):
    """A step with any number of inputs."""

    corpus: str = ""
    inputs: dict[str, Path] = {}


class Evaluation(Config):
    """What eval.run records: the model among its inputs."""

    model: Path


def nested(share: float, items: int = ITEMS) -> list[float]:
    """The first `share` of the items right: of two models, the better one answers all that the other does."""
    return [float(number < round(share * items)) for number in range(items)]


def make_model(root: Path, name: str, command: str, inputs: list[Path], simulated: bool = True) -> Path:
    folder = root / name.replace(" ", "-")
    with run.start(Step(out=folder, corpus=name, inputs={path.name: path for path in inputs}), command) as this:
        this.facts |= {"simulated": simulated, "licences": {"clinic": "CC0-1.0"}}
        (folder / "model.safetensors").write_text(name)
        rows = [{"training": "phase 1", "step": step, "loss": 4 / step, "tokens": 50 * step} for step in range(1, 9)]
        write_jsonl(folder / "log" / "metrics.jsonl", rows)
        return this.finish(steps=8)


def make_evaluation(
    root: Path,
    model: Path,
    scores: dict[str, list[float]],
    perplexities: dict[str, list[float]],
    simulated: bool = True,
) -> Path:
    """Scores by item; perplexities by document, each of 50 tokens and 200 bytes."""
    folder = root / "eval" / model.name
    samples = [
        {
            "benchmark": benchmark, "id": f"{benchmark}-{number}", "group": "", "prompt": f"<question {number}>",
            "output": f"{model.name} says <b>", "answer": "A", "gold": "A", "score": score,
            "scores": {"accuracy": score}, "counts": {}, "slice": "", "unreadable": number < 3,
        }
        for benchmark, values in scores.items()
        for number, score in enumerate(values)
    ]  # fmt: skip
    documents = [
        {"corpus": corpus, "id": f"{corpus}-{number}", "nll": 50 * math.log(value), "tokens": 50, "bytes": 200}
        for corpus, values in perplexities.items()
        for number, value in enumerate(values)
    ]
    means = {benchmark: sum(values) / len(values) for benchmark, values in scores.items()}
    benchmarks = {
        benchmark: {
            "version": 1, "metric": "accuracy", "slice_mean": False,
            "value": mean, "low": mean - 0.07, "high": mean + 0.07,
            "n": len(scores[benchmark]), "unreadable": 3, "access": "open", "licence": "CC0-1.0",
            "published": not simulated, "simulated": simulated,
        }
        for benchmark, mean in means.items()
    }  # fmt: skip
    average = sum(means.values()) / max(1, len(means))
    perplexity = {}
    for corpus, values in perplexities.items():
        mean = sum(math.log(value) for value in values) / len(values)
        perplexity[corpus] = {
            "per_token": math.exp(mean), "low": math.exp(mean - 0.1), "high": math.exp(mean + 0.1),
            "per_byte": math.exp(mean / 4), "documents": len(values), "tokens": 50 * len(values),
            "bytes": 200 * len(values),
        }  # fmt: skip
    with run.start(Evaluation(out=folder, model=model), "eval.run") as this:
        write_jsonl(folder / "samples.jsonl", samples)
        write_jsonl(folder / "documents.jsonl", documents)
        result = {
            "model": str(model), "protocol": "strict", "fingerprint": "f", "suite": "mini", "benchmarks": benchmarks,
            "average": {"value": average, "low": average - 0.03, "high": average + 0.03}, "perplexity": perplexity,
        }  # fmt: skip
        write_json(folder / "result.json", result)
        this.finish(items=len(samples))
    return folder


COMMANDS = {"base": "experts.pretrain", "raw_expert": "experts.train", "sft": "align.sft", "dpo": "align.dpo"}


def documents_of(perplexity: float) -> list[float]:
    """Documents around a perplexity, the same spread for every model: differences between models are exact."""
    return [perplexity * math.exp(0.2 * math.sin(number)) for number in range(40)]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """The planted chain as finished run folders with their evaluations."""
    root = tmp_path_factory.mktemp("chain")
    folders: dict[str, Path] = {}
    made = []
    for name, (stage, inputs, shares, perplexities) in CHAIN.items():
        command = COMMANDS.get(stage, "merge_recipes.build")
        folders[name] = make_model(root, name, command, [folders[parent] for parent in inputs])
        scores = {benchmark: nested(share) for benchmark, share in zip(BENCHMARKS, shares, strict=True)}
        likelihoods = {corpus: documents_of(value) for corpus, value in zip(CORPORA, perplexities, strict=True)}
        evaluation = make_evaluation(root, folders[name], scores, likelihoods)
        made.append(Entry(name=name, stage=stage, model=folders[name], evaluation=evaluation))
    return made


@pytest.fixture(scope="module")
def table(entries: list[Entry]) -> dict[str, Any]:
    models = load_models(entries, "base")
    built, joint = build_table(models, "base", "A planted chain", 0)
    built["findings"] = find(models, built, joint)
    return built


@pytest.fixture(scope="module")
def written(entries: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.main(
        report.Config(out=tmp_path_factory.mktemp("out") / "report", models=entries, title="A <planted> chain")
    )


def test_averages_and_gains_are_those_planted(table: dict[str, Any]) -> None:
    """AVG, paired gain, #DG and CV of the merge, worked out by hand from the planted shares."""
    merge = row(table, "merge")
    assert merge["average"]["value"] == pytest.approx((0.60 + 0.70 + 0.64 + 0.40) / 4)
    assert merge["gain"]["value"] == pytest.approx((0.10 + 0.30 + 0.04 + 0.10) / 4)
    assert merge["datasets_gained"]["value"] == 4
    assert merge["cv"]["value"] == pytest.approx(np.std([0.10, 0.30, 0.04, 0.10], ddof=1) / 0.135)
    cell = merge["benchmarks"]["icd10cm"]
    assert cell["gain"]["value"] == pytest.approx(0.30)
    assert cell["gain"]["low"] < 0.30 < cell["gain"]["high"]
    assert cell["gain"]["mark"] == "gain"
    assert row(table, "pubmed raw")["benchmarks"]["icd10cm"]["gain"]["mark"] == "loss"
    assert row(table, "medcode")["benchmarks"]["mednli"]["gain"]["mark"] == "noise"  # no item differs
    assert row(table, "medcode")["datasets_gained"] == {
        **row(table, "medcode")["datasets_gained"],
        "value": 2,
        "real": 2,
    }


def test_groups_are_averaged_apart_and_their_gains_are_paired(entries: list[Entry], tmp_path: Path) -> None:
    """SFT over base on two of four benchmarks by hand; a slice is a part too; the page and its twin lead with them."""
    first, second = BENCHMARKS[:2]
    groups = {"facts": [first], "clinical tasks": [first, second]}
    out = report.main(report.Config(out=tmp_path / "out", models=entries, groups=groups))
    found = {group["name"]: group for group in read_json(out / "table.json")["groups"]}
    base, sft = CHAIN["base"][2], CHAIN["sft"][2]
    gain = found["clinical tasks"]["models"]["sft"]["gain"]
    assert gain["value"] == pytest.approx((sft[0] - base[0] + sft[1] - base[1]) / 2, abs=1e-3)
    assert gain["low"] > 0 and gain["mark"] == "gain"
    assert found["facts"]["models"]["sft"]["gain"]["value"] == pytest.approx(sft[0] - base[0], abs=1e-3)
    assert "gain" not in found["facts"]["models"]["base"]
    assert (found["facts"]["items"], found["clinical tasks"]["items"]) == (ITEMS, 2 * ITEMS)
    page = (out / "report.html").read_text()
    reader = _Page()
    reader.feed(page)
    assert reader.open == [] and "#groups" in reader.references
    assert page.index('id="groups"') < page.index('id="averages"')
    assert "## By group of benchmarks" in (out / "table.md").read_text()
    with pytest.raises(UserError, match=f"groups: facts names '{first}x', which base was not asked; all have"):
        report.main(report.Config(out=tmp_path / "bad", models=entries, groups={"facts": [f"{first}x"]}))


def test_summaries_of_the_experts(table: dict[str, Any]) -> None:
    """Worst, mean and best of the two experts per benchmark, then averaged."""
    worst, mean, best = (one["average"]["value"] for one in table["derived"])
    assert worst == pytest.approx((0.50 + 0.50 + 0.55 + 0.35) / 4)
    assert mean == pytest.approx((0.55 + 0.70 + 0.60 + 0.375) / 4)
    assert best == pytest.approx((0.60 + 0.90 + 0.65 + 0.40) / 4)


def test_perplexity_is_compared_on_the_same_documents(table: dict[str, Any]) -> None:
    """The planted ratio, with an interval that the documents' own spread does not widen; own corpora are marked."""
    cell = row(table, "medcode raw")["perplexity"]["medcode"]
    assert cell["per_token"] == pytest.approx(12.0, rel=0.01)
    assert cell["change"]["value"] == pytest.approx(12 / 30 - 1)
    assert cell["change"]["high"] == pytest.approx(cell["change"]["low"])
    assert cell["change"]["mark"] == "gain" and cell["own"]
    other = row(table, "pubmed raw")["perplexity"]["medcode"]
    assert other["change"]["value"] == pytest.approx(0.1) and other["change"]["mark"] == "loss" and not other["own"]


def test_parents_come_from_the_lineage(table: dict[str, Any]) -> None:
    """Without a `parent` each model's nearest ancestor among the models is found in run.json."""
    parents = {row["name"]: row["parent"] for row in table["models"]}
    assert parents["base"] is None
    assert parents["pubmed raw"] == "base" and parents["pubmed"] == "pubmed raw"
    assert parents["sft"] == "merge" and parents["dpo"] == "sft"


def test_the_planted_findings_come_out(table: dict[str, Any]) -> None:
    """Each finding's contrast has the planted value, and the verdict that follows."""
    assert verdict(table, "raw_falls") == ("holds", pytest.approx(((1.2 - 1.8) / 4 + (1.2 - 1.8) / 4) / 2))
    assert verdict(table, "slerp_restores") == ("holds", pytest.approx(((2.15 - 1.2) / 4 + (2.30 - 1.2) / 4) / 2))
    assert verdict(table, "experts_beat_base")[0] == "holds"
    assert verdict(table, "medcode_icd10cm") == ("holds", pytest.approx(0.40))
    assert verdict(table, "merge_gains") == ("holds", pytest.approx(0.135))
    assert verdict(table, "sft_lifts") == ("holds", pytest.approx((2.70 - 2.34) / 4))
    assert verdict(table, "dpo_little") == ("holds", pytest.approx(0.0))
    assert verdict(table, "problem_list") == ("holds", pytest.approx(-0.09))
    assert verdict(table, "own_corpus") == ("holds", pytest.approx(math.sqrt(16 / 20 * 14 / 30) - 1))
    assert verdict(table, "merge_even") == ("holds", pytest.approx(4 - (4 + 2) / 2))


def test_a_chain_without_merge_says_what_cannot_be_tested(entries: list[Entry]) -> None:
    """Only base and experts: no merge table, no alignment; those findings say what is missing, the rest is tested."""
    models = load_models(entries[:5], "base")
    table, joint = build_table(models, "base", "t", 0)
    findings = {finding["name"]: finding for finding in find(models, table, joint)}
    assert (
        findings["sft_lifts"]["verdict"] == UNTESTED
        and findings["sft_lifts"]["note"] == "it needs a merge and an SFT model"
    )
    assert findings["raw_falls"]["verdict"] == "holds"
    assert len(findings) == 11
    table["findings"] = list(findings.values())
    assert [one["name"] for one in report_tables(table)] == ["experts"]


def report_tables(table: dict[str, Any]) -> list[dict[str, Any]]:
    from eval.report_page import tables_of

    return tables_of(table)


def test_an_evaluation_without_benchmarks_still_gives_a_report(entries: list[Entry], tmp_path: Path) -> None:
    """Perplexity alone, and a model of it that was asked a benchmark more: laid out, no average."""
    made = []
    for entry in entries[:3]:
        assert isinstance(entry.model, Path)
        evaluation = make_evaluation(tmp_path, entry.model, {}, {"pubmed": documents_of(20.0)}, simulated=False)
        made.append(entry.model_copy(update={"evaluation": evaluation}))
    folder = report.main(report.Config(out=tmp_path / "report", models=made))
    table = read_json(folder / "table.json")
    assert table["benchmarks"] == [] and all(one["average"] is None for one in table["models"])
    findings = {finding["name"]: finding["verdict"] for finding in table["findings"]}
    assert findings["raw_falls"] == UNTESTED and findings["own_corpus"] == NO_DIFFERENCE
    page = (folder / "report.html").read_text()
    assert "Held-out perplexity" in page and page.count('<article class="finding"') == 1
    assert "10 findings</span>" in page and "there is no merge" in page


def test_benchmark_lists_may_differ(entries: list[Entry], tmp_path: Path) -> None:
    """A benchmark that not all answered is shown and is in no average."""
    first, second = entries[0], entries[5]
    assert isinstance(first.model, Path)
    scores = {"mednli": nested(0.5), "meqsum": nested(0.3)}
    evaluation = make_evaluation(tmp_path, first.model, scores, {})
    models = load_models([first.model_copy(update={"evaluation": evaluation}), second], "base")
    table, _ = build_table(models, "base", "t", 0)
    assert [(one["name"], one["in_average"]) for one in table["benchmarks"]][:2] == [
        ("mednli", True),
        ("meqsum", False),
    ]
    assert row(table, "merge")["average"]["value"] == pytest.approx(0.60)
    assert row(table, "merge")["gain"]["value"] == pytest.approx(0.10)


def test_what_does_not_fit_is_refused(entries: list[Entry], tmp_path: Path) -> None:
    """Other items, an evaluation of another model, a name twice, no baseline: one line that names it."""
    base, merge = entries[0], entries[5]
    assert isinstance(merge.model, Path)
    fewer = make_evaluation(tmp_path, merge.model, {"mednli": nested(0.5, 150)}, {})
    with pytest.raises(UserError, match=r"answered other items of 'mednli' \(150 and 200\)"):
        load_models([base, merge.model_copy(update={"evaluation": fewer})], "base")
    with pytest.raises(UserError, match="is not an evaluation of"):
        load_models([base, merge.model_copy(update={"evaluation": entries[6].evaluation})], "base")
    with pytest.raises(UserError, match="two models are named 'base'"):
        load_models([base, base], "base")
    with pytest.raises(UserError, match="the baseline 'phi' is none of the models"):
        load_models(entries, "phi")


def test_models_scored_unlike_or_on_one_document_are_refused(entries: list[Entry], tmp_path: Path) -> None:
    """Another metric, an evaluation of an older version, a benchmark about one patient: one line with the remedy."""
    base, merge = entries[0], entries[5]
    assert isinstance(merge.model, Path)
    folder = make_evaluation(tmp_path, merge.model, {"mednli": nested(0.5)}, {})
    changed: list[tuple[dict[str, Any], str]] = [
        ({"metric": "mean(accuracy)"}, "mednli: metric is mean.accuracy. for 'merge' and accuracy for 'base'"),
        ({"version": 2}, "mednli: version is 2 for 'merge' and 1 for 'base'"),
    ]
    whole = read_json(folder / "result.json")
    for change, message in changed:
        entry = whole["benchmarks"]["mednli"] | change
        write_json(folder / "result.json", whole | {"benchmarks": {"mednli": entry}})
        with pytest.raises(UserError, match=message):
            load_models([base, merge.model_copy(update={"evaluation": folder})], "base")
    with pytest.raises(UserError, match="written by an older version"):
        headline_table({"metric": "accuracy"}, [], folder)
    lonely = twins(0, 2)
    for model in lonely:
        model.tables["mednli"] = replace(model.tables["mednli"], groups=["p"] * 100)
    with pytest.raises(UserError, match="all of 'mednli' is about one document or patient"):
        build_table(lonely, "base", "t", 0)


class _Page(HTMLParser):
    """Every reference of a page, and whether its tags are balanced."""

    VOID = {"meta", "br", "img", "input", "link", "hr"}

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.references += [value for name in ("href", "src") if (value := values.get(name))]
        self.ids |= {value for value in [values.get("id")] if value}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An SVG shape: nothing stays open."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(written: Path) -> None:
    """No reference leaves the file, every anchor exists, tags are balanced, texts of models are escaped."""
    text = (written / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.references and all(one.startswith("#") and one[1:] in page.ids for one in page.references)
    assert not re.search(r"https?:|url\(|@import|<script", text)
    assert "A &lt;planted&gt; chain" in text and "says &lt;b&gt;" in text


def test_the_page_shows_every_part(written: Path) -> None:
    """Badge, three tables, findings with verdicts, heat map, lineage, curves, samples of each fate, costs, method."""
    text = (written / "report.html").read_text()
    assert 'id="simulated"' in text and "Simulated data" in text
    for part in ("Table 2", "Table 3", "Table 4", 'id="perplexity"', 'id="costs"', 'id="method"', "Holm"):
        assert part in text
    assert text.count('<article class="finding"') == 11
    assert text.count('class="curve-figure"') == 8  # one training a model
    assert text.count('<g class="node') == 8  # the finished model and its seven ancestors
    assert "40 turned right" in text and "turned wrong</b>" in text
    assert "400 unreadable" not in text and "3–3" in text


def test_the_badge_is_only_there_where_something_is_simulated(tmp_path: Path) -> None:
    """Real text, real benchmarks: no badge."""
    folders = [make_model(tmp_path, name, "experts.train", [], simulated=False) for name in ("base", "pubmed")]
    evaluations = [
        make_evaluation(tmp_path, folder, {"mednli": nested(0.5)}, {"pubmed": documents_of(9.0)}, simulated=False)
        for folder in folders
    ]
    models = [
        Entry(name=folder.name, stage=stage, model=folder, evaluation=evaluation)
        for folder, evaluation, stage in zip(folders, evaluations, ("base", "expert"), strict=True)
    ]
    written = report.main(report.Config(out=tmp_path / "report", models=models))
    assert "Simulated data" not in (written / "report.html").read_text()
    assert read_json(written / "table.json")["simulated"] is False


def test_the_same_inputs_give_the_same_bytes(entries: list[Entry], written: Path, tmp_path: Path) -> None:
    """table.json and table.md of a second report, its models given in another order, are those of the first."""
    again = report.main(report.Config(out=tmp_path / "again", models=entries[::-1], title="A <planted> chain"))
    first, second = (json.loads((folder / "table.json").read_text()) for folder in (written, again))
    by_name = [{one["name"]: one["benchmarks"] for one in table["models"]} for table in (first, second)]
    assert by_name[0] == by_name[1]
    same = report.main(report.Config(out=tmp_path / "same", models=entries, title="A <planted> chain"))
    for name in ("table.json", "table.md"):
        assert (same / name).read_bytes() == (written / name).read_bytes()
    markdown = (written / "table.md").read_text()
    assert "| merge | merge | 60.0 (53.0–67.0) ▲+10.0 |" in markdown and "**Simulated data**" in markdown


def test_a_model_without_a_run_is_found_in_the_lineage_by_its_files(tmp_path: Path) -> None:
    """A base that is a plain folder is the parent of what was made from it; its evaluation is checked by content."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_text("weights")
    expert = make_model(tmp_path, "pubmed", "experts.train", [base])
    entries = [
        Entry(
            name=folder.name, stage=stage, model=folder, evaluation=make_evaluation(tmp_path, folder, {"a": [1.0]}, {})
        )
        for folder, stage in ((base, "base"), (expert, "expert"))
    ]
    assert [model.parent for model in load_models(entries, "base")] == [None, "base"]
    (base / "model.safetensors").write_text("other weights")
    with pytest.raises(UserError, match="is not an evaluation of"):
        load_models(entries, "base")


def test_costs_are_those_of_the_named_runs(entries: list[Entry], tmp_path: Path) -> None:
    """Seconds and memory from run.json; tokens of a training from its log, of a teacher from its journal."""
    folder = tmp_path / "judge"
    with run.start(Step(out=folder), "mediflow.judge") as this:
        calls = [{"id": str(n), "usage": {"prompt_tokens": 100, "completion_tokens": 20}} for n in range(5)]
        write_jsonl(folder / "raw" / "calls.jsonl", calls)
        this.finish(rows=5)
    assert isinstance(entries[6].model, Path)
    rows = {row["name"]: row for row in read_costs(find_runs([folder, entries[6].model], follow=False))}
    assert rows.keys() == {"judge", "sft"}
    assert rows["judge"]["tokens"] == 600 and rows["sft"]["tokens"] == 400
    assert rows["sft"]["peak_memory_bytes"] > 2**20
    summed = by_command(list(rows.values()) * 2)
    assert {row["command"]: (row["steps"], row["tokens"]) for row in summed} == {
        "mediflow.judge": (2, 1200), "align.sft": (2, 800),
    }  # fmt: skip
    assert len(find_runs([entries[6].model])) == 7  # the SFT model and all that it was made from
