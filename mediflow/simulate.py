"""Open the simulated clinic: corpora, benchmarks in their published formats, validation questions, patients.

    python -m mediflow.simulate mediflow/recipes/simulate.yml seed=7

Everything here is simulated and says so. No real patient, document or test item is used or imitated.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field

from mediflow.clinic.benchmarks import TOPICS, validation_rows, write_benchmarks
from mediflow.clinic.corpora import CORPORA, LICENCE, write_corpus
from mediflow.clinic.knowledge import use_world
from mediflow.clinic.lessons import LessonSet, as_instructions, write_lessons
from mediflow.clinic.patients import Patient, draw_patients
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.progress import track
from medsmith.records import write_jsonl, write_parquet

SPLITS = ("train", "dev", "test")


class Config(BaseConfig):
    """Sizes of the clinic. Splits and corpora are drawn from seeds of their own and share no patient."""

    world: Literal["clinic", "second"] = Field("clinic", description="which clinic; `second` is of invented diseases")
    patients: int = Field(400, ge=1, description="patients whose facts ground the generator")
    documents: dict[str, int] = Field(
        default_factory=lambda: dict.fromkeys(CORPORA, 300), description="documents by corpus"
    )
    benchmark_rows: dict[str, int] = Field(
        default_factory=lambda: {"train": 60, "dev": 60, "test": 200}, description="rows of each benchmark by split"
    )
    validation_questions: int = Field(100, ge=0, description="multiple-choice questions by topic, for choosing merges")
    lessons: dict[str, LessonSet] = Field(
        default_factory=dict, description="sets of lessons about invented diseases, by name (lessons/NAME.jsonl)"
    )


def main(config: Config) -> Path:
    """Write the clinic into config.out."""
    with run.start(config, "mediflow.simulate") as this, use_world(config.world):
        this.facts |= {"simulated": True, "licences": {"simulated clinic": LICENCE}}
        counts: dict[str, int] = {}
        for name, size in track(sorted(config.documents.items()), "simulated corpora", unit="corpus"):
            rows = write_corpus(name, config.seed, size)
            counts[f"corpus {name}"] = write_jsonl(this.folder / "corpora" / f"{name}.jsonl", map(asdict, rows))
        if config.benchmark_rows:
            drawn = {
                split: draw_patients(1_000 * config.seed + 1 + SPLITS.index(split), size)
                for split, size in config.benchmark_rows.items()
            }
            counts |= write_benchmarks(this.folder / "benchmarks", drawn, config.seed)
        for topic in TOPICS if config.validation_questions else ():
            rows_of = validation_rows(topic, str(config.seed), config.validation_questions)
            counts[f"validation {topic}"] = write_jsonl(this.folder / "validation" / f"{topic}.jsonl", rows_of)
        for name, wanted in config.lessons.items():
            lessons = write_lessons(f"{config.seed} {name}", wanted)
            shown = list(track(lessons, f"lessons {name}", total=wanted.rows))
            counts[f"lessons {name}"] = write_jsonl(this.folder / "lessons" / f"{name}.jsonl", shown)
            if wanted.instructions:
                write_parquet(this.folder / "lessons" / name / "data" / "rows.parquet", as_instructions(shown))
        counts["patients"] = _write_patients(
            this.folder / "patients.parquet", draw_patients(config.seed, config.patients)
        )
        return this.finish(**counts)


def _write_patients(path: Path, patients: list[Patient]) -> int:
    """The whole state as JSON beside the columns that people filter by."""
    import json

    import polars

    rows = [
        {"id": p.id, "age": p.age, "sex": p.sex, "disease": p.diseases[0], "facts": json.dumps(p.facts())}
        for p in patients
    ]
    polars.DataFrame(rows).write_parquet(path)
    return len(rows)


if __name__ == "__main__":
    run_command(main, Config)
