"""The command distils from texts, probabilities and on-policy; kills, caches and refusals included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align import distill
from medsmith import run
from medsmith.config import load
from medsmith.digests import file_digest
from medsmith.errors import UserError
from medsmith.records import read_jsonl, read_parquet, write_parquet
from tests.toy_training import Killed, instruction, stop_at

TRAINER = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 3.0e-3,
    "logging_steps": 1,
    "save_steps": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curated")
    rows = [instruction(n, quality=3.0) for n in range(16)]
    write_parquet(folder / "data" / "part-0.parquet", rows)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A larger model of the student's tokenizer, whose weights are not saved in a run's folder."""
    from experts.architecture import build_model, untie
    from medsmith.models import load_tokenizer

    folder = tmp_path_factory.mktemp("teacher") / "model"
    tokenizer = load_tokenizer(tiny_model)
    model = build_model(tokenizer, hidden=48, layers=2, heads=2, feed_forward=64, context=256, seed=1)
    untie(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(out: Path, model: Path, data: Path, **changes: Any) -> distill.Config:
    values: dict[str, Any] = {
        "out": out, "model": model, "data": data, "heldout_share": 0.2, "threads": 1, "max_tokens": 128,
        "method": "logit", "max_new_tokens": 12,
    }  # fmt: skip
    return distill.Config(**(values | {"trainer": TRAINER | changes.pop("trainer", {})} | changes))


def test_a_killed_distillation_ends_with_the_same_student(
    tiny_model: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    """From logits kept on disk, packed: killed at step 3 and run again, the same bytes; the teacher's are as before."""
    before = file_digest(teacher / "model.safetensors")
    options: dict[str, Any] = {"teacher": teacher, "top_k": 16, "trainer": {"packing": True}}
    distill.main(settings(tmp_path / "whole", tiny_model, data, **options))
    with pytest.raises(Killed):
        distill.main(settings(tmp_path / "killed", tiny_model, data, **options), stop_at(3))
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "raw" / "teacher").rglob("part-*")}
    distill.main(settings(tmp_path / "killed", tiny_model, data, **options))
    assert len(parts) == 1 and all(path.stat().st_mtime_ns == time for path, time in parts.items())
    first, second = (run.require_finished(tmp_path / name) for name in ("whole", "killed"))
    assert first["digest"] == second["digest"] and first["facts"]["distill"] == second["facts"]["distill"]
    assert file_digest(teacher / "model.safetensors") == before
    rows = list(read_jsonl(tmp_path / "whole" / "log" / "metrics.jsonl"))
    assert all(row["teacher_loss"] > 0 and row["gold_loss"] > 0 for row in rows if "loss" in row)
    assert first["facts"]["teacher"] == str(teacher) and first["counts"]["rows"] == 16


