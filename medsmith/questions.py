"""Validation questions: multiple choice by topic, scored by the likelihood of each option's text; never test data.

A row is {id, topic, context, question, options, answer_index}, and may bring an `instruction` of its own; a file holds
one topic or several. What counts is the mean over topics of accuracy, so that a large topic does not drown a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.records import read_jsonl
from medsmith.row_files import files_in

SYSTEM = "Choose the right answer."
COLUMNS = {"id": str, "topic": str, "context": str, "question": str, "options": list, "answer_index": int}


@dataclass(frozen=True)
class Question:
    """One multiple-choice question."""

    id: str
    topic: str
    context: str
    question: str
    options: tuple[str, ...]
    answer_index: int
    instruction: str = SYSTEM

    def messages(self) -> list[dict[str, str]]:
        """The prompt; the context is left out where there is none."""
        user = f"{self.context}\n\n{self.question}" if self.context else self.question
        return [{"role": "system", "content": self.instruction}, {"role": "user", "content": user}]


@dataclass(frozen=True)
class Score:
    """A model's answers: the objective, the accuracy of each topic, and right or wrong for each question in order."""

    mean: float
    topics: dict[str, float]
    right: str
    """One character a question, in the order of read_questions: 1 right, 0 wrong."""


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """Read files, or folders of *.jsonl, in order of topic and id.

    Raises:
        UserError: no questions, a column missing or of the wrong type, an answer that is no option, or an id twice in
            a topic.
    """
    found: dict[tuple[str, str], Question] = {}
    for path in paths:
        files = files_in(path, (".jsonl",)) if path.is_dir() else [path]
        for file in files:
            for number, row in enumerate(read_jsonl(file), 1):
                question = _question(row, f"{file} row {number}")
                key = (question.topic, question.id)
                if key in found:
                    raise UserError(f"{file} row {number}: id {question.id!r} twice in topic {question.topic!r}")
                found[key] = question
    if not found:
        raise UserError(f"no validation questions in {', '.join(map(str, paths)) or 'nothing'}; give files or folders")
    return [found[key] for key in sorted(found)]


@dataclass(frozen=True)
class Answers:
    """What a model says to every question, in the order of read_questions."""

    right: str
    """One character a question: 1 right, 0 wrong."""
    margins: list[float]
    """How much likelier the right option is than the best wrong one: the difference of their mean log-probabilities a
    token, in nats."""


def answer(model: Any, tokenizer: Any, questions: Sequence[Question], batch_tokens: int | None = None) -> Answers:
    """Answer every question by the option with the highest mean log-probability per token."""
    from medsmith.likelihood import ChoiceItem, score_options

    items = [ChoiceItem(question.messages(), list(question.options)) for question in questions]
    scores = score_options(model, tokenizer, items, batch_tokens)
    right, margins = [], []
    for each, question in zip(scores, questions, strict=True):
        right.append(str(int(each.best() == question.answer_index)))
        means = [value / count for value, count in zip(each.logprobs, each.tokens, strict=True)]
        wrong = max(value for number, value in enumerate(means) if number != question.answer_index)
        margins.append(round(means[question.answer_index] - wrong, 4))
    return Answers("".join(right), margins)


def score(model: Any, tokenizer: Any, questions: Sequence[Question], batch_tokens: int | None = None) -> Score:
    """The accuracies of a model's answers."""
    return tally(answer(model, tokenizer, questions, batch_tokens).right, questions)


def tally(right: str, questions: Sequence[Question]) -> Score:
    """The accuracies behind a row of right and wrong answers."""
    topics: dict[str, list[int]] = {}
    for digit, question in zip(right, questions, strict=True):
        topics.setdefault(question.topic, []).append(int(digit))
    accuracy = {topic: round(sum(values) / len(values), 6) for topic, values in topics.items()}
    mean = sum(sum(values) / len(values) for values in topics.values()) / len(topics)
    return Score(round(mean, 6), accuracy, right)


def _question(row: dict[str, Any], where: str) -> Question:
    for name, kind in COLUMNS.items():
        if name not in row and name != "context":
            raise UserError(f"{where}: missing column '{name}'; columns needed: {', '.join(COLUMNS)}")
        if not isinstance(row.get(name) or kind(), kind):
            raise UserError(f"{where}: '{name}' must be {kind.__name__}, got {row[name]!r}")
    options = tuple(row["options"])
    if len(options) < 2 or not all(isinstance(option, str) and option for option in options):
        raise UserError(f"{where}: 'options' must be two or more texts, got {row['options']!r}")
    if not 0 <= row["answer_index"] < len(options):
        raise UserError(f"{where}: answer_index {row['answer_index']} is none of {len(options)} options (from 0)")
    context, instruction = row.get("context") or "", row.get("instruction") or SYSTEM
    return Question(row["id"], row["topic"], context, row["question"], options, row["answer_index"], instruction)
