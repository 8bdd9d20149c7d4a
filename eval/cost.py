"""What models cost to train and to run, and from how much use on a specialised one pays.

    python -m eval.cost cost.yml out=out/cost

    # cost.yml
    models:
      ours: {model: out/embedded/sft}
      general: {parameters: 3.8e9, tokenizer: models/phi}
    notes: out/embedded/corpus-clinical
    inference_tokens: [1.0e9, 1.0e12]

Training costs 6PT floating-point operations and inference 2PT (P parameters, T tokens). Parameters are counted in a
model folder's headers, tokens of training read from its run.json and ancestry, and the ratio of two tokenizers is
measured on the same notes. Where it is not given, pretraining is a sunk cost: 0. Writes cost.json, cost.md, cost.png.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

import medsmith.config
from eval.cost_ledger import BreakEven, Ledger, all_pairs
from eval.cost_models import count_parameters, count_tokens, find_trainings, read_notes
from eval.cost_tables import draw, verdict, write_page
from eval.statistics import Table, estimate, plain
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Block
from medsmith.errors import UserError
from medsmith.records import write_json

MILLION = 1_000_000
POINTS_PER_DECADE = 4

log = logging.getLogger("eval.cost")


class ModelCost(Block):
    """Where one model's numbers come from. Tokens are counted by its own tokenizer."""

    model: Path | None = Field(None, description="a model folder: its parameters, tokenizer and trainings are read")
    parameters: float | None = Field(None, gt=0, description="in place of counting them in the folder")
    tokenizer: Path | None = Field(None, description="a folder with tokenizer.json; none: the model folder")
    pretrain_tokens: float | None = Field(None, ge=0, description="none: as run.json tells, else 0 (a sunk cost)")
    finetune_tokens: float | None = Field(None, ge=0, description="none: as run.json tells, else 0")

    @model_validator(mode="after")
    def _has_size(self) -> ModelCost:
        if self.model is None and self.parameters is None:
            raise ValueError("give model (a folder) or parameters (a number)")
        return self


class Config(medsmith.config.Config):
    """Models to compare, and what they will be used for."""

    libraries: ClassVar = ("matplotlib", "tokenizers")

    models: dict[str, ModelCost] = Field(min_length=1, description="models by name")
    reference: str = Field("", description="the model in whose tokens inference is counted; none: the first")
    notes: Path | None = Field(
        None, description="notes (JSON Lines with text, or a corpus folder) that all tokenizers are measured on"
    )
    limit_notes: int = Field(1000, ge=2, description="measure at most so many")
    tokens_per_note: float | None = Field(None, gt=0, description="where no notes are given: the length of one")
    inference_tokens: tuple[float, float] = Field((1e9, 1e12), description="range of the reference's tokens to draw")
    dollars_per_flop: float | None = Field(None, gt=0, description="price of an operation, for amounts in dollars")

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        low, high = self.inference_tokens
        if not 0 < low < high:
            raise ValueError(f"inference_tokens: {low:g} to {high:g} is no range; give [low, high] above 0")
        if self.reference and self.reference not in self.models:
            raise ValueError(f"reference: no model is called '{self.reference}'; there are {', '.join(self.models)}")
        if self.notes is not None and self.tokens_per_note is not None:
            raise ValueError("tokens_per_note is measured on notes; leave one of the two out")
        return self


def main(config: Config) -> Path:
    """Write the ledger of config.models into config.out."""
    with run.start(config, "eval.cost") as this:
        reference = config.reference or next(iter(config.models))
        measured = measure(config, reference)
        models: dict[str, dict[str, Any]] = {}
        ledgers = []
        for name, given in config.models.items():
            entry = account(name, given) | measured[name]
            ledger = Ledger(
                name, entry["parameters"], entry["pretrain_tokens"] + entry["finetune_tokens"], entry["token_ratio"]
            )
            ledgers.append(ledger)
            models[name] = entry | costs(ledger, entry["tokens_per_note"], config.dollars_per_flop)
        per_note = measured[reference]["tokens_per_note"]
        pairs = [pair(found, per_note) for found in all_pairs(ledgers)]
        found = {
            "reference": reference,
            "token_ratio_measured": config.notes is not None,
            "dollars_per_flop": config.dollars_per_flop,
            "models": models,
            "break_even": pairs,
            "totals": [
                {"inference_tokens": tokens} | {ledger.name: ledger.total_flops(tokens) for ledger in ledgers}
                for tokens in grid(*config.inference_tokens)
            ],
        }
        write_json(this.folder / "cost.json", found)
        write_page(this.folder / "cost.md", found)
        draw(found, ledgers, config.inference_tokens, this.folder / "cost.png")
        for one in pairs:
            log.info("%s", one["verdict"])
        return this.finish(models=len(models), pairs=len(pairs))


