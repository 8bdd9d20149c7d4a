"""The batch engine against the simulated teacher's batch endpoints: killed at every step, it pays for nothing twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mediflow.prompt import request_block
from mediflow.teacher import Faults, make_app
from mediflow.teacher_batch import Batches
from medsmith.batch_book import read_lines
from medsmith.chat import ChatError, ChatReply, ChatRequest
from medsmith.errors import UserError
from medsmith.licences import in_force
from medsmith.limits import BudgetReached
from medsmith.llm import BudgetConfig, Journal, Price, TeacherConfig, run_calls
from medsmith.openai_batch import BatchChat, read_answer
from medsmith.serve import local_server

LOCAL = "http://127.0.0.1:9/v1"
PRICE = Price(prompt_per_million=1e6, completion_per_million=1e6, batch_factor=0.5)


def teacher(**settings: Any) -> TeacherConfig:
    return TeacherConfig(**{"base_url": LOCAL, "max_retries": 2, **settings})


def ask(config: TeacherConfig, count: int, **settings: Any) -> list[ChatRequest]:
    return [config.request([{"role": "user", "content": request_block({"n": n})}], **settings) for n in range(count)]


class Killed(BaseException):
    """The process ends here: nobody may catch it."""


class Provider(httpx2.AsyncBaseTransport):
    """The simulated teacher, which outlives the clients; it can kill the client before or after it serves a request.

    Attributes:
        seen: method and path of every request.
        paid: how often each call was in a batch that ran, or will.
    """

    def __init__(self, **faults: Any) -> None:
        self.app: Any = make_app(lambda request, seed: f"answer {request['n']}", faults=Faults(**faults))
        self.seen: list[str] = []
        self.kill_before: int | None = None
        self.kill_after: int | None = None
        self.script: dict[str, list[httpx2.Response | Exception]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        call = f"{request.method} {request.url.path.split('/')[2]}"
        self.seen.append(call)
        if len(self.seen) == self.kill_before:
            raise Killed
        step = self.script.get(call, [None])
        planned = step.pop(0) if step else None
        if isinstance(planned, httpx2.Response):
            return planned
        response = await httpx2.ASGITransport(app=self.app).handle_async_request(request)
        if isinstance(planned, Exception):
            raise planned
        if len(self.seen) == self.kill_after:
            raise Killed
        return response

    @property
    def paid(self) -> Counter[str]:
        ran = [batch for batch in self.app.batches._batches.values() if batch.shown["status"] != "failed"]
        return Counter(line["custom_id"] for batch in ran for line in batch.lines)

    @property
    def left(self) -> list[str]:
        """Files that still lie at the provider."""
        status, listed = self.app.batches.handle("GET", "/v1/files", "limit=100", "", b"")
        assert status == 200
        return [file["id"] for file in listed["data"]]


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


def run(provider: Provider, config: TeacherConfig, folder: Path, requests: list[ChatRequest], die_at: int = -1) -> Any:
    """What run_calls does, less its stops: the answers by id. `die_at` kills before that answer is written."""
    with Journal(folder / "raw" / "calls.jsonl") as journal:
        chat = BatchChat(LOCAL, config, folder, transport=provider, sleep=no_sleep)
        chat.count_earlier(journal.spent_attempts, journal.spent_cost)
        got: dict[str, ChatReply | ChatError] = {}

        def done(request: ChatRequest, answer: ChatReply | ChatError) -> None:
            if len(got) == die_at:
                raise Killed
            assert request.id not in got, "answered twice"
            got[request.id] = answer
            error = str(answer) if isinstance(answer, ChatError) else None
            row = {"id": request.id, "error": error, "attempts": answer.attempts, "cost": answer.cost}
            journal.append(row | {"texts": None if isinstance(answer, ChatError) else answer.texts})

        finished = journal.done()
        asyncio.run(chat.complete_all([request for request in requests if request.id not in finished], done))
        return got


def answered(folder: Path) -> Counter[str]:
    """How often the journal has an answer to each call."""
    return Counter(row["id"] for _, row in read_lines(folder / "raw" / "calls.jsonl") if row["error"] is None)


def test_every_call_is_answered_once_in_as_many_batches_as_are_needed(tmp_path: Path) -> None:
    """25 calls in batches of 10 are three batches; each answer is its own, at half the price; nothing is left."""
    config = teacher(batch_requests=10, price=PRICE)
    provider = Provider()
    requests = ask(config, 25, n=2)
    got = run(provider, config, tmp_path, requests)
    assert [got[request.id].texts for request in requests] == [[f"answer {n}"] * 2 for n in range(25)]
    assert provider.seen.count("POST batches") == provider.seen.count("POST files") == 3
    assert set(provider.paid.values()) == {1}
    prompt = -(-len(requests[0].messages[0]["content"]) // 4)
    assert got[requests[0].id].cost == 0.5 * (prompt + 2 * 2)
    assert provider.left == []
    assert list((tmp_path / "raw" / "batches").iterdir()) == []
    states = [row["state"] for _, row in read_lines(tmp_path / "raw" / "batches.jsonl")]
    assert Counter(states) == dict.fromkeys(["prepared", "uploaded", "created", "stored", "done"], 3)


def test_a_kill_at_any_request_pays_for_nothing_twice(tmp_path: Path) -> None:
    """Killed before or after each HTTP request of the run in turn, then started again: one payment, one answer."""
    config = teacher(batch_requests=3)
    plain = Provider()
    run(plain, config, tmp_path, ask(config, 4))
    steps = len(plain.seen)
    assert steps >= 2 * 5
    for moment in range(1, steps + 1):
        for when in ("kill_before", "kill_after"):
            folder = tmp_path / f"{when}{moment}"
            folder.mkdir()
            provider = Provider()
            setattr(provider, when, moment)
            with pytest.raises(Killed):
                run(provider, config, folder, ask(config, 4))
            setattr(provider, when, None)
            run(provider, config, folder, ask(config, 4))
            assert (len(provider.paid), set(provider.paid.values())) == (4, {1}), f"{when} {moment}"
            assert (len(answered(folder)), set(answered(folder).values())) == (4, {1}), f"{when} {moment}"


def test_a_kill_between_two_answers_loses_none(tmp_path: Path) -> None:
    """Answers that were fetched and not yet in the journal come from the disk; those in it are not asked again."""
    config = teacher(batch_requests=5)
    for moment in range(5):
        folder = tmp_path / str(moment)
        folder.mkdir()
        provider = Provider()
        with pytest.raises(Killed):
            run(provider, config, folder, ask(config, 5), die_at=moment)
        assert len(run(provider, config, folder, ask(config, 5))) == 5 - moment
        assert (len(provider.paid), set(provider.paid.values())) == (5, {1})
        assert set(answered(folder).values()) == {1}


def test_answers_that_nobody_asks_for_yet_are_kept(tmp_path: Path) -> None:
    """After a kill the next bulk may be another one: an answer waits on the disk for whoever asks later."""
    config = teacher(batch_requests=6)
    provider = Provider()
    requests = ask(config, 6)
    provider.kill_after = 3  # the batch is created, and its client dead before it knows
    with pytest.raises(Killed):
        run(provider, config, tmp_path, requests)
    provider.kill_after = None
    with Journal(tmp_path / "raw" / "calls.jsonl"):
        chat = BatchChat(LOCAL, config, tmp_path, transport=provider, sleep=no_sleep)
        got: list[str] = []
        for bulk in (requests[4:], requests[:4]):
            asyncio.run(chat.complete_all(bulk, lambda request, answer: got.append(request.id)))
    assert got == [request.id for request in requests[4:] + requests[:4]]
    assert set(provider.paid.values()) == {1}
    assert list((tmp_path / "raw" / "batches").iterdir()) == []


def test_what_a_batch_leaves_unanswered_is_an_error_for_now(tmp_path: Path) -> None:
    """An expired batch keeps its half, a bad line is its own; the next run makes only those calls again."""
    config = teacher()
    provider = Provider(expired_batch=1.0)
    got = run(provider, config, tmp_path, ask(config, 8))
    failed = [answer for answer in got.values() if isinstance(answer, ChatError)]
    assert (len(got), len(failed)) == (8, 4)
    assert str(failed[0]).startswith("batch_expired") and not failed[0].final
    again = Provider(line_error=1.0)
    got = run(again, config, tmp_path, ask(config, 8))
    assert [str(answer)[:8] for answer in got.values()] == ["HTTP 500"] * 4
    assert len(run(Provider(), config, tmp_path, ask(config, 8))) == 4
    assert (len(answered(tmp_path)), set(answered(tmp_path).values())) == (8, {1})


def test_a_batch_that_fails_says_why(tmp_path: Path) -> None:
    """Every call of a batch that the provider would not run has the provider's reason."""
    config = teacher()
    provider = Provider()
    provider.app.batches._most_enqueued = 3
    got = run(provider, config, tmp_path, ask(config, 4))
    assert {str(answer).partition(" has ")[2] for answer in got.values()} == {
        "no answer: token_limit_exceeded: Enqueued token limit reached; lower teacher.batch_requests"
    }
    assert provider.paid == {}
    small = teacher(batch_requests=3)
    assert len(run(provider, small, tmp_path, ask(small, 6))) == 6
    assert len(answered(tmp_path)) == 6, "the second batch waits until the first has ended"


