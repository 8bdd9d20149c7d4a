"""Offline inference with vLLM: the translation against a fake library, and the real one where it is installed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medsmith.chat import ChatError, ChatReply, ChatRequest
from medsmith.errors import UserError
from medsmith.limits import BudgetReached
from medsmith.llm import BudgetConfig, Journal, TeacherConfig, open_teacher, run_calls
from medsmith.vllm_chat import VllmChat

ROOT = Path(__file__).parent.parent
PYTHON = Path(os.environ.get("MEDSMITH_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


class EngineDeadError(Exception):
    """What vLLM raises when its engine is gone."""


class Library:
    """The part of vllm that is used: it echoes the prompt, refuses the word BAD, and dies of the word DEAD."""

    def __init__(self) -> None:
        self.sampling_params = SimpleNamespace(StructuredOutputsParams=lambda json: {"schema": json})
        self.SamplingParams = lambda **given: given
        self.loaded: list[dict[str, Any]] = []
        self.chats: list[dict[str, Any]] = []

    def LLM(self, **given: Any) -> Any:  # the name that vllm has for it
        if given["model"] == "missing":
            raise OSError("no such model")
        self.loaded.append(given)
        return SimpleNamespace(chat=self.chat)

    def chat(self, messages: list[Any], sampling: list[Any], use_tqdm: bool, **settings: Any) -> list[Any]:
        texts = [talk[-1]["content"] for talk in messages]
        if "DEAD" in texts:
            raise EngineDeadError("gone")
        if "BAD" in texts:
            raise ValueError("the prompt is longer than max_model_len")
        self.chats.append({"texts": texts, "sampling": sampling, **settings})
        return [
            SimpleNamespace(
                prompt_token_ids=[0] * len(text),
                # In another order than asked for.
                outputs=[
                    SimpleNamespace(index=n, text=f"{text} {n}", token_ids=[0, 0], finish_reason="length")
                    for n in reversed(range(one["n"]))
                ],
            )
            for text, one in zip(texts, sampling, strict=True)
        ]


def teacher(**settings: Any) -> TeacherConfig:
    return TeacherConfig(**{"model": "m", "vllm": {}, **settings})


def ask(config: TeacherConfig, *texts: str, **settings: Any) -> list[ChatRequest]:
    return [config.request([{"role": "user", "content": text}], **settings) for text in texts]


def answer(chat: VllmChat, requests: list[ChatRequest]) -> list[ChatReply | ChatError]:
    got: dict[str, ChatReply | ChatError] = {}
    asyncio.run(chat.complete_all(requests, lambda request, reply: got.update({request.id: reply})))
    return [got[request.id] for request in requests if request.id in got]


def test_a_request_becomes_sampling_parameters_and_an_output_a_reply() -> None:
    """Arguments reach LLM as they stand; schema, n, temperature, token counts and finish reasons are all there."""
    library = Library()
    config = teacher(vllm={"max_model_len": 512}, extra_body={"top_p": 0.9, "chat_template_kwargs": {"think": False}})
    chat = VllmChat(config, library=library)
    replies = answer(chat, ask(config, "hello", temperature=0.7, max_tokens=9, n=2, response_schema=SCHEMA))
    assert library.loaded == [{"model": "m", "max_model_len": 512}]
    assert library.chats == [
        {
            "texts": ["hello"],
            "sampling": [
                {"n": 2, "temperature": 0.7, "max_tokens": 9, "structured_outputs": {"schema": SCHEMA}, "top_p": 0.9}
            ],
            "chat_template_kwargs": {"think": False},
        }
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 4}
    assert replies == [ChatReply(["hello 0", "hello 1"], usage, "m", finish=["length", "length"])]
    answer(chat, ask(config, "again"))
    assert len(library.loaded) == 1, "the model is loaded once"


def test_extra_body_may_rename_and_remove() -> None:
    """As for an endpoint: null takes one of ours out, and the hosted name of max_tokens is understood."""
    library = Library()
    config = teacher(extra_body={"max_tokens": None, "max_completion_tokens": 77, "temperature": None})
    answer(VllmChat(config, library=library), ask(config, "x"))
    assert library.chats[0]["sampling"] == [{"n": 1, "max_tokens": 77}]


def test_one_bad_request_fails_alone() -> None:
    """vLLM refuses the whole list: the others are computed all the same, each once."""
    library = Library()
    config = teacher()
    replies = answer(VllmChat(config, library=library), ask(config, *"abcde", "BAD", *"fg"))
    assert [isinstance(reply, ChatError) for reply in replies] == [False] * 5 + [True] + [False] * 2
    assert isinstance(replies[5], ChatError) and replies[5].final
    assert sorted(text for chat in library.chats for text in chat["texts"]) == list("abcdefg")


def test_what_no_call_survives_is_one_line() -> None:
    """A model that cannot be loaded, a dead engine, a library that is not there."""
    config = teacher(model="missing")
    with pytest.raises(UserError, match="cannot load 'missing': no such model; check teacher.model"):
        answer(VllmChat(config, library=Library()), ask(config, "x"))
    with pytest.raises(UserError, match="engine died.*max_num_seqs"):
        answer(VllmChat(teacher(), library=Library()), ask(teacher(), "a", "DEAD"))
    try:
        import vllm  # noqa: F401  # only asked whether it is there
    except ImportError:
        with pytest.raises(UserError, match="medsmith\\[vllm\\]"):
            VllmChat(teacher())


def test_the_budget_of_requests_holds() -> None:
    """Two were made by an earlier try: of five allowed, three are answered, and then it stops."""
    config = teacher(budget=BudgetConfig(max_requests=5))
    chat = VllmChat(config, library=Library())
    chat.count_earlier(2, 0.0)
    got: list[ChatRequest] = []
    with pytest.raises(BudgetReached):
        asyncio.run(chat.complete_all(ask(config, *"abcd"), lambda request, reply: got.append(request)))
    assert len(got) == 3


def test_an_address_is_needed_unless_vllm_is_configured() -> None:
    """No address and no vllm is refused at once; with vllm but another engine, when the teacher is opened."""
    with pytest.raises(ValueError, match="exactly one of base_url"):
        TeacherConfig(model="m")
    with pytest.raises(UserError, match="set engine=vllm"), open_teacher(teacher()):
        pass


needs_vllm = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}; make it with .ci/vllm-env")
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
ARGUMENTS = {
    "max_model_len": 512,
    "enforce_eager": True,
    "block_size": 32,
    "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
}
OFFLINE = """
import json, sys
from pathlib import Path
from medsmith.config import load
from medsmith.llm import Journal, TeacherConfig, open_teacher, run_calls

