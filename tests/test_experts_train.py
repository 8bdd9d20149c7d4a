"""Experts: what is trained, what is not, and that a kill changes nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from experts import corpora, train
from experts.sequences import Marks, build_phase, cut
from medsmith import run
from medsmith.config import Config, load
from medsmith.errors import UserError
from medsmith.packing import Blocks, Labelled, pack, pack_rows
from medsmith.records import Document, read_json, write_jsonl

MARKS = Marks(begin=1, end=2)
TRAINER = {
    "per_device_train_batch_size": 4,
    "learning_rate": 1.0e-2,
    "logging_steps": 1,
    "save_steps": 1,
    "lr_scheduler_type": "constant",
}


def letters(texts: list[str]) -> list[list[int]]:
    """A tokenizer that a child can follow: one token a letter."""
    return [[ord(letter) for letter in text] for text in texts]


def document(key: str, text: str) -> Document:
    return Document(key, "", text, "S", "CC0-1.0")


def tokens(text: str) -> list[int]:
    """`<` begins a document, `>` ends a part of it."""
    return [{"<": 1, ">": 2}.get(letter, ord(letter)) for letter in text]


# --- sequences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "with_documents", "expected"),
    [
        ({}, True, ["<doc>", "<text>"]),  # domain adaptive pre-training
        ({"a": ["q1", "q2"]}, False, ["<q1>q2>"]),  # phase 1: outputs only, each closed; b has none
        ({"a": ["q1", "q2"]}, True, ["<q1>q2>doc>", "<text>"]),  # phase 2: rows before their document
    ],
)
def test_every_part_is_closed_and_documents_stay_apart(
    outputs: dict[str, list[str]], with_documents: bool, expected: list[str]
) -> None:
    """One sequence a document, an end after each part, phase 1 without a letter of the documents."""
    documents = [document("a", "doc"), document("b", "text")]
    phase = build_phase(documents, outputs, letters, MARKS, 100, with_documents=with_documents)
    assert [piece.tokens for piece in phase.pieces] == [tokens(text) for text in expected]
    assert phase.documents == len(expected) and phase.split == 0
    assert phase.outputs == sum(map(len, outputs.values()))


def test_long_documents_are_cut_and_every_token_is_trained_once() -> None:
    """Ten letters and an end in blocks of five: three pieces, each token a target exactly once."""
    phase = build_phase([document("a", "abcdefghij")], {}, letters, MARKS, 5, with_documents=True)
    assert [piece.tokens for piece in phase.pieces] == [tokens("<abcd"), tokens("defgh"), tokens("hij>")]
    assert (phase.split, phase.tokens) == (1, 11)
    rows = phase.rows(phase.blocks(5))
    trained = [label for row in rows for label in row["labels"] if label != -100]
    assert sorted(trained) == sorted(tokens("abcdefghij>"))


@pytest.mark.parametrize(("length", "pieces"), [(2, 1), (5, 1), (6, 2), (9, 2), (10, 3)])
def test_no_piece_without_a_target(length: int, pieces: int) -> None:
    """A cut never leaves a last piece that is context only."""
    found = cut(list(range(length)), 5)
    assert len(found) == pieces and all(2 <= len(piece) <= 5 for piece in found)
    assert sum(len(piece) - 1 for piece in found) == length - 1


def test_best_fit_leaves_least_room() -> None:
    """6, 5, 4, 3, 2 into blocks of 10: two full blocks, as a child would do it."""
    assert pack([2, 3, 4, 5, 6], 10) == [[4, 2], [3, 1, 0]]
    drawn = random.Random(0).choices(range(2, 60), k=500)
    blocks = pack(drawn, 64)
    assert sorted(number for block in blocks for number in block) == list(range(500))
    assert all(sum(drawn[number] for number in block) <= 64 for block in blocks)
    assert sum(drawn) / (64 * len(blocks)) > 0.97


def test_packed_block_equals_its_documents_alone(tiny_model: Path) -> None:
    """No token sees another document: the loss in a block is the loss of each piece by itself."""
    import torch

    from medsmith.models import load_model

    model = load_model(tiny_model, device="cpu")
    drawn = random.Random(0)
    pieces = [[drawn.randrange(5, 300) for _ in range(n)] for n in (9, 20, 14, 5, 11)]
    rows = pack_rows([Labelled(tokens, tokens) for tokens in pieces], 32)
    assert len(rows) == 2
    batch = Blocks(pad=0)(rows)
    with torch.no_grad():
        for attention in ("sdpa", "eager"):
            model.set_attn_implementation(attention)
            packed = model(**batch, use_cache=False).loss  # as the trainer calls it
            alone = [model(input_ids=(ids := torch.tensor([p])), labels=ids).loss for p in pieces]
            weights = [len(piece) - 1 for piece in pieces]
            expected = sum(loss * weight for loss, weight in zip(alone, weights, strict=True)) / sum(weights)
            assert abs(float(packed - expected)) < 1e-5


# --- the command -----------------------------------------------------------------------------------------------------


class Rows(Config):
    """Stands in for experts.prepare."""

    documents: Path


FACTS = {"gout": "colchicine", "asthma": "salbutamol", "acne": "adapalene", "angina": "nitrate", "croup": "steam"}


def planted(count: int, shuffled: bool) -> list[dict[str, str]]:
    """Sentences that say which drug treats what, always the same; or the same sentences with their letters mixed."""
    rows = []
    for n in range(count):
        drawn = random.Random(n)
        text = " ".join(f"{name} is treated with {FACTS[name]}." for name in drawn.sample(sorted(FACTS), 3))
        if shuffled:
            mixed = list(text)
            drawn.shuffle(mixed)
            text = " ".join("".join(mixed).split())
        rows.append({"id": f"d{n}", "title": "", "text": f"{n} {text}", "source": "S", "license": "CC0-1.0"})
    return rows


def corpus(folder: Path, rows: list[dict[str, str]]) -> Path:
    write_jsonl(folder / "in.jsonl", rows)
    settings = {"out": folder / "corpus", "corpus": str(folder / "in.jsonl"), "heldout_share": 0.2}
    return corpora.main(load(corpora.Config, settings))


def rows_of(documents: Path, wrong: str | None = None) -> Path:
    """One summary for each training document but the last."""
    ids = [json.loads(line)["id"] for line in (documents / "train.jsonl").read_text().splitlines()][:-1]
    settings = Rows(out=documents.parent / "rows", documents=documents)
    with run.start(settings, "rows") as this:
        outputs = [{"id": key, "document_id": key, "task": "summary", "output": f"Drugs, {key}."} for key in ids]
        if wrong:
            outputs.append({"id": "x", "document_id": wrong, "task": "summary", "output": "x"})
        write_jsonl(this.folder / "rows.jsonl", outputs)
        return this.finish(rows=len(outputs))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of planted facts."""
    return corpus(tmp_path_factory.mktemp("planted"), planted(60, shuffled=False))


