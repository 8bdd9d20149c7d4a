"""The protocol `clue` gives the published numbers, bugs included; `strict` gives others on the same outputs.

The published rules are derived again here by hand, on cases that a reader can check. The examples are those of
docs/protocols.md: run this file to write its table again.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.asking import Task, prepare, sample_of
from eval.benchmark import Item, ask, load_benchmark
from eval.clue import longhealth
from eval.clue.protocol import FOLDER, filled, first_counts_twice, load_prompt, shots_from_test, shuffled
from eval.metrics import find_metric, table_of
from eval.results import headline, item_score, summarise
from eval.suite import BenchmarkSettings, Suite
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import read_json, read_jsonl, write_jsonl
from tests.test_eval_benchmarks import CASES, icd10cm, medec, meqsum, problem_list
from tests.test_eval_run import FakeEngine
from tests.test_eval_run import score as run_score

UNBOUNDED = 10**9


def pairs(folder: Path, labels: Sequence[str]) -> Path:
    """A MedNLI file whose premises are numbered."""
    rows = [
        {"pairID": f"p{n}", "gold_label": label, "sentence1": f"P{n}.", "sentence2": "H."}
        for n, label in enumerate(labels)
    ]
    for split in ("train", "test"):
        write_jsonl(folder / f"mli_{split}_v1.jsonl", rows)
    return folder


def prepared(name: str, path: Path, shots: int, protocol: str = "clue") -> Task:
    """A benchmark as `eval.run` prepares it."""
    return prepare(name, BenchmarkSettings(shots=shots), path, None, UNBOUNDED, protocol)


def result(task: Task, outputs: Sequence[str]) -> dict[str, Any]:
    """What result.json says of a benchmark, given the outputs in the order of its items."""
    rows = [sample_of(task.name, task.benchmark, *pair) for pair in zip_prompts(task.items, outputs)]
    found = summarise([task], [row | {"truncated": False} for row in rows], [], 0)
    entry: dict[str, Any] = found["benchmarks"][task.name]
    return entry


def zip_prompts(items: Sequence[Item], outputs: Sequence[str]) -> list[tuple[Item, str, str]]:
    return [(item, "", output) for item, output in zip(items, outputs, strict=True)]


def test_a_generator_of_its_own_shuffles_like_the_module() -> None:
    """random.Random(1) gives the order of random.seed(1); random.shuffle, for sizes of real sets too."""
    for size in (3, 237, 1000, 1422):
        items = [Item(str(n), "", ask("", ""), "") for n in range(size)]
        state = random.getstate()
        random.seed(1)
        published = list(range(size))
        random.shuffle(published)
        random.setstate(state)
        assert [int(item.id) for item in shuffled(items)] == published
    # What random.seed(1) has given for five things ever since Python 3.2.
    assert [item.id for item in shuffled([Item(c, "", ask("", ""), "") for c in "abcde"])] == list("cdeab")


def test_shots_are_the_first_of_the_shuffled_test_items(tmp_path: Path) -> None:
    """Of eight pairs in published order the first three are examples, in that order; the other five are scored."""
    labels = ["entailment", "neutral", "contradiction", "neutral"] * 2
    task = prepared("mednli", pairs(tmp_path, labels), 3)
    order = list(range(8))
    random.Random(1).shuffle(order)

    assert [item.id for item in task.items] == [f"p{n}" for n in order[3:]]
    assert task.dropped == {"example of the protocol": 3}
    for item, number in zip(task.items, order[3:], strict=True):
        assert [turn["role"] for turn in item.messages] == ["system", *["user", "assistant"] * 3, "user"]
        assert item.messages[-1]["content"] == f"\nSENTENCE_1: P{number}.\nSENTENCE_2: H.\n"
        said = [turn["content"] for turn in item.messages[1:-1]]
        assert said[::2] == [f"\nSENTENCE_1: P{n}.\nSENTENCE_2: H.\n" for n in order[:3]]
        assert said[1::2] == [labels[n] for n in order[:3]]
    assert [item.weight for item in task.items] == [2, 1, 1, 1, 1]
    with pytest.raises(UserError, match="8 shots of 8 test items leave none"):
        prepared("mednli", tmp_path, 8)


def test_the_first_score_counts_twice(tmp_path: Path) -> None:
    """Right, wrong, wrong: the running average of CLUE has 1, 1, 0, 0 and says 0.5; strict says 1/3."""
    path = pairs(tmp_path, ["neutral"] * 3)
    task = prepared("mednli", path, 0)
    stored: list[int] = []
    for number, score in enumerate((1, 0, 0)):
        stored += [score, score] if number == 0 else [score]
    assert result(task, ["neutral", "no", "no"])["value"] == sum(stored) / len(stored) == 0.5
    assert result(task, ["no", "no", "neutral"])["value"] == 0.25
    strict = prepared("mednli", path, 0, "strict")
    assert result(strict, ["neutral", "no", "no"])["value"] == pytest.approx(1 / 3)


def test_nothing_is_unreadable(tmp_path: Path) -> None:
    """CLUE scores what strict cannot read: three labels in one answer are right for every gold, an empty text is 0."""
    path = pairs(tmp_path, ["entailment", "neutral", "contradiction", "neutral"])
    outputs = ["ENTAILMENT, NEUTRAL or CONTRADICTION"] * 3 + [""]
    clue, strict = (result(prepared("mednli", path, 0, protocol), outputs) for protocol in ("clue", "strict"))
    assert (clue["value"], clue["unreadable"], clue["readings"]) == (4 / 5, 0, {"valid": 4})
    assert (strict["value"], strict["unreadable"], strict["readings"]) == (0.0, 4, {"empty": 1, "unreadable": 3})


def test_metrics_are_rounded_before_they_are_averaged(tmp_path: Path) -> None:
    """Two questions, one answered by two of its three words: 0.9 and 5/6 and … become two decimals, then their mean."""
    meqsum(tmp_path)
    task = prepared("meqsum", tmp_path, 0)
    golds = {item.id: item.gold for item in task.items}
    assert golds == {"1.txt": "Does X hurt?", "2.txt": "What is b?", "3.txt": "What is c?"}
    # rouge1: 1, 2·1·(1/3)/(4/3) = 1/2, 0. rouge2: 1, 0, 0. rougeL as rouge1.
    said = {"1.txt": "Does X hurt?", "2.txt": "what", "3.txt": ""}
    found = result(task, [said[item.id] for item in task.items])
    assert found["metric"] == "mean_of_rounded(rouge1, rouge2_all, rougeL)"
    assert found["metrics"]["rouge1"]["value"] == pytest.approx(0.5)
    assert found["metrics"]["rouge2_all"]["value"] == pytest.approx(1 / 3)
    assert found["value"] == pytest.approx((0.50 + 0.33 + 0.50) / 3, abs=1e-12)
    assert found["not_run"] == ["bertscore_f1"]
    assert "rounded to 0.01" in found["notes"]["rounding"]
    strict = prepared("meqsum", tmp_path, 0, "strict")
    exact = result(strict, [said[item.id] for item in strict.items])
    assert exact["metric"] == "mean(rouge1, rouge2, rougeL)"
    assert exact["value"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)


@pytest.mark.parametrize("value", [0.005, 0.125, 0.145, 0.285, 0.345, 0.545, 0.565, 0.995])
def test_rounding_is_that_of_the_published_format(value: float) -> None:
    """Two decimals as "%.2f" writes them, also where the third is a five."""
    rows = [{"id": "a", "group": "a", "slice": "", "scores": {"rouge1": value}, "counts": {}, "unreadable": False}]
    table = table_of(rows, "mean_of_rounded(rouge1)")
    assert float(table.value(table.counts.sum(0))) == float(f"{value:.2f}")


def test_a_gold_of_one_word_counts_zero_on_rouge_2(tmp_path: Path) -> None:
    """Sepsis for Sepsis: the published ROUGE-2 is 0 and the mean of three 2/3; strict leaves it out and says 1."""
    item = Item("x", "x", ask("", ""), "Sepsis", truth="Sepsis")
    assert score_of("problem_list", "clue", item, "Sepsis") == pytest.approx((1 + 0 + 1) / 3, abs=0.005)
    assert score_of("problem_list", "strict", item, "Sepsis") == 1.0


def test_semicolons_become_commas(tmp_path: Path) -> None:
    """The gold of the examples and of scoring keeps its last semicolon, as ", "; the letter stands in its frame."""
    problem_list(tmp_path)
    task = prepared("problem_list", tmp_path, 0)
    first = next(item for item in task.items if item.id == "1")
    assert first.gold == "CHF,  AKI, "
    user = first.messages[-1]["content"]
    assert user.startswith("--------------BEGIN DISCHARGE LETTER--------------\nShort of breath.\n\n62yo with CHF,")
    assert user.endswith("patient problems. Do not generate anything else.")
    # A bulleted list is read as one text: the words are the same.
    assert result(task, [item.gold for item in task.items])["value"] == pytest.approx((1 + 0.33 + 1) / 3)


def test_medec_shows_a_text_with_and_one_without_an_error(tmp_path: Path) -> None:
    """The two examples are the first of each kind; one kind that has no more is an error."""
    medec(tmp_path)
    path = next(tmp_path.glob("*.csv"))
    path.write_text(path.read_text().replace("c,,", "d,,") + path.read_text(encoding="utf-8-sig").split("\n", 1)[1])
    rows = load_benchmark("medec", "clue")
    items = [Item(str(n), "", ask("s", f"t{n}"), "-1" if n in (3, 4) else "2") for n in range(6)]
    order = [item.id for item in shuffled(items)]
    taken = [next(n for n in order if n not in "34"), next(n for n in order if n in "34")]
    asked = rows.arrange(items, 2)  # type: ignore[attr-defined]
    assert [turn["content"] for turn in asked[0].messages[1:-1]] == [f"t{taken[0]}", "2", f"t{taken[1]}", "-1"]
    assert [item.id for item in asked] == [n for n in order if n not in taken]
    with pytest.raises(UserError, match="4 shots need as many texts with and without"):
        rows.arrange(items, 4)  # type: ignore[attr-defined]


def test_levels_count_alike(tmp_path: Path) -> None:
    """ICD-10-CM: one of one easy and none of two hard questions is 1/2, not 1/3; examples are of the dev split."""
    import polars

    icd10cm(tmp_path)
    frame = polars.read_parquet(next(tmp_path.glob("*.parquet")))
    frame = frame.with_columns(level=polars.Series(["easy", "hard", "hard"]))
    frame.write_parquet(tmp_path / "test-00000-of-00001.parquet")
    frame.write_parquet(tmp_path / "dev-00000-of-00001.parquet")
    task = prepared("icd10cm", tmp_path, 1)
    assert not task.dropped and len(task.items[0].messages) == 4
    assert result(task, ["right 0", "wrong 1", "wrong 1"])["value"] == 0.5


def test_letter_and_question_stand_in_their_places(tmp_path: Path) -> None:
    """MeDiSumQA: the letter within its frame, even one with a line QUESTION, and the question behind it."""
    row = {"discharge_summary": "L\nQUESTION: none", "Question": "Why?", "Answer": "so it is"}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    user = prepared("medisumqa", tmp_path, 0).items[0].messages[-1]["content"]
    begin, end = (f"--------------{word} DISCHARGE LETTER--------------" for word in ("BEGIN", "END"))
    assert user == f"{begin}\nL\nQUESTION: none\n{end}\nWhy?"


def records(folder: Path) -> Path:
    """LongHealth: a patient of three texts and two of seven, a question on either of the first two."""
    question = {
        "question": "How long?", "answer_a": "two days", "answer_b": "days", "answer_c": "c", "answer_d": "d",
        "answer_e": "e", "correct": "days", "answer_location": {"t1": {}},
    }  # fmt: skip
    mine = {"t0": "own zero", "t1": "the answer is days", "t2": "own two"}
    others = {f"p{p}": {f"t{n}": f"p{p}t{n} x" for n in range(7)} for p in (2, 3)}
    patients = {"p1": {"texts": mine, "questions": [question]}} | {
        name: {"texts": texts, "questions": [question] if name == "p2" else []} for name, texts in others.items()
    }
    (folder / "benchmark_v5.json").write_text(json.dumps(patients))
    return folder


def documents(item: Item) -> list[str]:
    """The documents of a prompt, in their order."""
    text = item.messages[-1]["content"].split("BEGIN DOCUMENTS--------------\n\n")[1]
    return text.split("\n\n--------------END DOCUMENTS")[0].split("\n\n--------------\n\n")


def test_longhealth_asks_every_question_five_times_in_three_tasks(tmp_path: Path) -> None:
    """Task 1 shows own texts, 2 the answer's and ten foreign ones, 3 foreign ones alone, each time drawn anew."""
    task = prepared("longhealth", records(tmp_path), 0)
    items = longhealth.compose(task.items, FakeEngine(context=10**6))
    shown = {item.id: documents(item) for item in items}
    own = ["own zero", "the answer is days", "own two"]
    for repeat in range(5):
        first, second, third = (shown[f"p1-00-task{n}-{repeat}"] for n in (1, 2, 3))
        assert sorted(first) == sorted(own)
        assert len(second) == 11 and "the answer is days" in second and not {*second} & {"own zero", "own two"}
        assert len({*third}) == 10 and all(text.startswith(("p2t", "p3t")) for text in third)
    assert len({tuple(sorted(shown[f"p1-00-task3-{repeat}"])) for repeat in range(5)}) == 5
    assert len({tuple(shown[f"p1-00-task1-{repeat}"]) for repeat in range(5)}) > 1
    # "days" is part of option A; the sixth option is right in task 3 alone.
    assert [item.truth.letter for item in items] == (["A"] * 10 + ["F"] * 5) * 2
    assert "\nF: Question cannot be answered" in items[5].messages[-1]["content"]
    assert "\nF: " not in items[0].messages[-1]["content"]
    again = longhealth.compose(prepared("longhealth", tmp_path, 0).items, FakeEngine(context=10**6))
    assert [item.messages for item in again] == [item.messages for item in items]


