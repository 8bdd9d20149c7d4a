"""A training's report shows what was logged, measures speed rightly, withholds private texts, and changes no weight."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from medsmith import throughput
from medsmith.errors import UserError
from medsmith.line_chart import Curve, draw, thin
from medsmith.records import Instruction, read_json, write_jsonl, write_parquet
from medsmith.training_report import NEW_TOKENS, complete, curves_of, fitting, to_html

TRAINER = {
    "max_steps": 8,
    "logging_steps": 2,
    "save_steps": 3,
    "per_device_train_batch_size": 2,
    "learning_rate": 1.0e-2,
}


# --- speed ------------------------------------------------------------------------------------------------------------


def test_tokens_a_second_by_hand() -> None:
    """From the first logged loss to the last: 600 tokens in 10 seconds, of which 4 were measuring."""
    rows = [
        {"step": 0, "dev": 0.5, "dev_seconds": 50.0, "tokens": 0, "seconds": 51.0},
        {"step": 2, "loss": 3.0, "tokens": 200, "seconds": 60.0},
        {"step": 4, "dev": 0.5, "dev_seconds": 4.0, "tokens": 400, "seconds": 66.0},
        {"step": 6, "loss": 2.0, "tokens": 800, "seconds": 70.0},
    ]
    assert throughput.tokens_per_second(rows) == 100.0
    assert throughput.tokens_per_second(rows[:3]) is None


def test_flops_are_six_for_a_trained_weight_and_four_for_one_that_is_read() -> None:
    """All of 10 weights trained: 60; two of them under an adapter of the same size: 44."""
    assert throughput.flops_per_token(10, 10) == 60 and throughput.flops_per_token(10, 2) == 44


def test_peak_is_of_the_data_sheet_or_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known GPUs by name, an H100 with PCIe not as one with SXM; what is measured says so, and draws no number."""
    import torch

    state = torch.get_rng_state()
    monkeypatch.setattr(throughput, "SECONDS", 0.01)
    peak = throughput.find_peak("cpu", half=False)
    assert torch.get_rng_state().equal(state)
    assert 1e8 < peak.flops_per_second < 1e14 and peak.how.startswith("measured here: float32 product of 1024 × 1024")
    for name, flops in (
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert throughput.find_peak("cuda", half=True) == (flops, f"{name}: dense bfloat16 by its data sheet")


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_chart_draws_points_where_they_belong() -> None:
    """A fall from 4 to 2 over ten steps goes from top left to bottom right; names are escaped; nan is left out."""
    text = draw([Curve("a <b>", [(0, 4.0), (5, float("nan")), (10, 2.0)]), Curve("none", [])], "loss & more")
    figure = ET.fromstring(text)
    lines = list(figure.iter("polyline"))
    assert len(lines) == 1 and lines[0].get("class") == "c0"
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in (lines[0].get("points") or "").split())
    assert (x0, x1) == (56.0, 508.0) and 12 < y0 < 30 < 190 < y1 < 212
    assert "a <b>" in "".join(figure.itertext()) and "loss & more" in "".join(figure.itertext())
    assert draw([Curve("none", [])], "x") == ""


def test_many_points_are_thinned_to_means() -> None:
    """A thousand points become two hundred means of five."""
    found = thin([(float(n), float(n % 5)) for n in range(1000)])
    assert len(found) == 200 and found[0] == (2.0, 2.0) and found[-1] == (997.0, 2.0)


def test_curves_are_the_rows_of_the_log() -> None:
    """Loss, held-out loss by source, scores and rewards, each under its picture; another phase's rows are not there."""
    rows: list[dict[str, Any]] = [
        {"training": "phase1", "step": 2, "loss": 9.0},
        {"training": "phase2", "step": 2, "loss": 3.0, "rewards/chosen": 0.1, "dev": 0.5},
        {"training": "phase2", "step": 4, "loss": 2.0, "eval_loss": 2.5},
        {"training": "phase2, held out", "step": 0, "heldout_loss": 4.0},
        {"training": "phase2, held out: S", "step": 0, "heldout_loss": 5.0},
    ]
    assert curves_of("phase2", rows) == {
        "loss": {
            "training": [[2, 3.0], [4, 2.0]],
            "held-out rows": [[4, 2.5]],
            "held out": [[0, 4.0]],
            "held out: S": [[0, 5.0]],
        },
        "measured while training": {"dev score": [[2, 0.5]]},
        "reward of answers": {"chosen": [[2, 0.1]]},
    }


