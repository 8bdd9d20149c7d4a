"""Ask a teacher for clinical instructions with examples, one call a cell of the plan.

    python -m mediflow.generate mediflow/recipes/generate_embedded.yml instructions=200

Every finished call is in `raw/calls.jsonl` and is never paid for twice. `instructions.jsonl` has one row an example,
`failed.jsonl` what could not be used, each with its reason, `facts.jsonl` the patients that the examples are about.
What is good enough to keep is decided by mediflow.judge and mediflow.curate.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from mediflow.parse import BrokenExample, Example, Generated, parse_generated
from mediflow.prompt import render, render_block
from mediflow.taxonomy import DIFFICULTIES, FORMATS, WHOLE, Cell, Taxonomy, load_taxonomy, plan
from mediflow.teacher import MODEL as SIMULATED
from mediflow.validate import check_json
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.llm import (
    Chat,
    ChatRequest,
    Journal,
    TeacherConfig,
    open_teacher,
    refuse_silence,
    run_calls,
    summarise,
)
from medsmith.records import content_id, write_jsonl

LICENCE = "CDLA-Permissive-2.0"


class Config(BaseConfig):
    """How many calls, about what, to whom."""

    teacher: TeacherConfig = Field(description="the model that writes")
    instructions: int = Field(100, ge=1, description="calls, each for one instruction")
    examples: int = Field(4, ge=1, description="examples asked for in a call")
    weights: dict[str, dict[Any, float]] = Field(
        default_factory=dict, description="shares by axis (task_type, difficulty, output_format, temperature)"
    )
    patients: Path | None = Field(None, description="patients.parquet that grounds the examples; none draws them")
    max_tokens: int = Field(4096, ge=1, description="the longest reply")
    repair: bool = Field(True, description="ask once more, with the reasons, where a reply cannot be used")
    allow_failed: float = execution(0.05, "the share of calls without any answer above which the run stops")


@dataclass(frozen=True)
class Call:
    """One cell with the patients that its examples are about, and its request."""

    cell: Cell
    facts: list[dict[str, Any]]
    schema: dict[str, Any] | None
    request: ChatRequest


@dataclass(frozen=True)
class Outcome:
    """What came of one call: rows, and failures {call_id, cell, reason, text}. `found` is the examples in the reply."""

    rows: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    found: int
    parsed: bool


def main(config: Config) -> Path:
    """Generate into config.out."""
    with run.start(config, "mediflow.generate") as this, open_teacher(config.teacher) as chat:
        return generate(config, this, chat)


def generate(config: Config, this: run.Run, chat: Chat) -> Path:
    """What main does, with any chat model."""
    taxonomy = load_taxonomy()
    _check_weights(config.weights, taxonomy)
    cells = plan(taxonomy, config.instructions, config.seed, config.weights)
    calls = build_calls(config, taxonomy, cells, read_facts(config, len(cells) * config.examples))
    by_id = {call.request.id: call for call in calls}
    assert len(by_id) == len(calls), "two calls have one id"

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        call = by_id.get(request.id)
        return build_repair(config, call, row) if call and config.repair else None

    requests = [call.request for call in calls]
    with Journal(this.folder / "raw" / "calls.jsonl") as journal:
        rows = run_calls(requests, chat, journal, config.teacher.concurrency, "generate", follow_up=follow_up)
    refuse_silence(rows.values(), config.allow_failed)
    counts = _write(this.folder, calls, [read_outcome(config, call, rows) for call in calls])
    this.facts["licences"] |= {"synthetic": LICENCE}
    this.facts["simulated"] = this.facts["simulated"] or any(row["model"] == SIMULATED for row in rows.values())
    this.facts |= {"teacher": config.teacher.model, "usage": summarise(rows.values())}
    return this.finish(**counts)


def read_facts(config: Config, count: int) -> list[dict[str, Any]]:
    """The facts of `count` patients, from the file (again from its start where it has fewer) or drawn by the seed."""
    if config.patients is None:
        from mediflow.clinic.patients import draw_patients

        return [_plain(patient.facts()) for patient in draw_patients(config.seed, count)]
    import polars

    table = polars.read_parquet(config.patients)
    if "facts" not in table.columns or table.is_empty():
        raise UserError(f"{config.patients} has no rows with a column 'facts'; make it with mediflow.simulate")
    known = [json.loads(text) for text in table["facts"]]
    return [known[number % len(known)] for number in range(count)]


def build_calls(config: Config, taxonomy: Taxonomy, cells: list[Cell], facts: list[dict[str, Any]]) -> list[Call]:
    """One call a cell, the n-th about the n-th handful of patients. Equal requests are told apart by their number."""
    calls = []
    seen: Counter[str] = Counter()
    for number, cell in enumerate(cells):
        own = facts[number * config.examples : (number + 1) * config.examples]
        task, document = taxonomy.tasks[cell.task_type], taxonomy.documents[cell.document_type]
        schema = task.schema if cell.output_format == "json" else None
        messages = render(
            "generate",
            request_of(cell, own),
            task=task,
            document=document,
            section=None if cell.section == WHOLE else cell.section,
            schema=json.dumps(schema) if schema else None,
            difficulty=cell.difficulty,
            count=len(own),
        )
        same = content_id(messages, cell.temperature)
        request = config.teacher.request(
            messages,
            temperature=cell.temperature,
            max_tokens=config.max_tokens,
            sample=seen[same],
            about=asdict(cell),
        )
        seen[same] += 1
        calls.append(Call(cell, own, schema, request))
    return calls


def request_of(cell: Cell, facts: list[dict[str, Any]]) -> dict[str, Any]:
    """The request as data, at the end of the prompt."""
    return {
        "kind": "generate",
        "task_type": cell.task_type,
        "document_type": cell.document_type,
        "section": cell.section,
        "output_format": cell.output_format,
        "difficulty": cell.difficulty,
        "examples": len(facts),
        "facts": facts,
    }


def build_repair(config: Config, call: Call, row: dict[str, Any]) -> ChatRequest | None:
    """The one second try of a call whose reply has faults, with the faults named; None where it has none."""
    if row["texts"] is None:
        return None
    text = row["texts"][0]
    generated, broken = read_reply(call, text)
    problems = [generated.reason] if generated.reason else [f"example {b.number + 1}: {b.reason}" for b in broken]
    if not problems:
        return None
    messages = [
        *call.request.messages,
        # Some endpoints refuse an empty assistant message.
        {"role": "assistant", "content": text or "(nothing)"},
        {"role": "user", "content": render_block("generate", "repair", problems=problems)},
    ]
    return config.teacher.request(
        messages,
        temperature=call.request.temperature,
        max_tokens=config.max_tokens,
        about={"repairs": call.request.id, "problems": problems},
    )


def read_reply(call: Call, text: str) -> tuple[Generated, list[BrokenExample]]:
    """The reply with its good examples, and the broken ones: torn, or not of the task's schema."""
    generated = parse_generated(text)
    good: list[Example] = []
    broken = list(generated.broken)
    for example in generated.examples:
        reason = check_json(example.output, call.schema) if call.schema else None
        if reason is None:
            good.append(example)
        else:
            broken.append(BrokenExample(example.number, example.output, f"the output {reason}"))
    return replace(generated, examples=good), sorted(broken, key=lambda one: one.number)


