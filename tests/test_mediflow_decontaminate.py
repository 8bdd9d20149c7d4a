"""Test items are found in training rows wherever they come from, and named; clean rows and standard phrases stay."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from medsmith.blocklists import Blocked, load_blocklists
from medsmith.decontaminate import Decontamination, find_contaminated
from medsmith.errors import UserError

WORDS = [f"word{number}" for number in range(2000)]
SETTINGS = Decontamination()


def text_of(seed: int, length: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def blocked_of(*texts: str) -> list[Blocked]:
    return [Blocked(f"set{number}", f"test.jsonl:{number}:text", text) for number, text in enumerate(texts)]


def test_a_whole_copy_is_found_and_clean_rows_are_kept() -> None:
    """Of 50 rows the one that holds a test text goes, by name and with similarity 1."""
    rows = [text_of(seed) for seed in range(50)]
    item = text_of(1000, 20)
    rows[7] = f"{text_of(2000)} {item.upper()}. {text_of(2001)}"
    found = find_contaminated(rows, blocked_of(text_of(3000), item), SETTINGS)
    assert list(found.hits) == [7]
    assert found.hits[7].blocked == 1
    assert found.hits[7].similarity == 1.0
    assert found.templates == {}


def test_thirteen_words_are_found_and_twelve_are_not() -> None:
    """The sequence rule begins exactly at its length; the share reported is that of the whole test text."""
    item = text_of(1, 60).split()
    rows = [" ".join([text_of(2), *item[20:33]]), " ".join([text_of(3), *item[20:32]])]
    found = find_contaminated(rows, blocked_of(" ".join(item)), SETTINGS)
    assert list(found.hits) == [0]
    assert found.hits[0].rule == "ngram"
    assert found.hits[0].similarity == pytest.approx(11 / 58)


def test_a_short_item_is_found_by_containment() -> None:
    """A nine-word question within a long row is found although it has no 13 words."""
    item = text_of(4, 9)
    found = find_contaminated([f"{text_of(5)} {item} {text_of(6)}", text_of(7)], blocked_of(item), SETTINGS)
    assert {number: (hit.rule, hit.similarity) for number, hit in found.hits.items()} == {0: ("containment", 1.0)}


def test_an_edited_item_is_found_by_containment_down_to_the_threshold() -> None:
    """A copy with every 12th word changed holds enough; at a stricter share it is let through."""
    words = text_of(8, 48).split()
    for place in (5, 17, 29, 41):
        words[place] = "changed"
    row = " ".join(words)
    share = 34 / 46
    for containment, expected in ((share, [0]), (share + 0.01, [])):
        settings = Decontamination(containment=containment)
        assert list(find_contaminated([row], blocked_of(text_of(8, 48)), settings).hits) == expected


def test_the_prefix_filter_loses_nothing() -> None:
    """Against a brute-force count over random rows and items, every hit and share agrees."""
    rng = random.Random(9)
    few = [f"w{number}" for number in range(25)]
    rows = [" ".join(rng.choices(few, k=60)) for _ in range(60)]
    items = [" ".join(row.split()[10:22]) for row in rows[:20]] + [" ".join(rng.choices(few, k=9)) for _ in range(40)]
    settings = Decontamination(containment=0.5, shingle_words=2, ngram_words=50, common_rows=1000)

    def pairs(text: str) -> set[tuple[str, str]]:
        words = text.split()
        return set(zip(words, words[1:], strict=False))

    expected = {}
    for number, row in enumerate(rows):
        share = max(len(pairs(item) & pairs(row)) / len(pairs(item)) for item in items)
        if share >= 0.5:
            expected[number] = pytest.approx(share)
    found = find_contaminated(rows, blocked_of(*items), settings)
    assert {number: hit.similarity for number, hit in found.hits.items()} == expected
    assert len(expected) >= 20


def test_standard_phrases_are_ignored_and_counted() -> None:
    """A text that more rows hold than `common_rows` is template language; one row fewer and it is a leak."""
    phrase = text_of(10, 15)
    rows = [f"{text_of(100 + number)} {phrase}" for number in range(5)]
    few = Decontamination(common_rows=4)
    found = find_contaminated(rows, blocked_of(phrase), few)
    assert found.hits == {}
    assert found.templates == {"set0": 1}
    assert len(find_contaminated(rows, blocked_of(phrase), Decontamination(common_rows=5)).hits) == 5


def test_nothing_to_compare_is_no_hit() -> None:
    """No rows or no blocklist give no hits and no error."""
    assert find_contaminated([], blocked_of(text_of(1)), SETTINGS).hits == {}
    assert find_contaminated([text_of(1)], [], SETTINGS).hits == {}


def write_benchmarks(folder: Path) -> dict[str, str]:
    """One benchmark in every published format; returns the text that each hides in its second row."""
    import openpyxl
    import polars

    texts = {
        name: text_of(500 + number, 12) for number, name in enumerate(("nli", "notes", "meq", "qa", "table", "tab"))
    }
    (folder / "nli").mkdir(parents=True)
    rows = [{"id": 1, "sentence1": "short"}, {"id": 2, "sentence1": texts["nli"]}]
    (folder / "nli" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "notes").mkdir()
    (folder / "notes" / "test.csv").write_bytes(
        ('\ufeffid,note\n1,short\n2,"a ""quoted""\n' + texts["notes"] + '"\n').encode() + b"3,stray \xe9 byte\n"
    )
    (folder / "meq").mkdir()
    book = openpyxl.Workbook()
    for values in (("File", "CHQ"), ("1.txt", None), ("2.txt", texts["meq"])):
        book.active.append(values)
    book.save(folder / "meq" / "MeQSum.xlsx")
    (folder / "qa").mkdir()
    qa = {"11": {"QUESTION": "short?", "CONTEXTS": []}, "12": {"QUESTION": "x", "CONTEXTS": ["no", texts["qa"]]}}
    (folder / "qa" / "ori_pqal.json").write_text(json.dumps(qa))
    (folder / "table").mkdir()
    polars.DataFrame({"question": ["short", texts["table"]]}).write_parquet(folder / "table" / "test.parquet")
    (folder / "tab").mkdir()
    (folder / "tab" / "dev.tsv").write_text(f"note\nshort\n{texts['tab']}\n")
    return texts


def test_every_published_format_is_read_and_named_by_folder(tmp_path: Path) -> None:
    """Each format gives its one long text with benchmark, file, row and column; short ones are counted."""
    texts = write_benchmarks(tmp_path / "benchmarks")
    (tmp_path / "benchmarks" / "run.json").write_text('{"command": "' + text_of(1) + '"}')
    found = load_blocklists([tmp_path / "benchmarks"], min_words=8)
    assert {(one.benchmark, one.place) for one in found.texts} == {
        ("nli", "nli/test.jsonl:2:sentence1"),
        ("notes", "notes/test.csv:2:note"),
        ("meq", "meq/MeQSum.xlsx:2:CHQ"),
        ("qa", "qa/ori_pqal.json:2:CONTEXTS"),
        ("table", "table/test.parquet:2:question"),
        ("tab", "tab/dev.tsv:2:note"),
    }
    assert all(texts[one.benchmark] in one.text for one in found.texts)
    assert found.unprotected == {"meq": 1, "nli": 1, "notes": 2, "qa": 1, "tab": 1, "table": 1}


def test_every_text_under_one_name_is_blocked(tmp_path: Path) -> None:
    """Contexts of an article are a list, SQuAD's are nested below `data`: none hides another."""
    texts = [text_of(700 + number, 12) for number in range(6)]
    (tmp_path / "ori_pqal.json").write_text(json.dumps({"11": {"CONTEXTS": texts[:2]}}))
    pairs = (texts[2:4], texts[4:])
    reports = [{"title": "r", "paragraphs": [{"context": text, "qas": []} for text in pair]} for pair in pairs]
    (tmp_path / "test.json").write_text(json.dumps({"version": "2", "data": reports}))
    found = load_blocklists([tmp_path], min_words=8)

    assert [one.text for one in found.texts] == texts
    assert [one.place for one in found.texts[2:]] == [f"test.json:{row}:paragraphs.context" for row in (1, 1, 2, 2)]


