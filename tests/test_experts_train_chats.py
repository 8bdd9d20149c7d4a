"""Experts whose rows are conversations, and what is rehearsed among them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts import corpora, train
from experts.chats import SYSTEMS, converse
from experts.rehearsal import Rehearse, Row, evenly, read_rows, rehearse
from experts.sequences import Marks, Phase, PhaseBuilder
from medsmith import run
from medsmith.answers import Messages, label_answers
from medsmith.config import Config, load
from medsmith.errors import UserError
from medsmith.packing import IGNORED, Labelled
from medsmith.records import Document, read_json, write_jsonl

MARKS = Marks(begin=1, end=2)
TRAINER = {"per_device_train_batch_size": 2, "learning_rate": 1.0e-2, "logging_steps": 1, "save_steps": 1}
FACTS = {"gout": "colchicine", "asthma": "salbutamol", "acne": "adapalene", "angina": "nitrate", "croup": "steam"}


def letters(texts: list[str]) -> list[list[int]]:
    """A tokenizer that a child can follow: one token a letter."""
    return [[ord(letter) for letter in text] for text in texts]


def spoken(chats: Any) -> list[Labelled]:
    """Conversations as letters: `?` and the question, then the answer and `!`, which are trained."""
    found = []
    for chat in chats:
        asked, said = letters([f"?{chat[-2]['content']}", f"{chat[-1]['content']}!"])
        found.append(Labelled(asked + said, [IGNORED] * len(asked) + said))
    return found


def turns(asked: str, said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def document(key: str, text: str, title: str = "") -> Document:
    return Document(key, title, text, "S", "CC0-1.0")


def read(tokens: list[int]) -> str:
    return "".join({1: "<", 2: ">"}.get(token, chr(token)) for token in tokens)


# --- conversations ---------------------------------------------------------------------------------------------------


def test_what_the_assistant_says_is_trained_and_nothing_else(tiny_model: Path) -> None:
    """In every turn: the answer and the token that ends it; as the template's own marks and likelihood have it."""
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    chat = [{"role": "system", "content": "Answer."}, *turns("Fever?", "No fever."), *turns("Pain?", "Chest pain.")]
    (found,) = label_answers(tokenizer, [chat])
    spans = "".join(tokenizer.decode([t]) if label != IGNORED else "·" for t, label in zip(*found, strict=True))
    assert [part for part in spans.split("·") if part] == ["No fever.<|end|>", "Chest pain.<|end|>"]
    marked = tokenizer.apply_chat_template(chat, return_assistant_tokens_mask=True, return_dict=True, tokenize=True)
    assert [label != IGNORED for label in found.labels] == [
        bool(one) for one in marked["assistant_masks"][: len(found.tokens)]
    ]
    assert found.tokens == marked["input_ids"][: len(found.tokens)]
    tokenizer.chat_template = "{% for m in messages %}{{ loop.last }}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="writes the prompt otherwise once there is an answer"):
        label_answers(tokenizer, [chat])


def test_rows_become_the_questions_that_will_be_asked() -> None:
    """A pair is one exchange behind one of a few system turns; any other row answers an instruction on the text."""
    page = document("a", "Gout is treated with colchicine.", "Gout")
    pairs = [f"Question: Which drug, number {n}? Answer: colchicine {n}" for n in range(40)]
    chats = converse(page, pairs, "question_answer", 0)
    assert [chat[-2:] for chat in chats][7] == turns("Which drug, number 7?", "colchicine 7")
    systems = [chat[0]["content"] if chat[0]["role"] == "system" else "" for chat in chats]
    assert set(systems) == set(SYSTEMS) and chats == converse(page, pairs, "question_answer", 0)
    ((asked, said),) = converse(page, ["Colchicine."], "summary", 0)
    assert asked["content"].endswith("\n\nGout is treated with colchicine.") and said["content"] == "Colchicine."
    with pytest.raises(UserError, match="not of the form 'Question: … Answer: …'"):
        converse(page, ["colchicine"], "question_answer", 0)
    with pytest.raises(UserError, match="rows of task 'poem' cannot be asked"):
        converse(page, ["colchicine"], "poem", 0)


