"""Look at the models of a merge before it costs anything: do they fit together, are they whole, is there room?

mergekit merges whatever has equal shapes: two tokenizers with the same length, two rotary bases, a NaN. The result
loads, and answers nonsense. Everything is read from the files as they lie there, weights over memory maps; transformers
is asked only where two files do not say the same thing in the same words.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medsmith.digests import combined, file_digest
from medsmith.errors import UserError
from merge_recipes.recipe import filters_of, names_of, stacks_layers
from merge_recipes.weights import INDEX, Tensor, Weights, shards

STRUCTURE = (
    "model_type",
    "architectures",
    "num_hidden_layers",
    "kept_layers",
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

REMEDIES = {
    "num_hidden_layers": "their depths differ; only a recipe with slices can stack layers or leave some out",
    "kept_layers": "they were pruned to other layers; prune both to the same ones, or merge before pruning",
    "vocab_size": "their vocabularies differ; merge models that were trained from one base without adding tokens",
}
"""What to do where one of these differs; of all others the general sentence holds."""

ONE_ORIGIN = "only models of one architecture, trained from one base, can be merged"

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

FETCHED = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt", "README.md")
"""What of a hub repository a merge reads; README.md tells the licence."""

FOLDED = ".folded"
"""Where adapters are folded into their base, below a run folder; hidden, so that it never counts as a result."""

NEGATIVE_INFINITY = {"BF16": 0xFF80, "F16": 0xFC00}
"""The bits of half precision from which on, sign included, a number is not finite."""

CHUNK = 1 << 18
"""Numbers looked at at once: half a megabyte of bfloat16, which stays in a core's cache."""


def prepare(
    recipe: Mapping[str, Any],
    models: Mapping[str, str | Path],
    dtype: str | None,
    out: Path,
    copies: int = 1,
    finite: bool = True,
) -> dict[str, Path]:
    """The folders of the recipe's models, after every check that can be made before merging.

    An adapter is folded into its base below `out` (see adapters.fold_all; adapters.remove_folded clears that away).
    `finite`: look at every weight for NaN and infinities; an engine that does so while it merges needs no second look.

    Raises:
        UserError: a name without a model or a model without a name, models that do not fit, a filter that matches
            nothing, numbers that make no sense for a tensor, or no room for the result.
    """
    names = names_of(recipe)
    for name in names:
        if name not in models:
            raise UserError(f"the recipe names a model '{name}'; set models.{name}=FOLDER")
    for name in models:
        if name not in names:
            raise UserError(f"models.{name}: the recipe names no such model; it names {', '.join(names)}")
    try:
        folders = find_folders({name: models[name] for name in names}, recipe["base_model"], out / FOLDED)
        _check(recipe, folders, dtype, out, copies, finite)
    except UserError:
        shutil.rmtree(out / FOLDED, ignore_errors=True)  # gigabytes that nobody would look for
        raise
    return folders


def _check(
    recipe: Mapping[str, Any], folders: Mapping[str, Path], dtype: str | None, out: Path, copies: int, finite: bool
) -> None:
    base = recipe["base_model"]
    check_parents(folders, base, stacks_layers(recipe), bool(recipe.get("chat_template")), finite)
    weights = Weights(folders[base])
    check_filters(filters_of(recipe), weights)
    if recipe.get("models"):
        from merge_recipes.numbers import check_numbers

        check_numbers(recipe, weights)
    wanted = dtype or recipe.get("out_dtype") or recipe.get("dtype") or widest_type(folders.values())
    check_room(out, weights.shapes, wanted, copies)


