"""data-designer: a seed data set of keys and one structured column, which it checks with jsonschema itself."""

from __future__ import annotations

import json
import os
from typing import Any

from benchmarks.record import MODEL, SCHEMA, Job, mark_ready, prompt, run_job, write_records

# 0.9.7 differs from it in a bound on certifi that not every mirror can fulfil yet.
REQUIREMENTS = ("data-designer==0.9.6",)
LIBRARY = "data-designer"
VARIANTS = {"": "data-designer"}
FULL = True


def run(job: Job) -> None:
    """One `create` over the seed data set. Off-line, tiktoken has no table: its counts are guessed instead."""
    os.environ |= {"NEMO_TELEMETRY_ENABLED": "false", "DATA_DESIGNER_HOME": str(job.out / "home")}
    import data_designer.config as dd
    import pandas
    import tiktoken
    from data_designer.interface import DataDesigner

    class Guess:
        def encode(self, text: str, **_: Any) -> list[int]:
            return [0] * (len(text) // 4)

    tiktoken.get_encoding = lambda *_: Guess()
    provider = dd.ModelProvider(name="mock", endpoint=job.base_url, provider_type="openai", api_key="none")
    model = dd.ModelConfig(
        alias="writer",
        model=MODEL,
        provider="mock",
        skip_health_check=True,
        inference_parameters=dd.ChatCompletionInferenceParams(max_parallel_requests=job.in_flight, max_tokens=4096),
    )
    designer = DataDesigner(artifact_path=job.out / "artifacts", model_providers=[provider])
    designer.set_run_config(dd.RunConfig(disable_early_shutdown=True))
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=pandas.DataFrame({"key": job.keys})))
    builder.add_column(
        dd.LLMStructuredColumnConfig(
            name="record", model_alias="writer", prompt=prompt("{{ key }}"), output_format=SCHEMA
        )
    )
    mark_ready(job)
    done = designer.create(builder, num_records=job.records, dataset_name="records")
    rows = done.load_dataset()["record"]
    write_records(job, (json.loads(row) if isinstance(row, str) else plain(row) for row in rows))


def plain(value: Any) -> Any:
    """Parquet's arrays as lists again."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if hasattr(value, "tolist") and not isinstance(value, str) else value


if __name__ == "__main__":
    run_job(run)
