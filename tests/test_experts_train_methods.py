"""Experts by other ways: rewrites, mixtures, adapters; and what is measured while they train."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts import corpora, train
from experts.held_out import Scores, compare_retained
from experts.mixing import amounts, choose, draw
from experts.pieces import Pieces
from experts.sequences import Marks, PhaseBuilder, build_phase
from experts.texts import source_name
from medsmith import run
from medsmith.attention import choose_attention
from medsmith.config import Config, load
from medsmith.errors import UserError
from medsmith.records import Document, content_id, read_json, write_jsonl

MARKS = Marks(begin=1, end=2)
TRAINER = {"per_device_train_batch_size": 4, "learning_rate": 1.0e-2, "logging_steps": 1, "save_steps": 1}


def letters(texts: list[str]) -> list[list[int]]:
    """A tokenizer that a child can follow: one token a letter."""
    return [[ord(letter) for letter in text] for text in texts]


def document(key: str, text: str, source: str = "S") -> Document:
    return Document(key, "", text, source, "CC0-1.0")


# --- a mixture, by numbers -------------------------------------------------------------------------------------------


def test_shares_of_tokens_are_as_many_as_the_scarcest_allows() -> None:
    """Of 100 and 1,000 tokens at 1:1 a mixture has 200; at 1:3 with two repeats 800; none asked, all of both."""
    sizes = {"small": 100, "large": 1000}
    assert amounts(sizes, {"small": 1, "large": 1}) == {"small": 100, "large": 100}
    assert amounts(sizes, {"small": 1, "large": 3}, repeats=2) == {"small": 200, "large": 600}
    assert amounts(sizes, {"small": 0.1, "large": 0.1}, tokens=50) == {"small": 25, "large": 25}
    assert amounts(sizes, {}) == sizes
    with pytest.raises(UserError, match="'small' has to give 150, and it has 100; lower mix.tokens to 200"):
        amounts(sizes, {"small": 1, "large": 1}, tokens=300)


def test_drawn_documents_are_nested_and_repeat_whole() -> None:
    """The smaller amount is a part of the larger; more than all is all and then some, in the order of the file."""
    drawn = random.Random(0)
    counts, ranks = [drawn.randint(5, 50) for _ in range(40)], [drawn.random() for _ in range(40)]
    few, more = draw(counts, ranks, 200), draw(counts, ranks, 600)
    assert set(few) < set(more) and list(few) == sorted(few)
    assert 200 <= sum(counts[n] for n in few) < 200 + max(counts)
    twice = draw(counts, ranks, 2 * sum(counts) + 100)
    times = np.bincount(twice, minlength=40)
    assert set(times) == {2, 3} and set(np.flatnonzero(times == 3)) <= set(more)
    assert len(draw(counts, ranks, 0)) == 0


def test_another_corpus_reshuffles_no_other() -> None:
    """What a corpus gives depends on its own documents and its amount: a third corpus beside it changes nothing."""

    def mixed(names: list[str]) -> dict[str, set[str]]:
        builder = PhaseBuilder(letters, MARKS, 64)
        for name in names:
            texts = [document(f"{name}{n}", f"{name} text number {n}", name) for n in range(30)]
            builder.add(texts, {}, with_documents=True, name=name, rank=lambda key: int(content_id(key)[:12], 16))
        phase = builder.finish()
        phase.chosen, table = choose(phase, dict.fromkeys(names, 1.0), 150 * len(names), 1.0)
        found: dict[str, set[str]] = {name: set() for name in names}
        for number in phase.chosen:
            piece = phase.pieces[int(number)]
            found[piece.source].add("".join(map(chr, piece.tokens[1:-1])))
        assert all(150 <= row["tokens"] < 150 + 20 for row in table.values())
        return found

    two, three = mixed(["a", "b"]), mixed(["c", "a", "b"])
    assert two["a"] == three["a"] and two["b"] == three["b"] and 5 <= len(two["a"]) < 30


def test_tokens_in_a_file_are_those_in_memory(tmp_path: Path) -> None:
    """A phase kept on disk gives the same blocks and counts, also with documents in several pieces."""
    texts = [document(f"d{n}", "x" * (3 * n % 41 + 1), f"S{n % 3}") for n in range(50)]
    here = build_phase(texts, {}, letters, MARKS, 16, with_documents=True)
    there = build_phase(texts, {}, letters, MARKS, 16, with_documents=True, file=tmp_path / "t" / "tokens")
    assert there.summary() == here.summary() and here.split > 0
    assert list(there.rows(there.blocks(16))) == list(here.rows(here.blocks(16)))
    assert (tmp_path / "t" / "tokens").stat().st_size == 4 * sum(here.pieces.lengths)
    empty = Pieces(tmp_path / "none")
    empty.close()
    assert len(empty) == 0 and list(empty) == []


def test_a_page_is_no_source() -> None:
    """The address of a page is left out of its source's name, unless there is nothing else."""
    assert source_name(document("a", "x", "Wikipedia: https://en.wikipedia.org/wiki/Gout")) == "Wikipedia"
    assert source_name(document("a", "x", "https://a.org")) == "https://a.org"