def measure(config: Config, reference: str) -> dict[str, dict[str, Any]]:
    """By model: its tokens for one of the reference's with their interval, tokens a note and a byte.

    Without notes the ratio is 1, and `token_ratio_measured` says so; UserError where a model has no tokenizer.
    """
    if config.notes is None:
        nothing = {"token_ratio": 1.0, "token_ratio_low": None, "token_ratio_high": None, "tokens_per_byte": None}
        return {name: nothing | {"tokens_per_note": config.tokens_per_note} for name in config.models}
    notes = read_notes(config.notes, config.limit_notes)
    size = sum(len(note.encode("utf-8", "replace")) for note in notes)
    counts = {}
    for name, given in config.models.items():
        folder = given.tokenizer or given.model
        if folder is None:
            raise UserError(f"models.{name}: no tokenizer to measure on the notes; set models.{name}.tokenizer=FOLDER")
        counts[name] = count_tokens(folder, notes)
    measured = {}
    numbers = [str(number) for number in range(len(notes))]
    for name, own in counts.items():
        both = np.array([own, counts[reference]], dtype=float).T
        ratio = plain(estimate(Table(numbers, numbers, both, bounds=(0.0, math.inf)), config.seed))
        measured[name] = {
            "token_ratio": ratio["value"],
            "token_ratio_low": ratio["low"],
            "token_ratio_high": ratio["high"],
            "tokens_per_byte": sum(own) / size,
            "tokens_per_note": sum(own) / len(notes),
        }
    return measured


def account(name: str, given: ModelCost) -> dict[str, Any]:
    """A model's parameters and tokens of training, counted where it is ours.

    Raises:
        UserError: tokens are given that run.json tells too; they would count twice, or contradict it.
    """
    record = run.find_record(given.model) if given.model else None
    trainings = find_trainings(record)
    entry: dict[str, Any] = {"parameters": given.parameters, "trainings": trainings}
    if given.parameters is None:
        assert given.model is not None, "checked by ModelCost"
        entry["parameters"] = count_parameters(given.model)
    for kind in ("pretrain_tokens", "finetune_tokens"):
        told = [one["tokens"] for one in trainings if (one["command"] == "experts.pretrain") == (kind[0] == "p")]
        typed = getattr(given, kind)
        if told and typed is not None:
            raise UserError(f"models.{name}.{kind}: run.json of {given.model} tells {sum(told):,}; leave it out")
        entry[kind] = sum(told) if told else (typed or 0)
    return entry


def costs(ledger: Ledger, tokens_per_note: float | None, dollars_per_flop: float | None) -> dict[str, Any]:
    """Operations, and dollars where an operation has a price."""
    flops = {
        "training": ledger.training_flops,
        "per_token": ledger.flops_per_token,
        "per_note": None if tokens_per_note is None else ledger.flops_for_notes(tokens_per_note),
        "per_million_notes": None if tokens_per_note is None else ledger.flops_for_notes(tokens_per_note, MILLION),
    }
    if dollars_per_flop is None:
        return {"flops": flops, "dollars": None}
    dollars = {key: None if value is None else value * dollars_per_flop for key, value in flops.items()}
    return {"flops": flops, "dollars": dollars}


def pair(found: BreakEven, tokens_per_note: float | None) -> dict[str, Any]:
    """One break-even as cost.json has it: in tokens of the reference and, where a note's length is known, in notes."""
    notes = None if found.tokens is None or tokens_per_note is None else found.tokens / tokens_per_note
    return found._asdict() | {"notes": notes, "verdict": verdict(found, notes)}


def grid(low: float, high: float) -> list[float]:
    """Both ends and, between them, numbers in even steps of their logarithm."""
    steps = max(1, round(POINTS_PER_DECADE * float(np.log10(high / low))))
    return [float(f"{value:.4g}") for value in np.geomspace(low, high, steps + 1)]


if __name__ == "__main__":
    run_command(main, Config)
