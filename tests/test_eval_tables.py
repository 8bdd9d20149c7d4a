"""Data are found, read, told from the published ones, and taken from the hub only by a pinned revision."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest

from eval.benchmark import Published
from eval.run import Config
from eval.tables import file_notes, find_split, read_table, resolve
from medsmith.config import artefacts, identity, load
from medsmith.errors import UserError
from medsmith.records import write_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_file_says_whether_it_is_as_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its digest under any name; another digest or number of rows is not refused, but said; else nobody knows."""
    path = tmp_path / "test.csv"
    path.write_text("a\n1\n")
    digest = hashlib.sha256(b"a\n1\n").hexdigest()
    same = {"other.csv": Published(1, digest)}
    assert file_notes({path: 1}, same) == {"file": "test.csv", "rows": 1, "sha256": digest, "as_published": True}
    assert file_notes({path: 1}, {"t*.csv": Published(1)})["as_published"] is None
    assert file_notes({path: 1}, {})["as_published"] is None
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert file_notes({path: 1}, {"t*.csv": Published(1, "f" * 64)})["as_published"] is False
        assert file_notes({path: 1}, {"t*.csv": Published(925)})["as_published"] is False
    assert "test.csv is not the file as published: 1 rows, published 925" in caplog.text


def test_a_file_made_by_a_run_is_not_called_a_changed_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A simulated twin has the published name; that it differs is no news."""
    (tmp_path / "test.csv").write_text("a\n")
    write_json(tmp_path / "run.json", {"command": "mediflow.simulate", "facts": {}})
    with caplog.at_level(logging.WARNING):
        assert file_notes({tmp_path / "test.csv": 0}, {"test.csv": Published(5)})["as_published"] is False
    assert not caplog.records


def test_several_files_are_as_published_where_all_are(tmp_path: Path) -> None:
    """Their rows are summed; one that differs decides, then one of which nobody knows."""
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    for path in (one, two):
        path.write_text(path.name)
    known = {path.name: Published(3, hashlib.sha256(path.name.encode()).hexdigest()) for path in (one, two)}
    both = file_notes({one: 3, two: 3}, known)
    assert (both["file"], both["rows"], both["as_published"]) == ("1.json, 2.json", 6, True)
    assert both["files"]["2.json"]["as_published"] is True
    assert file_notes({one: 3, two: 3}, {"1.json": known["1.json"]})["as_published"] is None
    assert file_notes({one: 3, two: 3}, known | {"2.json": Published(4)})["as_published"] is False


def test_examples_never_come_from_the_file_that_is_asked(tmp_path: Path) -> None:
    """They are sought beside it; a set of one split has none."""
    for name in ("test.csv", "train.csv"):
        (tmp_path / name).write_text("")
    files = {"test": "test.csv", "shots": "train.csv"}
    assert find_split(tmp_path / "test.csv", files, "test", "S") == tmp_path / "test.csv"
    assert find_split(tmp_path / "test.csv", files, "shots", "S") == tmp_path / "train.csv"
    (tmp_path / "train.csv").unlink()
    with pytest.raises(UserError, match="holds 0 files like train.csv"):
        find_split(tmp_path / "test.csv", files, "shots", "S")
    with pytest.raises(UserError, match="one split.*set shots: 0"):
        find_split(tmp_path, {"test": "test.csv"}, "shots", "S")


@pytest.mark.parametrize(("text", "said"), [('{"a": 1}', "a list of objects"), ('[{"b": 1}]', "row 1: missing column")])
def test_a_json_list_is_checked(text: str, said: str, tmp_path: Path) -> None:
    """One object is no list, and every row has the columns."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_table(tmp_path / "x.json", ("a",))


def test_an_open_set_may_lie_on_the_hub(tmp_path: Path) -> None:
    """A commit or a version tag is fetched as it is named; a path is a path."""
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, revision: str) -> Path:
        asked.append((repository, revision))
        return tmp_path

    for revision in (COMMIT, "v1.0", "2024.05"):
        assert resolve("medec", f"owner/name@{revision}", "open", fetch) == tmp_path
    assert asked == [("owner/name", COMMIT), ("owner/name", "v1.0"), ("owner/name", "2024.05")]
    assert resolve("medec", tmp_path, "credentialed", fetch) == tmp_path
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("value", "access", "said"),
    [
        ("owner/name@main", "open", "does not stay what it is; pin a commit of 40"),
        (f"owner/name@{COMMIT[:7]}", "open", "does not stay what it is"),
        (f"owner/name@{COMMIT}", "credentialed", "under an agreement; get it from its source"),
    ],
)
def test_a_moving_revision_and_a_credentialed_set_are_refused(value: str, access: str, said: str) -> None:
    """Nothing is fetched then."""
    with pytest.raises(UserError, match=said):
        resolve("medec", value, access, lambda repository, revision: pytest.fail("fetched"))


def test_what_the_hub_says_is_told() -> None:
    """Its error becomes one line with the name."""

    def fetch(repository: str, revision: str) -> Path:
        raise OSError("404 Client Error\nlong story")

    with pytest.raises(UserError, match=r"benchmarks.medec: the hub does not give o/n@v1 \(404 Client Error\)"):
        resolve("medec", "o/n@v1", "open", fetch)


def test_a_hub_set_bears_identity_by_its_name_and_a_path_by_its_bytes(tmp_path: Path) -> None:
    """Both may be given in one setting; a name without a revision, or a path that is not there, is said at once."""
    common: dict[str, Any] = {"out": str(tmp_path / "o"), "model": "m", "suite": "embedded"}
    given = {"medec": f"o/n@{COMMIT}", "mednli": str(tmp_path)}
    config = load(Config, common | {"benchmarks": given})
    assert identity(config)["benchmarks"] == {"medec": f"o/n@{COMMIT}", "mednli": None}
    assert artefacts(config) == {"benchmarks.mednli": tmp_path, "suite": config.suite}
    with pytest.raises(UserError, match="say which: o/n@REVISION"):
        load(Config, common | {"benchmarks": {"medec": "o/n"}})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.xlsx", b"PK torn", "x.xlsx after row 0: torn, or no .xlsx file"),
        ("x.parquet", b"PAR1 torn", "x.parquet: no parquet file"),
        ("x.csv", "ä\n1\n".encode("latin-1"), "x.csv line 1: not UTF-8"),
    ],
)
def test_a_torn_file_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    """What a broken download leaves is one line, not the reader's own exception."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_table(tmp_path / name, ("a",))


def test_several_files_that_fit_are_named(tmp_path: Path) -> None:
    """Which of them is meant is for the user to say, who must see them."""
    for name in ("MS-Test.csv", "UW-Test.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"holds 2 files like \*Test.csv \(MS-Test.csv, UW-Test.csv\); give the file"):
        find_split(tmp_path, {"test": "*Test.csv"}, "test", "S")
