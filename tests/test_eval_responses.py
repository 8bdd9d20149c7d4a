"""Answers are kept by all that decides them: in the run's folder, and in a store that runs share."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from eval.engine import Engine, Reply
from eval.engines.transformers import LocalModel
from eval.responses import LOCAL, BatchSize, Responses, batches
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.likelihood import ChoiceItem, DocumentScore, OptionScores
from medsmith.progress import Bar
from medsmith.records import read_jsonl

PROMPTS = [f"question {'x' * number}" for number in range(10)]


@dataclass
class Counting:
    """An engine that answers with the length of what it is asked, and notes every item; it dies at `dies_at` items."""

    fingerprint: str = "one"
    dies_at: int = 10**9
    asked: list[Any] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)

    def _note(self, rows: Sequence[Any]) -> None:
        if len(self.asked) + len(rows) > self.dies_at:
            raise ConnectionError("killed")
        self.asked += rows
        self.heights.append(len(rows))

    def write(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        self._note(prompts)
        return [Reply(f"{len(ids)} of {len(prompts)}", len(ids), "stop") for ids in prompts]

    def choose(self, items: list[ChoiceItem]) -> list[OptionScores]:
        self._note(items)
        return [OptionScores([-1.123456, -2.0], [1, 1]) for _ in items]

    def read(self, texts: list[str], window: int) -> list[DocumentScore]:
        self._note(texts)
        return [DocumentScore(len(text) + 0.00004, 1, len(text)) for text in texts]


def write(folder: Path, engine: Counting, prompts: list[str] = PROMPTS, tokens: int = 4, **settings: Any) -> list[Any]:
    size = BatchSize(4, LOCAL.tokens)
    with Journal(folder / "responses.jsonl") as journal, Bar("test") as bar:
        responses = Responses(cast(Engine, engine), journal, size, **settings)
        return responses.write(prompts, [[0] * len(prompt) for prompt in prompts], tokens, bar)


def test_a_killed_run_asks_each_item_once_and_in_the_same_batches(tmp_path: Path) -> None:
    """Killed at item 9 of 10 it keeps two batches of four; the next asks the last two, among the same neighbours."""
    whole = write(tmp_path / "whole", Counting())
    with pytest.raises(ConnectionError):
        write(tmp_path / "killed", Counting(dies_at=9))
    again = Counting()
    assert write(tmp_path / "killed", again) == whole
    assert (len(again.asked), again.heights) == (2, [2])
    assert [row["text"].split()[-1] for row in whole] == ["2", "2", *"44444444"]


def test_a_torn_line_takes_its_whole_batch_with_it(tmp_path: Path) -> None:
    """A line cut by a kill leaves no half batch: its four items are asked again together."""
    whole = write(tmp_path, Counting())
    path = tmp_path / "responses.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    again = Counting()
    assert write(tmp_path, again) == whole
    assert again.heights == [2]
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[1:]))
    again = Counting()
    assert write(tmp_path, again) == whole
    assert again.heights == [4]


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    """Five repeats of a prompt are one item to the model, and five rows to the caller."""
    engine = Counting()
    assert len({row["text"] for row in write(tmp_path, engine, ["same"] * 5)}) == 1
    assert engine.heights == [1]


def test_what_decides_an_answer_is_in_its_key(tmp_path: Path) -> None:
    """Another length, window, set of options or model asks again; the same asks nothing."""
    items = [ChoiceItem([], ["a", "b"])]
    for engine, fresh in [(Counting(), 1), (Counting(), 0), (Counting("two"), 1)]:
        with Journal(tmp_path / "j.jsonl") as journal, Bar("test") as bar:
            responses = Responses(cast(Engine, engine), journal)
            assert responses.choose(["p"], items, [1], bar) == [{"logprobs": [-1.12346, -2.0], "tokens": [1, 1]}]
            assert responses.read(["text"], [1], 64, bar) == [{"nll": 4.0, "tokens": 1, "bytes": 4}]
            assert len(engine.asked) == 2 * fresh
            assert responses.reused == 2 * (1 - fresh)
            responses.choose(["p"], [ChoiceItem([], ["a", "c"])], [1], bar)
            responses.read(["text"], [1], 65, bar)
            assert len(engine.asked) == 4 * fresh


def test_a_store_answers_other_folders_item_by_item(tmp_path: Path) -> None:
    """Six of ten were asked elsewhere: four are asked here, none in a third folder, none without it later."""
    store = tmp_path / "store"
    first, second, third = Counting(), Counting(), Counting()
    write(tmp_path / "a", first, PROMPTS[:6], store=store)
    rows = write(tmp_path / "b", second, PROMPTS, store=store)
    assert (len(first.asked), len(second.asked)) == (6, 4)
    assert write(tmp_path / "c", third, PROMPTS, store=store) == rows
    assert write(tmp_path / "b", third, PROMPTS) == rows
    assert third.asked == []
    assert len(list(store.glob("one/*.jsonl"))) == 2, "a run that asked nothing writes nothing"
    write(tmp_path / "d", third, PROMPTS)
    assert len(third.asked) == 10, "without the store another folder asks"


def test_a_run_that_writes_to_the_store_at_the_same_time_is_no_trouble(tmp_path: Path) -> None:
    """A torn last line, of a run that is writing or was killed, is passed over; a broken one before it is named."""
    store = tmp_path / "store"
    write(tmp_path / "a", Counting(), PROMPTS[:4], store=store)
    (file,) = store.glob("one/*.jsonl")
    file.write_bytes(file.read_bytes() + b'{"id": "half')
    other = Counting()
    write(tmp_path / "b", other, PROMPTS[:4], store=store)
    assert other.asked == []
    file.write_bytes(b"broken\n" + file.read_bytes())
    with pytest.raises(UserError, match="line 1: not an answer; remove that line"):
        write(tmp_path / "c", Counting(), PROMPTS[:4], store=store)


def test_swapped_weights_find_nothing(tiny_model: Path, tmp_path: Path) -> None:
    """One bit of the weights under the same path, and every answer in journal and store misses; swapped back, none."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    weights = model / "model.safetensors"
    original = weights.read_bytes()

    def asked() -> int:
        engine = Counting(LocalModel(model, device="cpu").fingerprint)
        write(tmp_path / "out", engine, store=tmp_path / "store")
        return len(engine.asked)

    assert (asked(), asked()) == (10, 0)
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert (asked(), asked()) == (10, 0)
    weights.write_bytes(original)
    assert asked() == 0
    assert len(list(read_jsonl(tmp_path / "out" / "responses.jsonl"))) == 6


def test_batches_hold_what_is_of_like_length() -> None:
    """The longest first; rows and tokens bound a batch; an item longer than both bounds is alone."""
    assert list(batches([5, 90, 4, 50, 6], BatchSize(2, 60))) == [[1], [3], [4, 0], [2]]
