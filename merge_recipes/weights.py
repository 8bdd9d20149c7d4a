"""The weights of a model folder as memory maps, and a model's weights written piece by piece.

The safetensors format is eight bytes of length, a JSON header, and the tensors one after another. Its own library
reads a bfloat16 tensor only through torch and writes only what lies in memory as a whole; a merge of large models
wants neither, so the two are read and written here. Nothing in this module imports torch.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medsmith.errors import UserError

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
"""The size at which the hub's own tools begin a new file."""

STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<u2"), "BF16": np.dtype("<u2"), "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}  # fmt: skip
"""How each type of the format is seen by numpy; the two half precisions as their bits, since numpy has no bfloat16."""

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The names that recipes use."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: `data` is a flat, read-only view of its bytes on disk (see STORED)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray[Any, Any]
    file: Path

    @property
    def nbytes(self) -> int:
        """The bytes on disk."""
        return int(self.data.nbytes)

    def float32(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The values in float32, flat: a view where they are stored so, else a copy."""
        if self.dtype == "F32":
            return self.data
        if self.dtype == "BF16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        if self.dtype == "F16":
            return self.data.view(np.float16).astype(np.float32)
        return self.data.astype(np.float32)


class Weights(Mapping[str, Tensor]):
    """Every tensor of a model folder by name, in the order of files and headers. Open for the life of the object."""

    def __init__(self, folder: Path) -> None:
        """Map the files.

        Raises:
            UserError: no weights, a shard that the index names is missing, or a file that is not whole.
        """
        self.folder = folder
        self._tensors: dict[str, Tensor] = {}
        for path in shards(folder):
            self._tensors |= _map_file(path)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name; KeyError where there is none."""
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """How many tensors."""
        return len(self._tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}


def shards(folder: Path) -> list[Path]:
    """The files that hold a folder's weights: those of the index where there is one.

    Raises:
        UserError: there is none, the index is not whole, or it names a file that is missing.
    """
    index = folder / INDEX
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise UserError(f"{folder}: no *.safetensors file; give a folder with a model's weights")
        return found
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{index} is not a whole index of weights; fetch or make the model again") from None
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder}: the file {name} is missing; fetch or make the model again")
    return [folder / name for name in names]


class Entry(NamedTuple):
    """A tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes on disk."""
        return prod(self.shape) * STORED[self.dtype].itemsize


@contextmanager
def create(
    folder: Path, entries: Sequence[Entry], shard_bytes: int = SHARD_BYTES
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Lay out the files of a model and hand over a flat, writable view of each tensor's place in them.

    The views are memory maps of the files: what is written there goes to disk as the system sees fit.
    Files are named as the hub's tools name them, with an index where there are several.

    Raises:
        UserError: the disk is full.
    """
    groups: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if groups[-1] and size + entry.nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.nbytes
    names = (
        ["model.safetensors"]
        if len(groups) == 1
        else [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    )
    views: dict[str, np.ndarray[Any, Any]] = {}
    maps: list[mmap.mmap] = []
    try:
        for name, group in zip(names, groups, strict=True):
            maps.append(_lay_out(folder / name, group, views))
        yield views
    finally:
        views.clear()
    if len(groups) > 1:
        weight_map = {entry.name: name for name, group in zip(names, groups, strict=True) for entry in group}
        total = sum(entry.nbytes for entry in entries)
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, sort_keys=True)
        (folder / INDEX).write_text(text + "\n")


def _lay_out(path: Path, entries: Sequence[Entry], views: dict[str, np.ndarray[Any, Any]]) -> mmap.mmap:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    # Wide types first keep every tensor aligned to its own size, as the format's readers like it.
    ordered = sorted(entries, key=lambda entry: (-STORED[entry.dtype].itemsize, entry.name))
    for entry in ordered:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    with path.open("w+b") as file:
        # Real blocks, not a hole: a full disk is an error here, not a signal in the middle of a write.
        os.posix_fallocate(file.fileno(), 0, max(begin + offset, 1))
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        mapped = mmap.mmap(file.fileno(), begin + offset)
    for entry in ordered:
        place, end = header[entry.name]["data_offsets"]
        count = (end - place) // STORED[entry.dtype].itemsize
        views[entry.name] = np.frombuffer(mapped, STORED[entry.dtype], count, begin + place)
    return mapped


def _map_file(path: Path) -> dict[str, Tensor]:
    remedy = "make or fetch it again"
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        if size < 8 or begin > size:
            raise UserError(f"{path} is not a whole safetensors file (its header is cut off); {remedy}")
        try:
            header = json.loads(file.read(begin - 8))
            header.pop("__metadata__", None)
            found = [
                (name, str(item["dtype"]), tuple(map(int, item["shape"])), *map(int, item["data_offsets"]))
                for name, item in header.items()
            ]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{path} is not a safetensors file (its header cannot be read); {remedy}") from None
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tensors = {}
    for name, dtype, shape, start, end in found:
        if dtype not in STORED:
            raise UserError(f"{path}: '{name}' is of type {dtype}, which is not merged; save the model in bfloat16")
        count = prod(shape)
        if start < 0 or end - start != count * STORED[dtype].itemsize:
            raise UserError(f"{path} is not a whole safetensors file ('{name}' has the wrong length); {remedy}")
        if begin + end > size:
            raise UserError(f"{path} is not a whole safetensors file ({begin + end - size:,} bytes are gone); {remedy}")
        tensors[name] = Tensor(name, dtype, shape, np.frombuffer(mapped, STORED[dtype], count, begin + start), path)
    return tensors
