"""Negative controls take the lesson out of their data and nothing else, and say so where a step gains without it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.controls import Pipeline, Row, difference, render, run_controls, step
from benchmarks.controls_data import (
    Change,
    clinic_facts,
    noise_like,
    rename,
    rename_entities,
    shuffle_answers,
    swap_sides,
    write_changed,
)
from medsmith import run
from medsmith.config import Config as BaseConfig
from medsmith.errors import UserError
from medsmith.intervals import Interval
from medsmith.records import Instruction, read_jsonl, read_parquet, write_json, write_jsonl, write_parquet
from tests.toy_training import instruction


def row(number: int, output: str, task: str = "nli") -> Instruction:
    return instruction(number, output=output, task_type=task)


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("within_task", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_no_row_keeps_its_answer_and_the_answers_are_the_same(seed: int, within_task: bool) -> None:
    """A shuffle of labels and texts: the same multiset (of each task, if within), nobody with its own words."""
    rows = [row(n, ("yes", "yes", "no", "perhaps")[n % 4]) for n in range(40)]
    rows += [row(100 + n, f"text {n}", "summary") for n in range(20)]
    made = shuffle_answers(rows, seed, within_task=within_task)
    assert len(made) == len(rows) and all(a.output != b.output for a, b in zip(rows, made, strict=True))
    assert [(a.instruction, a.input) for a in rows] == [(b.instruction, b.input) for b in made]
    assert Counter(a.output for a in rows) == Counter(b.output for b in made)
    for task in ("nli", "summary") if within_task else ():
        told = (Counter(one.output for one in side if one.task_type == task) for side in (rows, made))
        assert next(told) == next(told)


def test_a_majority_answer_loses_as_few_rows_as_can_be() -> None:
    """Seven times yes and three times no: four of the yes are left out, since no other row could have their answer."""
    rows = [row(n, "yes" if n < 7 else "no") for n in range(10)]
    made = shuffle_answers(rows, 0, within_task=True)
    assert Counter(one.output for one in made) == {"yes": 3, "no": 3}
    assert not shuffle_answers([row(0, "yes"), row(1, "yes")], 0, within_task=True)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("world", ["clinic", "second"])
def test_no_entity_keeps_a_fact_of_its_own_and_the_facts_are_the_same(world: str, seed: int) -> None:
    """Every disease and drug of the clinic has another name; what was true of one is then false of it."""
    facts = clinic_facts(world)
    names = rename_entities(facts, seed)
    for kind, pairs in facts.items():
        entities = {entity for entity, _ in pairs}
        assert {names[entity] for entity in entities} == entities, "a permutation of each kind"
        assert all(names[entity] != entity for entity in entities)
        renamed = [(names[entity], names.get(value, value)) for entity, value in pairs]
        assert not set(renamed) & set(pairs), kind
        assert Counter(value for _, value in renamed) == Counter(value for _, value in pairs)


def test_facts_that_all_share_cannot_be_renamed_away() -> None:
    """Where every entity has the same value, no renaming makes it false: an error, not a silent lie."""
    with pytest.raises(UserError, match="keep one"):
        rename_entities({"disease": [("asthma", "fever"), ("gout", "fever")]}, 0, tries=100)


def test_a_text_is_renamed_whole_words_longest_first_and_capitals_stay() -> None:
    """`Iron deficiency` is not `iron`; a chain of names is no chain of replacements."""
    names = {"gout": "asthma", "asthma": "gout", "iron": "zinc", "iron deficiency": "scurvy"}
    assert rename("Gout, asthma; iron deficiency and iron; gouty.", names) == "Asthma, gout; scurvy and zinc; gouty."


def test_noise_has_the_size_of_the_change_and_not_its_direction() -> None:
    """The norm is the change's; the cosine with it is about that of chance; the same seed gives the same noise."""
    torch = pytest.importorskip("torch")
    change = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * 0.01
    noise = noise_like(change, 7)
    assert noise.norm().item() == pytest.approx(change.norm().item(), rel=1e-4)
    assert abs(torch.nn.functional.cosine_similarity(noise.flatten(), change.flatten(), dim=0).item()) < 0.06
    assert torch.equal(noise, noise_like(change, 7)) and not torch.equal(noise, noise_like(change, 8))
    assert noise_like(torch.zeros(3), 0).abs().sum() == 0