def test_a_lost_answer_to_the_submission_submits_nothing_twice(tmp_path: Path) -> None:
    """Cut off after the batch was created: it is found by its key. A 500 and no batch: created again."""
    config = teacher()
    provider = Provider()
    provider.script["POST batches"] = [httpx2.ReadError("cut")]
    run(provider, config, tmp_path, ask(config, 3))
    assert (provider.seen.count("POST batches"), set(provider.paid.values())) == (1, {1})
    (tmp_path / "b").mkdir()
    provider = Provider()
    provider.script["POST batches"] = [httpx2.Response(500, text="oops")]
    run(provider, config, tmp_path / "b", ask(config, 3))
    assert (provider.seen.count("POST batches"), set(provider.paid.values())) == (2, {1})


def test_the_budget_is_never_passed(tmp_path: Path) -> None:
    """Room for the bound of three calls: they are sent, what they left over lets more follow, and then it stops."""
    config = teacher(price=PRICE)
    bound = BatchChat(LOCAL, config, tmp_path).bound(ask(config, 1, max_tokens=20)[0])
    limited = teacher(price=PRICE, budget=BudgetConfig(max_cost=3 * bound))
    provider = Provider()
    with pytest.raises(BudgetReached, match="raise teacher.budget"):
        run(provider, limited, tmp_path, ask(limited, 40, max_tokens=20))
    rows = [row for _, row in read_lines(tmp_path / "raw" / "calls.jsonl")]
    spent = sum(row["cost"] for row in rows)
    assert provider.seen.count("POST batches") > 1
    assert 3 < len(rows) < 40
    assert 2 * bound <= spent <= 3 * bound, "stopped before the next call could pass it, not earlier"
    few = teacher(budget=BudgetConfig(max_requests=len(rows) + 2))
    with pytest.raises(BudgetReached):
        run(provider, few, tmp_path, ask(limited, 40, max_tokens=20))
    assert len(answered(tmp_path)) == len(rows) + 2 == sum(provider.paid.values())


