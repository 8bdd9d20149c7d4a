"""An OpenAI-compatible endpoint as an engine: over a transport that plays a server of the tiny model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from eval.engines.openai import EndpointConfig, open_endpoint
from eval.engines.transformers import LocalModel
from eval.run import Config, evaluate
from medsmith import run
from medsmith.errors import UserError
from medsmith.likelihood import ChoiceItem
from medsmith.records import read_json, read_jsonl, write_jsonl

REMOTE = "https://api.example.org/v1"
LOCAL = "http://127.0.0.1:9/v1"
PAIRS = [
    {"pairID": f"p{n}", "gold_label": "neutral", "sentence1": f"Premise {n}.", "sentence2": "Hypothesis."}
    for n in range(12)
]


class Server:
    """Says NEUTRAL, or the letter B; with a model it echoes log-probabilities. `refused`: a word or path, and how."""

    def __init__(self, local: LocalModel | None = None, refused: dict[str, int] | None = None) -> None:
        self.local = local
        self.refused = refused or {}
        self.bodies: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        path, body = request.url.path.removeprefix("/v1"), json.loads(request.content)
        self.bodies.append(body)
        self.counts[path] += 1
        text = json.dumps(body)
        for word, status in self.refused.items():
            if word in text or word == path:
                return httpx2.Response(status, text=f"no {word}")
        if path == "/completions":
            return httpx2.Response(200, json={"model": "m", "choices": [self.echo(body)], "usage": usage(7, 1)})
        assert path == "/chat/completions"
        letter = body["messages"][-1]["content"].endswith("Answer with the letter.")
        message = {"role": "assistant", "content": "The answer is (B)." if letter else "NEUTRAL"}
        choice = {"message": message, "finish_reason": "stop"}
        return httpx2.Response(200, json={"model": "m", "choices": [choice], "usage": usage(20, 3)})

    def echo(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.local is None:
            return {"text": "x", "logprobs": {"token_logprobs": [-0.5]}}
        ids = body["prompt"]
        with torch.inference_mode():
            logprobs = self.local.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        found = [float(logprobs[place - 1, ids[place]]) for place in range(1, len(ids))]
        return {"text": "x", "logprobs": {"token_logprobs": [None, *found, -0.5]}}


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


def endpoint(**settings: Any) -> dict[str, Any]:
    return {"base_url": LOCAL, "max_retries": 0, **settings}


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> LocalModel:
    torch.set_num_threads(1)
    return LocalModel(tiny_model, device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """12 pairs (credentialed), and 8 questions whose answer is the second option four times."""
    import polars

    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "mli_test_v1.jsonl", PAIRS)
    rows = [
        {"question_id": n, "question": f"What is A0{n}?", "answer_id": "AB"[n % 2], "vocab": "ICD10CM", "level": "easy",
         **{f"option{o}": f"meaning {n} {o}" for o in range(1, 5)}}
        for n in range(8)
    ]  # fmt: skip
    polars.DataFrame(rows).write_parquet(folder / "test.parquet")
    (folder / "icd.yml").write_text("benchmarks: {icd10cm: {}}")
    (folder / "both.yml").write_text("benchmarks: {mednli: {}, icd10cm: {}}")
    return folder


def score(out: Path, data: Path, server: Server, where: dict[str, Any], suite: str = "icd", **settings: Any) -> Path:
    names = ("mednli", "icd10cm") if suite == "both" else ("icd10cm",)
    config = Config(
        out=out, model="m", engine="openai", endpoint=where, suite=data / f"{suite}.yml",
        benchmarks=dict.fromkeys(names, data), **settings,
    )  # fmt: skip
    assert config.endpoint is not None
    transport = httpx2.MockTransport(server.handle)
    with run.start(config, "eval.run") as this, open_endpoint(config.endpoint, out / "raw", transport=transport) as one:
        return evaluate(config, this, one)


def test_options_are_answered_by_a_letter_where_there_are_no_likelihoods(data: Path, tmp_path: Path) -> None:
    """B is right for four of eight; the result says that letters were written, and what the calls used."""
    server = Server()
    out = score(tmp_path / "out", data, server, endpoint(price={"prompt_per_million": 1, "completion_per_million": 2}))
    entry = read_json(out / "result.json")["benchmarks"]["icd10cm"]
    assert (entry["value"], entry["n"], entry["settings"]["choice"], entry["unreadable"]) == (0.5, 8, "written", 0)
    sample = next(read_jsonl(out / "samples.jsonl"))
    assert (sample["output"], sample["answer"]) == ("The answer is (B).", "B")
    assert "B. meaning" in sample["prompt"] and json.loads(sample["prompt"])[0]["role"] == "system"
    body = server.bodies[0]
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.0, 16, "m")
    used = read_json(out / "run.json")["facts"]["usage"]
    assert (used["calls"], used["failed"], used["prompt_tokens"]) == (8, 0, 160)
    assert used["cost"] == pytest.approx(8 * (20 + 2 * 3) / 1e6)
    assert "meaning" not in (out / "raw" / "calls.jsonl").read_text(), "what was asked stands in samples.jsonl alone"


def test_likelihoods_from_an_endpoint_equal_those_here(local: LocalModel, tiny_model: Path, tmp_path: Path) -> None:
    """With the model's tokenizer, options and documents score as in this process; prompts are sent as token ids."""
    chat = [{"role": "user", "content": "Which code?"}]
    items = [ChoiceItem(chat, ["E11.9", "left lower lobe pneumonia"]), ChoiceItem(chat, ["fever", "E11.9"])]
    texts = ["Patient denies fever.", "Left lower lobe pneumonia. " * 4]
    server = Server(local)
    config = EndpointConfig(**endpoint(model="m", tokenizer=tiny_model, context=256))
    with open_endpoint(config, tmp_path, transport=httpx2.MockTransport(server.handle)) as one:
        for found, wanted in zip(one.choose(items), local.choose(items), strict=True):
            assert found.tokens == wanted.tokens
            assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        for score_, expected in zip(one.read(texts, 16), local.read(texts, 16), strict=True):
            assert (score_.tokens, score_.bytes) == (expected.tokens, expected.bytes)
            assert score_.nll == pytest.approx(expected.nll, abs=1e-3)
        asked = server.counts["/completions"]
        one.choose(items)
        assert server.counts["/completions"] == asked, "what was paid for is in calls.jsonl"
    first = server.bodies[0]
    prefix = local.encode([chat])[0]
    assert first["prompt"][: len(prefix)] == prefix
    assert (first["echo"], first["logprobs"], first["max_tokens"], first["temperature"]) == (True, 1, 1, 0.0)


