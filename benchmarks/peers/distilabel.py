"""distilabel: a pipeline of one TextGeneration step in JSON mode, which it does not check."""

from __future__ import annotations

import json

from benchmarks.record import MODEL, Job, mark_ready, prompt, run_job, write_records

REQUIREMENTS = ("distilabel[openai]==1.5.3", "requests")
LIBRARY = "distilabel"
VARIANTS = {"": "distilabel"}
FULL = True


def run(job: Job) -> None:
    """The batch of the step is what may be in flight: distilabel has a barrier after each."""
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    with Pipeline(name="records", cache_dir=job.out / "cache") as pipeline:
        load = LoadDataFromDicts(data=[{"instruction": prompt(key)} for key in job.keys], batch_size=job.in_flight)
        llm = OpenAILLM(
            model=MODEL,
            base_url=job.base_url,
            api_key="none",
            generation_kwargs={"response_format": {"type": "json_object"}, "max_new_tokens": 4096},
        )
        load >> TextGeneration(llm=llm, input_batch_size=job.in_flight, add_raw_output=False, add_raw_input=False)
    mark_ready(job)
    rows = pipeline.run(use_cache=False)["default"]["train"]

    def read(text: str | None) -> object:
        try:
            return json.loads(text or "")
        except ValueError:
            return text

    write_records(job, (read(text) for text in rows["generation"]))


if __name__ == "__main__":
    run_job(run)
