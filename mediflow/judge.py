"""Have a judge score each instruction on five criteria, several times over.

    python -m mediflow.judge mediflow/recipes/judge_embedded.yml generated=out/mediflow/generate/small

`scores.jsonl` has one row an instruction: its samples (rationale and score, 1 to 4, by criterion), the mean of each
criterion (null where no sample could be read; there is no default score) and how many samples failed. What failed is
in `failed.jsonl` as it was written. With `calibrate`, some instructions are judged once more with one planted error in
an output: `calibration.jsonl` shows whether the judge saw it, and `run.json` how often.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import Field

from mediflow.agreement import krippendorff_alpha
from mediflow.calibrate import (
    CRITERIA,
    Verdict,
    calibration_order,
    plant_error,
    sample_agreement,
    summarise_calibration,
)
from mediflow.checking.validate import read_json_text
from mediflow.generation.parse import find_json
from mediflow.prompt import render, render_block
from mediflow.taxonomy import Taxonomy, load_taxonomy, single_document
from mediflow.teacher import MODEL as SIMULATED
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.llm import (
    Chat,
    ChatRequest,
    Engine,
    Journal,
    Summary,
    TeacherConfig,
    open_teacher,
    run_calls,
)
from medsmith.records import IndexedJsonl, read_jsonl, read_parts, write_jsonl
from medsmith.replies import cut_note

SCALE = (1, 2, 3, 4)
AGREEMENT_OF = 20_000
"""The agreement of a judge with itself is that on so many instructions at most; more change no digit."""
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
    calibrate: int = Field(
        0, ge=0, description="so many instructions are judged once more with a planted error, as a check on the judge"
    )
    others: list[Path] = Field([], description="judge folders of the same instructions, to agree with or not")
    engine: Engine = execution("local", "who makes the calls: local, batch, vllm or ray")
    allow_failed: float = execution(0.05, "the share of calls without any answer above which the run stops")


@dataclass(frozen=True)
class Judgement:
    """The samples of one instruction that could be read, and {reason, text} of those that could not."""

    samples: list[dict[str, Any]]
    failed: list[dict[str, str]]


@dataclass
class Asked:
    """The ids of the requests made: by instruction, and of those with a planted error with its rule."""

    sound: dict[str, str] = field(default_factory=dict)
    broken: dict[str, tuple[str, str]] = field(default_factory=dict)


def main(config: Config) -> Path:
    """Judge into config.out."""
    run.require_finished(config.generated)
    with (
        run.start(config, "mediflow.judge") as this,
        open_teacher(config.teacher, engine=config.engine, folder=this.folder) as chat,
    ):
        return judge(config, this, chat)


def judge(config: Config, this: run.Run, chat: Chat) -> Path:
    """What main does, with any chat model."""
    asked = Asked()
    requests = iter_requests(config, load_taxonomy(), asked)

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        return build_repair(config, row) if config.repair and "repairs" not in request.about else None

    with Journal(this.folder / "raw" / "calls.jsonl") as journal:
        total = count_instructions(config) + count_planted(config)
        rows = run_calls(requests, chat, journal, config.teacher.concurrency, "judge", follow_up=follow_up, total=total)
        usage = Summary.of(rows.values())
        usage.refuse_silence(config.allow_failed)
        counts = _write(this.folder, config, asked, rows)
        if not counts["scored"]:
            said = next(read_jsonl(this.folder / "failed.jsonl"))["reason"]
            raise UserError(
                f"none of {counts['samples']} judgements could be read, the first: {said}; see failed.jsonl"
            )
        this.facts["simulated"] = this.facts["simulated"] or SIMULATED in usage.models
        this.facts |= {"judge": config.teacher.model, "usage": usage.facts()}
        if config.calibrate:
            this.facts["calibration"] = _calibration(this.folder, config, asked, rows)
    this.facts["agreement"] = _agreement(this.folder, config.others)
    return this.finish(**counts)


def iter_instructions(config: Config) -> Iterator[list[dict[str, Any]]]:
    """The rows of each instruction; where one was written by two calls, those of the first."""
    seen: set[str] = set()
    for key, rows in groupby(read_parts(config.generated / "instructions"), key=lambda row: row["instruction_id"]):
        if key not in seen:
            seen.add(key)
            yield list(rows)


def count_instructions(config: Config) -> int:
    """The number of distinct instructions. Raises UserError where there is none."""
    count = sum(1 for _ in iter_instructions(config))
    if not count:
        raise UserError(f"{config.generated} holds no instruction to judge")
    return count


def count_planted(config: Config) -> int:
    """The instructions drawn for calibration on which an error can be planted: rules have no hold on some answers."""
    drawn = _drawn(config)
    if not drawn:
        return 0
    asked = (rows for rows in iter_instructions(config) if rows[0]["instruction_id"] in drawn)
    return sum(plant_error(rows[: config.examples], config.seed) is not None for rows in asked)


def iter_requests(config: Config, taxonomy: Taxonomy, asked: Asked) -> Iterator[ChatRequest]:
    """One request an instruction, and one more for those drawn to be judged with a planted error; noted in `asked`."""
    path = config.generated / "facts.jsonl"
    # Of passages that a user gave, the facts tell where they are from; no patient's truth is known.
    known = path.is_file() and not run.require_finished(config.generated)["config"].get("passages")
    facts: Mapping[str, dict[str, Any]] = IndexedJsonl(path, "facts_id") if known else {}
    drawn = _drawn(config)
    for rows in iter_instructions(config):
        key = rows[0]["instruction_id"]
        request = _request(config, taxonomy, rows, facts, {"instruction_id": key})
        asked.sound[key] = request.id
        yield request
        planted = plant_error(rows[: config.examples], config.seed) if key in drawn else None
        if planted is not None:
            about = {"instruction_id": key, "planted": planted.rule}
            request = _request(config, taxonomy, planted.rows, facts, about)
            asked.broken[key] = (request.id, planted.rule)
            yield request


def _drawn(config: Config) -> set[str]:
    if not config.calibrate:
        return set()
    keys = (rows[0]["instruction_id"] for rows in iter_instructions(config))
    return set(heapq.nsmallest(config.calibrate, keys, key=lambda key: calibration_order(key, config.seed)))


def _request(
    config: Config,
    taxonomy: Taxonomy,
    rows: list[dict[str, Any]],
    facts: Mapping[str, dict[str, Any]],
    about: dict[str, Any],
) -> ChatRequest:
    first = rows[0]
    shown = rows[: config.examples]
    name, _, section = first["input_data"].partition(": ")
    request = {
        "kind": "judge",
        "instruction": first["instruction"],
        "examples": [{"input": row["input"], "output": row["output"]} for row in shown],
        "facts": [facts[row["facts_id"]]["facts"] if facts and row["facts_id"] else None for row in shown],
    }
    messages = render(
        "judge",
        request,
        task=taxonomy.tasks[first["task_type"]],
        document=single_document(taxonomy, name).documents[name],
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
        about=about,
    )


def build_repair(config: Config, row: dict[str, Any]) -> ChatRequest | None:
    """One more call for as many samples as could not be read, shown the first of them; None where all could."""
    if row["texts"] is None:
        return None
    failed = read_samples(row["texts"], row).failed
    if not failed:
        return None
    messages = [
        *row["request"]["messages"],
        {"role": "assistant", "content": failed[0]["text"] or "(nothing)"},
        {"role": "user", "content": render_block("judge", "repair", problem=failed[0]["reason"])},
    ]
    return config.teacher.request(
        messages,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        response_schema=row["request"]["response_schema"],
        n=len(failed),
        about={"repairs": row["id"], "problem": failed[0]["reason"]},
    )


def read_samples(texts: Iterable[str], row: Mapping[str, Any] | None = None) -> Judgement:
    """Judgements as {criterion: {rationale, score}}; whatever does not fit the schema is a failure, never a guess.

    The journal's `row` says which of the texts was cut.
    """
    samples, failed = [], []
    for number, text in enumerate(texts):
        value, reason = read_json_text(find_json(text), SCHEMA)
        if reason is None:
            samples.append({criterion: value[criterion] for criterion in CRITERIA})
        else:
            reason = (reason if text.strip() else "empty reply") + (cut_note(row, number) if row else "")
            failed.append({"reason": reason, "text": text})
    return Judgement(samples, failed)


def judgement(config: Config, request_id: str, rows: Mapping[str, dict[str, Any]]) -> Judgement:
    """The first reply's readable samples and the repair's; what is broken in both stays failed."""
    row = rows[request_id]
    if row["texts"] is None:
        return Judgement([], [{"reason": f"no answer: {row['error']}", "text": ""}] * config.samples)
    first = read_samples(row["texts"], row)
    repair = build_repair(config, row) if config.repair else None
    again = rows[repair.id] if repair is not None else None
    if again is None or again["texts"] is None:
        return first
    second = read_samples(again["texts"], again)
    return Judgement(first.samples + second.samples, second.failed)


def mean_scores(samples: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean of each criterion; None without a sample."""
    if not samples:
        return dict.fromkeys(CRITERIA)
    return {name: round(sum(sample[name]["score"] for sample in samples) / len(samples), 6) for name in CRITERIA}


