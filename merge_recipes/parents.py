"""Look at the models of a merge before it costs anything: do they fit together, are they whole, is there room?

mergekit merges whatever has equal shapes: two tokenizers with the same length, two rotary bases, a NaN. The result
loads, and answers nonsense. Shapes and names are read from the files' headers alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medsmith.digests import combined, file_digest
from medsmith.errors import UserError
from merge_recipes.recipe import filters_of, names_of, stacks_layers

STRUCTURE = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "sliding_window",
)
"""What two configurations must share for their weights to mean the same; the rest may differ."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def prepare(
    recipe: Mapping[str, Any], models: Mapping[str, str | Path], dtype: str | None, out: Path, copies: int = 1
) -> dict[str, Path]:
    """The folders of the recipe's models, after every check that can be made before merging.

    Raises:
        UserError: a name without a model or a model without a name, models that do not fit, a filter that matches
            nothing, or no room for the result.
    """
    names = names_of(recipe)
    for name in names:
        if name not in models:
            raise UserError(f"the recipe names a model '{name}'; set models.{name}=FOLDER")
    for name in models:
        if name not in names:
            raise UserError(f"models.{name}: the recipe names no such model; it names {', '.join(names)}")
    base = recipe["base_model"]
    folders = find_folders({name: models[name] for name in names})
    check_parents(folders, base, stacks_layers(recipe), bool(recipe.get("chat_template")))
    shapes = tensor_shapes(folders[base])
    check_filters(filters_of(recipe), shapes)
    check_room(out, shapes, dtype or recipe.get("out_dtype") or recipe.get("dtype") or "float32", copies)
    return folders


def find_folders(models: Mapping[str, str | Path]) -> dict[str, Path]:
    """The folder of each model; a hub id (`owner/name@revision`) is fetched into the hub's cache."""
    folders = {}
    for name, ref in models.items():
        if isinstance(ref, Path):
            folders[name] = ref.resolve()
            continue
        from huggingface_hub import snapshot_download

        repository, _, revision = ref.partition("@")
        patterns = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
        folders[name] = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    for name, folder in folders.items():
        if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            raise UserError(f"models.{name}: {folder} is not a model folder (needs config.json and *.safetensors)")
    return folders


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a model folder, read from the headers.

    Raises:
        UserError: a file is torn, or the index names a file that is missing.
    """
    from safetensors import SafetensorError, safe_open

    _require_shards(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _shards(folder):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no dict
        except SafetensorError as error:
            raise UserError(f"{path} is not a whole safetensors file ({error}); make or fetch it again") from None
    return shapes


def weights_digest(folder: Path) -> str:
    """One sha256 for a model's weights, whatever else lies in its folder."""
    return combined({path.name: file_digest(path) for path in _shards(folder)})


def check_parents(folders: Mapping[str, Path], base: str, stacked: bool = False, own_template: bool = False) -> None:
    """Check that models can be merged: same structure, tensors, tokenizer, chat template; every weight finite.

    `stacked`: the recipe stacks slices of layers, so depths may differ. `own_template`: it sets the chat template.

    Raises:
        UserError: the first difference from the base, or the first tensor that is not finite, with the model's name.
    """
    _check_structure(folders, base, stacked)
    _check_tensors(folders, base, stacked)
    _check_tokenizers(folders, base, own_template)
    for name, folder in folders.items():
        broken = first_broken_tensor(folder)
        if broken:
            raise UserError(f"'{name}': the weights '{broken}' are not all finite ({folder}); make that model again")


def check_filters(filters: set[str], tensors: Mapping[str, Any]) -> None:
    """mergekit lets a filter that matches no tensor pass without a word; a misspelt one is refused here."""
    for part in sorted(filters):
        if not any(part in name for name in tensors):
            kinds = sorted({name.rsplit(".", 2)[-2] for name in tensors if "." in name})
            raise UserError(f"the recipe's filter '{part}' matches no tensor; there are: {', '.join(kinds)}")


def first_broken_tensor(folder: Path) -> str | None:
    """The name of the first tensor with a NaN or an infinity, or None."""
    import torch

    return next((name for name, tensor in tensors_of(folder) if not torch.isfinite(tensor).all()), None)


def tensors_of(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor of a model folder, one in memory at a time."""
    from safetensors import safe_open

    for path in _shards(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dict
                yield name, file.get_tensor(name)


def check_room(target: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, copies: int = 1) -> None:
    """UserError where the disk of `target` has no room for so many copies of the merged model."""
    elements = 0
    for shape in shapes.values():
        size = 1
        for length in shape:
            size *= length
        elements += size
    needed = int(elements * BYTES.get(dtype, 4) * copies * 1.05) + 2**24
    free = shutil.disk_usage(target).free
    if free < needed:
        raise UserError(
            f"{target}: the merge needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; make room or choose "
            "another out="
        )


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _require_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    for name in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: the file {name} is missing; fetch or make the model again")


def _check_structure(folders: Mapping[str, Path], base: str, stacked: bool) -> None:
    from transformers import AutoConfig

    configs = {name: AutoConfig.from_pretrained(folder).to_dict() for name, folder in folders.items()}
    for name, config in configs.items():
        for key in STRUCTURE:
            if stacked and key == "num_hidden_layers":
                continue
            ours, theirs = configs[base].get(key), config.get(key)
            if ours != theirs:
                raise UserError(
                    f"'{name}' cannot be merged with '{base}': {key} is {theirs}, not {ours}; only models of one "
                    "architecture, trained from one base, can be merged"
                )


def _check_tensors(folders: Mapping[str, Path], base: str, stacked: bool) -> None:
    wanted = tensor_shapes(folders[base])
    for name, folder in folders.items():
        found = tensor_shapes(folder)
        for tensor, shape in wanted.items():
            if tensor in found and found[tensor] != shape:
                raise UserError(
                    f"'{name}' has '{tensor}' of shape {found[tensor]}, '{base}' of {shape}; only models trained from "
                    "one base can be merged"
                )
        differ = sorted(wanted.keys() ^ found.keys())
        if differ and not stacked:
            missing, extra = (name, base) if differ[0] in wanted else (base, name)
            raise UserError(f"'{missing}' has no tensor '{differ[0]}', '{extra}' has; save both with the same settings")


def _check_tokenizers(folders: Mapping[str, Path], base: str, own_template: bool) -> None:
    from transformers import AutoTokenizer

    tokenizers = {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}
    ours, our_core = tokenizers[base], _core(tokenizers[base])
    vocabulary = ours.get_vocab()
    for name, tokenizer in tokenizers.items():
        other = tokenizer.get_vocab()
        if other != vocabulary:
            token = min(
                token for token in vocabulary.keys() | other.keys() if vocabulary.get(token) != other.get(token)
            )
            raise UserError(
                f"'{name}' has another vocabulary than '{base}': {token!r} is {other.get(token)}, not "
                f"{vocabulary.get(token)}; a merge needs one tokenizer"
            )
        if _core(tokenizer) != our_core:
            raise UserError(f"'{name}' splits text otherwise than '{base}' (tokenizer.json differs); use one tokenizer")
        if tokenizer.chat_template != ours.chat_template and not own_template:
            raise UserError(
                f"'{name}' has another chat template than '{base}'; train it with the base's, or set chat_template in "
                "the recipe"
            )


def _core(tokenizer: Any) -> Any:
    """What decides how a text is split; padding and truncation are only the last caller's wishes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    settings = json.loads(backend.to_str())
    return {key: value for key, value in settings.items() if key not in {"padding", "truncation"}}
