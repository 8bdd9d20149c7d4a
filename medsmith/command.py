"""What every command shares: arguments, logging, one-line errors.

    python -m align.dpo align/recipes/embedded.yml trainer.beta=0.2
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from medsmith.config import Config, load
from medsmith.errors import UserError

C = TypeVar("C", bound=Config)


def run_command(main: Callable[[C], Path], cls: type[C], arguments: Sequence[str] | None = None) -> None:
    """Parse `[recipe.yml] [key=value …]`, run `main`, print the folder it finished; exit 2 on a UserError."""
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    parser.add_argument("recipe", nargs="?", help="a YAML recipe")
    parser.add_argument("override", nargs="*", help="key.sub=value, applied after the recipe")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    overrides = list(given.override)
    recipe = given.recipe
    if recipe and "=" in recipe:
        overrides.insert(0, recipe)
        recipe = None
    try:
        print(main(load(cls, Path(recipe) if recipe else None, overrides)))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to continue")
