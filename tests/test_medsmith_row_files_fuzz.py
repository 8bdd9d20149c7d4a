"""Whatever bytes a file holds, the reader gives all its rows or one line."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medsmith.errors import UserError
from medsmith.row_files import Row, stream_rows
from tests.test_medsmith_row_files import write
from tests.toy_pdf import pdf

ROWS = [{"id": f"r{n}", "text": f'Mrs. Zanzibar, {n} years,\nhas "gout" – and a café'} for n in range(4)]
SECRET = "Zanzibar"
WHOLE = (".json", ".gz", ".parquet", ".xlsx", ".pdf")
"""Formats whose end says that they are whole: no part of one passes for all of it."""
NAMES: tuple[str, ...] = (
    "a.jsonl",
    "a.json",
    "data.json",
    "id.json",
    "a.csv",
    "a.tsv",
    "a.jsonl.gz",
    "a.csv.gz",
    "a.json.gz",
)
NAMES += ("a.parquet", "b.parquet", "a.xlsx", "a.txt", "a.md", "a.pdf")


@cache
def good(name: str, folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The bytes of a sound file of that name, and its rows."""
    path = folder / name
    text = ROWS[0]["text"]
    if name in ("data.json", "id.json"):
        path.write_text(json.dumps({"data": ROWS} if name == "data.json" else {row["id"]: row for row in ROWS}))
    elif path.suffix == ".parquet":
        import polars

        table = polars.DataFrame(ROWS)
        (table if name == "a.parquet" else table.cast(polars.Binary)).write_parquet(path)
    elif path.suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for line in (ROWS[0], *map(dict.values, ROWS)):
            book.worksheets[0].append(list(line))
        book.save(path)
    elif path.suffix == ".pdf":
        path.write_bytes(pdf(text.replace("\n", " ").replace("–", "-").replace("é", "e")))
    elif path.suffix in (".txt", ".md"):
        path.write_text(text, encoding="utf-8")
    else:
        write(path, ROWS)
    return path.read_bytes(), [row.values for row in stream_rows(path)]


def read(path: Path) -> list[Row] | None:
    """The rows, None where one line says why not; it names the file and no text of a row."""
    try:
        return list(stream_rows(path))
    except UserError as error:
        said = str(error)
        assert str(path) in said and "\n" not in said and SECRET not in said and len(said) < 400, said
        return None