# --- what the model says ----------------------------------------------------------------------------------------------


def test_completions_are_those_of_each_prompt_alone(tiny_model: Path) -> None:
    """Prompts of unlike lengths together say what each says alone; chance and mode stay; a long one is left out."""
    import torch

    from medsmith.models import load_model, load_tokenizer

    model, tokenizer = load_model(tiny_model, device="cpu").train(), load_tokenizer(tiny_model)
    prompts = [tokenizer(text)["input_ids"] for text in ("Fever", "The patient denies chest pain.", "No pleural")]
    state = torch.get_rng_state()
    together = complete(model, tokenizer, prompts)
    assert together == [complete(model, tokenizer, [one])[0] for one in prompts] and any(together)
    assert torch.get_rng_state().equal(state) and model.training
    assert complete(model, tokenizer, []) == []
    assert fitting([[], [5] * (256 - NEW_TOKENS + 1), [1], [2], [3], [4]], model) == [[1], [2], [3]]


# --- the whole --------------------------------------------------------------------------------------------------------


def instructions(folder: Path) -> Path:
    rows = [
        Instruction(f"r{n}", f"Do {n // 2}.", f"Dyspnoea {n}?", "No fever.", "qa", "note", "text", "low", "Fever.")
        for n in range(16)
    ]
    write_parquet(folder / "data" / "part-0.parquet", rows)
    return folder


def questions(folder: Path) -> Path:
    rows = [
        {"id": f"q{n}", "topic": "t", "question": f"Fever {n}?", "options": ["No.", "Yes."], "answer_index": n % 2}
        for n in range(6)
    ]
    write_jsonl(folder / "questions.jsonl", rows)
    return folder / "questions.jsonl"