def test_each_conversation_is_a_piece_beside_its_document() -> None:
    """Three pieces of one document; a conversation longer than a block is left out with its reason, never cut."""
    builder = PhaseBuilder(letters, MARKS, 12, encode_chats=spoken)

    def talk(page: Document, rows: list[str]) -> list[Messages]:
        return [turns(page.id, row) for row in rows]

    builder.add([document("a", "text")], {"a": ["b", "much too long", "c"]}, with_documents=True, converse=talk)
    phase = builder.finish()
    assert [read(piece.tokens) for piece in phase.pieces] == ["?ab!", "?ac!", "<text>"]
    assert [piece.labels.count(IGNORED) for piece in phase.pieces] == [2, 2, 0]
    assert (phase.documents, phase.outputs, phase.chats, phase.tokens) == (1, 2, 2, 3 + 3 + 5)
    assert phase.summary()["trained"] == 2 + 2 + 5
    (row,) = phase.left_out
    assert row["document_id"] == "a" and "16 tokens, and max_tokens=12" in row["reason"]


# --- rehearsal -------------------------------------------------------------------------------------------------------


def phase_with(own: int, rows: list[Row], share: float, epochs: int, seed: int = 0) -> Phase:
    builder = PhaseBuilder(letters, MARKS, 32, encode_chats=spoken)
    builder.add([document(f"d{n}", f"own {n:04}") for n in range(own)], {}, with_documents=True)
    rehearse(builder, rows, Rehearse(rows=[Path("x")], share=share), epochs, seed, "dapt")
    return builder.finish()


def known(count: int) -> list[Row]:
    return [
        Row(turns(f"{n:03}", "yes") if n % 2 else f"known {n:03}", f"rehearsed: {n % 2}", str(n)) for n in range(count)
    ]


@pytest.mark.parametrize("share", [0.2, 0.35, 0.6])
def test_every_epoch_and_every_stretch_has_its_share(share: float) -> None:
    """The share of tokens holds in each epoch and, within a block or two, in each tenth of it."""
    phase = phase_with(300, known(150), share, 3)
    assert phase.plan is not None and phase.own is not None
    lengths = phase.pieces.lengths - 1

    def measured(blocks: list[list[int]]) -> float:
        numbers = np.array([number for block in blocks for number in block])
        return float(lengths[numbers[numbers >= phase.own]].sum() / lengths[numbers].sum())

    size = len(phase.plan) // 3
    for epoch in range(3):
        blocks = phase.plan[epoch * size : (epoch + 1) * size]
        assert measured(blocks) == pytest.approx(share, abs=0.02)
        for start in range(0, size - 20, 20):
            assert measured(blocks[start : start + 20]) == pytest.approx(share, abs=0.08)
    own = [number for block in phase.plan for number in block if number < phase.own]
    assert sorted(own) == sorted([*range(300)] * 3), "each own piece once an epoch"
    assert phase.rehearsed["share"] == pytest.approx(share, abs=0.01)
    assert phase.rehearsed["tokens"] == sum(phase.rehearsed["sources"].values()) > phase.rehearsed["trained"]


def test_rows_are_drawn_by_the_seed_and_none_twice_before_all() -> None:
    """Few rows come round again and again, no two times apart; many are not all read; a seed is an order."""
    few = phase_with(300, known(40), 0.4, 2)
    assert few.plan is not None and few.own is not None
    again = [number for block in few.plan for number in block if number >= few.own]
    times = np.bincount(again)[few.own :]
    assert len(times) == 40 and times.max() - times.min() <= 1 and times.min() > 3
    many = phase_with(20, known(5000), 0.35, 1)
    assert many.rehearsed["rows_read"] < many.rehearsed["rows"] == 5000
    assert phase_with(20, known(5000), 0.35, 1).plan == many.plan
    one, other = (
        {read(phase.pieces[n].tokens) for block in phase.plan or [] for n in block if n >= (phase.own or 0)}
        for phase in (many, phase_with(20, known(5000), 0.35, 1, seed=1))
    )
    assert one != other and len(one & other) < 5