@pytest.mark.parametrize(
    ("cuda", "flash", "half", "longest", "kernel"),
    [
        (True, True, True, 4096, "flash_attention_2"),
        (True, True, False, 4096, "sdpa"),
        (True, False, True, 4096, "sdpa"),
        (False, False, True, 4096, "sdpa"),
        (False, False, True, 256, "eager"),
    ],
)
def test_attention_by_what_there_is(cuda: bool, flash: bool, half: bool, longest: int, kernel: str) -> None:
    """Flash attention on a GPU that has it, in 16 bits; plain attention for short blocks on a CPU; else as built."""
    assert choose_attention("sdpa", longest, cuda=cuda, flash=flash, half=half).kernel == kernel


# --- the command -----------------------------------------------------------------------------------------------------


class Rows(Config):
    """Stands in for experts.prepare."""

    documents: Path


def corpus(folder: Path, name: str, count: int, word: str) -> Path:
    """Documents that say one word often."""
    rows = [
        {"id": f"{name}{n}", "title": "", "text": f"{n} {word} " * 4, "source": name, "license": "CC0-1.0"}
        for n in range(count)
    ]
    write_jsonl(folder / f"{name}.jsonl", rows)
    settings = {"out": folder / f"c-{name}", "corpus": str(folder / f"{name}.jsonl"), "heldout_share": 0.2}
    return corpora.main(load(corpora.Config, settings))


def rows_of(documents: Path, task: str) -> Path:
    """A rewrite of each training document but the last."""
    ids = [json.loads(line)["id"] for line in (documents / "train.jsonl").read_text().splitlines()][:-1]
    with run.start(Rows(out=documents.parent / f"rows-{task}", documents=documents), "rows") as this:
        rows = [{"id": key, "document_id": key, "task": task, "output": f"Rewritten {key} fever."} for key in ids]
        write_jsonl(this.folder / "rows.jsonl", rows)
        return this.finish(rows=len(rows))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus and a large one."""
    folder = tmp_path_factory.mktemp("texts")
    corpus(folder, "small", 15, "fever")
    corpus(folder, "large", 40, "pneumonia")
    return folder


def expert(out: Path, base: Path, method: str, **more: Any) -> train.Config:
    settings = {"out": out, "base": str(base), "method": method, "max_tokens": 64, "threads": 1, "trainer": TRAINER}
    return load(train.Config, settings | more)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]


def test_explainer_trains_on_rewrites_alone(texts: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Only rewrites are trained on, for two epochs; summaries are refused, and the held-out documents are the texts."""
    documents = texts / "c-small"
    made = train.main(
        expert(
            tmp_path / "run",
            tiny_model,
            "explainer",
            documents=str(documents),
            rows=str(rows_of(documents, "explainer")),
        )
    )
    data = read_json(made / "data.json")
    phase = data["phases"]["explainer"]
    assert (phase["documents"], phase["outputs"]) == (data["documents"] - 1, data["documents"] - 1)
    assert (phase["trainer"]["num_train_epochs"], phase["trainer"]["learning_rate"]) == (2, 1.0e-2)
    assert train.PAPER["explainer"]["learning_rate"] == 1.0e-4 and data["heldout_documents"] > 0
    with pytest.raises(UserError, match="is of task summary; run experts.prepare with task=explainer"):
        wrong = rows_of(documents, "summary")
        train.main(expert(tmp_path / "no", tiny_model, "explainer", documents=str(documents), rows=str(wrong)))


