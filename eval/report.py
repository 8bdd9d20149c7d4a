"""Lay every model of a chain side by side: tables, findings, perplexities, lineage, samples, costs.

    medsmith run pipelines/embedded.yml        (its last step; by itself: python -m eval.report recipe.yml out=FOLDER)

Writes `table.json`, `table.md`, `table.tex` (the same inputs give the same bytes) and `report.html`: one file without a
server or a network. The page also tells what each step cost, so it is not the same byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from eval.report_costs import by_command, read_costs, read_curves
from eval.report_figures import draw_curve, draw_lineage
from eval.report_findings import Chain, find
from eval.report_inputs import Entry, FoundRun, Model, find_runs, load_models
from eval.report_latex import render_latex
from eval.report_lineage import entries_of, lay_out
from eval.report_page import render_markdown, render_page
from eval.report_samples import choose_samples
from eval.report_tables import build_table
from medsmith import config as floor
from medsmith import run
from medsmith.command import run_command
from medsmith.records import write_json

STAGE_OF_COMMAND = {
    "experts.train": "expert",
    "experts.pretrain": "base",
    "align.sft": "sft",
    "align.distill": "sft",
    "align.dpo": "dpo",
}


class Config(floor.Config):
    """The models of a report and what it says of them."""

    title: str = Field("A small clinical model, made step by step", description="the headline of the report")
    models: list[Entry] = Field(description="the models, each with its stage, folder and evaluation", min_length=1)
    baseline: str = Field("base", description="the model that all gains are over, by name")
    groups: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        {},
        description="benchmarks (or slices, benchmark/slice) that are also averaged apart, e.g. {facts: [icd10cm], "
        "tasks: [medec, meqsum]}",
    )
    runs: list[Path] = Field([], description="runs whose costs and curves are shown; none: all on the way")
    findings: bool = Field(True, description="whether to test the paper's findings")


def main(config: Config) -> Path:
    """Read, tabulate, test, draw, write."""
    with run.start(config, "eval.report") as this:
        models = load_models(config.models, config.baseline)
        table, joint = build_table(models, config.baseline, config.title, config.seed, config.groups)
        table["findings"] = find(models, table, joint) if config.findings else []
        this.facts["simulated"] = table["simulated"]
        write_json(this.folder / "table.json", table)
        (this.folder / "table.md").write_text(render_markdown(table), encoding="utf-8")
        (this.folder / "table.tex").write_text(render_latex(table), encoding="utf-8")
        page = render_page(table, gather(models, Chain(models, config.baseline, joint), table, _runs(config)))
        (this.folder / "report.html").write_text(page, encoding="utf-8")
        tested = sum(finding["verdict"] != "not tested" for finding in table["findings"])
        return this.finish(models=len(models), benchmarks=len(table["benchmarks"]), findings_tested=tested)


def _runs(config: Config) -> list[FoundRun]:
    """Those that are named; else every one on the way to the models and their evaluations."""
    if config.runs:
        return find_runs(config.runs, follow=False)
    models = [entry.model for entry in config.models if isinstance(entry.model, Path)]
    return find_runs([*models, *(entry.evaluation for entry in config.models)])


def gather(models: Sequence[Model], chain: Chain, table: dict[str, Any], runs: Sequence[FoundRun]) -> dict[str, Any]:
    """What the page shows beside the tables."""
    costs = read_costs(runs)
    final = chain.final or models[-1]
    benchmarks = [benchmark["name"] for benchmark in table["benchmarks"]]
    return {
        "curves": _curves(runs),
        "lineage": _lineage(final),
        "lineage_of": final.name,
        "samples": choose_samples(chain.way(), benchmarks),
        "way": [model.name for model in chain.way()],
        "costs": costs,
        "commands": by_command(costs),
        "licences": _licences(models),
        "versions": _versions(models),
    }


def _curves(runs: Sequence[FoundRun]) -> list[Any]:
    drawings = []
    for folder, record in runs:
        stage = STAGE_OF_COMMAND.get(record["command"], "merge")
        curves = read_curves(folder)
        for curve in curves:
            part = curve["training"] if curve["training"] != folder.name else ""
            name = folder.name if len(curves) == 1 or not part else f"{folder.name}: {part}"
            drawings.append(draw_curve(curve, name, stage))
    return drawings


def _lineage(model: Model) -> Any:
    if model.record is None:
        return ""
    entries = entries_of(model.record, Path(model.record["config"]["out"]).name)
    details = {}
    for entry in entries:
        counts = ", ".join(f"{name} {value:,}" for name, value in entry.get("counts", {}).items())
        details[entry["key"]] = f"{entry['name']} ({entry['command']}, {entry['key']}) {counts}".strip()
    return draw_lineage(lay_out(entries), details)


def _licences(models: Sequence[Model]) -> dict[str, str]:
    found: dict[str, str] = {}
    for model in models:
        for record in (model.record, model.evaluation):
            found |= (record or {}).get("facts", {}).get("licences") or {}
    return dict(sorted(found.items()))


def _versions(models: Sequence[Model]) -> dict[str, str]:
    found: dict[str, str] = {}
    for model in models:
        for record in (model.record, model.evaluation):
            found |= (record or {}).get("versions") or {}
    return dict(sorted(found.items()))


if __name__ == "__main__":
    run_command(main, Config)
