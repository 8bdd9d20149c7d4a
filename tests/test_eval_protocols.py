"""docs/protocols.md says what the two protocols do: its tables are made here, its scores are those of the code.

`python tests/test_eval_protocols.py` writes the tables again.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eval.asking import sample_of
from eval.benchmark import COMPOSITE, load_benchmark
from eval.metrics import find_metric, table_of
from eval.results import headline
from eval.suite import FOLDER, Suite
from medsmith.config import load
from medsmith.records import write_jsonl

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "protocols.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Example(NamedTuple):
    """One or more outputs to items with these golds, in the order of scoring; scores are worked out by hand."""

    task: str
    gold: str
    outputs: tuple[str, ...]
    clue: float
    clue_does: str
    strict: float
    strict_does: str


# Golds of several items are divided by " / ".
EXAMPLES = [
    Example(
        "mednli", "neutral", ("ENTAILMENT, NEUTRAL or CONTRADICTION",),
        1.0, "the gold label occurs once; others are not looked at", 0.0, "three labels: unreadable",
    ),
    Example(
        "mednli", "entailment", ("This is not an entailment.",),
        1.0, "the gold label occurs once, also in a denial", 0.0, "a denied label: unreadable",
    ),
    Example(
        "mednli", "entailment", ("Entailment. The answer is ENTAILMENT.",),
        0.0, "the gold label occurs twice", 1.0, "one label, named twice",
    ),
    Example(
        "mednli", "neutral / neutral / neutral", ("neutral", "entailment", "entailment"),
        1 / 2, "the first item counts twice: (1 + 1 + 0 + 0) / 4", 1 / 3, "(1 + 0 + 0) / 3",
    ),
    Example(
        "meqsum", "What is gout?", ("What causes gout?",),
        (0.67 + 0.00 + 0.67) / 3, "means of ROUGE-1, -2, -L rounded to 0.01 first: (0.67 + 0.00 + 0.67) / 3",
        4 / 9, "(2/3 + 0 + 2/3) / 3",
    ),
    Example(
        "problem_list", "Sepsis", ("Sepsis",),
        (1.00 + 0.00 + 1.00) / 3, "ROUGE-2 of a gold of one word is 0", 1.0, "ROUGE-2 of one word is left out",
    ),
    Example(
        "problem_list", "CHF; AKI", ("1. CHF\n2. AKI",),
        (0.67 + 0.00 + 0.67) / 3, "bullets are words: ROUGE-1 and -L 2/3, no pair of words is shared",
        1.0, "bullets are taken off, parts joined by commas",
    ),
    Example(
        "longhealth", "acute", ("The correct answer is B: acute.",),
        0.0, "the gold letter is the first option that contains \"acute\": A, acute bronchitis",
        1.0, "the gold letter is the option that equals it: B",
    ),
    Example(
        "longhealth", "acute bronchitis", ("The correct answer is **A**: acute bronchitis.",),
        0.0, "only \"The correct answer is A:\" is read", 1.0, "one letter, in any dress",
    ),
    Example(
        "medisumqa", "rest", ("Rest.",),
        (1.00 + 0.00 + 1.00) / 3, "ROUGE-2 of a gold of one word is 0", 1.0, "ROUGE-2 of one word is left out",
    ),
    Example(
        "medisumcode", "I10", ("I10, I10, I10, E11.9",),
        (6 / 7 + 2 / 3 + 1) / 3, "a repeat counts: precision 3/4, F1 6/7; categories as sets 2/3; valid 4/4",
        (2 / 3 + 2 / 3 + 1) / 3, "sets: precision 1/2, F1 2/3; categories 2/3; valid 2/2",
    ),
    Example(
        "medisumcode", "D519", ("B12 deficiency: D51.9",),
        (2 / 3 + 2 / 3 + 1 / 2) / 3, "B12 is taken for a code: F1 2/3, categories 2/3, valid 1/2",
        1.0, "B12 stands for no code of the table",
    ),
    Example(
        "medisumcode", "C7A00", ("C7A.00",),
        0.0, "its pattern finds no code with a letter in third place", 1.0, "it is a code",
    ),
    Example(
        "medisumcode", "I10 / I10", ("I10", ""),
        2 / 3, "the first item counts twice: (1 + 1 + 0) / 3", 1 / 2, "(1 + 0) / 2",
    ),
    Example(
        "rrs_qa", "no effusion", ("",),
        0.0, "an empty text is scored like any other", 0.0, "unreadable, counted apart",
    ),
    Example(
        "icd10cm", "right 0 / right 1 / right 2", ("right 0", "wrong", "wrong"),
        1 / 2, "the mean of the levels' accuracies, easy 1/1 and hard 0/2", 1 / 3, "the share of all questions",
    ),
]  # fmt: skip


def write_mednli(folder: Path, golds: Sequence[str]) -> None:
    rows = [
        {"pairID": str(n), "gold_label": gold, "sentence1": f"{n}", "sentence2": ""} for n, gold in enumerate(golds)
    ]
    write_jsonl(folder / "mli_test_v1.jsonl", rows)


def write_meqsum(folder: Path, golds: Sequence[str]) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in [("File", "CHQ", "Summary"), *((f"{n}.txt", "a message", gold) for n, gold in enumerate(golds))]:
        book.active.append(row)
    book.save(folder / "MeQSum.xlsx")


def write_problem_list(folder: Path, golds: Sequence[str]) -> None:
    with (folder / "test.csv").open("w", newline="") as file:
        rows = [(str(n), "s", "a", gold) for n, gold in enumerate(golds)]
        csv.writer(file).writerows([("File ID", "Subjectives", "Assessment", "Summary"), *rows])


def write_longhealth(folder: Path, golds: Sequence[str]) -> None:
    options = dict(zip("abcde", ("acute bronchitis", "acute", "c", "d", "e"), strict=True))
    questions = [
        {
            "question": "q",
            **{f"answer_{k}": v for k, v in options.items()},
            "correct": gold,
            "answer_location": {"t": {}},
        }
        for gold in golds
    ]
    (folder / "benchmark_v5.json").write_text(json.dumps({"p": {"texts": {"t": "One."}, "questions": questions}}))


def write_medisumqa(folder: Path, golds: Sequence[str]) -> None:
    rows = [{"discharge_summary": "L", "Question": "q", "Answer": gold} for gold in golds]
    (folder / "a.json").write_text(json.dumps(rows))


def write_medisumcode(folder: Path, golds: Sequence[str]) -> None:
    rows = [{"hadm_id": n, "text": "L", "icd_codes": [{"code": gold}]} for n, gold in enumerate(golds)]
    (folder / "a.json").write_text(json.dumps(rows))


def write_rrs_qa(folder: Path, golds: Sequence[str]) -> None:
    rows = [{"id": n, "findings": "f", "question": "q", "answer": gold} for n, gold in enumerate(golds)]
    write_jsonl(folder / "test.jsonl", rows)


def write_icd10cm(folder: Path, golds: Sequence[str]) -> None:
    import polars

    rows = [
        {"question_id": n, "question": "q", "answer_id": "A", "level": "hard" if n else "easy", "option1": gold}
        | {"option2": "wrong", "option3": "x", "option4": "y"}
        for n, gold in enumerate(golds)
    ]
    polars.DataFrame(rows).write_parquet(folder / "test.parquet")


def value(example: Example, protocol: str) -> float:
    """The headline of a benchmark whose items have the example's golds and outputs, from the published file on."""
    benchmark: Any = load_benchmark(example.task, protocol)
    write: Callable[[Path, Sequence[str]], None] = globals()[f"write_{example.task}"]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), example.gold.split(" / "))
        items = benchmark.load(Path(folder), "test").items
    items = benchmark.arrange(items, 0) if hasattr(benchmark, "arrange") else items
    # Of LongHealth one prompt of the first task.
    rows = [
        sample_of(example.task, benchmark, item, "", output)
        for item, output in zip(items, example.outputs, strict=example.task != "longhealth")
    ]
    table = table_of(rows, headline(benchmark, rows), getattr(benchmark, "SLICE_MEAN", False))
    return float(table.value(table.counts.sum(0)))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.task}: {example.outputs[0][:20]}")
