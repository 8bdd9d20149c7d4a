"""Rows go to Argilla and responses come back: nothing is lost, doubled or let through unchecked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mediflow.review_argilla import Config, main, user_id
from mediflow.reviewing.decisions import Decisions
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import read_json, read_jsonl
from tests.toy_review import Toy, toy_row, write_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("toy"), 12)


def run(toy: Toy, home: Path, *settings: str) -> Path:
    return main(load(Config, None, [f"folder={toy.curated}", f"out={home}", *settings]))


def journal(toy: Toy, home: Path) -> Decisions:
    return Decisions(home / toy.curated.name / "decisions.jsonl")


def held(decisions: Decisions) -> set[tuple[Any, ...]]:
    return {
        (row, who, one.decision, tuple(one.edited.items()), one.comment)
        for row, by in decisions.latest.items()
        for who, one in by.items()
    }


def test_what_goes_out_comes_back_the_same(toy: Toy, tmp_path: Path) -> None:
    """Every decision, edit and comment of two reviewers survives the way out and in; doing it twice adds none."""
    mine = journal(toy, tmp_path / "one")
    mine.add(toy_row(0).id, "ann", "accept", comment="fine")
    mine.add(toy_row(0).id, "bob", "reject")
    mine.add(toy_row(4).id, "ann", "edit", {"input": toy_row(4).input + " Seen again."})
    mine.add(toy_row(5).id, "bob", "skip", comment="ask a nephrologist")
    mine.add(toy_row(6).id, "bob", "skip")
    names = tmp_path / "users.json"
    names.write_text(json.dumps({"ann": "5e2a3c0e-0000-4000-8000-000000000001", "bob": user_id("bob", {})}))
    file = run(toy, tmp_path / "one", f"export={tmp_path / 'argilla.json'}", f"users={names}")
    records = read_json(file)
    assert [record["id"] for record in records] == [toy_row(number).id for number in range(9)]
    assert records[0]["responses"]["decision"] == [
        {"value": "accept", "user_id": "5e2a3c0e-0000-4000-8000-000000000001"},
        {"value": "reject", "user_id": user_id("bob", {})},
    ]
    assert set(records[1]) == {"id", "fields", "metadata", "suggestions", "responses", "vectors", "_server_id"}
    assert (
        records[1]["fields"]["rejected_output"].count("torasemide") == 1
        and "rejected_output" not in records[0]["fields"]
    )
    for _ in range(2):
        run(toy, tmp_path / "two", f"import={file}", f"users={names}")
    other = journal(toy, tmp_path / "two")
    assert held(other) == held(mine) - {(toy_row(6).id, "bob", "skip", (), "")}, "a skip without a word says nothing"
    assert len(list(read_jsonl(other.path))) == 4


def test_settings_name_every_field_and_question_of_the_records(toy: Toy, tmp_path: Path) -> None:
    """Argilla refuses records with a field, question or metadata that its settings do not know."""
    file = run(toy, tmp_path, f"export={tmp_path / 'argilla.json'}", "rows=2", "kept_only=false")
    settings = read_json(tmp_path / "argilla.settings.json")
    (first, second) = read_json(file)
    named = {kind: {one["name"] for one in settings[kind]} for kind in ("fields", "questions", "metadata")}
    for record in (first, second):
        assert set(record["fields"]) <= named["fields"] and set(record["suggestions"]) <= named["questions"]
        assert set(record["metadata"]) <= named["metadata"]
    every = [name for names in named.values() for name in names]
    assert len(every) == len(set(every)) == 4 + 5 + 11, "a name may stand for one thing only"
    assert [option["value"] for option in settings["questions"][0]["settings"]["options"]] == [
        "accept",
        "reject",
        "edit",
    ]


def response(row_id: str, **answers: str) -> dict[str, Any]:
    return {"id": row_id, "responses": {name: [{"value": text, "user_id": "u1"}] for name, text in answers.items()}}


def test_what_cannot_be_used_is_told_and_left_out(toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A prefilled text is no edit; broken JSON, an unknown row and a change without a decision go nowhere."""
    caplog.set_level("INFO")
    mended = toy_row(3).input + " Seen again."
    records = [
        response(toy_row(0).id, decision="accept", edited_output=toy_row(0).output),
        response(toy_row(3).id, decision="accept", edited_input=mended, comment="longer"),
        response(toy_row(1).id, decision="edit", edited_output="{"),
        response(toy_row(5).id, edited_output="Another."),
        response(toy_row(6).id, decision="edit"),
        response("nobody", decision="accept"),
        {"id": toy_row(7).id, "responses": {}},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    names = tmp_path / "users.json"
    names.write_text('{"cleo": "u1"}')
    run(toy, tmp_path, f"import={file}", f"users={names}")
    assert held(journal(toy, tmp_path)) == {
        (toy_row(0).id, "cleo", "accept", (), ""),
        (toy_row(3).id, "cleo", "edit", (("input", mended),), "longer"),
    }
    assert "1 accept, 1 edit, 3 not usable, 1 of unknown rows" in caplog.text
    for words in ("not valid JSON", "a changed text without a decision", "an edit without a change", "no row nobody"):
        assert words in caplog.text


def test_mistakes_are_one_line(toy: Toy, tmp_path: Path) -> None:
    """Neither or both directions, and files of another form."""
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{no")
    for settings, words in (
        ([], "give export=FILE or import=FILE"),
        ([f"import={wrong}", f"export={wrong}"], "give export=FILE or import=FILE"),
        ([f"import={wrong}"], "neither a JSON list nor JSON lines"),
        ([f"import={tmp_path / 'none'}"], "No such file"),
    ):
        with pytest.raises(UserError, match=words):
            run(toy, tmp_path, *settings)
    wrong.write_text("[3]")
    with pytest.raises(UserError, match="record 1 has no id"):
        run(toy, tmp_path, f"import={wrong}")
