"""Have a judge score each instruction on five criteria, several times over.

    python -m mediflow.judge mediflow/recipes/judge_embedded.yml generated=out/mediflow/generate/small

`scores.jsonl` has one row an instruction: its samples (rationale and score, 1 to 4, by criterion), the mean of each
criterion (null where no sample could be read; there is no default score) and how many samples failed. What failed is
in `failed.jsonl` as it was written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from mediflow.prompt import render, render_block
from mediflow.taxonomy import Taxonomy, load_taxonomy
from mediflow.teacher import MODEL as SIMULATED
from mediflow.validate import read_json_text
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
from medsmith.records import read_jsonl, write_jsonl

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")
SCALE = (1, 2, 3, 4)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        criterion: {
            "type": "object",
            # The rationale comes first: a score written after it follows from it.
            "properties": {"rationale": {"type": "string"}, "score": {"enum": list(SCALE)}},
            "required": ["rationale", "score"],
            "additionalProperties": False,
        }
        for criterion in CRITERIA
    },
    "required": list(CRITERIA),
    "additionalProperties": False,
}


class Config(BaseConfig):
    """What is judged, by whom, how often."""

    generated: Path = Field(description="a folder of mediflow.generate")
    teacher: TeacherConfig = Field(description="the model that judges")
    samples: int = Field(5, ge=1, description="judgements of each instruction; the score is their mean")
    examples: int = Field(4, ge=1, description="examples of an instruction shown to the judge, at most")
    temperature: float = Field(1.0, ge=0, description="above 0, so that the samples differ")
    max_tokens: int = Field(1024, ge=1, description="the longest judgement")
    structured: bool = Field(True, description="send the JSON schema along; set false where an endpoint refuses it")
    repair: bool = Field(True, description="ask once more, with the reason, for the judgements that cannot be read")
    allow_failed: float = execution(0.05, "the share of calls without any answer above which the run stops")


@dataclass(frozen=True)
class Judgement:
    """The samples of one instruction that could be read, and {reason, text} of those that could not."""

    samples: list[dict[str, Any]]
    failed: list[dict[str, str]]


def main(config: Config) -> Path:
    """Judge into config.out."""
    run.require_finished(config.generated)
    with run.start(config, "mediflow.judge") as this, open_teacher(config.teacher) as chat:
        return judge(config, this, chat)


def judge(config: Config, this: run.Run, chat: Chat) -> Path:
    """What main does, with any chat model."""
    requests = build_requests(config, load_taxonomy())
    own = {request.id: instruction for instruction, request in requests.items()}
    assert len(own) == len(requests), "two instructions have one request"

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        return build_repair(config, request, row) if request.id in own and config.repair else None

    with Journal(this.folder / "raw" / "calls.jsonl") as journal:
        rows = run_calls(requests.values(), chat, journal, config.teacher.concurrency, "judge", follow_up=follow_up)
    refuse_silence(rows.values(), config.allow_failed)
    counts = _write(this.folder, config, {key: judgement(config, requests[key], rows) for key in requests})
    this.facts["simulated"] = this.facts["simulated"] or any(row["model"] == SIMULATED for row in rows.values())
    this.facts |= {"judge": config.teacher.model, "usage": summarise(rows.values())}
    return this.finish(**counts)


def build_requests(config: Config, taxonomy: Taxonomy) -> dict[str, ChatRequest]:
    """One request an instruction, by instruction_id, with its first examples and the facts that they are about."""
    facts = {row["facts_id"]: row["facts"] for row in read_jsonl(config.generated / "facts.jsonl")}
    grouped: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_jsonl(config.generated / "instructions.jsonl"):
        grouped[row["instruction_id"]].append(row)
    if not grouped:
        raise UserError(f"{config.generated} holds no instruction to judge")
    return {key: _request(config, taxonomy, grouped[key], facts) for key in sorted(grouped)}


def _request(
    config: Config, taxonomy: Taxonomy, rows: list[dict[str, Any]], facts: dict[str, dict[str, Any]]
) -> ChatRequest:
    first = rows[0]
    shown = rows[: config.examples]
    name, _, section = first["input_data"].partition(": ")
    request = {
        "kind": "judge",
        "instruction": first["instruction"],
        "examples": [{"input": row["input"], "output": row["output"]} for row in shown],
        "facts": [facts.get(row["facts_id"]) for row in shown],
    }
    messages = render(
        "judge",
        request,
        task=taxonomy.tasks[first["task_type"]],
        document=taxonomy.documents[name],
        section=section,
        json_output=first["output_format"] == "json",
        difficulty=first["difficulty_level"],
    )
    return config.teacher.request(
        messages,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        response_schema=SCHEMA if config.structured else None,
        n=config.samples,
        about={"instruction_id": first["instruction_id"]},
    )


def build_repair(config: Config, request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
    """One more call for as many samples as could not be read, shown the first of them; None where all could."""
    if row["texts"] is None:
        return None
    failed = read_samples(row["texts"]).failed
    if not failed:
        return None
    messages = [
        *request.messages,
        {"role": "assistant", "content": failed[0]["text"] or "(nothing)"},
        {"role": "user", "content": render_block("judge", "repair", problem=failed[0]["reason"])},
    ]
    return config.teacher.request(
        messages,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        response_schema=request.response_schema,
        n=len(failed),
        about={"repairs": request.id, "problem": failed[0]["reason"]},
    )


def read_samples(texts: Iterable[str]) -> Judgement:
    """Judgements as {criterion: {rationale, score}}; whatever does not fit the schema is a failure, never a guess."""
    samples, failed = [], []
    for text in texts:
        value, reason = read_json_text(text, SCHEMA)
        if reason is None:
            samples.append({criterion: value[criterion] for criterion in CRITERIA})
        else:
            failed.append({"reason": reason if text.strip() else "empty reply", "text": text})
    return Judgement(samples, failed)


def judgement(config: Config, request: ChatRequest, rows: Mapping[str, dict[str, Any]]) -> Judgement:
    """The first reply's readable samples and the repair's; what is broken in both stays failed."""
    row = rows[request.id]
    if row["texts"] is None:
        return Judgement([], [{"reason": f"no answer: {row['error']}", "text": ""}] * config.samples)
    first = read_samples(row["texts"])
    repair = build_repair(config, request, row) if config.repair else None
    if repair is None or rows[repair.id]["texts"] is None:
        return first
    second = read_samples(rows[repair.id]["texts"])
    return Judgement(first.samples + second.samples, second.failed)


def mean_scores(samples: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean of each criterion; None without a sample."""
    if not samples:
        return dict.fromkeys(CRITERIA)
    return {name: round(sum(sample[name]["score"] for sample in samples) / len(samples), 6) for name in CRITERIA}


def _write(folder: Path, config: Config, judged: dict[str, Judgement]) -> dict[str, int]:
    failed = [{"instruction_id": key, **failure} for key in sorted(judged) for failure in judged[key].failed]
    kept = sum(len(one.samples) for one in judged.values())
    assert kept + len(failed) == config.samples * len(judged), "a judgement vanished"
    write_jsonl(
        folder / "scores.jsonl",
        (
            {
                "instruction_id": key,
                "mean": mean_scores(judged[key].samples),
                "samples": judged[key].samples,
                "failed": len(judged[key].failed),
            }
            for key in sorted(judged)
        ),
    )
    write_jsonl(folder / "failed.jsonl", failed)
    return {
        "instructions": len(judged),
        "samples": config.samples * len(judged),
        "scored": kept,
        "failed": len(failed),
        "without_score": sum(not one.samples for one in judged.values()),
    }


if __name__ == "__main__":
    run_command(main, Config)
