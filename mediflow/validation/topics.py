"""The topics of validation sets: one YAML each in mediflow/validation_topics, the twelve of the paper as shipped."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from medsmith.config import Block, load
from medsmith.yaml_files import read_yaml

FOLDER = Path(__file__).parent.parent / "validation_topics"


class Topic(Block):
    """One topic. What its answers are decides what can be checked without a reader."""

    title: str = Field(description="what people call it")
    context: str = Field(description="what kind of passage a question comes with")
    asks: str = Field(description="what a question asks for")
    instruction: str = Field(description="what the model under test is told")
    answer: Literal["free", "quoted", "code", "label"] = Field(
        description="quoted: words of the context; code: an ICD-10-CM code or what it stands for; label: one of labels"
    )
    labels: list[str] = Field([], description="the options of every question, for answer: label")
    knowledge: bool = Field(False, description="can be known without the context")

    @model_validator(mode="after")
    def _labels_fit(self) -> Topic:
        if (self.answer == "label") != (len(self.labels) > 1):
            raise ValueError("answer: label and a list of two or more labels go together")
        return self


@cache
def load_topics() -> dict[str, Topic]:
    """Every topic by its file's name."""
    return {path.stem: load(Topic, read_yaml(path)) for path in sorted(FOLDER.glob("*.yml"))}


def variety(topic: str, number: int, seed: int) -> dict[str, str]:
    """What the call of that number is to be about: every axis goes evenly round, each topic in an order of its own."""
    found = {}
    for axis, values in _axes().items():
        turn, place = divmod(number, len(values))
        order = random.Random(f"variety {seed} {topic} {axis} {turn}").sample(values, len(values))
        found[axis] = order[place]
    return found


@cache
def _axes() -> dict[str, Any]:
    return read_yaml(Path(__file__).parent / "variety.yml")
