"""A suite: which benchmarks, how each is asked. One YAML a suite, in `eval/suites`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eval.benchmark import load_benchmark
from medsmith.config import Block, load
from medsmith.errors import UserError

FOLDER = Path(__file__).parent / "suites"


class BenchmarkSettings(Block):
    """How one benchmark is asked."""

    shots: int = Field(0, ge=0, description="solved examples before the question, from the split for them")
    choice: Literal["text", "letter", "written"] = Field(
        "text",
        description="what of an option is scored: the likelihood of its text or of its letter, or the letter that the "
        "model writes",
    )
    generate: bool = Field(False, description="let the model also write the letter of an option, beside its likelihood")
    limit: int | None = Field(None, ge=1, description="at most so many items, chosen by the hash of their ids")
    max_new_tokens: int | None = Field(None, ge=1, description="room for an answer, in place of the benchmark's own")


class Suite(Block):
    """Benchmarks by name. `protocol` names how outputs are read and scored; it is printed beside every number."""

    protocol: Literal["strict", "clue"] = "strict"
    benchmarks: dict[str, BenchmarkSettings] = Field(description="settings by benchmark")


def find_suite(value: Any) -> Any:
    """The file of a suite that is given by name (`embedded`) or by path."""
    if isinstance(value, str) and "/" not in value and not value.endswith(".yml"):
        path = FOLDER / f"{value}.yml"
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yml")))
            raise ValueError(f"no suite is called '{value}'; there are {there}")
        return path
    return value


def load_suite(path: Path, given: Mapping[str, Any]) -> Suite:
    """Read a suite and check it against the data that was given: an average over fewer sets is another average."""
    suite = load(Suite, path)
    for name in suite.benchmarks:
        load_benchmark(name, suite.protocol)
    missing = sorted(suite.benchmarks.keys() - given.keys())
    if missing:
        raise UserError(
            f"suite {path.stem}: no data for {', '.join(missing)}; set benchmarks.{missing[0]}=PATH, "
            "or write a suite without it"
        )
    beyond = sorted(given.keys() - suite.benchmarks.keys())
    if beyond:
        raise UserError(f"suite {path.stem} has no benchmark {', '.join(beyond)}; add it there or leave out its data")
    return suite