def read_outcome(config: Config, call: Call, rows: Mapping[str, dict[str, Any]]) -> Outcome:
    """The better of first reply and repair (the first where they are equal) as rows and failures."""
    first = rows[call.request.id]
    if first["texts"] is None:
        return Outcome([], [_failure(call, f"no answer: {first['error']}", "")], 0, False)
    text = first["texts"][0]
    generated, broken = read_reply(call, text)
    repair = build_repair(config, call, first) if config.repair else None
    second = rows[repair.id]["texts"] if repair else None
    if second is not None:
        again, still_broken = read_reply(call, second[0])
        if again.reason is None and len(again.examples) > len(generated.examples):
            generated, broken, text = again, still_broken, second[0]
    if generated.reason:
        return Outcome([], [_failure(call, generated.reason, text)], 0, False)
    found = len(generated.examples) + len(broken)
    kept = [_row(call, generated.instruction, example, found) for example in generated.examples]
    failed = [_failure(call, f"example {one.number + 1}: {one.reason}", one.text) for one in broken]
    return Outcome(kept, failed, found, True)


def _row(call: Call, instruction: str, example: Example, found: int) -> dict[str, Any]:
    cell = call.cell
    about = {
        "task_type": cell.task_type,
        "input_data": cell.document_type if cell.section == WHOLE else f"{cell.document_type}: {cell.section}",
        "output_format": cell.output_format,
        "difficulty_level": cell.difficulty,
    }
    grounded = found == len(call.facts)
    return {
        "id": content_id(instruction, example.input, example.output, about),
        "instruction_id": content_id(instruction, about),
        **about,
        "instruction": instruction,
        "input": example.input,
        "output": example.output,
        # With more or fewer examples than patients nobody can say which is about whom.
        "facts_id": call.facts[example.number]["id"] if grounded else None,
        "call_id": call.request.id,
    }