@settings(max_examples=400, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(NAMES), st.data())
def test_all_rows_or_one_line(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    """A byte changed, a stretch gone, doubled or foreign, another encoding or name: never a traceback."""
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    content, rows = good(name, folder)
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    how = data.draw(st.sampled_from(["flip", "cut out", "double", "foreign", "encode", "name"]))
    path = folder / f"mutated-{name}"
    if how == "flip":
        content = content[:start] + bytes([content[start] ^ data.draw(st.integers(1, 255))]) + content[start + 1 :]
    elif how == "cut out":
        content = content[:start] + content[end:]
    elif how == "double":
        content = content[:end] + content[start:]
    elif how == "foreign":
        content = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    elif how == "encode":
        encoding = data.draw(st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-32"]))
        content = content.decode("utf-8", "replace").encode(encoding, "replace")
    else:
        path = folder / f"mutated-{data.draw(st.sampled_from(NAMES))}"
    path.write_bytes(content)
    read(path)
    path.unlink()


@settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(NAMES), st.data())
def test_a_torn_file_never_passes_for_a_whole_one(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Cut off anywhere: one line or a fault; of lines and cells, which say nothing of their number, whole rows only."""
    folder = tmp_path_factory.getbasetemp() / "torn"
    folder.mkdir(exist_ok=True)
    content, rows = good(name, folder)
    path = folder / f"torn-{name}"
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    path.write_bytes(cut)
    found = read(path)
    path.unlink()
    if found is None or any(row.fault for row in found):
        return
    values = [row.values for row in found]
    if path.suffix in WHOLE:
        assert values == rows
    elif path.suffix in (".txt", ".md"):
        assert rows[0]["text"].startswith(values[0]["text"])  # of a text nobody can say
    # Cut between the two quotes that stand for one, or before a cell: that looks like a cell's end, or an empty one.
    elif not cut.endswith((b'"', b",", b"\t")):
        assert values == rows[: len(values)]


CASES = {
    "two.csv": b"text,text\n1,2\n",
    "open.tsv": b'id\ttext\n1\t"Mrs. Zanzibar\n2\tMr. Z\n3\tHer "gout"\t\n',
    "closed.tsv": b'id\ttext\n1\t"Mrs. Zanzibar\n2\t5"\n3\tgout\n',
    "open.csv": b'id,text\n1,"Mrs. Zanzibar\n2,Mr. Z\n',
    "semicolon.csv": b"id;text\n1;Mrs. Zanzibar\n",
    "latin.json": '[{"text": "café"}]'.encode("cp1252"),
    "wide.json": '[{"text": "café"}]'.encode("utf-16"),
    "half.csv.gz": gzip.compress(b"id,text\n" + b"1,Mrs. Zanzibar\n" * 500)[:40],
    "plain.csv.gz": b"id,text\n1,Mrs. Zanzibar\n",
    "plain.xlsx": b"id,text\n1,Mrs. Zanzibar\n",
    "no_end.json": b'[{"text": "Mrs. Zanzibar"}, {"text": "b"}',
    "lines.json": b'{"text": "Mrs. Zanzibar"}\n{"text": "b"}\n',
    "deep.json": b"[" * 100_000,
    "deep.jsonl": b"[" * 100_000,
    "workbook.csv": b"PK\x03\x04 Mrs. Zanzibar",
    "old.xlsx": b"\xd0\xcf\x11\xe0 Mrs. Zanzibar",
}


@pytest.mark.parametrize("name", CASES)
def test_files_as_people_report_them(name: str, tmp_path: Path) -> None:
    """Torn, mis-encoded, mis-named, ambiguous: each was a traceback or a part of itself in silence."""
    (tmp_path / name).write_bytes(CASES[name])
    assert read(tmp_path / name) is None


def test_binary_text_columns_are_texts_or_refused(tmp_path: Path) -> None:
    """UTF-8 in a column of bytes is its text, at any depth; another encoding is refused, a picture stays what it is."""
    import pyarrow
    import pyarrow.parquet

    def rows(values: list[Any]) -> list[dict[str, Any]]:
        pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "x.parquet")
        return [row.values for row in stream_rows(tmp_path / "x.parquet")]

    assert rows(["café".encode(), None]) == [{"text": "café"}, {"text": None}]
    assert rows([[{"inner": b"gout"}]]) == [{"text": [{"inner": "gout"}]}]
    assert rows([b"\x89PNG\0\0"]) == [{"text": b"\x89PNG\0\0"}]
    with pytest.raises(UserError, match=r"x.parquet row 1: column 'text' holds bytes that are no UTF-8 text"):
        rows(["café".encode("cp1252")])


def test_a_workbook_is_read_to_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A size of one cell, as some writers leave it, hides nothing; what is not read of the other sheets is named."""
    import zipfile

    import openpyxl

    book = openpyxl.Workbook()
    lines = [["id", "text"], ["1", "a"], ["2", "b"]]
    for title, cells in (("one", lines), ("two", lines), ("notes", [["remark"], ["c"]])):
        sheet = book.create_sheet(title)
        for line in cells:
            sheet.append(line)
    book["two"]["D2"] = "beside"
    book.save(tmp_path / "whole.xlsx")
    with zipfile.ZipFile(tmp_path / "whole.xlsx") as whole, zipfile.ZipFile(tmp_path / "a.xlsx", "w") as made:
        for item in whole.namelist():
            made.writestr(item, whole.read(item).replace(b'<dimension ref="A1:B3"', b'<dimension ref="A1"'))
    rows = [row.values for row in stream_rows(tmp_path / "a.xlsx")]
    assert rows == [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}] * 2
    assert "not read: cells in columns without a name, of 1 rows; the sheet 'notes', whose columns" in caplog.text
    assert [row.values for row in stream_rows(tmp_path / "a.xlsx", loose=True)][-1] == {"remark": "c"}
    book["one"]["B2"] = '=A2&"x"'
    book.save(tmp_path / "formula.xlsx")
    assert read(tmp_path / "formula.xlsx") is None
