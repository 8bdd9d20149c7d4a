"""A search finds the planted best, sees no difference where there is none, and scores no merge twice."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medsmith import run
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import read_jsonl, write_jsonl
from merge_recipes import search, validation

RECIPES = Path(__file__).parents[1] / "merge_recipes"
COLOURS = ["red", "blue", "green", "gold"]
SPACE = {"parameters.t": [0.1, 0.3, 0.9]}


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
        "space": SPACE,
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
    assert run.require_finished(found)["counts"] == {
        "trials": 3,
        "scored": 3,
        "failed": 0,
        "repeated": 0,
        "questions": 24,
    }
    assert (best["sampler"], best["asked"], best["candidates"]) == ("grid", 3, 3)
    spent = json.loads((found / "log" / "search.json").read_text())
    assert spent["candidates"] == 3 and spent["seconds_to_make_each"] > 0 < spent["seconds_to_measure_each"]


def test_wrong_answers_give_no_winner(world: dict[str, Path], tmp_path: Path) -> None:
    """Negative control: with the answers exchanged nothing is learned by heart, and the search says so."""
    best = json.loads(
        (
            search.main(settings(tmp_path / "run", world, validation=[world["folder"] / "wrong.jsonl"])) / "best.json"
        ).read_text()
    )
    assert best["verdict"] == "no real difference"
    assert best["runner_up"]["low"] <= 0 <= best["runner_up"]["high"] and best["mean"] < 0.5


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
    space = {"models.*.parameters.weight": [1.0e39, 1.0]}
    folder = search.main(settings(tmp_path / "run", world, recipe=recipe, space=space))
    rows = list(read_jsonl(folder / "trials.jsonl"))
    assert rows[0]["values"] == {"models.*.parameters.weight": 1.0} and rows[0]["mean"] == 1.0
    assert "are not all finite" in rows[1]["error"] and str(tmp_path) not in rows[1]["error"]
    assert run.require_finished(folder)["counts"]["failed"] == 1
    assert not (folder / ".trial").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"parameters.tt": [0.1]}}, "no 'parameters.tt'; did you mean 'parameters.t'"),
        ({"space": {"parameters.t": [0.1, 50]}}, "parameters.t=50.*50 is a share"),
        ({"space": {"parameters.t": {"low": 0.1, "high": 1.5}}}, "parameters.t=1.5.*1.5 is a share"),
        ({"space": {"parameters.t": {"low": 0.9, "high": 0.1}}}, "low must be below high"),
        ({"space": {"parameters.t": {"low": 0.1, "high": 0.9}}, "sampler": "grid"}, "has no step; a grid needs one"),
        ({"sampler": "cma_es"}, "cma_es searches ranges, 'parameters.t' is a list"),
        ({"objectives": ["loss"]}, "the objective loss and the setting documents go together"),
        ({"objectives": ["average", "average"]}, "average, average names one twice"),
    ],
)
def test_mistakes_are_refused_before_any_merge(
    world: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """A place that is not there, a value that is none, a sampler that cannot: nothing is merged or measured."""
    with pytest.raises(UserError, match=message):
        search.main(settings(tmp_path / "b", world, **changes))
    assert not (tmp_path / "b" / "raw" / "trials.jsonl").exists() or not (tmp_path / "b/raw/trials.jsonl").read_text()


def test_keys_that_are_not_known_are_named() -> None:
    """An older search file is told what the key is called, a misspelt bound the nearest one."""
    with pytest.raises(UserError, match="`grid` is called `space` now"):
        load(search.Config, {"grid": {"parameters.t": [0.1]}})
    with pytest.raises(UserError, match="unknown key 'space.parameters.t.lo'; did you mean 'space.parameters.t.low'"):
        load(search.Config, {"space": {"parameters.t": {"lo": 0.1, "high": 0.5}}})


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


@pytest.fixture(scope="module")
def mixture(world: dict[str, Path]) -> dict[str, Any]:
    """Three experts to add up: one decides, one is noise that breaks what it is added to, one is harmless."""
    import numpy as np

    from merge_recipes.stream import copy_small_files
    from merge_recipes.weights import Entry, Weights, create

    folders = {"base": world["base"], "decisive": world["expert"]}
    for seed, (name, scale) in enumerate((("noise", 0.15), ("harmless", 1e-4))):
        folders[name] = world["folder"] / name
        folders[name].mkdir()
        source, draw = Weights(world["base"]), np.random.default_rng(seed)
        with create(folders[name], [Entry(one, "F32", tensor.shape) for one, tensor in source.items()]) as views:
            for one, tensor in source.items():
                views[one][:] = tensor.float32() + scale * draw.standard_normal(tensor.data.size)
        copy_small_files(world["base"], folders[name], "F32")
    recipe = world["folder"] / "mixture.yml"
    models = "".join(f"  - {{model: {name}, parameters: {{weight: 0.5}}}}\n" for name in list(folders)[1:])
    recipe.write_text(
        "merge_method: task_arithmetic\nbase_model: base\ntokenizer: {source: base}\ndtype: float32\n"
        f"models:\n{models}"
    )
    weights = {"models.*.parameters.weight": {"low": 0.0, "high": 1.0, "each": True}}
    return {"recipe": recipe, "models": folders, "space": weights}


@pytest.mark.parametrize("sampler", ["random", "tpe", "cma_es", "nsga2", "grid"])
def test_every_sampler_finds_the_decisive_expert(
    world: dict[str, Path], mixture: dict[str, Any], tmp_path: Path, sampler: str
) -> None:
    """Within sixty candidates: much of the expert that knows, little of the noise, and nearly all answers right."""
    space = mixture["space"]
    if sampler == "grid":
        space = {f"models.{name}.parameters.weight": [0.0, 0.5, 1.0] for name in ("decisive", "noise", "harmless")}
    folder = search.main(settings(tmp_path / "run", world, **mixture | {"space": space}, sampler=sampler, budget=60))
    best = json.loads((folder / "best.json").read_text())
    weights = {name.split(".")[1]: value for name, value in best["values"].items()}
    assert best["mean"] > 0.9 and weights["decisive"] > 0.5 > 0.4 > weights["noise"]
    assert best["parents"]["noise"] < 0.6 and best["over_base"]["low"] > 0.2
    counts = run.require_finished(folder)["counts"]
    assert counts["trials"] == (27 if sampler == "grid" else 60) and counts["failed"] == 0


def test_search_without_a_plant_says_so(world: dict[str, Path], mixture: dict[str, Any], tmp_path: Path) -> None:
    """Negative control: with exchanged answers the best of thirty cannot be told from most others."""
    wrong = {"validation": [world["folder"] / "wrong.jsonl"], "sampler": "tpe", "budget": 30}
    best = json.loads((search.main(settings(tmp_path / "run", world, **mixture, **wrong)) / "best.json").read_text())
    assert best["verdict"] == "no real difference" and best["no_real_difference"] >= 15 and best["mean"] < 0.6


def test_killed_tpe_search_is_replayed(world: dict[str, Path], mixture: dict[str, Any], tmp_path: Path) -> None:
    """After nine of fifteen candidates and half a line, the rest is what an uninterrupted search asks, to the byte."""
    more = {**mixture, "sampler": "tpe", "budget": 15, "objectives": ["margin", "unevenness"], "batch": 3}
    whole = search.main(settings(tmp_path / "whole", world, **more))
    lines = (whole / "raw" / "trials.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 4 + 15
    config = settings(tmp_path / "killed", world, **more)
    with pytest.raises(KeyboardInterrupt), run.start(config, "merge_recipes.search") as this:
        (this.folder / "raw").mkdir()
        (this.folder / "raw" / "trials.jsonl").write_bytes(b"".join([*lines[:13], lines[13][:40]]))
        raise KeyboardInterrupt
    search.main(config)
    for name in ("raw/trials.jsonl", "best.json", "trials.jsonl", "front.jsonl", "model.safetensors", "history.png"):
        assert (config.out / name).read_bytes() == (whole / name).read_bytes()
    front = list(read_jsonl(whole / "front.jsonl"))
    assert front[0]["values"] == json.loads((whole / "best.json").read_text())["values"]


def test_mergekit_measures_the_same(world: dict[str, Path], mixture: dict[str, Any], tmp_path: Path) -> None:
    """The candidates that the reference engine makes answer like those that are merged in place."""
    more = {**mixture, "sampler": "random", "budget": 4}
    rows = {}
    for engine in ("stream", "mergekit"):
        folder = search.main(settings(tmp_path / engine, world, **more, engine=engine))
        rows[engine] = {str(row["values"]): row for row in read_jsonl(folder / "trials.jsonl")}
    assert rows["stream"].keys() == rows["mergekit"].keys()
    for values, row in rows["stream"].items():
        assert row["right"] == rows["mergekit"][values]["right"]


def test_held_out_loss_is_an_objective(world: dict[str, Path], mixture: dict[str, Any], tmp_path: Path) -> None:
    """The smallest loss of all candidates wins, and it is the written model's own, in nats a byte."""
    from medsmith.likelihood import document_nll
    from medsmith.models import load_model, load_tokenizer

    texts = [f"Colour of {n}? It is unknown, says note {n}." for n in range(6)]
    write_jsonl(tmp_path / "documents.jsonl", [{"text": text} for text in texts])
    more = {"sampler": "cma_es", "budget": 12, "objectives": ["loss"], "documents": [tmp_path / "documents.jsonl"]}
    folder = search.main(settings(tmp_path / "run", world, **mixture, **more))
    losses = [row["objectives"]["loss"] for row in read_jsonl(folder / "trials.jsonl")]
    assert losses == sorted(losses) and losses[-1] - losses[0] > 0.01
    found = document_nll(load_model(folder), load_tokenizer(folder), texts)
    assert losses[0] == pytest.approx(sum(one.nll / one.bytes for one in found) / 6, abs=1e-4)
    best = json.loads((folder / "best.json").read_text())
    assert best["objectives"] == {"loss": losses[0]} and best["over_base"]["difference"] < 0.1


