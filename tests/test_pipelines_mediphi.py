"""The chain at the paper's size: it loads as written, says what the paper says, and costs what a pencil says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medsmith import cli
from medsmith.costs import Work, compare, costs_of, count
from medsmith.errors import UserError
from medsmith.pipeline import Pipeline, left_out, load_pipeline
from medsmith.sizes import Sizes
from medsmith.yaml_files import read_yaml

ROOT = Path(__file__).parent.parent
FILE = "pipelines/mediphi.yml"
EXPERTS = ("clinical", "medwiki", "guidelines", "medcode")


@pytest.fixture(autouse=True)
def _in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are named from the clone's root, as on the command line."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def chain() -> Pipeline:
    """The pipeline as `medsmith run` loads it, with data that are not there."""
    loaded = load_pipeline(ROOT / FILE, ["corpora=/not/there", "benchmarks=/not/there"])
    loaded.check()
    return loaded


def settings(chain: Pipeline, step: str) -> Any:
    return chain.steps[step].config


def test_the_chain_is_whole(chain: Pipeline) -> None:
    """Five experts from one pinned base, merged back, merged into one, aligned, each scored on all twelve sets."""
    for expert in ("pubmed", *EXPERTS):
        assert {f"corpus-{expert}", f"train-{expert}", f"slerp-{expert}", f"eval-{expert}"} <= set(chain.steps)
        assert str(settings(chain, f"train-{expert}").base).startswith("microsoft/Phi-3.5-mini-instruct@2fe19245")
    assert set(settings(chain, "merge-breadcrumbs").models) == {"base", "pubmed", *EXPERTS}
    assert chain.steps["sft"].needs == ("merge-breadcrumbs", "curate") and "sft" in chain.steps["dpo"].needs
    assert all(len(settings(chain, name).benchmarks) == 12 for name in chain.steps if name.startswith("eval-"))
    assert left_out(ROOT / FILE) == ["corpora", "benchmarks"]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            "train-pubmed",
            {"num_train_epochs": 1, "learning_rate": 1.0e-4, "warmup_steps": 35, "neftune_noise_alpha": 5},
        ),
        ("train-datamix", {"num_train_epochs": 1, "learning_rate": 1.0e-4, "warmup_steps": 35}),
        ("train-explainer", {"num_train_epochs": 2, "learning_rate": 1.0e-4, "lr_scheduler_type": "cosine"}),
        ("sft", {"num_train_epochs": 2, "learning_rate": 2.0e-5, "warmup_steps": 40, "neftune_noise_alpha": 5}),
        ("dpo", {"num_train_epochs": 1, "learning_rate": 1.0e-6, "warmup_steps": 50, "beta": 0.1}),
    ],
)
def test_hyper_parameters_are_the_papers(chain: Pipeline, step: str, expected: dict[str, Any]) -> None:
    """Rates, epochs, warm-up and noise as its text and tables give them, and blocks of 4,096 tokens."""
    config = settings(chain, step)
    assert {name: config.trainer[name] for name in expected} == expected
    assert config.max_tokens == 4096
    per_step = config.trainer["per_device_train_batch_size"] * config.trainer.get("gradient_accumulation_steps", 1)
    gpus, rows = {"sft": (8, 256), "dpo": (16, 128)}.get(step, (16, 512))
    assert per_step * gpus == rows


@pytest.mark.parametrize("expert", EXPERTS)
def test_pre_instruction_tuning_is_the_papers(chain: Pipeline, expert: str) -> None:
    """Summaries alone for one epoch at 1e-4, then with their documents for two at 3e-4."""
    config = settings(chain, f"train-{expert}")
    assert config.method == "pit" and settings(chain, f"prepare-{expert}").task == "summary"
    assert config.phase1 == {"num_train_epochs": 1, "learning_rate": 1.0e-4}
    assert config.phase2 == {"num_train_epochs": 2, "learning_rate": 3.0e-4}


def test_its_conflicts_are_told_where_the_numbers_stand() -> None:
    """Both learning rates of the paper stand in the recipe's comment, and what it does not say is said."""
    text = (ROOT / "experts/recipes/train_mediphi_dapt.yml").read_text()
    assert "5e-5" in text and "1e-4" in text and "LoRA" in text
    assert "UNKNOWN" in (ROOT / "merge_recipes/mediphi.yml").read_text()


