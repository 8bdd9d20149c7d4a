"""A corpus comes out clean, licensed, without duplicates, and split in a way that does not move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import simple_icd_10_cm

from experts import corpora
from experts.corpus.tables import icd10cm
from medsmith.config import load
from medsmith.documents import clean
from medsmith.errors import UserError
from medsmith.records import read_json, read_jsonl, write_jsonl


def row(key: str, text: str, **more: str) -> dict[str, str]:
    return {"id": key, "title": "T", "text": text, "source": "S", "license": "CC0-1.0"} | more


def build(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, list[dict[str, Any]]]:
    """Write the rows, run the command, return its three files."""
    write_jsonl(folder / "in.jsonl", rows)
    made = corpora.main(load(corpora.Config, {"out": folder / "out", "corpus": str(folder / "in.jsonl"), **settings}))
    return {
        name: [json.loads(line) for line in (made / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "heldout", "dropped")
    }


ROWS = [row(f"d{n}", f"Patient number {n} was seen in the clinic.") for n in range(200)]


def test_dropped_documents_tell_why(tmp_path: Path) -> None:
    """Empty, short, repeated and wrongly named documents go to dropped.jsonl with their reason; the rest is kept."""
    rows = [
        *ROWS[:20],
        row("empty", " \u200b\n "),
        row("short", "No fever today."),
        row("again", "patient number 3 WAS seen,  in the clinic"),
        row("d4", "Another patient with the id of the fourth one."),
    ]
    files = build(tmp_path, rows)
    assert {r["id"]: r["reason"] for r in files["dropped"]} == {
        "empty": "empty",
        "short": "fewer than 5 words",
        "again": "same text as d3",
        "d4": "its id belongs to another text",
    }
    assert len(files["train"]) + len(files["heldout"]) == 20
    summary = read_json(tmp_path / "out" / "corpus.json")
    assert summary["documents"] == {
        "read": 24, "train": len(files["train"]), "heldout": len(files["heldout"]), "dropped": 4
    }  # fmt: skip
    assert summary["words"]["train"] + summary["words"]["heldout"] == 20 * 8


def test_text_is_cleaned(tmp_path: Path) -> None:
    """Composed letters, no control or invisible characters, single blanks, one empty line at most."""
    assert clean("\ufeffcafe\u0301  au\u00ad lait\x07\r\n\r\n\n\t100 \u200bmg ") == "caf\u00e9 au lait\n\n100 mg"


def test_adding_documents_moves_no_other(tmp_path: Path) -> None:
    """The held-out documents of a corpus stay held out, and no other joins them, when the corpus grows."""
    small = build(tmp_path / "a", ROWS[:100])
    large = build(tmp_path / "b", ROWS[100:] + ROWS[:100])
    old = {r["id"] for r in ROWS[:100]}
    assert {r["id"] for r in small["heldout"]} == {r["id"] for r in large["heldout"]} & old
    assert 8 <= len(large["heldout"]) <= 32
    other = build(tmp_path / "c", ROWS, seed=1)
    assert {r["id"] for r in other["heldout"]} != {r["id"] for r in large["heldout"]}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """Two runs write the same files, byte for byte."""
    for name in "ab":
        build(tmp_path / name, ROWS, limit_documents=50)
    for name in ("train.jsonl", "heldout.jsonl", "dropped.jsonl", "corpus.json"):
        assert (tmp_path / "a" / "out" / name).read_bytes() == (tmp_path / "b" / "out" / name).read_bytes()


def test_limit_and_holding_out_are_drawn_apart(tmp_path: Path) -> None:
    """Of 50 documents drawn, about a tenth is held out: the two draws share no hash."""
    files = build(tmp_path, ROWS, limit_documents=50)
    assert len(files["train"]) + len(files["heldout"]) == 50
    assert 1 <= len(files["heldout"]) <= 12
    assert {r["reason"] for r in files["dropped"]} == {"beyond limit_documents"}


@pytest.mark.parametrize(("share", "heldout"), [(0.0, 0), (0.0001, 1), (0.9999, 2)])
def test_at_least_one_held_out_and_one_trained(tmp_path: Path, share: float, heldout: int) -> None:
    """However small the corpus and extreme the share, both sides have a document; zero means none held out."""
    files = build(tmp_path, ROWS[:3], heldout_share=share)
    assert (len(files["heldout"]), len(files["train"])) == (heldout, 3 - heldout)


def test_licences_reach_the_record(tmp_path: Path) -> None:
    """Licences are kept by source, without the addresses of pages."""
    rows = ROWS[:5] + [row("x", "One two three four five.", source="Wiki https://a.b/c", license="CC-BY-4.0")]
    build(tmp_path, rows)
    facts = read_json(tmp_path / "out" / "run.json")["facts"]
    assert facts["licences"] == {"S": "CC0-1.0", "Wiki": "CC-BY-4.0"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("x", "Some words are here now.", license=" "), "row 3: no license for 'x'"),
        ({"id": "x", "title": "", "text": "t", "source": "s"}, "row 3: missing column 'license'"),
        (row("x", None), "row 3: 'text' is of type NoneType"),  # type: ignore[arg-type]
    ],
)
def test_document_without_licence_or_text_is_refused(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    """The message names file and row."""
    with pytest.raises(UserError, match=message):
        build(tmp_path, [*ROWS[:2], bad])


def test_code_table_gives_a_document_a_category(tmp_path: Path) -> None:
    """Category E11 lists its codes of at most four characters, each with its description, and no other category's."""
    documents = list(icd10cm(["E11", "I10"], 4))
    assert [document.id for document in documents] == ["icd10cm-E11", "icd10cm-I10"]
    text = documents[0].text
    assert "ICD-10-CM code E11.9: Type 2 diabetes mellitus without complications." in text.splitlines()
    assert "E11.65" not in text and "Endocrine, nutritional and metabolic diseases" in text
    assert "ICD-10-CM code I10: Essential (primary) hypertension." in documents[1].text
    made = corpora.main(load(corpora.Config, {"out": tmp_path / "icd", "table": "icd10cm", "prefixes": ["E1"]}))
    assert read_json(made / "corpus.json")["documents"]["read"] == 5  # E10, E11, E13, E15, E16


