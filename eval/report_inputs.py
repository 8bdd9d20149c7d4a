"""What a report reads: evaluation folders, the model folders they are of, and every run folder on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eval.metrics import table_of
from eval.results import read_result
from eval.statistics import Table
from medsmith.config import Block, ModelRef
from medsmith.errors import UserError
from medsmith.records import read_jsonl
from medsmith.run import digest, find_record, read_record, require_finished

Stage = Literal["base", "raw_expert", "expert", "merge", "sft", "dpo"]
STAGES: tuple[Stage, ...] = ("base", "raw_expert", "expert", "merge", "sft", "dpo")
CORPUS_NAMES = {"icd10cm": "medcode", "icd10": "medcode", "guideline": "guidelines"}


FoundRun = tuple[Path, dict[str, Any]]
"""A run folder and its run.json."""


class Entry(Block):
    """One model of the report."""

    name: str = Field(description="the name in every table; an expert's is its corpus (pubmed, medcode …)")
    stage: Stage = Field(description="where it stands in the chain")
    model: ModelRef = Field(description="the model folder (or hub id) that was evaluated")
    evaluation: Path = Field(description="the folder that eval.run wrote for it")
    parent: str | None = Field(None, description="the model it was made from, by name (default: read from run.json)")


@dataclass(frozen=True)
class Sample:
    """One answered item of a benchmark."""

    id: str
    group: str
    prompt: Any
    output: str
    answer: str
    gold: Any
    score: float
    unreadable: bool


@dataclass(frozen=True)
class DocumentLikelihood:
    """How well a model predicts one held-out document: nats, and the units to divide by."""

    nll: float
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Model:
    """One model with all that was measured of it."""

    name: str
    stage: Stage
    parent: str | None
    folder: Path | None
    record: dict[str, Any] | None
    evaluation: dict[str, Any]
    """The run.json of its evaluation."""
    result: dict[str, Any]
    samples: dict[str, dict[str, Sample]]
    documents: dict[str, dict[str, DocumentLikelihood]]
    tables: dict[str, Table]
    """What each benchmark's headline is computed from."""
    slices: dict[str, Table] = field(default_factory=dict)
    """The same of single slices, by `benchmark/slice`."""

    @cached_property
    def parts(self) -> dict[str, Table]:
        """All that can be averaged: benchmarks and slices."""
        return self.tables | self.slices

    @cached_property
    def key(self) -> str:
        """The key of its run; else of its files, as ancestries name them; else its hub id."""
        if self.record:
            return str(self.record["key"])
        model = self.evaluation["identity"]["inputs"].get("model")
        return f"file:{model[:16]}" if model else str(self.evaluation["config"].get("model", self.name))

    @cached_property
    def ancestors(self) -> frozenset[str]:
        """The keys of the runs that it was made from."""
        return frozenset(entry["key"] for entry in self.record["ancestry"]) if self.record else frozenset()


def load_models(entries: Sequence[Entry], baseline: str) -> list[Model]:
    """Read every entry, check that they can stand in one table, find parents; in the order of the chain.

    Raises:
        UserError: a name twice, no baseline, an evaluation of another model, two protocols, other items in a benchmark.
    """
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two models are named '{name}'; give each its own name, e.g. '{name} (raw)'")
    if baseline not in names:
        raise UserError(f"the baseline '{baseline}' is none of the models ({', '.join(names)}); set baseline=NAME")
    models = [_load(entry) for entry in entries]
    protocols = sorted({str(model.result.get("protocol")) for model in models})
    if len(protocols) > 1:
        raise UserError(f"the evaluations mix the protocols {', '.join(protocols)}; evaluate all models with one")
    base = next(model for model in models if model.name == baseline)
    for model in models:
        _check_items(model, base)
    ordered = sorted(models, key=lambda model: STAGES.index(model.stage))
    return [_with_parent(model, ordered) for model in ordered]


def find_runs(folders: Sequence[Path], follow: bool = True) -> list[FoundRun]:
    """The runs that hold these folders and, with `follow`, those that they were made from; each once, as they began.

    The way back goes over the paths noted in run.json: a folder that was moved since is left out.
    """
    found: dict[str, FoundRun] = {}
    waiting = list(folders)
    while waiting:
        path = waiting.pop()
        for folder in (path, *path.parents):
            record = read_record(folder)
            if record is None:
                continue
            if record["key"] not in found:
                found[record["key"]] = (folder, record)
                waiting += [Path(text) for text in record["inputs"].values() if follow and Path(text).exists()]
            break
    return sorted(found.values(), key=lambda item: (item[1]["started"], len(item[1]["ancestry"]), str(item[0])))


def is_simulated(models: Sequence[Model]) -> bool:
    """Whether anything that was trained or tested on is simulated."""
    facts = [record["facts"] for model in models for record in (model.record, model.evaluation) if record]
    benchmarks = [value for model in models for value in model.result["benchmarks"].values()]
    return any(value.get("simulated") for value in [*facts, *benchmarks])


