"""Open the simulated clinic: corpora, benchmarks in their published formats, validation questions, patients.

    python -m mediflow.simulate mediflow/recipes/simulate.yml seed=7

Everything here is simulated and says so. No real patient, document or test item is used or imitated.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from mediflow.clinic.benchmarks import TOPICS, validation_rows, write_benchmarks
from mediflow.clinic.corpora import CORPORA, LICENCE, write_corpus
from mediflow.clinic.lessons import write_lessons
from mediflow.clinic.patients import Patient, draw_patients
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.progress import track
from medsmith.records import write_jsonl

SPLITS = ("train", "dev", "test")


class Config(BaseConfig):
    """Sizes of the clinic. Splits and corpora are drawn from seeds of their own and share no patient."""

    patients: int = Field(400, ge=1, description="patients whose facts ground the generator")
    documents: dict[str, int] = Field(
        default_factory=lambda: dict.fromkeys(CORPORA, 300), description="documents by corpus"
    )
    benchmark_rows: dict[str, int] = Field(
        default_factory=lambda: {"train": 60, "dev": 60, "test": 200}, description="rows of each benchmark by split"
    )
    validation_questions: int = Field(100, ge=0, description="multiple-choice questions by topic, for choosing merges")
    lessons: int = Field(0, ge=0, description="general instruction rows for making the embedded base (lessons.jsonl)")
    lesson_shares: dict[str, float] = Field(default_factory=dict, description="weights of the lesson kinds")
    rare_share: float = Field(0.5, ge=0, le=1, description="share of rare diseases in the corpora and lessons")


def main(config: Config) -> Path:
    """Write the clinic into config.out."""
    with run.start(config, "mediflow.simulate") as this:
        this.facts |= {"simulated": True, "licences": {"simulated clinic": LICENCE}}
        counts: dict[str, int] = {}
        for name, size in track(sorted(config.documents.items()), "simulated corpora", unit="corpus"):
            rows = write_corpus(name, config.seed, size, config.rare_share)
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
        if config.lessons:
            lessons = write_lessons(config.seed, config.lessons, config.lesson_shares or None, config.rare_share)
            shown = track(lessons, "lessons", total=config.lessons)
            counts["lessons"] = write_jsonl(this.folder / "lessons.jsonl", shown)
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
