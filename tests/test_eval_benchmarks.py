"""Each benchmark reads its published format; three hand-made rows have known items, answers and scores."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.asking import sample_of
from eval.benchmark import COMPOSITE, Item, Repaired, ask, limited, load_benchmark, names, with_shots
from eval.metrics import find_metric
from eval.results import headline, item_score
from eval.suite import FOLDER, load_suite
from eval.tables import find_file, read_table
from medsmith.errors import UserError
from medsmith.records import write_jsonl

MEDEC = ("Text ID", "Text", "Sentences", "Error Flag", "Error Type", "Error Sentence ID", "Error Sentence",
         "Corrected Sentence", "Corrected Text")  # fmt: skip


def write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def mednli(folder: Path) -> None:
    pairs = [("p1", "entailment", "No fever.", "Afebrile."), ("p2", "neutral", "No fever.", "Has gout."),
             ("p3", "contradiction", "Pain.", "No pain.")]  # fmt: skip
    for split in ("train", "test"):
        rows = [dict(zip(("pairID", "gold_label", "sentence1", "sentence2"), pair, strict=True)) for pair in pairs]
        write_jsonl(folder / f"mli_{split}_v1.jsonl", [{**row, "sentence1_parse": "(ROOT)"} for row in rows])


def problem_list(folder: Path) -> None:
    columns = ("File ID", "Subjectives", "Assessment", "Objectives", "Summary")
    rows = [("1", "Short of breath.", "62yo with CHF,\n\"acute\"", "BP 90", "CHF; AKI;"),
            ("2", "s", "a", "o", "Sepsis"), ("3", "s", "a", "o", "gout"), ("4", "s", "a", "o", " ")]  # fmt: skip
    write_csv(folder / "test.csv", columns, rows)


def meqsum(folder: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["File", "CHQ", "Summary", None, None])
    for row in (
        ["1.txt", "Hi. Does X hurt?", "Does X hurt?"],
        ["2.txt", "b", "What is b?"],
        ["3.txt", "c", "What is c?"],
    ):
        book.active.append(row)
    book.active.append(["4.txt", "no summary", None])
    book.active.append([None, None, None])
    book.save(folder / "MeQSum_ACL2019.xlsx")


def medec(folder: Path) -> None:
    text = "0 A 40-year-old man.\n1 He has gout.\n2 Insulin is given."
    rows = [("a", "", text, "1", "treatment", "2", "Insulin is given.", "Allopurinol is given.", ""),
            ("b", "", text, "0", "NA", "-1", "NA", "NA", ""), ("c", "", text, "1", "diagnosis", "0", "", "", ""),
            ("", "", "", "", "", "", "", "", ""), ("", "", "", "", "", "", "", "", "")]  # fmt: skip
    write_csv(folder / "MEDEC-MS-TestSet-with-GroundTruth-and-ErrorType.csv", MEDEC, rows)


def rrs_qa(folder: Path) -> None:
    rows = [{"id": n, "findings": f, "question": q, "answer": a} for n, f, q, a in
            [(1, "Clear.", "Effusion?", "no effusion"), (2, "Clear.", "Lungs?", "clear"),
             (3, "Mass.", "What?", "a mass"), (4, "Mass.", "", "")]]  # fmt: skip
    write_jsonl(folder / "test.jsonl", rows)


def icd10cm(folder: Path) -> None:
    import polars

    rows = [
        {
            "question_id": n, "answer": f"right {n}", "answer_id": "ABC"[n], "vocab": "ICD10CM", "level": "easy",
            # The published text is indented and carries the options.
            "question": f"\n    What is the description of the medical code A0{n} in ICD10CM?\n    A. x\n    B. y\n",
            **{f"option{o}": (f"right {n}" if o == n + 1 else f"wrong {o}") for o in range(1, 5)},
        }
        for n in range(3)
    ]  # fmt: skip
    polars.DataFrame(rows).write_parquet(folder / "test-00000-of-00001.parquet")


def aci_bench(folder: Path) -> None:
    rows = [("virtscribe", f"D{n}", "[doctor] hi\n[patient] hello", "CHIEF COMPLAINT\n\nCough.") for n in range(3)]
    write_csv(
        folder / "clinicalnlp_taskB_test1.csv",
        ("dataset", "encounter_id", "dialogue", "note"),
        [*rows, ("v", "D9", "", "")],
    )


def pubmedqa(folder: Path) -> None:
    article = {"QUESTION": "Does it help?", "CONTEXTS": ["Aim.", "Result."], "LONG_ANSWER": "It does."}
    answers = dict(zip("12345", ("yes", "no", "maybe", "yes", "no"), strict=True))
    (folder / "ori_pqal.json").write_text(json.dumps({k: {**article, "final_decision": v} for k, v in answers.items()}))
    (folder / "test_ground_truth.json").write_text(json.dumps({k: answers[k] for k in "123"}))


# By benchmark: writer, user turn of the first item, golds, groups, rows left out, and outputs with (answer, score) for
# each of the three items.
Output = tuple[str, str | None, float]
CASES: dict[str, tuple[Callable[[Path], None], str, list[str], int, dict[str, int], list[Output]]] = {
    "mednli": (
        mednli, "SENTENCE_1: No fever.\nSENTENCE_2: Afebrile.", ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], 2, {},
        [("Entailment.", "ENTAILMENT", 1.0), ("ENTAILMENT", "ENTAILMENT", 0.0), ("Neutral, contradiction", None, 0.0)],
    ),
    "problem_list": (
        problem_list, "Short of breath.\n\n62yo with CHF,\n\"acute\"", ["CHF; AKI", "Sepsis", "gout"], 3,
        {"no summary": 1},
        [("- CHF\n- AKI", "- CHF\n- AKI", 1.0), ("sepsis; flu", "sepsis; flu", 2 / 3), ("; ;", None, 0.0)],
    ),
    "meqsum": (
        meqsum, "Hi. Does X hurt?", ["Does X hurt?", "What is b?", "What is c?"], 3, {"empty cell": 1},
        [(" Does x hurt ", "Does x hurt", 1.0), ("no", "no", 0.0), ("\n", None, 0.0)],
    ),
    "medec": (
        medec, "0 A 40-year-old man.\n1 He has gout.\n2 Insulin is given.", ["2", "-1", "0"], 3, {"blank row": 2},
        [("2 Insulin is given.", "2", 1.0), ("1", "1", 0.0), ("0 or 1", None, 0.0)],
    ),
    "rrs_qa": (
        rrs_qa, "FINDINGS: Clear.\nQUESTION: Effusion?", ["no effusion", "clear", "a mass"], 2,
        {"no question or answer": 1},
        [("no effusion", "no effusion", 1.0), ("not clear", "not clear", 2 / 3), ("", None, 0.0)],
    ),
    "icd10cm": (
        icd10cm, "What is the description of the medical code A00 in ICD10CM?", ["right 0", "right 1", "right 2"],
        3, {},
        [("right 0", "right 0", 1.0), ("wrong 1", "wrong 1", 0.0), ("right", None, 0.0)],
    ),
    "aci_bench": (
        aci_bench, "[doctor] hi\n[patient] hello", ["CHIEF COMPLAINT\n\nCough."] * 3, 3, {"no dialogue or note": 1},
        [("Chief complaint: cough", "Chief complaint: cough", 1.0), ("cough", "cough", 0.5), ("", None, 0.0)],
    ),
    "pubmedqa": (
        pubmedqa, "ABSTRACT: Aim.\nResult.\nQUESTION: Does it help?", ["yes", "no", "maybe"], 3,
        {"outside the published test split": 2},
        [("Yes.", "yes", 1.0), ("yes", "yes", 0.0), ("yes, no or maybe", None, 0.0)],
    ),
}  # fmt: skip


# The case of a newer benchmark is a module of its own, case_<name>.py, with the same six values as CASE.
CASES |= {path.stem[5:]: importlib.import_module(path.stem).CASE for path in Path(__file__).parent.glob("case_*.py")}


def score_of(name: str, item: Item, output: str) -> float:
    """What an output earns on the headline of its benchmark."""
    benchmark = load_benchmark(name)
    row = sample_of(name, benchmark, item, "", output)
    return item_score(row, headline(benchmark, [row]))


def test_every_benchmark_has_a_case() -> None:
    """A new module in eval/benchmarks needs three rows with known scores in case_<name>.py."""
    assert sorted(CASES) == names()


@pytest.mark.parametrize("name", CASES)
def test_published_format(name: str, tmp_path: Path) -> None:
    """Items, groups and rows left out are those of the file; outputs are read and scored as by hand."""
    write, user, golds, groups, dropped, outputs = CASES[name]
    write(tmp_path)
    benchmark = load_benchmark(name)
    items, left, _ = benchmark.load(tmp_path, "test")

    assert items[0].messages[-1] == {"role": "user", "content": user}
    assert items[0].messages[0]["role"] == "system"
    assert [item.gold for item in items] == golds
    assert len({item.group for item in items}) == groups
    assert left == dropped
    for item, (output, answer, score) in zip(items, outputs, strict=True):
        found = benchmark.parse(output, item)
        assert (found.answer if isinstance(found, Repaired) else found) == answer
        assert score_of(name, item, output) == pytest.approx(score)
        assert sample_of(name, benchmark, item, "", item.gold)["reading"] == "valid"
        assert score_of(name, item, item.gold) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [name for name in CASES if hasattr(load_benchmark(name), "ID_COLUMN")])
def test_the_column_of_ids_is_that_of_the_file(name: str, tmp_path: Path) -> None:
    """Where a benchmark names the column, its items' ids stand in it, each once: eval.split relies on it."""
    CASES[name][0](tmp_path)
    benchmark: Any = load_benchmark(name)
    found = benchmark.load(tmp_path, "test")
    rows = read_table(find_file(tmp_path, benchmark.FILES["test"], ""), (benchmark.ID_COLUMN,))
    named = [str(row[benchmark.ID_COLUMN]) for row in rows]

    assert [item.id for item in found.items] == [one for one in named if one in {item.id for item in found.items}]
    assert len(rows) == len(found.items) + found.dropped.total()


