"""mergekit, the reference engine: run it on a checked recipe."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from merge_recipes.parents import tensor_shapes
from merge_recipes.passthrough import PER_LAYER, layers_of
from merge_recipes.recipe import resolve


def merge(recipe: Mapping[str, Any], folders: Mapping[str, Path], target: Path, dtype: str | None, seed: int) -> Any:
    """Merge into the empty folder `target`; return mergekit's configuration as it ran.

    What mergekit leaves open of generation_config.json is completed by result.complete.

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
        with _quiet(), _types_of_layers(layers_of(recipe)):
            run_merge(configuration, str(target), options=options)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"mergekit refuses the merge: {error}") from error
    finally:
        LoaderCache().loaders.clear()
    return as_run


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


@contextlib.contextmanager
def _types_of_layers(kept: list[int] | None) -> Iterator[None]:
    """Have mergekit keep the attention of the layers that it keeps.

    It writes the new depth and leaves `layer_types` (Qwen, Gemma and others) as long as it was, which transformers
    refuses to save.
    """
    import mergekit.merge

    made = mergekit.merge._model_out_config

    def shortened(*given: Any, **named: Any) -> Any:
        config = made(*given, **named)
        text = config.get_text_config()
        for key in PER_LAYER:
            if kept is not None and getattr(text, key, None):
                setattr(text, key, [getattr(text, key)[layer] for layer in kept])
        return config

    mergekit.merge._model_out_config = shortened
    try:
        yield
    finally:
        mergekit.merge._model_out_config = made


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
