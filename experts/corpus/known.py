"""Corpora known by name, one YAML each: where they are, what their columns are called, and their licences' traps."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from medsmith.config import Block, load
from medsmith.errors import UserError, nearest

Column = Literal["id", "title", "text", "source", "license", "patient", "time", "article"]
FOLDER = Path(__file__).parent


class Published(Block):
    """The corpus as its authors, or those who trained on it, describe it."""

    license: str = Field("", description="the licence of the whole, in its own words")
    documents: str = Field("", description="how many, and who counted")
    tokens: str = Field("", description="how many, and who counted")


class Known(Block):
    """One known corpus."""

    title: str = Field(description="its name")
    expert: str = Field(description="the expert that the paper trained on it")
    hub: str | None = Field(None, description="owner/name of the data set on the hub")
    revision: str | None = Field(None, description="the commit or version that is read where no other is asked for")
    files: list[str] = Field([], description="which of its files are read")
    columns: dict[Column, str] = Field({}, description="what its columns are called")
    table: Literal["icd10cm", "atc"] | None = Field(None, description="it is built from a code table")
    source: str | None = Field(None, description="the source of documents that do not name theirs")
    license: str | None = Field(None, description="the licence of documents that do not name theirs")
    published: Published = Published()
    where: str = Field("", description="how to get it where the hub does not give it")
    traps: list[str] = Field([], description="what to know before it is used")


def known_names() -> list[str]:
    """The names, which are those of the files."""
    return sorted(path.stem for path in FOLDER.glob("*.yml"))


def load_known(name: str) -> Known:
    """Read one; UserError for an unknown name (the nearest is named)."""
    if name not in known_names():
        raise UserError(f"known: there is no '{name}' in experts/corpus; {nearest(name, known_names())}")
    return load(Known, FOLDER / f"{name}.yml")


def known_on_hub(repository: str) -> Known | None:
    """The known corpus that lies there, or None."""
    return next((one for one in map(load_known, known_names()) if one.hub == repository), None)