class Made(BaseConfig):
    """A step of the toy pipeline."""

    model: str = ""
    suite: str = "toy"


def finish(folder: Path, command: str = "test", **config: Any) -> Path:
    with run.start(Made(out=folder, **config), command) as this:
        return this.finish()


def test_pairs_are_swapped_and_rows_shuffled_as_a_finished_folder(tmp_path: Path) -> None:
    """What the command writes can be read as the real step's input; what is left out is counted."""
    pairs = [instruction(n, output=f"good {n}", rejected_output=f"bad {n}") for n in range(4)]
    with run.start(Made(out=tmp_path / "pairs"), "test") as this:
        write_parquet(this.folder / "data" / "a.parquet", pairs)
        this.finish()
    out = write_changed(Change(out=tmp_path / "swapped", source=tmp_path / "pairs", kind="swapped"))
    assert read_parquet(out / "data") == [swap_sides(pair) for pair in pairs]
    assert [one.output for one in read_parquet(out / "data")] == [f"bad {n}" for n in range(4)]
    out = write_changed(Change(out=tmp_path / "rows", source=tmp_path / "pairs", kind="answers"))
    assert run.require_finished(out)["counts"] == {"in": 4, "kept": 4, "dropped": 0}
    with run.start(Made(out=tmp_path / "told"), "test") as this:
        write_jsonl(this.folder / "rows.jsonl", [{"document_id": "d", "output": "Question: What treats gout?"}])
        this.finish()
    out = write_changed(Change(out=tmp_path / "renamed", source=tmp_path / "told", kind="renamed_rows"))
    (told,) = read_jsonl(out / "rows.jsonl")
    assert told["document_id"] == "d" and "gout" not in told["output"] and told["output"].startswith("Question: What")


# --- measures --------------------------------------------------------------------------------------------------------


def evaluation(folder: Path, right: dict[str, list[bool]], slices: dict[str, str] | None = None) -> Path:
    rows = [
        {
            "benchmark": name.partition("/")[0],
            "id": f"{name} {n}",
            "group": f"{name} {n}",
            "slice": (slices or {}).get(name, ""),
            "weight": 1,
            "gold": "x",
            "score": float(value),
            "scores": {"accuracy": float(value)},
            "counts": {},
            "unreadable": False,
        }
        for name, values in right.items()
        for n, value in enumerate(values)
    ]
    write_jsonl(folder / "samples.jsonl", rows)
    entries = {name: {"metric": "accuracy", "slice_mean": False} for name in {row["benchmark"] for row in rows}}
    write_json(folder / "result.json", {"benchmarks": entries})
    return folder


def test_a_difference_is_that_of_the_benchmarks_that_count(tmp_path: Path) -> None:
    """By hand: the mean over benchmarks; and on questions only the expert's slice of what asks for facts."""
    wrong, right, half = [False] * 40, [True] * 40, [True, False] * 20
    slices = {"medqa/a": "guidelines", "medqa/b": "pubmed"}
    one = evaluation(tmp_path / "one", {"medqa/a": wrong, "medqa/b": half, "mednli": half}, slices)
    two = evaluation(tmp_path / "two", {"medqa/a": right, "medqa/b": half, "mednli": wrong}, slices)
    before, change = difference(one, two)
    assert before == pytest.approx(37.5) and change.value == pytest.approx(0.0)
    before, change = difference(one, two, "guidelines")
    assert (before, change.value) == (0.0, 100.0) and change.low > 50
    assert difference(one, two, "pubmed")[1].value == 0.0