def locate(models: Mapping[str, str | Path]) -> dict[str, Path]:
    """The folder of each model or adapter; a hub id (`owner/name@revision`) is fetched into the hub's cache.

    Raises:
        UserError: nothing of the kind lies there, or the hub does not give it.
    """
    folders = {name: ref.resolve() if isinstance(ref, Path) else _fetch(name, ref) for name, ref in models.items()}
    for name, folder in folders.items():
        whole = (folder / "config.json").is_file() or is_adapter(folder)
        if not whole or not any(folder.glob("*.safetensors")):
            raise UserError(
                f"models.{name}: {folder} is not a model folder (needs config.json and *.safetensors, or "
                "adapter_config.json and adapter_model.safetensors)"
            )
    return folders


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter instead of a whole model.

    Raises:
        UserError: it holds both.
    """
    if not (folder / "adapter_config.json").is_file():
        return False
    beside = sorted(path.name for path in folder.glob("*.safetensors") if path.name != "adapter_model.safetensors")
    if beside:
        raise UserError(f"{folder} holds an adapter and a model ({beside[0]}); keep each in a folder of its own")
    return True


def find_folders(
    models: Mapping[str, str | Path], base: str | None = None, into: Path | None = None
) -> dict[str, Path]:
    """The model folder of each model; an adapter becomes one, folded into the model named `base` below `into`.

    Raises:
        UserError: what locate refuses, an adapter that is none of the base's, or one where no base or place is given.
    """
    folders = locate(models)
    adapters = {name: folder for name, folder in folders.items() if is_adapter(folder)}
    for name in adapters:
        if base is None or into is None or name == base:
            raise UserError(f"models.{name}: {folders[name]} is an adapter, and a whole model is needed here")
    if not adapters:
        return folders
    from merge_recipes.adapters import fold_all

    assert base is not None and into is not None, "refused above"
    return folders | fold_all(adapters, folders[base], models[base], into)


def planned_folders(models: Mapping[str, str | Path], base: str) -> dict[str, Path]:
    """The folders by which a merge is planned, with nothing folded: an adapter will be as large as its base.

    Raises:
        UserError: what locate refuses.
    """
    folders = locate(models)
    return {name: folders.get(base, folder) if is_adapter(folder) else folder for name, folder in folders.items()}


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a model folder, read from the headers.

    Raises:
        UserError: a file is torn, or the index names a file that is missing.
    """
    return Weights(folder).shapes


def weights_digest(folder: Path) -> str:
    """One sha256 for a model's weights, whatever else lies in its folder."""
    return combined({path.name: file_digest(path) for path in shards(folder)})


def widest_type(folders: Iterable[Path]) -> str:
    """The type in which a merge of these models is written where its recipe names none."""
    found = {tensor.dtype for folder in folders for tensor in Weights(folder).values()}
    return "float32" if "F32" in found or {"BF16", "F16"} <= found else "bfloat16"


def check_parents(
    folders: Mapping[str, Path], base: str, stacked: bool = False, own_template: bool = False, finite: bool = True
) -> None:
    """Check that models can be merged: same structure, tensors, tokenizer, chat template; every weight finite.

    `stacked`: the recipe stacks slices of layers, so depths may differ. `own_template`: it sets the chat template.
    `finite`: see prepare. Other special tokens and ends of generation than the base's are told in the log.

    Raises:
        UserError: the first difference from the base, or the first tensor that is not finite, with the model's name.
    """
    from merge_recipes.vocabulary import check_tokenizers

    _check_structure(folders, base, stacked)
    _check_tensors(folders, base, stacked)
    check_tokenizers(folders, base, own_template)
    for name, folder in folders.items() if finite else ():
        if broken := first_broken_tensor(folder):
            raise UserError(f"'{name}': the weights '{broken}' are not all finite ({folder}); make that model again")


def check_filters(filters: set[str], tensors: Mapping[str, Any]) -> None:
    """mergekit lets a filter that matches no tensor pass without a word; a misspelt one is refused here."""
    for part in sorted(filters):
        if not any(part in name for name in tensors):
            kinds = sorted({name.rsplit(".", 2)[-2] for name in tensors if "." in name})
            raise UserError(f"the recipe's filter '{part}' matches no tensor; there are: {', '.join(kinds)}")


