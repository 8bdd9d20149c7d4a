"""Shared by all tests: no network, one thread, and a tiny model that is built, never downloaded."""

from __future__ import annotations

import os
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}

import pytest

WORDS = """Patient admitted with chest pain and shortness of breath. Started on metformin 500 mg daily for diabetes.
No pleural effusion. Left lower lobe pneumonia. ICD-10 code E11.9. The patient denies fever. Blood pressure 150/90.
Answer the question. Decide how the second sentence relates to the first. ENTAILMENT NEUTRAL CONTRADICTION."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest memo of a test must not lie in the developer's home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Phi-3 model folder with tokenizer and chat template, random weights. Do not write into it."""
    from experts.architecture import build_model, build_tokenizer, untie

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = build_tokenizer([WORDS], vocabulary=384)
    model = build_model(tokenizer, hidden=32, layers=2, heads=2, feed_forward=64, context=256, seed=0)
    untie(model)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
