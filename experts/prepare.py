"""Ask a teacher to rewrite documents into pre-instruction training rows: summaries, questions, entities, relations.

    python -m experts.prepare out=out/rows/medcode documents=out/corpora/medcode task=summary \
        'teacher={serve: "python -m mediflow.teacher --port 0"}'

Reads train.jsonl of a corpora folder, never heldout.jsonl. One call a document; every call is kept in raw/, so that a
restart repeats none. Writes rows.jsonl {id, document_id, task, output}, several rows a document where the answer has
several items, and failed.jsonl {document_id, task, reason, text}.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

import medsmith.config
from medsmith import run
from medsmith.command import run_command
from medsmith.errors import UserError
from medsmith.llm import Chat, Engine, Journal, Summary, TeacherConfig, open_teacher, run_calls
from medsmith.records import Document, content_id, read_documents, write_jsonl

PROMPTS = Path(__file__).parent / "prompts"


class Config(medsmith.config.Config):
    """One corpus, one teacher, one task."""

    libraries: ClassVar = ("jinja2",)

    documents: Path = Field(description="a finished folder of experts.corpora")
    teacher: TeacherConfig = Field(description="the model that writes the rows")
    task: Literal["summary", "question_answer", "entities", "relations"] = Field(
        "summary", description="what the teacher writes; the paper's final experts use summary"
    )
    limit: int | None = Field(None, ge=1, description="so many documents, drawn by the hash of their ids; none: all")
    temperature: float = Field(0.0, ge=0, description="the teacher's sampling temperature")
    max_answer_tokens: int = Field(1024, ge=1, description="an answer cut at this length is a failed one")
    engine: Engine = medsmith.config.execution("local", "who makes the calls: local, batch, vllm or ray")


def main(config: Config) -> Path:
    """Call the teacher once a document and write the rows."""
    run.require_finished(config.documents)
    with (
        run.start(config, "experts.prepare") as this,
        open_teacher(config.teacher, engine=config.engine, folder=this.folder) as chat,
    ):
        return prepare(config, this, chat)


def prepare(config: Config, this: run.Run, chat: Chat) -> Path:
    """What main does, with any chat model."""
    documents = choose(read_documents(config.documents / "train.jsonl"), config.limit, config.seed)
    requests = {
        document.id: config.teacher.request(
            messages(document, config.task),
            temperature=config.temperature,
            max_tokens=config.max_answer_tokens,
            about={"document_id": document.id, "task": config.task},
        )
        for document in documents
    }
    with Journal(this.folder / "raw" / f"{config.task}.jsonl") as journal:
        replies = run_calls(
            requests.values(), chat, journal, config.teacher.concurrency, f"{config.task} of {config.documents.name}"
        )
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for document_id, request in sorted(requests.items()):
        reply = replies[request.id]
        items, reason = read_reply(reply, config.task)
        if reason:
            text = (reply["texts"] or [""])[0]
            failed.append({"document_id": document_id, "task": config.task, "reason": reason, "text": text})
        for number, item in enumerate(items):
            key = content_id(document_id, config.task, number, item)
            rows.append({"id": key, "document_id": document_id, "task": config.task, "output": item})
    write_jsonl(this.folder / "rows.jsonl", rows)
    write_jsonl(this.folder / "failed.jsonl", failed)
    answered = len({row["document_id"] for row in rows})
    assert len(documents) == answered + len(failed), "every document has rows or a reason"
    if not rows:
        raise UserError(f"no document got a row; the first failed with: {failed[0]['reason']}; see failed.jsonl")
    this.facts["task"] = config.task
    this.facts["teacher"] = {"model": config.teacher.model, **Summary.of(replies.values()).facts()}
    this.facts["failed"] = dict(sorted(Counter(short(row["reason"]) for row in failed).items()))
    return this.finish(documents=len(documents), answered=answered, failed=len(failed), rows=len(rows))


def choose(documents: list[Document], limit: int | None, seed: int) -> list[Document]:
    """All documents, or so many of them by the hash of their ids, whatever their order in the file."""
    drawn = sorted(documents, key=lambda document: content_id("prepare", seed, document.id))
    return drawn[:limit]


def messages(document: Document, task: str) -> list[dict[str, str]]:
    """The prompt of a task, ending in a fenced block that holds the request as data."""
    request = {"kind": "pit", "task": task, "document": {"title": document.title, "text": document.text}}
    text = _template(task).render(request=json.dumps(request, ensure_ascii=False))
    return [{"role": "user", "content": text.strip()}]


def read_reply(reply: dict[str, Any], task: str) -> tuple[list[str], str | None]:
    """The items of a journal row, or the reason why there are none.

    An item is what stands between two ends of text in training: a question with its answer, or the whole of any other
    answer.
    """
    if reply["error"]:
        return [], str(reply["error"])
    text = reply["texts"][0].strip()
    if reply["finish"] and reply["finish"][0] == "length":
        return [], "cut at max_answer_tokens"
    if task == "question_answer":
        parts = [" ".join(part.split()) for part in re.split(r"(?m)^.{0,6}(?=Question:)", text)]
        items = [part for part in parts if re.match(r"Question: \S.* Answer: \S", part)]
        return (
            (items, None) if items else ([], "no line of the form 'Question: … Answer: …'" if text else "empty answer")
        )
    return ([text], None) if text else ([], "empty answer")


def short(reason: str) -> str:
    """A reason fit for counting: an error's message without its numbers and addresses."""
    return re.sub(r"\d+", "#", reason.partition("\n")[0])[:80]


@cache
def _template(task: str) -> Any:
    import jinja2

    loader = jinja2.FileSystemLoader(PROMPTS)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=False)
    return environment.get_template(f"pit_{task}.jinja")


if __name__ == "__main__":
    run_command(main, Config)
