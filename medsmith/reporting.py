"""`medsmith plan` and `medsmith status`: tables of where things stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medsmith import run
from medsmith.costs import Work, compare, costs_of, count
from medsmith.digests import RECORD, STARTED
from medsmith.display import count_words, describe
from medsmith.errors import UserError
from medsmith.pipeline import Pipeline, load_pipeline
from medsmith.progress import read_progress
from medsmith.runner import read_note
from medsmith.sizes import Sizes
from medsmith.standing import Standing, survey

PLANNED = {"finished": "up to date", "waiting": "waiting", "running": "running"}


def print_plan(pipeline: Pipeline) -> None:
    """Every step: would run, up to date or waiting, and why."""
    found = survey(pipeline)
    rows = []
    for standing in found.values():
        step, verdict = standing.step, PLANNED.get(standing.state, "would run")
        reasons = standing.reasons
        if standing.state == "waiting":
            reasons = [f"{standing.reasons[0]}; runs only where their results change"]
        elif verdict == "would run" and standing.state != "to do":
            reasons = [f"{standing.state}: {reason}" for reason in reasons[:1]] + reasons[1:]
        rows.append((step.name, step.run, str(step.threads), verdict, "; ".join(reasons[:3])))
    print_table(("step", "command", "threads", "plan", "why"), rows)
    counts = Counter(row[3] for row in rows)
    print(f"\n{pipeline.name} -> {pipeline.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def print_costs(pipeline: Pipeline, mfu: float | None = None) -> None:
    """GPU hours, paid tokens and disk of every step, from the sizes that the pipeline's YAML gives."""
    assert pipeline.sizes is not None, "the caller looks whether there are sizes"
    sizes = pipeline.sizes
    if mfu is not None:
        if not 0 < mfu <= 1:
            raise UserError(f"--mfu {mfu:g}: it is a share; give e.g. 0.4")
        sizes = sizes.model_copy(update={"gpu": sizes.gpu.model_copy(update={"mfu": mfu})})
    works = costs_of(pipeline, sizes)
    rows = [_cost_row(name, work, sizes) for name, work in works.items() if work != Work()]
    total = [sum(column) for column in zip(*(_amounts(work, sizes) for work in works.values()), strict=True)]
    scratch = max(work.scratch for work in works.values()) / 1e9
    rows.append(_cost_cells("all", total, f"and at most {scratch:,.0f} GB more while a step works"))
    print_table(("step", "GPU hours", "passes", "paid tokens", "USD", "GB kept", "counted as"), rows)
    print("\n" + "\n".join(_cost_remarks(works, sizes)))


def _cost_remarks(works: Mapping[str, Work], sizes: Sizes) -> Iterator[str]:
    model, gpu = sizes.model, sizes.gpu
    trained = 6 * (model.parameters + sizes.block * model.hidden * model.layers) / 1e9
    yield (
        f"{gpu.name}: {gpu.tflops:g} TFLOP/s × {gpu.mfu:.0%} in use ({gpu.writing_mfu:.0%} while a model writes); "
        "a pass is a token once through the model."
    )
    yield (
        f"A token trained is 6 × (P + S·H·L) = {trained:.1f} GFLOP, a token read a third of it: P "
        f"{model.parameters / 1e9:.2f} billion, S {sizes.block} or a row's length, H {model.hidden}, L {model.layers}."
    )
    assumed = [name for name, size in sizes.steps.items() if "assumed" in size.source]
    if assumed:
        yield f"Assumed, for nobody has published it: sizes of {', '.join(assumed)}."
    told = compare(works, sizes)
    if told and sizes.published:
        yield (
            f"Published: {told.published:,.0f} GPU hours, {sizes.published.what}. The same steps here: "
            f"{told.hours:,.0f} ({told.difference:+.0%}); the two are equal with {told.mfu:.0%} in use."
        )
        yield f"Left out of that comparison: {', '.join(sizes.published.without)}."


def _amounts(work: Work, sizes: Sizes) -> tuple[float, ...]:
    passes = work.trained + work.read + work.written
    return work.hours(sizes), passes, work.prompt + work.completion, work.cost or 0.0, work.kept


def _cost_row(name: str, work: Work, sizes: Sizes) -> tuple[str, ...]:
    unknown = ": what it costs is unknown, its price is" if work.cost is None else ""
    return _cost_cells(name, _amounts(work, sizes), work.how + unknown)


def _cost_cells(name: str, amounts: Sequence[float], how: str) -> tuple[str, ...]:
    hours, passes, paid, cost, kept = amounts
    return (
        name,
        f"{hours:,.1f}" if hours else "",
        count(passes) if passes else "",
        count(paid) if paid else "",
        f"{cost:,.0f}" if cost else "",
        f"{kept / 1e9:,.1f}",
        how,
    )


def print_status(target: Path | None, settings: Sequence[str]) -> None:
    """Where a pipeline, a folder of runs, one run, or everything below out/ stands."""
    if target is not None and target.is_file():
        _print_pipeline(load_pipeline(target, settings))
        return
    folders = [target] if target is not None else sorted(path for path in Path("out").glob("*") if path.is_dir())
    if not folders:
        raise UserError("nothing below out/ yet; start with `medsmith run pipelines/embedded.yml`")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no such file or folder: {folder}; give a pipeline's YAML or a folder below out/")
        note = read_note(folder)
        if note is not None and note[0].is_file():
            _print_pipeline(load_pipeline(note[0], [*note[1], *settings]))
        else:
            _print_folder(folder)


def _print_pipeline(pipeline: Pipeline) -> None:
    pipeline.check()
    found = survey(pipeline)
    rows = [_row(standing.step.name, standing.step.folder, standing) for standing in found.values()]
    held = " (a run is working on it)" if run.is_held(pipeline.out) else ""
    print(f"{pipeline.name}: {pipeline.out}{held}")
    print_table(("step", "state", "seconds", "counts", ""), rows)
    counts = Counter(standing.state for standing in found.values())
    print("  " + ", ".join(f"{count} {state}" for state, count in counts.items()) + "\n")


def _print_folder(folder: Path) -> None:
    """Runs without a pipeline: what their folders alone can tell (not whether they are stale)."""
    runs = sorted({path.parent for name in (RECORD, STARTED) for path in folder.rglob(name)})
    if not runs:
        raise UserError(f"{folder} holds no run of ours")
    rows = []
    for one in runs:
        record, tried = run.read_record(one), run.read_started(one) or {}
        state = "finished" if record else "failed" if tried.get("error") else "interrupted"
        if record is None and run.is_held(one):
            state = "running"
        rows.append(_cells(str(one), one, state, record, [tried["error"]] if tried.get("error") else []))
    print_table(("run", "state", "seconds", "counts", ""), rows)


def _row(name: str, folder: Path, standing: Standing) -> tuple[str, ...]:
    reasons = standing.reasons if standing.state != "finished" else []
    state = "finished" if standing.state == "waiting" else standing.state
    return _cells(name, folder, state, standing.record, reasons)


def _cells(name: str, folder: Path, state: str, record: dict[str, Any] | None, reasons: list[str]) -> tuple[str, ...]:
    seconds = f"{record['seconds']:.1f}" if record else ""
    counts = count_words(record["counts"], most=4) if record else ""
    progress = read_progress(folder / "log" / "progress.json") if state == "running" else None
    remark = f"{progress['description']}: {describe(progress)}" if progress else "; ".join(reasons[:2])
    return name, state, seconds, counts, remark


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns; the last one is as long as it is."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head) - 1)]
    for row in (head, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())
