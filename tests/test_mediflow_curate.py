"""Curation keeps, drops and explains: in = kept + dropped, another threshold changes only what it should."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest
import yaml

from mediflow.blocklists import Blocked, Blocklist
from mediflow.curate import Config, curate, main
from mediflow.filters import Limits, find_fault, foreign_share, repeated_share
from mediflow.rank import order_stratified
from medsmith import run
from medsmith.config import Config as BaseConfig
from medsmith.errors import UserError
from medsmith.records import Instruction, read_parquet, write_jsonl

NOUNS = [f"finding{number}" for number in range(900)]
NOTHING = Blocklist([], {})


def text_of(seed: str, length: int = 30) -> str:
    return " ".join(random.Random(seed).choices(NOUNS, k=length))


def row_of(number: int, **changes: Any) -> Instruction:
    """A clean, distinct row; tasks, documents and formats alternate."""
    row = Instruction(
        id=f"{number:04}",
        instruction="Summarize the note in one sentence.",
        input=text_of(f"in {number}"),
        output=text_of(f"out {number}", 6),
        task_type=("summarization", "question_answering")[number % 2],
        input_data=("discharge_summary", "soap_note: Plan")[number // 2 % 2],
        output_format="plain_text",
        difficulty_level="hard",
        quality=1.0 + number % 4,
    )
    return replace(row, **changes)


def config_of(**changes: Any) -> Config:
    return Config(out=Path("unused"), generated=Path("unused"), **changes)


def reasons(result: Any) -> dict[str, str]:
    return {one.row.id: one.reason for one in result.dropped}


def test_clean_rows_are_all_kept() -> None:
    """Negative control: 200 distinct rows lose nothing."""
    rows = [row_of(number) for number in range(200)]
    result = curate(rows, NOTHING, config_of())
    assert result.dropped == []
    assert sorted(row.id for row in result.kept) == [row.id for row in rows]


def test_planted_rows_are_dropped_each_with_reason_partner_and_similarity() -> None:
    """An exact copy, a near copy and a test item go; the better judged of two copies stays; all others are kept."""
    rows = [row_of(number) for number in range(60)]
    item = text_of("item", 20)
    near = rows[8].input.split()
    near[29] = "changed"
    planted = [
        replace(rows[3], id="copy-better", quality=4.0),
        replace(rows[8], id="near-worse", input=" ".join(near), quality=1.0),
        replace(rows[20], id="leak", input=f"{text_of('other')} {item}"),
    ]
    rows[3] = replace(rows[3], quality=2.0)
    rows[8] = replace(rows[8], quality=3.0)
    blocked = Blocklist([Blocked("mednli", "mli_test_v1.jsonl:5:sentence1", item)], {"mednli": 0})
    result = curate(rows + planted, blocked, config_of())
    dropped = {one.row.id: one for one in result.dropped}
    assert reasons(result) == {"0003": "exact_duplicate", "near-worse": "near_duplicate", "leak": "contaminated"}
    assert dropped["0003"].of == "copy-better" and dropped["0003"].similarity == 1.0
    # 36 words of input and output make 34 shingles; the changed word is in three of them.
    assert dropped["near-worse"].of == "0008" and dropped["near-worse"].similarity == pytest.approx(31 / 37)
    assert dropped["leak"].of == "mednli/mli_test_v1.jsonl:5:sentence1"
    assert result.contamination == {
        "mednli": {"texts": 1, "ngram": 1, "containment": 0, "templates": 0, "unprotected": 0}
    }
    assert len(result.kept) + len(result.dropped) == 63


def test_one_note_may_serve_several_tasks() -> None:
    """The same input under another task is no duplicate unless the settings say so."""
    rows = [row_of(0), row_of(0, id="again", task_type="classification")]
    assert reasons(curate([*rows], NOTHING, config_of())) == {"again": "exact_duplicate"}
    rows[1] = replace(rows[1], instruction="Name the specialty that should see this patient.")
    assert reasons(curate(rows, NOTHING, config_of())) == {}
    everywhere = config_of(near_duplicates={"within": []})
    assert reasons(curate(rows, NOTHING, everywhere)) == {"again": "near_duplicate"}


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"output": "  "}, "empty", "output"),
        ({"input": "two words"}, "too_short", "input: 2 words"),
        ({"output": text_of("long", 5000)}, "too_long", "output: 5000 words"),
        ({"input": "SSN 123-45-6789 was noted"}, "private", "ssn in input"),
        ({"input": "call (617) 555-0123 for results"}, "private", "phone in input"),
        ({"input": "call +44 20 7946 0958 for results"}, "private", "phone in input"),
        ({"output": "write to jane.doe@example.org"}, "private", "email in output"),
        ({"input": "Name: X, MRN: 00123456, male"}, "private", "mrn in input"),
        ({"input": "medical record number is A-778812 here"}, "private", "mrn in input"),
        ({"output": "done </output> more"}, "markup", "</output>"),
        ({"output": "I'm sorry, but I can't help with that."}, "refusal", "output"),
        ({"input": "A fever, today.", "output": "a fever today"}, "echo", "input"),
        ({"output": "summarize the note in one sentence"}, "echo", "instruction"),
        ({"output_format": "json", "output": "{'a': 1}"}, "invalid_json", "output"),
        ({"output": "no fever no cough and " * 12}, "repetition", "output"),
        ({"output": "pain " * 9}, "repetition", "one word 9 times"),
        ({"input": "Пациент жалуется на боль в груди"}, "foreign", "input: 100%"),
        ({"input": "El paciente fue dado de alta con una dieta para los que no pueden comer"}, "foreign", "input"),
    ],
)
def test_each_fault_is_named(changes: dict[str, Any], reason: str, detail: str) -> None:
    """A clean row with one fault is dropped for that fault, and the detail says where."""
    assert find_fault(row_of(1), Limits()) is None
    fault = find_fault(row_of(1, **changes), Limits())
    assert fault is not None and fault.reason == reason
    assert detail in fault.detail


@pytest.mark.parametrize(
    "text",
    [
        "BP 120-80, glucose 140 mg/dL, 2024-01-05, NDC 0002-3227-30, NCT01234567, trial 555-12",
        "de Quervain tenosynovitis, van der Woude syndrome, DES placed in LAD, β-blocker at 5 µg/kg",
        "Temp 98.6, HR 72, RR 16, BP 132/84, SpO2 98% on 2-3 L, creatinine 1.2-1.4 since 10-12-2023",
        "MRN withheld; phone and email on file",
    ],
)
def test_clinical_text_is_not_mistaken_for_private_or_foreign(text: str) -> None:
    """Figures, eponyms and units of ordinary notes pass."""
    assert find_fault(row_of(1, input=text), Limits()) is None


def test_shares_are_counted_as_described() -> None:
    """Half of a doubled text's 5-word sequences but the seam repeat; short texts have no repetition."""
    words = text_of("x", 40).split()
    assert repeated_share(words + words) == pytest.approx(36 / 76)
    assert repeated_share(["a"] * 29) == 0.0
    assert foreign_share("abгд", ["abгд"]) == 0.5


