"""Run mergekit on a checked recipe, and see that what it wrote is whole."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from medsmith.errors import UserError
from medsmith.records import write_json
from merge_recipes.parents import first_broken_tensor, tensor_shapes, weights_digest
from merge_recipes.recipe import names_of, resolve, stacks_layers

BUILDING = ".building"
"""Where a merge is written before it is moved into place; hidden, so that it never counts as a result."""


def merge(recipe: Mapping[str, Any], folders: Mapping[str, Path], target: Path, dtype: str | None, seed: int) -> Any:
    """Merge into the empty folder `target`; return mergekit's configuration as it ran.

    Raises:
        UserError: mergekit refuses the recipe.
    """
    with _quiet():
        from mergekit.config import MergeConfiguration
        from mergekit.io.tasks import LoaderCache
        from mergekit.merge import MergeOptions, run_merge

    _know_tied_heads(folders[recipe["base_model"]])
    # mergekit keeps opened files for the life of the process, by path: a model made again would be read as it was.
    LoaderCache().loaders.clear()
    configuration = MergeConfiguration.model_validate(resolve(recipe, folders, dtype))
    as_run = configuration.model_copy(deep=True)  # planning rewrites it
    options = MergeOptions(
        copy_tokenizer=True, lazy_unpickle=True, quiet=True, random_seed=seed, write_model_card=False, device="cpu"
    )
    try:
        with _quiet():
            run_merge(configuration, str(target), options=options)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"mergekit refuses the merge: {error}") from error
    finally:
        LoaderCache().loaders.clear()
    _complete(folders[recipe["base_model"]], target)
    return as_run


def build(
    recipe: Mapping[str, Any], folders: Mapping[str, Path], out: Path, dtype: str | None, seed: int
) -> dict[str, Any]:
    """Merge, check, and only then move the result into `out`; return the facts for run.json.

    Beside the model: `recipe.yml` (what was merged, by names; the same bytes wherever it runs) and `log/mergekit.yml`
    (the file that mergekit's own command would take, with absolute folders).
    """
    building = out / BUILDING
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    as_run = merge(recipe, folders, building, dtype, seed)
    facts = check_result(building, tensor_shapes(folders[recipe["base_model"]]), stacks_layers(recipe))
    written = {**recipe, **({"dtype": dtype} if dtype else {})}
    (building / "recipe.yml").write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    (out / "log").mkdir(exist_ok=True)
    (out / "log" / "mergekit.yml").write_text(as_run.to_yaml() + "\n")
    for path in sorted(building.iterdir()):
        path.replace(out / path.name)
    building.rmdir()
    parents = {name: {"weights": weights_digest(folders[name])} for name in names_of(recipe)}
    return {
        "merge_method": recipe["merge_method"],
        "base": recipe["base_model"],
        "parents": parents,
        "weights": weights_digest(out),
        **facts,
    }


def check_result(folder: Path, expected: Mapping[str, tuple[int, ...]], stacked: bool) -> dict[str, Any]:
    """Check a merged model: every tensor, each finite, loads with plain transformers, stops at the end of a turn.

    Raises:
        UserError: something is missing or broken; a merge with these parameters is no model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medsmith.training import end_of_turn

    shapes = tensor_shapes(folder)
    if not stacked and shapes != dict(expected):
        differ = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise UserError(f"the merge wrote '{differ[0]}' as {shapes.get(differ[0])}, not {expected.get(differ[0])}")
    broken = first_broken_tensor(folder)
    if broken:
        raise UserError(f"the merged weights '{broken}' are not all finite; use smaller weights or dtype float32")
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    lacking = sorted(loading["missing_keys"]) or sorted(loading["unexpected_keys"])
    if lacking:
        raise UserError(f"the merged model does not load whole: {lacking[0]} is missing or not expected")
    end = end_of_turn(AutoTokenizer.from_pretrained(folder))
    stops = model.generation_config.eos_token_id
    assert end in (stops if isinstance(stops, list) else [stops]), "the generation config ends at the end of a turn"
    return {"parameters": model.num_parameters(), "dtype": str(model.dtype).removeprefix("torch.")}


def _know_tied_heads(base: Path) -> None:
    """Tell mergekit that an output layer tied to the embedding is not in the file.

    Its table knows this of Llama and Qwen, not of Phi-3, where it asks for lm_head.weight and gives up. The entry is
    amended for this process, in the words that it has for Llama.
    """
    from mergekit.architecture import ModelArchitecture, ModuleDefinition
    from mergekit.architecture.json_definitions import NAME_TO_ARCH, JsonModuleArchitecture
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    if not config.tie_word_embeddings or "lm_head.weight" in tensor_shapes(base):
        return

    def amended(architecture: Any) -> Any:
        modules = {}
        for name, module in architecture.modules.items():
            if isinstance(module.architecture, JsonModuleArchitecture):
                definition = module.architecture.definition
                embedding = definition.pre_weights[0].name
                weights = [
                    weight.model_copy(update={"optional": True, "tied_names": (embedding,)})
                    if weight.name == "lm_head.weight"
                    else weight
                    for weight in definition.post_weights
                ]
                definition = definition.model_copy(update={"post_weights": weights})
                module = ModuleDefinition(
                    architecture=JsonModuleArchitecture(definition=definition),
                    weight_prefix=module.weight_prefix,
                    subfolder=module.subfolder,
                )
            modules[name] = module
        assert isinstance(architecture, ModelArchitecture)
        return architecture.model_copy(update={"modules": modules})

    for name in config.architectures or []:
        if name in NAME_TO_ARCH:
            NAME_TO_ARCH[name] = [amended(architecture) for architecture in NAME_TO_ARCH[name]]


def _complete(base: Path, target: Path) -> None:
    """Give the merge the base's generation config and make sure that it ends at the end of a turn.

    Phi-3.5's chat ends in <|end|>, its tokenizer's own end is another token; a model that knows only that one never
    stops talking.
    """
    from transformers import AutoTokenizer

    from medsmith.training import end_of_turn

    path = target / "generation_config.json"
    source = path if path.is_file() else base / "generation_config.json"
    settings: dict[str, Any] = json.loads(source.read_text()) if source.is_file() else {}
    stops = settings.get("eos_token_id")
    known = [] if stops is None else stops if isinstance(stops, list) else [stops]
    end = end_of_turn(AutoTokenizer.from_pretrained(target))
    if end not in known or source != path:
        write_json(path, settings | {"eos_token_id": list(dict.fromkeys([end, *known]))})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """mergekit logs every planning step, and uses names that transformers has deprecated."""
    loggers = [logging.getLogger(), logging.getLogger("mergekit"), logging.getLogger("transformers")]
    levels = [logger.level for logger in loggers]
    for logger, level in zip(loggers, (logging.WARNING, logging.WARNING, logging.ERROR), strict=True):
        logger.setLevel(max(level, logger.level))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
