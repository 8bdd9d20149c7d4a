"""Documents become training rows: one call each, nothing held out, nothing lost, nothing paid twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experts import corpora, prepare
from medsmith import run
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.llm import ChatError, ChatReply, ChatRequest
from medsmith.records import Document, read_json, write_jsonl

DOCUMENT = Document("d1", "Gout", 'Gout is treated with "colchicine".\nIt often hurts at night.', "S", "CC0-1.0")


class Teacher:
    """Answers `answers[document id]`, or 'About <title>.'; to a repair `mended`, if given; counts its calls."""

    def __init__(
        self, answers: dict[str, str | Exception] | None = None, finish: str = "stop", mended: str | None = None
    ) -> None:
        self.answers = answers or {}
        self.finish = finish
        self.mended = mended
        self.asked: list[str] = []
        self.repairs: list[str] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer with one text."""
        key = request.about["document_id"]
        if "repairs" in request.about:
            self.repairs.append(request.messages[-1]["content"])
            if self.mended is not None:
                return ChatReply([self.mended], {"completion_tokens": 3}, "fake", finish=["stop"])
        else:
            self.asked.append(key)
        answer = self.answers.get(key, f"About {key}.")
        if isinstance(answer, Exception):
            raise answer
        return ChatReply([answer], {"completion_tokens": 3}, "fake", finish=[self.finish])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A finished corpora folder of thirty documents."""
    rows = [
        {
            "id": f"d{n}",
            "title": f"T{n}",
            "text": f"Text number {n} of the corpus.",
            "source": "S",
            "license": "CC0-1.0",
        }
        for n in range(30)
    ]
    write_jsonl(tmp_path / "in.jsonl", rows)
    return corpora.main(load(corpora.Config, {"out": tmp_path / "corpus", "corpus": str(tmp_path / "in.jsonl")}))


def config(corpus: Path, **more: Any) -> prepare.Config:
    teacher = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    return load(prepare.Config, {"out": corpus.parent / "rows", "documents": str(corpus), "teacher": teacher, **more})


def make(settings: prepare.Config, teacher: Teacher) -> list[dict[str, Any]]:
    with run.start(settings, "experts.prepare") as this:
        prepare.prepare(settings, this, teacher)
    return lines(settings.out / "rows.jsonl")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_training_document_is_asked_once_and_no_held_out_one(corpus: Path) -> None:
    """The teacher sees train.jsonl, all of it, and nothing of heldout.jsonl."""
    teacher = Teacher()
    rows = make(config(corpus), teacher)
    train = {row["id"] for row in lines(corpus / "train.jsonl")}
    heldout = {row["id"] for row in lines(corpus / "heldout.jsonl")}
    assert sorted(teacher.asked) == sorted(train) and not heldout & set(teacher.asked)
    assert [row["document_id"] for row in rows] == sorted(train)
    assert rows[0] | {"id": ""} == {"id": "", "document_id": "d0", "task": "summary", "output": "About d0."}


@pytest.mark.parametrize("task", ["summary", "question_answer", "entities", "relations", "explainer"])
def test_prompt_ends_with_the_request_as_data(task: str) -> None:
    """What a program reads from the last fenced block is the document, unharmed by quotes and line ends."""
    (message,) = prepare.messages(DOCUMENT, task)
    before, _, block = message["content"].rpartition("```request\n")
    assert json.loads(block.removesuffix("\n```")) == {
        "kind": "pit",
        "task": task,
        "document": {"title": "Gout", "text": DOCUMENT.text},
    }
    assert len(before.split()) > 40


def test_simulated_teacher_understands_every_task() -> None:
    """The answers of the simulated clinic are read without a failure, questions as several items."""
    from mediflow.clinic.reply import reply

    for task in ("summary", "question_answer", "entities", "relations", "explainer"):
        block = prepare.messages(DOCUMENT, task)[0]["content"].rpartition("```request\n")[2].removesuffix("\n```")
        row = {"error": None, "texts": [reply(json.loads(block), seed=0)], "finish": ["stop"]}
        items, reason = prepare.read_reply(row, task)
        assert reason is None and len(items) == (2 if task == "question_answer" else 1), (task, items, reason)


def test_question_and_answer_pairs_are_separate_rows(corpus: Path) -> None:
    """Each pair is one row; numbering, empty lines and a pair over two lines do no harm; a half pair is left out."""
    answer = "Here they are:\nQuestion: What? Answer: Gout.\n\n12. Question: Dose?\n  Answer: 1 mg\nQuestion: and?"
    teacher = Teacher({f"d{n}": answer for n in range(30)})
    rows = make(config(corpus, task="question_answer", limit=1), teacher)
    assert [row["output"] for row in rows] == ["Question: What? Answer: Gout.", "Question: Dose? Answer: 1 mg"]


def test_failures_are_counted_with_reasons(corpus: Path) -> None:
    """An empty, a cut and a refused answer are in failed.jsonl; documents = answered + failed."""
    ids = [row["id"] for row in lines(corpus / "train.jsonl")]
    teacher = Teacher({ids[0]: " ", ids[1]: ChatError("HTTP 500 after 7 attempts", final=True)})
    make(config(corpus), teacher)
    failed = {row["document_id"]: row["reason"] for row in lines(corpus.parent / "rows" / "failed.jsonl")}
    assert failed == {ids[0]: "empty answer", ids[1]: "HTTP 500 after 7 attempts"}
    record = read_json(corpus.parent / "rows" / "run.json")
    assert record["counts"] == {"documents": len(ids), "answered": len(ids) - 2, "failed": 2, "rows": len(ids) - 2}
    assert record["facts"]["failed"] == {"HTTP # after # attempts": 1, "empty answer": 1}
    assert record["facts"]["licences"] == {"S": "CC0-1.0"}


def test_nothing_usable_is_an_error(corpus: Path) -> None:
    """Answers all cut at the limit of tokens stop the run, and say so."""
    with pytest.raises(UserError, match="cut at max_answer_tokens"):
        make(config(corpus), Teacher(finish="length"))


@pytest.mark.parametrize(
    ("task", "answer", "finish", "problem", "mended"),
    [
        ("summary", " ", "stop", "empty answer", "Short."),
        ("explainer", "A long", "length", "cut at max_answer_tokens", "All of it."),
        ("question_answer", "Ask me anything.", "stop", "Question: … Answer: …", "Question: What? Answer: Gout."),
        ("entities", "gout, asthma", "stop", "- entity (kind)", "- gout (condition)"),
        ("relations", "- gout | hurts", "stop", "- subject | relation | object", "- gout | hurts | the toe"),
    ],
)
def test_an_unusable_answer_is_asked_for_once_more(
    corpus: Path, task: str, answer: str, finish: str, problem: str, mended: str
) -> None:
    """The reason is told, the second answer counts, a restart asks nobody; without repair the document fails."""
    answers: dict[str, str | Exception] = {f"d{n}": answer for n in range(30)}
    teacher, again = Teacher(answers, finish, mended), Teacher()
    rows = make(config(corpus, task=task, limit=2), teacher)
    assert [row["output"] for row in rows] == [mended, mended]
    assert len(teacher.repairs) == 2 and all(problem in asked for asked in teacher.repairs)
    assert ("and shorter" in teacher.repairs[0]) == (finish == "length")
    record = read_json(corpus.parent / "rows" / "run.json")
    assert record["facts"]["repaired"] == 2 and record["facts"]["teacher"]["calls"] == 4
    make(config(corpus, task=task, limit=2), again)
    assert again.asked == again.repairs == []
    with pytest.raises(UserError, match="no document got a row"):
        make(config(corpus, task=task, limit=2, repair=False), Teacher(answers, finish, mended))


def test_the_simulated_explainer_says_all_of_the_page() -> None:
    """Every word of the page is in the rewrite, and lines of code and meaning are sentences; the same every time."""
    from mediflow.clinic.reply import reply

    text = "ICD-10-CM category M10: Gout.\n- It includes acute gout; podagra.\nICD-10-CM code M10.9: Gout, unspecified."
    request = {"kind": "pit", "task": "explainer", "document": {"title": "Gout", "text": text}}
    written = reply(request, seed=0)
    assert written == (
        "The subject is Gout. ICD-10-CM category M10 means Gout. It includes acute gout. Podagra. "
        "ICD-10-CM code M10.9 means Gout, unspecified."
    )
    assert written == reply(request, seed=0)


def test_a_restart_repeats_no_call(corpus: Path) -> None:
    """The same settings again call nobody; twice the documents call only for the new ones; bytes stay the same."""
    make(config(corpus, limit=10), Teacher())
    before = (corpus.parent / "rows" / "rows.jsonl").read_bytes()
    again, more = Teacher(), Teacher()
    make(config(corpus, limit=10), again)
    assert again.asked == [] and (corpus.parent / "rows" / "rows.jsonl").read_bytes() == before
    assert len(make(config(corpus, limit=20), more)) == 20 and len(more.asked) == 10


def test_limit_does_not_depend_on_the_order_of_documents() -> None:
    """The same five documents are chosen from a reversed list."""
    documents = [Document(f"d{n}", "", "text", "S", "L") for n in range(20)]
    assert prepare.choose(documents, 5, 0) == prepare.choose(documents[::-1], 5, 0)
    assert prepare.choose(documents, 5, 0) != prepare.choose(documents, 5, 1)
