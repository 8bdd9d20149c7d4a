"""Rows of every kind of file come in order, whole, and with how far they lie in it; torn files say where."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from medsmith import row_files
from medsmith.documents import clean, text_at, value_at
from medsmith.errors import UserError
from medsmith.row_files import stream_rows
from tests.toy_pdf import pdf

ROWS = [{"id": f"r{n}", "text": f'Line "{n}",\nwith a break, é and 3.5 mg'} for n in range(7)]


def values(path: Path) -> list[dict[str, Any]]:
    rows = list(stream_rows(path))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    ends = [row.end for row in rows]
    assert ends == sorted(ends) and ends[-1] <= path.stat().st_size
    return [row.values for row in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the name asks for."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif name.endswith(".json"):
        data = json.dumps(rows, indent=1).encode()
    else:
        separator = "\t" if name.endswith(".tsv") else ","
        quoted = [
            ['"' + str(cell).replace('"', '""') + '"' for cell in line] for line in (rows[0], *map(dict.values, rows))
        ]
        data = "\ufeff".encode() + "".join(separator.join(line) + "\r\n" for line in quoted).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.csv.gz", "a.json.gz"])
def test_rows_come_whole(tmp_path: Path, name: str) -> None:
    """Quotes, commas, line breaks in cells, a byte order mark, packed or not: the same rows."""
    assert values(write(tmp_path / name, ROWS)) == ROWS


def test_parquet_and_workbook(tmp_path: Path) -> None:
    """The two that libraries read; of parquet only the wanted columns."""
    import openpyxl
    import polars

    polars.DataFrame(ROWS).write_parquet(tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == ROWS
    assert [row.values for row in stream_rows(tmp_path / "a.parquet", {"id", "other"})] == [
        {"id": r["id"]} for r in ROWS
    ]
    book = openpyxl.Workbook()
    for line in (["id", "text"], *([r["id"], r["text"]] for r in ROWS), [None, None]):
        book.worksheets[0].append(line)
    book.save(tmp_path / "a.xlsx")
    assert values(tmp_path / "a.xlsx") == ROWS


def test_json_by_id_and_over_borders_of_pieces(tmp_path: Path) -> None:
    """Rows by id (an object), and a list of more than a piece of a megabyte, are read value by value."""
    (tmp_path / "by_id.json").write_text(json.dumps({row["id"]: row for row in ROWS}))
    assert values(tmp_path / "by_id.json") == ROWS
    rng = random.Random(0)
    many = [{"id": str(n), "text": "é" * rng.randrange(3000)} for n in range(1200)]
    text = json.dumps(many, ensure_ascii=False)
    assert len(text.encode()) > 3 * row_files.CHUNK
    (tmp_path / "many.json").write_text(text, encoding="utf-8")
    assert values(tmp_path / "many.json") == many
    (tmp_path / "none.json").write_text("[]")
    assert list(stream_rows(tmp_path / "none.json")) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id": ', "a.jsonl line 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl line 1: expected a JSON object, got list"),
        ("a.json", b'[{"id": 1}, {"id": ', "a.json after row 1: not valid JSON"),
        ("a.json", b"[1]", "a.json row 1: expected a JSON object, got int"),
        ("a.json", b'"text"', "a.json: expected a list of objects"),
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv row 2: 1 cells, and the header has 2"),
        ("a.csv", b"a,b\n1,\xff\n", "a.csv line 2: not UTF-8"),
        ("a.parquet", b"no parquet", "a.parquet: no parquet file"),
        ("a.docx", b"", "a.docx: cannot read '.docx'"),
    ],
)
def test_torn_files_say_where(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """File, line and remedy in one line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(stream_rows(tmp_path / name))


def test_lines_that_only_python_takes(tmp_path: Path) -> None:
    """NaN and half a surrogate pair, as published files hold them, are read."""
    (tmp_path / "a.jsonl").write_bytes(b'{"a": NaN}\n\n{"a": "\\ud800"}\n')
    rows = list(stream_rows(tmp_path / "a.jsonl"))
    assert [row.number for row in rows] == [1, 3]
    assert rows[1].values == {"a": "\ud800"}
    (tmp_path / "b.jsonl").write_bytes(b'{"id": 18446744073709551617}\n{"id": 18446744073709551618}\n')
    assert [row.values["id"] - 2**64 for row in stream_rows(tmp_path / "b.jsonl")] == [1, 2]


def test_pdf_text_or_the_reason_why_there_is_none(tmp_path: Path) -> None:
    """A text is read; a drawing and a torn file are rows with a fault, not errors."""
    for name, content in (("a", pdf("Wash your hands")), ("b", pdf("")), ("c", b"%PDF-1.4 torn")):
        (tmp_path / f"{name}.pdf").write_bytes(content)
    rows = {name: next(stream_rows(tmp_path / f"{name}.pdf")) for name in "abc"}
    assert (rows["a"].values["text"].strip(), rows["a"].fault) == ("Wash your hands", "")
    assert rows["b"].fault == "PDF without text"
    assert rows["c"].fault.startswith("PDF that cannot be read")


def test_values_below_and_lists_of_texts() -> None:
    """`a.b` is the value below, unless a column is so called; paragraphs are joined; another shape is refused."""
    row = {"a": {"b": 3, "parts": ["one", "two"]}, "x.y": "whole", "none": None}
    assert (value_at(row, "a.b"), value_at(row, "x.y"), value_at(row, "a.c")) == (3, "whole", None)
    assert (text_at(row, "a.b"), text_at(row, "a.parts"), text_at(row, "none")) == ("3", "one\ntwo", "")
    with pytest.raises(UserError, match="the column 'a' holds dict"):
        text_at(row, "a")


def test_clean_leaves_what_is_seen() -> None:
    """Composed letters, no control or invisible characters, single blanks, one empty line at most; idempotent."""
    text = "\ufeffcafe\u0301  au\u00ad lait\x07\r\n\r\n\n\t100 \u200bmg \ud800end "
    assert clean(text) == "caf\u00e9 au lait\n\n100 mg end"
    assert clean(clean(text)) == clean(text)
    assert clean("plain text\nof two lines") == "plain text\nof two lines"
