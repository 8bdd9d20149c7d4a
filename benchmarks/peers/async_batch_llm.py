"""async-batch-llm: its OpenAI strategy with the pydantic parser, results in its SQLite store."""

from __future__ import annotations

import asyncio

from benchmarks.record import MODEL, Job, mark_ready, prompt, record_model, run_job, write_records

REQUIREMENTS = ("async-batch-llm[openai]==0.28.*",)
LIBRARY = "async-batch-llm"
VARIANTS = {"": "async-batch-llm"}
FULL = True


def run(job: Job) -> None:
    """One `process_prompts`; the pause after a 429 is set to a second, for its default stops everybody for 300 s."""
    import async_batch_llm as library

    strategy = library.llm(
        f"openai-compatible:{MODEL}",
        base_url=job.base_url,
        api_key="none",
        response_parser=library.pydantic_json_parser(record_model()),
    )
    config = library.ProcessorConfig(
        concurrency=job.in_flight,
        retry=library.RetryConfig(max_attempts=10),
        rate_limit=library.RateLimitConfig(cooldown_seconds=1.0, slow_start_items=0, backoff_multiplier=1.0),
    )
    identity = library.ArtifactIdentity(provider="mock", model=MODEL, prompt_version="1", parser_version="1")
    store = library.SqliteArtifactStore(
        job.out / "store.sqlite", identity=identity, encoder=lambda record: record.model_dump()
    )
    mark_ready(job)
    prompts = [(key, prompt(key)) for key in job.keys]
    done = asyncio.run(
        library.process_prompts(
            strategy, prompts, config=config, artifact_store=store, resume=library.ResumePolicy.NONE
        )
    )
    write_records(job, (one.output.model_dump() for one in done.results if one.success))


if __name__ == "__main__":
    run_job(run)
