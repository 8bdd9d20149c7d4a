"""The streaming engine: merge tensor by tensor over memory-mapped files, into new files or into a living model.

    python -m merge_recipes.stream recipe.yml out/merged base=folder pubmed=folder … [--threads 2] [--device cuda]

writes the weights and small files of a merge, without the checks and the lineage of merge_recipes.build, which calls
the same code. Memory does not grow with the models: parents and result are mapped files, and a block of a few thousand
elements is in work at a time. Tensors are merged on several threads. What the arithmetic is and where it differs from
mergekit's: arithmetic.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medsmith.errors import UserError
from merge_recipes.arithmetic import METHODS, merge_tensor
from merge_recipes.inputs import KINDS, Inputs, Memo, Place
from merge_recipes.numbers import layer_of, numbers_for
from merge_recipes.recipe import load_recipe, names_of
from merge_recipes.weights import DTYPES, Entry, Tensor, Weights, create

SMALL_FILES = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""What a merge takes from its base as it stands, where the base has it."""

ONLY_AS_IT_STANDS = {
    "nuslerp": {"nuslerp_row_wise": False, "nuslerp_flatten": True},
    "model_stock": {"filter_wise": False},
}
"""Options of which the engine knows only mergekit's default."""


class Merger:
    """The open models of a merge, and merges of them."""

    def __init__(self, folders: Mapping[str, Path], base: str, device: str = "cpu", threads: int | None = None) -> None:
        """Map the weights of all models; nothing is read yet.

        Raises:
            UserError: a folder's weights are missing or not whole.
        """
        self.base = base
        self.device = device
        self.threads = threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
        self.weights = {name: Weights(folder) for name, folder in folders.items()}
        self.layers = 1 + max((layer_of(name) or 0 for name in self.weights[base]), default=0)
        self._memos: dict[str, dict[str, Memo]] = {}
        self._on_device: dict[tuple[str, str], Any] = {}

    def refuses(self, recipe: Mapping[str, Any]) -> str | None:
        """Why this recipe needs mergekit, or None."""
        method = recipe["merge_method"]
        if method not in METHODS:
            return f"{method} is mergekit's alone"
        if not recipe.get("models"):
            return "slices and modules are mergekit's alone"
        if recipe.get("chat_template"):
            return "a chat template of its own is written by mergekit"
        for name, known in ONLY_AS_IT_STANDS.get(method, {}).items():
            if (recipe.get("parameters") or {}).get(name, known) != known:
                return f"{method} with {name}: {not known} is mergekit's alone"
        for model in names_of(recipe):
            for tensor in self.weights[model].values():
                if tensor.dtype not in KINDS and tensor.dtype.startswith("F"):
                    return f"'{model}' holds '{tensor.name}' as {tensor.dtype}"
        return None

    def tensor(self, recipe: Mapping[str, Any], name: str, seed: int = 0) -> np.ndarray[Any, Any]:
        """One merged tensor in float32, flat, not rounded to the output's type."""
        if self.weights[self.base][name].dtype not in KINDS:
            return self._whole_numbers(recipe, name).astype(np.float32)
        merged = np.empty(self.weights[self.base][name].data.size, np.float32)
        if self.device == "cpu":
            merge_tensor(recipe["merge_method"], *self._job(recipe, name, seed), Place(merged.ctypes.data, 0))
        else:
            merged[:] = self._on_gpu(recipe, name, seed).float().cpu().numpy()
        return merged

    def out_dtype(self, recipe: Mapping[str, Any], name: str, dtype: str | None = None) -> str:
        """The stored type of a merged tensor: the recipe's, else the widest of its parents'."""
        stored = [self.weights[model][name].dtype for model in names_of(recipe)]
        if stored[0] not in KINDS:
            return stored[0]
        wanted = recipe.get("out_dtype") or dtype or recipe.get("dtype")
        if wanted:
            if wanted not in DTYPES:
                raise UserError(f"dtype '{wanted}' is not one that models are saved in; use {', '.join(DTYPES)}")
            return DTYPES[wanted]
        return stored[0] if len(set(stored)) == 1 else "F32"

    def write(
        self,
        recipe: Mapping[str, Any],
        target: Path,
        seed: int = 0,
        dtype: str | None = None,
        advance: Callable[[str], None] = lambda name: None,
    ) -> dict[str, int]:
        """Merge into the folder `target`: weights (sharded as the hub does), configuration, tokenizer; return counts.

        `advance` is called with the name of every tensor that is done.

        Raises:
            UserError: a tensor that is not finite, or the disk is full. What was written is not a model then.
        """
        names = list(self.weights[self.base])
        entries = [
            Entry(name, self.out_dtype(recipe, name, dtype), self.weights[self.base][name].shape) for name in names
        ]
        kinds = {entry.name: entry.dtype for entry in entries}
        with create(target, entries) as views:

            def one(name: str) -> None:
                if kinds[name] not in KINDS:
                    views[name][:] = self._whole_numbers(recipe, name)
                elif self.device == "cpu":
                    place = Place(views[name].ctypes.data, KINDS[kinds[name]])
                    merge_tensor(recipe["merge_method"], *self._job(recipe, name, seed), place)
                else:
                    views[name][:] = _rounded(self._on_gpu(recipe, name, seed), kinds[name])

            self._each(names, one, advance)
        common = {entry.dtype for entry in entries if entry.dtype in KINDS}
        copy_small_files(self.weights[self.base].folder, target, common.pop() if len(common) == 1 else None)
        values = sum(self.weights[self.base][name].data.size for name in names)
        return {"tensors": len(names), "parameters": values, "bytes": sum(entry.nbytes for entry in entries)}

    def into_model(self, recipe: Mapping[str, Any], model: Any, seed: int = 0, dtype: str | None = None) -> None:
        """Merge into the parameters of a loaded model, in place.

        They become what they would be if the merge had been saved and loaded again in the model's type. What was found
        of the experts' magnitudes is kept for the next call.

        Raises:
            UserError: the model has other tensors than the files, or the merge is not finite.
        """
        import torch

        parameters = model.state_dict()
        for name, tensor in self.weights[self.base].items():
            if name not in parameters or tuple(parameters[name].shape) != tensor.shape:
                raise UserError(f"the model has no '{name}' of shape {tensor.shape}; load it from {tensor.file.parent}")
        kind_of = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

        def one(name: str) -> None:
            parameter, stored = parameters[name], self.out_dtype(recipe, name, dtype)
            if stored not in KINDS:
                return  # the same in all models
            method, own = recipe["merge_method"], kind_of.get(parameter.dtype, "")
            if self.device != "cpu":
                parameter.copy_(
                    self._on_gpu(recipe, name, seed, keep=True).to(_torch_dtype(stored)).view(parameter.shape)
                )
            elif parameter.is_contiguous() and (own == stored or (stored == "F32" and own in KINDS)):
                place = Place(parameter.data_ptr(), KINDS[own])
                merge_tensor(method, *self._job(recipe, name, seed, keep=True), place)
            else:
                scratch = torch.empty(parameter.shape, dtype=_torch_dtype(stored))
                place = Place(scratch.data_ptr(), KINDS[stored])
                merge_tensor(method, *self._job(recipe, name, seed, keep=True), place)
                parameter.copy_(scratch)

        with torch.no_grad():
            self._each(list(self.weights[self.base]), one)

    def _job(self, recipe: Mapping[str, Any], name: str, seed: int, keep: bool = False) -> tuple[Any, Inputs]:
        numbers = numbers_for(recipe, name, layer_of(name), self.layers)
        experts = {model: self.weights[model][name] for model in names_of(recipe) if model != self.base}
        memos = self._memos.setdefault(name, {}) if keep else None
        return numbers, Inputs(self.base, self.weights[self.base][name], experts, seed, memos)

    def _on_gpu(self, recipe: Mapping[str, Any], name: str, seed: int, keep: bool = False) -> Any:
        from merge_recipes.arithmetic_torch import merge_on_device

        numbers, inputs = self._job(recipe, name, seed)
        return merge_on_device(recipe["merge_method"], numbers, inputs, self.device, self._on_device if keep else None)

    def _whole_numbers(self, recipe: Mapping[str, Any], name: str) -> np.ndarray[Any, Any]:
        """A buffer that is not of floats, which all models must share."""
        first: Tensor = self.weights[self.base][name]
        for model in names_of(recipe):
            other = self.weights[model][name]
            if other.dtype != first.dtype or not np.array_equal(other.data, first.data):
                raise UserError(f"'{model}' and '{self.base}' differ in '{name}', which holds no weights to merge")
        return first.data

    def _each(
        self, names: Iterable[str], work: Callable[[str], None], advance: Callable[[str], None] = lambda name: None
    ) -> None:
        """Do the work for every tensor, the largest first, so that no thread is left with a large one at the end."""
        order = sorted(names, key=lambda name: (-self.weights[self.base][name].nbytes, name))
        if self.threads == 1 or self.device != "cpu":
            for name in order:
                work(name)
                advance(name)
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for name, _ in zip(order, pool.map(work, order), strict=True):
                    advance(name)
            finally:
                pool.shutdown(cancel_futures=True)


