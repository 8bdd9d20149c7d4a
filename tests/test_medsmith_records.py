from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from medsmith.errors import UserError
from medsmith.records import (
    Document,
    IndexedJsonl,
    Instruction,
    PartWriter,
    content_id,
    parse_row,
    read_documents,
    read_json,
    read_jsonl,
    read_parquet,
    read_parts,
    write_json,
    write_jsonl,
    write_parquet,
)

ROW = Instruction("1", "Summarise.", "Fever.", "Fever é", "summary", "note", "plain_text", "hard", quality=3.5)


def test_content_id_depends_on_content_only() -> None:
    """The same parts give the same 16 digits in any key order; other parts or another order of parts do not."""
    assert content_id({"a": 1, "b": "é"}) == content_id({"b": "é", "a": 1})
    assert len(content_id("a")) == 16
    assert len({content_id("a", "b"), content_id("b", "a"), content_id("ab"), content_id(["a", "b"])}) == 4
    expected = hashlib.sha256('["é"]'.encode()).hexdigest()[:16]
    assert content_id("é") == expected  # ids in published files must not change between versions


def test_jsonl_round_trip_and_blank_lines(tmp_path: Path) -> None:
    """What is written comes back; blank lines are no rows; nothing partial is left."""
    path = tmp_path / "deep" / "rows.jsonl"
    assert write_jsonl(path, [{"text": "é\n"}, {"n": 1}]) == 2
    path.write_text(path.read_text() + "\n\n")
    assert list(read_jsonl(path)) == [{"text": "é\n"}, {"n": 1}]
    assert [file.name for file in path.parent.iterdir()] == ["rows.jsonl"]


def test_a_torn_line_is_named(tmp_path: Path) -> None:
    """A torn line, a row that is no object and a missing file are errors with file and line."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    with pytest.raises(UserError, match=r"rows.jsonl line 2: not valid JSON .*; mend or remove the line"):
        list(read_jsonl(path))
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: expected a JSON object, got list"):
        list(read_jsonl(path))
    with pytest.raises(UserError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_another_encoding_is_named(tmp_path: Path) -> None:
    """A file that a spreadsheet saved as UTF-16 is no error of ours: what to do stands in one line."""
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}', encoding="utf-16")
    for read in (read_json, lambda file: list(read_jsonl(file))):
        with pytest.raises(UserError, match=r"rows.json( is| line 1:) not UTF-8 \(.*\); save it as UTF-8"):
            read(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Rows that break half way leave what was there before."""
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(TypeError):
        write_jsonl(path, [{"a": 2}, {"a": object()}])
    assert list(read_jsonl(path)) == [{"a": 1}]


def test_json_values(tmp_path: Path) -> None:
    """JSON comes back; a torn one is an error with its line."""
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None, "é"]})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None, "é"]}
    (tmp_path / "a.json").write_text('{\n"b": ')
    with pytest.raises(UserError, match=r"a.json: not valid JSON .* at line 2"):
        read_json(tmp_path / "a.json")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """A row without a needed column names row and columns; columns beyond the type are left out."""
    row = {"id": "1", "title": "t", "text": "x", "source": "s", "license": "CC0", "extra": 1}
    write_jsonl(tmp_path / "docs.jsonl", [row, {"id": "2"}])
    with pytest.raises(UserError, match=r"docs.jsonl row 2: missing column 'title'; columns needed: id, title, text"):
        read_documents(tmp_path / "docs.jsonl")
    assert parse_row(Document, row, "here") == Document("1", "t", "x", "s", "CC0")


def test_parquet_is_the_same_bytes_and_keeps_types(tmp_path: Path) -> None:
    """Equal rows give equal files; missing scores stay missing; shards come back in name order."""
    rows = [ROW, Instruction("2", "a", "b", "c", "d", "e", "f", "g")]
    write_parquet(tmp_path / "one" / "b.parquet", rows)
    write_parquet(tmp_path / "two" / "b.parquet", rows)
    assert (tmp_path / "one" / "b.parquet").read_bytes() == (tmp_path / "two" / "b.parquet").read_bytes()
    write_parquet(tmp_path / "one" / "a.parquet", rows[1:])
    assert read_parquet(tmp_path / "one") == [rows[1], *rows]
    assert read_parquet(tmp_path / "one" / "b.parquet")[1].quality is None
    with pytest.raises(UserError, match="no Parquet file in"):
        read_parquet(tmp_path)


def test_parts_are_read_in_order_and_a_row_by_its_number(tmp_path: Path) -> None:
    """Five rows in parts of two are three files; any row is found again while writing goes on; old parts are gone."""
    (tmp_path / "part-00007.jsonl").write_text('{"n": "old"}\n')
    with PartWriter(tmp_path, rows_per_part=2) as parts:
        for n in range(4):
            assert parts.write({"n": n, "text": "é" * n}) == n
        assert [parts.read(n)["n"] for n in (3, 0, 2)] == [3, 0, 2]
        parts.write({"n": 4, "text": "\ud800 alone"})
        assert parts.read(4) == {"n": 4, "text": "\ufffd alone"}
        assert len(parts) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"part-0000{n}.jsonl" for n in range(3)]
    assert [row["n"] for row in read_parts(tmp_path)] == [0, 1, 2, 3, 4]


def test_no_part_is_an_error_and_no_row_an_empty_part(tmp_path: Path) -> None:
    """A folder that nobody wrote to is told from one without rows."""
    with pytest.raises(UserError, match=r"no part-\*\.jsonl"):
        list(read_parts(tmp_path / "none"))
    with PartWriter(tmp_path / "empty"):
        pass
    assert list(read_parts(tmp_path / "empty")) == []


def test_rows_are_looked_up_by_a_value(tmp_path: Path) -> None:
    """The last row of a value counts; a file with a row that lacks it, or without a file, is refused."""
    path = tmp_path / "facts.jsonl"
    write_jsonl(path, [{"k": "ä", "n": 1}, {"k": "b", "n": 2}, {"k": "ä", "n": 3}])
    rows = IndexedJsonl(path, "k")
    assert (rows["ä"]["n"], rows["b"]["n"], len(rows), list(rows)) == (3, 2, 2, ["ä", "b"])
    assert rows.get("c") is None
    with pytest.raises(UserError, match="line 1: no row with 'id'"):
        IndexedJsonl(path, "id")
    with pytest.raises(UserError, match="no such file"):
        IndexedJsonl(tmp_path / "none.jsonl", "k")