@pytest.mark.parametrize("refused", [{}, {"/completions": 404}, {"/completions": 400}])
def test_an_endpoint_without_likelihoods_is_one_line(
    refused: dict[str, int], tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    """No echo, no such path, or a refusal: each says what to take out of the settings."""
    with pytest.raises(UserError, match="gives no log-probabilities of a prompt.*take out endpoint.tokenizer"):
        score(tmp_path / "out", data, Server(None, refused), endpoint(tokenizer=tiny_model))
    with pytest.raises(UserError, match="corpora need likelihoods"):
        score(tmp_path / "documents", data, Server(), endpoint(), corpora={"wiki": data})


def test_credentialed_data_do_not_leave_unasked(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a remote address nothing is sent unless the switch is set; open data go there, and all go to a local one."""
    monkeypatch.setenv("A_KEY", "sk-secret")
    remote = endpoint(base_url=REMOTE, api_key_env="A_KEY")
    server = Server()
    with pytest.raises(UserError, match=r"use agreement \(mednli\) would go to api\.example\.org.*endpoint\."):
        score(tmp_path / "a", data, server, remote, "both")
    assert server.counts.total() == 0
    score(tmp_path / "b", data, server, remote | {"allow_remote_credentialed": True}, "both")
    score(tmp_path / "c", data, server, endpoint(), "both")
    score(tmp_path / "d", data, server, remote)
    assert server.counts["/chat/completions"] == 20 + 20 + 8
    written = "".join(path.read_text() for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert "Premise" not in written and "sk-secret" not in written


def test_a_stopped_run_pays_for_no_call_twice(data: Path, tmp_path: Path) -> None:
    """A budget of five requests stops it; with more it goes on, twenty calls in all, and equals an unbroken run."""
    server = Server()
    whole = score(tmp_path / "whole", data, server, endpoint(), "both")
    before = server.counts.total()
    with pytest.raises(UserError, match=r"raise endpoint\.budget\.max_requests"):
        score(tmp_path / "out", data, server, endpoint(budget={"max_requests": 5}, concurrency=1), "both")
    out = score(tmp_path / "out", data, server, endpoint(budget={"max_requests": 20}), "both")
    assert server.counts.total() - before == 20
    assert (out / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_a_larger_limit_elsewhere_takes_what_the_store_has(data: Path, tmp_path: Path) -> None:
    """Four of eight questions in one folder, all of them in another: four more calls; a third folder makes none."""
    server, store = Server(), tmp_path / "store"
    score(tmp_path / "four", data, server, endpoint(), limit=4, store=store)
    assert server.counts.total() == 4
    eight = score(tmp_path / "eight", data, server, endpoint(), store=store)
    assert server.counts.total() == 8
    again = score(tmp_path / "again", data, server, endpoint(), store=store)
    assert server.counts.total() == 8
    assert (again / "samples.jsonl").read_bytes() == (eight / "samples.jsonl").read_bytes()
    first = read_json(again / "log" / "first_prompts" / "icd10cm.json")
    assert "token_ids" not in first and "What is A0" in first["prompt"]


def test_a_call_without_an_answer_is_an_error_or_counts_as_empty(data: Path, tmp_path: Path) -> None:
    """One of eight is refused: the run stops and says why; allowed, it is unreadable, and asked again by the next."""
    broken, whole = Server(refused={"A03": 400}), Server()
    with pytest.raises(UserError, match="1 of 8 calls had no answer, the last with: HTTP 400: no A03"):
        score(tmp_path / "out", data, broken, endpoint())
    out = score(tmp_path / "out", data, broken, endpoint(allow_failed=0.2))
    entry = read_json(out / "result.json")["benchmarks"]["icd10cm"]
    assert (entry["unreadable"], entry["readings"]["empty"], entry["value"]) == (1, 1, 3 / 8)
    again = score(tmp_path / "out", data, whole, endpoint(allow_failed=0.2, context=4096))
    assert whole.counts.total() == 1
    assert read_json(again / "result.json")["benchmarks"]["icd10cm"]["value"] == 0.5


def test_a_conversation_survives_being_numbers(tmp_path: Path) -> None:
    """Accents, emoji, half a surrogate and an empty turn come back; three bytes count as a token."""
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": 'Fièvre 39 °C 🤒 \ud83e \0 \\ "'}]
    with open_endpoint(EndpointConfig(**endpoint(model="m")), tmp_path) as one:
        (ids,) = one.encode([chat])
        assert json.loads(one.decode(ids)) == chat
        assert len(ids) == -(-len(one.decode(ids).encode(errors="surrogatepass")) // 3)
        assert one.tokens_of(["four", ""]) == [2, 0]


def test_engine_and_endpoint_go_together(data: Path, tmp_path: Path) -> None:
    """One without the other is refused, and so is an endpoint without an address."""
    common: dict[str, Any] = {"out": tmp_path, "model": "m", "suite": data / "icd.yml"}
    for wrong in ({"engine": "openai"}, {"endpoint": endpoint()}):
        with pytest.raises(ValueError, match="go together"):
            Config(**common, **wrong)
    with pytest.raises(ValueError, match="exactly one of base_url"):
        Config(**common, engine="openai", endpoint={})
    both = Config(**common, engine="openai", endpoint=endpoint())
    assert both.endpoint is not None and both.endpoint.model == "m"
