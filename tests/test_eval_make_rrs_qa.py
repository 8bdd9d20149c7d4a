"""Questions on radiology findings are made by rules: their answers are pieces of the findings, or there is none."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from eval.benchmarks import rrs_qa
from eval.make_rrs_qa import Config, main, question
from medsmith.errors import UserError
from medsmith.records import read_json

FINDINGS = (
    "There is patchy left lower lobe airspace disease. Mild cardiomegaly. Old fracture of the left rib and old "
    "fracture of the right rib. No pleural effusion or pneumothorax."
)
IMPRESSION = (
    "1. Patchy left lower lobe airspace disease, maybe pneumonia. 2. Mild cardiomegaly. 3. No pleural effusion."
)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Left lower lobe airspace disease", ("Where is the airspace disease?", "left lower lobe")),
        ("Stable, mild cardiomegaly", ("What kind of cardiomegaly is described?", "Mild cardiomegaly")),
        ("No evidence of pleural effusion", ("Is there any pleural effusion?", "No pleural effusion")),
        ("No pleural effusion", ("Is there any pleural effusion?", "No pleural effusion")),
        ("No pneumothorax", ("Is there any pneumothorax?", "No pleural effusion or pneumothorax")),
        ("Pleural effusion", "denied in one of impression and findings"),
        ("Old fracture", "more than one answer"),
        ("Cardiomegaly", "too few words shared"),
        ("Sigmoid diverticulitis", "no words shared"),
    ],
)
def test_a_sentence_gives_a_verbatim_answer_or_a_reason(sentence: str, expected: tuple[str, str] | str) -> None:
    """Where, what kind, or whether; nothing where impression and findings differ, or several places would answer."""
    assert question(sentence, FINDINGS) == expected


def test_reports_become_a_benchmark(tmp_path: Path) -> None:
    """Three questions of one report, none of a report whose impression is another's; all is counted and said."""
    reports = [
        {"study_id": "a", "findings": FINDINGS, "impression": IMPRESSION, "background": "x"},
        {"study_id": "b", "findings": "The abdomen is soft.", "impression": IMPRESSION},
        {"study_id": "c", "findings": "", "impression": "x"},
    ]
    (tmp_path / "reports.json").write_text(json.dumps(reports))
    out = main(Config(out=tmp_path / "out", test=tmp_path / "reports.json", license="CC0"))
    items, dropped, notes = rrs_qa.load(out, "test")
    assert [item.id for item in items] == ["a-1", "a-2", "a-3"]
    assert all(item.gold in item.messages[-1]["content"].partition("QUESTION")[0] for item in items)
    assert (dropped, notes["as_published"], notes["rows"]) == (Counter(), None, 3)
    facts = read_json(out / "run.json")["facts"]
    assert facts["left_out_test"] == {"no words shared": 3, "report without findings or impression": 1}
    assert facts["licences"]["reports"] == "CC0"
    assert "not the questions of the paper" in facts["note"]


def test_tokenised_files_are_read_in_pairs(tmp_path: Path) -> None:
    """A report a line in two files; files of other lengths are an error, and so are reports that give no question."""
    folder = tmp_path / "reports"
    folder.mkdir()
    for name, lines in (("findings", [FINDINGS, "Clear ."]), ("impression", [IMPRESSION, "Normal ."])):
        (folder / f"test.{name}.tok").write_text("\n".join(lines) + "\n")
    out = main(Config(out=tmp_path / "out", test=folder, license="as given"))
    assert [item.id for item in rrs_qa.load(out, "test").items] == ["00001-1", "00001-2", "00001-3"]
    (folder / "test.impression.tok").write_text("Normal .\n")
    with pytest.raises(UserError, match="2 findings and 1 impressions"):
        main(Config(out=tmp_path / "other", test=folder, license="as given"))
    (tmp_path / "x.jsonl").write_text(json.dumps({"findings": "Clear.", "impression": "Normal."}))
    with pytest.raises(
        UserError, match="no sentence of an impression gives a question; left out were 1 \\(no words shared\\); give"
    ):
        main(Config(out=tmp_path / "none", test=tmp_path / "x.jsonl", license="as given"))


def test_same_reports_same_bytes(tmp_path: Path) -> None:
    """Nothing is drawn."""
    (tmp_path / "r.json").write_text(json.dumps([{"findings": FINDINGS, "impression": IMPRESSION}]))
    made = [main(Config(out=tmp_path / name, test=tmp_path / "r.json", license="CC0")) for name in ("a", "b")]
    assert (made[0] / "test.jsonl").read_bytes() == (made[1] / "test.jsonl").read_bytes()