def test_another_threshold_changes_only_what_it_should() -> None:
    """A higher min_quality moves rows from kept to low_quality and touches no other row or reason."""
    rows = [row_of(number) for number in range(40)]
    rows += [replace(rows[7], id="copy"), row_of(41, quality=None), row_of(42, output="")]
    before = curate(rows, NOTHING, config_of(min_quality=2))
    after = curate(rows, NOTHING, config_of(min_quality=3.5))
    moved = {row.id for row in before.kept} - {row.id for row in after.kept}
    assert moved == {row.id for row in rows[:40] if row.quality in (2.0, 3.0)} - {"copy"}
    assert {row.id for row in after.kept} <= {row.id for row in before.kept}
    assert {one: why for one, why in reasons(after).items() if one not in moved} == reasons(before)
    assert {reasons(after)[one] for one in moved} == {"low_quality"}
    assert reasons(before)["0041"] == "unjudged" and reasons(before)["0042"] == "empty"


def test_top_rows_are_the_best_of_every_stratum_and_grow_by_adding() -> None:
    """Of 40 rows in strata of 30 and 10, the first 8 are 6 and 2, the best of each; the first 16 hold those 8."""
    strata = ["a"] * 30 + ["b"] * 10
    qualities = [float(number % 10) for number in range(40)]
    ids = [f"{number:02}" for number in range(40)]
    order = order_stratified(qualities, ids, strata)
    assert sorted(order[:8]) == [8, 9, 18, 19, 28, 29, 38, 39]
    assert set(order[:8]) <= set(order[:16]) and len(set(order)) == 40
    one_stratum = order_stratified(qualities, ids, [0] * 40)
    assert [qualities[number] for number in one_stratum][:5] == [9.0, 9.0, 9.0, 9.0, 8.0]
    kept = curate([row_of(number) for number in range(40)], NOTHING, config_of(top_rows=8)).kept
    # The strata are task × input × format: four of ten rows, each with one quality.
    assert sorted((row.task_type, row.input_data) for row in kept) == sorted(
        [
            (task, data)
            for task in ("summarization", "question_answering")
            for data in ("discharge_summary", "soap_note: Plan")
        ]
        * 2
    )


def test_the_order_of_the_input_does_not_matter() -> None:
    """The same rows in another order give the same result."""
    rows = [row_of(number) for number in range(50)] + [replace(row_of(9), id="copy")]
    shuffled = random.Random(1).sample(rows, len(rows))
    assert curate(rows, NOTHING, config_of(top_rows=20)) == curate(shuffled, NOTHING, config_of(top_rows=20))


class Made(BaseConfig):
    """A step without settings."""


