"""Merge models after a mergekit recipe: check the parents, merge, check the result.

    python -m merge_recipes.build out=out/merged recipe=merge_recipes/breadcrumbs.yml models.base=… models.pubmed=…

Writes a model folder, `recipe.yml` and run.json with the digest of every parent's weights. The parents are not changed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution

LOG = logging.getLogger(__name__)


class Config(config.Config):
    """A recipe and the models that it names."""

    libraries: ClassVar[tuple[str, ...]] = ("mergekit", "torch", "transformers")

    recipe: Path = Field(description="a mergekit recipe that names its models, e.g. merge_recipes/breadcrumbs.yml")
    models: dict[str, ModelRef] = Field(description="the folder or hub id of each name in the recipe")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="merge and save in this type; default: the recipe's"
    )
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")


def main(settings: Config) -> Path:
    """Build the merge; the folder is finished only when the result was checked."""
    from medsmith.models import set_threads
    from merge_recipes.merge import build
    from merge_recipes.parents import prepare
    from merge_recipes.recipe import load_recipe

    recipe = load_recipe(settings.recipe)
    with run.start(settings, "merge_recipes.build") as this:
        set_threads(settings.threads)
        folders = prepare(recipe, settings.models, settings.dtype, settings.out)
        LOG.info("merging %s by %s", ", ".join(folders), recipe["merge_method"])
        this.facts |= build(recipe, folders, settings.out, settings.dtype, settings.seed)
        return this.finish(models=len(folders))


if __name__ == "__main__":
    run_command(main, Config)
