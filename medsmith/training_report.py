"""A training told in one page: `log/report.html`, and what it shows as `log/report.json`.

    summary = follow(trainer, this, "sft", tokenizer, Story(prompts, show, data, share), dev)      # for each training
    write_report(this)                                                                             # before this.finish

Curves of the loss, on held-out texts too, and of measurements; speed beside what the machine can do; memory; what was
trained on; what the model says to three held-out prompts before and after. It tells of times, so it lies in `log/`,
which is no part of the folder's digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsmith import processes
from medsmith.records import read_json, write_json
from medsmith.training_log import METRICS, read_log, whole_rows

if TYPE_CHECKING:
    from medsmith.dev_slice import DevSlice
    from medsmith.run import Run

PROMPTS = 3
NEW_TOKENS = 32
MOST_TOPICS = 5


@dataclass(frozen=True)
class Story:
    """What a training's report needs and the trainer does not know."""

    prompts: Sequence[Sequence[int]] = ()
    """Token ids that the model goes on from, before and after; the first PROMPTS that fit are taken."""
    show: bool = False
    """Whether texts may be written down."""
    data: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """By source: source, rows, tokens and how often they are read in one epoch of the trainer (`epochs`, else once)."""
    trained_share: float | None = None


def follow(
    trainer: Any, this: Run, name: str, tokenizer: Any, story: Story, dev: DevSlice | None = None
) -> dict[str, Any]:
    """Train by run_trainer, and note beside the log what it cost and what the model says before and after."""
    from medsmith.training import run_trainer

    alone = processes.is_main() and not processes.is_sharded(trainer)
    prompts = fitting(story.prompts, trainer.model) if alone else []
    before = complete(trainer.model, tokenizer, prompts)
    summary = run_trainer(trainer, this, name, dev)
    after = complete(trainer.model, tokenizer, prompts)
    if processes.is_main():
        told = [
            {"prompt": tokenizer.decode(ids), "before": one, "after": other} if story.show else {"tokens": len(ids)}
            for ids, one, other in zip(prompts, before, after, strict=True)
        ]
        note = {"training": name, **summary, **speed(trainer, read_log(this, name), summary["tokens"])}
        data = [{**row, "epochs": round(row.get("epochs", 1) * summary["epochs"], 4)} for row in story.data]
        note |= {"trained_share": story.trained_share, "data": data, "completions": told}
        write_json(_note(this, name), note)
    return summary


def _note(this: Run, name: str) -> Path:
    return this.folder / "log" / f"training-{name}.json"


def fitting(prompts: Sequence[Sequence[int]], model: Any) -> list[list[int]]:
    """The first prompts that leave room for an answer."""
    room = int(model.config.get_text_config().max_position_embeddings) - NEW_TOKENS
    return [list(ids) for ids in prompts if 0 < len(ids) <= room][:PROMPTS]


def complete(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> list[str]:
    """What a model says next, by greedy decoding; the training is left as it was."""
    if not prompts:
        return []
    import torch

    from medsmith.borders import end_tokens
    from medsmith.dev_slice import undisturbed

    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(one)) + list(one) for one in prompts], device=model.device)
    seen = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=model.device)
    with undisturbed(model):
        made = model.generate(
            input_ids=ids,
            attention_mask=seen,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=end_tokens(tokenizer),
            pad_token_id=pad,
            use_cache=True,
        )
    return [tokenizer.decode(one, skip_special_tokens=True) for one in made[:, longest:].tolist()]


def speed(trainer: Any, rows: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, Any]:
    """Tokens a second, their share of what the devices can do, and memory."""
    import torch

    from medsmith.run import cost
    from medsmith.throughput import count_parameters, find_peak, flops_per_token, tokens_per_second

    device = trainer.model.device.type
    parameters, trained = count_parameters(trainer.model)
    rate = tokens_per_second(rows)
    peak = find_peak(device, trainer.args.bf16 or trainer.args.fp16)
    work = flops_per_token(parameters, trained)
    devices = processes.count()
    return {
        "parameters": parameters,
        "trained_parameters": trained,
        "seconds": rows[-1]["seconds"] if rows else None,
        "tokens_per_second": rate and round(rate, 1),
        "flops_per_token": work,
        "devices": devices,
        "peak": peak._asdict(),
        "flops_utilisation": rate and round(rate * work / (peak.flops_per_second * devices), 4),
        "peak_memory_bytes": cost()["peak_memory_bytes"],
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


# --- the page ---------------------------------------------------------------------------------------------------------


def write_report(this: Run) -> None:
    """Gather the notes of all trainings of a run; one that an earlier try finished is there too."""
    if not this.main:
        return
    rows = whole_rows(this.folder / METRICS)
    notes = [read_json(path) for path in (this.folder / "log").glob("training-*.json")]
    names = list(dict.fromkeys(row["training"] for row in rows))
    notes.sort(key=lambda note: names.index(note["training"]) if note["training"] in names else len(names))
    report = {
        "command": this.command,
        "name": this.folder.name,
        "simulated": bool(this.facts.get("simulated")),
        "licences": this.facts.get("licences", {}),
        "resumed_across": this.facts.get("resumed_across", []),
        "versions": this.identity["libraries"],
        "trainings": [note | {"curves": curves_of(note["training"], rows)} for note in notes],
    }
    write_json(this.folder / "log" / "report.json", report)
    (this.folder / "log" / "report.html").write_text(to_html(report), encoding="utf-8")


def curves_of(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[list[float]]]]:
    """{picture: {curve: points}} of one training, from the rows of metrics.jsonl."""
    own = [row for row in rows if row["training"] == name]

    def points(key: str, among: Sequence[Mapping[str, Any]] = own) -> list[list[float]]:
        return [[row["step"], row[key]] for row in among if isinstance(row.get(key), int | float)]

    loss = {"training": points("loss"), "held-out rows": points("eval_loss")}
    held = [row for row in rows if row["training"].startswith(f"{name}, held out")]
    for place in dict.fromkeys(row["training"] for row in held):
        title = f"held out{place.removeprefix(f'{name}, held out')}"
        loss[title] = points("heldout_loss", [row for row in held if row["training"] == place])
    measured = {"dev score": points("dev")}
    topics = list(dict.fromkeys(topic for row in own for topic in row.get("dev_metrics", {})))
    if 1 < len(topics) <= MOST_TOPICS:
        for topic in topics:
            measured[topic] = [[row["step"], row["dev_metrics"][topic]] for row in own if "dev_metrics" in row]
    preference = {side: points(f"rewards/{side}") for side in ("chosen", "rejected")}
    likelihood = {side: points(f"logps/{side}") for side in ("chosen", "rejected")}
    pictures = {
        "loss": loss,
        "measured while training": measured,
        "reward of answers": preference,
        "log-probability of answers": likelihood,
        "learning rate": {"learning rate": points("learning_rate")},
    }
    kept = {title: {key: value for key, value in one.items() if value} for title, one in pictures.items()}
    return {title: one for title, one in kept.items() if one}


def to_html(report: Mapping[str, Any]) -> str:
    """The page; it needs nothing else."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from medsmith.line_chart import Curve, draw

    environment = Environment(
        loader=PackageLoader("medsmith"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = {
        note["training"]: [
            draw([Curve(name, [(step, value) for step, value in points]) for name, points in one.items()], title)
            for title, one in note["curves"].items()
        ]
        for note in report["trainings"]
    }
    return environment.get_template("training_report.html.jinja").render(report=report, pictures=pictures)
