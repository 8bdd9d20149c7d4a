"""A model folder that is not whole is one line, not a library's traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medsmith.errors import UserError


def test_a_folder_that_is_not_whole_is_named(tiny_model: Path, tmp_path: Path) -> None:
    """A torn copy of the weights, and a folder without its tokenizer; the whole one loads."""
    from medsmith.models import load_model, load_tokenizer

    folder = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    load_model(folder), load_tokenizer(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"copy: the weights cannot be loaded \(.*\); give the folder of a finished"):
        load_model(folder)
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"copy: the tokenizer cannot be loaded \(.*\); give the folder of a finished"):
        load_tokenizer(folder)