def test_documents_fill_the_room_and_the_first_that_does_not_fit_is_cut() -> None:
    """Ten tokens, a separator of four: four of five words, then an empty document, as published."""

    def tokens(text: str) -> int:
        return len(text.split())

    separator = tokens("-------------- NEW DOCUMENT --------------")
    truth = longhealth.Truth("A", ["a b"], ["c d e f g", "h"], ("", ""), "")
    assert longhealth.fitting(truth, 2 + separator + 4, tokens) == ["a b", "c d e f "]
    assert longhealth.fitting(truth, 2 + separator + 5, tokens) == ["a b", "c d e f g", ""]
    assert longhealth.fitting(truth, 100, tokens) == ["a b", "c d e f g", "h"]
    assert longhealth.fitting(truth, 1, tokens) == ["a ", ""]
    assert longhealth.fitting(truth, -5, tokens) == ["", ""]


@pytest.mark.parametrize(("context", "first", "others"), [(10_000, 8140, 10_000), (5000, 5000, 5000)])
def test_prompts_have_as_many_tokens_as_there_is_room(context: int, first: int, others: int, tmp_path: Path) -> None:
    """Task 1 is filled up to 8,140 tokens, the others up to the model's context, and none beyond it."""
    records(tmp_path)
    path = tmp_path / "benchmark_v5.json"
    path.write_text(path.read_text().replace("own two", "own " * 9000).replace(' x"', " x" * 2000 + '"'))
    task = prepared("longhealth", tmp_path, 0)
    prompt, separator = load_prompt("longhealth"), 4
    for item in longhealth.compose(task.items, FakeEngine(context=context))[:15]:
        texts = documents(item)
        words = [len(text.split()) for text in [prompt.system, prompt.user, *item.truth.asked, *texts]]
        room = first if item.slice == "task1" else others
        assert sum(words) + separator * (len(texts) - 1) == room