def test_a_mixture_measures_each_corpus_by_name(texts: Path, tiny_model: Path, tmp_path: Path) -> None:
    """At equal shares the small corpus is half of the tokens; losses stand by corpus, before, between and after."""
    mix = {"corpora": {"small": str(texts / "c-small"), "large": str(texts / "c-large")}}
    equal = mix | {"shares": {"small": 1, "large": 1}}
    made = train.main(expert(tmp_path / "run", tiny_model, "datamix", mix=equal, heldout_steps=2))
    data = read_json(made / "data.json")
    assert set(data["mix"]) == {"small", "large"} and data["phases"]["datamix"]["sources"].keys() == {"small", "large"}
    assert data["mix"]["small"]["documents"] == data["mix"]["small"]["available_documents"]
    assert data["mix"]["large"]["documents"] < data["mix"]["large"]["available_documents"]
    assert abs(data["mix"]["small"]["share"] - 0.5) < 0.05
    rows = [row for row in metrics(made) if row.get("source") == "small"]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows) and rows[1]["step"] == 2
    assert rows[0]["training"] == "datamix, held out: small"
    phase = read_json(made / "run.json")["facts"]["phases"][0]
    before, after = phase["heldout_loss_by_source"]["large"]
    assert (before, after) == (rows_of_large(made)[0], rows_of_large(made)[-1]) and after < before
    natural = train.main(expert(tmp_path / "natural", tiny_model, "datamix", mix=mix))
    assert read_json(natural / "data.json")["mix"]["large"]["share"] > 0.6


def rows_of_large(folder: Path) -> list[float]:
    return [row["heldout_loss"] for row in metrics(folder) if row.get("source") == "large"]


def test_measuring_changes_no_weight(texts: Path, tiny_model: Path, tmp_path: Path) -> None:
    """With and without the loss on held-out documents between, the same bytes; a mean over sources is their mean."""
    given = {"documents": str(texts / "c-small")}
    plain = train.main(expert(tmp_path / "plain", tiny_model, "dapt", **given))
    watched = train.main(expert(tmp_path / "watched", tiny_model, "dapt", heldout_steps=1, **given))
    assert (plain / "model.safetensors").read_bytes() == (watched / "model.safetensors").read_bytes()
    held = [row for row in metrics(watched) if row["training"] == "dapt, held out"]
    assert len(held) > len([row for row in metrics(plain) if row["training"] == "dapt, held out"]) == 2


def test_noise_on_embeddings_reaches_packed_blocks(texts: Path, tiny_model: Path, tmp_path: Path) -> None:
    """NEFTune changes what is learnt from our own blocks, repeats to the bit, and is gone from the saved model."""
    given = {"documents": str(texts / "c-small")}
    made = {}
    for name, alpha in (("none", None), ("five", 5), ("again", 5)):
        noisy = {} if alpha is None else {"neftune_noise_alpha": alpha}
        made[name] = train.main(expert(tmp_path / name, tiny_model, "dapt", **given, trainer=TRAINER | noisy))
    weights = {name: (folder / "model.safetensors").read_bytes() for name, folder in made.items()}
    assert weights["five"] == weights["again"] != weights["none"]
    losses = [read_json(made[name] / "run.json")["facts"]["heldout_loss_after"] for name in ("none", "five")]
    assert losses[0] < losses[1] < losses[0] + 3  # it learns, if less
    from medsmith.models import load_model

    assert not load_model(made["five"]).get_input_embeddings()._forward_hooks


def test_flattened_blocks_train_as_rows_do(
    texts: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What flash attention is given, one row with the borders of its documents, trains the same model on a CPU."""
    given = {"documents": str(texts / "c-small"), "trainer": TRAINER | {"bf16": False}}
    rows = train.main(expert(tmp_path / "rows", tiny_model, "dapt", **given))
    monkeypatch.setattr("experts.fitting.reads_borders", lambda model: True)
    flat = train.main(expert(tmp_path / "flat", tiny_model, "dapt", **given))
    losses = [read_json(made / "run.json")["facts"]["heldout_loss_after"] for made in (rows, flat)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert [row["loss"] for row in metrics(rows) if "loss" in row] == pytest.approx(
        [row["loss"] for row in metrics(flat) if "loss" in row], abs=2e-3
    )


def test_an_adapter_trains_few_numbers_and_is_merged_back(texts: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Of the base's tensors only those of linear layers move; the folder is a plain model; numbers are counted."""
    import torch

    from medsmith.models import load_model

    given = {"documents": str(texts / "c-small"), "lora": {"r": 4}}
    made = train.main(expert(tmp_path / "run", tiny_model, "dapt", **given))
    assert not (made / "adapter_config.json").exists()
    before, after = load_model(tiny_model).state_dict(), load_model(made).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.split(".")[-2].endswith("_proj") for name in moved)
    assert {name.split(".")[-2] for name in moved} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    phase = read_json(made / "run.json")["facts"]["phases"][0]
    sizes = [after[name].shape for name in moved]
    assert phase["trained_parameters"] == sum(4 * (rows + columns) for rows, columns in sizes)
    assert phase["trained_share"] == round(phase["trained_parameters"] / load_model(made).num_parameters(), 6)
    assert phase["heldout_loss_after"] < phase["heldout_loss_before"]


