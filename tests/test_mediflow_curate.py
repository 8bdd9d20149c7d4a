"""Curation keeps, drops and explains: in = kept + dropped, another threshold changes only what it should."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars
import pytest
import yaml

from mediflow.curate import Config, main
from mediflow.curation.rank import order_stratified
from medsmith import run
from medsmith.config import Config as BaseConfig
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import Instruction, read_parquet, write_jsonl

NOUNS = [f"finding{number}" for number in range(900)]
CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")


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


class Made(BaseConfig):
    """A step without settings."""


def finished(folder: Path, name: str, rows: list[dict[str, Any]], **facts: Any) -> Path:
    """A finished run folder as the steps before would leave it."""
    with run.start(Made(out=folder), "test") as this:
        write_jsonl(folder / name, rows)
        this.facts |= facts
        return this.finish(rows=len(rows))


@dataclass(frozen=True)
class Result:
    """What a run of the command left, read back."""

    folder: Path
    kept: list[Instruction]
    dropped: dict[str, dict[str, Any]]
    facts: dict[str, Any]

    @property
    def reasons(self) -> dict[str, str]:
        return {name: row["reason"] for name, row in self.dropped.items()}


class Bench:
    """Runs the command on rows that a test makes, each judged by its own quality."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0

    def __call__(self, rows: Sequence[Instruction], **settings: Any) -> Result:
        self.runs += 1
        base = self.folder / str(self.runs)
        values = [{**asdict(row), "instruction_id": f"i{row.id}"} for row in rows]
        generated = finished(base / "generate", "instructions/part-00000.jsonl", values)
        scores = [{"instruction_id": f"i{row.id}", "mean": dict.fromkeys(CRITERIA, row.quality)} for row in rows]
        judged = finished(base / "judge", "scores.jsonl", scores)
        config = {"out": base / "curate", "generated": generated, "judged": judged, "map_rows": 0} | settings
        return read_result(main(Config(**config)))


def read_result(folder: Path) -> Result:
    dropped = polars.read_parquet(folder / "dropped.parquet")
    facts = json.loads((folder / "run.json").read_text())["facts"]
    by_id = {row["id"]: row for row in dropped.iter_rows(named=True)}
    return Result(folder, read_parquet(folder / "data"), by_id, facts)


NONE = {"threshold": None}