def test_longhealth_is_asked_with_its_documents(tmp_path: Path) -> None:
    """A run fills the prompts before it asks: 15 a question, within 8,140 tokens and the model's context."""
    (tmp_path / "data").mkdir()
    (tmp_path / "suite.yml").write_text("protocol: clue\nbenchmarks: {longhealth: {}}")
    data = records(tmp_path / "data")
    settings = {"suite": tmp_path / "suite.yml", "benchmarks": {"longhealth": data}, "model": "owner/name"}
    out = run_score(tmp_path / "out", FakeEngine(context=1000), settings)
    samples, found = list(read_jsonl(out / "samples.jsonl")), read_json(out / "result.json")
    assert len(samples) == 30 and found["protocol"] == "clue"
    assert not any("{documents}" in row["prompt"] or row["truncated"] for row in samples)
    assert all(
        "the answer is days" in row["prompt"] for row in samples if row["id"].startswith(("p1-00-task1", "p1-00-task2"))
    )
    entry = found["benchmarks"]["longhealth"]
    assert (entry["value"], entry["unreadable"], set(entry["slices"])) == (0.0, 30, {"task1", "task2", "task3"})
    assert "ours" in entry["notes"]["seed"]


@pytest.mark.parametrize(
    ("output", "answer"),
    [("The correct answer is B: x", "B"), ("So: The correct answer is A: x. The correct answer is B: y", "A"),
     ("the correct answer is B: x", None), ("The correct answer is: B", None), ("The correct answer is (B): x", None),
     ("The correct answer is **B**: x", None), ("The correct answer is B.", None), ("B", None),
     ("The correct answer is b: x", "b"), ("The correct answer is 4: x", "4")],
)  # fmt: skip
def test_the_form_of_a_longhealth_answer(output: str, answer: str | None) -> None:
    """One sign before a colon, in this case and form, the first of several."""
    assert longhealth.parse(output, Item("", "", [], "")) == answer


