"""result.md: what a reader must know of a number stands beside it."""

from __future__ import annotations

from typing import Any

import pytest

from eval.summary import to_markdown

METRIC = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "definition": "share of items"}


def result(**entry: Any) -> dict[str, Any]:
    plain = {
        "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "unreadable": 0, "truncated": 0,
        "unfinished": 0, "max_new_tokens": 64, "access": "open", "published": True, "simulated": False,
        "settings": {"shots": 0}, "left_out": {}, "notes": {"as_published": True}, "not_run": [],
        "metrics": {"accuracy": METRIC, "exact": METRIC | {"n": 7}},
    }  # fmt: skip
    return {
        "model": "m", "suite": "s", "protocol": "strict", "average": {"value": 0.5, "low": 0.4, "high": 0.6},
        "perplexity": {}, "benchmarks": {"medec": plain | entry},
    }  # fmt: skip


def test_a_whole_published_file_has_no_caveats() -> None:
    """Items, shots and source in one line, nothing below the table; a metric of fewer items says of how many."""
    told = to_markdown(result())
    assert "| medec | accuracy | 50.0 (40.0–60.0) | 10 | 0 | 0 | open file, as published |" in told
    assert "- medec:" not in told and "| medec | exact | 50.0 (40.0–60.0) | 7 | share of items |" in told


def test_what_was_limited_cut_or_left_out_is_said() -> None:
    """`10` would be read as the whole set, and a prompt without its middle as the whole question."""
    told = to_markdown(
        result(
            truncated=4,
            unfinished=3,
            unreadable=1,
            settings={"shots": 2},
            left_out={"beyond the limit": 30, "blank": 5},
        )
    )
    assert "| 10 of 40 | 2 | 10.0 % |" in told
    said = "4 prompts cut to fit the model's context; 3 answers stopped at 64 tokens; 5 left out: blank."
    assert f"- medec: {said}\n\n## Every metric" in told


@pytest.mark.parametrize(
    ("entry", "data"),
    [
        ({"notes": {"as_published": False}}, "open file, not as published"),
        ({"notes": {"as_published": None}}, "open file, not checked"),
        ({"notes": {}, "access": "credentialed"}, "credentialed file, not checked"),
        ({"published": False}, "made"),
        ({"published": False, "simulated": True}, "simulated"),
    ],
)
def test_only_a_file_of_known_digest_is_called_published(entry: dict[str, Any], data: str) -> None:
    """Half of a published file has its columns, and is not the published set."""
    assert to_markdown(result(**entry)).splitlines()[6].endswith(f"| {data} |")