def _write(folder: Path, config: Config, asked: Asked, rows: Mapping[str, dict[str, Any]]) -> dict[str, int]:
    counts = dict.fromkeys(("instructions", "samples", "scored", "failed", "without_score"), 0)

    def scores() -> Iterator[dict[str, Any]]:
        for key in sorted(asked.sound):
            one = judgement(config, asked.sound[key], rows)
            failed.extend({"instruction_id": key, **failure} for failure in one.failed)
            counts["instructions"] += 1
            counts["samples"] += config.samples
            counts["scored"] += len(one.samples)
            counts["failed"] += len(one.failed)
            counts["without_score"] += not one.samples
            yield {
                "instruction_id": key,
                "mean": mean_scores(one.samples),
                "samples": one.samples,
                "failed": len(one.failed),
            }

    failed: list[dict[str, Any]] = []
    write_jsonl(folder / "scores.jsonl", scores())
    write_jsonl(folder / "failed.jsonl", failed)
    assert counts["scored"] + counts["failed"] == counts["samples"], "a judgement vanished"
    return counts


def _calibration(folder: Path, config: Config, asked: Asked, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare the judgements without and with the planted error, and write both down."""
    verdicts = []
    for key in sorted(asked.broken):
        request_id, rule = asked.broken[key]
        sound = mean_scores(judgement(config, asked.sound[key], rows).samples)
        broken = mean_scores(judgement(config, request_id, rows).samples)
        if None not in (*sound.values(), *broken.values()):
            verdicts.append(Verdict(key, rule, sound, broken))  # type: ignore[arg-type] # None is excluded above
    write_jsonl(folder / "calibration.jsonl", (verdict._asdict() for verdict in verdicts))
    unscored = len(asked.broken) - len(verdicts)
    return {"planted": len(asked.broken), "unscored": unscored, **summarise_calibration(verdicts)}


def _agreement(folder: Path, others: Iterable[Path]) -> dict[str, Any]:
    """Krippendorff's alpha by criterion: of the samples among themselves, and of the means with another judge's."""
    own = [row for row, _ in zip(read_jsonl(folder / "scores.jsonl"), range(AGREEMENT_OF), strict=False)]
    found: dict[str, Any] = {"instructions": len(own), "samples": sample_agreement([row["samples"] for row in own])}
    for other in others:
        run.require_finished(other)
        means = {row["instruction_id"]: row["mean"] for row in read_jsonl(other / "scores.jsonl")}
        if not any(row["instruction_id"] in means for row in own):
            raise UserError(f"{other} judged none of the instructions of {folder}; give a judge of the same folder")
        both = [(row["mean"], means.get(row["instruction_id"], dict.fromkeys(CRITERIA))) for row in own]
        found[str(other)] = {
            name: krippendorff_alpha(([one[name], two[name]] for one, two in both), "interval") for name in CRITERIA
        }
    return found


if __name__ == "__main__":
    run_command(main, Config)
