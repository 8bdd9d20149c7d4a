"""What a run of mediflow.generate will take, before anything is spent: calls, records, tokens, money, hours, disk.

    python -m mediflow.plan mediflow/recipes/generate_openai.yml out=out/paper instructions=700000

It takes the settings of mediflow.generate and calls nobody. Prompts are measured by rendering a sample of the real
ones, replies are taken to be as long as the paper's. Where `out` holds a journal (a pilot: the same recipe with few
instructions, or the run itself, stopped), what its calls really took is used instead, with 95 % intervals. The plan is
printed, and written as plan.json into a folder beside `out`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import mediflow.generate
from mediflow.generate import open_source, taxonomy_of
from mediflow.generation.calls import Call, Calls
from mediflow.taxonomy import check_weights
from medsmith import run
from medsmith.command import run_command
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.intervals import Interval, Z, wilson
from medsmith.llm import TeacherConfig
from medsmith.prices import extra_calls
from medsmith.records import write_json
from medsmith.replies import read_usage

CHARACTERS_PER_TOKEN = 4
# The paper's means (its figures 7 to 9), in tokens.
INSTRUCTION_TOKENS, INPUT_TOKENS, OUTPUT_TOKENS = 301, 76, 79
TAG_TOKENS = 15
ASSUMED_TOKENS_PER_SECOND, ASSUMED_START_SECONDS = 60.0, 1.0
SAMPLE = 300
COUNTED_CALLS = 100_000
ROW_BYTES, LEDGER_BYTES, JOURNAL_BYTES = 450, 950, 900
"""What a row, a ledger line and a journal line are besides the texts, as measured."""
FACTS_BYTES = 2_200


FOREIGN = "mediflow.plan plans runs of mediflow.generate, and these are settings of another command"
OTHERS = (
    *("generated", "judged", "curated", "samples", "calibrate", "structured", "temperature"),
    *("ranks", "rules", "error_types", "balance", "min_quality", "top_rows", "stratify", "documents"),
)


class Config(mediflow.generate.Config):
    """The settings of mediflow.generate, and `rows` in the place of `instructions`."""

    foreign: ClassVar[dict[str, str]] = dict.fromkeys(OTHERS, FOREIGN)

    rows: int | None = execution(
        None, "plan for so many rows in the place of `instructions`, by the mean of `examples`"
    )
    out: Path = execution(
        Path("out/mediflow/generate"), "the folder of the run that is planned; a journal in it serves as pilot"
    )


@dataclass(frozen=True)
class PerCall:
    """What one call takes. `calls` is how many a pilot had, 0 where this is assumed; `extra` calls for each planned.

    The tokens are None where the pilot's endpoint did not tell them.
    """

    prompt_tokens: Interval | None
    completion_tokens: Interval | None
    seconds: Interval
    extra: Interval
    calls: int


@dataclass(frozen=True)
class TeacherPlan:
    """One teacher's part of the run; None is unknown: tokens not told by a pilot, money without price or tokens."""

    teacher: str
    calls: Interval
    prompt_tokens: Interval | None
    completion_tokens: Interval | None
    hours: Interval
    cost: Interval | None
    pilot_calls: int


def main(config: Config) -> Path:
    """Print the plan and write it beside config.out."""
    config = by_rows(config)
    beside = config.model_copy(update={"out": config.out.with_name(f"{config.out.name}-plan")})
    with run.start(beside, "mediflow.plan") as this:
        plan = make_plan(config)
        show(plan, config)
        teachers = [{**asdict(part), **_named(part)} for part in plan["teachers"]]
        write_json(this.folder / "plan.json", {**plan, "teachers": teachers})
        return this.finish(calls=plan["calls"], records=plan["records"])


def by_rows(config: Config) -> Config:
    """The settings with as many instructions as make `rows` rows, where it is given.

    Raises:
        UserError: rows is below 1.
    """
    if config.rows is None:
        return config
    if config.rows < 1:
        raise UserError(f"rows={config.rows} is no number of rows; give 1 or more")
    return config.model_copy(update={"instructions": math.ceil(config.rows / mean_examples(config))})


def mean_examples(config: Config) -> float:
    """Examples of an instruction, in the mean."""
    return config.examples if isinstance(config.examples, int) else sum(config.examples) / len(config.examples)


def over_budget(config: Config, parts: Sequence[TeacherPlan]) -> Iterator[str]:
    """A line for each teacher whose plan passes its budget."""
    for teacher, part in zip(config.teachers, parts, strict=True):
        limit = teacher.budget.max_cost
        if limit is not None and part.cost is not None and part.cost.value > limit:
            yield (
                f"{part.teacher}: the planned {part.cost.value:,.2f} passes budget.max_cost {limit:,.2f}: the run "
                "would stop there; raise it or plan less"
            )


