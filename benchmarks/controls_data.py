"""Inputs of the negative controls: what a step was given, with its one lesson taken out and everything else left.

Each is a finished folder, which a killed control finds again.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mediflow.clinic.knowledge import load_knowledge
from mediflow.clinic.relations import facts_of
from medsmith import run
from medsmith.config import Config as BaseConfig
from medsmith.digests import RECORD, STARTED
from medsmith.errors import UserError
from medsmith.records import (
    Instruction,
    content_id,
    read_documents,
    read_jsonl,
    read_parquet,
    write_jsonl,
    write_parquet,
)

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["answers", "task_answers", "swapped", "renamed_corpus", "renamed_rows", "noise"]
Fact = tuple[str, str]
"""An entity and what is true of it."""


class Change(BaseConfig):
    """One input and what is to be done with it."""

    source: Path = Field(description="the folder that the real step read")
    kind: Kind = Field(
        description="answers of other rows, or of other rows of the task; pairs the wrong way round; facts of other "
        "entities in a corpus file or in a teacher's rows; noise as large as the expert's change"
    )
    world: str = Field("clinic", description="whose facts are exchanged, as in mediflow.simulate")
    base: Path | None = Field(None, description="for noise: what the expert was trained from")


def write_changed(config: Change) -> Path:
    """Write the changed input into config.out, unless it is there; the folder."""
    if run.is_current("benchmarks.controls_data", config):
        return config.out
    with run.start(config, "benchmarks.controls_data") as this:
        if config.kind == "noise":
            assert config.base is not None, "noise stands in for what was learned from a base"
            return this.finish(tensors=_write_noise(config.base, config.source, this.folder, config.seed))
        if config.kind == "renamed_corpus":
            names = rename_entities(clinic_facts(config.world), config.seed)
            documents = [
                replace(document, title=rename(document.title, names), text=rename(document.text, names))
                for document in read_documents(config.source)
            ]
            return this.finish(rows=write_jsonl(this.folder / "corpus.jsonl", map(asdict, documents)))
        if config.kind == "renamed_rows":
            names = rename_entities(clinic_facts(config.world), config.seed)
            rows = [row | {"output": rename(row["output"], names)} for row in read_jsonl(config.source / "rows.jsonl")]
            this.facts |= {key: run.require_finished(config.source)["facts"].get(key) for key in ("task", "teacher")}
            return this.finish(rows=write_jsonl(this.folder / "rows.jsonl", rows))
        pairs = read_parquet(config.source / "data")
        if config.kind == "swapped":
            changed, left_out = [swap_sides(pair) for pair in pairs], 0
        else:
            changed = shuffle_answers(pairs, config.seed, within_task=config.kind == "task_answers")
            left_out = len(pairs) - len(changed)
        write_parquet(this.folder / "data" / "train-00000-of-00001.parquet", changed)
        return this.finish(**{"in": len(pairs), "kept": len(changed), "dropped": left_out})


def swap_sides(pair: Instruction) -> Instruction:
    """The pair with the worse answer as the one to prefer."""
    return replace(pair, output=pair.rejected_output, rejected_output=pair.output)


def shuffle_answers(rows: Sequence[Instruction], seed: int, *, within_task: bool) -> list[Instruction]:
    """Each row with another row's answer; the answers are the same, and no row has its own words back.

    Within a task (and output format) the form of answers can still be learned, across tasks not even that. Rows whose
    answer most rows of their task have are left out, as few as can be: no other row could have theirs.
    """
    groups: dict[tuple[str, str], list[Instruction]] = defaultdict(list)
    for row in rows:
        groups[(row.task_type, row.output_format) if within_task else ("", "")].append(row)
    made: dict[str, str] = {}
    for key in sorted(groups):
        by_answer: dict[str, list[Instruction]] = defaultdict(list)
        for row in random.Random(f"answers {seed} {key}").sample(groups[key], len(groups[key])):
            by_answer[row.output].append(row)
        most = max(by_answer.values(), key=len)
        del most[len(groups[key]) - len(most) :]
        # Equal answers side by side, and everyone takes what stands half the rows further on: never an equal one.
        ordered = [row for answer in sorted(by_answer, key=lambda a: -len(by_answer[a])) for row in by_answer[answer]]
        half = len(most)
        for place, row in enumerate(ordered):
            made[row.id] = ordered[(place + half) % len(ordered)].output
    return [replace(row, id=content_id("shuffled", row.id), output=made[row.id]) for row in rows if row.id in made]


# --- facts -----------------------------------------------------------------------------------------------------------


def clinic_facts(world: str = "clinic") -> dict[str, list[Fact]]:
    """What a simulated clinic holds of each kind of entity: of diseases, and of drugs."""
    found: dict[str, list[Fact]] = {"disease": [], "drug": []}
    for disease in load_knowledge(world):
        found["disease"] += [(disease.name, symptom) for symptom in disease.symptoms]
        drugs = {drug.name for drug in disease.drugs}
        for fact in facts_of(disease):
            if fact.entity == disease.name:
                found["disease"].append((fact.entity, fact.value))
            elif fact.entity in drugs:
                found["drug"].append((fact.entity, fact.value))
    return found


def rename_entities(facts: Mapping[str, Iterable[Fact]], seed: int, tries: int = 200_000) -> dict[str, str]:
    """A new name for every entity, one of the same kind, so that nothing that was true of any stays true.

    A value may be an entity too (the drug of a disease) and is renamed with it.

    Raises:
        UserError: no such renaming was found, for too many entities share too many values.
    """
    kinds = {kind: sorted({entity for entity, _ in pairs}) for kind, pairs in facts.items()}
    every = [fact for pairs in facts.values() for fact in pairs]
    true = set(every)
    about: dict[str, list[Fact]] = defaultdict(list)
    for fact in every:
        for name in fact:
            about[name].append(fact)
    rng = random.Random(f"rename {seed}")
    names = {
        old: new
        for entities in kinds.values()
        for old, new in zip(entities, rng.sample(entities, len(entities)), strict=True)
    }

    def kept(fact: Fact) -> bool:
        return (names.get(fact[0], fact[0]), names.get(fact[1], fact[1])) in true

    def faults(name: str) -> int:
        return (names[name] == name) + sum(map(kept, about[name]))

    faulty = [(kind, name) for kind, entities in kinds.items() for name in entities if faults(name)]
    for _ in range(tries):
        if not faulty:
            return names
        kind, name = rng.choice(faulty)
        other = rng.choice(kinds[kind])
        before = faults(name) + faults(other)
        names[name], names[other] = names[other], names[name]
        if faults(name) + faults(other) > before:
            names[name], names[other] = names[other], names[name]
        faulty = [(kind, name) for kind, entities in kinds.items() for name in entities if faults(name)]
    raise UserError(f"no renaming of {len(names)} entities leaves none of its facts; {len(faulty)} keep one")


def rename(text: str, names: Mapping[str, str]) -> str:
    """The text with every entity under its new name; a capital at its beginning stays."""
    pattern = _pattern(tuple(names))
    lower = {old.casefold(): new for old, new in names.items()}

    def new(match: re.Match[str]) -> str:
        name = lower[match[0].casefold()]
        return name[0].upper() + name[1:] if match[0][0].isupper() else name

    return pattern.sub(new, text)


def _pattern(names: Collection[str]) -> re.Pattern[str]:
    longest = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"(?i)\b(?:{'|'.join(map(re.escape, longest))})\b")


# --- noise -----------------------------------------------------------------------------------------------------------


def noise_like(change: Tensor, seed: int) -> Tensor:
    """Normal noise of the same shape and norm as an expert's change of one tensor."""
    import torch

    drawn = torch.randn(change.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return drawn * (change.float().norm() / drawn.norm().clamp_min(1e-12))


def _write_noise(base: Path, expert: Path, out: Path, seed: int) -> int:
    """The base plus noise in place of what the expert learned, as a model folder; how many tensors it has."""
    from safetensors.torch import load_file, save_file

    theirs: dict[str, Any] = {}
    for file in sorted(expert.glob("*.safetensors")):
        theirs |= load_file(file)
    ours: dict[str, Any] = {}
    for file in sorted(base.glob("*.safetensors")):
        ours |= load_file(file)
    made = {}
    for number, (name, tensor) in enumerate(sorted(theirs.items())):
        change = tensor.float() - ours[name].float()
        made[name] = (ours[name].float() + noise_like(change, 1_000_003 * seed + number)).to(tensor.dtype).contiguous()
    for file in [*expert.glob("*.json"), *expert.glob("*.jinja"), *expert.glob("*.model")]:
        if file.name not in {RECORD, STARTED} and not file.name.endswith(".index.json"):
            shutil.copy(file, out / file.name)
    save_file(made, out / "model.safetensors", metadata={"format": "pt"})
    return len(made)
