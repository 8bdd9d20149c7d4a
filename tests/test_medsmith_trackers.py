"""A tracker that is named is there or is asked for in one line; what the run itself writes does not depend on it."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from medsmith.errors import UserError
from medsmith.trackers import FOLDERS, MODULES, check_trackers
from medsmith.training import trainer_arguments


@pytest.fixture(autouse=True)
def _no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that a check sets are gone after each test."""
    for variable in FOLDERS.values():
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


def plant(monkeypatch: pytest.MonkeyPatch, name: str) -> types.ModuleType:
    """A package of that name that can be found and does nothing."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.parametrize("name", [name for name in MODULES if importlib.util.find_spec(MODULES[name]) is None])
def test_tracker_that_is_not_installed_is_one_line(name: str, tmp_path: Path) -> None:
    """The line says what to install, before any data are read."""
    from trl import SFTConfig

    with pytest.raises(UserError, match=rf"report_to={name} needs a package that is not here; install it: pip install"):
        trainer_arguments(SFTConfig, {"report_to": ["none", name]}, tmp_path, seed=0, threads=1)


def test_misspelt_tracker_is_named(tmp_path: Path) -> None:
    """Not only ours are known: what transformers knows besides is let through."""
    with pytest.raises(UserError, match="report_to=tensorbord is no tracker; did you mean 'tensorboard'"):
        check_trackers({"report_to": "tensorbord"}, tmp_path)
    check_trackers({"report_to": "codecarbon"}, tmp_path)


@pytest.mark.parametrize("block", [{}, {"report_to": "none"}, {"report_to": []}, {"report_to": "all"}])
def test_nothing_named_is_nothing_asked_for(block: dict[str, Any], tmp_path: Path) -> None:
    """And no folder is made."""
    check_trackers(block, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_installed_tracker_writes_into_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below log/, which outlives the checkpoints and is no part of the digest; a place that the user chose stays."""
    from trl import SFTConfig

    plant(monkeypatch, "tensorboard")
    made = trainer_arguments(SFTConfig, {"report_to": "tensorboard"}, tmp_path, seed=0, threads=1)
    assert made.report_to == ["tensorboard"]
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "log" / "tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/elsewhere")
    check_trackers({"report_to": "tensorboard"}, tmp_path)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "/elsewhere"
