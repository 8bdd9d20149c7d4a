"""What the neighbours' benchmarks read and refuse, and how they read an answer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.asking import sample_of
from eval.benchmark import Item, Repaired, ask, load_benchmark
from eval.benchmarks import clip, medqa, ner, radqa, triage
from eval.metrics import f1_macro, f1_micro
from eval.parsing import parse_letter
from eval.results import item_score
from medsmith.errors import UserError
from medsmith.records import write_jsonl
from tests import case_clip, case_medqa, case_ner, case_radqa, case_triage

APPOINTMENT, LAB, MEDICATION = case_clip.APPOINTMENT, case_clip.LAB, case_clip.MEDICATION
NOTHING = Item("1", "1", ask("", ""), "none", truth=[])


def earned(name: str, item: Item, output: str, metric: str) -> float:
    return item_score(sample_of(name, load_benchmark(name), item, "", output), metric)


# RadQA


@pytest.mark.parametrize(
    ("golds", "output", "score"),
    [([], "N/A", 1.0), ([], "small effusion", 0.0), (["small left effusion"], "N/A", 0.0),
     (["small left effusion"], "A small effusion.", 0.8)],
)  # fmt: skip
def test_four_cases_of_an_answer(golds: list[str], output: str, score: float) -> None:
    """None where there is none, some where there is none, none where there is some, and two words of three."""
    item = Item("1", "1", ask("", ""), golds[0] if golds else "N/A", truth=golds)

    assert earned("radqa", item, output, "squad2_f1") == pytest.approx(score)
    assert earned("radqa", item, output, "squad2_em") == float(score == 1.0)


@pytest.mark.parametrize(
    ("output", "answer"),
    [("N/A", ""), (" n/a.", ""), ("Answer: N/A", ""), ("**NA**", ""), ("There is no answer.", ""), ("unanswerable", ""),
     ("", None), ("Answer:", None), ("nausea", "nausea"), ("no answering service", "no answering service"),
     ("Not in the report: N/A", "Not in the report: N/A")],
)  # fmt: skip
def test_no_answer_is_said(output: str, answer: str | None) -> None:
    """N/A alone, in its forms, says that there is no answer; an empty output does not; other words are an answer."""
    assert radqa.parse(output, NOTHING) == answer


def test_an_answer_from_outside_the_report_is_not_blanked(tmp_path: Path) -> None:
    """It earns the words that it shares, and where there is no answer it is wrong: the published trick is not done."""
    case_radqa.write(tmp_path)
    answerable, impossible, _ = radqa.load(tmp_path, "test").items

    assert "effusion, small" not in answerable.messages[-1]["content"]
    assert earned("radqa", answerable, "effusion, small", "squad2_f1") == pytest.approx(0.8)
    assert earned("radqa", impossible, "effusion, small", "squad2_f1") == 0.0


def test_both_parts_of_a_report_are_one_group(tmp_path: Path) -> None:
    """Where one entry holds all, document ids without their part's letter name the reports; ids of questions repeat."""
    parts = [("5_O", "Clear."), ("5_I", "Normal."), ("6_O", "Clear.")]
    asked = {"id": "1", "question": "Lungs?", "answers": [], "is_impossible": False}
    paragraphs = [{"document_id": name, "context": text, "qas": [asked]} for name, text in parts]
    (tmp_path / "test.json").write_text(json.dumps({"data": [{"title": "all", "paragraphs": paragraphs}]}))
    items, _, notes = radqa.load(tmp_path, "test")

    assert [item.group for item in items] == ["5", "5", "6"]
    assert [item.id for item in items] == ["5_O/1", "5_I/1", "6_O/1"]
    assert (notes["unanswerable"], notes["is_impossible_contradicts_answers"]) == (3, 3)


# CLIP


@pytest.mark.parametrize(
    ("output", "labels"),
    [(f"{LAB}, {APPOINTMENT}", [APPOINTMENT, LAB]), (json.dumps([APPOINTMENT, LAB]), [APPOINTMENT, LAB]),
     ("- Lab-related follow-ups\n- lab-related followup", [LAB]), ("medication-related followup", [MEDICATION]),
     ("Case-specific instructions for the patient; Other helpful contextual information for the patient",
      ["Case-specific instructions for patient", "Other helpful contextual information"]),
     (json.dumps({APPOINTMENT: False, LAB: True}), [LAB]), (f"{APPOINTMENT}: no\n{LAB}: no", []),
     ("none", []), ("None of the above.", []), ("[]", []), ("N/A", []), ("", None), ("It is about labs.", None),
     ("This is not a lab-related followup.", None), (f"{APPOINTMENT}, but no {LAB}", None)],
)  # fmt: skip
def test_labels_are_read_in_their_forms(output: str, labels: list[str] | None) -> None:
    """Singular and plural, any case, order and separator; a label that is denied, or none named, is unreadable."""
    assert clip.parse(output, NOTHING) == labels