def test_short_parts_of_an_item_are_looked_for_together(tmp_path: Path) -> None:
    """A premise and a hypothesis of seven words each are one text of fourteen, without id and label."""
    row = {"pairID": "p1", "gold_label": "entailment", "sentence1": text_of(1, 7), "sentence2": text_of(2, 7)}
    (tmp_path / "mli_test_v1.jsonl").write_text(json.dumps(row) + "\n")
    found = load_blocklists([tmp_path / "mli_test_v1.jsonl"], min_words=12)
    assert [(one.benchmark, one.place) for one in found.texts] == [("mli_test_v1", "mli_test_v1.jsonl:1:*")]
    assert found.texts[0].text == f"{text_of(1, 7)}\n{text_of(2, 7)}"
    # The two shingles that span the seam are cut by the row's own label: 10 of 12.
    hits = find_contaminated([f"SENTENCE_1: {text_of(1, 7)} SENTENCE_2: {text_of(2, 7)}"], found.texts, SETTINGS).hits
    assert hits[0].similarity == pytest.approx(10 / 12)
    assert find_contaminated([f"SENTENCE_1: {text_of(1, 7)}"], found.texts, SETTINGS).hits == {}


def test_a_silent_or_broken_blocklist_is_refused(tmp_path: Path) -> None:
    """Missing, short or torn is an error with the file's name, never a blocklist that blocks nothing."""
    (tmp_path / "short.jsonl").write_text('{"a": "two words"}\n')
    (tmp_path / "torn.json").write_text('{"a": ')
    (tmp_path / "torn.xlsx").write_text("no workbook")
    for name, message in (
        ("absent.csv", "no such blocklist"),
        ("short.jsonl", "no new text of 8 words"),
        ("torn.json", "cannot be read"),
        ("torn.xlsx", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_blocklists([tmp_path / name], min_words=8)
        assert name in str(caught.value)