def test_code_table_gives_a_line_a_code_and_wording(tmp_path: Path) -> None:
    """E11 and its nine codes of four characters, each said in three ways, one of them name first; none of questions."""
    said = {"table": "icd10cm", "prefixes": ["E11"], "max_characters": 4, "form": "lines", "heldout_share": 0}
    made = corpora.main(load(corpora.Config, said | {"out": tmp_path / "icd", "wordings": 3}))
    lines = [row["text"] for row in read_jsonl(made / "train.jsonl")]
    of_one = {line for line in lines if "E11.9" in line}
    name = "Type 2 diabetes mellitus without complications"
    assert of_one == {
        f"ICD-10-CM code E11.9: {name}.",
        f"{name}: this diagnosis is coded E11.9 in ICD-10-CM.",
        f"Question: What does the ICD-10-CM code E11.9 stand for? Answer: {name}.",
    }
    codes = [code for document in icd10cm(["E11"], 4) for code in document.text.split() if code.startswith("E11.")]
    assert len(lines) == 3 * (len(set(codes)) + 1) and all("\n" not in line for line in lines)
    with pytest.raises(UserError, match="form=lines writes the codes of table=icd10cm"):
        load(corpora.Config, {"out": tmp_path / "x", "corpus": str(tmp_path / "a.jsonl"), "form": "lines"})


def test_no_line_of_the_table_is_lost_and_held_out_lines_are_of_read_codes(tmp_path: Path) -> None:
    """Neighbouring codes and wordings of one code all stay, one-word meanings too; and nearly all codes are read."""
    said = {"table": "icd10cm", "prefixes": ["A0", "S52"], "form": "lines", "wordings": 7}
    made = corpora.main(load(corpora.Config, said | {"out": tmp_path / "icd"}))
    counts = read_json(made / "corpus.json")["documents"]
    codes = [code for code in simple_icd_10_cm.get_all_codes(True) if code.startswith(("A0", "S52"))]
    kept = [code for code in codes if simple_icd_10_cm.is_category_or_subcategory(code)]
    assert counts["dropped"] == 0 and counts["read"] == 7 * len(kept) > 10_000
    read, held = (
        {row["id"].rpartition("-")[0] for row in read_jsonl(made / f"{side}.jsonl")} for side in ("train", "heldout")
    )
    assert held <= read and "recall" in (made / "README.md").read_text()
    asked = "What is the description of the medical code"
    assert not any(asked in row["text"] for row in read_jsonl(made / "train.jsonl"))
    near = {"near_duplicates": {"threshold": 0.8}, "out": tmp_path / "near"}
    with pytest.raises(UserError, match="would drop wordings of one code"):
        load(corpora.Config, said | near)


def test_unknown_prefix_and_origin_are_refused(tmp_path: Path) -> None:
    """A prefix without codes, or two origins at once, is the user's mistake."""
    with pytest.raises(UserError, match="no ICD-10-CM code begins with 'QQ'"):
        list(icd10cm(["QQ"], None))
    with pytest.raises(UserError, match="exactly one of corpus"):
        load(corpora.Config, {"out": tmp_path / "x"})