@pytest.mark.parametrize("name", CASES)
def test_constants(name: str) -> None:
    """Version, metric, access, licence and source are said; an answer has room unless options are scored."""
    benchmark = load_benchmark(name)
    assert benchmark.VERSION >= 1
    assert benchmark.ACCESS in {"open", "credentialed"}
    assert benchmark.LICENCE and benchmark.SOURCE
    if benchmark.METRIC == COMPOSITE:
        assert all(find_metric(part).value is None for part in vars(benchmark)["COMPONENTS"])
    else:
        assert find_metric(benchmark.METRIC).bounds[1] == 1.0


@pytest.mark.parametrize("name", CASES)
def test_an_empty_folder_is_named(name: str, tmp_path: Path) -> None:
    """What is missing, and where the data come from."""
    with pytest.raises(UserError, match="holds 0 files like"):
        load_benchmark(name).load(tmp_path, "test")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """The error names file, row, column, and the columns that are there."""
    path = tmp_path / "own.jsonl"
    write_jsonl(path, [{"pairID": "1", "label": "x", "sentence1": "a", "sentence2": "b"}])
    with pytest.raises(UserError, match=r"own.jsonl row 1: missing column 'gold_label' \(there are: pairID, label"):
        load_benchmark("mednli").load(path, "test")


