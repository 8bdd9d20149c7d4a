"""Have a teacher write training rows about documents: summaries, questions, entities, relations, or a rewrite.

    python -m experts.prepare out=out/rows/medcode documents=out/corpora/medcode task=summary \
        'teacher={serve: "python -m mediflow.teacher --port 0"}'

Reads train.jsonl of a corpora folder, never heldout.jsonl. One call a document, and one more, with the reason, where
the answer cannot be used; every call is kept in raw/, so that a restart repeats none. Writes rows.jsonl {id,
document_id, task, output}, several rows a document where the answer has several items, and failed.jsonl {document_id,
task, reason, text}.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

import medsmith.config
from medsmith import run
from medsmith.command import run_command
from medsmith.errors import UserError
from medsmith.llm import Chat, ChatRequest, Engine, Journal, Summary, TeacherConfig, open_teacher, run_calls
from medsmith.records import Document, content_id, read_documents, write_jsonl

PROMPTS = Path(__file__).parent / "prompts"

CUT = "cut at max_answer_tokens"


class Line(NamedTuple):
    """The lines that an answer is made of, for a program and for the teacher."""

    pattern: str
    shown: str


LINES = {
    "entities": Line(r"^\s*[-*] *\S", "- entity (kind)"),
    "relations": Line(r"^\s*[-*] *\S[^|\n]*\|[^|\n]*\S[^|\n]*\| *\S", "- subject | relation | object"),
}


class Config(medsmith.config.Config):
    """One corpus, one teacher, one task."""

    libraries: ClassVar = ("jinja2",)

    documents: Path = Field(description="a finished folder of experts.corpora")
    teacher: TeacherConfig = Field(description="the model that writes the rows")
    task: Literal["summary", "question_answer", "entities", "relations", "explainer"] = Field(
        "summary",
        description="what the teacher writes; the paper's final experts use summary; explainer is a rewrite as in a "
        "textbook, for experts.train with method=explainer",
    )
    limit: int | None = Field(None, ge=1, description="so many documents, drawn by the hash of their ids; none: all")
    temperature: float = Field(0.0, ge=0, description="the teacher's sampling temperature")
    max_answer_tokens: int = Field(1024, ge=1, description="an answer cut at this length is a failed one")
    repair: bool = Field(True, description="ask once more, with the reason, for an answer that cannot be used")
    engine: Engine = medsmith.config.execution("local", "who makes the calls: local, batch, vllm or ray")


def main(config: Config) -> Path:
    """Call the teacher once a document and write the rows."""
    if run.require_finished(config.documents)["config"].get("access") == "credentialed":
        raise UserError(
            f"{config.documents} is under an agreement: a teacher would be sent its texts, and raw/ would keep them; "
            "train on it with method=dapt (experts/recipes/pubmed.yml)"
        )
    with (
        run.start(config, "experts.prepare") as this,
        open_teacher(config.teacher, engine=config.engine, folder=this.folder) as chat,
    ):
        return prepare(config, this, chat)


def prepare(config: Config, this: run.Run, chat: Chat) -> Path:
    """What main does, with any chat model."""
    documents = choose(read_documents(config.documents / "train.jsonl"), config.limit, config.seed)
    asked: dict[str, str] = {}

    def requests() -> Iterator[ChatRequest]:
        for document in documents:
            request = first_request(config, document)
            asked[document.id] = request.id
            yield request

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        return build_repair(config, row) if config.repair and "repairs" not in request.about else None

    with Journal(this.folder / "raw" / f"{config.task}.jsonl") as journal:
        described = f"{config.task} of {config.documents.name}"
        replies = run_calls(
            requests(), chat, journal, config.teacher.concurrency, described, follow_up=follow_up, total=len(documents)
        )
        usage = Summary.of(replies.values())
        rows, failed, repaired = _read(config, asked, replies)
    write_jsonl(this.folder / "rows.jsonl", rows)
    write_jsonl(this.folder / "failed.jsonl", failed)
    answered = len({row["document_id"] for row in rows})
    assert len(documents) == answered + len(failed), "every document has rows or a reason"
    if not rows:
        raise UserError(f"no document got a row; the first failed with: {failed[0]['reason']}; see failed.jsonl")
    this.facts["task"] = config.task
    this.facts["teacher"] = {"model": config.teacher.model, **usage.facts()}
    this.facts["repaired"] = repaired
    this.facts["failed"] = dict(sorted(Counter(short(row["reason"]) for row in failed).items()))
    return this.finish(documents=len(documents), answered=answered, failed=len(failed), rows=len(rows))


def _read(
    config: Config, asked: Mapping[str, str], replies: Mapping[str, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Rows and failures by document, and how many answers the second call put right."""
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    repaired = 0
    for document_id, request_id in sorted(asked.items()):
        reply = replies[request_id]
        items, reason = read_reply(reply, config.task)
        repair = build_repair(config, reply) if config.repair and reason else None
        if repair is not None:
            reply = replies[repair.id]
            items, reason = read_reply(reply, config.task)
            repaired += reason is None
        if reason:
            text = (reply["texts"] or [""])[0]
            failed.append({"document_id": document_id, "task": config.task, "reason": reason, "text": text})
        for number, item in enumerate(items):
            key = content_id(document_id, config.task, number, item)
            rows.append({"id": key, "document_id": document_id, "task": config.task, "output": item})
    return rows, failed, repaired