def test_two_labels_in_one_text_are_two_hits() -> None:
    """Gold "A, C" and answer "A, C": two true positives of two (a published scorer counts none)."""
    item = Item("1", "1", ask("", ""), f"{APPOINTMENT}, {LAB}", truth=[APPOINTMENT, LAB])

    assert clip.count(clip.parse(item.gold, item), item)["f1_micro"] == [2, 2, 2]
    assert clip.count(None, item)["f1_micro"] == [0, 0, 2]
    assert clip.count([MEDICATION], item)["f1_micro"] == [0, 1, 2]


def test_macro_f1_is_the_mean_of_the_labels_f1s() -> None:
    """One label found exactly, one with half the precision: 0.833, where F1 of mean precision and recall is 0.857."""
    said = [[APPOINTMENT], [APPOINTMENT], [LAB], [LAB]]
    true = [[APPOINTMENT], [APPOINTMENT], [LAB], []]
    items = [Item("1", "1", ask("", ""), "", truth=labels) for labels in true]
    sums = np.sum([clip.count(a, item)["f1_macro"] for a, item in zip(said, items, strict=True)], axis=0)

    assert f1_macro(sums) == pytest.approx((1 + 2 / 3) / 2)
    precision, recall = np.mean([1, 1 / 2]), 1.0
    assert 2 * precision * recall / (precision + recall) == pytest.approx(6 / 7)