def test_examples(example: Example) -> None:
    """Under either protocol the code gives the score that was worked out by hand."""
    assert value(example, "clue") == pytest.approx(example.clue, abs=1e-12)
    assert value(example, "strict") == pytest.approx(example.strict, abs=1e-12)


def test_the_protocols_differ_where_the_table_says_so() -> None:
    """Each of CLUE's six tasks has an output that the two protocols score differently."""
    differing = {example.task for example in EXAMPLES if example.clue != example.strict}
    assert differing >= set(load(Suite, FOLDER / "clue.yml").benchmarks)


def test_tables_are_up_to_date() -> None:
    """docs/protocols.md holds its tables as the code makes them now; else run `python tests/test_eval_protocols.py`."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert {place[2] for place in TABLE.finditer(text)} == set(TABLES)
    assert written(text) == text, "run `python tests/test_eval_protocols.py`"


def test_the_document_names_every_metric_of_the_protocol() -> None:
    """Metrics that only clue has are told in the text by their ids."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in load(Suite, FOLDER / "clue_plus.yml").benchmarks:
        for metric in parts(load_benchmark(name, "clue")):
            assert f"`{metric}`" in text or "protocol clue" not in find_metric(metric).definition


def parts(benchmark: Any) -> list[str]:
    """The metrics that a headline is made of."""
    return list(benchmark.COMPONENTS) if benchmark.METRIC == COMPOSITE else [benchmark.METRIC]