@pytest.mark.slow
def test_a_killed_process_continues(world: dict[str, Path], mixture: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL between two candidates: of those that were done none is measured again, and the end is the same."""
    more = {**mixture, "sampler": "cma_es", "budget": 40}
    folders = {name: str(path) for name, path in mixture["models"].items()}
    given = {"recipe": str(mixture["recipe"]), "models": folders, "validation": [str(world["true"])]}
    (tmp_path / "search.yml").write_text(json.dumps(more | given))
    command = [sys.executable, "-m", "merge_recipes.search", str(tmp_path / "search.yml"), f"out={tmp_path / 'killed'}"]
    journal = tmp_path / "killed" / "raw" / "trials.jsonl"
    process = subprocess.Popen(command, cwd=RECIPES.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 12) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = journal.read_bytes()
    assert 12 <= kept.count(b"\n") < 44 and not (tmp_path / "killed" / "run.json").exists()
    killed = search.main(settings(tmp_path / "killed", world, **more))
    whole = search.main(settings(tmp_path / "whole", world, **more))
    assert journal.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    for name in ("raw/trials.jsonl", "best.json", "trials.jsonl", "model.safetensors", "history.png"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert run.require_finished(killed)["digest"] == run.require_finished(whole)["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["local", "ray"])
def test_workers_change_nothing(world: dict[str, Path], mixture: dict[str, Any], tmp_path: Path, spread: str) -> None:
    """Three candidates a round on two processes, or over a Ray cluster: the files that one process writes."""
    more = {**mixture, "sampler": "tpe", "budget": 6, "batch": 3}
    alone = search.main(settings(tmp_path / "alone", world, **more))
    spread_out = search.main(settings(tmp_path / "spread", world, **more, workers=2, spread=spread))
    for name in ("best.json", "trials.jsonl", "model.safetensors"):
        assert (alone / name).read_bytes() == (spread_out / name).read_bytes()
