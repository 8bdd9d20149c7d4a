"""Data sets on the hub, by `owner/name@revision`: a reference names its bytes, so the revision is pinned."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from medsmith.errors import UserError

# What a data set on the hub is given by. A branch moves: only a commit, or a tag that looks like a version, stays.
HUB_DATA = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)@([\w.-]+)")
PINNED = re.compile(r"[0-9a-f]{40}|v\d+(\.[\w-]+)*|\d+(\.[\w-]+)+")
DATA_FILES = ("*.csv", "*.json", "*.jsonl", "*.parquet", "*.xlsx")

Fetch = Callable[[str, str], Path]
"""Repository and revision to the folder where its files lie."""


def _path_or_hub_data(value: Any) -> Any:
    """Text of the form owner/name@revision stays text, all else is a path."""
    if not isinstance(value, str) or Path(value).exists():
        return Path(value) if isinstance(value, str) else value
    if HUB_DATA.fullmatch(value):
        return value
    if HUB_DATA.fullmatch(f"{value}@1"):
        raise ValueError(f"there is no '{value}' here; of a data set on the hub say which: {value}@REVISION")
    return Path(value).expanduser()


DataRef = Annotated[str | Path, Field(union_mode="smart"), BeforeValidator(_path_or_hub_data)]
"""A file or folder (an artefact), or a data set on the hub by `owner/name@revision` (text: it names its bytes)."""


def resolve(
    where: str, value: str | Path, access: str, fetch: Fetch | None = None, files: Sequence[str] = DATA_FILES
) -> Path:
    """Where the data of the setting `where` lie: the given path, or those `files` of a snapshot of the hub.

    Raises:
        UserError: the revision is not pinned, the set may not be on the hub, or the hub does not give it.
    """
    if isinstance(value, Path):
        return value
    match = HUB_DATA.fullmatch(value)
    if match is None or not PINNED.fullmatch(match[2]):
        raise UserError(
            f"{where}: '{value}' does not stay what it is; pin a commit of 40 hexadecimal digits, or a tag "
            "such as v1.0 (owner/name@revision)"
        )
    if access != "open":
        raise UserError(
            f"{where}: {value} is not read from the hub, the set is under an agreement; get it from its "
            "source and give the path"
        )
    try:
        return fetch(match[1], match[2]) if fetch else _fetch(match[1], match[2], files)
    except (OSError, ValueError) as error:  # all that the hub's library raises is one of the two
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{where}: the hub does not give {value} ({reason}); check name and revision") from None


def _fetch(repository: str, revision: str, files: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError("huggingface_hub is not installed; pip install 'medsmith[hub]'") from None
    return Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=list(files)))