def test_a_sentence_that_asks_for_nothing_is_right_when_nothing_is_named() -> None:
    """By itself: 1 for none, 0 for a label, 0 unreadable; in the pooled counts it adds a false positive or nothing."""
    assert [earned("clip", NOTHING, output, "f1_macro") for output in ("none", LAB, "?")] == [1.0, 0.0, 0.0]
    assert [clip.count(answer, NOTHING)["f1_micro"] for answer in ([], [LAB], None)] == [
        [0, 0, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_examples_are_of_other_documents(tmp_path: Path) -> None:
    """They come from the documents of the training ids; from a single file none may be taken."""
    case_clip.write(tmp_path)

    assert [item.group for item in clip.load(tmp_path, "shots").items] == ["8"]
    assert len(clip.load(tmp_path / "sentence_level.csv", "test").items) == 4
    with pytest.raises(UserError, match="would be test items"):
        clip.load(tmp_path / "sentence_level.csv", "shots")


def test_context_is_words_around_the_sentence(tmp_path: Path) -> None:
    """At most 64 words before and after, of the same document."""
    rows = [("1", n, " ".join([f"w{n}"] * 50), "[]") for n in range(5)] + [("2", 0, "other", "[]")]
    with (tmp_path / "sentence_level.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([case_clip.COLUMNS, *rows])
    context, sentence = clip.load(tmp_path / "sentence_level.csv", "test").items[2].messages[-1]["content"].split("\n")

    assert sentence == "SENTENCE: " + " ".join(["w2"] * 50)
    assert [context.split().count(f"w{n}") for n in range(5)] == [14, 50, 50, 50, 14]


@pytest.mark.parametrize(
    ("labels", "ids", "match"),
    [("['I-Lab']", "1", "has the label 'Lab', not one of Appointment"), ("['I-", "1", "cannot read the list"),
     ("[]", "2", "no document 2, which test_ids.csv names")],
)  # fmt: skip
def test_files_that_do_not_fit_are_named(labels: str, ids: str, match: str, tmp_path: Path) -> None:
    """An unknown label, a broken list, ids of another release."""
    with (tmp_path / "sentence_level.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([case_clip.COLUMNS, ("1", 0, "a", labels)])
    (tmp_path / "test_ids.csv").write_text(ids)
    with pytest.raises(UserError, match=match):
        clip.load(tmp_path, "test")


# MedQA


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"options": dict(zip("ABCDE", "abcde", strict=True))}, "row 2 has the options A, B, C, D, E; give the"),
     ({"options": [*"abcde"]}, "row 2 has the options A, B, C, D, E"), ({"answer_idx": "E"}, "answer 'E'"),
     ({"answer_idx": 4}, "answer '4', which is none of A"), ({"answer": "sepsis"}, "the answer is not option A"),
     ({"options": {"A": "a", "B": " ", "C": "c", "D": "d"}}, "an empty option")],
)  # fmt: skip
def test_five_options_and_broken_keys_are_refused(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    """Also among rows with four; an answer that is no option, or not the text of its letter."""
    row = {"question": "Which?", "options": {"A": "gout", "B": "asthma", "C": "anemia", "D": "flu"}, "answer_idx": "A"}
    write_jsonl(tmp_path / "test.jsonl", [row, row | changes])
    with pytest.raises(UserError, match=match):
        medqa.load(tmp_path, "test")


def test_the_balance_of_letters_is_noted(tmp_path: Path) -> None:
    """How often each letter is right, of what is asked; slices are the steps; examples are of the training file."""
    case_medqa.write(tmp_path)
    items, _, notes = medqa.load(tmp_path, "test")

    assert notes["right_letters"] == {"A": 1, "B": 1, "D": 1}
    assert [item.slice for item in items] == ["step1", "step2&3", "step1"]
    assert len(medqa.load(tmp_path, "shots").items) == 1


def test_another_order_changes_letters_and_nothing_else(tmp_path: Path) -> None:
    """The same questions, options and golds; a model that always says A earns the share of A in either order."""
    row = {"question": "Which?", "options": {"A": "gout", "B": "asthma", "C": "anemia", "D": "flu"}, "answer_idx": "A"}
    write_jsonl(tmp_path / "test.jsonl", [row] * 400)
    items, _, notes = medqa.load(tmp_path, "test")
    other, _, shuffled = load_benchmark("medqa_shuffled").load(tmp_path, "test")

    assert notes["right_letters"] == {"A": 400}
    assert shuffled["right_letters"].keys() == {"A", "B", "C", "D"}
    assert all(abs(count - 100) < 4 * (400 * 3 / 16) ** 0.5 for count in shuffled["right_letters"].values())
    assert [(a.id, a.messages, a.gold, sorted(a.options)) for a in items] \
        == [(b.id, b.messages, b.gold, sorted(b.options)) for b in other]  # fmt: skip
    assert load_benchmark("medqa_shuffled").load(tmp_path, "test").items == other


@pytest.mark.parametrize(
    ("output", "letter"), [("(B)", "B"), ("B.", "B"), ("The answer is B", "B"), ("A or B", None), ("A patient", None)]
)
def test_a_written_letter(output: str, letter: str | None) -> None:
    """One letter, however it is written; two letters and the article are none."""
    assert parse_letter(output, medqa.LETTERS) == letter


# Entities


def test_an_entity_that_begins_with_i_is_none(tmp_path: Path) -> None:
    """The lenient reading of B O I finds two entities and gives 1.00 for both; strict IOB2 finds one, 2/3."""
    (tmp_path / "test.tsv").write_text("Gout\tB-Disease\n,\tO\nasthma\tI-Disease\n")
    items, _, notes = ner.load(tmp_path, "test")
    lenient = [["Gout", "Disease"], ["asthma", "Disease"]]

    assert items[0].truth == [("Gout", "Disease")]
    assert notes["tags_that_continue_nothing"] == 1
    counts = ner.count(lenient, items[0])["ner_f1_strict"]  # type: ignore[arg-type]
    assert f1_micro(np.array(counts)) == pytest.approx(2 / 3)


ITEM = Item("1", "1", ask("", "TYPES: Disease, Drug\nTEXT: x"), "[]", truth=[])
PAIR = ("aspirin", "Drug")


@pytest.mark.parametrize(
    ("output", "answer"),
    [('[{"text": "aspirin", "type": "Drug"}]', [PAIR]),
     ('Here:\n```json\n[{"text": "aspirin", "type": "Drug"}]\n```', [PAIR]),
     ('{"text": "aspirin", "type": "Drug"}', [PAIR]), ('{"Drug": ["aspirin"], "Disease": []}', [PAIR]),
     ("Entities:\n- Drug: aspirin.", [PAIR]), ("**Drug**: aspirin; gout", [PAIR, ("gout", "Drug")]), ("[]", []),
     ("None.", []), ("Drug: none", []), ("", None), ('["aspirin"]', None), ('[{"text": 3, "type": "Drug"}]', None),
     ("Drug: aspirin\nI hope that helps.", None), ("Symptom: pain", None), ("aspirin is a drug", None)],
)  # fmt: skip
def test_entities_are_read(output: str, answer: Any) -> None:
    """JSON as asked for, by type, or lines that begin with a type; anything else is unreadable."""
    found = ner.parse(output, ITEM)

    assert (found if found is None else [tuple(pair) for pair in found]) == answer


def test_mended_json_is_said_to_be_so() -> None:
    """A missing bracket is repaired, and counted as that."""
    assert ner.parse('[{"text": "aspirin", "type": "Drug"}', ITEM) == Repaired([PAIR])


def test_mentions_are_counted_each_and_spaces_do_not_count() -> None:
    """Two mentions said once: one hit of one and two. Cut tokens are one word; another type or case is another pair."""
    item = Item("1", "1", ask("", ""), "", truth=[PAIR, PAIR, ("alpha - synuclein", "Gene")])

    assert ner.count([PAIR], item) == {"ner_f1_strict": [1, 1, 3]}
    assert ner.count([PAIR] * 3, item) == {"ner_f1_strict": [2, 3, 3]}
    assert ner.count([("alpha-synuclein", "gene")], item) == {"ner_f1_strict": [1, 1, 3]}
    assert ner.count([("aspirin", "Disease"), ("Aspirin", "Drug")], item) == {"ner_f1_strict": [0, 2, 3]}


@pytest.mark.parametrize(
    ("text", "match"),
    [("gout\tI-Disease\n", "convert it to IOB2"), ("gout\tS-Disease\n", "tags like S"), ("gout\n", "line 1: 'gout'"),
     ("\n", "holds no item")],
)  # fmt: skip
def test_other_schemes_are_refused(text: str, match: str, tmp_path: Path) -> None:
    """IOB1 without any B-, tags of single entities, a line without a tag, nothing."""
    (tmp_path / "test.tsv").write_text(text)
    with pytest.raises(UserError, match=match):
        ner.load(tmp_path, "test")


def test_rows_of_tokens_are_the_same_as_columns(tmp_path: Path) -> None:
    """JSON Lines with documents give the items of the columns; tags by number are refused."""
    case_ner.write(tmp_path)
    columns = ner.load(tmp_path / "test.tsv", "test")
    blocks = [[line.split("\t") for line in block.split("\n")] for block in case_ner.TEXT.strip().split("\n\n")]
    kept = [block for block in blocks if block[0][0] != "-DOCSTART-"]
    rows = [{"id": f"{n:05d}", "doc_id": f"document {1 + (n > 2)}", "tokens": [c[0] for c in block],
             "tags": [c[1] for c in block]} for n, block in enumerate(kept, 1)]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_jsonl(tmp_path / "numbers.jsonl", [{"tokens": ["a"], "tags": [1]}])

    assert ner.load(tmp_path / "rows.jsonl", "test").items == columns.items
    assert columns.notes["entities"] == 4
    with pytest.raises(UserError, match=r"each by name \(B-Disease\)"):
        ner.load(tmp_path / "numbers.jsonl", "test")


# Triage


@pytest.mark.parametrize(
    ("output", "level"),
    [("3", 3), ("ESI 3", 3), ("**ESI Level: 2**", 2), ("Level 2 (high risk)", 2), ("The answer is 4.", 4),
     ("2: pulse of 120, pain 8", 2), ("ESI 2, as ESI 2 is high risk", 2), ("The acuity is 1", 1),
     ("Resources: no\nESI 4", 4), ("", None), ("6", None), ("ESI 0", None), ("2 or 3", None), ("ESI 2-3", None),
     ("ESI 2 rather than ESI 3", None),
     ("not ESI 1", None), ("3.5", None), ("1 mg of aspirin", None), ("12", None), ("4/5", None), ("pulse 3", None)],
)  # fmt: skip
def test_one_level_is_read(output: str, level: int | None) -> None:
    """A level alone or named as such; two, a denied one, and figures of other things are none."""
    assert triage.parse(output, NOTHING) == level


def test_what_is_known_later_is_not_shown(tmp_path: Path) -> None:
    """Neither transfers nor the level itself are in the question."""
    case_triage.write(tmp_path)
    asked = triage.load(tmp_path, "test").items[0].messages[-1]["content"]

    assert "icu" not in asked.lower()
    assert "RETAIN" not in asked
    assert asked.endswith("VITAL SIGNS: heart rate 120, oxygen saturation 93")


def test_a_level_that_is_none_is_an_error(tmp_path: Path) -> None:
    """An acuity of 6 names file, row and the levels there are."""
    (tmp_path / "a.csv").write_text("acuity,chiefcomplaint\n6,cough\n")
    with pytest.raises(UserError, match="row 1 has the acuity '6', not one of 1 to 5"):
        triage.load(tmp_path / "a.csv", "test")