def first_broken_tensor(folder: Path) -> str | None:
    """The name of the first tensor with a NaN or an infinity, or None. Read in chunks over the mapped files."""
    return next((name for name, tensor in Weights(folder).items() if not _is_finite(tensor)), None)


def tensors_of(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor of a model folder as torch has it, one in memory at a time."""
    from safetensors import safe_open

    for path in shards(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dict
                yield name, file.get_tensor(name)


def check_room(target: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, copies: int = 1) -> None:
    """UserError where the disk of `target` has no room for so many copies of the merged model."""
    elements = sum(prod(shape) for shape in shapes.values())
    needed = int(elements * BYTES.get(dtype, 4) * copies * 1.05) + 2**24
    free = shutil.disk_usage(target).free
    if free < needed:
        unit, size = ("GiB", 2**30) if needed >= 2**30 else ("MiB", 2**20)
        raise UserError(
            f"{target}: the merge needs {needed / size:.1f} {unit}, {free / size:.1f} {unit} are free; make room or "
            "choose another out="
        )


def _fetch(name: str, ref: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = ref.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FETCHED)))
    except (OSError, ValueError) as error:  # all that the hub's library raises is one of the two
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"models.{name}: there is no folder '{ref}', and the hub does not give it ({reason}); check the name"
        ) from None


def _check_structure(folders: Mapping[str, Path], base: str, stacked: bool) -> None:
    keys = [key for key in STRUCTURE if not (stacked and key in ("num_hidden_layers", "kept_layers"))]
    configs = {name: _read_config(name, folder) for name, folder in folders.items()}
    ours = configs[base]
    for name, theirs in configs.items():
        unlike = [key for key in keys if ours.get(key) != theirs.get(key)]
        for key in unlike:
            if not isinstance(ours.get(key), dict | None) and not isinstance(theirs.get(key), dict | None):
                raise _differ(name, base, key, theirs[key], ours[key])
        if unlike:
            # One file leaves out what the other states, or says it in the words of another version.
            read = {one: _ask_transformers(one, folders[one]) for one in (base, name)}
            for key in unlike:
                ours_read, theirs_read = read[base].get(key), read[name].get(key)
                if ours_read != theirs_read and key != "architectures":  # a config without them is as good
                    raise _differ(name, base, key, theirs_read, ours_read)


def _differ(name: str, base: str, key: str, theirs: Any, ours: Any) -> UserError:
    return UserError(
        f"'{name}' cannot be merged with '{base}': {key} is {theirs}, not {ours}; {REMEDIES.get(key, ONE_ORIGIN)}"
    )


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict) or not values.get("model_type"):
        raise UserError(f"'{name}': {folder / 'config.json'} is not a whole configuration; fetch or make it again")
    return values


def _ask_transformers(name: str, folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        values: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"'{name}': transformers cannot read {folder / 'config.json'} ({reason}); mend it") from None
    return values


def _check_tensors(folders: Mapping[str, Path], base: str, stacked: bool) -> None:
    for folder in folders.values():
        _check_index(folder)
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


def _check_index(folder: Path) -> None:
    """What an index names must be in the files; a half-fetched model else looks like one of another make."""
    found = Weights(folder)
    if not (folder / INDEX).is_file():
        return
    lost = sorted(json.loads((folder / INDEX).read_text())["weight_map"].keys() - found.keys())
    if lost:
        raise UserError(f"{folder / INDEX} names '{lost[0]}', which no file holds; fetch or make the model again")


def _is_finite(tensor: Tensor) -> bool:
    """By the bits in half precision: as signed numbers, +inf and NaN come last, as unsigned ones -inf and -NaN do."""
    limit = NEGATIVE_INFINITY.get(tensor.dtype)
    for start in range(0, tensor.data.size, CHUNK):
        chunk = tensor.data[start : start + CHUNK]
        if limit is not None:
            if chunk.max() >= limit or chunk.view(np.int16).max() >= limit - 0x8000:
                return False
        elif tensor.dtype in ("F32", "F64") and not np.isfinite(chunk).all():
            return False
    return True
