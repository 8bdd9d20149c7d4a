"""Write rows in the file formats that benchmarks are published in, and count them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsmith.table_files import write_table


def put(counts: dict[str, int], folder: Path, name: str, rows: Any) -> None:
    """Write rows to folder/name in the format of its ending (.jsonl, .json, .csv, .xlsx), and note their number."""
    write_table(folder / name, rows)
    counts[name] = len(rows)
