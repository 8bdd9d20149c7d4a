"""What is held out stays held out: no patient on both sides, nothing later in training than what is held out."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts import corpora
from experts.corpus.measure import NO_TIME, name_hash, read_time
from experts.corpus.split import Split, check_sides, hold_out
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import read_json, write_jsonl

COLUMNS = {"patient": "subject", "time": "charted"}


def note(number: int, patient: str, day: int, source: str = "S") -> dict[str, Any]:
    return {
        "id": f"n{number}", "title": "", "source": source, "license": "CC BY",
        "text": f"Note {number} about this patient: nothing new since number {number - 1}.",
        "subject": patient, "charted": f"{date(2020, 1, 1) + timedelta(days=day)} 08:00:00",
    }  # fmt: skip


NOTES = [note(n, f"p{n % 20}", n) for n in range(200)]
"""200 days of 20 patients, each seen ten times."""


def build(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, list[dict[str, Any]]]:
    write_jsonl(folder / "in.jsonl", rows)
    given = {"out": folder / "out", "corpus": str(folder / "in.jsonl"), "columns": COLUMNS, **settings}
    made = corpora.main(load(corpora.Config, given))
    files = {
        name: [json.loads(line) for line in (made / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "heldout", "dropped")
    }
    assert sum(map(len, files.values())) == len(rows), "in = kept + dropped"
    return files


def ids(rows: list[dict[str, Any]]) -> set[str]:
    return {row["id"] for row in rows}


def patients_of(rows: list[dict[str, Any]]) -> set[str]:
    return {f"p{int(row['id'][1:]) % 20}" for row in rows}


def test_all_documents_of_a_patient_are_on_one_side(tmp_path: Path) -> None:
    """Of 20 patients some are held out with all ten notes, and none is on both sides."""
    files = build(tmp_path, NOTES, split={"by": "patient"}, heldout_share=0.2)
    train, heldout = patients_of(files["train"]), patients_of(files["heldout"])
    assert not train & heldout and len(train | heldout) == 20
    assert len(files["heldout"]) == 10 * len(heldout) and 1 <= len(heldout) <= 8


def test_more_patients_move_no_other(tmp_path: Path) -> None:
    """A patient who is held out stays so when notes and patients are added, in another order."""
    small = build(tmp_path / "a", NOTES[:100], split={"by": "patient"}, heldout_share=0.3)
    more = [note(n, f"q{n % 30}", n) for n in range(200, 300)]
    large = build(tmp_path / "b", [*more, *reversed(NOTES)], split={"by": "patient"}, heldout_share=0.3)
    old = {row["id"] for row in NOTES[:100]}
    assert ids(small["heldout"]) == ids(large["heldout"]) & old


def test_a_split_by_document_with_patients_on_both_sides_is_refused(tmp_path: Path) -> None:
    """Where patients are known, notes of one on both sides are an error that names a digest and never the patient."""
    with pytest.raises(UserError, match="patients would stand on both sides") as refused:
        build(tmp_path, NOTES)
    digests = {f"{name_hash(f'p{n}'):016x}" for n in range(20)}
    assert any(digest in str(refused.value) for digest in digests)
    assert not any(f"p{n}" in str(refused.value).split() for n in range(20))


def test_one_note_a_patient_may_be_split_by_document(tmp_path: Path) -> None:
    """The negative control: without a patient seen twice there is nothing to refuse."""
    files = build(tmp_path, [note(n, f"p{n}", n) for n in range(200)])
    assert files["heldout"] and not files["dropped"]


def test_overlap_can_be_dropped_from_training(tmp_path: Path) -> None:
    """Then the training notes of held-out patients are dropped with that reason, and nobody is on both sides."""
    files = build(tmp_path, NOTES, split={"by": "document", "overlap": "drop"}, heldout_share=0.02)
    assert not patients_of(files["train"]) & patients_of(files["heldout"])
    assert {row["reason"] for row in files["dropped"]} == {"its patient is held out"}
    assert patients_of(files["dropped"]) <= patients_of(files["heldout"])


def test_future_notes_are_held_out(tmp_path: Path) -> None:
    """By time the latest tenth is held out: days 180 to 199, whatever the order in the file."""
    rows = [note(n, f"p{n}", n) for n in range(200)]
    files = build(tmp_path, rows[::-1], split={"by": "time"})
    assert ids(files["heldout"]) == {f"n{n}" for n in range(180, 200)}
    assert read_json(tmp_path / "out" / "corpus.json")["split_at"] == "2020-06-29T08:00:00+00:00"


def test_a_day_divides(tmp_path: Path) -> None:
    """What is of the day itself is held out; the day before is trained on; what has no time is dropped, and counted."""
    rows = [note(n, f"p{n}", n) for n in range(10)] + [note(10, "p10", 0) | {"charted": "in spring"}]
    files = build(tmp_path, rows, split={"by": "time", "since": "2020-01-08"})
    assert ids(files["heldout"]) == {"n7", "n8", "n9"}
    assert [(row["id"], row["reason"]) for row in files["dropped"]] == [("n10", "no time to split by")]


def test_patients_before_and_after_the_day_are_refused_or_dropped(tmp_path: Path) -> None:
    """By time all 20 patients are on both sides; dropped from training, nothing would be left, which is refused too."""
    with pytest.raises(UserError, match="20 patients would stand on both sides"):
        build(tmp_path / "a", NOTES, split={"by": "time"})
    with pytest.raises(UserError, match="every document would be held out or dropped"):
        build(tmp_path / "b", NOTES, split={"by": "time", "overlap": "drop"})
    files = build(tmp_path / "c", NOTES, split={"by": "time", "overlap": "drop"}, heldout_share=0.05)
    assert len(files["heldout"]) == 10 and len(files["dropped"]) == 90 and len(files["train"]) == 100


def test_a_split_of_one_time_is_refused(tmp_path: Path) -> None:
    """Where all notes are of one moment, none is later than another."""
    with pytest.raises(UserError, match="of one time with all others"):
        build(tmp_path, [note(n, f"p{n}", 0) for n in range(20)], split={"by": "time"})


def test_by_source_every_source_is_held_out_in_part(tmp_path: Path) -> None:
    """A small source has one held-out document at least; without the setting the share is of all together."""
    rows = [note(n, f"p{n}", n, source="large") for n in range(300)]
    rows += [note(n, f"p{n}", n, source="small") for n in range(300, 304)] + [note(400, "p", 0, source="single")]
    files = build(tmp_path / "a", rows, split={"by_source": True}, heldout_share=0.05)
    counts = {name: [row["source"] for row in files[name]] for name in ("train", "heldout")}
    assert counts["heldout"].count("small") >= 1 and counts["train"].count("small") >= 1
    assert counts["heldout"].count("single") == 0
    assert 5 <= counts["heldout"].count("large") <= 30
    plain = build(tmp_path / "b", rows, heldout_share=0.001)
    assert len(plain["heldout"]) == 1


def test_documents_without_a_patient_are_dropped(tmp_path: Path) -> None:
    """They cannot be split by patient; the reason is counted."""
    files = build(tmp_path, [*NOTES, note(500, "", 3)], split={"by": "patient"}, heldout_share=0.2)
    assert [(row["id"], row["reason"]) for row in files["dropped"]] == [("n500", "no patient to split by")]


def test_sides_are_checked_by_themselves() -> None:
    """Planted overlaps of patients and of times raise; a clean division passes, and patient 0 is nobody."""
    heldout = np.array([True, False, False, True])
    patients = np.array([7, 8, 7, 9], dtype=np.uint64)
    with pytest.raises(UserError, match="patient 0000000000000007"):
        check_sides(heldout, ~heldout, patients, None)
    nobody = np.zeros(4, dtype=np.uint64)
    check_sides(heldout, ~heldout, nobody, np.array([5, 1, 2, 6]))
    with pytest.raises(UserError, match="1970-01-01T00:00:09"):
        check_sides(heldout, ~heldout, nobody, np.array([5, 1, 9, 6]))


def test_a_patient_counts_by_the_first_source() -> None:
    """Stratified by source, a patient with documents of two sources is one unit, whole on one side."""
    patients = np.array([1, 1, 2, 3, 4, 5], dtype=np.uint64)
    strata = np.array([0, 1, 0, 1, 1, 1], dtype=np.uint32)
    ranks = np.array([0.01, 0.01, 0.9, 0.02, 0.5, 0.6])
    times = np.zeros(6, dtype=np.int64)
    held = hold_out(
        Split(by="patient", by_source=True), 0.1, ranks=ranks, strata=strata, times=times, patients=patients
    )
    assert held.heldout.tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-01 00:00:05", 5),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1971", 365 * 86_400),
        ("1970-02", 31 * 86_400),
        ("2nd of May", NO_TIME),
        ("", NO_TIME),
    ],
)
def test_times(text: str, seconds: int) -> None:
    """ISO dates and times, years and months are times; what else stands there is none."""
    assert read_time(text) == seconds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": {"since": "2020-01-01"}}, "set split.by=time"),
        ({"split": {"by": "time", "by_source": True}}, "leave out split.by_source"),
        ({"split": {"by": "patient"}, "columns": {}}, "set columns.patient=NAME"),
        ({"split": {"by": "time"}, "columns": {}}, "set columns.time=NAME"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """Each message says what to set."""
    with pytest.raises(UserError, match=message):
        build(tmp_path, NOTES[:3], **settings)
