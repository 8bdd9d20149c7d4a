"""What is wrong in published evaluators and data sets, and the test that keeps it out of ours.

The list below is the source of docs/published_defects.md; `python tests/test_eval_published_defects.py` writes that.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "published_defects.md"
NOT_ALWAYS_RUN = re.compile(r"mark\.(?:skip|skipif|xfail|slow|gpu|network)\b")


class Defect(NamedTuple):
    """One defect. `guard` is module::test, both without their common beginnings (tests/test_eval_, test_)."""

    id: str
    where: str
    wrong: str
    guard: str
    case: str = ""
    """What the guard must try: a part of its source."""


SOURCES = {
    "CLUE": "github.com/TIO-IKIM/CLUE, commit 2de4314",
    "MedHELM": "github.com/stanford-crfm/helm",
    "clinical_llm": "in-context baselines of Lehman et al. 2023, arXiv 2302.08091",
    "CLIP": "github.com/asappresearch/clip",
    "BHC": "github.com/StanfordMIMI/clin-bhc-summ",
    "SDoH": "github.com/AIM-Harvard/SDoH",
    "MedicationQA": "github.com/abachaa/Medication_QA_MedInfo2019",
    "MEDEC": "github.com/abachaa/MEDEC",
}
CLUE, HELM, LEHMAN = "CLUE", "MedHELM", "clinical_llm"

DEFECTS = (
    Defect("every-label", CLUE, "MedNLI: an answer that names all three labels is right for every gold: only the gold "
           "label is looked for",
           "parsing::label_is_named_once_and_not_denied", "ENTAILMENT, NEUTRAL or CONTRADICTION"),
    Defect("denied-label", CLUE, 'MedNLI: "This is not an entailment." is right for entailment',
           "parsing::label_is_named_once_and_not_denied", "This is not an entailment."),
    Defect("repeated-label", CLUE, "MedNLI: a right answer that says its label twice scores 0",
           "parsing::label_is_named_once_and_not_denied", "Answer: Entailment. So the relation is entailment."),
    Defect("first-item-twice", CLUE, "MedNLI, MeDiSumCode: the running mean holds the first item twice: 1, 0, 0 gives "
           "0.5 in place of 0.333", "clue::the_first_score_counts_twice"),
    Defect("shots-from-the-test-set", CLUE, "all tasks: solved examples are taken from the test file and left out of "
           "the score", "benchmarks::shots_come_from_another_split"),
    Defect("sampling", CLUE, "all tasks: no temperature is given, so the library's default samples, without a seed",
           "engines::a_models_own_sampling_settings_do_not_count"),
    Defect("two-decimals", CLUE, "text tasks: each metric is written with two decimals, a step of one point, before "
           "the metrics are averaged", "protocols::examples"),
    Defect("rouge-2-of-one-word", CLUE, "PLS, MeDiSumQA: a gold of one word has no pair of words, and a right answer "
           "earns ROUGE-2 0", "clue::a_gold_of_one_word_counts_zero_on_rouge_2"),
    Defect("trailing-semicolon", CLUE, "PLS: the statement that should take the last semicolon from the gold has no "
           "effect", "clue::semicolons_become_commas"),
    Defect("one-fixed-sentence", CLUE, 'LongHealth: only "The correct answer is B:" is read; "is: B", "(B):", "**B**:" '
           'and "the" are not', "parsing::a_letter_is_read_in_every_dress", "the correct answer is B: text"),
    Defect("gold-by-substring", CLUE, "LongHealth: the right option is the first that contains the gold's text: "
           '"Acute" is found in "Acute bronchitis"', "published_traps::the_right_answer_is_a_whole_option"),
    Defect("codes-with-letters", CLUE, "MeDiSumCode: the pattern finds none of C7A.00, C4A.9, Z3A.20, M1A.00X0, U07.1",
           "parsing::codes_are_told_from_what_looks_like_them", "C7A.00, C4A.9, Z3A.20, M1A.00X0, U07.1"),
    Defect("b12-is-a-code", CLUE, 'MeDiSumCode: the pattern takes "B12 deficiency" for the code B12',
           "parsing::codes_are_told_from_what_looks_like_them", "B12 deficiency"),
    Defect("repeated-code", CLUE, "MeDiSumCode: I10 said three times and one wrong code have the precision 0.75",
           "scorers::a_repeated_code_counts_once", "'I10', 'I10', 'I10', 'E11'"),
    Defect("keys-of-its-own-output", CLUE, "MeDiSumQA: the evaluator reads other keys, and another kind of file, than "
           "the generator writes", "benchmarks::published_format"),
    Defect("sentence-id-and-text", HELM, 'MEDEC: the gold id is int("7 Patient is …"), which fails and becomes -1: no '
           "text with an error can be scored right", "parsing::sentence_number", "7 Patient is given metformin."),
    Defect("default-score", HELM, "open answers: where no judge replies, the score is silently 1.0",
           "concepts::what_was_not_computed_is_not_zero"),
    Defect("rows-by-readme", "MedicationQA", "the README says 674 pairs, the sheet "
           "has 690 rows", "published_traps::rows_of_medication_qa_are_counted_as_they_are"),
    Defect("verdict-by-substring", "MedARC's evaluation of MEDEC", 'a judge passes where "EQUIVALENT" is in its reply: '
           "NOT_EQUIVALENT passes too", "parsing::a_label_inside_another_is_not_named", "NOT_EQUIVALENT"),
    Defect("cut-off-label", "SDoH", 'a label that was cut off ("REL") is mapped to the full one',
           "parsing::a_part_of_a_label_is_none", "REL"),
    Defect("no-third-answer", "MedConceptsQA's generator", "the letters' table has the key 4 twice "
           "and no 3: no question whose right answer is the third was written",
           "published_traps::places_of_right_answers_and_questions_numbered_alike"),
    Defect("ids-used-twice", "MedConceptsQA's files", "two levels number their questions alike",
           "published_traps::places_of_right_answers_and_questions_numbered_alike"),
    Defect("blank-rows", "MEDEC", "925 rows, of which 328 are blank places for texts that are "
           "given on request", "published_traps::blank_rows_of_medec_are_counted"),
    Defect("joined-labels", LEHMAN, "CLIP: an answer of several labels is compared as one string, and scored as empty",
           "neighbours_formats::two_labels_in_one_text_are_two_hits"),
    Defect("macro-of-means", "CLIP", "macro F1 is the F1 of mean precision and mean recall, 0.857 "
           "where the mean of the labels' F1s is 0.833", "scorers::macro_f1_is_the_mean_of_f1s"),
    Defect("answers-blanked", LEHMAN, "RadQA: a second score blanks every answer that is no part of the report, which "
           "makes it right where there is no answer",
           "neighbours_formats::an_answer_from_outside_the_report_is_not_blanked"),
    Defect("literal-n-a", "SQuAD 2.0 metrics", 'RadQA: "N/A" that is not mapped to the empty answer is wrong where '
           "there is no answer", "neighbours_formats::no_answer_is_said"),
    Defect("the-is-no-answer", "SQuAD 2.0 metrics", 'an answer of articles and signs ("the.") is normalised to '
           "nothing, and right where there is no answer", "scorers::squad"),
    Defect("bleu-of-letters", "BHC", "sentence_bleu is given strings: the BLEU "
           "of letters, 0.479 on a pair where that of words is 0", "scorers::bleu_counts_words_and_not_letters"),
    Defect("entities-that-begin-inside", "seqeval, default mode", "an entity may begin with I-: 1.00 on a pair where "
           "strict IOB2 gives 0.667", "scorers::entities_begin_with_b"),
    Defect("direction-of-triage", "triage by kappa alone", "one level too urgent for all has the kappa 0.750, one too "
           "relaxed 0.749: the dangerous direction is not seen",
           "neighbours::kappa_is_blind_to_the_dangerous_direction"),
    Defect("article-a", "letter parsers that take the first capital", '"A patient with gout" is read as option A',
           "parsing::the_article_two_letters_and_a_denied_one_are_no_answer", "A patient with gout"),
    Defect("two-letters", "letter parsers that take the first capital", '"A or B" is read as option A',
           "parsing_fuzz::two_letters_are_no_answer"),
    Defect("absent-labels", "macro F1 over all labels", "a label that is never true and never said counts as 0: 0.333 "
           "where it is 0.5 over those present", "scorers::a_label_that_is_never_true_has_no_f1"),
    Defect("mean-of-nothing", "accuracy of inspect_ai", "the accuracy of no samples is 0",
           "benchmarks::a_file_without_items_and_a_repeated_id_are_errors"),
)  # fmt: skip

HEAD = """# Defects of published evaluators, and what keeps them out of this one