def pit(documents: Path, base: Path, out: Path, **more: Any) -> train.Config:
    rows = documents.parent / "rows"
    if not rows.exists():
        rows_of(documents)
    settings = {"out": out, "base": str(base), "documents": str(documents), "rows": str(rows), "method": "pit"}
    return load(train.Config, settings | {"max_tokens": 96, "threads": 1, "trainer": TRAINER} | more)


@pytest.fixture(scope="module")
def expert(documents: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert trained in one go."""
    return train.main(pit(documents, tiny_model, tmp_path_factory.mktemp("expert") / "run"))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


def killer(phase: str, step: int) -> Any:
    """A callback that ends the process' work as a kill would."""
    from transformers import TrainerCallback

    class Killer(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if Path(args.output_dir).name == phase and state.global_step == step:
                raise KeyboardInterrupt

    return Killer()


@pytest.mark.parametrize(("phase", "step"), [("phase1", 2), ("phase2", 4)])
def test_killed_expert_ends_with_the_same_bytes(
    documents: Path, tiny_model: Path, expert: Path, tmp_path: Path, phase: str, step: int
) -> None:
    """Killed in either phase and started again: same weights, same data.json, and no phase trained twice."""
    settings = pit(documents, tiny_model, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train.main(settings, [killer(phase, step)])
    finished = settings.out / "checkpoints" / "phase1.finished"
    assert finished.is_dir() == (phase == "phase2")

    train.main(settings, [killer("phase1", 1)])

    for name in ("model.safetensors", "data.json", "config.json", "generation_config.json", "tokenizer.json"):
        assert (settings.out / name).read_bytes() == (expert / name).read_bytes(), name
    assert run.digest(settings.out) == run.digest(expert)
    assert not (settings.out / "checkpoints").exists()
    seen = [(row["training"], row["step"], row.get("loss"), row.get("heldout_loss")) for row in metrics(settings.out)]
    again = [(row["training"], row["step"], row.get("loss"), row.get("heldout_loss")) for row in metrics(expert)]
    assert sorted(seen, key=str) == sorted(again, key=str)


def test_data_and_facts_tell_what_was_trained(documents: Path, expert: Path) -> None:
    """Phase 1 saw rows only, phase 2 all documents; epochs and rates are the paper's unless the recipe differs."""
    data = read_json(expert / "data.json")
    trained = len((documents / "train.jsonl").read_text().splitlines())
    one, two = data["phases"]["phase1"], data["phases"]["phase2"]
    assert (data["documents"], data["documents_with_rows"], one["documents"], two["documents"]) == (
        trained, trained - 1, trained - 1, trained,
    )  # fmt: skip
    assert (one["outputs"], one["trainer"]["num_train_epochs"], two["trainer"]["num_train_epochs"]) == (
        trained - 1, 1, 2,
    )  # fmt: skip
    assert one["trainer"]["learning_rate"] == 1.0e-2 and train.PAPER["phase2"]["learning_rate"] == 3.0e-4
    facts = read_json(expert / "run.json")["facts"]
    assert facts["licences"] == {"S": "CC0-1.0"} and [p["epochs"] for p in facts["phases"]] == [1, 2]
    assert facts["heldout_loss_after"] < facts["heldout_loss_before"] - 0.5
    assert facts["phases"][0]["heldout_loss_after"] == facts["phases"][1]["heldout_loss_before"]


def test_planted_facts_are_learnt_and_noise_is_not(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Training on facts predicts held-out facts far better; training on their shuffled twin does not predict facts."""
    from medsmith.likelihood import document_nll
    from medsmith.models import load_model, load_tokenizer

    held = [json.loads(line)["text"] for line in (documents / "heldout.jsonl").read_text().splitlines()]

    def loss(model: Path) -> float:
        scores = document_nll(load_model(model), load_tokenizer(model), held)
        return sum(score.nll for score in scores) / sum(score.tokens for score in scores)

    losses = {}
    for name, shuffled in (("facts", False), ("noise", True)):
        texts = documents if not shuffled else corpus(tmp_path / "twin", planted(60, shuffled=True))
        settings = {"out": tmp_path / name, "base": str(tiny_model), "documents": str(texts), "method": "dapt"}
        made = train.main(
            load(
                train.Config, settings | {"max_tokens": 96, "threads": 1, "trainer": TRAINER | {"num_train_epochs": 6}}
            )
        )
        losses[name] = loss(made)
    base = loss(tiny_model)
    assert losses["facts"] < base - 3.0
    assert losses["facts"] < losses["noise"] - 1.0


def test_held_out_rows_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    """A row made from a held-out document, or from another corpus, stops the run before any training."""
    texts = corpus(tmp_path, planted(20, shuffled=False))
    held = json.loads((texts / "heldout.jsonl").read_text().splitlines()[0])["id"]
    for wrong, message in ((held, "is held out of"), ("elsewhere", "is not in")):
        rows_of(texts, wrong)
        with pytest.raises(UserError, match=message):
            train.main(pit(texts, tiny_model, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"trainer": {"learning_rat": 1.0}}, "did you mean 'learning_rate'"),
        ({"trainer": {"packing": True}}, "'packing' is not for a recipe.*set max_tokens"),
        ({"max_tokens": 5000}, "more than the model's context of 256"),
        ({"method": "dapt"}, "dapt takes documents, not rows"),
        ({"rows": None}, "method pit needs rows"),
        (
            {"method": "dapt", "rows": None, "phase1": {"max_steps": 1}},
            "belong to pit, and dapt has one phase; set phase1={} phase2={}",
        ),
    ],
)
def test_wrong_settings_are_refused(
    documents: Path, tiny_model: Path, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    """The message says what to write instead."""
    with pytest.raises(UserError, match=message):
        train.main(pit(documents, tiny_model, tmp_path / "run", **more))


def test_marks_of_known_tokenizers(tiny_model: Path) -> None:
    """A document ends with the end-of-text token and never with the end of a chat turn."""
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    marks = train.document_marks(tokenizer)
    assert tokenizer.convert_ids_to_tokens([marks.begin, marks.end]) == ["<|endoftext|>", "<|endoftext|>"]
