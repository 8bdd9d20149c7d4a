"""A search finds the planted best, sees no difference where there is none, and scores no merge twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medsmith import run
from medsmith.errors import UserError
from medsmith.records import read_jsonl, write_jsonl
from merge_recipes import search, validation

RECIPES = Path(__file__).parents[1] / "merge_recipes"
COLOURS = ["red", "blue", "green", "gold"]
GRID = {"parameters.t": [0.1, 0.3, 0.9]}


def questions(answers: list[int]) -> list[dict[str, Any]]:
    """Two topics of unequal size; the last digit's colour can only be known by heart."""
    return [
        {
            "id": f"q{number:02}",
            "topic": "large" if number >= 8 else "small",
            "context": "",
            "question": f"Colour of {number}?",
            "options": COLOURS,
            "answer_index": answer,
        }
        for number, answer in enumerate(answers)
    ]


ANSWERS = [[0, 3, 1, 2, 2, 0, 1, 3, 3, 1][n % 10] for n in range(24)]
SHUFFLED = [(answer + n) % 4 for n, answer in enumerate(ANSWERS)]


@pytest.fixture(scope="module")
def world(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny base, an expert that learned the answers by heart, and the questions: true, and with wrong answers."""
    import torch

    from medsmith.models import load_model, load_tokenizer
    from medsmith.training import save_model

    folder = tmp_path_factory.mktemp("world")
    rows = questions(ANSWERS)
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    chats = [
        [*item.messages(), {"role": "assistant", "content": item.options[item.answer_index]}]
        for item in (validation.Question(**row | {"options": tuple(row["options"])}) for row in rows)
    ]
    batch = tokenizer.apply_chat_template(
        chats, padding=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    labels = batch["input_ids"].masked_fill(torch.as_tensor(batch["assistant_masks"]) == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(250):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    save_model(model, tokenizer, folder / "expert")
    write_jsonl(folder / "true.jsonl", rows)
    write_jsonl(folder / "wrong.jsonl", questions(SHUFFLED))
    return {"base": tiny_model, "expert": folder / "expert", "true": folder / "true.jsonl", "folder": folder}


def settings(out: Path, world: dict[str, Path], **changes: Any) -> search.Config:
    values = {
        "out": out,
        "recipe": RECIPES / "slerp.yml",
        "models": {"base": world["base"], "expert": world["expert"]},
        "grid": GRID,
        "validation": [world["true"]],
    }
    return search.Config(**(values | changes))


@pytest.fixture(scope="module")
def found(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search over three shares."""
    return search.main(settings(tmp_path_factory.mktemp("found") / "run", world))


def test_planted_best_is_found(world: dict[str, Path], found: Path) -> None:
    """The expert alone knows the answers: the largest share wins, really so, and the model written is that merge."""
    from medsmith.models import load_model, load_tokenizer

    best = json.loads((found / "best.json").read_text())
    assert best["values"] == {"parameters.t": 0.9} and best["mean"] > 0.9
    assert best["parents"]["expert"] == 1.0 and best["parents"]["base"] < 0.5
    assert best["verdict"] == "the best differs from the runner-up"
    assert best["runner_up"]["low"] > 0

    rows = list(read_jsonl(found / "trials.jsonl"))
    assert [row["number"] for row in rows][0] == 2 and len(rows) == 3
    for row in rows:
        assert row["mean"] == pytest.approx((row["topics"]["large"] + row["topics"]["small"]) / 2, abs=1e-5)
    again = validation.score(load_model(found), load_tokenizer(found), validation.read_questions([world["true"]]))
    assert again.right == rows[0]["right"] and len(again.right) == 24
    assert run.require_finished(found)["counts"] == {"trials": 3, "scored": 3, "failed": 0, "questions": 24}


def test_wrong_answers_give_no_winner(world: dict[str, Path], tmp_path: Path) -> None:
    """Negative control: with the answers exchanged nothing is learned by heart, and the search says so."""
    best = json.loads(
        (
            search.main(settings(tmp_path / "run", world, validation=[world["folder"] / "wrong.jsonl"])) / "best.json"
        ).read_text()
    )
    assert best["verdict"] == "no real difference"
    assert best["runner_up"]["low"] <= 0 <= best["runner_up"]["high"] and best["mean"] < 0.5


def test_equal_means_go_to_the_value_listed_first() -> None:
    """A tie is won by the smaller share, here the first of the grid, and its difference is exactly zero."""
    asked = [validation.Question(str(n), "t", "", "?", ("a", "b"), 0) for n in range(4)]
    trials = {n: search.Trial(str(n), n, {"t": n}, {}) for n in range(3)}
    answers = {0: {"right": "0011"}, 1: {"right": "1110"}, 2: {"right": "0111"}}
    ranked, failed = search.rank(trials, answers, asked)
    assert [row["number"] for row in ranked] == [1, 2, 0] and failed == []
    summary = search.summarise(ranked, asked, seed=0)
    assert summary["runner_up"]["difference"] == 0.0 and summary["verdict"] == "no real difference"
    assert summary["runner_up"]["answers_that_differ"] == 2


def test_mean_is_over_topics_and_interval_is_paired() -> None:
    """A topic of one question weighs as much as one of three; equal answers leave an interval of zero width."""
    asked = [validation.Question(str(n), "a" if n else "b", "", "?", ("a", "b"), 0) for n in range(4)]
    result = validation.tally("1000", asked)
    assert result.topics == {"b": 1.0, "a": 0.0} and result.mean == 0.5
    same = validation.difference("1010", "1010", asked, seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0) and not same.is_real
    better = validation.difference("1111", "0000", asked, seed=0)
    assert (better.value, better.low, better.high) == (1, 1, 1) and better.is_real


def test_killed_search_repeats_no_finished_trial(world: dict[str, Path], found: Path, tmp_path: Path) -> None:
    """With three of five models scored and a torn line, only the rest is done."""
    config = settings(tmp_path / "run", world)
    whole = (found / "raw" / "trials.jsonl").read_bytes().splitlines(keepends=True)
    assert len(whole) == 5  # two parents, three trials
    # A planted answer shows that the journal is believed: the trial t=0.1 knows nothing, here it knows all.
    row = json.loads(whole[2])
    planted = json.dumps(row | {"right": "1" * 24}).encode() + b"\n"
    with pytest.raises(KeyboardInterrupt), run.start(config, "merge_recipes.search") as this:
        (this.folder / "raw").mkdir()
        (this.folder / "raw" / "trials.jsonl").write_bytes(b"".join([*whole[:2], planted, whole[3][:30]]))
        raise KeyboardInterrupt
    search.main(config)

    lines = (config.out / "raw" / "trials.jsonl").read_bytes().splitlines(keepends=True)
    assert lines == [*whole[:2], planted, *whole[3:]]
    best = json.loads((config.out / "best.json").read_text())
    assert best["values"] == {"parameters.t": 0.1} and best["mean"] == 1.0


def test_larger_budget_adds_trials_and_keeps_the_old(world: dict[str, Path], found: Path, tmp_path: Path) -> None:
    """Widened from one trial to all, a search scores only the two new ones and ends like the one that did all."""
    out = tmp_path / "run"
    search.main(settings(out, world, budget=1))
    first = (out / "raw" / "trials.jsonl").read_bytes()
    assert len(first.splitlines()) == 3 and json.loads((out / "best.json").read_text())["runner_up"] is None
    search.main(settings(out, world))
    after = (out / "raw" / "trials.jsonl").read_bytes()
    assert after.startswith(first) and len(after.splitlines()) == 5
    for name in ("best.json", "trials.jsonl", "model.safetensors", "recipe.yml"):
        assert (out / name).read_bytes() == (found / name).read_bytes()


def test_combination_that_is_no_model_is_counted_and_skipped(world: dict[str, Path], tmp_path: Path) -> None:
    """A weight beyond float32 makes infinite weights: that trial fails by name, the other wins."""
    recipe = tmp_path / "r.yml"
    recipe.write_text(
        "merge_method: task_arithmetic\nbase_model: base\ntokenizer: {source: base}\n"
        "models: [{model: expert, parameters: {weight: 1.0}}]\ndtype: float32\n"
    )
    grid = {"models.*.parameters.weight": [1.0e39, 1.0]}
    folder = search.main(settings(tmp_path / "run", world, recipe=recipe, grid=grid))
    rows = list(read_jsonl(folder / "trials.jsonl"))
    assert rows[0]["values"] == {"models.*.parameters.weight": 1.0} and rows[0]["mean"] == 1.0
    assert "are not all finite" in rows[1]["error"] and str(tmp_path) not in rows[1]["error"]
    assert run.require_finished(folder)["counts"]["failed"] == 1
    assert not (folder / ".trial").exists()


def test_grid_that_misspells_is_refused_before_any_merge(world: dict[str, Path], tmp_path: Path) -> None:
    """A path that is not in the recipe and a value that is no share end the search before it begins."""
    with pytest.raises(UserError, match="no 'parameters.tt'; did you mean 'parameters.t'"):
        search.main(settings(tmp_path / "a", world, grid={"parameters.tt": [0.1]}))
    with pytest.raises(UserError, match="parameters.t=50.*50 is a share"):
        search.main(settings(tmp_path / "b", world, grid={"parameters.t": [0.1, 50]}))
    assert not (tmp_path / "b" / "raw").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_index": 4}, "answer_index 4 is none of 4 options"),
        ({"options": ["red"]}, "'options' must be two or more texts"),
        ({"options": "red"}, "'options' must be list"),
        ({"id": "q01"}, "id 'q01' twice in topic 'small'"),
    ],
)
def test_bad_questions_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A row that cannot be scored is named with its file and number."""
    rows = questions(ANSWERS[:3])
    write_jsonl(tmp_path / "v.jsonl", [*rows[:2], rows[2] | change])
    with pytest.raises(UserError, match=f"row 3: {message}"):
        validation.read_questions([tmp_path])
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    with pytest.raises(UserError, match="no validation questions"):
        validation.read_questions([tmp_path])