# --- costs -----------------------------------------------------------------------------------------------------------


def test_hours_are_those_of_a_pencil() -> None:
    """One billion parameters, a million tokens, a GPU of 100 TFLOP/s at a half: 6e15 operations are 120 seconds."""
    sizes = Sizes.model_validate(
        {"model": {"parameters": 1e9, "layers": 1, "hidden": 1}, "block": 1, "gpu": {"tflops": 100, "mfu": 0.5}}
    )
    million = 1e6
    assert Work(trained=million).hours(sizes) == pytest.approx(120 / 3600, rel=1e-6)
    assert Work(read=million).hours(sizes) == pytest.approx(40 / 3600, rel=1e-6)
    assert Work(written=million).hours(sizes) == pytest.approx(40 / 3600 * 0.5 / 0.05, rel=1e-6)
    # Attention: a span of S tokens adds S·H·L beside P.
    long = sizes.model_copy(update={"block": 1_000_000_000})
    assert Work(trained=million).hours(long) == pytest.approx(240 / 3600, rel=1e-6)
    assert Work(trained=million, span=1).hours(long) == pytest.approx(120 / 3600, rel=1e-6)


def test_costs_of_the_chain_by_hand(chain: Pipeline) -> None:
    """Tokens, hours, calls and bytes of steps: the paper's sizes times the recipe's epochs."""
    assert chain.sizes is not None
    sizes, works = chain.sizes, costs_of(chain, chain.sizes)
    operations = 6 * (3.82e9 + 4096 * 3072 * 32)
    assert works["train-pubmed"].trained == 48.0e9
    assert works["train-pubmed"].hours(sizes) == pytest.approx(48.0e9 * operations / (312e12 * 0.4) / 3600)
    assert works["train-pubmed"].hours(sizes) == pytest.approx(2706.8, abs=0.1)
    summaries, documents = 37e3 * 250, 90e6
    assert works["train-guidelines"].trained == summaries + 2 * (summaries + documents)
    assert works["train-explainer"].trained == 2 * 206e3 * 1250
    assert works["train-datamix"].trained == 48.0e9 + 250e6 + 80e6 + 90e6 + 257e6
    assert works["sft"].trained == 800_000 * 476 * 2
    assert (works["dpo"].trained, works["dpo"].read) == (130_852 * 2 * 476, 130_852 * 2 * 476)
    assert works["merge-breadcrumbs"].read == 500 * 12 * 1200 * 450
    assert works["slerp-medcode"].read == 3 * 12 * 1200 * 450
    # A tenth more calls are repairs.
    assert works["generate"].completion == pytest.approx(1.1 * 70_000 * (10 * (301 + 3.5 * (76 + 79))))
    assert works["prepare-clinical"].prompt == pytest.approx(1.1 * (321e3 * 150 + 250e6))
    assert works["prepare-clinical"].cost == pytest.approx(1.1 * ((321e3 * 150 + 250e6) * 2.5 + 321e3 * 250 * 10) / 1e6)
    assert works["judge"].completion == pytest.approx(1.1 * 700e3 * 5 * 300)
    assert works["train-pubmed"].kept == 2 * 3.82e9 and works["train-pubmed"].scratch == 12 * 3.82e9 + 4 * 48.0e9
    assert works["report"] == Work()


def test_within_a_fifth_of_what_the_paper_used(chain: Pipeline) -> None:
    """The final model's steps take 2,930 hours with 40 % in use, and its own 3,600 with a third; others are no part."""
    assert chain.sizes is not None
    works = costs_of(chain, chain.sizes)
    told = compare(works, chain.sizes)
    assert told is not None and told.published == 3600
    assert abs(told.difference) < 0.2 and 0.32 < told.mfu < 0.34
    final = {name for name in works if not any(part in name for part in ("datamix", "explainer", "-raw"))}
    final -= {"merge-task_arithmetic", "merge-ties"}
    assert told.hours == pytest.approx(sum(works[name].hours(chain.sizes) for name in final))


