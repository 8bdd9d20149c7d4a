"""Decisions are on the disk when they are said to be; what they add up to is what the textbooks say."""

from __future__ import annotations

import json
import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest

from mediflow.agreement import cohen_kappa, krippendorff_alpha
from mediflow.review import decisions_path
from mediflow.reviewing.agreement import agreement
from mediflow.reviewing.decisions import Decision, Decisions
from mediflow.reviewing.text import check_edit
from medsmith.errors import UserError
from medsmith.records import read_jsonl
from tests.toy_review import toy_row


def test_the_journal_is_what_the_contract_says(tmp_path: Path) -> None:
    """One JSON line a decision, with a time; the last one of a row and reviewer holds, after opening again too."""
    journal = Decisions(tmp_path / "here" / "decisions.jsonl")
    journal.add("r1", "ann", "reject", comment="wrong dose")
    journal.add("r1", "bob", "accept")
    journal.add("r1", "ann", "edit", {"output": "20 mg"})
    lines = list(read_jsonl(journal.path))
    assert [list(line) for line in lines] == [["row_id", "reviewer", "decision", "edited", "comment", "at"]] * 3
    assert lines[2]["edited"] == {"output": "20 mg"} and re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", lines[2]["at"]
    )
    again = Decisions(journal.path)
    assert {who: one.decision for who, one in again.of("r1").items()} == {"ann": "edit", "bob": "accept"}
    assert again.reviewers == ["ann", "bob"]


def test_undo_goes_back_step_by_step_and_the_last_line_tells_it(tmp_path: Path) -> None:
    """Two undos restore what held before, then nothing; the file only grows and its last line says what holds."""
    journal = Decisions(tmp_path / "d.jsonl")
    journal.add("r1", "ann", "accept")
    journal.add("r2", "bob", "reject")
    journal.add("r1", "ann", "reject")
    assert journal.undo("ann") is not None
    assert journal.of("r1")["ann"].decision == "accept"
    journal = Decisions(journal.path)
    assert journal.undo("ann") is not None and journal.of("r1") == {}
    assert journal.undo("ann") is None and journal.of("r2")["bob"].decision == "reject"
    lines = list(read_jsonl(journal.path))
    assert [(line["decision"], line.get("undo", False)) for line in lines if line["reviewer"] == "ann"] == [
        ("accept", False), ("reject", False), ("accept", True), ("skip", True),
    ]  # fmt: skip


def test_half_a_line_is_cut_off_and_a_broken_one_is_named(tmp_path: Path) -> None:
    """A torn end costs only itself: readers pass over it, the next writer removes it; a wrong line is an error."""
    path = tmp_path / "d.jsonl"
    Decisions(path).add("r1", "ann", "accept")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"row_id": "r2", "revie')
    journal = Decisions(path)
    assert list(journal.latest) == ["r1"]
    journal.add("r3", "ann", "reject")
    assert [line["row_id"] for line in read_jsonl(path)] == ["r1", "r3"]
    path.write_bytes(whole + b'{"row_id": "r2", "reviewer": "ann", "decision": "maybe"}\n')
    with pytest.raises(UserError, match=r"line 2: decision 'maybe' is none of accept"):
        Decisions(path)
    path.write_bytes(b"no\n" + whole)
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        Decisions(path)


def add_many(path: Path, reviewer: str) -> None:
    journal = Decisions(path)
    for number in range(40):
        journal.add(f"r{number}", reviewer, "accept", comment="long " * 200)


