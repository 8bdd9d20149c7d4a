"""The batch endpoints of the simulated teacher: files, batches, and lines that are answered in the background.

A batch is validated as a provider does it (JSON Lines, one model call a line, ids that differ), worked on while the
server lives, and ends as completed, expired (half of its lines unanswered) or failed. All of it is in memory.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

Reply = tuple[int, Any]
AnswerLine = Callable[[dict[str, Any]], Reply]
ENDPOINT = "/v1/chat/completions"
MOST_LINES = 50_000


@dataclass
class _Batch:
    """A batch: what the protocol shows of it, its lines, and how many of them are answered."""

    shown: dict[str, Any]
    lines: list[dict[str, Any]]
    ready_at: float
    expires_after: int | None
    answered: int = 0
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    work: asyncio.Task[None] | None = None


class Batches:
    """Files and batches of one server."""

    def __init__(
        self,
        answer: AnswerLine,
        *,
        seconds: float = 0.0,
        expires: Callable[[str], bool] = lambda text: False,
        most_enqueued: int | None = None,
    ) -> None:
        """A batch takes at least `seconds`, and at most `most_enqueued` lines may be under way at a time.

        `answer` gives status and body of one call; `expires` says of an input file whether its batch expires half way.
        """
        self._answer = answer
        self._seconds = seconds
        self._expires = expires
        self._most_enqueued = most_enqueued
        self._files: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._batches: dict[str, _Batch] = {}

    def handle(self, method: str, path: str, query: str, content_type: str, body: bytes) -> Reply:
        """Status and value (bytes where a file's content was asked for) of one HTTP request below /v1."""
        match [method, *path.strip("/").split("/")[1:]]:
            case ["POST", "files"]:
                return self._upload(content_type, body)
            case ["GET", "files"]:
                return 200, _page([shown for shown, _ in self._files.values()], query)
            case [("GET" | "DELETE"), "files", key, *rest] if key in self._files:
                shown, content = self._files[key]
                if rest == ["content"]:
                    return 200, content
                if method == "DELETE":
                    del self._files[key]
                    return 200, {"id": key, "object": "file", "deleted": True}
                return 200, shown
            case ["POST", "batches"]:
                return self._create(json.loads(body))
            case ["GET", "batches"]:
                return 200, _page([batch.shown for batch in self._batches.values()], query)
            case ["GET", "batches", key] if key in self._batches:
                return 200, self._look(self._batches[key])
            case ["POST", "batches", key, "cancel"] if key in self._batches:
                self._end(self._batches[key], "cancelled")
                return 200, self._batches[key].shown
        return 404, _error(f"no such file or batch: {path}")

    def _upload(self, content_type: str, body: bytes) -> Reply:
        parts = _read_form(content_type, body)
        if parts.get("purpose", ("", b""))[1] != b"batch" or "file" not in parts:
            return 400, _error("a form with purpose=batch and file is needed")
        name, content = parts["file"]
        return 200, self._store(name, content, "batch")

    def _store(self, name: str, content: bytes, purpose: str) -> dict[str, Any]:
        key = f"file-{uuid.uuid4().hex[:12]}"
        shown = {
            "id": key,
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self._files[key] = (shown, content)
        return shown

    def _create(self, asked: dict[str, Any]) -> Reply:
        if asked.get("input_file_id") not in self._files or asked.get("endpoint") != ENDPOINT:
            return 400, _error("input_file_id must name an uploaded file, and endpoint /v1/chat/completions")
        content = self._files[asked["input_file_id"]][1].decode()
        lines, problem = _read_lines(content)
        under_way = sum(len(one.lines) for one in self._batches.values() if one.shown["status"] == "in_progress")
        code = "invalid_input"
        if self._most_enqueued is not None and under_way + len(lines) > self._most_enqueued:
            problem, code = "Enqueued token limit reached", "token_limit_exceeded"
        shown = {
            "id": f"batch-{uuid.uuid4().hex[:12]}",
            "object": "batch",
            "endpoint": ENDPOINT,
            "completion_window": asked.get("completion_window", "24h"),
            "created_at": int(time.time()),
            "input_file_id": asked["input_file_id"],
            "status": "failed" if problem else "in_progress",
            "metadata": asked.get("metadata") or {},
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        if problem:
            shown["errors"] = {"object": "list", "data": [{"code": code, "message": problem}]}
        until = len(lines) // 2 if self._expires(content) else None
        self._batches[shown["id"]] = _Batch(shown, lines, time.monotonic() + self._seconds, until)
        return 200, self._look(self._batches[shown["id"]])

    def _look(self, batch: _Batch) -> dict[str, Any]:
        """What the protocol shows of a batch, whose work goes on, also where the event loop is another one by now."""
        if batch.shown["status"] == "in_progress" and (batch.work is None or batch.work.done()):
            batch.work = asyncio.get_running_loop().create_task(self._work(batch))
        counts = {"total": len(batch.lines), "completed": len(batch.output), "failed": len(batch.errors)}
        batch.shown["request_counts"] = counts
        return batch.shown

    async def _work(self, batch: _Batch) -> None:
        while batch.answered < (len(batch.lines) if batch.expires_after is None else batch.expires_after):
            await asyncio.sleep(0)
            if batch.shown["status"] != "in_progress":
                return
            line = batch.lines[batch.answered]
            batch.answered += 1
            try:
                status, body = self._answer(line["body"])
            except Exception as error:
                # As a server does: the work on the others goes on.
                status, body = 500, _error(f"{type(error).__name__}: {error}")
            response = {"status_code": status, "request_id": f"simulated-{batch.answered}", "body": body}
            row = {"id": f"line-{batch.answered}", "custom_id": line["custom_id"], "response": response, "error": None}
            (batch.output if status == 200 else batch.errors).append(json.dumps(row, ensure_ascii=False))
        await asyncio.sleep(max(0.0, batch.ready_at - time.monotonic()))
        self._end(batch, "completed" if batch.expires_after is None else "expired")

    def _end(self, batch: _Batch, status: str) -> None:
        if batch.shown["status"] != "in_progress":
            return
        code = f"batch_{status}"
        for line in batch.lines[batch.answered :]:
            row = {"custom_id": line["custom_id"], "response": None, "error": {"code": code, "message": "not answered"}}
            batch.errors.append(json.dumps(row))
        for name, rows in (("output_file_id", batch.output), ("error_file_id", batch.errors)):
            if rows:
                content = "".join(f"{row}\n" for row in rows).encode()
                batch.shown[name] = self._store(f"{batch.shown['id']}.jsonl", content, "batch_output")["id"]
        batch.shown["status"] = status


def _read_lines(content: str) -> tuple[list[dict[str, Any]], str]:
    """The lines of an input file, and what is wrong with them ("" for nothing)."""
    lines: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, text in enumerate(content.removesuffix("\n").split("\n"), 1):
        try:
            line = json.loads(text)
            if line["method"] != "POST" or line["url"] != ENDPOINT or not isinstance(line["body"]["messages"], list):
                raise ValueError("not a chat call")
            if line["custom_id"] in seen:
                raise ValueError("the same custom_id again")
        except (ValueError, KeyError, TypeError) as error:
            return [], f"line {number}: {type(error).__name__}: {error}"
        seen.add(line["custom_id"])
        lines.append(line)
    if not 0 < len(lines) <= MOST_LINES:
        return [], f"{len(lines)} lines; 1 to {MOST_LINES} are allowed"
    return lines, ""


def _read_form(content_type: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """The parts of a multipart form: name → (file name, content)."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    parts: dict[str, tuple[str, bytes]] = {}
    for part in body.split(b"--" + boundary)[1:-1] if boundary else []:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        words = {
            key.strip(): value.strip('"')
            for key, _, value in (word.partition("=") for word in head.decode().splitlines()[0].split(";"))
        }
        parts[words.get("name", "")] = (words.get("filename", ""), content.removesuffix(b"\r\n"))
    return parts


def _page(rows: list[dict[str, Any]], query: str) -> dict[str, Any]:
    """One page of a list, newest first, as `limit` and `after` say."""
    asked = {name: values[0] for name, values in parse_qs(query).items()}
    newest = [row for row in reversed(rows) if row.get("purpose") == asked.get("purpose", row.get("purpose"))]
    begin = next((number + 1 for number, row in enumerate(newest) if row["id"] == asked.get("after")), 0)
    limit = int(asked.get("limit", 20))
    return {"object": "list", "data": newest[begin : begin + limit], "has_more": begin + limit < len(newest)}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "simulated", "code": None}}