@pytest.fixture
def curate(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def blocklist(path: Path, *rows: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)
    return path.parent


def test_clean_rows_are_all_kept(curate: Bench) -> None:
    """Negative control: 200 distinct rows lose nothing."""
    rows = [row_of(number) for number in range(200)]
    result = curate(rows)
    assert result.dropped == {}
    assert sorted(row.id for row in result.kept) == [row.id for row in rows]


def test_planted_rows_are_dropped_each_with_reason_partner_and_similarity(curate: Bench, tmp_path: Path) -> None:
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
    blocked = blocklist(tmp_path / "in" / "mednli" / "mli_test_v1.jsonl", {"sentence1": item}).parent
    result = curate(rows + planted, blocklists=[blocked])
    assert result.reasons == {"0003": "exact_duplicate", "near-worse": "near_duplicate", "leak": "contaminated"}
    dropped = result.dropped
    assert dropped["0003"]["of"] == "copy-better" and dropped["0003"]["similarity"] == 1.0
    # 36 words of input and output make 34 shingles; the changed word is in three of them.
    assert dropped["near-worse"]["of"] == "0008" and dropped["near-worse"]["similarity"] == pytest.approx(31 / 37)
    assert dropped["leak"]["of"] == "mednli/mednli/mli_test_v1.jsonl:1:sentence1"
    assert result.facts["contamination"] == {
        "mednli": {"texts": 1, "ngram": 1, "containment": 0, "templates": 0, "unprotected": 0}
    }
    assert len(result.kept) + len(dropped) == 63


def test_rows_that_differ_in_what_matters_are_no_near_duplicates(curate: Bench) -> None:
    """One word of seventy changed: a dose, unit, negation, side or drug keeps the row, another word does not."""
    text = f"{text_of('a')} patient denies pain in the left knee takes metformin 500 mg since {text_of('b')}"
    changes = {"dose": ("500", "850"), "no": ("denies", "reports"), "side": ("left", "right"), "word": ("knee", "hip"),
               "drug": ("metformin", "glipizide"), "unit": ("mg", "mcg")}  # fmt: skip
    rows = [row_of(0, id="original", input=text, quality=4.0)]
    rows += [replace(rows[0], id=name, input=text.replace(*pair), quality=1.0) for name, pair in changes.items()]
    assert curate(rows).reasons == {"word": "near_duplicate"}
    bare = curate(rows, near_duplicates={"guard": False})
    assert bare.reasons == dict.fromkeys(changes, "near_duplicate")


def test_one_note_may_serve_several_tasks(curate: Bench) -> None:
    """The same input under another task is no duplicate unless the settings say so."""
    rows = [row_of(0), row_of(0, id="again", task_type="classification")]
    assert curate([*rows]).reasons == {"again": "exact_duplicate"}
    rows[1] = replace(rows[1], instruction="Name the specialty that should see this patient.")
    assert curate(rows).reasons == {}
    assert curate(rows, near_duplicates={"within": []}).reasons == {"again": "near_duplicate"}


def test_another_threshold_changes_only_what_it_should(curate: Bench) -> None:
    """A higher min_quality moves rows from kept to low_quality and touches no other row or reason."""
    rows = [row_of(number) for number in range(40)]
    rows += [replace(rows[7], id="copy"), row_of(41, quality=None), row_of(42, output="")]
    before, after = curate(rows, min_quality=2), curate(rows, min_quality=3.5)
    moved = {row.id for row in before.kept} - {row.id for row in after.kept}
    assert moved == {row.id for row in rows[:40] if row.quality in (2.0, 3.0)} - {"copy"}
    assert {row.id for row in after.kept} <= {row.id for row in before.kept}
    assert {one: why for one, why in after.reasons.items() if one not in moved} == before.reasons
    assert {after.reasons[one] for one in moved} == {"low_quality"}
    assert before.reasons["0041"] == "unjudged" and before.reasons["0042"] == "empty"
    assert after.dropped["0001"]["detail"] == "2 of at least 3.5"


def test_top_rows_are_the_best_of_every_stratum_and_grow_by_adding(curate: Bench) -> None:
    """Of 40 rows in strata of 30 and 10, the first 8 are 6 and 2, the best of each; the first 16 hold those 8."""
    strata = ["a"] * 30 + ["b"] * 10
    qualities = [float(number % 10) for number in range(40)]
    ids = [f"{number:02}" for number in range(40)]
    order = order_stratified(qualities, ids, strata).tolist()
    assert sorted(order[:8]) == [8, 9, 18, 19, 28, 29, 38, 39]
    assert set(order[:8]) <= set(order[:16]) and len(set(order)) == 40
    one_stratum = order_stratified(qualities, ids, [0] * 40)
    assert [qualities[number] for number in one_stratum][:5] == [9.0, 9.0, 9.0, 9.0, 8.0]
    kept = curate([row_of(number) for number in range(40)], top_rows=8).kept
    # The strata are task × input × format: four of ten rows, each with one quality.
    assert sorted((row.task_type, row.input_data) for row in kept) == sorted(
        [
            (task, data)
            for task in ("summarization", "question_answering")
            for data in ("discharge_summary", "soap_note: Plan")
        ]
        * 2
    )


def test_the_order_of_the_input_does_not_matter(curate: Bench) -> None:
    """The same rows in another order give the same result."""
    rows = [row_of(number) for number in range(50)] + [replace(row_of(9), id="copy")]
    one, two = curate(rows, top_rows=20), curate(random.Random(1).sample(rows, len(rows)), top_rows=20)
    assert one.kept == two.kept and one.dropped == two.dropped and len(one.kept) == 20


def write_inputs(folder: Path) -> dict[str, Any]:
    rows = []
    for number in range(60):
        row = row_of(number)
        rows.append({
            "id": row.id, "instruction_id": f"i{number // 2}", "instruction": row.instruction, "input": row.input,
            "output": row.output, "task_type": row.task_type, "input_data": row.input_data,
            "output_format": row.output_format, "difficulty_level": row.difficulty_level, "call_id": "c",
        })  # fmt: skip
    scores = [
        {"instruction_id": f"i{number}", "mean": dict.fromkeys(CRITERIA, 2.0 + number / 15), "samples": [], "failed": 0}
        for number in range(28)
    ]
    scores.append({"instruction_id": "i28", "mean": dict.fromkeys(CRITERIA), "samples": [], "failed": 5})
    (folder / "nli").mkdir(parents=True)
    write_jsonl(folder / "nli" / "test.jsonl", [{"sentence1": rows[11]["input"], "sentence2": "short"}])
    licences = {"synthetic": "CDLA-Permissive-2.0"}
    return {
        "generated": finished(
            folder / "generate", "instructions/part-00000.jsonl", rows, licences=licences, simulated=True
        ),
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
    files = [path for path in files if "raw" not in path.parts]
    assert len(files) == 7
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


class Seeded(BaseConfig):
    """A generate run about passages."""

    passages: dict[str, str] = {"path": "ward"}


@pytest.mark.parametrize(
    ("licences", "stated", "shown"),
    [
        ({"synthetic": "CDLA-Permissive-2.0"}, None, "cdla-permissive-2.0"),
        ({"synthetic": "CDLA-Permissive-2.0", "simulated clinic": "CC0-1.0 (simulated)"}, None, "cdla-permissive-2.0"),
        ({"synthetic": "CDLA-Permissive-2.0", "ward": "proprietary"}, None, "other"),
        ({"synthetic": "CDLA-Permissive-2.0", "ward": "proprietary"}, "cc-by-4.0", "cc-by-4.0"),
        ({}, None, "other"),
    ],
)
def test_the_cards_licence_is_stated_or_that_of_all_sources(
    tmp_path: Path, licences: dict[str, str], stated: str | None, shown: str
) -> None:
    """Ours only where nothing else went in; passages of others are named, and not called invented patients."""
    with run.start(Seeded(out=tmp_path / "generate"), "test") as this:
        rows = [asdict(row_of(number)) | {"instruction_id": "i"} for number in range(3)]
        write_jsonl(this.folder / "instructions" / "part-00000.jsonl", rows)
        this.facts |= {"licences": licences, "simulated": True}
        this.finish()
    settings = {"generated": tmp_path / "generate", "map_rows": 0, "license": stated}
    _, header, body = (main(Config(out=tmp_path / "out", **settings)) / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == shown
    assert [line for line in licences if f"| {line} | {licences[line]} |" not in body] == []
    assert ("invented patients" in body) == ("simulated clinic" in licences)
    assert ("by extraction from given passages" in body) == ("simulated clinic" not in licences)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """A foreign judge folder, thresholds that leave nothing and an unfinished folder are UserErrors with a remedy."""
    inputs = write_inputs(tmp_path / "in")
    foreign = finished(tmp_path / "foreign", "scores.jsonl", [{"instruction_id": "other", "mean": {}}])
    with pytest.raises(UserError, match="judged none of the instructions"):
        main(Config(out=tmp_path / "a", **{**inputs, "judged": foreign}))
    with pytest.raises(UserError, match="none of 60 rows is left; .* loosen"):
        main(Config(out=tmp_path / "b", **{**inputs, "min_quality": 4}))
    with pytest.raises(UserError, match=r"holds no scores\.jsonl; give a folder of mediflow\.judge"):
        main(Config(out=tmp_path / "a", **{**inputs, "judged": inputs["generated"]}))
    with pytest.raises(UserError, match=r"limits\.private\.0.*'name'"):
        load(Config, None, ["out=x", "generated=x", "limits.private=[name]"])
    part = inputs["generated"] / "instructions" / "part-00000.jsonl"
    part.write_text(part.read_text()[:-100])
    with pytest.raises(UserError, match=r"part-00000\.jsonl line 60: not valid JSON .* mend or remove the line"):
        main(Config(out=tmp_path / "d", **inputs))
    (inputs["generated"] / "run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json"):
        main(Config(out=tmp_path / "c", **inputs))


def decision(row: str, reviewer: str, said: str, **more: Any) -> dict[str, Any]:
    return {"row_id": row, "reviewer": reviewer, "decision": said, "comment": "", "at": "2026-01-01", **more}


def test_people_decide(curate: Bench, tmp_path: Path) -> None:
    """Rejected goes, accepted stays below the threshold and beyond the number; an edit makes another row."""
    rows = [row_of(number, quality=1.0 + number / 10) for number in range(20)]
    rows.append(replace(rows[19], id="copy", quality=1.0))
    lines = [
        decision("0019", "a", "accept"), decision("0019", "a", "reject"),
        decision("0001", "a", "accept"), decision("copy", "a", "accept"), decision("0018", "a", "skip"),
        decision("0002", "b", "edit", edited={"output": "A changed output of some words"}),
        decision("0017", "a", "accept"), decision("0017", "b", "reject"), decision("0017", "c", "accept"),
    ]  # fmt: skip
    write_jsonl(tmp_path / "decisions.jsonl", lines)
    settings = {"decisions": [tmp_path / "decisions.jsonl"], "min_quality": 2.5, "top_rows": 4}
    result = curate(rows, **settings)
    kept = {row.id: row for row in result.kept}
    (edited,) = [row for row in result.kept if row.output == "A changed output of some words"]
    assert edited.id not in {row.id for row in rows} and edited.input == rows[2].input
    # 0019 is out, so its copy is none; of the others the best two fill the number.
    assert kept.keys() - {edited.id} == {"0001", "copy", "0018"}
    assert result.reasons["0019"] == result.reasons["0017"] == "review_rejected"
    assert result.dropped["0017"]["detail"] == "by b"
    ledger = polars.read_parquet(result.folder / "ledger.parquet")
    assert ledger.filter(ledger["id"] == "0002")["edited_id"].to_list() == [edited.id]
    assert result.facts["reviewed"] == {"accept": 2, "edit": 1, "reject": 2}
    majority = curate(rows, **{**settings, "review_conflict": "majority"})
    assert "0017" not in majority.reasons


def test_a_wrong_decision_is_one_line(curate: Bench, tmp_path: Path) -> None:
    """An unknown word, and an edit without texts."""
    for line, message in (
        (decision("0001", "a", "maybe"), "line 1: unknown decision 'maybe'"),
        (decision("0001", "a", "edit"), "an edit needs 'edited'"),
        (decision("0001", "", "accept"), "without 'reviewer'"),
    ):
        write_jsonl(tmp_path / "decisions.jsonl", [line])
        with pytest.raises(UserError, match=message):
            curate([row_of(1)], decisions=[tmp_path / "decisions.jsonl"])


def test_the_card_names_judge_people_and_contradictions(tmp_path: Path) -> None:
    """Judge with agreement and told errors, decisions, checked facts; without them the card says that nobody looked."""
    rows = [asdict(row_of(number)) | {"instruction_id": "i", "checked": 5, "contradicted": 0} for number in range(4)]
    rows[3]["contradicted"] = 1
    generated = finished(tmp_path / "generate", "instructions/part-00000.jsonl", rows)
    told = {"calibration": {"criteria": {"quality": {"n": 40, "lower": 31}}}, "judge": "some-model"}
    scores = [{"instruction_id": "i", "mean": dict.fromkeys(CRITERIA, 3.0)}]
    agreement = {"agreement": {"samples": {"quality": 0.456}}}
    judged = finished(tmp_path / "judge", "scores.jsonl", scores, **told, **agreement)
    said = [decision("0000", "a", "accept"), decision("0001", "b", "edit", edited={"output": "Some other output"})]
    write_jsonl(tmp_path / "decisions.jsonl", said)
    config = {"generated": generated, "map_rows": 0}
    full = {"judged": judged, "decisions": [tmp_path / "decisions.jsonl"]}
    card = (main(Config(out=tmp_path / "one", **config, **full)) / "README.md").read_text()
    assert "`some-model`, which agree on quality to a Krippendorff's alpha of 0.46; it scored 31 of 40 planted" in card
    assert "2 reviewed; rows: 1 accepted, 0 rejected, 1 edited." in card
    assert "Of 20 statements of 4 kept rows" in card and "1 (5.00 %) contradict them" in card
    bare = (main(Config(out=tmp_path / "two", **config)) / "README.md").read_text()
    assert "No judge scored the rows." in bare and "No person decided" in bare and "a judge scores it" not in bare
    assert "benchmark texts removed" not in bare and "not compared with any benchmark" in bare


def test_a_mistake_leaves_an_earlier_result_whole(curate: Bench, tmp_path: Path) -> None:
    """A wrong decision, a foreign judge and an empty blocklist are refused before the folder is cleared."""
    result = curate([row_of(number) for number in range(4)])
    before = (result.folder / "run.json").read_bytes()
    write_jsonl(tmp_path / "decisions.jsonl", [decision("0001", "a", "maybe")])
    foreign = finished(tmp_path / "foreign", "scores.jsonl", [{"instruction_id": "other", "mean": {}}])
    (tmp_path / "empty").mkdir()
    config = {"out": result.folder, "generated": result.folder.parent / "generate", "map_rows": 0}
    for wrong in (
        {"decisions": [tmp_path / "decisions.jsonl"]},
        {"judged": foreign},
        {"blocklists": [tmp_path / "empty"]},
    ):
        with pytest.raises(UserError):
            main(Config(**config, **wrong))
        assert (result.folder / "run.json").read_bytes() == before and len(read_parquet(result.folder / "data")) == 4


def test_the_ledger_tells_of_every_record(tmp_path: Path) -> None:
    """Rows kept and dropped, and a record that generate rejected; a ledger that lacks a row is refused."""
    rows = [asdict(row_of(number)) | {"instruction_id": "i"} for number in (0, 1, 2)]
    rows[2] |= {"input": rows[0]["input"], "output": rows[0]["output"], "instruction": rows[0]["instruction"]}
    records = [
        {"id": row["id"], "call_id": f"c{row['id']}", "status": "accepted", "seed": 3, "extra": [1]} for row in rows
    ]
    records.append({"id": "bad", "status": "rejected", "reason": "empty", "text": "secret", "cost": 0.5})
    records.append({"id": rows[1]["id"], "status": "rejected", "reason": "exact_duplicate", "of": rows[1]["id"]})
    folder = tmp_path / "generate"
    with run.start(Made(out=folder), "test") as this:
        write_jsonl(folder / "instructions" / "part-00000.jsonl", rows)
        write_jsonl(folder / "ledger" / "part-00000.jsonl", records)
        this.finish()
    config = {"generated": folder, "map_rows": 0}
    ledger = polars.read_parquet(main(Config(out=tmp_path / "out", **config)) / "ledger.parquet")
    assert ledger["decision"].to_list() == ["kept", "kept", "dropped", None, None]
    assert ledger["decision_of"].to_list() == ["", "", "0000", None, None]
    last = ledger.row(3, named=True)
    assert (last["status"], last["reason"], last["cost"], last["more"]) == ("rejected", "empty", 0.5, None)
    assert ledger["more"][0] == '{"extra":[1]}' and "text" not in ledger.columns
    write_jsonl(folder / "ledger" / "part-00000.jsonl", records[1:])
    with pytest.raises(UserError, match="names 2 of 3 rows"):
        main(Config(out=tmp_path / "short", **config))


def test_another_threshold_reads_no_row_again(curate: Bench, tmp_path: Path) -> None:
    """The columns of the first run serve the second in the same folder; other limits make them anew."""
    rows = [row_of(number) for number in range(30)]
    first = curate(rows)
    config = {"out": first.folder, "generated": first.folder.parent / "generate", "map_rows": 0}
    config["judged"] = first.folder.parent / "judge"

    def made() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (first.folder / "raw" / "columns").rglob("*.arrow")}

    before = made()
    assert len(read_result(main(Config(**config, min_quality=3))).kept) == 14
    assert made() == before
    main(Config(**config, limits={"min_input_words": 4}))
    assert made() != before and len(made()) == 1


def test_what_columns_are_made_of_makes_them_anew(curate: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures that were not made before, and other code of the filters: neither is taken from the cache."""
    rows = [row_of(number) for number in range(30)]
    first = curate([*rows, replace(rows[3], id="near", input=rows[3].input + " Today.")], near_duplicates=NONE)
    assert not first.dropped
    config = {"out": first.folder, "generated": first.folder.parent / "generate", "map_rows": 0}
    config["judged"] = first.folder.parent / "judge"
    assert len(read_result(main(Config(**config))).dropped) == 1
    before = [path.name for path in (first.folder / "raw" / "columns").iterdir()]
    monkeypatch.setattr("mediflow.curate.code_of", lambda command: {command: "mended"})
    main(Config(**config, min_quality=3))
    assert [path.name for path in (first.folder / "raw" / "columns").iterdir()] != before


def three_parts(folder: Path) -> Path:
    """A finished generate folder of 99 rows in three parts, nine of which repeat others."""
    rows = [asdict(row_of(number)) | {"instruction_id": "i"} for number in range(90)]
    rows += [row | {"id": f"copy{number}", "instruction": "Say it all again."} for number, row in enumerate(rows[:9])]
    with run.start(Made(out=folder), "test") as this:
        for part in range(3):
            write_jsonl(folder / "instructions" / f"part-{part:05}.jsonl", rows[part * 33 : part * 33 + 33])
        return this.finish()


def test_several_processes_give_the_same(tmp_path: Path) -> None:
    """Three parts on two processes: the same files as on one."""
    folder = three_parts(tmp_path / "generate")
    config = {"generated": folder, "shard_rows": 40, "map_rows": 20}
    one = main(Config(out=tmp_path / "one", **config))
    two = main(Config(out=tmp_path / "two", workers=2, **config))
    assert read_result(one).facts["reasons"] == {"near_duplicate": 9}
    names = [path.relative_to(one) for path in one.rglob("*") if path.suffix in (".parquet", ".html", ".md")]
    assert len(names) == 7
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same(tmp_path: Path) -> None:
    """Rows read and compared on a cluster of two nodes: the same files as in one process."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    folder = three_parts(tmp_path / "generate")
    config = {"generated": folder, "map_rows": 0}
    one = main(Config(out=tmp_path / "one", **config))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        two = main(Config(out=tmp_path / "two", engine="ray", workers=2, **config))
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert read_result(one).facts["reasons"] == {"near_duplicate": 9}
    names = [path.relative_to(one) for path in one.rglob("*") if path.suffix in (".parquet", ".html", ".md")]
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []
