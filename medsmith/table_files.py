"""Write rows in the file formats that data sets are published in: equal rows give equal bytes."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.records import write_jsonl


def write_table(path: Path, rows: Any) -> None:
    """Write rows in the format of the path's ending; its folder is made.

    JSON may hold any value; the others a list of rows with the same columns.

    Raises:
        UserError: an ending other than .jsonl, .json, .csv, .xlsx.
    """
    writers = {".jsonl": write_jsonl, ".json": _write_json, ".csv": _write_csv, ".xlsx": _write_xlsx}
    if path.suffix not in writers:
        raise UserError(f"{path}: cannot write '{path.suffix}'; give a file that ends with {', '.join(writers)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    writers[path.suffix](path, rows)


def _write_json(path: Path, rows: Any) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_xlsx(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """openpyxl stamps the time of writing into the file; a fixed one keeps equal data equal byte for byte."""
    from openpyxl import Workbook

    book = Workbook()
    book.properties.created = book.properties.modified = datetime(2025, 1, 1)  # noqa: DTZ001 - the format has no zone
    sheet = book.active
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append(list(row.values()))
    written = io.BytesIO()
    book.save(written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for item in sorted(source.namelist()):
            data = source.read(item)
            if item == "docProps/core.xml":  # openpyxl overwrites `modified` when it saves
                data = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>2025-01-01T00:00:00Z", data)
            target.writestr(zipfile.ZipInfo(item, (2025, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
