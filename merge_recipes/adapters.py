"""Adapters as models of a merge: each is folded into its base first, and the merge sees a whole model.

A plain LoRA is folded here tensor by tensor over mapped files, W + scale * B A in float32, rounded once to the type in
which the base stores W; memory is a few blocks of rows. What is more than that (DoRA, other kinds of adapters, other
layouts of weights) is left to peft, which holds the whole base in float32. Both give what merge_and_unload of peft
gives, within one rounding.

The folded models lie in the hidden folder `.folded` of the run. They are scratch: no part of its result or digest, used
again by a try of the same run that goes on after a kill, and removed at its end by remove_folded.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medsmith.digests import combined, file_digest
from medsmith.errors import UserError
from medsmith.layers import require_same_layers
from medsmith.records import read_json, write_json
from merge_recipes.parents import FOLDED, check_room, first_broken_tensor, weights_digest, widest_type
from merge_recipes.stream import SMALL_FILES, copy_small_files
from merge_recipes.vocabulary import TOKENIZER, VOCABULARIES
from merge_recipes.weights import Entry, Tensor, Weights, create

LOG = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NOTE = "folded.json"
VERSION = 1
"""Raised when folding changes: folded models of an older version are made again."""

PREFIX = "base_model.model."
FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")

PLAIN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
    "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
"""Keys of an adapter's configuration that may be set in one that is folded here. A LoRA that sets another is peft's."""

BLOCK = 1 << 22
"""Numbers folded at once."""

Array = np.ndarray[Any, Any]


class Factors(NamedTuple):
    """A low-rank change of one weight: scale * B A."""

    a: Array
    b: Array
    scale: float


Changed = dict[str, Tensor | Factors]
"""What becomes of the weights that an adapter changes, by name: other ones, or a low-rank change."""


class Change(NamedTuple):
    """The squared norms of what folding changed and of what rounding took of that."""

    wanted: float = 0.0
    lost: float = 0.0

    @property
    def kept(self) -> float:
        """The share of the change that is left, as one less the relative error."""
        return 1 - math.sqrt(self.lost / self.wanted) if self.wanted else 1.0


def fold_all(adapters: Mapping[str, Path], base: Path, base_ref: str | Path, into: Path) -> dict[str, Path]:
    """A model folder for each adapter, below `into`; one that is there from an earlier try is used again.

    `base_ref` is what the user calls the base: a folder or a hub id, to be compared with what the adapter says.

    Raises:
        UserError: an adapter is torn or not finite, belongs to another base, adds tokens, is of a kind that changes no
            weights, or the disk has no room.
    """
    todo = {}
    for name, folder in adapters.items():
        require_same_layers(name, folder, base)
        _check_base(name, _read_config(name, folder), base, base_ref)
        note = {"version": VERSION, "adapter": _digest(folder), "base": weights_digest(base)}
        path = into / name / NOTE
        if not path.is_file() or not note.items() <= read_json(path).items():
            todo[name] = note
    into.mkdir(parents=True, exist_ok=True)
    if todo:
        check_room(into, Weights(base).shapes, widest_type([base]), copies=len(todo))
    for name, note in todo.items():
        shutil.rmtree(into / name, ignore_errors=True)
        (into / name).mkdir()
        how, change = fold(name, adapters[name], base, into / name)
        LOG.info(
            "the adapter '%s' is folded into its base (%s); rounding left %.1f%% of it", name, how, change.kept * 100
        )
        write_json(into / name / NOTE, {**note, "how": how, "kept": change.kept})
    return {name: into / name for name in adapters}


def remove_folded(out: Path) -> None:
    """Take away what was folded for a run in `out`."""
    shutil.rmtree(out / FOLDED, ignore_errors=True)


def fold(name: str, adapter: Path, base: Path, target: Path) -> tuple[str, Change]:
    """Write the model that an adapter makes of its base into the empty folder `target`; return how, and the change.

    Raises:
        UserError: see fold_all.
    """
    config, weights = _read_config(name, adapter), Weights(base)
    if broken := first_broken_tensor(adapter):
        raise UserError(f"'{name}': the adapter's weights '{broken}' are not all finite ({adapter}); make it again")
    plain = _read_changes(name, config, Weights(adapter), weights)
    how = "by peft" if plain is None else "tensor by tensor"
    changed = _fold_by_peft(name, adapter, weights, config["peft_type"]) if plain is None else plain
    change = Change()
    with create(target, [Entry(tensor.name, tensor.dtype, tensor.shape) for tensor in weights.values()]) as views:
        for tensor in weights.values():
            if tensor.name in changed:
                change = _write(tensor, changed[tensor.name], views[tensor.name], change)
            else:
                views[tensor.name][:] = tensor.data
    _write_small_files(adapter, base, target)
    return how, change


def _write(tensor: Tensor, source: Tensor | Factors, place: Array, change: Change) -> Change:
    """Write what becomes of a weight, block of rows by block of rows; return `change` with this one added."""
    shape = tensor.shape if len(tensor.shape) > 1 else (1, tensor.data.size)
    old, new = tensor.data.reshape(shape), place.reshape(shape)
    rows = max(1, BLOCK // max(1, old[0].size))
    wanted, lost = change
    for start in range(0, len(old), rows):
        part = slice(start, start + rows)
        before = _float32(old[part], tensor.dtype)
        if isinstance(source, Factors):
            delta = source.b[part] @ source.a * np.float32(source.scale)
            after = before + delta
        else:
            after = _float32(source.data.reshape(shape)[part], source.dtype)
            delta = after - before
        new[part] = round_to(after, tensor.dtype)
        wanted += float(np.vdot(delta, delta))
        error = _float32(new[part], tensor.dtype) - before - delta
        lost += float(np.vdot(error, error))
    return Change(wanted, lost)


def _float32(bits: Array, dtype: str) -> Array:
    return Tensor("", dtype, (), bits.reshape(-1), Path()).float32().reshape(bits.shape)


def _equal(one: Tensor, other: Tensor) -> bool:
    parts = [slice(start, start + BLOCK) for start in range(0, one.data.size, BLOCK)]
    return all(
        np.array_equal(_float32(one.data[part], one.dtype), _float32(other.data[part], other.dtype)) for part in parts
    )


def round_to(values: Array, dtype: str) -> Array:
    """Finite float32 values as they are stored in a type, rounded to the nearest, ties to even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    if dtype == "F16":
        with np.errstate(over="ignore"):  # an infinity, which is found where the parents are looked at
            return values.astype(np.float16).view(np.uint16)
    return values.astype({"F32": np.float32, "F64": np.float64}[dtype])