def _failure(call: Call, reason: str, text: str) -> dict[str, Any]:
    return {"call_id": call.request.id, **asdict(call.cell), "reason": reason, "text": text}


def _write(folder: Path, calls: list[Call], outcomes: list[Outcome]) -> dict[str, int]:
    """Write the three files; return counts, having asserted that no call and no example vanished."""
    kept: dict[str, dict[str, Any]] = {}
    failed = [failure for outcome in outcomes for failure in outcome.failed]
    for call, outcome in zip(calls, outcomes, strict=True):
        for row in outcome.rows:
            if row["id"] in kept:
                failed.append(_failure(call, f"the same example as {row['id']}", row["output"]))
            else:
                kept[row["id"]] = row
    if not kept:
        reasons = Counter(failure["reason"] for failure in failed).most_common(1)
        raise UserError(f"none of {len(calls)} calls gave an example; most often: {reasons[0][0]}")
    parsed = sum(outcome.parsed for outcome in outcomes)
    lost = sum(not outcome.parsed for outcome in outcomes)
    found = sum(outcome.found for outcome in outcomes)
    assert len(calls) == parsed + lost, "a call vanished"
    assert found == len(kept) + len(failed) - lost, "an example vanished"
    write_jsonl(folder / "instructions.jsonl", _sorted(kept.values(), "id"))
    write_jsonl(folder / "failed.jsonl", _sorted(failed, "number", "reason", "text"))
    facts = {patient["id"]: patient for call in calls for patient in call.facts}
    write_jsonl(folder / "facts.jsonl", ({"facts_id": key, "facts": facts[key]} for key in sorted(facts)))
    return {
        "calls": len(calls),
        "examples_asked": sum(len(call.facts) for call in calls),
        "calls_parsed": parsed,
        "calls_failed": lost,
        "examples": found,
        "rows": len(kept),
        "failed": len(failed) - lost,
        "instructions": len({row["instruction_id"] for row in kept.values()}),
    }


def _check_weights(weights: dict[str, dict[Any, float]], taxonomy: Taxonomy) -> None:
    known: dict[str, Iterable[Any]] = {
        "task_type": taxonomy.tasks,
        "difficulty": DIFFICULTIES,
        "output_format": FORMATS,
        "temperature": (),
    }
    for axis, shares in weights.items():
        if axis not in known:
            raise UserError(f"weights: no axis '{axis}'; known are {', '.join(known)}")
        wrong = [value for value in shares if axis != "temperature" and value not in set(known[axis])]
        if wrong:
            near = difflib.get_close_matches(str(wrong[0]), list(known[axis]), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known[axis])}"
            raise UserError(f"weights.{axis}: no '{wrong[0]}'; {hint}")
        if not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise UserError(f"weights.{axis}: {shares} holds no share above 0")


def _sorted(rows: Iterable[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: [row[key] for key in keys])


def _plain(value: Any) -> Any:
    """As JSON would give it back, so that drawn patients equal those from a file."""
    return json.loads(json.dumps(value))


if __name__ == "__main__":
    run_command(main, Config)