def test_a_batch_under_way_at_a_kill_is_in_the_budget_of_the_next_run(tmp_path: Path) -> None:
    """Three of four calls are with the provider when the client dies: the next run may add one, not four."""
    config = teacher(budget=BudgetConfig(max_requests=4))
    provider = Provider()
    provider.kill_after = 3
    with pytest.raises(Killed):
        run(provider, config, tmp_path, ask(config, 3))
    provider.kill_after = None
    with pytest.raises(BudgetReached):
        run(provider, config, tmp_path, ask(config, 7))
    assert sum(provider.paid.values()) == len(answered(tmp_path)) == 4


def test_endpoints_that_cannot_or_will_not_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch API, a wrong key, nobody there, a batch that another account made: what to do is said."""
    monkeypatch.setenv("SOME_KEY", "sk-1")
    config = teacher(max_retries=0)
    for answer, said in (
        (httpx2.Response(404, text="no"), "has no batches.*use engine=local"),
        (httpx2.Response(401, text="key sk-1 is wrong"), "refuses the batch.*api_key_env"),
        (httpx2.ConnectError("nobody"), "cannot be reached.*run again"),
    ):
        provider = Provider()
        provider.script["POST files"] = [answer]
        with pytest.raises(UserError, match=said):
            run(provider, config, tmp_path, ask(config, 2))
    remote = teacher(base_url="https://api.example.com/v1", api_key_env="SOME_KEY")
    (tmp_path / "raw" / "batches.jsonl").write_text("")
    chat = BatchChat(remote.base_url or "", remote, tmp_path, transport=provider, sleep=no_sleep)
    row = {"key": "k", "teacher": remote.name, "requests": 2, "bound": 0.0, "state": "created", "id": "batch-9"}
    (tmp_path / "raw" / "batches.jsonl").write_text(json.dumps(row | {"at": 0.0}) + "\n")
    with pytest.raises(UserError, match="does not know batch batch-9 with 2 calls.*or remove"):
        asyncio.run(chat.complete_all(ask(remote, 1), lambda request, answer: None))
    with in_force({"credentialed": ["notes"]}), pytest.raises(UserError, match="allow_remote_credentialed"):
        chat.refuse_remote()


def test_lines_of_all_kinds_are_read() -> None:
    """Refused for good, refused for now, expired, too few texts, no completion: each is the right kind of error."""
    request = ask(teacher(), 1, n=2)[0]

    def read(status: int | None, body: Any, error: Any = None) -> Any:
        response = None if status is None else {"status_code": status, "body": body}
        return read_answer(request, {"custom_id": request.id, "response": response, "error": error}, "m", 0.0)

    bad = read(400, {"error": {"message": "too long"}})
    assert (str(bad), bad.final) == ('HTTP 400: {"message": "too long"}', True)
    assert not read(429, {"error": "later"}).final
    assert str(read(None, None, {"code": "batch_expired", "message": "late"})) == 'batch_expired: "late"'
    assert read(200, {"choices": [{"message": {"content": "one"}}]}).final
    assert "not a chat completion" in str(read(200, {"choices": None}))
    two = read(200, {"choices": [{"message": {"content": None}, "finish_reason": "stop"}] * 2, "model": "m-1"})
    assert (two.texts, two.model, two.finish) == (["", ""], "m-1", ["stop", "stop"])


def test_several_teachers_share_a_folder(tmp_path: Path) -> None:
    """Each takes up its own batches and never another's."""
    one, two = teacher(model="a"), teacher(model="b")
    provider = Provider()
    provider.kill_after = 3
    with pytest.raises(Killed):
        run(provider, one, tmp_path, ask(one, 2))
    provider.kill_after = None
    assert len(run(provider, two, tmp_path, ask(two, 2))) == 2
    assert len(run(provider, one, tmp_path, ask(one, 2))) == 2
    assert sum(provider.paid.values()) == 4


