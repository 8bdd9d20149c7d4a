"""Small files of documents, and the command run on them: what the tests of corpora share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars

from experts import corpora
from medsmith.config import load
from medsmith.records import read_json, write_jsonl

TEXTS = [f"Document number {n} about the patient of ward {n}." for n in range(8)]
COMMIT = "a" * 40


def build(folder: Path, fetch: Any = None, **settings: Any) -> dict[str, dict[str, Any]]:
    """Run the command; all documents by id, dropped ones with their reason."""
    made = corpora.main(load(corpora.Config, {"out": folder / "out", **settings}), fetch)
    lines = [json.loads(line) for name in ("train", "heldout", "dropped") for line in (made / f"{name}.jsonl").open()]
    assert len(lines) == read_json(made / "corpus.json")["documents"]["read"], "in = kept + dropped"
    return {line["id"]: line for line in lines}


def put(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        polars.DataFrame(rows).write_csv(path)
    else:
        polars.DataFrame(rows).write_parquet(path)
    return path


OWN_ROWS = [{"note_id": n, "note_text": text, "ward": f"W{n % 2}", "extra": 1} for n, text in enumerate(TEXTS)]
COLUMNS = {"id": "note_id", "text": "note_text", "source": "ward"}
