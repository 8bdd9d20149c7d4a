"""Score a model on a suite of benchmarks, and by how well it predicts held-out documents.

    python -m eval.run out=out/eval/base model=out/experts/base name=base suite=embedded benchmarks.mednli=data/mednli

Writes samples.jsonl (every item with output, answer and score), documents.jsonl, and result.json (values 0..1 with
95 % intervals; result.md is the same for people). The model's answers are kept in raw/: a killed run continues,
another metric costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

import medsmith.config
from eval.asking import Task, ask, prepare
from eval.benchmark import load_benchmark
from eval.engine import RemoteEngine
from eval.engines.openai import EndpointConfig, open_endpoint
from eval.responses import BULK, LOCAL, Responses
from eval.results import read_corpus, summarise
from eval.suite import find_suite, load_suite
from eval.summary import to_markdown
from eval.tables import DataRef, resolve
from eval.text_scorers import LearnedSettings, add_learned_scores
from medsmith import run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.machine import keep_freed_memory, seldom_collected
from medsmith.progress import Bar
from medsmith.records import content_id, write_json, write_jsonl
from medsmith.run import find_record

if TYPE_CHECKING:
    from eval.engine import Engine

LONGEST_WINDOW = 2048
HIDDEN = ("prompt", "output", "answer", "gold", "written", "written_answer")

log = logging.getLogger("eval.run")


class Config(medsmith.config.Config):
    """One model on one suite."""

    libraries: ClassVar = ("torch", "transformers")

    model: ModelRef = Field(description="a model folder, or a hub id with revision; its name at an endpoint")
    engine: Literal["transformers", "vllm", "openai"] = Field(
        "transformers", description="who runs the model: transformers or vLLM here, or an OpenAI-compatible endpoint"
    )
    endpoint: EndpointConfig | None = Field(None, description="for engine=openai: where it is, and what it may cost")
    vllm: dict[str, Any] = execution({}, "for engine=vllm: arguments of vllm.LLM as they stand")
    name: str = Field("", description="what tables call the model; empty: the folder's name")
    suite: Annotated[Path, BeforeValidator(find_suite)] = Field(description="a name in eval/suites, or a YAML file")
    benchmarks: dict[str, DataRef] = Field(
        {}, description="the published file or folder of each benchmark, or a hub data set as owner/name@revision"
    )
    corpora: dict[str, Path] = Field({}, description="held-out documents (a file, or a folder with heldout.jsonl)")
    limit: int | None = Field(None, ge=1, description="at most so many items of every benchmark")
    limit_documents: int | None = Field(None, ge=1, description="at most so many documents of every corpus")
    window: int | None = Field(None, ge=2, description="tokens of context for documents; none: the model's, up to 2048")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights when run")
    learned: LearnedSettings = Field(LearnedSettings(), description="scores that need a model of their own")
    keep_text: bool = Field(False, description="write texts of credentialed benchmarks into samples.jsonl")
    device: str = execution("auto", "auto, cpu or cuda")
    batch_rows: int | None = execution(None, "items asked at once at most; none: what suits the engine")
    store: Path | None = execution(None, "a folder where runs share answers; none: only those in raw/ of this run")
    threads: int | None = execution(None, "threads of torch; none: OMP_NUM_THREADS, else all cores")

    @model_validator(mode="before")
    @classmethod
    def _same_name(cls, values: Any) -> Any:
        """An endpoint is asked for the model of the evaluation."""
        if isinstance(values, dict) and isinstance(values.get("endpoint"), dict) and "model" in values:
            return values | {"endpoint": {"model": str(values["model"])} | values["endpoint"]}
        return values

    @model_validator(mode="after")
    def _one_place(self) -> Config:
        if (self.engine == "openai") != (self.endpoint is not None):
            raise ValueError(
                "engine openai and the block endpoint go together; set engine=openai and endpoint.base_url=ADDRESS"
            )
        return self

    @property
    def likelihoods(self) -> bool:
        """Whether the engine can say how probable an option is."""
        return self.endpoint is None or self.endpoint.tokenizer is not None


def main(config: Config) -> Path:
    """Ask, score, and write the evaluation into config.out."""
    # The libraries that run a model make a million objects when they are imported, and all of them stay.
    with run.start(config, "eval.run") as this, seldom_collected(), open_engine(config, this.folder) as engine:
        return evaluate(config, this, engine)


@contextmanager
def open_engine(config: Config, folder: Path) -> Iterator[Engine]:
    """The model, run as the config says; an endpoint's calls are kept in raw/ too."""
    if config.endpoint is not None:
        with open_endpoint(config.endpoint, folder / "raw") as endpoint:
            yield endpoint
    elif config.engine == "vllm":
        from eval.engines.vllm import VllmModel

        yield VllmModel(config.model, config.dtype, config.device, config.vllm)
    else:
        from eval.engines.transformers import LocalModel
        from medsmith.models import set_threads

        set_threads(config.threads)
        keep_freed_memory()
        yield LocalModel(config.model, config.dtype, config.device)