def test_the_simulated_provider_refuses_what_a_real_one_would() -> None:
    """A line twice, a line that is no call, an unknown file: said, not answered."""
    batches = Batches(lambda body: (200, {}))

    async def submit(*lines: dict[str, Any]) -> dict[str, Any]:
        stored = batches._store("x", b"".join(json.dumps(line).encode() + b"\n" for line in lines), "batch")
        asked = {"input_file_id": stored["id"], "endpoint": "/v1/chat/completions"}
        shown: dict[str, Any] = batches.handle("POST", "/v1/batches", "", "", json.dumps(asked).encode())[1]
        return shown

    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
    assert "same custom_id" in asyncio.run(submit(line, line))["errors"]["data"][0]["message"]
    assert "not a chat call" in asyncio.run(submit(line | {"url": "/v1/x"}))["errors"]["data"][0]["message"]
    assert asyncio.run(submit(line))["status"] == "in_progress"
    assert batches.handle("POST", "/v1/batches", "", "", b"{}")[0] == 400
    assert batches.handle("GET", "/v1/files/none/content", "", "", b"")[0] == 404


CLIENT = """
import sys
from pathlib import Path
from mediflow.prompt import request_block
from medsmith.llm import Journal, TeacherConfig, open_teacher, run_calls

config = TeacherConfig(base_url=sys.argv[1], batch_requests=20)
examples = [{"input": "Fever.", "output": "Yes."}]
asked = [{"kind": "judge", "instruction": f"Number {n}", "examples": examples, "facts": [None]} for n in range(50)]
requests = [config.request([{"role": "user", "content": request_block(one)}], temperature=1.0) for one in asked]
folder = Path(sys.argv[2])
with open_teacher(config, engine="batch", folder=folder) as chat, Journal(folder / "raw" / "calls.jsonl") as journal:
    print(sum(row["error"] is None for row in run_calls(requests, chat, journal, 8, "test").values()))
"""


