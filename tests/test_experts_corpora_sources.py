"""Documents come out of what corpora are published as, under the user's or the known names of columns."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from experts import corpora
from experts.corpus.reading import find_origin, read
from experts.corpus.tables import atc
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.hub import check_licences
from medsmith.hub import write_card as write_hub_card
from medsmith.records import read_json
from medsmith.run import require_finished
from tests.toy_corpora import COLUMNS, COMMIT, OWN_ROWS, TEXTS, build, put
from tests.toy_pdf import pdf


@pytest.mark.parametrize("name", ["notes.csv", "notes.parquet", "notes.jsonl", "notes.json"])
def test_own_files_under_own_names(tmp_path: Path, name: str) -> None:
    """The same documents from four formats: ids as text, sources by column, the licence by setting."""
    found = build(tmp_path, corpus=str(put(tmp_path / name, OWN_ROWS)), columns=COLUMNS, license="CC BY 4.0")
    assert {key: line["text"] for key, line in found.items()} == {str(n): text for n, text in enumerate(TEXTS)}
    assert {line["source"] for line in found.values()} == {"W0", "W1"}
    assert {line["license"] for line in found.values()} == {"CC BY 4.0"}


def test_rows_without_id_are_named_by_their_text(tmp_path: Path) -> None:
    """The id is a hash of the content, and the source the file: the same in another order."""
    rows = [{"note_text": text} for text in TEXTS]
    settings: dict[str, Any] = {"columns": {"text": "note_text"}, "license": "MIT"}
    one = build(tmp_path / "a", corpus=str(put(tmp_path / "notes.csv", rows)), **settings)
    two = build(tmp_path / "b", corpus=str(put(tmp_path / "b" / "notes.csv", rows[::-1])), **settings)
    assert set(one) == set(two) and len(one) == 8
    assert {line["source"] for line in one.values()} == {"notes"}


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    """The message says what to write."""
    path = put(tmp_path / "notes.csv", OWN_ROWS)
    with pytest.raises(UserError, match=r"missing column 'text' \(there are: note_id, note_text, ward, extra\)"):
        build(tmp_path, corpus=str(path), license="MIT", columns={"text": "text"})
    with pytest.raises(UserError, match="no license for '0'"):
        build(tmp_path, corpus=str(path), columns=COLUMNS)


def test_missing_texts_are_dropped_as_empty(tmp_path: Path) -> None:
    """In a file of others a missing text is an empty document, counted; it is no error."""
    rows: list[dict[str, Any]] = [*OWN_ROWS, {"note_id": 8, "note_text": None, "ward": "W", "extra": 1}]
    found = build(tmp_path, corpus=str(put(tmp_path / "n.parquet", rows)), columns=COLUMNS, license="MIT")
    assert {key: line["reason"] for key, line in found.items() if "reason" in line} == {"8": "empty"}


def test_a_folder_of_texts(tmp_path: Path) -> None:
    """Texts, Markdown and PDF, at any depth, are a document each; what cannot be read is dropped with its reason."""
    folder = tmp_path / "texts"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "one.txt").write_text(TEXTS[0])
    (folder / "two.md").write_text(f"# {TEXTS[1]}")
    (folder / "three.pdf").write_bytes(pdf(TEXTS[2]))
    (folder / "scan.pdf").write_bytes(pdf(""))
    (folder / "left.docx").write_bytes(b"not read")
    found = build(tmp_path, corpus=str(folder), license="CC0")
    assert {key: (line["title"], line["text"]) for key, line in found.items() if "reason" not in line} == {
        "a/one.txt": ("one", TEXTS[0]),
        "two.md": ("two", f"# {TEXTS[1]}"),
        "three.pdf": ("three", TEXTS[2]),
    }
    assert found["scan.pdf"]["reason"] == "PDF without text"
    assert {line["source"] for line in found.values()} == {"texts"}


def test_a_licence_beside_a_table_is_no_document(tmp_path: Path) -> None:
    """Of a folder one kind is read; tables come first, and files=[...] says otherwise."""
    put(tmp_path / "set" / "data" / "train.jsonl", OWN_ROWS)
    (tmp_path / "set" / "LICENSE.txt").write_text("Everybody may read this text.")
    (tmp_path / "set" / "NOTICE.txt").write_text("And this one, which is another.")
    settings: dict[str, Any] = {"corpus": str(tmp_path / "set"), "license": "MIT"}
    assert len(build(tmp_path / "a", columns=COLUMNS, **settings)) == 8
    assert set(build(tmp_path / "b", files=["*.txt"], **settings)) == {"LICENSE.txt", "NOTICE.txt"}


PUBLISHED: dict[str, tuple[str, list[dict[str, Any]], dict[str, str]]] = {
    "pmc_patients": (
        "PMC-Patients-V2.json",
        [
            {
                "patient_id": n, "patient_uid": f"7665777-{n}", "PMID": "33492400", "title": "Early Physical Therapist",
                "file_path": "comm/PMC007xxxxxx/PMC7665777.xml", "patient": text, "age": [[60.0, "year"]],
                "gender": "M", "relevant_articles": {"1": 1}, "similar_patients": {},
            }
            for n, text in enumerate(TEXTS)
        ],
        {"id": "7665777-3", "title": "Early Physical Therapist", "license": "cc-by-nc-sa-4.0"},
    ),
    "asclepius": (
        "synthetic.csv",
        [
            {"patient_id": n, "note": text, "question": "Q?", "answer": "A.", "task": "Summarization"}
            for n, text in enumerate(TEXTS)
        ],
        {"id": "3", "title": "", "source": "Asclepius", "license": "cc-by-nc-sa-4.0"},
    ),
    "guidelines": (
        "open_guidelines.jsonl",
        [
            {"id": f"g{n}", "source": "who", "title": "T", "clean_text": text, "raw_text": "raw", "url": None}
            for n, text in enumerate(TEXTS)
        ],
        {"id": "g3", "title": "T", "source": "who", "license": "common-crawl"},
    ),
    "pubmed_abstracts": (
        "0000.parquet",
        [
            {
                "MedlineCitation": {
                    "PMID": n, "DateRevised": {"Year": 2019},
                    "Article": {"Abstract": {"AbstractText": text}, "ArticleTitle": "T"},
                }
            }
            for n, text in enumerate(TEXTS)
        ],
        {"id": "3", "title": "T", "source": "PubMed"},
    ),
    "pmc_commercial": (
        "commercial/0000.parquet",
        [
            {
                "text": text, "pmid": f"{n}", "accession_id": f"PMC{n}", "license": "CC BY",
                "last_updated": "2021-01-05 11:13:12", "retracted": "no", "citation": "J. 2020",
            }
            for n, text in enumerate(TEXTS)
        ],
        {"id": "PMC3", "title": "", "source": "PubMed Central", "license": "CC BY"},
    ),
    "medical_wikipedia": (
        "train.parquet",
        [{"title": f"T{n}", "text": text} for n, text in enumerate(TEXTS)],
        {"title": "T3", "source": "Wikipedia", "license": "CC BY-SA 3.0, GFDL"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_corpora_in_their_published_columns(tmp_path: Path, name: str) -> None:
    """From the hub at a pinned commit: the fourth document has its id, title, text, source and licence."""
    file, rows, expected = PUBLISHED[name]
    put(tmp_path / "snapshot" / file, rows)
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, revision: str) -> Path:
        asked.append((repository, revision))
        return tmp_path / "snapshot"

    from experts.corpus.known import load_known

    repository = load_known(name).hub
    found = build(tmp_path, fetch, corpus=f"{repository}@{COMMIT}")
    assert asked == [(repository, COMMIT)]
    line = next(line for line in found.values() if line["text"] == TEXTS[3])
    assert {key: line[key] for key in expected} == expected
    # The same corpus from a file of one's own.
    again = build(tmp_path / "own", known=name, corpus=str(tmp_path / "snapshot" / file))
    assert again == found
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith(f"# {load_known(name).title}\n")
    assert all(trap in card for trap in load_known(name).traps)


def test_a_known_corpus_alone_is_read_at_its_own_revision(tmp_path: Path) -> None:
    """`known` without `corpus` asks the hub for the commit that its file names; one without a commit is refused."""
    file, rows, _ = PUBLISHED["asclepius"]
    put(tmp_path / "snapshot" / file, rows)
    asked: list[str] = []

    def fetch(repository: str, revision: str) -> Path:
        asked.append(f"{repository}@{revision}")
        return tmp_path / "snapshot"

    assert len(build(tmp_path, fetch, known="asclepius")) == 8
    assert asked == ["starmpcc/Asclepius-Synthetic-Clinical-Notes@e3a4301127b58428afb04183e4cbdb0de2e6795f"]
    with pytest.raises(UserError, match="say which revision of ncbi/pubmed"):
        build(tmp_path / "b", fetch, known="pubmed_abstracts")
    with pytest.raises(UserError, match="mtsamples is not on the hub"):
        build(tmp_path / "c", fetch, known="mtsamples")
    with pytest.raises(UserError, match="did you mean 'asclepius'"):
        build(tmp_path / "d", fetch, known="asklepius")


def test_sets_that_state_no_licence_are_refused(tmp_path: Path) -> None:
    """NoteChat and MTSamples need a licence that the user states."""
    chats = put(tmp_path / "our_revised_v2.csv", [{"data": "d", "conversation": text} for text in TEXTS])
    with pytest.raises(UserError, match="no license for"):
        build(tmp_path / "a", known="notechat", corpus=str(chats))
    assert len(build(tmp_path / "b", known="notechat", corpus=str(chats), license="CC BY-NC 4.0")) == 8
    samples = put(
        tmp_path / "mtsamples.csv",
        [
            {"": n, "description": "d", "medical_specialty": "Surgery", "sample_name": "S", "transcription": text}
            for n, text in enumerate(TEXTS)
        ],
    )
    with pytest.raises(UserError, match="no license for"):
        build(tmp_path / "c", known="mtsamples", corpus=str(samples))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("akemiH/NoteChat@main", "does not stay what it is; pin a commit"),
        ("akemiH/NoteChat", r"no such file or folder: .*/akemiH/NoteChat"),
    ],
)
def test_a_branch_is_no_revision(tmp_path: Path, reference: str, message: str) -> None:
    """What moves is refused before anything is fetched."""
    with pytest.raises(UserError, match=message):
        build(tmp_path, lambda _repository, _revision: pytest.fail("fetched"), corpus=reference, license="MIT")


ATC = [
    ("A", "ALIMENTARY TRACT AND METABOLISM"), ("A10", "DRUGS USED IN DIABETES"),
    ("A10B", "BLOOD GLUCOSE LOWERING DRUGS, EXCL. INSULINS"), ("A10BA", "Biguanides"), ("A10BA02", "metformin"),
    ("A10BA02", "metformin"), ("A10A", "INSULINS AND ANALOGUES"), ("A10AB", "Insulins, fast-acting"),
    ("A10AB01", "insulin (human)"), ("B01A", "ANTITHROMBOTIC AGENTS"), ("B01AA03", "warfarin"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["atc.csv", "atc.xlsx"])
def test_atc_from_the_users_file(tmp_path: Path, name: str) -> None:
    """A document a subgroup of four characters: its place, groups and substances; a code is listed once."""
    import openpyxl

    rows = [
        {"ATC code": code, "ATC level name": text, "level": {1: 1, 3: 2, 4: 3, 5: 4, 7: 5}[len(code)]}
        for code, text in ATC
    ]
    if name.endswith("csv"):
        put(tmp_path / name, rows)
    else:
        book = openpyxl.Workbook()
        for line in (list(rows[0]), *(list(row.values()) for row in rows)):
            book.worksheets[0].append(line)
        book.save(tmp_path / name)
    columns = {"code": "ATC code", "name": "ATC level name"}
    found = build(tmp_path, known="atc", corpus=str(tmp_path / name), columns=columns)
    assert set(found) == {"atc-A10A", "atc-A10B", "atc-B01A"}
    assert found["atc-A10B"]["text"].splitlines() == [
        "ATC group A10B: BLOOD GLUCOSE LOWERING DRUGS, EXCL. INSULINS.",
        "It belongs to DRUGS USED IN DIABETES, in ALIMENTARY TRACT AND METABOLISM.",
        "ATC group A10BA: Biguanides.",
        "ATC code A10BA02: metformin (Biguanides).",
    ]
    assert read_json(tmp_path / "out" / "run.json")["facts"]["non_commercial_documents"] == 3


def test_atc_refuses_what_is_no_code(tmp_path: Path) -> None:
    """A code of a wrong length, a level that does not fit, a prefix without codes, and no file."""
    bad = put(tmp_path / "bad.csv", [{"code": "A1", "name": "x"}])
    with pytest.raises(UserError, match="'A1' is no ATC code"):
        list(atc([bad], {}, [], "ATC", "L"))
    wrong = put(tmp_path / "wrong.csv", [{"code": "A10", "name": "x", "level": 3}])
    with pytest.raises(UserError, match="'A10' is of level 2, and the row says 3"):
        list(atc([wrong], {}, [], "ATC", "L"))
    good = put(tmp_path / "good.csv", [{"code": "A10B", "name": "x"}])
    with pytest.raises(UserError, match="no ATC code begins with 'C'"):
        list(atc([good], {}, ["C"], "ATC", "L"))
    with pytest.raises(UserError, match="give its path"):
        build(tmp_path, table="atc", license="L")


def test_a_published_corpus_has_two_splits(tmp_path: Path) -> None:
    """The hub's card names both files and what the corpus' own card says, once, without what was dropped."""
    build(tmp_path, corpus=str(put(tmp_path / "n.csv", OWN_ROWS)), columns=COLUMNS, license="CC BY 4.0")
    record = require_finished(tmp_path / "out")
    card = write_hub_card(tmp_path / "out", record, "o/n", check_licences(record, "out"))
    assert "path: train.jsonl" in card and "path: heldout.jsonl" in card and "dropped.jsonl" not in card
    assert "license: cc-by-4.0" in card
    assert card.count("8 documents were read") == 1


def test_the_baseline_of_pubmed_as_it_is(tmp_path: Path) -> None:
    """Citations of XML: labels before the parts of an abstract, marks in titles read through, no abstract is empty."""
    citations = "".join(
        f"""<PubmedArticle><MedlineCitation><PMID Version="1">{n}</PMID><DateRevised><Year>2019</Year></DateRevised>
        <Article><ArticleTitle>On <i>ward</i> {n}.</ArticleTitle>{abstract}</Article>
        </MedlineCitation></PubmedArticle>"""
        for n, abstract in enumerate(
            [
                *(f"<Abstract><AbstractText>{text}</AbstractText></Abstract>" for text in TEXTS),
                "<Abstract><AbstractText Label='AIM'>To see x &lt; 5 mg.</AbstractText><AbstractText Label='RESULTS'>"
                "We saw that <b>it</b> works.</AbstractText></Abstract>",
                "",
            ]
        )
    )
    (tmp_path / "base").mkdir()
    file = tmp_path / "base" / "pubmed25n0001.xml.gz"
    file.write_bytes(gzip.compress(f"<PubmedArticleSet>{citations}</PubmedArticleSet>".encode()))
    found = build(tmp_path, known="pubmed_abstracts", corpus=str(tmp_path / "base"))
    assert {found[str(n)]["text"] for n in range(8)} == set(TEXTS)
    assert found["3"]["title"] == "On ward 3."
    assert found["8"]["text"] == "AIM: To see x < 5 mg.\nRESULTS: We saw that it works."
    assert found["9"]["reason"] == "empty"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match="pubmed25n0001.xml.gz after citation"):
        build(tmp_path / "torn", known="pubmed_abstracts", corpus=str(tmp_path / "base"))


def test_the_archives_of_pubmed_central_as_they_are(tmp_path: Path) -> None:
    """The body of each article without front and references; its licence from the list beside the archive."""
    archive = tmp_path / "bulk" / "oa_comm_txt.PMC000xxxxxx.baseline.2026-01-01.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for n, text in enumerate(TEXTS):
            data = f"\n==== Front\nJ Med\n\n==== Body\n{text}\n\n==== Refs\n1 A. B.\n".encode()
            info = tarfile.TarInfo(f"PMC000xxxxxx/PMC{n}.txt")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    rows = [f"PMC000xxxxxx/PMC{n}.txt,J,PMC{n},2020-01-01,{n},{'CC BY-ND' if n == 5 else 'CC BY'},no" for n in range(7)]
    heads = "Article File,Article Citation,AccessionID,LastUpdated (YYYY-MM-DD HH:MM:SS),PMID,License,Retracted"
    for number, part in enumerate((rows[:4], rows[4:])):
        (archive.parent / f"{number}.filelist.csv").write_text("\n".join([heads, *part]) + "\n")
    licences = {
        "table": str(archive.parent), "key": "AccessionID", "missing": "drop",
        "deny": ["non-commercial", "no-derivatives"],
    }  # fmt: skip
    settings: dict[str, Any] = {"known": "pmc_commercial", "columns": {"article": "accession_id"}, "licences": licences}
    found = build(tmp_path, corpus=str(archive.parent), **settings)
    assert {key: line["text"] for key, line in found.items()} == {f"PMC{n}": text for n, text in enumerate(TEXTS)}
    assert {key: line["reason"] for key, line in found.items() if "reason" in line} == {
        "PMC5": "licence CC BY-ND: no-derivatives is denied",
        "PMC7": "no licence",
    }
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(UserError, match="no whole archive"):
        build(tmp_path / "torn", corpus=str(archive.parent), **settings)


def test_the_tag_of_the_whole_does_not_overrule_the_table(tmp_path: Path) -> None:
    """PMC-Patients with PMC's list: each document under its article's licence; without it the tag takes all out."""
    file, rows, _ = PUBLISHED["pmc_patients"]
    path = put(tmp_path / file, [row | {"PMID": f"{n}"} for n, row in enumerate(rows)])
    table = put(tmp_path / "list.csv", [{"PMID": n, "License": "CC BY" if n < 6 else "CC BY-NC"} for n in range(7)])
    policy = {"deny": ["non-commercial"], "missing": "drop"}
    found = build(tmp_path / "a", known="pmc_patients", corpus=str(path), licences={"table": str(table), **policy})
    assert [line.get("reason", line["license"]) for line in sorted(found.values(), key=lambda line: line["id"])] == [
        *["CC BY"] * 6, "licence CC BY-NC: non-commercial is denied", "no licence",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"0 documents are left of .* \(8 dropped: licence CC BY-NC-SA 4.0: non-com"):
        build(tmp_path / "b", known="pmc_patients", corpus=str(path), licences=policy)


def test_progress_counts_the_bytes_of_all_files(tmp_path: Path) -> None:
    """After the last document of two files as many bytes are done as both have."""
    for name in "ab":
        put(tmp_path / "set" / f"{name}.jsonl", OWN_ROWS)
    settings = {"out": tmp_path / "out", "corpus": str(tmp_path / "set"), "columns": COLUMNS, "license": "MIT"}
    config = load(corpora.Config, settings)
    origin = find_origin(config)
    done = [entry.done for entry in read(origin, config)]
    assert done == sorted(done) and len(done) == 16 and done[-1] == origin.size > 0


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("a.jsonl", "b.jsonl"), ("a.parquet", "b.parquet")])
def test_ids_that_restart_in_each_file_are_qualified_by_the_file(tmp_path: Path, names: tuple[str, str]) -> None:
    """Sets that count their rows in each file (MTS-Dialog) lose none; one document in two files is still one."""
    halves = ([{"id": str(n), "text": text} for n, text in enumerate(TEXTS[at : at + 4])] for at in (0, 4))
    for name, rows in zip(names, halves, strict=True):
        put(tmp_path / "restart" / name, rows)
        put(tmp_path / "same" / name, rows if name == names[1] else [*rows, {"id": "0", "text": TEXTS[4]}][4:])
    settings = {"source": "S", "license": "CC-BY-4.0", "columns": {"id": "id", "text": "text"}}
    found = build(tmp_path, corpus=str(tmp_path / "restart"), **settings)
    assert set(found) == {f"{name}:{n}" for name in names for n in range(4)}
    assert not any("reason" in line for line in found.values())
    same = build(tmp_path / "2", corpus=str(tmp_path / "same"), **settings)
    assert set(same) == {str(n) for n in range(4)}


def test_no_message_holds_a_text_of_an_agreement(tmp_path: Path) -> None:
    """A headerless table under an agreement: its first row is not printed as if it were columns."""
    (tmp_path / "notes.csv").write_text("17,Mrs. Zanzibar was admitted\n18,Mrs. Z. went home\n")
    with pytest.raises(UserError, match="the 2 that are there look like data: is there a line of names") as error:
        build(tmp_path, corpus=str(tmp_path / "notes.csv"), license="ours", access="credentialed")
    assert "Zanzibar" not in str(error.value)
