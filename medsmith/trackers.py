"""Trackers of a training: `report_to` of a recipe's trainer block, through transformers' own integrations.

    trainer: {report_to: [tensorboard, trackio]}

`log/metrics.jsonl` is written in any case. Nothing of a tracker is imported before the trainer does it. One that sends
its numbers elsewhere (wandb, mlflow, trackio with a space) is given losses, settings and paths, never a row's text.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsmith.errors import UserError, nearest
from medsmith.machine import install_hint

MODULES = {"trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboard"}
"""Trackers by the name that transformers has for them, and the package that each needs."""

FOLDERS = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "wandb": "WANDB_DIR"}
"""Variables that say where a tracker writes. Its own choice is the checkpoints, which go, or the current folder."""


def check_trackers(block: Mapping[str, Any], folder: Path) -> None:
    """See that the trackers of a trainer block are there, and have them write into the run's log.

    Raises:
        UserError: one is not known, or not installed; the message says what to install.
    """
    for name in named(block):
        if name in MODULES and importlib.util.find_spec(MODULES[name]) is None:
            raise UserError(
                f"trainer: report_to={name} needs a package that is not here; {install_hint(MODULES[name])}"
            )
        if name not in MODULES:
            from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

            if name not in INTEGRATION_TO_CALLBACK:
                known = [*MODULES, *INTEGRATION_TO_CALLBACK, "all", "none"]
                raise UserError(f"trainer: report_to={name} is no tracker; {nearest(name, known)}")
        if name in FOLDERS:
            place = folder / "log" / name
            place.mkdir(parents=True, exist_ok=True)
            os.environ.setdefault(FOLDERS[name], str(place))


def named(block: Mapping[str, Any]) -> list[str]:
    """The trackers that a block names; `all` and `none` name none."""
    given = block.get("report_to") or []
    names = [given] if isinstance(given, str) else list(given)
    return [str(name) for name in names if name not in ("all", "none")]