def test_two_servers_share_a_journal(tmp_path: Path) -> None:
    """Two processes that write at once lose and mix nothing, and a third that looks on sees both."""
    path = tmp_path / "d.jsonl"
    watching = Decisions(path)
    start = multiprocessing.get_context("spawn")
    workers = [start.Process(target=add_many, args=(path, name)) for name in ("ann", "bob")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(list(read_jsonl(path))) == 80
    assert len(set(watching.refresh())) == 40 and all(len(held) == 2 for held in watching.latest.values())


def test_an_edit_may_not_break_a_row() -> None:
    """Broken JSON, a schema broken that was kept, an empty text and no change are faults; a right edit has none."""
    row = {**vars(toy_row(1)), "task_type": "classification", "output": '{"specialty": "internal medicine"}'}

    def faults(**edited: str) -> list[str]:
        return check_edit(row, edited).faults

    assert check_edit(row, {"output": '{"specialty": "surgery"}'}) == ({"output": '{"specialty": "surgery"}'}, [], [])
    assert "not valid JSON" in faults(output='{"specialty": ')[0]
    assert "does not fit the schema" in faults(output='{"label": 3}')[0]
    assert faults(input=" ") == ["input: is empty"]
    assert faults(output=row["output"]) == ["nothing was changed"] == faults()
    row["output"] = '{"own": 1}'
    assert faults(output='{"own": 2}') == [], "another schema is not ours to ask"


def test_offsets_of_an_edited_span_are_put_right() -> None:
    """Who rewrites an entity need not count characters; one that is not in the note is a fault."""
    output = {"entities": [{"text": "chest pain", "label": "problem", "start": 0, "end": 10}]}
    row = {**vars(toy_row(1)), "input": "chest pain and fever", "output": json.dumps(output)}
    again = json.dumps(output).replace("chest pain", "fever")
    checked = check_edit(row, {"output": again})
    assert checked.faults == [] and checked.repairs != []
    assert json.loads(checked.edited["output"])["entities"] == [
        {"text": "fever", "label": "problem", "start": 15, "end": 20}
    ]
    assert check_edit(row, {"output": again.replace("fever", "cough")}).faults != []


def test_agreement_is_that_of_the_textbooks() -> None:
    """Cohen's kappa of the table 20, 5, 10, 15 is 0.4; Krippendorff's example of four observers has alpha 0.743."""
    both = [("a", "a")] * 20 + [("a", "r")] * 5 + [("r", "a")] * 10 + [("r", "r")] * 15
    assert cohen_kappa(both) == pytest.approx(0.4)
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[row[at] for row in observers if row[at] != "."] for at in range(12)]
    assert krippendorff_alpha(units, "nominal") == pytest.approx(0.743, abs=0.0005)
    assert (
        cohen_kappa([]) is None and cohen_kappa([("a", "a")]) is None and krippendorff_alpha([["a"]], "nominal") is None
    )
    assert cohen_kappa([("a", "r"), ("r", "a")]) == pytest.approx(-1.0)


def test_skips_count_as_no_judgement() -> None:
    """Who skips is in the counts and in no measure."""

    def said(**held: Any) -> dict[str, Decision]:
        return {who: Decision("", who, verdict) for who, verdict in held.items()}

    latest = {
        "r1": said(ann="accept", bob="accept"),
        "r2": said(ann="reject", bob="accept"),
        "r3": said(ann="accept", bob="skip"),
    }
    found = agreement(latest)
    assert [(one["name"], one["all"], one.get("skip", 0)) for one in found["reviewers"]] == [
        ("ann", 3, 0),
        ("bob", 3, 1),
    ]
    (pair,) = found["pairs"]
    assert (pair["rows"], pair["same"], pair["kappa"]) == (2, 1, pytest.approx(0.0))
    assert (found["rows_judged"], found["rows_shared"]) == (3, 2)
    assert [one["row_id"] for one in found["disagreements"]] == ["r2"]


def test_two_folders_of_one_name_have_two_journals(tmp_path: Path) -> None:
    """The first keeps the plain name, also when it is opened again; the second gets a hash behind it."""
    out, one, two = tmp_path / "review", tmp_path / "a" / "curate", tmp_path / "b" / "curate"
    first, second = decisions_path(one, None, out), decisions_path(two, None, out)
    assert first == out / "curate" / "decisions.jsonl" and second.parent.name.startswith("curate-")
    assert (decisions_path(one, None, out), decisions_path(two, None, out)) == (first, second)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        decisions_path(one, None, tmp_path / "file")
