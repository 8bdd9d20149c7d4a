"""This project: the whole command mediflow.generate in its cheap form, with and without facts, or its calls alone."""

from __future__ import annotations

from typing import Any

from benchmarks.record import MODEL, SCHEMA, Job, mark_ready, prompt, run_job

REQUIREMENTS = ()
LIBRARY = "medsmith"
VARIANTS = {
    "calls": "medsmith (calls only)",
    "generate": "medsmith",
    "verified": "medsmith, facts verified",
}
FULL = True


def run(job: Job) -> None:
    """By the variant."""
    if job.variant == "calls":
        _calls(job)
    else:
        _generate(job)


def teacher(job: Job) -> dict[str, Any]:
    """The mock as a teacher. Retries outlast 5 % refusals; the pauses are those of the recipe."""
    return {"base_url": job.base_url, "model": MODEL, "concurrency": job.in_flight}


def _generate(job: Job) -> None:
    """The command as a user runs it: prompts, calls, parsing, checks, admission, ledger, journal, rows."""
    from mediflow.generate import Config, main
    from medsmith.config import load

    settings = {
        "out": str(job.out / "run"),
        "teacher": teacher(job),
        "instructions": job.records,
        "per_call": 1,
        "examples": 1,
        "reply": "json",
        "grounding": "patients" if job.variant == "verified" else "none",
    }
    mark_ready(job)
    main(load(Config, settings))


def _calls(job: Job) -> None:
    """What the other systems do and no more: run_calls, a schema check that asks again, the journal, the records."""
    import json

    import jsonschema_rs
    import orjson

    from medsmith.llm import ChatRequest, Journal, TeacherConfig, open_teacher, run_calls

    valid = jsonschema_rs.validator_for(SCHEMA).is_valid
    config = TeacherConfig(**teacher(job))

    def read(row: dict[str, Any]) -> Any:
        try:
            record = orjson.loads(row["texts"][0])
        except (json.JSONDecodeError, TypeError):
            return None
        return record if valid(record) else None

    def ask(key: str, attempt: int) -> ChatRequest:
        message = {"role": "user", "content": prompt(key)}
        return config.request([message], max_tokens=4096, sample=attempt, about={"key": key, "attempt": attempt})

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        again = request.about["attempt"] + 1
        return ask(request.about["key"], again) if again < 5 and row["texts"] and read(row) is None else None

    requests = (ask(key, 0) for key in job.keys)
    mark_ready(job)
    with open_teacher(config) as chat, Journal(job.out / "run" / "raw" / "calls.jsonl") as journal:
        rows = run_calls(requests, chat, journal, job.in_flight, "records", follow_up=follow_up, total=job.records)
        with (job.out / "records.jsonl").open("wb") as lines:
            for record in map(read, rows.values()):
                if record is not None:
                    lines.write(orjson.dumps(record) + b"\n")


if __name__ == "__main__":
    run_job(run)
