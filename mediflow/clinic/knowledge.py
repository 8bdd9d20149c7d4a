"""What the simulated clinic holds to be true, in the world that is in use.

There are several worlds, which share no disease, drug or code: `clinic` is written by hand (knowledge.yml), `second` is
a clinic of invented diseases, and `base` is what the embedded base model was taught about. A process simulates one of
them at a time (`use_world`); a disease is found by its name whichever is in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from mediflow.clinic.diseases import Disease, Drug, Lab, read_clinic
from mediflow.clinic.invented import invent

__all__ = [
    "WORLDS",
    "Disease",
    "Drug",
    "Lab",
    "find_disease",
    "load_knowledge",
    "treated_by",
    "use_world",
    "world_in_use",
]

WORLDS = ("clinic", "second", "base")


_in_use = ["clinic"]


@contextmanager
def use_world(name: str) -> Iterator[None]:
    """Simulate another world within the block. Raises KeyError for a name that is none of WORLDS."""
    if name not in WORLDS:
        raise KeyError(name)
    _in_use.append(name)
    try:
        yield
    finally:
        _in_use.pop()


def world_in_use() -> str:
    """The name of the world that is simulated now."""
    return _in_use[-1]


def load_knowledge(world: str | None = None) -> tuple[Disease, ...]:
    """All diseases of a world (default: the one in use), in a fixed order."""
    return _diseases(world or world_in_use())


@cache
def _diseases(world: str) -> tuple[Disease, ...]:
    if world != "clinic":
        return invent(world)
    return read_clinic()


@cache
def _by_name() -> dict[str, Disease]:
    return {disease.name: disease for world in WORLDS for disease in load_knowledge(world)}


@cache
def _by_drug() -> dict[str, Disease]:
    return {drug.name: disease for disease in _by_name().values() for drug in disease.drugs}


def find_disease(name: str) -> Disease:
    """The disease of this name; KeyError where no world knows it."""
    return _by_name()[name]


def treated_by(drug: str) -> Disease:
    """The one disease that this drug treats; KeyError where no disease has it."""
    return _by_drug()[drug]