def test_the_table_says_where_a_control_does_not_hold() -> None:
    """A gain of a control is told as plainly as none."""
    gain = Interval(5.0, 3.0, 7.0)
    text = render([Row("sft", "average", 20.0, gain, gain, "no gain", False)])
    assert "| sft | average | 20.0 | +5.0 [+3.0, +7.0] | +5.0 [+3.0, +7.0] | no gain | **no** |" in text


def test_a_pipeline_that_is_not_there_or_lacks_a_step_is_told(tmp_path: Path) -> None:
    """In one line, with the remedy."""
    with pytest.raises(UserError, match="holds no finished step; run the pipeline first"):
        Pipeline(tmp_path)
    finish(tmp_path / "curate")
    with pytest.raises(UserError, match=r"no finished step of align\.sft"):
        run_controls(tmp_path, tmp_path / "controls", ["sft"], "guidelines")


def test_only_the_curated_rows_of_a_mixture_are_shuffled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rehearsed beside them stays, whether a step made it or it is a mere folder of rows."""
    curate = tmp_path / "p" / "curate"
    with run.start(Made(out=curate), "mediflow.curate") as this:
        write_parquet(this.folder / "data" / "a.parquet", [row(n, f"answer {n}") for n in range(4)])
        this.finish()
    mix = {"curated": {"data": str(curate)}, "rehearsal": {"data": str(tmp_path / "lessons")}}
    write_json(
        tmp_path / "p" / "sft" / "run.json",
        {"command": "align.sft", "config": {"data": None, "mix": mix, "model": "m"}},
    )
    asked: dict[str, Any] = {}

    def made(command: str, settings: dict[str, Any], out: Path) -> Path:
        asked.update(settings)
        return out

    monkeypatch.setattr("benchmarks.controls.step", made)
    with pytest.raises(UserError, match="holds no evaluation"):
        run_controls(tmp_path / "p", tmp_path / "c", ["sft"], "guidelines")
    assert asked["mix"]["rehearsal"] == mix["rehearsal"]
    assert asked["mix"]["curated"]["data"] == str(tmp_path / "c" / "sft-rows-curated")
    assert {one.output for one in read_parquet(tmp_path / "c" / "sft-rows-curated" / "data")} == {
        f"answer {n}" for n in range(4)
    }


def test_a_finished_step_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same settings: nothing is called; others: the command runs in a process of its own, and a failure is told."""
    about = {"title": "A page", "source": "toy", "license": "CC0-1.0"}
    told = [
        about | {"id": str(n), "text": f"Page {n} tells of a disease, its {n} symptoms and a drug."} for n in range(20)
    ]
    write_jsonl(tmp_path / "corpus.jsonl", told)
    settings = {"corpus": str(tmp_path / "corpus.jsonl")}
    folder = step("experts.corpora", settings, tmp_path / "out")
    assert run.require_finished(folder)["command"] == "experts.corpora"
    assert json.loads((tmp_path / "out.yml").read_text())["out"] == str(folder)
    monkeypatch.setattr("benchmarks.controls.subprocess.run", lambda *args, **kwargs: pytest.fail("it was finished"))
    assert step("experts.corpora", settings, tmp_path / "out") == folder
    monkeypatch.undo()
    with pytest.raises(UserError, match="failed"):
        step("experts.corpora", settings | {"corpus": str(tmp_path / "nowhere")}, tmp_path / "other")


def test_changed_data_are_not_written_again(tmp_path: Path) -> None:
    """A killed control finds its input again: the file is the first one's."""
    with run.start(Made(out=tmp_path / "pairs"), "test") as this:
        write_parquet(this.folder / "data" / "a.parquet", [row(n, f"answer {n}") for n in range(4)])
        this.finish()
    change = Change(out=tmp_path / "out", source=tmp_path / "pairs", kind="answers")
    (file,) = (write_changed(change) / "data").glob("*.parquet")
    before = file.stat().st_mtime_ns
    write_changed(change)
    assert file.stat().st_mtime_ns == before
