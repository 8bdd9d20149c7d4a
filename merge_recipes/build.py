"""Merge models after a mergekit recipe: check the parents, merge, check the result.

    python -m merge_recipes.build out=out/merged recipe=merge_recipes/breadcrumbs.yml models.base=… models.pubmed=…

Writes a model folder, `recipe.yml` and run.json with the digest of every parent's weights. The parents are not changed.
With --plan it only says what the merge will take.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError

LOG = logging.getLogger(__name__)


class Config(config.Config):
    """A recipe and the models that it names."""

    libraries: ClassVar[tuple[str, ...]] = ("mergekit", "numba", "torch", "transformers")

    recipe: Path = Field(description="a mergekit recipe that names its models, e.g. merge_recipes/breadcrumbs.yml")
    models: dict[str, ModelRef] = Field(description="the folder or hub id of each name in the recipe")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="merge and save in this type; default: the recipe's"
    )
    engine: Literal["auto", "stream", "mergekit"] = Field(
        "auto",
        description="stream merges over mapped files at a tenth of the cost; mergekit is the reference and knows every "
        "method; auto takes stream where it is proven equal",
    )
    device: str = execution("cpu", "where stream computes: cpu or cuda")
    threads: int | None = execution(None, "threads; default: OMP_NUM_THREADS, else all cores")
    verify: bool = execution(True, "load the merged model and have it say a few tokens")


def main(settings: Config) -> Path:
    """Build the merge; the folder is finished only when the result was checked."""
    from merge_recipes.licences import find_licences
    from merge_recipes.parents import prepare
    from merge_recipes.recipe import load_recipe
    from merge_recipes.result import Engine, build, looks_itself

    recipe = load_recipe(settings.recipe)
    with run.start(settings, "merge_recipes.build") as this:
        finite = not looks_itself(recipe, settings.engine)
        folders = prepare(recipe, settings.models, settings.dtype, settings.out, finite=finite)
        this.facts["licences"] |= find_licences(settings.models, folders)
        LOG.info("merging %s by %s", ", ".join(folders), recipe["merge_method"])
        engine = Engine(settings.engine, settings.device, settings.threads, settings.verify)
        this.facts |= build(recipe, folders, settings.out, settings.dtype, settings.seed, engine)
        LOG.info("merged by %s: %s", this.facts["engine"], this.facts["engine_reason"])
        return this.finish(models=len(folders))


def plan(settings: Config) -> str:
    """What --plan prints."""
    from merge_recipes.parents import planned_folders
    from merge_recipes.plan import describe
    from merge_recipes.recipe import load_recipe, names_of
    from merge_recipes.result import Engine

    recipe = load_recipe(settings.recipe)
    missing = [name for name in names_of(recipe) if name not in settings.models]
    if missing:
        raise UserError(f"the recipe names a model '{missing[0]}'; set models.{missing[0]}=FOLDER")
    folders = planned_folders(settings.models, recipe["base_model"])
    engine = Engine(settings.engine, settings.device, settings.threads)
    return describe(recipe, folders, settings.out, settings.dtype, engine)


if __name__ == "__main__":
    run_command(main, Config)
