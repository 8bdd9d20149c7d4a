"""A base and five experts for the benchmarks of merging: whole model folders in bfloat16, made here from noise.

    python -m benchmarks.merge_models 0.1b 1b --folder /tmp/merge-benchmark

They are made once and used again; the 1b set takes 12 GB. What matters to a merge is as fine-tuning leaves it: an
expert's change is small beside the weight (0.2 to 2 % of its norm), heavy-tailed, partly shared with the other
experts, and rounded to bfloat16 with the weight, so that 35 to 71 % of the entries did not change at all
and many changes are of equal size. The models answer nonsense. `nano` takes experts/nano as its base.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medsmith.records import read_json, write_json
from merge_recipes.stream import SMALL_FILES
from merge_recipes.weights import Entry, Weights, create

ROOT = Path(__file__).parent.parent
NANO = ROOT / "experts" / "nano"
FOLDER = Path("/tmp/merge-benchmark")
MARKER = "made.json"
VERSION = 2
"""Raised when what is made changes: older sets are then made again."""

BASE = "base"
EXPERTS = {"pubmed": 3e-5, "clinical": 5e-5, "medwiki": 8e-5, "guidelines": 1.2e-4, "medcode": 2e-4}
"""The names of the shipped recipes, and how much each has changed: the scale of its changes, weights being of 0.02."""

WEIGHT_SCALE = 0.02
NORM_SCALE = 50.0
"""How much more the weights of norms change, which are about 1: a tenth of their entries and more. In a tensor that no
expert has changed mergekit's multislerp gives up."""

SHARED = 0.5
"""How much of a change the experts have in common, before it is bent to heavy tails."""

CHUNK = 1 << 20
"""Entries in work at a time."""

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bits = np.ndarray[Any, np.dtype[np.uint16]]


@dataclass(frozen=True)
class Shape:
    """A Phi-3 model; its output layer is not tied to the embedding, which mergekit 0.1.5 cannot read of a Phi-3."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    vocabulary: int
    context: int = 4096
    shard_bytes: int = 1_000_000_000


SHAPES = {
    "tiny": Shape(64, 176, 2, 2, 3072, 512, 500_000),
    "nano": Shape(192, 512, 4, 6, 3072, 512, 4_000_000),
    "0.1b": Shape(768, 2048, 8, 12, 32064, shard_bytes=100_000_000),
    "1b": Shape(2048, 5632, 17, 32, 32064),
}


def make(size: str, folder: Path = FOLDER, seed: int = 0) -> dict[str, Path]:
    """The folder of each model of a set, the base first; made where it is not there as it would be made now."""
    shape, place = SHAPES[size], folder / size
    wanted = {"version": VERSION, "seed": seed, **asdict(shape)}
    folders = {name: place / name for name in (BASE, *EXPERTS)}
    marker = place / MARKER
    if marker.is_file() and read_json(marker).get("settings") == wanted:
        return folders
    marker.unlink(missing_ok=True)
    for one in folders.values():
        shutil.rmtree(one, ignore_errors=True)
        one.mkdir(parents=True)
        _write_small_files(one, shape)
    before, before_cpu = time.monotonic(), time.process_time()
    facts = _write_weights(folders, shape, seed, Weights(NANO) if size == "nano" else None)
    spent = {"seconds": round(time.monotonic() - before, 1), "cpu": round(time.process_time() - before_cpu, 1)}
    write_json(marker, {"settings": wanted, **facts, **spent})
    return folders


def to_bfloat16(values: Floats) -> Bits:
    """Finite numbers rounded to bfloat16, to nearest and ties to even, as the bits that are stored."""
    words = values.view(np.uint32)
    return ((words + ((words >> 16) & 1) + 0x7FFF) >> 16).astype(np.uint16)


def to_float32(bits: Bits) -> Floats:
    """The numbers that stored bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def entries_of(shape: Shape) -> list[Entry]:
    """Every tensor of a model."""
    hidden = shape.hidden
    layer = {
        "input_layernorm.weight": (hidden,),
        "mlp.down_proj.weight": (hidden, shape.feed_forward),
        "mlp.gate_up_proj.weight": (2 * shape.feed_forward, hidden),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.o_proj.weight": (hidden, hidden),
        "self_attn.qkv_proj.weight": (3 * hidden, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, hidden)}
    for number in range(shape.layers):
        shapes |= {f"model.layers.{number}.{name}": size for name, size in layer.items()}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (shape.vocabulary, hidden)}
    return [Entry(name, "BF16", size) for name, size in shapes.items()]


def _write_weights(folders: dict[str, Path], shape: Shape, seed: int, origin: Weights | None) -> dict[str, Any]:
    """Draw all models of a set at once, chunk by chunk; return how many parameters, and what share did not change."""
    entries = entries_of(shape)
    unchanged = dict.fromkeys(EXPERTS, 0)
    with ExitStack() as stack:
        views = {
            name: stack.enter_context(create(folder, entries, shape.shard_bytes)) for name, folder in folders.items()
        }
        for entry in entries:
            rng = np.random.Generator(np.random.SFC64(_number(seed, entry.name)))
            tensor_scale = float(np.exp(0.3 * rng.standard_normal()))
            tensor_scale *= NORM_SCALE if _is_norm(entry.name) else 1.0
            size = prod(entry.shape)
            for start in range(0, size, CHUNK):
                part = slice(start, min(size, start + CHUNK))
                count = part.stop - start
                bits = origin[entry.name].data[part] if origin else to_bfloat16(_draw_weights(rng, entry.name, count))
                views[BASE][entry.name][part] = bits
                weights = to_float32(bits)
                shared = np.float32(SHARED) * rng.standard_normal(count, np.float32)
                for name, scale in EXPERTS.items():
                    change = shared + np.float32((1 - SHARED**2) ** 0.5) * rng.standard_normal(count, np.float32)
                    change *= np.abs(change) * np.float32(scale * tensor_scale)
                    changed = to_bfloat16(weights + change)
                    views[name][entry.name][part] = changed
                    unchanged[name] += int(np.count_nonzero(changed == bits))
    parameters = sum(prod(entry.shape) for entry in entries)
    shares = {name: round(count / parameters, 3) for name, count in unchanged.items()}
    return {"parameters": parameters, "unchanged": shares}


def _draw_weights(rng: np.random.Generator, name: str, count: int) -> Floats:
    drawn = rng.standard_normal(count, np.float32) * np.float32(WEIGHT_SCALE)
    return drawn + np.float32(1) if _is_norm(name) else drawn


def _is_norm(name: str) -> bool:
    return name.endswith("norm.weight")


def _number(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:8], "little")


def _write_small_files(folder: Path, shape: Shape) -> None:
    """Configuration and tokenizer, those of experts/nano but for the sizes; ids beyond its vocabulary stay unused."""
    settings = read_json(NANO / "config.json") | {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "original_max_position_embeddings": shape.context,
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    for name in SMALL_FILES:
        if (NANO / name).is_file():
            shutil.copyfile(NANO / name, folder / name)


def main() -> None:
    """Make the sets that are named and say what they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for size in given.sizes:
        make(size, given.folder, given.seed)
        facts = read_json(given.folder / size / MARKER)
        unchanged = ", ".join(f"{name} {share:.0%}" for name, share in facts["unchanged"].items())
        print(f"{size}: {facts['parameters']:,} parameters, made in {facts['seconds']} s; unchanged: {unchanged}")


if __name__ == "__main__":
    main()