def evaluate(config: Config, this: run.Run, engine: Engine) -> Path:
    """Everything after the model has been chosen."""
    if config.corpora and not config.likelihoods:
        raise UserError(
            "corpora need likelihoods, and those the model's tokenizer; set endpoint.tokenizer, or leave them"
        )
    suite = load_suite(config.suite, config.benchmarks)
    paths = {name: resolve(name, ref, load_benchmark(name).ACCESS) for name, ref in config.benchmarks.items()}
    tasks = [
        prepare(name, settings, paths[name], config.limit, engine.context, suite.protocol, config.likelihoods)
        for name, settings in suite.benchmarks.items()
    ]
    corpora = {name: read_corpus(path, config.limit_documents) for name, path in config.corpora.items()}
    if not tasks and not corpora:
        raise UserError("nothing to evaluate: the suite has no benchmark and no corpus was given")
    # Whoever opens a remote model asks the run's facts.
    this.facts["credentialed"] += [task.name for task in tasks if is_withheld(task, keep_text=False)]
    total = sum(len(task.items) for task in tasks) + sum(map(len, corpora.values()))
    samples: list[dict[str, Any]] = []
    documents: list[dict[str, Any]] = []
    with Journal(this.folder / "raw" / "responses.jsonl") as journal, Bar("evaluating", total, "items") as bar:
        size = LOCAL if config.engine == "transformers" else BULK
        if config.batch_rows is not None:
            size = size._replace(rows=config.batch_rows)
        responses = Responses(engine, journal, size, config.store)
        for task in tasks:
            samples += ask(task, responses, this.folder, bar, withheld=is_withheld(task, config.keep_text))
        window = config.window or min(engine.context, LONGEST_WINDOW)
        for name, rows in corpora.items():
            lengths = engine.tokens_of([row.text for row in rows])
            scores = responses.read([row.text for row in rows], lengths, window, bar)
            documents += [{"corpus": name, "id": row.id, **score} for row, score in zip(rows, scores, strict=True)]
    if responses.reused:
        log.info("%s answers were there already", f"{responses.reused:,}")
    add_learned_scores(tasks, samples, config.learned)
    result = {
        "model": config.name or Path(config.model).name,
        "protocol": suite.protocol,
        "fingerprint": engine.fingerprint,
        "engine": config.engine,
        "suite": config.suite.stem,
        "dtype": config.dtype,
        "window": window if corpora else None,
        **summarise(tasks, samples, documents, config.seed),
    }
    write_json(this.folder / "result.json", result)
    (this.folder / "result.md").write_text(to_markdown(result), encoding="utf-8")
    write_jsonl(this.folder / "documents.jsonl", documents)
    hidden = {task.name for task in tasks if is_withheld(task, config.keep_text)}
    shown = (_without_texts(row) if row["benchmark"] in hidden else row for row in samples)
    write_jsonl(this.folder / "samples.jsonl", shown)
    licences = {f"benchmark {name}": entry["licence"] for name, entry in result["benchmarks"].items()}
    this.facts["licences"] |= licences
    if isinstance(engine, RemoteEngine):
        this.facts["usage"] = engine.usage()
    counts = {"items": len(samples), "unreadable": sum(row["unreadable"] for row in samples)}
    return this.finish(**counts, documents=len(documents), dropped=sum(task.dropped.total() for task in tasks))


def is_withheld(task: Task, keep_text: bool) -> bool:
    """Whether a benchmark's texts stay out of the run folder: those of credentialed, real sets unless asked for."""
    record = find_record(task.path)
    simulated = bool(record and record["facts"].get("simulated"))
    return task.benchmark.ACCESS == "credentialed" and not simulated and not keep_text


def _without_texts(row: dict[str, Any]) -> dict[str, Any]:
    """The sample with digests in place of texts."""
    return row | {name: f"sha256:{content_id(row[name])}" for name in HIDDEN if row.get(name) is not None}


if __name__ == "__main__":
    run_command(main, Config)