def test_top_tokens_and_all_tokens_train_nearly_alike(
    tiny_model: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    """One step by all of the vocabulary's tokens, kept or asked for, gives the same weights; other teachers others."""
    from medsmith.models import load_model

    one = {"max_steps": 1, "per_device_train_batch_size": 16, "optim": "sgd", "bf16": False, "save_strategy": "no"}

    def weights(name: str, **options: Any) -> dict[str, Any]:
        distill.main(settings(tmp_path / name, tiny_model, data, trainer=one, temperature=1.0, **options))
        return dict(load_model(tmp_path / name).named_parameters())

    asked, kept = weights("asked", teacher=teacher), weights("kept", teacher=teacher, top_k=384)
    itself = weights("itself", teacher=tiny_model, alpha=0.0)
    start = dict(load_model(tiny_model).named_parameters())
    assert max(float((asked[name] - kept[name]).detach().abs().max()) for name in asked) < 1e-6
    assert max(float((asked[name] - start[name]).detach().abs().max()) for name in asked) > 1e-5
    assert max(float((itself[name] - start[name]).detach().abs().max()) for name in asked) < 1e-6


def test_a_teacher_writes_and_the_student_learns_its_texts(
    tiny_model: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    """The rows that are trained on hold the teacher's likeliest texts; those that it did not end are told."""
    config = settings(tmp_path / "run", tiny_model, data, method="sequence", teacher=teacher, heldout_share=0)
    with pytest.raises(UserError, match="the teacher wrote to none of 16 rows"):
        distill.main(config)
    assert {row["reason"] for row in read_jsonl(tmp_path / "run" / "taught" / "dropped.jsonl")} == {
        "no text of the teacher: longer than max_new_tokens"
    }
    from align import sft

    trained = {"max_steps": 60, "learning_rate": 1.0e-2, "save_strategy": "no"}
    able = sft.main(
        sft.Config(
            out=tmp_path / "able", model=teacher, data=data, threads=1, heldout_share=0, trainer=TRAINER | trained
        )
    )
    distill.main(settings(tmp_path / "good", tiny_model, data, method="sequence", teacher=able, heldout_share=0))
    record = run.require_finished(tmp_path / "good")
    texts = {row.output for row in read_parquet(tmp_path / "good" / "taught" / "data")}
    assert texts == {"No pleural effusion."} and record["facts"]["taught"]["written"] == 16
    assert record["facts"]["distill"]["loss_last"] < record["facts"]["distill"]["loss_first"]


def test_texts_of_a_teacher_are_trained_as_they_are(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """Without a teacher the rows of `data` are its texts, and the student is that of align.sft."""
    from align import sft

    distill.main(settings(tmp_path / "distill", tiny_model, data, method="sequence"))
    sft.main(
        sft.Config(
            out=tmp_path / "sft",
            model=tiny_model,
            data=data,
            heldout_share=0.2,
            max_tokens=128,
            threads=1,
            trainer=TRAINER,
        )
    )
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("distill", "sft"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_student_is_corrected_on_its_own_words(tiny_model: Path, teacher: Path, data: Path, tmp_path: Path) -> None:
    """TRL's trainer runs on the prompts, changes the student and leaves the teacher; gold answers only measure."""
    before = file_digest(teacher / "model.safetensors")
    distill.main(settings(tmp_path / "run", tiny_model, data, method="onpolicy", teacher=teacher))
    record = run.require_finished(tmp_path / "run")
    facts = record["facts"]["distill"]
    assert facts["steps"] == 4 and facts["heldout_loss_before"] != facts["heldout_loss_after"]
    assert file_digest(teacher / "model.safetensors") == before
    assert file_digest(tmp_path / "run" / "model.safetensors") != file_digest(tiny_model / "model.safetensors")


def test_another_tokenizer_is_refused_for_probabilities(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """Logits need the same tokens; the line names one that differs and the method that does without."""
    from experts.architecture import build_model, build_tokenizer

    other = tmp_path / "other"
    tokenizer = build_tokenizer(["Quite other words than the student has ever read."], vocabulary=300)
    build_model(tokenizer, hidden=32, layers=1, heads=2, feed_forward=32, context=256, seed=0).save_pretrained(other)
    tokenizer.save_pretrained(other)
    for method in ("logit", "onpolicy"):
        with pytest.raises(UserError, match="other tokens.*method=sequence"):
            distill.main(settings(tmp_path / method, tiny_model, data, method=method, teacher=other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "logit"}, "needs the teacher's probabilities"),
        ({"method": "logit", "server": {"base_url": "http://127.0.0.1:9/v1"}}, "needs the teacher's probabilities"),
        ({"method": "sequence", "top_k": 4}, "top_k belongs to method logit"),
        ({"method": "onpolicy", "teacher": "a/b", "data": None, "mix": {"a": {"data": "d"}}}, "not from a mix"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    """Each with what is needed."""
    with pytest.raises(UserError, match=message):
        load(distill.Config, {"out": "x", "model": "y/z", "data": "d"} | changes)