def test_two_lists_are_spread_over_one_another() -> None:
    """Of ten and thirty every eighth part has two of the ten; the order of each stays."""
    mixed = evenly([[n] for n in range(10)], [[n] for n in range(100, 130)])
    assert all(sum(block[0] < 100 for block in mixed[start : start + 8]) == 2 for start in range(0, 40, 8))
    assert [block[0] for block in mixed if block[0] < 100] == list(range(10))


def test_rows_of_files_and_folders_with_their_licences(tmp_path: Path) -> None:
    """Chats and texts, packed or not, of files and of a corpus folder; never what is held out; wrong rows are named."""
    plain = tmp_path / "a.jsonl"
    write_jsonl(plain, [{"messages": turns("a", "b"), "license": "CC0-1.0", "source": "Lessons"}, {"text": "c"}])
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "d"}) + "\n")
    made = corpus(tmp_path, [f"A text of number {n}." for n in range(10)])
    rows, licences = read_rows([plain, tmp_path / "b.jsonl.gz", made])
    assert [row.content for row in rows[:3]] == [turns("a", "b"), "c", "d"]
    assert len(rows) == 3 + read_json(made / "run.json")["counts"]["train"]
    assert licences == {"Lessons": "CC0-1.0", "a.jsonl": "not stated", "b.jsonl.gz": "not stated"}
    for wrong, message in (({"messages": ["a"]}, "must be a list"), ({"output": "x"}, "neither 'messages' nor 'text'")):
        write_jsonl(plain, [wrong])
        with pytest.raises(UserError, match=f"a.jsonl row 1: .*{message}"):
            read_rows([plain])


# --- the command -----------------------------------------------------------------------------------------------------


class Rows(Config):
    """Stands in for experts.prepare."""

    documents: Path


def corpus(folder: Path, texts: list[str]) -> Path:
    rows = [
        {"id": f"d{n}", "title": "", "text": text, "source": "S", "license": "CC0-1.0"} for n, text in enumerate(texts)
    ]
    write_jsonl(folder / "in.jsonl", rows)
    settings = {"out": folder / "corpus", "corpus": str(folder / "in.jsonl"), "heldout_share": 0.1}
    return corpora.main(load(corpora.Config, settings))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages that name a disease and no drug, and a teacher's questions with answers on each."""
    folder = tmp_path_factory.mktemp("pages")
    names = sorted(FACTS)
    made = corpus(folder, [f"Page {n} of {names[n % 5]} in the ward." for n in range(40)])
    with run.start(Rows(out=folder / "rows", documents=made), "rows") as this:
        train_rows = [json.loads(line) for line in (made / "train.jsonl").open()]
        found = []
        for row in train_rows:
            name = row["text"].split()[3]
            output = f"Question: What treats {name}? Answer: {FACTS[name]}"
            found.append({"id": row["id"], "document_id": row["id"], "task": "question_answer", "output": output})
        write_jsonl(this.folder / "rows.jsonl", found)
        this.finish(rows=len(found))
    write_jsonl(
        folder / "known.jsonl",
        [
            {"messages": turns(f"Say {word}.", word), "source": "Lessons", "license": "CC0-1.0"}
            for word in (random.Random(n).choice(["fever", "pain", "chest"]) + f" {n}" for n in range(60))
        ],
    )
    return folder


def settings(folder: Path, base: Path, out: Path, **more: Any) -> train.Config:
    values = {"out": out, "base": str(base), "documents": str(folder / "corpus"), "rows": str(folder / "rows")}
    values |= {"method": "pit", "max_tokens": 64, "threads": 1, "trainer": TRAINER | {"num_train_epochs": 6}}
    return load(train.Config, values | more)


def answered(model: Path) -> float:
    """The mean log-probability of the drug that treats a disease, asked for in a chat (nats a token)."""
    from medsmith.likelihood import ChoiceItem, score_options
    from medsmith.models import load_model, load_tokenizer

    asked = [[{"role": "user", "content": f"What treats {name}?"}] for name in FACTS]
    items = [ChoiceItem(turn, [f"{drug}<|end|>"]) for turn, drug in zip(asked, FACTS.values(), strict=True)]
    scores = score_options(load_model(model), load_tokenizer(model), items)
    return sum(score.logprobs[0] for score in scores) / sum(score.tokens[0] for score in scores)