def test_medisumcode_by_hand(tmp_path: Path) -> None:
    """Repeats count in precision and recall; categories are sets; golds are as in the file; the first counts twice."""
    rows = [
        {"hadm_id": 1, "text": "L1", "icd_codes": [{"code": code} for code in ("I10", "I10", "E119")]},
        {"hadm_id": 2, "text": "L2", "icd_codes": [{"code": "N179"}]},
        {"hadm_id": 3, "text": "L3", "icd_codes": [{"code": "J189"}]},
    ]
    (tmp_path / "codes.json").write_text(json.dumps(rows))
    task = prepared("medisumcode", tmp_path, 1)
    order = [item.id for item in shuffled([Item(str(n), "", [], "") for n in (1, 2, 3)])]
    golds = {"1": "I10, I10, E119", "2": "N179", "3": "J189"}
    assert [item.id for item in task.items] == order[1:]
    assert [turn["content"] for turn in task.items[0].messages[2:3]] == [f"ICD-10 Codes: {golds[order[0]]}"]
    assert [item.weight for item in task.items] == [2, 1]
    benchmark = load_benchmark("medisumcode", "clue")
    first = Item("1", "", [], "", truth=["I10", "I10", "E119"])
    said = benchmark.parse("ICD-10 Codes: I10, E11.9, E11.9, A00.0, Z3A.20, U07.1, e11.9", first)
    assert said == ["I10", "E119", "E119", "A000"]
    # Precision 3/4 (a repeat counts), recall 3/3; categories I10, E11 of I10, E11, A00.
    assert benchmark.score(said, first) == pytest.approx(
        {"code_f1_listed": 6 / 7, "code_f1_category": 4 / 5, "valid_codes_listed": 1.0}
    )
    # Recall counts the gold's repeats: 2 of 3; strict has 1 of 2 codes.
    assert benchmark.score(["I10"], first)["code_f1_listed"] == pytest.approx(4 / 5)
    assert strict_code_f1(["I10"], ["I10", "I10", "E119"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", load(Suite, FOLDER.parents[1] / "suites" / "clue_plus.yml").benchmarks)
def test_the_same_items_in_other_words(name: str, tmp_path: Path) -> None:
    """Both protocols ask the same items, in other words (noted); a gold scores 1, but for two published errors."""
    CASES[name][0](tmp_path)
    clue, strict = (prepared(name, tmp_path, 0, protocol) for protocol in ("clue", "strict"))
    if name != "longhealth":
        assert {item.id: item.group for item in clue.items} == {item.id: item.group for item in strict.items}
    assert clue.items[0].messages[0] == {"role": "system", "content": load_prompt(name).system}
    assert clue.items[0].messages[0] != strict.items[0].messages[0]
    assert clue.notes["prompt wording"] == load_prompt(name).wording
    for item in clue.items:
        missed = name == "medisumcode" and item.truth == ["C7A00"]  # a code that the pattern does not find
        short = "rouge2_all" in vars(clue.benchmark).get("COMPONENTS", ()) and len(re.findall(r"\w+", item.gold)) == 1
        expected = 0.0 if missed else pytest.approx(2 / 3) if short else 1.0
        assert score_of(name, "clue", item, item.gold) == expected


def test_every_prompt_says_where_its_words_are_from() -> None:
    """CLUE's with their licence, the others as ours; every benchmark of the protocol has one, and no other is there."""
    folder = FOLDER.parent
    named = {path.stem for path in folder.glob("*.py")} - {"__init__", "protocol", "texts"}
    assert {path.stem for path in FOLDER.glob("*.yml")} == named
    for path in FOLDER.glob("*.yml"):
        first, wording = path.read_text().splitlines()[0], load_prompt(path.stem).wording
        published = "# prompt wording: TIO-IKIM/CLUE, MIT, Copyright of its authors"
        assert first.startswith((published, "# prompt wording: ours"))
        assert (wording == published.removeprefix("# prompt wording: ")) is first.startswith(published)
    assert "Permission is hereby granted" in (FOLDER / "LICENSE").read_text()


def test_fields_are_put_in_as_they_are() -> None:
    """Braces in a text, and other braces in a template, are no fields."""
    assert filled("{question} {x} {{", question="{question} {}") == "{question} {} {x} {{"
    assert filled("{b}-{a}", a="{b}", b="1") == "1-{b}"


def test_an_unknown_metric_is_named() -> None:
    """Alone and within a composite."""
    for name in ("rouge9", "mean(rouge9)", "mean_of_rounded(rouge1, rouge9)", "median(rouge1)"):
        with pytest.raises(UserError, match="no metric is called"):
            find_metric(name)


def strict_code_f1(said: list[str], true: list[str]) -> float:
    """What strict gives for these codes."""
    item = Item("1", "", [], "", truth=true)
    return load_benchmark("medisumcode").score(said, item)["code_f1"]


def score_of(name: str, protocol: str, item: Item, output: str) -> float:
    """What one output earns on the headline of a benchmark under a protocol."""
    benchmark = load_benchmark(name, protocol)
    row = sample_of(name, benchmark, item, "", output)
    return item_score(row, headline(benchmark, [row]))


def test_weights_do_not_touch_the_items() -> None:
    """Only the first item's weight changes."""
    items = [Item(c, "", ask("", ""), "") for c in "abc"]
    assert [item.weight for item in first_counts_twice(items)] == [2, 1, 1]
    assert [item.id for item in shots_from_test(items, 1)] == [item.id for item in shuffled(items)[1:]]
