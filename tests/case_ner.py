"""Two documents in columns: two diseases and a drug, one drug, and a sentence without entities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = """-DOCSTART-	O

Gout	B-Disease
and	O
heart	B-Disease
failure	I-Disease
:	O
aspirin	B-Drug
.	O

Stop	O
aspirin	B-Drug

-DOCSTART-	O

Thank	O
you	O
"""


def write(folder: Path) -> None:
    (folder / "test.tsv").write_text(TEXT)


def pairs(*named: tuple[str, str]) -> str:
    return json.dumps([{"text": text, "type": kind} for text, kind in named])


FIRST = (("Gout", "Disease"), ("heart failure", "Disease"), ("aspirin", "Drug"))
CASE: tuple[Any, ...] = (
    write,
    "TYPES: Disease, Drug\nTEXT: Gout and heart failure : aspirin .",
    [pairs(*FIRST), pairs(("aspirin", "Drug")), "[]"],
    2,
    {},
    # Half an entity is none: of three said two are right, of three true two are found. A bracket is missing.
    [
        (
            "disease: Gout; failure\nDrug: aspirin",
            [("Gout", "disease"), ("failure", "disease"), ("aspirin", "Drug")],
            2 / 3,
        ),
        (pairs(("aspirin", "Drug"))[:-1], [("aspirin", "Drug")], 1.0),
        ("There might be one.", None, 0.0),
    ],
)