def test_a_kept_adapter_is_loaded_as_a_model(texts: Path, tiny_model: Path, tmp_path: Path) -> None:
    """With merge=false the folder holds the adapter, which loads into its base and predicts as the merged one does."""
    given = {"documents": str(texts / "c-small"), "trainer": TRAINER | {"activation_checkpointing": True}}
    kept = train.main(expert(tmp_path / "kept", tiny_model, "dapt", **given, lora={"r": 4, "merge": False}))
    merged = train.main(expert(tmp_path / "merged", tiny_model, "dapt", **given, lora={"r": 4}))
    assert (kept / "adapter_config.json").is_file() and not (kept / "model.safetensors").exists()
    losses = [read_json(one / "run.json")["facts"]["heldout_loss_after"] for one in (kept, merged)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)
    assert losses[0] < read_json(kept / "run.json")["facts"]["heldout_loss_before"] - 0.1


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("datamix", {}, "datamix needs mix=, a mapping of corpora"),
        ("datamix", {"documents": "x"}, "datamix takes mix, not documents"),
        (
            "explainer",
            {"documents": "x"},
            "explainer needs rows=, a folder made by experts.prepare with task=explainer",
        ),
        ("datamix", {"mix": {"corpora": {"a": "x", "b": "y"}, "shares": {"a": 1}}}, "shares must give each of a, b"),
        ("datamix", {"mix": {"corpora": {"a": "x", "b": "y"}, "tokens": 5}}, "tokens without shares"),
        ("pit", {"documents": "x", "rows": "y", "lora": {"merge": False}}, "merge_recipes.extract"),
        ("dapt", {"documents": "x", "lora": {"rank": 4}}, "unknown key 'lora.rank'"),
    ],
)
def test_what_a_method_needs_is_said(method: str, more: dict[str, Any], message: str) -> None:
    """The message names what is missing or too much, and what to do."""
    with pytest.raises(UserError, match=message):
        load(train.Config, {"out": "x", "base": "o/n", "method": method} | more)


def test_four_bits_need_a_gpu(texts: Path, tiny_model: Path, tmp_path: Path) -> None:
    """QLoRA on a machine without one stops with one line, before anything is trained."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    given = {"documents": str(texts / "c-small"), "lora": {"quantize": "nf4"}}
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        train.main(expert(tmp_path / "run", tiny_model, "dapt", **given))


def test_lost_language_is_told_and_kept_language_is_not(
    texts: Path, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the base had learnt gets worse, with an interval and a warning; what the expert learns gets better."""
    long = {"trainer": TRAINER | {"num_train_epochs": 6}}
    base = train.main(expert(tmp_path / "base", tiny_model, "dapt", documents=str(texts / "c-large"), **long))
    given = long | {"documents": str(texts / "c-small")}
    retain = [str(texts / "c-large"), str(texts / "c-small")]
    made = train.main(expert(tmp_path / "run", base, "dapt", retain=retain, **given))
    facts = read_json(made / "run.json")["facts"]["retained"]
    large, small = facts["c-large"], facts["c-small"]
    assert large["change"] == pytest.approx(large["loss_after"] - large["loss_before"], abs=1e-5)
    assert large["lost"] and large["interval"][0] > large["margin"] > 0 > small["interval"][1] and not small["lost"]
    warned = [record.getMessage() for record in caplog.records if "language is being lost" in record.getMessage()]
    assert len(warned) == 1 and "on c-large the loss rose by" in warned[0]
    logged = [row["heldout_loss"] for row in metrics(made) if row["training"] == "dapt, held out: retain c-large"]
    assert logged == [large["loss_before"], large["loss_after"]]
    twice = expert(tmp_path / "no", base, "dapt", retain=[retain[0], retain[0]], **given)
    with pytest.raises(UserError, match="two folders are called 'c-large'"):
        train.main(twice)


def test_the_interval_of_a_loss_weighs_documents_by_their_tokens() -> None:
    """A long document got worse by 1 nat a token and nine short ones did not: 0.5 over 180 tokens, not 0.1."""
    old, new = Scores([0.0] * 10, [90, *[10] * 9]), Scores([90.0, *[0.0] * 9], [90, *[10] * 9])
    table = compare_retained({"prose": old}, {"prose": new}, 0)["prose"]
    assert table["change"] == pytest.approx(0.5) and table["interval"][0] == 0 and not table["lost"]
