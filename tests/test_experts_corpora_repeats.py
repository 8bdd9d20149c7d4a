"""Copies, near copies and texts of benchmarks are found, named and counted; what is none of these stays."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experts import corpora
from experts.corpus.measure import measure
from experts.corpus.reading import Entry
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import Document, read_json, write_jsonl

WORDS = [f"word{number}" for number in range(3000)]


def text_of(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def changed(text: str, count: int) -> str:
    """The text with so many words replaced, spread over it."""
    words = text.split()
    for number in range(count):
        words[(number + 1) * len(words) // (count + 1)] = f"other{number}"
    return " ".join(words)


def row(key: str, text: str, **more: str) -> dict[str, str]:
    return {"id": key, "title": "", "text": text, "source": "S", "license": "CC BY"} | more


def build(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, dict[str, Any]]:
    """Write the rows, run the command; all documents by id, dropped ones with their reason."""
    write_jsonl(folder / "in.jsonl", rows)
    made = corpora.main(load(corpora.Config, {"out": folder / "out", "corpus": str(folder / "in.jsonl"), **settings}))
    lines = [json.loads(line) for name in ("train", "heldout", "dropped") for line in (made / f"{name}.jsonl").open()]
    assert len(lines) == len(rows), "in = kept + dropped"
    summary = read_json(made / "corpus.json")
    assert sum(summary["dropped"].values()) == summary["documents"]["dropped"], "every reason is counted"
    return {line["id"]: line for line in lines}


PLAIN = [row(f"d{seed}", text_of(seed)) for seed in range(50)]


def test_near_copies_name_what_they_are_near_and_how_near(tmp_path: Path) -> None:
    """Two words of sixty changed: 3-word shingles shared 52 of 64; the later document goes. Ten changed: it stays."""
    near, far = changed(PLAIN[3]["text"], 2), changed(PLAIN[4]["text"], 10)
    rows = [*PLAIN, row("near", near), row("far", far)]
    found = build(tmp_path, rows, near_duplicates={"threshold": 0.8})
    dropped = {key: line for key, line in found.items() if "reason" in line}
    assert set(dropped) == {"near"}
    assert (dropped["near"]["reason"], dropped["near"]["of"]) == ("near duplicate of d3", "d3")
    assert dropped["near"]["similarity"] == pytest.approx(52 / 64, abs=1e-4)
    plain = build(tmp_path / "off", rows)
    assert not any("reason" in line for line in plain.values())


def test_what_is_out_already_drags_nothing_along(tmp_path: Path) -> None:
    """A near copy of a document that its licence took out stays: it repeats nothing that is kept."""
    rows = [row("first", PLAIN[0]["text"], license="CC BY-NC"), row("near", changed(PLAIN[0]["text"], 1)), *PLAIN[1:]]
    found = build(tmp_path, rows, near_duplicates={"threshold": 0.8}, licences={"deny": ["non-commercial"]})
    assert {key for key, line in found.items() if "reason" in line} == {"first"}


def test_a_copy_of_a_document_that_its_licence_took_out_stays(tmp_path: Path) -> None:
    """The same text under a licence that allows it is kept, and it is the first that is left out."""
    rows = [row("nc", PLAIN[0]["text"], license="CC BY-NC"), row("by", PLAIN[0]["text"]), *PLAIN[1:]]
    found = build(tmp_path, rows, licences={"deny": ["non-commercial"]})
    assert {key: line["reason"] for key, line in found.items() if "reason" in line} == {
        "nc": "licence CC BY-NC: non-commercial is denied"
    }


def test_signs_tell_texts_apart(tmp_path: Path) -> None:
    """HER2+ and HER2- are two findings; other case, blanks and commas are one."""
    rows = [
        row("plus", "The tumour of this patient is HER2+ throughout."),
        row("minus", "The tumour of this patient is HER2- throughout."),
        row("case", "the tumour, of this PATIENT is   HER2+ throughout"),
    ]
    found = build(tmp_path, rows)
    assert {key: line.get("reason") for key, line in found.items()} == {
        "plus": None, "minus": None, "case": "same text as plus"
    }  # fmt: skip


def test_an_id_is_taken_by_a_document_that_is_kept(tmp_path: Path) -> None:
    """Of three texts the second has the first's id and goes; the third has the second's text, and stays."""
    rows = [row("a", PLAIN[0]["text"]), row("a", PLAIN[1]["text"]), row("c", PLAIN[1]["text"])]
    write_jsonl(tmp_path / "in.jsonl", rows)
    made = corpora.main(load(corpora.Config, {"out": tmp_path / "out", "corpus": str(tmp_path / "in.jsonl")}))
    dropped = [json.loads(line) for line in (made / "dropped.jsonl").open()]
    assert [(one["id"], one["reason"]) for one in dropped] == [("a", "its id belongs to another text")]


def test_benchmark_texts_are_removed_by_name(tmp_path: Path) -> None:
    """A whole item inside a document, thirteen words of one, and a short one; twelve words of one are no evidence."""
    folder = tmp_path / "benchmarks"
    question, long, short = text_of(900, 30), text_of(901, 40), text_of(902, 9)
    write_jsonl(folder / "medqa.jsonl", [{"question": question}])
    write_jsonl(folder / "medec.jsonl", [{"text": long}, {"text": short}, {"text": "yes"}])
    thirteen, twelve = " ".join(long.split()[5:18]), " ".join(long.split()[5:17])
    rows = [
        *PLAIN,
        row("whole", f"{text_of(1)} {question.upper()} {text_of(2)}"),
        row("thirteen", f"{text_of(3)} {thirteen} {text_of(4)}"),
        row("twelve", f"{text_of(5)} {twelve} {text_of(6)}"),
        row("short", f"{text_of(7)} {short} {text_of(8)}"),
    ]
    found = build(tmp_path, rows, blocklists=[str(folder)])
    dropped = {key: (line["benchmark"], line["of"]) for key, line in found.items() if "reason" in line}
    assert dropped == {
        "whole": ("medqa", "medqa.jsonl:1:question"),
        "thirteen": ("medec", "medec.jsonl:1:text"),
        "short": ("medec", "medec.jsonl:2:text"),
    }
    assert found["whole"]["reason"] == "holds a text of the benchmark medqa"
    assert found["whole"]["similarity"] == 1.0
    summary = read_json(tmp_path / "out" / "corpus.json")
    assert summary["benchmarks"] == {"medec": 2, "medqa": 1}
    assert summary["unprotected_items"]["medec"] == 1
    assert "| medec | 2 |" in (tmp_path / "out" / "README.md").read_text()


def test_a_benchmark_text_goes_from_however_many_documents(tmp_path: Path) -> None:
    """An item that stands in a dozen documents is a leak in all of them; a corpus that is made of it is refused."""
    sentence = text_of(950, 15)
    write_jsonl(tmp_path / "bench.jsonl", [{"text": sentence}])
    rows = [row(f"t{seed}", f"{text_of(2000 + seed)} {sentence}") for seed in range(30)]
    found = build(tmp_path, [*PLAIN, *rows[:12]], blocklists=[str(tmp_path / "bench.jsonl")])
    assert {key for key, line in found.items() if "reason" in line} == {f"t{seed}" for seed in range(12)}
    with pytest.raises(UserError, match="30 of .* for bench:text.*most_dropped"):
        build(tmp_path / "many", [*PLAIN, *rows], blocklists=[str(tmp_path / "bench.jsonl")])


def documents(texts: list[str]) -> list[Entry]:
    return [Entry(Document(f"d{n}", "", text, "S", "CC BY"), done=n + 1) for n, text in enumerate(texts)]


def test_a_killed_pass_reads_on(tmp_path: Path) -> None:
    """Cut after 7 parts of 10 documents, the second try asks only for what is missing, and gives the same columns."""
    entries = documents([text_of(n, 20) for n in range(95)] + ["short"])
    given = {"out": tmp_path / "out", "corpus": "unused.jsonl", "near_duplicates": {"threshold": 0.8}}
    config = load(corpora.Config, given)
    skipped: list[int] = []

    def read(skip: int) -> Iterator[Entry]:
        skipped.append(skip)
        yield from entries[skip:]

    def cut(_skip: int) -> Iterator[Entry]:
        yield from entries[:75]
        raise KeyboardInterrupt

    whole = measure(read, config, tmp_path / "whole", None, 96, part_documents=10)
    with pytest.raises(KeyboardInterrupt):
        measure(cut, config, tmp_path / "cut", None, 96, part_documents=10)
    resumed = measure(read, config, tmp_path / "cut", None, 96, part_documents=10)
    assert skipped == [0, 70]
    assert len(resumed) == 96 and resumed.names == whole.names
    assert all((resumed.numbers[name] == whole.numbers[name]).all() for name in whole.numbers)
    assert whole.signatures is not None and resumed.signatures is not None
    assert (resumed.signatures == whole.signatures).all()
    assert resumed.names[resumed.numbers["reason"][-1]] == "fewer than 5 words"


def test_same_bytes_and_nothing_left_behind(tmp_path: Path) -> None:
    """Two runs write the same files, card included, and no scratch file stays."""
    rows = [*PLAIN, row("copy", PLAIN[3]["text"].upper()), row("near", changed(PLAIN[3]["text"], 2))]
    write_jsonl(tmp_path / "b.jsonl", [{"text": text_of(10, 30)}])
    for name in "ab":
        build(tmp_path / name / "c", rows, near_duplicates={"threshold": 0.8}, blocklists=[str(tmp_path / "b.jsonl")])
    files = sorted(path.name for path in (tmp_path / "a" / "c" / "out").iterdir())
    assert files == [".lock", "README.md", "corpus.json", "dropped.jsonl", "heldout.jsonl", "run.json", "train.jsonl"]
    for name in set(files) - {".lock", "run.json"}:
        assert (tmp_path / "a" / "c" / "out" / name).read_bytes() == (tmp_path / "b" / "c" / "out" / name).read_bytes()


def test_tokens_are_counted_by_a_tokenizer_of_choice(tmp_path: Path) -> None:
    """The embedded model's tokenizer: kept and dropped documents each have their tokens, more than words."""
    build(tmp_path, [*PLAIN, row("copy", PLAIN[3]["text"])], tokenizer="./experts/nano")
    summary = read_json(tmp_path / "out" / "corpus.json")
    assert all(summary["tokens"][name] > summary["words"][name] > 0 for name in ("train", "heldout", "dropped"))
    assert f"{summary['tokens']['train']:,}" in (tmp_path / "out" / "README.md").read_text()


def test_copies_of_a_leak_do_not_make_it_language(tmp_path: Path) -> None:
    """Of twelve copies of a document with an item eleven go as copies, and the first is one document with a leak."""
    item = text_of(960, 20)
    write_jsonl(tmp_path / "bench.jsonl", [{"text": item}])
    rows = [*PLAIN, *(row(f"c{n}", f"{PLAIN[0]['text']} {item}") for n in range(12))]
    found = build(tmp_path, rows, blocklists=[str(tmp_path / "bench.jsonl")])
    reasons = {key: line["reason"] for key, line in found.items() if "reason" in line}
    assert reasons == {"c0": "holds a text of the benchmark bench"} | {f"c{n}": "same text as c0" for n in range(1, 12)}