def test_plan_prints_costs_before_there_are_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the data's folders the costs are told; at half the use the hours double; a wrong share is refused."""

    def planned(*more: str) -> str:
        with pytest.raises(SystemExit) if "7" in more else _nothing():
            cli.main(["plan", FILE, *more])
        return capsys.readouterr().out

    text = planned()
    assert "train-pubmed" in text and "2,706.8" in text and "corpora=PATH, benchmarks=PATH" in text
    assert "5,413.7" in planned("--mfu", "0.2") and "2,706.8" not in planned("--mfu", "0.2")
    with pytest.raises(UserError):
        load_pipeline(ROOT / FILE)
    assert planned("--mfu", "7") == ""


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_a_recipe_changed_is_a_cost_changed() -> None:
    """Two epochs cost twice one; more candidates more; a pipeline without sizes plans as before."""
    given = ["corpora=/not/there", "benchmarks=/not/there"]
    loaded = load_pipeline(ROOT / FILE, [*given, "train-pubmed.trainer.num_train_epochs=2", "merge-*.budget=100"])
    assert loaded.sizes is not None
    works = costs_of(loaded, loaded.sizes)
    assert works["train-pubmed"].trained == 96.0e9 and works["merge-ties"].read == 100 * 14400 * 450
    assert "sizes" not in read_yaml(ROOT / "pipelines/embedded.yml")


def test_large_numbers_are_said_short() -> None:
    """Three digits and a letter."""
    assert [count(value) for value in (48.0e9, 321_000, 456, 0.5)] == ["48B", "321k", "456", "0.5"]


# --- the document ----------------------------------------------------------------------------------------------------

STAGES = {
    "five experts": ["train-pubmed", *(f"train-{expert}" for expert in EXPERTS)],
    "their merges with the base": [f"slerp-{expert}" for expert in ("pubmed", *EXPERTS)],
    "one search of 500 merges": ["merge-breadcrumbs"],
    "SFT and DPO": ["sft", "dpo"],
    "one evaluation": ["eval-base"],
    "DataMix": ["train-datamix"],
    "Explainer": ["train-explainer"],
    "instructions, judged": ["generate", "judge"],
    "preference pairs": ["pair"],
    "validation questions": ["validation"],
    "summaries": [f"prepare-{expert}" for expert in EXPERTS],
    "rewrites of coding's pages": ["rewrite-medcode"],
}


def costs_table(chain: Pipeline) -> str:
    """The table of docs/paper_scale.md, made from the pipeline."""
    assert chain.sizes is not None
    works = costs_of(chain, chain.sizes)
    lines = ["| what | GPU hours | passes of tokens | paid tokens | USD |", "| --- | --- | --- | --- | --- |"]
    for what, steps in STAGES.items():
        parts = [works[step] for step in steps]
        hours = sum(part.hours(chain.sizes) for part in parts)
        passes = sum(part.trained + part.read + part.written for part in parts)
        paid, cost = sum(part.prompt + part.completion for part in parts), sum(part.cost or 0 for part in parts)
        cells = [f"{hours:,.1f}" if hours else "", count(passes) if passes else ""]
        cells += [count(paid) if paid else "", f"{cost:,.0f}" if cost else ""]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_document_says_what_the_plan_says(chain: Pipeline) -> None:
    """Table, sum, share, disk and GPU's use in docs/paper_scale.md are those that come of the pipeline now."""
    assert chain.sizes is not None
    text = (ROOT / "docs/paper_scale.md").read_text(encoding="utf-8")
    assert costs_table(chain) in text, costs_table(chain)
    works = costs_of(chain, chain.sizes)
    told = compare(works, chain.sizes)
    assert told is not None
    kept, scratch = sum(work.kept for work in works.values()) / 1e9, max(work.scratch for work in works.values()) / 1e9
    for said in (
        f"**{told.hours:,.0f} hours at 40 %, {-100 * told.difference:.0f} % less than 3,600.**",
        f"equal with {100 * told.mfu:.0f} % in use",
        f"{kept:,.0f} GB stay",
        f"at most {scratch:,.0f} GB",
    ):
        assert said in text, said
