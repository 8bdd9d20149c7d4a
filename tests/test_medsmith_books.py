"""What a run left out stays out: no text of its books reaches a prompt or a training row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval import contamination_training
from experts import corpora, prepare
from experts.rehearsal import read_rows
from experts.texts import Corpus
from mediflow import generate
from medsmith import run
from medsmith.blocklists import load_blocklists
from medsmith.books import data_files
from medsmith.config import Config, load
from medsmith.errors import UserError
from medsmith.llm import ChatReply, ChatRequest
from medsmith.records import read_parquet, write_jsonl

OPEN, DENIED, BLOCKED, TWICE = "openword", "deniedword", "blockedword", "twiceword"
PATIENTS = ("a man of ninety", "a woman of forty", "a child of three", "a nurse of fifty", "a farmer of seventy")


def text(mark: str, number: int) -> str:
    """Twenty-odd words that are no others' near copy."""
    told = " ".join(f"{mark}{number}x{n} was noted on day {n}" for n in range(4))
    return f"{PATIENTS[number % 5]} came with {mark} {told} and went home {mark}{number}."


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpora folder that left out texts under a denied licence, a benchmark's, and repeats, beside what it kept."""
    row = {"title": "T", "source": "S", "license": "CC0-1.0"}
    rows = [row | {"id": f"o{n}", "text": text(OPEN, n)} for n in range(30)]
    rows += [row | {"id": f"n{n}", "text": text(DENIED, n), "license": "CC BY-NC 4.0"} for n in range(4)]
    rows += [row | {"id": f"b{n}", "text": text(BLOCKED, n)} for n in range(4)]
    rows += [row | {"id": "o1", "text": text(TWICE, 1)}]
    write_jsonl(tmp_path / "in.jsonl", rows)
    write_jsonl(tmp_path / "bench" / "test.jsonl", [{"question": text(BLOCKED, n)} for n in range(4)])
    settings = {"corpus": str(tmp_path / "in.jsonl"), "blocklists": [str(tmp_path / "bench")], "heldout_share": 0.0}
    given = {"out": tmp_path / "corpus", "licences": {"deny": ["non-commercial"]}, **settings}
    made = corpora.main(load(corpora.Config, given))
    dropped = [json.loads(line) for line in (made / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == 9 and all(mark in json.dumps(dropped) for mark in (DENIED, BLOCKED, TWICE))
    return made


class Listener:
    """A chat model that answers nothing of use and keeps what it was sent."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer with a row that is good enough for one and for the other command."""
        self.heard.append(json.dumps(request.messages))
        said = "<instruction>Do it.</instruction><examples><example><output>It went.</output></example></examples>"
        return ChatReply([said], {"completion_tokens": 3}, "fake", finish=["stop"])


LOCAL = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}


def passages(corpus: Path) -> Iterator[str]:
    """The prompts of a generation about passages of the corpus."""
    given = {"path": str(corpus), "document_type": "note", "min_words": 5}
    weights = {"task_type": {"summarization": 1}, "output_format": {"plain_text": 1}}
    settings = {"teacher": LOCAL, "instructions": 60, "examples": 1, "repair": False, "refills": 0, "weights": weights}
    config = load(generate.Config, {"out": corpus.parent / "generated", "passages": given, **settings})
    chat = Listener()
    with run.start(config, "mediflow.generate") as this:
        generate.generate(config, this, chat)
    assert run.require_finished(config.out)["facts"]["licences"]["S"] == "CC0-1.0"
    yield from chat.heard


def prepared(corpus: Path) -> Iterator[str]:
    """The prompts of experts.prepare."""
    config = load(prepare.Config, {"out": corpus.parent / "rows", "documents": str(corpus), "teacher": LOCAL})
    chat = Listener()
    with run.start(config, "experts.prepare") as this:
        prepare.prepare(config, this, chat)
    yield from chat.heard


def again(corpus: Path) -> Iterator[str]:
    """A corpus made of a corpora folder."""
    made = corpora.main(load(corpora.Config, {"out": corpus.parent / "again", "corpus": str(corpus)}))
    yield (made / "train.jsonl").read_text() + (made / "heldout.jsonl").read_text()


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "mediflow.generate passages": passages,
    "experts.prepare": prepared,
    "experts.corpora of a corpus": again,
    "experts.train documents": lambda corpus: (document.text for document in Corpus("", corpus).train()),
    "experts.train rehearse": lambda corpus: (str(row.content) for row in read_rows([corpus])[0]),
    "eval.contamination training": lambda corpus: (
        json.dumps(row.values)
        for file in contamination_training.training_files(corpus)
        for row in contamination_training.read_rows(file)
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_text_that_was_left_out_reaches_a_prompt_or_a_training_row(reader: str, corpus: Path) -> None:
    """Of a folder's books not one text; of what it kept, some (else nothing was read at all)."""
    seen = "\n".join(READERS[reader](corpus))
    assert OPEN in seen
    assert not [mark for mark in (DENIED, BLOCKED, TWICE) if mark in seen]


class Step(Config):
    """Any command that takes data."""

    data: Path


def test_a_book_named_as_data_is_refused(corpus: Path, tmp_path: Path) -> None:
    """By the very file, whatever the command; a user's own file of that name is the user's."""
    with pytest.raises(UserError, match=r"data=.*dropped\.jsonl is what a run left out"):
        run.start(Step(out=tmp_path / "a", data=corpus / "dropped.jsonl"), "toy.step").__enter__()
    write_jsonl(tmp_path / "mine" / "dropped.jsonl", [{"text": "mine"}])
    with run.start(Step(out=tmp_path / "b", data=tmp_path / "mine" / "dropped.jsonl"), "toy.step"):
        pass


def test_what_is_not_read_of_a_folder_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By name, in every spelling of a book's; a blocklist may hold out what training may not read."""
    names = [
        "a.jsonl",
        "dropped-0.parquet",
        "dropped.jsonl.gz",
        "failed.jsonl",
        "heldout.jsonl",
        "left_out.csv",
        "z.txt",
    ]
    files = [tmp_path / name for name in names]
    with caplog.at_level("INFO"):
        assert [file.name for file in data_files(reversed(files))] == ["a.jsonl", "z.txt"]
    assert all(name in caplog.text for name in names[1:-1])
    assert [file.name for file in data_files(files, held_out=True)] == ["a.jsonl", "heldout.jsonl", "z.txt"]
    with pytest.raises(UserError, match="no Parquet file"):
        (tmp_path / "dropped.parquet").touch()
        read_parquet(tmp_path)
    write_jsonl(tmp_path / "heldout.jsonl", [{"text": text(OPEN, 1)}])
    write_jsonl(tmp_path / "dropped.jsonl", [{"text": text(DENIED, 1)}])
    assert [OPEN in each.text for each in load_blocklists([tmp_path], 8).texts] == [True]