def make_plan(config: Config) -> dict[str, Any]:
    """The plan as plan.json has it."""
    taxonomy = taxonomy_of(config)
    check_weights(config.weights, taxonomy)
    calls = Calls(config, taxonomy, open_source(config))
    counted = list(islice(calls.plan(), COUNTED_CALLS))
    lengths = [_characters(calls, call) for call in counted[:: max(1, len(counted) // SAMPLE)][:SAMPLE]]
    records = round(sum(call.wanted for call in counted) / len(counted) * calls.planned)
    pilot = list(read_pilot(config.out / "raw" / "calls.jsonl"))
    shares = sum(teacher.share for teacher in config.teachers)
    parts, disk_tokens = [], 0.0
    for teacher in config.teachers:
        own = [row for row in pilot if row["teacher"] == teacher.name]
        assumption = assumed(config, lengths)
        per_call = from_pilot(own) if own else assumption
        parts.append(plan_teacher(config, teacher, calls.planned * teacher.share / shares, per_call))
        for name in ("prompt_tokens", "completion_tokens"):
            disk_tokens += parts[-1].calls.value * (getattr(per_call, name) or getattr(assumption, name)).value
    cells = {
        (c.task_type, c.document_type, c.section, c.output_format, c.difficulty) for c in (x.cell for x in counted)
    }
    return {
        "calls": calls.planned,
        "instructions": calls.planned * config.per_call,
        "records": records,
        "pairs": len({cell[:3] for cell in cells}),
        "cells": len(cells),
        "cells_counted_in": len(counted),
        "prompt_characters": round(sum(lengths) / len(lengths)),
        "disk_bytes": disk_bytes(config, records, disk_tokens),
        "teachers": parts,
    }


def plan_teacher(config: Config, teacher: TeacherConfig, planned: float, per_call: PerCall) -> TeacherPlan:
    """What `planned` calls of one teacher take, repairs and refills added."""
    calls = Interval(*(planned * (1 + part) for part in per_call.extra))
    prompt = completion = cost = None
    if per_call.prompt_tokens is not None and per_call.completion_tokens is not None:
        prompt = _product(calls, per_call.prompt_tokens)
        completion = _product(calls, per_call.completion_tokens)
    busy = _product(calls, per_call.seconds)
    hours = [part / teacher.concurrency / 3600 for part in busy]
    if teacher.requests_per_minute is not None:
        starts = [part / teacher.requests_per_minute / 60 for part in calls]
        hours = [max(pair) for pair in zip(hours, starts, strict=True)]
    if teacher.tokens_per_minute is not None and prompt is not None and completion is not None:
        tokens = [sum(pair) / teacher.tokens_per_minute / 60 for pair in zip(prompt, completion, strict=True)]
        hours = [max(pair) for pair in zip(hours, tokens, strict=True)]
    if (price := teacher.token_price) is not None and prompt is not None and completion is not None:
        bounds = zip(prompt, completion, strict=True)
        cost = Interval(*(price.cost(round(p), round(c), batch=config.engine == "batch") for p, c in bounds))
    return TeacherPlan(teacher.name, calls, prompt, completion, Interval(*hours), cost, per_call.calls)


def assumed(config: Config, prompt_characters: Sequence[int]) -> PerCall:
    """Without a pilot: prompts as rendered, replies as long as the paper's, a server of usual speed."""
    examples = mean_examples(config)
    pair = OUTPUT_TOKENS + TAG_TOKENS + (0 if config.passages else INPUT_TOKENS)
    completion = config.per_call * (INSTRUCTION_TOKENS + TAG_TOKENS + examples * pair)
    seconds = ASSUMED_START_SECONDS + completion / ASSUMED_TOKENS_PER_SECOND
    return PerCall(
        mean([characters / CHARACTERS_PER_TOKEN for characters in prompt_characters]),
        Interval(completion, completion, completion),
        Interval(seconds, seconds, seconds),
        Interval(extra_calls(config), 0.0, 2 * extra_calls(config)),
        0,
    )


def from_pilot(rows: Sequence[dict[str, Any]]) -> PerCall:
    """What the answered calls of a journal took."""
    extra = sum(_is_extra(row["about"]) for row in rows)
    # Extra calls for each planned one, from their share of all.
    odds = Interval(*(part / max(1 - part, 1 / len(rows)) for part in wilson(extra, len(rows))))
    # A prompt has tokens: an endpoint that tells none of them, or 0, does not tell its usage.
    used = [used for row in rows if (used := read_usage(row["usage"])) is not None]
    return PerCall(
        mean([one.prompt for one in used]) if used else None,
        mean([one.completion for one in used]) if used else None,
        mean([row["seconds"] for row in rows]),
        odds,
        len(rows),
    )


def read_pilot(journal: Path) -> Iterator[dict[str, Any]]:
    """The answered calls of a journal, which may be growing, without their texts; none where there is no journal."""
    import orjson

    if not journal.is_file():
        return
    with journal.open("rb") as lines:
        for line in lines:
            row = orjson.loads(line) if line.endswith(b"\n") else {}
            if row.get("error", "") is None:
                yield {name: row.get(name) for name in ("teacher", "usage", "seconds", "about")}


def mean(values: Sequence[float]) -> Interval:
    """The mean with its 95 % interval, by the normal approximation."""
    value = sum(values) / len(values)
    if len(values) < 2:
        return Interval(value, value, value)
    deviation = math.sqrt(sum((one - value) ** 2 for one in values) / (len(values) - 1))
    half = Z * deviation / math.sqrt(len(values))
    return Interval(value, max(0.0, value - half), value + half)


def disk_bytes(config: Config, records: int, tokens: float) -> int:
    """What journal, rows, ledger and facts will take: the texts, and what stands around them."""
    calls = records / (config.per_call * config.most_examples)
    journal = CHARACTERS_PER_TOKEN * tokens + calls * JOURNAL_BYTES
    rows = records * (CHARACTERS_PER_TOKEN * (INSTRUCTION_TOKENS + INPUT_TOKENS + OUTPUT_TOKENS) + ROW_BYTES)
    facts = 0 if config.grounding == "none" or config.passages else records / config.per_call * FACTS_BYTES
    return round(journal + rows + records * LEDGER_BYTES + facts)


def show(plan: dict[str, Any], config: Config) -> None:
    """Print the plan as a table, a column a teacher, and what it rests on."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    parts: list[TeacherPlan] = plan["teachers"]
    more = "at least " if plan["calls"] > plan["cells_counted_in"] else ""
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{plan['instructions']:,} instructions in {plan['calls']:,} calls, {plan['records']:,} records, "
        f"{plan['pairs']:,} pairs of task and input, {more}{plan['cells']:,} cells; "
        f"{plan['disk_bytes'] / 1e9:,.2f} GB of disk",
        markup=False,
    )
    table = Table(box=box.SIMPLE)
    table.add_column("teacher")
    for part in parts:
        table.add_column(part.teacher, justify="right")
    for label, name, form in ROWS:
        values = [getattr(part, name) for part in parts]
        table.add_row(label, *("unknown" if one is None else say(one, form) for one in values))
    costs = [part.cost for part in parts]
    if len(parts) > 1:
        total = sum(cost.value for cost in costs if cost)
        table.caption = f"money together {total:,.2f}" + ("" if all(costs) else ", without those that are unknown")
    console.print(table)
    for part in parts:
        console.print(f"{part.teacher}: {rests_on(part, config)}", markup=False)
    for line in over_budget(config, parts):
        console.print(f"warning: {line}", markup=False)


ROWS = (
    ("calls, with repairs and refills", "calls", ",.0f"),
    ("prompt tokens", "prompt_tokens", ",.0f"),
    ("completion tokens", "completion_tokens", ",.0f"),
    ("hours", "hours", ",.2f"),
    ("money", "cost", ",.2f"),
)


def say(number: Interval, form: str) -> str:
    """`1,234 (1,000 to 1,500)`."""
    return f"{number.value:{form}} ({number.low:{form}} to {number.high:{form}})"


def rests_on(part: TeacherPlan, config: Config) -> str:
    """Where the numbers come from, in one line."""
    if part.pilot_calls:
        went = f"as {part.pilot_calls:,} calls of {config.out / 'raw'} went; bounds are 95 % intervals of the means"
        told = "; its endpoint tells no usage, so tokens and money are unknown" if part.prompt_tokens is None else ""
        return went + told
    return (
        f"prompts rendered, {CHARACTERS_PER_TOKEN} characters a token; replies as long as the paper's (tokens: "
        f"instruction {INSTRUCTION_TOKENS}, input {INPUT_TOKENS}, output {OUTPUT_TOKENS}); assumed are "
        f"{ASSUMED_TOKENS_PER_SECOND:.0f} tokens/s after {ASSUMED_START_SECONDS:.0f} s and up to "
        f"{2 * extra_calls(config):.0%} further calls; a run of some hundred calls into the same folder says more"
    ).replace("%", " %")


def _is_extra(about: dict[str, Any]) -> bool:
    """Whether a call was a repair or a refill."""
    return "repairs_number" in about or about.get("round", 0) > 0


def _named(part: TeacherPlan) -> dict[str, Any]:
    """Its intervals as JSON objects."""
    values = {name: getattr(part, name) for _, name, _ in ROWS}
    return {name: value._asdict() if value is not None else None for name, value in values.items()}


def _characters(calls: Calls, call: Call) -> int:
    """The length of a call's prompt."""
    return sum(len(message["content"]) for message in calls.request(call, calls.material(call)).messages)


def _product(left: Interval, right: Interval) -> Interval:
    return Interval(*(a * b for a, b in zip(left, right, strict=True)))


if __name__ == "__main__":
    run_command(main, Config)
