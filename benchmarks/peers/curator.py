"""bespokelabs-curator: an LLM class with a pydantic response format, its cache in the job's folder."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.record import MODEL, Job, mark_ready, prompt, record_model, run_job, write_records

REQUIREMENTS = ("bespokelabs-curator==0.1.31",)
LIBRARY = "bespokelabs-curator"
VARIANTS = {"": "bespokelabs-curator"}
FULL = True


def run(job: Job) -> None:
    """One call of the class over all keys. Off-line, tiktoken has no table: its counts are guessed instead."""
    os.environ |= {"TELEMETRY_ENABLED": "0", "CURATOR_VIEWER": "0", "CURATOR_CACHE_DIR": str(job.out / "cache")}
    import tiktoken

    class Guess:
        def encode(self, text: str, **_: Any) -> list[int]:
            return [0] * (len(text) // 4)

    tiktoken.get_encoding = tiktoken.encoding_for_model = lambda *_: Guess()
    from bespokelabs import curator

    class Records(curator.LLM):
        response_format = record_model()

        def prompt(self, input: dict[str, Any]) -> str:
            return prompt(input["key"])

        def parse(self, input: dict[str, Any], response: Any) -> list[dict[str, Any]]:
            return [response.model_dump()]

    limits = {"max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**11, "max_retries": 10}
    backend = {"base_url": job.base_url, "api_key": "none", "max_concurrent_requests": job.in_flight, **limits}
    mark_ready(job)
    records = Records(model_name=MODEL, backend="openai", backend_params={**backend, "require_all_responses": False})
    done = records([{"key": key} for key in job.keys])
    write_records(job, done.dataset)


if __name__ == "__main__":
    run_job(run)
