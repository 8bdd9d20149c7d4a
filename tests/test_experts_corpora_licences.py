"""A licence is the same in all spellings, and says which documents may be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experts import corpora
from experts.corpus.licences import Licences, parse_licence
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import read_json, write_jsonl

NC_SA = "CC BY-NC-SA 4.0"


@pytest.mark.parametrize(
    ("text", "name", "traits"),
    [
        # PubMed Central's file lists
        ("CC BY", "CC BY", {"permissive"}),
        ("CC0", "CC0 1.0", {"public-domain"}),
        ("CC BY-SA", "CC BY-SA", {"share-alike"}),
        ("CC BY-ND", "CC BY-ND", {"no-derivatives"}),
        ("CC BY-NC", "CC BY-NC", {"non-commercial"}),
        ("CC BY-NC-ND", "CC BY-NC-ND", {"non-commercial", "no-derivatives"}),
        ("CC BY-NC-SA", "CC BY-NC-SA", {"non-commercial", "share-alike"}),
        ("NO-CC CODE", "NO-CC CODE", {"unknown"}),
        # the hub's tags
        ("cc-by-nc-sa-4.0", NC_SA, {"non-commercial", "share-alike"}),
        ("cc-by-4.0", "CC BY 4.0", {"permissive"}),
        ("cc0-1.0", "CC0 1.0", {"public-domain"}),
        ("apache-2.0", "apache-2.0", {"permissive"}),
        ("odc-by", "odc-by", {"permissive"}),
        ("common-crawl", "common-crawl", {"unknown"}),
        ("other", "other", {"unknown"}),
        # addresses, full names, and what people write
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", NC_SA, {"non-commercial", "share-alike"}),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0 1.0", {"public-domain"}),
        (
            "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International",
            NC_SA,
            {"non-commercial", "share-alike"},
        ),
        ("Creative Commons Attribution License", "CC BY", {"permissive"}),
        ("CC_BY_NC_4.0", "CC BY-NC 4.0", {"non-commercial"}),
        ("ccbync", "CC BY-NC", {"non-commercial"}),
        ("CC BY-NC-SA 3.0 IGO", "CC BY-NC-SA 3.0 IGO", {"non-commercial", "share-alike"}),
        # the article's licence speaks of non-commercial use, and permits it
        (
            "This article is under the Creative Commons Attribution License (CC BY 4.0), which permits commercial and "
            "non-commercial use",
            "CC BY 4.0",
            {"permissive"},
        ),
        # several at once: all restrictions hold
        ("CC BY 4.0 (annotations), CC BY-NC 4.0 (texts)", "CC BY-NC 4.0", {"non-commercial"}),
        ("CC BY-SA 3.0, GFDL", "CC BY-SA 3.0, GFDL", {"share-alike"}),
        ("MIT", "MIT", {"permissive"}),
        (
            "public domain (US government, CDC/NCHS)",
            "public domain (US government, CDC/NCHS)",
            {"public-domain"},
        ),
        ("for research use only", "for research use only", {"non-commercial"}),
        (
            "PhysioNet Credentialed Health Data License 1.5.0",
            "PhysioNet Credentialed Health Data License 1.5.0",
            {"agreement"},
        ),
        # words that hold the letters of a licence are none
        ("summit agreement with the abbey", "summit agreement with the abbey", {"unknown"}),
        ("permitted by the publisher", "permitted by the publisher", {"unknown"}),
    ],
)
def test_spellings(text: str, name: str, traits: set[str]) -> None:
    """A spelling of the real sets gives the name and what it restricts; what only looks like one is unknown."""
    licence = parse_licence(text)
    assert (licence.name, licence.traits) == (name, traits)
    assert licence.non_commercial == ("non-commercial" in traits)


@pytest.mark.parametrize(
    ("settings", "text", "reason"),
    [
        ({}, "CC BY-NC", None),
        ({}, "something else", None),
        ({}, " ", "no licence"),
        ({}, "unknown", "no licence"),
        ({"deny": ["non-commercial"]}, "cc-by-nc-4.0", "licence CC BY-NC 4.0: non-commercial is denied"),
        ({"deny": ["non-commercial"]}, "cc-by-sa-4.0", None),
        ({"deny": ["non-commercial"]}, "something else", "licence something else: not recognised"),
        ({"deny": ["non-commercial"], "allow": ["something else", "permissive"]}, "something else", None),
        ({"allow": ["CC BY"]}, "cc-by-3.0", None),
        ({"allow": ["CC BY"]}, "CC BY 3.0 IGO", None),
        ({"allow": ["CC BY"]}, "cc-by-sa-3.0", "licence CC BY-SA 3.0: not among those allowed"),
        ({"allow": ["CC BY 4.0"]}, "https://creativecommons.org/licenses/by/4.0/", None),
        ({"allow": ["CC BY 4.0"]}, "cc-by-3.0", "licence CC BY 3.0: not among those allowed"),
        ({"allow": ["apache-2.0"]}, "Apache 2.0", None),
        ({"allow": ["public-domain", "permissive"]}, "CC0", None),
        ({"deny": ["CC BY-ND"]}, "CC BY-ND 4.0", "licence CC BY-ND 4.0: CC BY-ND is denied"),
    ],
)
def test_policy(settings: dict[str, Any], text: str, reason: str | None) -> None:
    """What is denied goes, what is not recognised goes with it, and `allow` names what stays."""
    assert Licences(**settings).reason(text) == reason


def test_a_misspelt_kind_is_refused() -> None:
    """A kind that does not exist would deny nothing, silently."""
    with pytest.raises(ValueError, match="'non-comercial' is no licence that is recognised"):
        Licences(deny=["non-comercial"])


def row(key: str, licence: str | None, **more: Any) -> dict[str, Any]:
    text = f"Document {key} has its very own words, namely {key}."
    return {"id": key, "title": "", "text": text, "source": "S", "license": licence} | more


def build(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, dict[str, Any]]:
    """Write the rows, run the command; all documents by id, dropped ones with their reason."""
    write_jsonl(folder / "in.jsonl", rows)
    made = corpora.main(load(corpora.Config, {"out": folder / "out", "corpus": str(folder / "in.jsonl"), **settings}))
    lines = [json.loads(line) for name in ("train", "heldout", "dropped") for line in (made / f"{name}.jsonl").open()]
    assert len(lines) == len(rows), "in = kept + dropped"
    return {line["id"]: line for line in lines}


def test_documents_are_filtered_one_by_one(tmp_path: Path) -> None:
    """Of a mixed corpus those under denied and unknown licences are dropped with the reason, the others kept."""
    rows = [row("a", "CC BY"), row("b", "CC BY-NC"), row("c", "cc0-1.0"), row("d", "ask us"), row("e", "")]
    found = build(tmp_path, rows, licences={"deny": ["non-commercial"], "missing": "drop"})
    assert {key: line.get("reason") for key, line in found.items()} == {
        "a": None,
        "b": "licence CC BY-NC: non-commercial is denied",
        "c": None,
        "d": "licence ask us: not recognised",
        "e": "no licence",
    }
    assert read_json(tmp_path / "out" / "corpus.json")["licence_kinds"] == {"permissive": 1, "public-domain": 1}


def test_non_commercial_documents_are_told_of(tmp_path: Path) -> None:
    """Without a filter nothing goes, and record and card say how many are non-commercial."""
    rows = [row("a", "CC BY"), row("b", "CC BY-NC"), row("c", "cc-by-nc-sa-4.0")]
    found = build(tmp_path, rows)
    assert all("reason" not in line for line in found.values())
    assert read_json(tmp_path / "out" / "run.json")["facts"]["non_commercial_documents"] == 2
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2 documents kept are under a non-commercial licence" in card
    assert "2 of 3 documents kept are non-commercial" in card


def test_licences_come_from_a_table(tmp_path: Path) -> None:
    """As of PubMed Central: the table tells the licence of each article; an article that it lacks has none."""
    (tmp_path / "oa_file_list.csv").write_text(
        "File,Article Citation,Accession ID,PMID,License\nx,y,PMC1,11,CC BY\nx,y,PMC2,12,CC BY-NC\nx,y,PMC3,13,CC0\n"
    )
    # The tag of the whole stands in `license`, and is not what counts.
    rows = [row(key, "cc-by-nc-sa-4.0", PMID=pmid) for key, pmid in (("a", 11), ("b", 12), ("c", "13"), ("d", 99))]
    licences = {"table": str(tmp_path / "oa_file_list.csv"), "deny": ["non-commercial"], "missing": "drop"}
    found = build(tmp_path, rows, columns={"article": "PMID"}, licences=licences)
    assert {key: line.get("reason") for key, line in found.items()} == {
        "a": None,
        "b": "licence CC BY-NC: non-commercial is denied",
        "c": None,
        "d": "no licence",
    }
    assert (found["a"]["license"], found["c"]["license"]) == ("CC BY", "CC0")


def test_a_table_without_the_column_is_refused(tmp_path: Path) -> None:
    """The message names what is missing and what is there."""
    (tmp_path / "list.csv").write_text("pmid,licence\n1,CC BY\n")
    with pytest.raises(UserError, match=r"list.csv row 1: missing column 'PMID' \(there are: pmid, licence\)"):
        build(tmp_path, [row("a", "CC BY", PMID=1)], licences={"table": str(tmp_path / "list.csv")})


def test_a_fixed_licence_is_for_documents_without_their_own(tmp_path: Path) -> None:
    """`license` stands for the whole file, and does not overrule what a document says."""
    rows = [row("a", "CC BY-NC"), {k: v for k, v in row("b", "").items() if k != "license"}, row("c", "")]
    found = build(tmp_path, rows, license="CC BY 4.0")
    assert {key: line["license"] for key, line in found.items()} == {
        "a": "CC BY-NC",
        "b": "CC BY 4.0",
        "c": "CC BY 4.0",
    }