def _read_config(name: str, adapter: Path) -> dict[str, Any]:
    try:
        values = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict) or not values.get("peft_type"):
        raise UserError(f"'{name}': {adapter / CONFIG} is not a whole configuration; fetch or make the adapter again")
    if not (adapter / WEIGHTS).is_file():
        raise UserError(f"'{name}': {adapter} has no {WEIGHTS}; save the adapter as safetensors")
    return values


def _digest(adapter: Path) -> str:
    """One digest of all that folding reads of an adapter."""
    read = (CONFIG, WEIGHTS, "README.md", *SMALL_FILES)
    return combined({name: file_digest(adapter / name) for name in read if (adapter / name).is_file()})


def _check_base(name: str, config: Mapping[str, Any], base: Path, base_ref: str | Path) -> None:
    """An adapter's numbers mean something only on the weights that it was trained on."""
    said = str(config.get("base_model_name_or_path") or "")
    ours = base_ref if isinstance(base_ref, str) else base_ref.resolve()
    other = Path(said).expanduser()
    if said and (other / "config.json").is_file():
        if other.resolve() != base.resolve() and not _same_weights(other, base):
            raise UserError(
                f"'{name}' is an adapter of {said}, whose weights are not those of this merge's base ({ours}); merge "
                "it with the base it was trained on"
            )
    elif said and isinstance(ours, str) and not other.is_absolute():
        if said.partition("@")[0] != ours.partition("@")[0]:
            raise UserError(
                f"'{name}' is an adapter of {said}, and this merge's base is {ours}; merge it with the base it was "
                "trained on"
            )
    else:
        says = f"says that it is one of {said}, which is not here to compare" if said else "does not say of which base"
        LOG.info("the adapter '%s' %s; taken to be one of %s", name, says, ours)


def _same_weights(folder: Path, base: Path) -> bool:
    """Whether two folders hold the same weights, be they in other files."""
    if weights_digest(folder) == weights_digest(base):
        return True
    theirs, ours = Weights(folder), Weights(base)
    return theirs.shapes == ours.shapes and all(
        tensor.dtype == ours[tensor.name].dtype and np.array_equal(tensor.data, ours[tensor.name].data)
        for tensor in theirs.values()
    )