def finished(folder: Path, name: str, rows: list[dict[str, Any]], **facts: Any) -> Path:
    """A finished run folder as the steps before would leave it."""
    with run.start(Made(out=folder), "test") as this:
        write_jsonl(folder / name, rows)
        this.facts |= facts
        return this.finish(rows=len(rows))


def write_inputs(folder: Path) -> dict[str, Any]:
    rows = []
    for number in range(60):
        row = row_of(number)
        rows.append({
            "id": row.id, "instruction_id": f"i{number // 2}", "instruction": row.instruction, "input": row.input,
            "output": row.output, "task_type": row.task_type, "input_data": row.input_data,
            "output_format": row.output_format, "difficulty_level": row.difficulty_level, "call_id": "c",
        })  # fmt: skip
    names = ("quality", "alignment", "coherence", "realism", "difficulty")
    scores = [
        {"instruction_id": f"i{number}", "mean": dict.fromkeys(names, 2.0 + number / 15), "samples": [], "failed": 0}
        for number in range(28)
    ]
    scores.append({"instruction_id": "i28", "mean": dict.fromkeys(names), "samples": [], "failed": 5})
    (folder / "nli").mkdir(parents=True)
    write_jsonl(folder / "nli" / "test.jsonl", [{"sentence1": rows[11]["input"], "sentence2": "short"}])
    licences = {"synthetic": "CDLA-Permissive-2.0"}
    return {
        "generated": finished(folder / "generate", "instructions.jsonl", rows, licences=licences, simulated=True),
        "judged": finished(folder / "judge", "scores.jsonl", scores),
        "blocklists": [folder / "nli"],
        "min_quality": 2.5,
    }


def test_the_command_writes_a_whole_data_set_byte_for_byte_again(tmp_path: Path) -> None:
    """Scores are joined by instruction; counts agree over all files; a second run gives the same bytes."""
    inputs = write_inputs(tmp_path / "in")
    one = main(Config(out=tmp_path / "one", shard_rows=20, **inputs))
    two = main(Config(out=tmp_path / "two", shard_rows=20, **inputs))
    kept = read_parquet(one / "data")
    dropped = polars.read_parquet(one / "dropped.parquet")
    record = json.loads((one / "run.json").read_text())
    assert record["counts"] == {"in": 60, "kept": len(kept), "dropped": len(dropped)}
    assert len(kept) + len(dropped) == 60
    # Instructions 0 to 7 are judged below 2.5, 28 and 29 not at all; row 11 is the test item before that.
    assert record["facts"]["reasons"] == {"contaminated": 1, "low_quality": 15, "unjudged": 4}
    by_id = {row.id: row for row in kept}
    assert by_id["0031"].quality == pytest.approx(3.0) and by_id["0031"].realism == pytest.approx(3.0)
    shards = sorted(path.name for path in (one / "data").iterdir())
    assert shards == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    files = [path for path in one.rglob("*") if path.is_file() and path.name not in ("run.json", ".lock")]
    assert len(files) == 6
    for path in files:
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes(), path.name
    row = dropped.filter(polars.col("reason") == "contaminated").row(0, named=True)
    assert (row["id"], row["of"], row["similarity"]) == ("0011", "test/test.jsonl:1:sentence1", 1.0)
    assert record["facts"]["licences"] == {"synthetic": "CDLA-Permissive-2.0"} and record["facts"]["simulated"] is True


def test_card_and_page_say_what_was_done(tmp_path: Path) -> None:
    """The card's header is valid, names data files and the label; the page is one file without any address."""
    folder = main(Config(out=tmp_path / "out", title="A <b> set", **write_inputs(tmp_path / "in")))
    _, header, body = (folder / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["license"] == "cdla-permissive-2.0" and "simulated" in values["tags"]
    assert values["configs"][0]["data_files"][0]["path"] == "data/train-*.parquet"
    assert "**Simulated.**" in body and "| test | 1 | 1 | 0 | 0 | 0 |" in body
    page = (folder / "report.html").read_text()
    assert "A &lt;b&gt; set" in page and "<b> set" not in page
    assert not re.search(r"src=|url\(|@import|<link", page) and "default-src 'none'" in page


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """A foreign judge folder, thresholds that leave nothing and an unfinished folder are UserErrors with a remedy."""
    inputs = write_inputs(tmp_path / "in")
    foreign = finished(tmp_path / "foreign", "scores.jsonl", [{"instruction_id": "other", "mean": {}}])
    with pytest.raises(UserError, match="judged none of the instructions"):
        main(Config(out=tmp_path / "a", **{**inputs, "judged": foreign}))
    with pytest.raises(UserError, match="none of 60 rows is left; .* loosen"):
        main(Config(out=tmp_path / "b", **{**inputs, "min_quality": 4}))
    (inputs["generated"] / "run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json"):
        main(Config(out=tmp_path / "c", **inputs))