def choose(documents: list[Document], limit: int | None, seed: int) -> list[Document]:
    """All documents, or so many of them by the hash of their ids, whatever their order in the file."""
    drawn = sorted(documents, key=lambda document: content_id("prepare", seed, document.id))
    return drawn[:limit]


def messages(document: Document, task: str) -> list[dict[str, str]]:
    """The prompt of a task, ending in a fenced block that holds the request as data."""
    request = {"kind": "pit", "task": task, "document": {"title": document.title, "text": document.text}}
    text = _template(task).render(request=json.dumps(request, ensure_ascii=False))
    return [{"role": "user", "content": text.strip()}]


def first_request(config: Config, document: Document) -> ChatRequest:
    """The call about a document."""
    return config.teacher.request(
        messages(document, config.task),
        temperature=config.temperature,
        max_tokens=config.max_answer_tokens,
        about={"document_id": document.id, "task": config.task},
    )


def build_repair(config: Config, row: dict[str, Any]) -> ChatRequest | None:
    """The second call of a document whose answer cannot be used; None where it can, or where there was no answer."""
    _, reason = read_reply(row, config.task)
    if reason is None or row["texts"] is None:
        return None
    text = _template("repair").render(problem=reason, cut=reason == CUT)
    return config.teacher.request(
        [
            *row["request"]["messages"],
            # Some endpoints refuse an empty assistant message.
            {"role": "assistant", "content": row["texts"][0] or "(nothing)"},
            {"role": "user", "content": text.strip()},
        ],
        temperature=config.temperature,
        max_tokens=config.max_answer_tokens,
        about={"document_id": row["about"]["document_id"], "repairs": row["id"], "problem": reason},
    )


def read_reply(reply: dict[str, Any], task: str) -> tuple[list[str], str | None]:
    """The items of a journal row, or the reason why there are none.

    An item is what stands between two ends of text in training: a question with its answer, or the whole of any other
    answer.
    """
    if reply["error"]:
        return [], str(reply["error"])
    text = reply["texts"][0].strip()
    if reply["finish"] and reply["finish"][0] == "length":
        return [], CUT
    if not text:
        return [], "empty answer"
    if task == "question_answer":
        parts = [" ".join(part.split()) for part in re.split(r"(?m)^.{0,6}(?=Question:)", text)]
        items = [part for part in parts if re.match(r"Question: \S.* Answer: \S", part)]
        return (items, None) if items else ([], "no line of the form 'Question: … Answer: …'")
    if task in LINES and not re.search(LINES[task].pattern, text, re.MULTILINE):
        return [], f"no line of the form '{LINES[task].shown}'"
    return [text], None


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