@pytest.mark.parametrize(
    ("flag", "number"), [("1", "-1"), ("1", "9"), ("1", "2 Insulin is given."), ("", "1"), ("0", "2"), ("1", "")]
)
def test_an_unreadable_gold_is_an_error(flag: str, number: str, tmp_path: Path) -> None:
    """A label that contradicts its flag, or names no sentence, never becomes a silent -1."""
    path = tmp_path / "x.csv"
    write_csv(path, MEDEC, [("a", "", "0 One.\n2 Insulin is given.", flag, "", number, "", "", "")])
    with pytest.raises(UserError, match="that is no label"):
        load_benchmark("medec").load(path, "test")


def test_a_file_without_items_and_a_repeated_id_are_errors(tmp_path: Path) -> None:
    """An evaluation of nothing has no score; two items of one id cannot be compared."""
    path = tmp_path / "x.csv"
    write_csv(path, MEDEC, [("", "", "", "", "", "", "", "", "")])
    with pytest.raises(UserError, match="no item; 1 rows left out: blank row"):
        load_benchmark("medec").load(path, "test")
    row = {"pairID": "1", "gold_label": "neutral", "sentence1": "a", "sentence2": "b"}
    write_jsonl(tmp_path / "two.jsonl", [row, row])
    with pytest.raises(UserError, match="'1' is there twice"):
        load_benchmark("mednli").load(tmp_path / "two.jsonl", "test")


def test_shots_come_from_another_split(tmp_path: Path) -> None:
    """MedNLI's come from its training file; PubMedQA's from articles outside the test key; MeQSum has none."""
    mednli(tmp_path)
    pubmedqa(tmp_path)
    items = load_benchmark("mednli").load(tmp_path, "test").items
    shots = load_benchmark("mednli").load(tmp_path, "shots").items
    asked = with_shots(items, shots, 2)
    assert [turn["role"] for turn in asked[0].messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert asked[0].messages[1:5] == asked[2].messages[1:5]
    assert asked[0].messages[-1] == items[0].messages[-1]
    assert [item.id for item in load_benchmark("pubmedqa").load(tmp_path, "shots").items] == ["4", "5"]
    with pytest.raises(UserError, match="set shots: 0"):
        load_benchmark("meqsum").load(tmp_path, "shots")
    with pytest.raises(UserError, match="9 shots are asked for, the split for them holds 3"):
        with_shots(items, shots, 9)


def test_a_limit_takes_equal_parts_whatever_the_order_of_the_file() -> None:
    """Six of two levels: three each, the same ones when the file is turned round; a large limit changes nothing."""
    items = [Item(f"{level}{n}", "", ask("", ""), "", slice=level) for level in ("easy", "hard") for n in range(20)]
    taken = limited(items, 6)
    assert [item.slice for item in taken] == ["easy"] * 3 + ["hard"] * 3
    assert {item.id for item in limited(items[::-1], 6)} == {item.id for item in taken}
    assert limited(items, 99) == items


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.stem)
def test_suites_load(path: Path) -> None:
    """Every suite names benchmarks that there are; data for too few or too many are refused."""
    with pytest.raises(UserError, match="no data for"):
        load_suite(path, {})
    given = dict.fromkeys(names(), Path())
    with pytest.raises(UserError, match="has no benchmark"):
        load_suite(path, given | {"other": Path()})