Found by reading published code and running its functions. Each row names the test that fails if ours does the same.
`protocol: clue` repeats CLUE's on purpose, to compare with published numbers; `strict` has none of them.

{sources}

<!-- written by `python tests/test_eval_published_defects.py` -->
| where | what goes wrong | what is tested here | test |
| --- | --- | --- | --- |
"""


def document() -> str:
    """The page, from the list and the docstrings of the tests."""
    rows = (
        f"| {one.where} | {one.wrong} | {docstring(one.guard)} | `{path(one.guard).name}::{name(one.guard)}` |\n"
        for one in DEFECTS
    )
    return HEAD.format(sources="\n".join(f"* {key}: {place}" for key, place in SOURCES.items())) + "".join(rows)


def path(guard: str) -> Path:
    return ROOT / "tests" / f"test_eval_{guard.partition('::')[0]}.py"


def name(guard: str) -> str:
    return "test_" + guard.partition("::")[2]


@functools.cache
def functions_of(file: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def docstring(guard: str) -> str:
    text = ast.get_docstring(functions_of(path(guard))[name(guard)]) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.id)
def test_every_defect_has_a_test_that_runs(defect: Defect) -> None:
    """Its guard is a test with a docstring, asserts something, and is neither skipped nor left to another target."""
    assert path(defect.guard).is_file(), defect.guard
    found = functions_of(path(defect.guard))
    assert name(defect.guard) in found, f"{path(defect.guard).name} has no test called {name(defect.guard)}"
    test = found[name(defect.guard)]
    assert docstring(defect.guard)
    assert repr(defect.case)[1:-1] in ast.unparse(test)
    assert not any(NOT_ALWAYS_RUN.search(ast.unparse(mark)) for mark in test.decorator_list)
    assert "assert" in ast.unparse(test) or "raises" in ast.unparse(test)
    assert "pytestmark" not in path(defect.guard).read_text(encoding="utf-8")


def test_no_defect_is_listed_twice() -> None:
    """Ids are unique, and every text is one line of a table."""
    assert len({one.id for one in DEFECTS}) == len(DEFECTS) >= 30
    assert all("|" not in part and "\n" not in part for one in DEFECTS for part in one)


def test_the_page_is_current() -> None:
    """docs/published_defects.md is what the list makes now; else run `python tests/test_eval_published_defects.py`."""
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `python tests/test_eval_published_defects.py`"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
