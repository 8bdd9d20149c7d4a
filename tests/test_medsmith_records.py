from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from medsmith.errors import UserError
from medsmith.records import (
    Document,
    Instruction,
    content_id,
    parse_row,
    read_documents,
    read_json,
    read_jsonl,
    read_parquet,
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
