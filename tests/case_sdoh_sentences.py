"""Three sentences; the last names nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROWS = """text,label,adverse
Single mother without a job.,"PARENT,EMPLOYMENT","adverse,adverse"
Her sister helps.,SUPPORT,nonadverse
Afebrile.,NO_SDOH,
"""


def write(folder: Path) -> None:
    (folder / "Partial_Iteration_2_annotated.csv").write_text(ROWS)


CASE: tuple[Any, ...] = (
    write,
    "Single mother without a job.",
    [
        '[{"label": "PARENT", "adverse": true}, {"label": "EMPLOYMENT", "adverse": true}]',
        '[{"label": "SUPPORT", "adverse": false}]',
        "[]",
    ],
    3,
    {},
    # One of two labels is found: their F1s are 1 and 0.
    [
        ('[{"label": "parents", "adverse": true}]', {"PARENT": True}, 0.5),
        ("SUPPORT", None, 0.0),
        ("[]", {}, 1.0),
    ],
)
