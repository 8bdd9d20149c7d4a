"""Which of its parent's layers a pruned model kept, so that nothing that was made for other layers is laid upon it.

A pruned model's config.json says so under `kept_layers`: {"layers": [0, 1, 3, 5], "of": 6}. transformers carries the
entry along to every model that is trained from it. An adapter has no config.json: beside it lies kept_layers.json.
A model pruned twice names the layers of the first of its parents.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.records import write_json

KEY = "kept_layers"
FILE = "kept_layers.json"


def kept_layers(folder: Path) -> dict[str, Any] | None:
    """What a model's or an adapter's folder says that it kept; None where it was never pruned."""
    if (folder / FILE).is_file():
        note: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return note
    if not (folder / "config.json").is_file():
        return None
    found: dict[str, Any] | None = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(KEY)
    return found


def compose(before: dict[str, Any] | None, kept: Sequence[int], depth: int) -> dict[str, Any]:
    """The note of a model that keeps layers of a parent, whose own note is `before`."""
    if before is None:
        return {"layers": list(kept), "of": depth}
    return {"layers": [before["layers"][layer] for layer in kept], "of": before["of"]}


def note_layers(config: Any, adapter: Path) -> None:
    """Lay the note of the model that an adapter was trained on, if there is one, beside the adapter."""
    note = getattr(config, KEY, None)
    if note is not None:
        write_json(adapter / FILE, note)


def require_same_layers(name: str, adapter: Path, base: Path) -> None:
    """Refuse an adapter of other layers: its third layer may be the base's fifth, and the shapes fit all the same.

    An adapter without a note was trained on a model that was never pruned, or elsewhere; of it no more is known than
    what the config.json beside it tells.

    Raises:
        UserError: the adapter's note, or its number of layers, is not that of the base.
    """
    theirs, ours = kept_layers(adapter), kept_layers(base)
    if theirs is not None and theirs != ours:
        what = f"keeps layers {_shown(ours)}" if ours else "was not pruned"
        raise UserError(
            f"'{name}' is an adapter of a model pruned to layers {_shown(theirs)}, and the base {what} ({base}); use "
            "it on the model that it was trained on"
        )
    made_for, there = _depth(adapter), _depth(base)
    if made_for is not None and there is not None and made_for != there:
        raise UserError(
            f"'{name}' is an adapter of a model of {made_for} layers, and the base has {there} ({base}); use it on the "
            "model that it was trained on"
        )


def _depth(folder: Path) -> int | None:
    """The number of layers that config.json tells; beside an adapter of ours lies that of its base."""
    if not (folder / "config.json").is_file():
        return None
    depth: int | None = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_hidden_layers")
    return depth


def _shown(note: dict[str, Any]) -> str:
    return f"{','.join(map(str, note['layers']))} of {note['of']}"
