"""The bare `openai` client in a loop of workers: parse, check with jsonschema-rs, write; three tries a record."""

from __future__ import annotations

import asyncio
import json

from benchmarks.record import MODEL, SCHEMA, Job, mark_ready, prompt, run_job

REQUIREMENTS = ("openai[aiohttp]==3.52.*", "jsonschema-rs", "orjson")
LIBRARY = "openai"
VARIANTS = {"httpx2": "openai client (httpx2)", "aiohttp": "openai client (aiohttp)"}
FULL = False
TRIES = 10


def run(job: Job) -> None:
    """128 workers that share an iterator of keys."""
    import jsonschema_rs
    import orjson
    from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient, OpenAIError

    valid = jsonschema_rs.validator_for(SCHEMA).is_valid
    form = {"type": "json_schema", "json_schema": {"name": "record", "schema": SCHEMA, "strict": True}}
    keys = iter(job.keys)

    async def work(client: AsyncOpenAI, lines: object) -> None:
        for key in keys:
            for _ in range(TRIES):
                try:
                    reply = await client.chat.completions.create(
                        model=MODEL, messages=[{"role": "user", "content": prompt(key)}], response_format=form
                    )
                    record = orjson.loads(reply.choices[0].message.content)
                except (OpenAIError, json.JSONDecodeError):
                    continue
                if valid(record):
                    lines.write(orjson.dumps(record) + b"\n")
                    break

    async def all_of_them() -> None:
        http = DefaultAioHttpClient() if job.variant == "aiohttp" else DefaultAsyncHttpxClient()
        async with AsyncOpenAI(base_url=job.base_url, http_client=http, max_retries=4) as client:
            mark_ready(job)
            with (job.out / "records.jsonl").open("wb", buffering=0) as lines:
                await asyncio.gather(*(work(client, lines) for _ in range(job.in_flight)))

    asyncio.run(all_of_them())


if __name__ == "__main__":
    run_job(run)