def settings(folder: Path, tiny_model: Path, **more: Any) -> dict[str, Any]:
    return {
        "out": folder / "run",
        "model": tiny_model,
        "data": instructions(folder / "rows"),
        "heldout_share": 0.2,
        "trainer": TRAINER,
        "threads": 1,
    } | more


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_report_of_an_alignment(stage: str, tiny_model: Path, tmp_path: Path) -> None:
    """The log is drawn, prompts are answered, sizes and speed are told; measured or not, the weights are the same."""
    import importlib

    module = importlib.import_module(f"align.{stage}")
    evaluate = {"every_steps": 4, "questions": [questions(tmp_path)], "keep": "last"}
    told = settings(tmp_path, tiny_model, show_text=True)
    out = module.main(module.Config(**told, evaluate=evaluate))
    report = read_json(out / "log" / "report.json")
    (one,) = report["trainings"]
    rows = metrics(out)
    assert one["curves"]["loss"]["training"] == [[row["step"], row["loss"]] for row in rows if "loss" in row]
    assert [step for step, _ in one["curves"]["measured while training"]["dev score"]] == [0, 4, 8]
    assert ("reward of answers" in one["curves"]) == (stage == "dpo")
    assert one["parameters"] == one["trained_parameters"] > 10_000
    assert one["flops_per_token"] == 6 * one["parameters"] and 0 < one["flops_utilisation"] < 1
    assert one["data"][0]["rows"] == read_json(out / "run.json")["counts"]["train"]
    assert 0.002 < one["trained_share"] < 0.95 and one["peak_memory_bytes"] > 1e7
    assert len(one["completions"]) == 3 and all("Dyspnoea" in row["prompt"] for row in one["completions"])
    assert report["versions"].keys() == {"torch", "transformers", "trl"}
    page = (out / "log" / "report.html").read_text()
    assert page.count("<figure>") == len(one["curves"]) and "Dyspnoea" in page and "measured here" in page

    plain = module.main(module.Config(**(told | {"out": tmp_path / "plain"})))
    assert (plain / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_withheld_texts_are_nowhere_in_the_run_folder(tiny_model: Path, tmp_path: Path) -> None:
    """Rows of a folder without a licence: no word of theirs in any file, and the page says why."""
    from align import sft

    out = sft.main(sft.Config(**settings(tmp_path, tiny_model)))
    holding = [path.name for path in out.rglob("*") if path.is_file() and b"Dyspnoea" in path.read_bytes()]
    assert holding == []
    assert "Withheld" in (out / "log" / "report.html").read_text()
    completions = read_json(out / "log" / "report.json")["trainings"][0]["completions"]
    assert [set(row) for row in completions] == [{"tokens"}] * 3


def test_report_of_both_phases_after_a_kill(tiny_model: Path, tmp_path: Path) -> None:
    """An expert killed in its second phase tells of both, each with its own curves and sources."""
    from transformers import TrainerCallback

    from experts import corpora, train
    from medsmith import run
    from medsmith.config import Config, load

    class Rows(Config):
        documents: Path

    class Killer(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if Path(args.output_dir).name == "phase2" and state.global_step == 2:
                raise KeyboardInterrupt

    texts = [
        {"id": f"d{n}", "title": "", "text": f"Case {n}: the patient has fever {n}.", "source": "S", "license": "CC0"}
        for n in range(30)
    ]
    write_jsonl(tmp_path / "in.jsonl", texts)
    documents = corpora.main(load(corpora.Config, {"out": tmp_path / "c", "corpus": str(tmp_path / "in.jsonl")}))
    with run.start(Rows(out=tmp_path / "rows", documents=documents), "rows") as this:
        ids = [json.loads(line)["id"] for line in (documents / "train.jsonl").read_text().splitlines()]
        outputs = [{"id": key, "document_id": key, "task": "summary", "output": f"Fever {key}."} for key in ids]
        write_jsonl(this.folder / "rows.jsonl", outputs)
        rows = this.finish(rows=len(ids))
    config = load(
        train.Config,
        {
            "out": tmp_path / "run",
            "base": str(tiny_model),
            "documents": str(documents),
            "rows": str(rows),
            "method": "pit",
            "max_tokens": 64,
            "threads": 1,
            "trainer": {"per_device_train_batch_size": 2, "logging_steps": 1, "save_steps": 1},
        },
    )
    with pytest.raises(KeyboardInterrupt):
        train.main(config, [Killer()])
    train.main(config)
    report = read_json(config.out / "log" / "report.json")
    assert [one["training"] for one in report["trainings"]] == ["phase1", "phase2"]
    for one in report["trainings"]:
        assert one["data"][0]["source"] == "S" and one["data"][0]["tokens"] > 0 and one["trained_share"] == 1.0
        assert {"training", "held out"} <= one["curves"]["loss"].keys()
        assert all(row["prompt"].startswith("<|endoftext|>Case") for row in one["completions"])
    assert [one["data"][0]["epochs"] for one in report["trainings"]] == [1, 2]
    assert (config.out / "mask-phase1.html").is_file() and (config.out / "mask-phase2.txt").is_file()
    assert "Case" not in (config.out / "mask-phase1.txt").read_text(), "phase 1 sees outputs only"
    assert to_html(report) == (config.out / "log" / "report.html").read_text()


def test_a_wrong_metric_ends_before_training(tiny_model: Path, tmp_path: Path) -> None:
    """A metric that is not measured is refused at the first measurement, before the first step."""
    from align import sft

    evaluate = {"every_steps": 4, "questions": [questions(tmp_path)], "metric": "x"}
    with pytest.raises(UserError, match="metric=x is not measured; known here: mean, t"):
        sft.main(sft.Config(**settings(tmp_path, tiny_model), evaluate=evaluate))
    assert metrics(tmp_path / "run") == []
