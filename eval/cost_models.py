"""What the ledger is filled from: parameters in a folder's headers, tokens in run.json, notes through tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.records import read_json, read_jsonl

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
BUFFERS = {"I64", "BOOL"}
"""Of positions and masks: no parameters."""


def count_parameters(folder: Path) -> int:
    """The parameters of a model folder, read from the headers of its safetensors files; weights stay on disk.

    Raises:
        UserError: no weights, an adapter without its base, quantised weights (their shapes say nothing), a torn file.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} is an adapter, which runs on its base; give the merged model, or parameters=")
    files = _weight_files(folder)
    if not files:
        raise UserError(f"{folder} holds no weights (*.safetensors); give a model folder, or parameters=")
    count = 0
    for file in files:
        for name, tensor in _header(file).items():
            if tensor["dtype"] in FLOATS:
                count += prod(tensor["shape"])
            elif tensor["dtype"] not in BUFFERS:
                raise UserError(f"{file}: '{name}' is of type {tensor['dtype']}, quantised; give parameters=")
    return count


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(read_json(folder / INDEX)["weight_map"].values()))]
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    return sorted(folder.glob("*.safetensors"))


def _header(file: Path) -> dict[str, Any]:
    """{tensor: {dtype, shape, …}}: eight bytes of length, then JSON."""
    try:
        with file.open("rb") as weights:
            header: dict[str, Any] = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
    except (OSError, ValueError):
        raise UserError(f"{file} is not a whole safetensors file; fetch or make the model again") from None
    header.pop("__metadata__", None)
    return header


def find_trainings(record: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Every training on the way to a model, each run once: name, command and tokens, in order of making."""
    if record is None:
        return []
    own = {key: record[key] for key in ("command", "facts", "counts")}
    entries = [*record["ancestry"], own | {"name": Path(record["config"]["out"]).name}]
    found = [{"name": entry["name"], "command": entry["command"], "tokens": trained_tokens(entry)} for entry in entries]
    return [entry for entry in found if entry["tokens"]]


def trained_tokens(entry: dict[str, Any]) -> int:
    """The tokens that a run trained on; 0 where it trained nothing. `entry` is of run.json or of its ancestry."""
    facts, counts = entry.get("facts", {}), entry.get("counts", {})
    match entry["command"]:
        case "experts.pretrain":
            return int(counts["tokens"])
        case "experts.train":
            return sum(int(phase["tokens"]) for phase in facts["phases"])
        case "align.sft" | "align.dpo" | "align.distill":
            return int(facts[entry["command"].partition(".")[2]]["tokens"])
    return 0


def read_notes(path: Path, limit: int) -> list[str]:
    """The first `limit` texts (`text`) of JSON Lines, or of a corpus folder; UserError where there is none."""
    file = next((path / name for name in ("heldout.jsonl", "train.jsonl") if (path / name).is_file()), path)
    notes: list[str] = []
    for number, row in enumerate(read_jsonl(file), 1):
        if not isinstance(row.get("text"), str):
            raise UserError(f"{file} row {number}: no text in the column 'text'; give notes with that column")
        if row["text"].strip() and len(notes) < limit:
            notes.append(row["text"])
    if not notes:
        raise UserError(f"{file} holds no text; the tokenizers cannot be compared on nothing")
    return notes


def count_tokens(folder: Path, notes: Sequence[str]) -> list[int]:
    """The tokens of every note, without marks of begin and end."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{folder} holds no tokenizer.json; give the model's tokenizer folder as tokenizer=")
    tokenizer = Tokenizer.from_file(str(file))
    # A published tokenizer may have been saved while it cut or filled up to one length.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [len(one.ids) for one in tokenizer.encode_batch(list(notes), add_special_tokens=False)]
