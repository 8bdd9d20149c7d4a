"""Test items are found in training rows wherever they come from, and named; clean rows and standard phrases stay."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsmith.blocklists import Blocked, load_blocklists
from medsmith.decontaminate import Decontamination, find_contaminated, refuse_losses
from medsmith.errors import UserError
from medsmith.records import write_jsonl

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
        rules = Decontamination(containment=containment)
        assert list(find_contaminated([row], blocked_of(text_of(8, 48)), rules).hits) == expected


def test_the_prefix_filter_loses_nothing() -> None:
    """Against a brute-force count over all windows of random rows and items, every hit and share agrees."""
    rng = random.Random(9)
    few = [f"w{number}" for number in range(25)]
    rows = [" ".join(rng.choices(few, k=60)) for _ in range(60)]
    items = [" ".join(row.split()[10:32]) for row in rows[:20]] + [" ".join(rng.choices(few, k=19)) for _ in range(40)]
    rules = Decontamination(containment=0.4, shingle_words=2, ngram_words=9, ngram_share=1)

    def pairs(words: list[str]) -> list[tuple[str, str]]:
        return list(zip(words, words[1:], strict=False))

    def share(item: list[str], row: list[str]) -> float:
        wanted, held = pairs(item), pairs(row)
        width = -(-5 * len(wanted) // 4)
        windows = (set(held[first : first + width]) for first in range(len(held)))
        return max(len(set(wanted) & window) for window in windows) / len(set(wanted))

    expected = {}
    for number, row in enumerate(rows):
        most = max(share(item.split(), row.split()) for item in items)
        if most >= 0.4:
            expected[number] = pytest.approx(most)
    found = find_contaminated(rows, blocked_of(*items), rules)
    assert {number: hit.similarity for number, hit in found.hits.items()} == expected
    assert len(expected) >= 20


@pytest.mark.parametrize("count", [1, 10, 11, 500])
def test_a_leaked_item_goes_however_many_rows_hold_it(count: int) -> None:
    """Whole or in part, by containment or by a sequence: no number of rows makes a leak a template."""
    item, long = text_of(10, 20), text_of(11, 400)
    rows = [f"{text_of(100 + number)} {item}" for number in range(count)]
    rows += [f"{text_of(900 + number)} {' '.join(long.split()[60:100])}" for number in range(count)]
    found = find_contaminated([*rows, text_of(1)], blocked_of(item, long), SETTINGS)
    assert list(found.hits) == list(range(2 * count)) and found.templates == {}
    assert [hit.blocked for hit in found.hits.values()] == [0] * count + [1] * count


def test_language_that_independent_benchmarks_share_is_a_template_and_an_item_published_again_is_not() -> None:
    """A phrase in items of three benchmarks flags nobody and is counted; of two, or one item thrice, it does."""
    phrase, item = text_of(10, 15), text_of(11, 60)
    rows = [f"{text_of(12)} {phrase} {text_of(13)}", f"{text_of(14)} {item}", text_of(15)]
    shared = [f"{text_of(20 + number, 60)} {phrase}" for number in range(3)]
    for count, hits, templates in ((2, [0], {}), (3, [], {"set0": 1, "set1": 1, "set2": 1})):
        found = find_contaminated(rows, blocked_of(*shared[:count]), SETTINGS)
        assert (list(found.hits), found.templates) == (hits, templates)
    again = [item, f"{item} {text_of(30, 9)}", f"{text_of(31, 20)} {item}"]
    assert list(find_contaminated(rows, blocked_of(*again), SETTINGS).hits) == [1]
    named = Decontamination(templates=[phrase])
    assert find_contaminated(rows, blocked_of(shared[0]), named) == ({}, {"set0": 1})


@given(
    every=st.integers(9, 40),
    length=st.integers(30, 120),
    before=st.integers(0, 400),
    after=st.integers(0, 400),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_an_edited_item_inside_a_longer_text_is_seen(
    every: int, length: int, before: int, after: int, seed: int
) -> None:
    """Every ninth word or fewer changed, others around it: seen; the item's words in another order are not."""
    words = text_of(seed, length).split()
    edited = [f"other{place}" if place % every == every // 2 else word for place, word in enumerate(words)]
    shuffled = random.Random(seed).sample(words, length)
    around = text_of(seed + 1, before), text_of(seed + 2, after)
    rows = [f"{around[0]} {' '.join(middle)} {around[1]}" for middle in (edited, shuffled)]
    assert list(find_contaminated(rows, blocked_of(" ".join(words)), SETTINGS).hits) == [0]


def test_a_step_that_loses_much_to_a_blocklist_stops() -> None:
    """Over a twentieth, and over 20 rows: one line with the field that takes most, and the remedy."""
    blocked = [Blocked("codes", f"test.jsonl:{number}:option1", text_of(number)) for number in range(30)]
    for hits, rows in ((30, 601), (20, 20), (0, 5)):
        refuse_losses(range(hits), rows, blocked, SETTINGS)
    with pytest.raises(UserError, match=r"30 of 599 rows \(5%; most, 30, for codes:option1\).*\.leave_out"):
        refuse_losses(range(30), 599, blocked, SETTINGS)
    refuse_losses(range(30), 40, blocked, Decontamination(most_dropped=1))


def test_fields_are_left_out_and_texts_cut_by_benchmark(tmp_path: Path) -> None:
    """For a corpus of codes the question blocks, its options do not, beside it or in it; another benchmark's do."""
    question, option = text_of(1, 12), text_of(2, 12)
    row = {"question": f"{question} A. {option} B. {text_of(3, 12)}", "option1": option}
    for name in ("icd10cm", "medqa"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "test.jsonl", [row])
    own = Decontamination(leave_out=["icd10cm:option*"], cut_at=r"\s+A\. ").load([tmp_path])
    assert [(one.benchmark, one.text) for one in own.texts] == [
        ("icd10cm", question), ("medqa", question), ("medqa", option),
    ]  # fmt: skip


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
        ("torn.json", "not valid JSON"),
        ("torn.xlsx", "no .xlsx file"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_blocklists([tmp_path / name], min_words=8)
        assert name in str(caught.value)