if __name__ == "__main__":
    config = load(TeacherConfig, json.loads(sys.argv[1]))
    asked = json.loads(sys.argv[2])
    requests = [config.request([{"role": "user", "content": text}], **asked["settings"]) for text in asked["texts"]]
    with open_teacher(config, engine="vllm") as chat, Journal(Path(sys.argv[3])) as journal:
        rows = run_calls(requests, chat, journal, config.concurrency, "test")
        print(json.dumps([rows[request.id] for request in requests]))
"""
NAMES = {"enum": ["pneumonia", "asthma", "sepsis"]}
ANSWER = {
    "type": "object",
    "properties": {"diagnosis": NAMES, "days": {"enum": [1, 2, 3]}},
    "required": ["diagnosis", "days"],
    "additionalProperties": False,
}
TEXTS = [f"Patient {n} has fever and cough. Name the diagnosis." for n in range(12)]


def check_answers(rows: list[dict[str, Any]]) -> None:
    """Two texts a call, every one of the schema, with token counts that a tokenizer made."""
    assert len(rows) == 12
    for row in rows:
        assert (row["error"], len(row["texts"]), row["finish"]) == (None, 2, ["stop", "stop"])
        for text in row["texts"]:
            value = json.loads(text)
            assert value["diagnosis"] in NAMES["enum"] and value["days"] in (1, 2, 3) and len(value) == 2
        assert 15 < row["usage"]["prompt_tokens"] < 60
        assert 10 < row["usage"]["completion_tokens"] < 80
    assert len({text for row in rows for text in row["texts"]}) > 2, "samples differ"


@needs_vllm
@pytest.mark.slow
def test_the_real_vllm_answers_offline(tmp_path: Path) -> None:
    """In its own environment, a tiny Phi-3 model: two samples a call held to a schema; a long prompt fails alone."""
    config = {"model": str(ROOT / "experts" / "nano"), "vllm": ARGUMENTS}
    settings = {"temperature": 1.0, "max_tokens": 64, "n": 2, "response_schema": ANSWER}
    asked = {"texts": [*TEXTS, "word " * 2000], "settings": settings}
    began = time.monotonic()
    ran = subprocess.run(
        [str(PYTHON), "-c", OFFLINE, json.dumps(config), json.dumps(asked), str(tmp_path / "calls.jsonl")],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(f"offline: {time.monotonic() - began:.0f} s")
    assert ran.returncode == 0, ran.stderr[-3000:]
    rows = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("[{")))
    check_answers(rows[:12])
    assert rows[12]["final"] and rows[12]["texts"] is None and "512" in rows[12]["error"]


@contextmanager
def vllm_server(log: Path) -> Iterator[str]:
    """A real vLLM server of the tiny model; its address, once it answers."""
    import socket
    import urllib.request

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(ROOT / "experts" / "nano")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "512"]
    command += ["--enforce-eager", "--block-size", "32"]
    command += ["--structured-outputs-config", json.dumps(ARGUMENTS["structured_outputs_config"])]
    with log.open("wb") as said:
        server = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=said, stderr=said)
    try:
        until = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@needs_vllm
@pytest.mark.slow
def test_a_real_vllm_server_answers_the_client(tmp_path: Path) -> None:
    """Over HTTP: the same calls as offline, by the client that generate uses, and a prompt that is too long."""
    began = time.monotonic()
    with vllm_server(tmp_path / "server.log") as base_url, Journal(tmp_path / "calls.jsonl") as journal:
        print(f"ready after {time.monotonic() - began:.0f} s")
        config = TeacherConfig(base_url=base_url, model="tiny", concurrency=8)
        settings: dict[str, Any] = {"temperature": 1.0, "max_tokens": 64, "n": 2, "response_schema": ANSWER}
        requests = ask(config, *TEXTS, "word " * 2000, **settings)
        began = time.monotonic()
        with open_teacher(config) as chat:
            rows = run_calls(requests, chat, journal, config.concurrency, "test")
        print(f"{len(rows)} calls in {time.monotonic() - began:.1f} s")
    check_answers([dict(rows[request.id]) for request in requests[:12]])
    assert rows[requests[12].id]["final"] and "HTTP 400" in rows[requests[12].id]["error"]
