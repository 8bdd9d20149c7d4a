"""A whole evaluation: known scores, kill and resume, changed weights, chance for a random model."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import medsmith.config
from eval.engine import Reply
from eval.responses import batches
from eval.run import Config, evaluate, main
from medsmith import run
from medsmith.errors import UserError
from medsmith.likelihood import ChoiceItem, DocumentScore, OptionScores
from medsmith.records import read_json, read_jsonl, write_jsonl

SUITE = "benchmarks: {mednli: {max_new_tokens: 4}, icd10cm: {}}"
LABELS = ("entailment", "neutral", "contradiction")


@dataclass
class FakeEngine:
    """Answers by rule, a word a token; raises after `breaks_after` batches."""

    fingerprint: str = "weights-1"
    context: int = 200
    breaks_after: int = 10**9
    calls: Counter[str] = field(default_factory=Counter)

    def encode(self, messages: Sequence[Sequence[dict[str, str]]]) -> list[list[int]]:
        texts = ["\n".join(turn["content"] for turn in chat) for chat in messages]
        self.words = getattr(self, "words", {})
        for word in " ".join(texts).split():
            self.words.setdefault(word, len(self.words))
        return [[self.words[word] for word in text.split()] for text in texts]

    def decode(self, ids: list[int]) -> str:
        words = list(self.words)
        return " ".join(words[token] for token in ids)

    def begin_tokens(self, ids: list[int]) -> int:
        return 0

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def _count(self, kind: str) -> None:
        if self.calls.total() == self.breaks_after:
            raise ConnectionError("killed")
        self.calls[kind] += 1

    def write(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        """Always NEUTRAL, but unreadable for every premise that ends with 7."""
        self._count("write")
        odd = [any(word.endswith("7.") for word in self.decode(ids).split()) for ids in prompts]
        return [Reply("NEUTRAL or so? ENTAILMENT" if bad else "neutral", 2, "stop") for bad in odd]

    def choose(self, items: list[ChoiceItem]) -> list[OptionScores]:
        """Likes the option that is longest."""
        self._count("choose")
        return [OptionScores([float(len(o)) for o in item.options], [1] * len(item.options)) for item in items]

    def read(self, texts: list[str], window: int) -> list[DocumentScore]:
        """Two nats a word."""
        self._count("read")
        return [DocumentScore(2.0 * len(t.split()), len(t.split()), len(t.encode())) for t in texts]


def data(folder: Path) -> dict[str, Any]:
    """90 pairs, 30 of each label; 40 questions in four places; 40 documents."""
    import polars

    folder.mkdir(parents=True, exist_ok=True)
    pairs = [
        {"pairID": f"p{n}", "gold_label": LABELS[n % 3], "sentence1": f"Premise {n}.", "sentence2": "Hypothesis."}
        for n in range(90)
    ]
    write_jsonl(folder / "mli_test_v1.jsonl", pairs)
    write_jsonl(folder / "mli_train_v1.jsonl", pairs[:6])
    rows = [
        {
            "question_id": n, "question": f"What is the description of the medical code A{n:02} in ICD10CM?",
            "answer_id": "ABCD"[n % 4], "vocab": "ICD10CM", "level": ("easy", "hard")[n % 2],
            **{f"option{o}": hashlib.md5(f"{n} {o}".encode()).hexdigest()[: 5 + (o + n) % 4] for o in range(1, 5)},
        }
        for n in range(40)
    ]  # fmt: skip
    polars.DataFrame(rows).write_parquet(folder / "test.parquet")
    documents = [
        {"id": str(n), "title": "", "text": "No acute fever. " * (n + 1), "source": "s", "license": "l"}
        for n in range(40)
    ]
    write_jsonl(folder / "heldout.jsonl", documents)
    (folder / "suite.yml").write_text(SUITE)
    return {
        "suite": folder / "suite.yml",
        "benchmarks": {"mednli": folder, "icd10cm": folder},
        "corpora": {"wiki": folder},
        "model": "owner/name",
    }


def score(out: Path, engine: FakeEngine, settings: dict[str, Any]) -> Path:
    config = Config(out=out, **settings)
    with run.start(config, "eval.run") as this:
        return evaluate(config, this, engine)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return data(tmp_path / "data")


def test_result_by_hand(settings: dict[str, Any], tmp_path: Path) -> None:
    """Always NEUTRAL is right for 30 of 90 less the unreadable ones; perplexity of two nats a word is e²."""
    out = score(tmp_path / "out", FakeEngine(), settings | {"keep_text": True})
    result, samples = read_json(out / "result.json"), list(read_jsonl(out / "samples.jsonl"))
    mednli, icd = result["benchmarks"]["mednli"], result["benchmarks"]["icd10cm"]

    # Premises 7, 17, …, 87 are unreadable; of these 7, 37, 67 would have been right.
    assert (mednli["n"], mednli["unreadable"], mednli["value"]) == (90, 9, pytest.approx(27 / 90))
    assert 0.2 < mednli["low"] < 0.3 < mednli["high"] < 0.42
    assert (mednli["metric"], mednli["version"], mednli["access"]) == ("accuracy", 1, "credentialed")
    # The longest option of question n is the one with (o + n) % 4 == 3, the right one o = n % 4 + 1.
    expected = sum((n % 4 + 1 + n) % 4 == 3 for n in range(40)) / 40
    assert icd["value"] == expected
    assert {name: part["n"] for name, part in icd["slices"].items()} == {"easy": 20, "hard": 20}
    assert result["average"]["value"] == pytest.approx((27 / 90 + expected) / 2)
    wiki = result["perplexity"]["wiki"]
    assert wiki["per_token"] == pytest.approx(wiki["low"]) == pytest.approx(7.389, abs=1e-3)
    assert wiki["tokens"] == 3 * sum(range(1, 41))
    assert wiki["per_byte"] == pytest.approx(2.71828 ** (2 * wiki["tokens"] / wiki["bytes"]), rel=1e-4)
    assert (result["protocol"], result["model"]) == ("strict", "name")

    told = (out / "result.md").read_text()
    assert "protocol `strict`" in told
    assert "| mednli | accuracy | 30.0 (" in told and "| 90 | 0 | 10.0 % |" in told

    assert len(samples) == 130
    seventh = next(row for row in samples if row["id"] == "p7")
    assert (seventh["answer"], seventh["unreadable"], seventh["score"], seventh["gold"]) == (None, True, 0.0, "NEUTRAL")
    record = read_json(out / "run.json")
    assert record["counts"] == {"items": 130, "unreadable": 9, "documents": 40, "dropped": 0}
    assert record["facts"]["licences"]["benchmark icd10cm"] == "Apache-2.0"
    first = read_json(out / "log" / "first_prompts" / "mednli.json")
    assert first["prompt"].endswith("SENTENCE_1: Premise 0. SENTENCE_2: Hypothesis.")
    assert len(first["token_ids"]) == len(first["prompt"].split())


def test_no_text_of_a_credentialed_set_lies_in_the_run_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    """Premises are nowhere, in no file; samples hold digests, the log the first prompt's length; open sets are kept."""
    out = score(tmp_path / "out", FakeEngine(), settings)
    texts = {path: path.read_text() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert len(texts) > 5
    assert not [path for path, text in texts.items() if "Premise" in text]
    first = read_json(out / "log" / "first_prompts" / "mednli.json")
    assert first["prompt"].startswith("sha256:") and "token_ids" not in first
    assert first["tokens"] > 10
    assert read_json(out / "log" / "first_prompts" / "icd10cm.json")["prompt"].endswith("ICD10CM?")
    samples = list(read_jsonl(out / "samples.jsonl"))
    assert all(str(row["prompt"]).startswith("sha256:") == (row["benchmark"] == "mednli") for row in samples)


def test_credentialed_texts_stay_out_of_the_results(settings: dict[str, Any], tmp_path: Path) -> None:
    """Ids and scores are written, prompts and answers are not, unless the set is simulated or the user says so."""
    out = score(tmp_path / "out", FakeEngine(), settings)
    assert "Premise" not in (out / "samples.jsonl").read_text()
    assert "A00 in ICD10CM" in (out / "samples.jsonl").read_text()
    with run.start(medsmith.config.Config(out=tmp_path / "clinic"), "clinic") as this:
        this.facts |= {"simulated": True, "licences": {"clinic": "CC0"}}
        clinic = data(this.folder)
        this.finish()
    out = score(tmp_path / "simulated", FakeEngine(), clinic)
    assert "Premise" in (out / "samples.jsonl").read_text()
    entry = read_json(out / "result.json")["benchmarks"]["mednli"]
    assert (entry["simulated"], entry["licence"], entry["published"]) == (True, "CC0", False)


@pytest.mark.parametrize("breaks_after", [0, 1, 2, 3])
def test_a_broken_run_continues_and_gives_the_same(settings: dict[str, Any], tmp_path: Path, breaks_after: int) -> None:
    """Finished batches are not asked again, and the files equal those of an unbroken run byte for byte."""
    whole = score(tmp_path / "whole", FakeEngine(), settings)
    total = sum(len(list(batches([1] * n))) for n in (90, 40, 40))
    out = tmp_path / "broken"
    with pytest.raises(ConnectionError):
        score(out, FakeEngine(breaks_after=breaks_after), settings)
    assert not (out / "run.json").exists()
    engine = FakeEngine()
    score(out, engine, settings)
    assert engine.calls.total() == total - breaks_after
    for name in ("result.json", "samples.jsonl", "documents.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_answers_are_found_by_what_decides_them(settings: dict[str, Any], tmp_path: Path) -> None:
    """Scoring again asks nothing; another name asks nothing; other weights, prompts or lengths ask again."""
    out = tmp_path / "out"
    total = score_calls(out, settings)
    assert total > 0
    assert score_calls(out, settings | {"name": "other", "seed": 3}) == 0
    assert score_calls(out, settings, fingerprint="weights-2") == total
    assert score_calls(out, settings) == 0
    settings["suite"].write_text(SUITE.replace("max_new_tokens: 4", "max_new_tokens: 5"))
    assert score_calls(out, settings) == 2
    settings["suite"].write_text(SUITE.replace("max_new_tokens: 4", "max_new_tokens: 4, shots: 1"))
    assert score_calls(out, settings) == 2


def score_calls(out: Path, settings: dict[str, Any], **engine: Any) -> int:
    fake = FakeEngine(**engine)
    score(out, fake, settings)
    return fake.calls.total()


def test_letters_are_listed_and_scored(settings: dict[str, Any], tmp_path: Path) -> None:
    """With choice: letter the options stand in the question and the letters are the answers."""
    settings["suite"].write_text("benchmarks: {icd10cm: {choice: letter}}")
    chosen = settings | {"benchmarks": {"icd10cm": tmp_path / "data"}, "limit": 8}
    out = score(tmp_path / "out", FakeEngine(), chosen)
    samples = list(read_jsonl(out / "samples.jsonl"))
    assert len(samples) == 8
    assert all(row["gold"] in "ABCD" and row["answer"] == "A" for row in samples)
    assert "A. " in samples[0]["prompt"] and "D. " in samples[0]["prompt"]
    assert read_json(out / "result.json")["benchmarks"]["icd10cm"]["left_out"] == {"beyond the limit": 32}


def test_a_long_prompt_is_cut_in_the_middle_and_counted(settings: dict[str, Any], tmp_path: Path) -> None:
    """Beginning and end stay, the prompt with its answer fills the context, the number of cut items is reported."""
    long = {"pairID": "long", "gold_label": "neutral", "sentence1": "first " + "word " * 300, "sentence2": "last"}
    write_jsonl(tmp_path / "data" / "mli_test_v1.jsonl", [long, {**long, "pairID": "short", "sentence1": "a"}])
    settings["suite"].write_text("benchmarks: {mednli: {max_new_tokens: 4}}")
    chosen = settings | {"benchmarks": {"mednli": tmp_path / "data"}, "keep_text": True, "corpora": {}}
    out = score(tmp_path / "out", FakeEngine(context=60), chosen)
    prompt = next(read_jsonl(out / "samples.jsonl"))["prompt"]
    assert prompt.split()[14:17] == ["SENTENCE_1:", "first", "word"]
    assert prompt.endswith("SENTENCE_2: last") and "[…]" in prompt
    assert 54 <= len(prompt.split()) <= 56
    assert read_json(out / "result.json")["benchmarks"]["mednli"]["truncated"] == 1
    with pytest.raises(UserError, match="do not fit into 16 tokens"):
        score(tmp_path / "none", FakeEngine(context=16), chosen)


def test_a_random_model_is_at_chance(tiny_model: Path, tmp_path: Path) -> None:
    """Negative control: untrained weights on four balanced options give 25 %, within the interval; twice the same."""
    import polars

    data(tmp_path / "data")
    rows = [
        {
            "question_id": n, "question": f"What is the description of the medical code A{n:02} in ICD10CM?",
            "answer_id": "ABCD"[n % 4], "vocab": "ICD10CM", "level": "easy",
            **{f"option{o}": hashlib.md5(f"{n} {o}".encode()).hexdigest()[:6] for o in range(1, 5)},
        }
        for n in range(240)
    ]  # fmt: skip
    polars.DataFrame(rows).write_parquet(tmp_path / "data" / "test.parquet")
    (tmp_path / "suite.yml").write_text("benchmarks: {icd10cm: {}, mednli: {max_new_tokens: 3, limit: 6}}")
    paths = {"icd10cm": tmp_path / "data", "mednli": tmp_path / "data"}
    common: dict[str, Any] = {"model": tiny_model, "suite": tmp_path / "suite.yml", "benchmarks": paths, "threads": 1}
    corpora = {"wiki": tmp_path / "data"}
    first = main(Config(out=tmp_path / "a", corpora=corpora, limit_documents=5, window=32, **common))
    second = main(Config(out=tmp_path / "b", corpora=corpora, limit_documents=5, window=32, **common))
    result = read_json(first / "result.json")
    icd = result["benchmarks"]["icd10cm"]
    assert icd["low"] <= 0.25 <= icd["high"]
    assert icd["n"] == 240
    # Untrained weights predict nearly uniformly: the perplexity is about the size of the vocabulary.
    assert 250 < result["perplexity"]["wiki"]["per_token"] < 600
    for name in ("result.json", "samples.jsonl", "documents.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_killed_process_continues(tiny_model: Path, tmp_path: Path) -> None:
    """SIGKILL between two batches: the same command ends with the very files of an unbroken run."""
    data(tmp_path / "data")
    (tmp_path / "suite.yml").write_text("benchmarks: {icd10cm: {}, mednli: {max_new_tokens: 40}}")
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    words = [f"model={model}", f"suite={tmp_path}/suite.yml", "threads=1", "device=cpu",
             f"benchmarks.icd10cm={tmp_path}/data", f"benchmarks.mednli={tmp_path}/data"]  # fmt: skip
    command = [sys.executable, "-m", "eval.run", f"out={tmp_path}/killed", *words]
    journal = tmp_path / "killed" / "raw" / "responses.jsonl"
    process = subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL, env=dict(os.environ)
    )
    try:
        deadline = time.monotonic() + 120
        while not (journal.exists() and journal.stat().st_size) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = [row["id"] for row in read_jsonl(journal)] if not torn(journal) else []
    settings: dict[str, Any] = {
        "model": model, "suite": tmp_path / "suite.yml", "threads": 1, "device": "cpu",
        "benchmarks": {"icd10cm": tmp_path / "data", "mednli": tmp_path / "data"},
    }  # fmt: skip
    main(Config(out=tmp_path / "killed", **settings))
    whole = main(Config(out=tmp_path / "whole", **settings))
    assert [row["id"] for row in read_jsonl(journal)][: len(kept)] == kept
    for name in ("result.json", "samples.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes()


def torn(path: Path) -> bool:
    return not path.read_bytes().endswith(b"\n")