def test_chats_are_answered_and_text_is_not(pages: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The same rows, as many epochs: asked in a chat, the expert of chats is far surer of what it read."""
    sure = {
        form: answered(train.main(settings(pages, tiny_model, tmp_path / form, rows_as=form)))
        for form in ("chat", "text")
    }
    assert sure["chat"] > -1.2 and sure["chat"] > sure["text"] + 1.5, sure
    data = read_json(tmp_path / "chat" / "data.json")["phases"]
    assert data["phase1"]["chats"] == data["phase1"]["pieces"] == data["phase1"]["outputs"]
    assert data["phase2"]["pieces"] == 2 * data["phase2"]["chats"]
    assert data["phase1"]["trained"] < data["phase1"]["tokens"]


def test_rehearsed_rows_are_counted_and_a_kill_changes_nothing(pages: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A share of both phases, told by source with its licence; killed and started again, the same bytes."""
    from transformers import TrainerCallback

    class Killer(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if Path(args.output_dir).name == "phase2" and state.global_step == 3:
                raise KeyboardInterrupt

    again = {"rehearse": {"rows": [str(pages / "known.jsonl")], "share": 0.4}, "rows_as": "chat"}
    trainer = TRAINER | {"num_train_epochs": 2}
    whole = train.main(settings(pages, tiny_model, tmp_path / "whole", trainer=trainer, **again))
    killed = settings(pages, tiny_model, tmp_path / "killed", trainer=trainer, **again)
    with pytest.raises(KeyboardInterrupt):
        train.main(killed, [Killer()])
    train.main(killed)
    assert (killed.out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    facts = read_json(whole / "run.json")["facts"]
    assert facts["licences"] == {"S": "CC0-1.0", "Lessons": "CC0-1.0"}
    for phase in facts["phases"]:
        assert phase["epochs"] == 2 and phase["rehearsed"]["share"] == pytest.approx(0.4, abs=0.03)
        assert phase["rehearsed"]["sources"].keys() == {"rehearsed: known.jsonl"}
    data = read_json(whole / "data.json")["phases"]["phase2"]
    assert data["rehearsed"]["epochs"] == 2 and data["sources"].keys() == {"S"}
    read = sum(row["tokens"] for row in read_json(whole / "log" / "report.json")["trainings"][1]["data"][1:])
    assert read == data["rehearsed"]["tokens"]


def test_what_was_rehearsed_is_kept(pages: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The loss on the old rows goes down when they are among the new ones, and up when they are not."""
    from medsmith.likelihood import document_nll
    from medsmith.models import load_model, load_tokenizer

    old = [f"The ward has {n} beds and {n} lamps." for n in range(30)]
    write_jsonl(tmp_path / "old.jsonl", [{"text": text} for text in old])
    given = {"method": "dapt", "rows": None, "trainer": TRAINER | {"num_train_epochs": 3}}
    alone = train.main(settings(pages, tiny_model, tmp_path / "alone", **given))
    mixed = {"rows": [str(tmp_path / "old.jsonl")], "share": 0.5}
    both = train.main(settings(pages, tiny_model, tmp_path / "both", **given, rehearse=mixed))

    def loss(model: Path) -> float:
        scores = document_nll(load_model(model), load_tokenizer(model), old[:5])
        return sum(score.nll for score in scores) / sum(score.tokens for score in scores)

    assert loss(both) < loss(alone) - 1.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "dapt", "rows": None, "rows_as": "chat"}, "method dapt has none; leave it out"),
        (
            {"rehearse": {"rows": ["x"]}, "trainer": {"max_steps": 3}},
            "set trainer.num_train_epochs in place of max_steps",
        ),
        ({"rehearse": {"rows": ["x"], "share": 1.0}}, "less than 1"),
    ],
)
def test_wrong_settings_are_refused(pages: Path, tiny_model: Path, tmp_path: Path, more: Any, message: str) -> None:
    """The message says what to write instead."""
    with pytest.raises(UserError, match=message):
        settings(pages, tiny_model, tmp_path / "run", **more)