def settings() -> str:
    """How every task of CLUE+ is asked and averaged, by protocol."""
    suites = [load(Suite, FOLDER / f"{name}.yml") for name in ("clue_plus", "clue_plus_strict")]
    rows = [
        (f"`{name}`", *(cell for suite in suites for cell in (shots(name, suite), averaged(name, suite))))
        for name in suites[0].benchmarks
    ]
    return table(("task", "clue: shots", "clue: score", "strict: shots", "strict: score"), rows)


def shots(name: str, suite: Suite) -> str:
    """How many examples, and where they come from."""
    count = suite.benchmarks[name].shots
    if not count:
        return "0"
    if hasattr(load_benchmark(name, suite.protocol), "arrange"):
        return f"{count}, of the test split"
    return f"{count}, of `{vars(load_benchmark(name))['FILES']['shots']}`"


def averaged(name: str, suite: Suite) -> str:
    """The headline in words."""
    benchmark: Any = load_benchmark(name, suite.protocol)
    rounded = ", each rounded to 0.01" if getattr(benchmark, "ROUNDED", False) else ""
    found = ", ".join(f"`{part}`" for part in parts(benchmark))
    found = f"mean of {found}{rounded}" if benchmark.METRIC == COMPOSITE else found
    return found + (", mean of the slices" if getattr(benchmark, "SLICE_MEAN", False) else "")


def examples() -> str:
    """The examples with their scores."""
    rows = [
        (f"`{one.task}`", one.gold, " / ".join(map(quoted, one.outputs)), one.clue_does, f"{one.clue:.3f}",
         one.strict_does, f"{one.strict:.3f}")
        for one in EXAMPLES
    ]  # fmt: skip
    return table(("task", "gold", "output", "what clue does", "score", "what strict does", "score"), rows)


def quoted(output: str) -> str:
    return f"`{output}`".replace("\n", " ⏎ ") if output else "(empty)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


TABLES: dict[str, Callable[[], str]] = {"settings": settings, "examples": examples}


def written(text: str) -> str:
    """The document with its tables made anew."""
    return TABLE.sub(lambda place: place[1] + TABLES[place[2]]() + place[3], text)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