@pytest.mark.slow
def test_kill_9_at_every_state_of_a_batch(tmp_path: Path) -> None:
    """A real server and a client that is killed as soon as each state is on record: one payment, one answer a call."""
    log, book = tmp_path / "server.jsonl", tmp_path / "raw" / "batches.jsonl"
    command = f"python -m mediflow.teacher --port 0 --fault batch_seconds=1 --log {log}"
    with local_server(command, 60.0) as base_url:
        client = [sys.executable, "-c", CLIENT, base_url, str(tmp_path)]
        for state in ("prepared", "uploaded", "created", "stored"):
            running = subprocess.Popen(client, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            until = time.monotonic() + 60
            while running.poll() is None and f'"state": "{state}"' not in (book.read_text() if book.exists() else ""):
                assert time.monotonic() < until
                time.sleep(0.005)
            running.send_signal(signal.SIGKILL)
            running.communicate()
        finished = subprocess.run(client, capture_output=True, text=True, timeout=120)
        assert finished.stdout.strip() == "50", finished.stderr
    assert (len(answered(tmp_path)), set(answered(tmp_path).values())) == (50, {1})
    paid = Counter(row["key"] for _, row in read_lines(log))
    assert (len(paid), set(paid.values())) == (50, {1})


def test_a_bar_says_how_far_the_batches_are(tmp_path: Path) -> None:
    """Through run_calls: there is news before there are answers, and every row has its own answer."""
    config = teacher(retry_seconds=0.001)
    provider = Provider(batch_seconds=0.05)
    chat = BatchChat(LOCAL, config, tmp_path, transport=provider)
    notes: list[str] = []
    chat.tell_progress = lambda note: BatchChat.tell_progress(chat, notes.append)  # type: ignore[method-assign]
    requests = ask(config, 5)
    with Journal(tmp_path / "raw" / "calls.jsonl") as journal:
        rows = run_calls(requests, chat, journal, 8, "test")
    assert [rows[request.id]["texts"] for request in requests] == [[f"answer {n}"] for n in range(5)]
    assert notes and notes[-1].endswith("of 5 answered in 1 batches under way")
