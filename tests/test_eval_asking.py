"""Multiple choice by likelihood and by writing the letter: two scores of one item, and how often they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eval.asking import ask, prepare
from eval.engine import Reply
from eval.responses import Responses
from eval.results import summarise
from eval.suite import BenchmarkSettings
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.likelihood import ChoiceItem, DocumentScore, OptionScores
from medsmith.progress import Bar
from medsmith.records import write_jsonl


@dataclass
class Speaker:
    """Finds the second option likeliest; writes what it is told, by question."""

    says: dict[str, str]
    fingerprint: str = "f"
    context: int = 4000
    prompts: list[str] = field(default_factory=list)

    def encode(self, messages: Sequence[Sequence[dict[str, str]]]) -> list[list[int]]:
        return [[ord(letter) for letter in "\n".join(turn["content"] for turn in chat)] for chat in messages]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def begin_tokens(self, ids: list[int]) -> int:
        return 0

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        return list(map(len, texts))

    def write(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        texts = [self.decode(ids) for ids in prompts]
        self.prompts += texts
        return [Reply(next(said for key, said in self.says.items() if key in text), 1, "stop") for text in texts]

    def choose(self, items: list[ChoiceItem]) -> list[OptionScores]:
        return [OptionScores([-2.0, -1.0, -3.0, -4.0], [1, 1, 1, 1]) for _ in items]

    def read(self, texts: list[str], window: int) -> list[DocumentScore]:
        raise AssertionError("nothing is to be read")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Four questions of ICD10CM's format; the right options stand at A, B, C, D."""
    import polars

    rows = [
        {
            "question_id": n, "question": f"What is code A0{n}?", "answer_id": "ABCD"[n], "vocab": "ICD10CM",
            "level": "easy", **{f"option{o}": f"meaning {n}-{o}" for o in range(1, 5)},
        }
        for n in range(4)
    ]  # fmt: skip
    (tmp_path / "icd").mkdir()
    polars.DataFrame(rows).write_parquet(tmp_path / "icd" / "test.parquet")
    return tmp_path / "icd"


@pytest.mark.parametrize("choice", ["text", "letter"])
def test_what_is_chosen_and_what_is_written(choice: Any, questions: Path, tmp_path: Path) -> None:
    """By likelihood always the second option, 1 of 4 right; written A, B, unreadable, D: 3 right, one of them alike."""
    says = {"A00": "A", "A01": "The answer is B.", "A02": "A or C", "A03": "**D**: meaning 3-4"}
    task = prepare("icd10cm", BenchmarkSettings(choice=choice, generate=True), questions, None, 4000)
    engine = Speaker(says)
    with Journal(tmp_path / "journal.jsonl") as journal, Bar("x", 4, "items") as bar:
        samples = ask(task, Responses(engine, journal), tmp_path, bar)
    result = summarise([task], samples, [], 0)["benchmarks"]["icd10cm"]

    assert result["value"] == result["metrics"]["accuracy"]["value"] == 1 / 4
    found = {name: result["metrics"][f"{name}_written"]["value"] for name in ("accuracy", "readable", "agreement")}
    assert found == {"accuracy": 3 / 4, "readable": 3 / 4, "agreement": 1 / 4}
    assert [row["written"] for row in samples] == list(says.values())
    assert samples[2]["written_answer"] is None
    assert samples[3]["written_answer"] == ("D" if choice == "letter" else "meaning 3-4")
    # The letters can only be written by one who saw them.
    assert all("B. meaning" in prompt and prompt.endswith("letter.") for prompt in engine.prompts)


def test_without_the_switch_nothing_is_written(questions: Path, tmp_path: Path) -> None:
    """By default options are only compared."""
    task = prepare("icd10cm", BenchmarkSettings(), questions, None, 4000)
    engine = Speaker({})
    with Journal(tmp_path / "journal.jsonl") as journal, Bar("x", 4, "items") as bar:
        samples = ask(task, Responses(engine, journal), tmp_path, bar)
    assert engine.prompts == []
    assert all("written" not in row for row in samples)


@pytest.mark.parametrize("settings", [{"choice": "letter"}, {"generate": True}])
def test_settings_of_options_need_options(settings: dict[str, Any], tmp_path: Path) -> None:
    """A setting that would do nothing is refused: result.json would say that it was asked so."""
    pair = {"pairID": "1", "gold_label": "neutral", "sentence1": "a", "sentence2": "b"}
    write_jsonl(tmp_path / "mli_test_v1.jsonl", [pair])
    assert len(prepare("mednli", BenchmarkSettings(), tmp_path, None, 4000).items) == 1
    with pytest.raises(UserError, match="mednli has no options to choose from"):
        prepare("mednli", BenchmarkSettings(**settings), tmp_path, None, 4000)