def _read_changes(name: str, config: Mapping[str, Any], found: Weights, base: Weights) -> Changed | None:
    """What an adapter makes of which weights: replaces them or changes them by factors; None where peft must fold it.

    Raises:
        UserError: it changes what the base has not, or in other shapes.
    """
    whole: Changed = {}
    pairs: dict[str, dict[str, Tensor]] = {}
    plain = config["peft_type"] == "LORA" and config.get("bias", "none") == "none"
    plain &= config.get("init_lora_weights", True) in (True, False, "gaussian")  # others change the base as well
    plain &= all(not value or key in PLAIN for key, value in config.items())
    for tensor in found.values():
        key = tensor.name.removeprefix(PREFIX).replace(".base_layer.weight", ".weight")
        parts = FACTOR.fullmatch(key)
        changed = f"{parts[1]}.weight" if parts else key
        if changed == "lm_head.weight" and changed not in base:
            raise UserError(
                f"'{name}' is an adapter that trains the output layer, which the base ties to its embeddings "
                f"({base.folder}); a merge cannot untie them"
            )
        if parts and changed not in base:
            raise UserError(
                f"'{name}' is an adapter that changes '{changed}', and the base has no such weights ({base.folder}); "
                "merge it with the base it was trained on"
            )
        if parts:
            pairs.setdefault(parts[1], {})[parts[2]] = tensor
        elif changed in base:
            _require_shape(name, changed, tensor.shape, base[changed].shape)
            # Beside factors of an output layer peft saves the layer itself, as a rule just the base's.
            if not _equal(tensor, base[changed]):
                whole[changed] = tensor
        else:
            plain = False
    # New embeddings of a base whose output layer is tied to them: whether they stay tied is for peft to say.
    if not plain or any(len(pair) < 2 for pair in pairs.values()) or (whole and "lm_head.weight" not in base):
        return None
    if any(f"{module}.weight" in whole for module in pairs):
        return None
    factors = {f"{module}.weight": _factors(name, module, pair, config) for module, pair in pairs.items()}
    for key, (a, b, _) in factors.items():
        _require_shape(name, key, (b.shape[0], a.shape[1]), base[key].shape)
    return {**whole, **factors}


def _require_shape(name: str, key: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> None:
    if theirs == ours:
        return
    if theirs[1:] == ours[1:] and ("embed" in key or "lm_head" in key):
        raise UserError(
            f"'{name}' is an adapter with {theirs[0]} tokens in '{key}', the base has {ours[0]}; a merge needs one "
            "vocabulary: train it without adding tokens"
        )
    raise UserError(
        f"'{name}' is an adapter that changes '{key}' in the shape {theirs}, the base's is {ours}; merge it with the "
        "base it was trained on"
    )


def _factors(name: str, module: str, pair: Mapping[str, Tensor], config: Mapping[str, Any]) -> Factors:
    def setting(plain: str, patterns: str) -> float:
        """As peft reads it: of the first pattern that the end of the module's name matches."""
        for key, value in (config.get(patterns) or {}).items():
            if re.fullmatch(rf"(.*\.)?({key})", module):
                return float(value)
        return float(config[plain])

    a, b = (pair[letter].float32().reshape(pair[letter].shape) for letter in "AB")
    rank = setting("r", "rank_pattern")
    if not rank == a.shape[0] == b.shape[1]:
        raise UserError(
            f"'{name}': {CONFIG} gives '{module}' the rank {rank:g}, {WEIGHTS} has {a.shape[0]} and {b.shape[1]}; the "
            "two are not of one adapter"
        )
    return Factors(
        a, b, setting("lora_alpha", "alpha_pattern") / (math.sqrt(rank) if config.get("use_rslora") else rank)
    )


def _fold_by_peft(name: str, adapter: Path, base: Weights, kind: str) -> Changed:
    """Every weight of the base after peft's merge_and_unload, in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"'{name}': peft cannot fold this adapter of type {kind} into its base ({reason}); merge the model that it "
            "makes, or leave it out"
        ) from None
    if lacking := [str(one.message) for one in caught if "missing adapter keys" in str(one.message)]:
        raise UserError(
            f"'{name}': not all of this adapter is there ({lacking[0].splitlines()[0][:200]}); fetch it again"
        )
    state = model.state_dict()
    _require_tied(name, base, model, state)
    folded: Changed = {}
    for tensor in base.values():
        if tensor.name not in state or tuple(state[tensor.name].shape) != tensor.shape:
            raise UserError(f"'{name}': with this adapter, '{tensor.name}' is no longer as in the base; leave it out")
        if state[tensor.name].dtype == torch.float32:
            values = state[tensor.name].detach().contiguous().numpy().reshape(-1)
            folded[tensor.name] = Tensor(tensor.name, "F32", tensor.shape, values, adapter / WEIGHTS)
    return folded


def _require_tied(name: str, base: Weights, model: Any, state: Mapping[str, Any]) -> None:
    """An output layer that the base's files leave out is its embeddings, and must be so still."""
    import torch

    output = model.get_output_embeddings()
    if output is None or "lm_head.weight" in base or "lm_head.weight" not in state:
        return
    if not torch.equal(output.weight, model.get_input_embeddings().weight):
        raise UserError(
            f"'{name}' is an adapter that trains embeddings or output layer alone, which the base ties "
            f"({base.folder}); a merge cannot untie them"
        )


def _write_small_files(adapter: Path, base: Path, target: Path) -> None:
    """The base's configuration, the adapter's own tokenizer where it has one (it is compared), and its card."""
    copy_small_files(base, target, None)
    if any((adapter / file).is_file() for file in (TOKENIZER, *VOCABULARIES)):
        for file in (file for file in SMALL_FILES if file != "generation_config.json"):
            (target / file).unlink(missing_ok=True)
            if (adapter / file).is_file():
                shutil.copyfile(adapter / file, target / file)
    if (adapter / "README.md").is_file():
        shutil.copyfile(adapter / "README.md", target / "README.md")