def copy_small_files(base: Path, target: Path, dtype: str | None) -> None:
    """Give a merge its base's configuration, with the type of its weights, and the files of its tokenizer."""
    settings = json.loads((base / "config.json").read_text(encoding="utf-8"))
    settings.pop("torch_dtype", None)
    if dtype:
        settings["dtype"] = next(name for name, stored in DTYPES.items() if stored == dtype)
    (target / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in SMALL_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """For the entry point below: a user's mistake is one line."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def _torch_dtype(stored: str) -> Any:
    import torch

    return {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[stored]


def _rounded(merged: Any, stored: str) -> np.ndarray[Any, Any]:
    """A merged tensor as the bits in which it is stored."""
    import torch

    rounded = merged.to(_torch_dtype(stored)).cpu().contiguous()
    found = rounded.numpy() if stored == "F32" else rounded.view(torch.uint16).numpy()
    return np.asarray(found).reshape(-1)


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and merge."""
    parser = argparse.ArgumentParser(prog="python -m merge_recipes.stream", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", type=Path, help="a mergekit recipe that names its models")
    parser.add_argument("out", type=Path, help="the folder to write, made where it is not there")
    parser.add_argument("models", nargs="+", help="name=folder for each model of the recipe")
    parser.add_argument("--threads", type=int, help="default: OMP_NUM_THREADS, else all cores")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0, help="of what DARE drops")
    given = parser.parse_args(arguments)
    with one_line_errors():
        recipe = load_recipe(given.recipe)
        folders = {name: Path(folder) for name, _, folder in (model.partition("=") for model in given.models)}
        missing = [name for name in names_of(recipe) if name not in folders]
        if missing:
            raise UserError(f"the recipe names a model '{missing[0]}'; give {missing[0]}=FOLDER")
        merger = Merger(
            {name: folders[name] for name in names_of(recipe)}, recipe["base_model"], given.device, given.threads
        )
        if reason := merger.refuses(recipe):
            raise UserError(f"{given.recipe}: {reason}; use merge_recipes.build with engine=mergekit")
        given.out.mkdir(parents=True, exist_ok=True)
        print(json.dumps(merger.write(recipe, given.out, given.seed)))


if __name__ == "__main__":
    main()
