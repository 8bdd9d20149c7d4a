"""Texts under an agreement stay where they are; whoever reads the corpus reads them there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experts import prepare
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.hub import check_licences
from medsmith.records import read_documents
from medsmith.run import require_finished
from tests.toy_corpora import COLUMNS, COMMIT, OWN_ROWS, TEXTS, build, put

AGREEMENT: dict[str, Any] = {
    "access": "credentialed", "license": "PhysioNet Credentialed Health Data License 1.5.0",
    "columns": COLUMNS, "source": "MIMIC",
}  # fmt: skip


@pytest.mark.parametrize("name", ["notes.csv", "set/notes.jsonl"])
def test_texts_under_an_agreement_are_never_copied(tmp_path: Path, name: str) -> None:
    """No file of the folder holds a word of them; training reads the very same texts from where they lie."""
    rows = [
        *OWN_ROWS,
        OWN_ROWS[2] | {"note_id": 99},
        {"note_id": 100, "note_text": "short secret", "ward": "W0", "extra": 1},
    ]
    path = put(tmp_path / "private" / name, rows)
    corpus = path if "/" not in name else path.parent
    found = build(tmp_path, corpus=str(corpus), **AGREEMENT)
    assert {found["99"]["reason"], found["100"]["reason"]} == {"same text as 2", "fewer than 5 words"}
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(files) >= 6
    assert [
        file.name for file in files if b"patient of ward" in file.read_bytes() or b"secret" in file.read_bytes()
    ] == []
    read = [one for side in ("train", "heldout") for one in read_documents(tmp_path / "out" / f"{side}.jsonl")]
    assert {one.id: one.text for one in read} == {str(n): text for n, text in enumerate(TEXTS)}
    with pytest.raises(UserError, match="may not be published here"):
        check_licences(require_finished(tmp_path / "out"), "out")


def test_texts_that_changed_or_went_are_refused(tmp_path: Path) -> None:
    """A digest that does not fit, and a file that is gone, are errors that name row and remedy."""
    path = put(tmp_path / "notes.csv", OWN_ROWS)
    build(tmp_path, corpus=str(path), **AGREEMENT)
    path.write_text(path.read_text().replace("number 3 about", "number 3 not about"))
    with pytest.raises(UserError, match="notes.csv row 4: the text of '3' is another one"):
        [read_documents(tmp_path / "out" / f"{side}.jsonl") for side in ("train", "heldout")]
    path.unlink()
    with pytest.raises(UserError, match="put them back, or run experts.corpora anew"):
        read_documents(tmp_path / "out" / "train.jsonl")


def test_an_agreement_in_other_words_is_still_one(tmp_path: Path) -> None:
    """Whatever the licence is called, record and rows say that it is an agreement, so that nothing is published."""
    build(
        tmp_path, corpus=str(put(tmp_path / "n.csv", OWN_ROWS)), **(AGREEMENT | {"license": "hospital, ethics 12/26"})
    )
    licences = require_finished(tmp_path / "out")["facts"]["licences"]
    assert set(licences.values()) == {"hospital, ethics 12/26 (data use agreement)"}
    with pytest.raises(UserError, match="under an agreement"):
        check_licences(require_finished(tmp_path / "out"), "out")


def test_texts_under_an_agreement_do_not_come_from_the_hub(tmp_path: Path) -> None:
    """Neither by id nor by name."""
    for settings in ({"corpus": f"akemiH/NoteChat@{COMMIT}"}, {"known": "asclepius"}):
        with pytest.raises(UserError, match="stay in your own files"):
            build(tmp_path, access="credentialed", license="L", **settings)


def test_whoever_reads_a_corpus_gets_its_texts(tmp_path: Path) -> None:
    """Training, and the search for benchmark texts in training data, see texts that were not copied."""
    from eval.contamination_training import read_rows
    from experts.texts import Corpus

    build(tmp_path, corpus=str(put(tmp_path / "n.csv", OWN_ROWS)), **AGREEMENT)
    train = tmp_path / "out" / "train.jsonl"
    trained = [document.text for document in Corpus("", tmp_path / "out").train()]
    assert len(trained) == 7 and set(trained) < set(TEXTS)
    assert [row.values["text"] for row in read_rows(train)] == trained


def test_texts_under_an_agreement_are_not_sent_to_a_teacher(tmp_path: Path) -> None:
    """experts.prepare refuses them: its journal keeps whole requests."""
    build(tmp_path, corpus=str(put(tmp_path / "n.csv", OWN_ROWS)), **AGREEMENT)
    teacher = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    config = load(prepare.Config, {"out": tmp_path / "rows", "documents": tmp_path / "out", "teacher": teacher})
    with pytest.raises(UserError, match="is under an agreement: a teacher would be sent its texts"):
        prepare.main(config)
