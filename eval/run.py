"""Score a model on a suite of benchmarks, and by how well it predicts held-out documents.

    python -m eval.run out=out/eval/base model=out/experts/base name=base suite=embedded benchmarks.mednli=data/mednli

Writes samples.jsonl (every item with output, answer and score), documents.jsonl, and result.json (values 0..1 with
95 % intervals). The model's answers are kept in raw/: a killed run continues, another metric costs nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

import medsmith.config
from eval.benchmark import Benchmark, Item, limited, load_benchmark, with_shots
from eval.responses import Responses, fit
from eval.results import read_corpus, summarise
from eval.suite import BenchmarkSettings, find_suite, load_suite
from medsmith import run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.progress import Bar
from medsmith.records import content_id, write_json, write_jsonl

if TYPE_CHECKING:
    from eval.engine import Engine

LETTERS = "ABCDEFGH"
LONGEST_WINDOW = 2048

log = logging.getLogger("eval.run")


class Config(medsmith.config.Config):
    """One model on one suite."""

    libraries: ClassVar = ("torch", "transformers", "rouge_score")

    model: ModelRef = Field(description="a model folder, or a hub id with revision")
    name: str = Field("", description="what tables call the model; empty: the folder's name")
    suite: Annotated[Path, BeforeValidator(find_suite)] = Field(description="a name in eval/suites, or a YAML file")
    benchmarks: dict[str, Path] = Field({}, description="the published file or folder of each benchmark of the suite")
    corpora: dict[str, Path] = Field({}, description="held-out documents (a file, or a folder with heldout.jsonl)")
    limit: int | None = Field(None, ge=1, description="at most so many items of every benchmark")
    limit_documents: int | None = Field(None, ge=1, description="at most so many documents of every corpus")
    window: int | None = Field(None, ge=2, description="tokens of context for documents; none: the model's, up to 2048")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights when run")
    keep_text: bool = Field(False, description="write texts of credentialed benchmarks into samples.jsonl")
    device: str = execution("auto", "auto, cpu or cuda")
    threads: int | None = execution(None, "threads of torch; none: OMP_NUM_THREADS, else all cores")


@dataclass(frozen=True)
class Task:
    """A benchmark made ready: its items as they will be asked."""

    name: str
    benchmark: Benchmark
    settings: BenchmarkSettings
    path: Path
    items: list[Item]
    dropped: Counter[str]
    max_new_tokens: int


def main(config: Config) -> Path:
    """Ask, score, and write the evaluation into config.out."""
    from eval.engines.transformers import LocalModel
    from medsmith.models import set_threads

    with run.start(config, "eval.run") as this:
        set_threads(config.threads)
        return evaluate(config, this, LocalModel(config.model, config.dtype, config.device))


def evaluate(config: Config, this: run.Run, engine: Engine) -> Path:
    """Everything after the model has been chosen."""
    suite = load_suite(config.suite, config.benchmarks)
    tasks = [
        prepare(name, settings, config.benchmarks[name], config.limit, engine.context)
        for name, settings in suite.benchmarks.items()
    ]
    corpora = {name: read_corpus(path, config.limit_documents) for name, path in config.corpora.items()}
    if not tasks and not corpora:
        raise UserError("nothing to evaluate: the suite has no benchmark and no corpus was given")
    total = sum(len(task.items) for task in tasks) + sum(map(len, corpora.values()))
    samples: list[dict[str, Any]] = []
    documents: list[dict[str, Any]] = []
    with Journal(this.folder / "raw" / "responses.jsonl") as journal, Bar("evaluating", total, "items") as bar:
        responses = Responses(engine, journal)
        for task in tasks:
            samples += ask(task, responses, this.folder, bar)
        window = config.window or min(engine.context, LONGEST_WINDOW)
        for name, rows in corpora.items():
            lengths = engine.tokens_of([row.text for row in rows])
            scores = responses.read([row.text for row in rows], lengths, window, bar)
            documents += [{"corpus": name, "id": row.id, **score} for row, score in zip(rows, scores, strict=True)]
    result = {
        "model": config.name or Path(config.model).name,
        "protocol": suite.protocol,
        "fingerprint": engine.fingerprint,
        "suite": config.suite.stem,
        "dtype": config.dtype,
        "window": window if corpora else None,
        **summarise(tasks, samples, documents, config.seed),
    }
    write_json(this.folder / "result.json", result)
    write_jsonl(this.folder / "documents.jsonl", documents)
    write_jsonl(this.folder / "samples.jsonl", (_shown(row, config, result) for row in samples))
    licences = {f"benchmark {name}": entry["licence"] for name, entry in result["benchmarks"].items()}
    this.facts["licences"] |= licences
    counts = {"items": len(samples), "unreadable": sum(row["unreadable"] for row in samples)}
    return this.finish(**counts, documents=len(documents), dropped=sum(task.dropped.total() for task in tasks))


def prepare(name: str, settings: BenchmarkSettings, path: Path, limit: int | None, context: int) -> Task:
    """Load a benchmark, take the items that are asked, put examples in front and lay out options.

    An answer gets no more than half of the model's context: the other half is for the question.
    """
    benchmark = load_benchmark(name)
    items, dropped = benchmark.load(path, "test")
    smallest = min((value for value in (limit, settings.limit) if value is not None), default=None)
    taken = limited(items, smallest)
    if len(taken) < len(items):
        dropped = dropped + Counter({"beyond the limit": len(items) - len(taken)})
    lettered = settings.choice == "letter" and benchmark.MAX_NEW_TOKENS == 0
    shots = benchmark.load(path, "shots").items if settings.shots else []
    if lettered:
        taken, shots = [list(map(_with_letters, rows)) for rows in (taken, shots)]
    if settings.shots:
        taken = with_shots(taken, shots, settings.shots)
    room = min(settings.max_new_tokens or benchmark.MAX_NEW_TOKENS, context // 2)
    return Task(name, benchmark, settings, path, taken, dropped, room)


def ask(task: Task, responses: Responses, folder: Path, bar: Bar) -> list[dict[str, Any]]:
    """Put a benchmark's items to the model, read and score what comes back: one sample an item, in their order."""
    from medsmith.likelihood import ChoiceItem

    engine, items = responses.engine, task.items
    options = engine.tokens_of([option for item in items for option in item.options])
    room = engine.context - max([task.max_new_tokens, *options])
    conversations, encoded, truncated = _fitted(engine, task, room)
    prompts = [engine.decode(ids) for ids in encoded]
    first = {"benchmark": task.name, "prompt": prompts[0], "token_ids": encoded[0]}
    write_json(folder / "log" / "first_prompts" / f"{task.name}.json", first)
    log.info("%s: %d items; the first is log/first_prompts/%s.json", task.name, len(items), task.name)
    if items[0].options:
        asked = [ChoiceItem(chat, item.options) for chat, item in zip(conversations, items, strict=True)]
        lengths = [len(ids) + sum(map(len, item.options)) // 3 for ids, item in zip(encoded, items, strict=True)]
        rows = responses.choose(prompts, asked, lengths, bar)
        outputs = [_best(item, row) for item, row in zip(items, rows, strict=True)]
    else:
        rows = responses.write(prompts, encoded, task.max_new_tokens, bar)
        outputs = [row["text"] for row in rows]
    samples = []
    for item, prompt, cut, output, row in zip(items, prompts, truncated, outputs, rows, strict=True):
        details = {"truncated": cut, "finish": row["finish"]} if "finish" in row else {"truncated": cut, **row}
        samples.append(_sample(task, item, prompt, output) | details)
    return samples


def _fitted(engine: Engine, task: Task, room: int) -> tuple[list[list[dict[str, str]]], list[list[int]], list[bool]]:
    """Conversations, their ids, and which of them were cut to fit."""
    conversations = [item.messages for item in task.items]
    encoded = engine.encode(conversations)
    truncated = [len(ids) > room for ids in encoded]
    for index, long in enumerate(truncated):
        if long:
            shorter = fit(engine, conversations[index], room)
            if shorter is None:
                raise UserError(
                    f"{task.name}: item {task.items[index].id} and its answer do not fit into {engine.context} tokens; "
                    "ask with fewer shots or a smaller max_new_tokens"
                )
            conversations[index] = shorter
            encoded[index] = engine.encode([shorter])[0]
    return conversations, encoded, truncated


def _sample(task: Task, item: Item, prompt: str, output: str) -> dict[str, Any]:
    """Answer, score and metric of one item. Unreadable: no answer, and 0 on the headline."""
    answer = task.benchmark.parse(output, item)
    scores = {} if answer is None else task.benchmark.score(answer, item)
    assert all(0 <= value <= 1 for value in scores.values()), f"{task.name}: a score of {item.id} is outside 0..1"
    return {
        "benchmark": task.name,
        "id": item.id,
        "group": item.group,
        "slice": item.slice,
        "prompt": prompt,
        "output": output,
        "answer": answer,
        "gold": item.gold,
        "score": scores.get(task.benchmark.METRIC, 0.0),
        "scores": scores,
        "unreadable": answer is None,
    }


def _best(item: Item, row: dict[str, Any]) -> str:
    from medsmith.likelihood import OptionScores

    return item.options[OptionScores(**row).best()]


def _with_letters(item: Item) -> Item:
    """The item with its options as lettered lines, to be answered by a letter."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, item.options, strict=False)]
    turn = {"role": "user", "content": "\n".join([item.messages[-1]["content"], *lines])}
    letters = list(LETTERS[: len(item.options)])
    gold = letters[item.options.index(item.gold)]
    return replace(item, messages=[*item.messages[:-1], turn], options=letters, gold=gold)


def _shown(row: dict[str, Any], config: Config, result: dict[str, Any]) -> dict[str, Any]:
    """The sample as it is written: texts of credentialed, real sets become digests unless they are asked for."""
    entry = result["benchmarks"][row["benchmark"]]
    if config.keep_text or entry["access"] == "open" or entry["simulated"]:
        return row
    hidden = [name for name in ("prompt", "output", "answer", "gold") if row[name] is not None]
    return row | {name: f"sha256:{content_id(row[name])}" for name in hidden}


if __name__ == "__main__":
    run_command(main, Config)