def corpus_key(name: str) -> str:
    """A corpus' or expert's name in a form that can be compared: `MedCode (raw)` and `icd10cm` are both `medcode`."""
    letters = "".join(letter for letter in name.lower().partition("(")[0] if letter.isalnum())
    letters = letters.removesuffix("raw").removesuffix("expert").removesuffix("slerp").removeprefix("raw")
    return CORPUS_NAMES.get(letters, letters)


def _load(entry: Entry) -> Model:
    evaluation = require_finished(entry.evaluation)
    folder = entry.model if isinstance(entry.model, Path) else None
    record = find_record(folder) if folder else None
    if folder and evaluation["identity"]["inputs"].get("model") != digest(folder):
        raise UserError(
            f"{entry.evaluation} is not an evaluation of {folder}; evaluate that model, or name the right one"
        )
    result = read_result(entry.evaluation)
    samples: dict[str, dict[str, Sample]] = {name: {} for name in result["benchmarks"]}
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(entry.evaluation / "samples.jsonl"):
        _put(samples, row["benchmark"], row["id"], _sample(row), entry.evaluation)
        rows[row["benchmark"]].append(row)
    documents: dict[str, dict[str, DocumentLikelihood]] = {name: {} for name in result.get("perplexity") or {}}
    for row in _rows(entry.evaluation / "documents.jsonl"):
        likelihood = DocumentLikelihood(row["nll"], row["tokens"], row["bytes"])
        _put(documents, row["corpus"], row["id"], likelihood, entry.evaluation)
    for name, found in [*samples.items(), *documents.items()]:
        if not found:
            raise UserError(f"{entry.evaluation}: result.json names '{name}', but no row is there; evaluate again")
    tables = {name: headline_table(result["benchmarks"][name], rows[name], entry.evaluation) for name in samples}
    slices = _slices(result["benchmarks"], rows)
    measured = (samples, documents, tables, slices)
    return Model(entry.name, entry.stage, entry.parent, folder, record, evaluation, result, *measured)


def _slices(benchmarks: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> dict[str, Table]:
    found: dict[str, Table] = {}
    for name, entry in benchmarks.items():
        for part in sorted({row["slice"] for row in rows[name] if row["slice"]}):
            table = table_of([row for row in rows[name] if row["slice"] == part], entry["metric"])
            found |= {f"{name}/{part}": table} if table.ids else {}
    return found


def headline_table(benchmark: dict[str, Any], rows: Sequence[dict[str, Any]], where: Path) -> Table:
    """What the headline is computed from: an entry of result.json, and its rows of samples.jsonl.

    Raises:
        UserError: an evaluation from before metrics had definitions, whose samples do not tell.
    """
    if "slice_mean" not in benchmark or any("scores" not in row for row in rows):
        raise UserError(
            f"{where} was written by an older version, without what its metrics are made of; evaluate again"
        )
    return table_of(rows, benchmark["metric"], benchmark["slice_mean"])


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(path)) if path.is_file() else []


def _put(table: dict[str, Any], name: str, key: str, value: Any, where: Path) -> None:
    if key in table.setdefault(name, {}):
        raise UserError(f"{where}: '{name}' holds the item '{key}' twice; evaluate again")
    table[name][key] = value


def _sample(row: dict[str, Any]) -> Sample:
    """An unreadable answer has no score of its own: it earned nothing, and is counted apart."""
    score = row.get("score")
    return Sample(
        id=row["id"],
        group=str(row.get("group") or row["id"]),
        prompt=row.get("prompt", ""),
        output=str(row.get("output", "")),
        answer="" if row.get("answer") is None else str(row["answer"]),
        gold=row.get("gold", ""),
        score=0.0 if score is None else float(score),
        unreadable=bool(row.get("unreadable")),
    )


def _check_items(model: Model, base: Model) -> None:
    pairs: list[tuple[str, Any, Any]] = [
        *((name, items, base.samples.get(name)) for name, items in model.samples.items()),
        *((name, items, base.documents.get(name)) for name, items in model.documents.items()),
    ]
    for name, own, others in pairs:
        if others is not None and own.keys() != others.keys():
            raise UserError(
                f"'{model.name}' and '{base.name}' answered other items of '{name}' ({len(own)} and {len(others)}); "
                f"evaluate both with the same suite and limit"
            )
    for name in model.tables.keys() & base.tables.keys():
        ours, theirs = model.result["benchmarks"][name], base.result["benchmarks"][name]
        for key in ("version", "metric", "settings"):
            if ours.get(key) != theirs.get(key):
                raise UserError(
                    f"{name}: {key} is {ours.get(key)} for '{model.name}' and {theirs.get(key)} for '{base.name}'; "
                    "evaluate both alike"
                )


def _with_parent(model: Model, models: Sequence[Model]) -> Model:
    """Fill `parent` in with the nearest ancestor among the models: the one that itself has most ancestors."""
    if model.parent is not None:
        if model.parent not in {other.name for other in models}:
            raise UserError(f"the parent '{model.parent}' of '{model.name}' is none of the models")
        return model
    near = [other for other in models if other.key in model.ancestors]
    if not near:
        return model
    parent = max(near, key=lambda other: (len(other.ancestors), STAGES.index(other.stage)))
    values = {name: getattr(model, name) for name in Model.__dataclass_fields__}
    return Model(**(values | {"parent": parent.name}))
