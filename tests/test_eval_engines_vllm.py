"""vLLM as an engine: what is asked of a fake library, and that texts and likelihoods are those of transformers."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eval.engines.transformers import LocalModel
from eval.engines.vllm import VllmModel
from medsmith.errors import UserError
from medsmith.likelihood import ChoiceItem

ROOT = Path(__file__).parent.parent
CHATS = [[{"role": "user", "content": text}] for text in ("No fever.", "Chest pain, metformin 500 mg daily.", "?")]
ITEMS = [
    ChoiceItem(CHATS[0], ["pneumonia", "left lower lobe", "E11.9"]),
    ChoiceItem(CHATS[1], ["ENTAILMENT", "NEUTRAL"]),
]


class Library:
    """The part of vllm that is used, over the real tiny model, one prompt at a time."""

    def __init__(self, local: LocalModel) -> None:
        self.local = local
        self.loaded: list[dict[str, Any]] = []
        self.asked: list[tuple[list[list[int]], dict[str, Any]]] = []
        self.SamplingParams = lambda **given: given

    def LLM(self, **given: Any) -> Any:  # the name that vllm has for it
        if given.get("gpu_memory_utilization") == 0:
            raise ValueError("no room\nfor weights")
        self.loaded.append(given)
        return SimpleNamespace(generate=self.generate)

    def generate(self, prompts: list[dict[str, Any]], sampling: dict[str, Any], use_tqdm: bool) -> list[Any]:
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        self.asked.append((rows, sampling))
        return [self.answer(ids, sampling) for ids in rows]

    def answer(self, ids: list[int], sampling: dict[str, Any]) -> Any:
        written: list[int] = []
        with torch.inference_mode():
            logprobs = self.local.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            while len(written) < sampling["max_tokens"] and not set(written) & set(sampling.get("stop_token_ids", ())):
                written.append(int(self.local.model(torch.tensor([ids + written])).logits[0, -1].argmax()))
        scored = [None] + [
            {
                int(row.argmax()): SimpleNamespace(logprob=float(row.max())),
                token: SimpleNamespace(logprob=float(row[token])),
            }
            for row, token in zip(logprobs, ids[1:], strict=False)
        ]
        reason = "stop" if len(written) < sampling["max_tokens"] else "length"
        return SimpleNamespace(
            prompt_logprobs=scored if "prompt_logprobs" in sampling else None,
            outputs=[SimpleNamespace(token_ids=tuple(written), finish_reason=reason, text="")],
        )


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> LocalModel:
    torch.set_num_threads(1)
    return LocalModel(tiny_model, device="cpu")


def test_the_library_is_told_what_decides(local: LocalModel, tiny_model: Path) -> None:
    """Greedy, the model's own end tokens, token ids as they are; arguments reach LLM as they stand, the model once."""
    library = Library(local)
    model = VllmModel(tiny_model, "bfloat16", arguments={"max_model_len": 200, "seed": 7}, library=library)
    model.write(model.encode(CHATS), 4)
    model.write(model.encode(CHATS[:1]), 4)
    assert library.loaded == [
        {"model": str(tiny_model), "dtype": "bfloat16", "seed": 7, "enable_prefix_caching": True, "max_model_len": 200}
    ]
    rows, sampling = library.asked[0]
    assert rows == local.encode(CHATS)
    ends = sorted({local.tokenizer.eos_token_id, local.tokenizer.pad_token_id})
    assert sampling == {"temperature": 0.0, "max_tokens": 4, "stop_token_ids": ends, "detokenize": False}
    assert model.context == 199, "vLLM writes a token after every prompt"
    assert VllmModel(tiny_model, library=library).context == local.context - 1


def test_texts_equal_those_of_transformers(local: LocalModel, tiny_model: Path) -> None:
    """Token for token, with the text ending before a token that ends the turn."""
    model = VllmModel(tiny_model, library=Library(local))
    encoded = local.encode(CHATS)
    expected = local.write(encoded, 8)
    assert model.write(encoded, 8) == expected
    third = local.tokenizer(expected[0].text, add_special_tokens=False)["input_ids"][2]
    model.ends = {third}
    stopped = model.write(encoded[:1], 8)[0]
    assert (stopped.finish, stopped.tokens <= 3) == ("stop", True)
    assert expected[0].text.startswith(stopped.text) and stopped.text != expected[0].text


def test_likelihoods_equal_those_of_transformers(local: LocalModel, tiny_model: Path) -> None:
    """Options and documents, in one window and in several; the prompt's tokens are not counted."""
    library = Library(local)
    model = VllmModel(tiny_model, library=library)
    for found, wanted in zip(model.choose(ITEMS), local.choose(ITEMS), strict=True):
        assert found.tokens == wanted.tokens
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
    rows, sampling = library.asked[0]
    assert (len(rows), sampling["prompt_logprobs"], sampling["max_tokens"]) == (5, 1, 1)
    texts = ["Patient denies fever.", "", "Left lower lobe pneumonia. " * 4]
    for window in (16, 256):
        for score, expected in zip(model.read(texts, window), local.read(texts, window), strict=True):
            assert (score.tokens, score.bytes) == (expected.tokens, expected.bytes)
            assert score.nll == pytest.approx(expected.nll, abs=1e-3)
    assert model.choose([]) == []


def test_a_vllm_model_is_another_model(local: LocalModel, tiny_model: Path) -> None:
    """Its answers are kept apart from those of transformers, and those of a quantised run from both."""
    library = Library(local)
    prints = [
        local.fingerprint,
        VllmModel(tiny_model, library=library).fingerprint,
        VllmModel(tiny_model, arguments={"quantization": "fp8"}, library=library).fingerprint,
        VllmModel(tiny_model, "bfloat16", library=library).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert VllmModel(tiny_model, arguments={"max_num_seqs": 8}, library=library).fingerprint == prints[1]


def test_what_the_user_can_mend_is_one_line(local: LocalModel, tiny_model: Path) -> None:
    """No library, a model that does not load, a doubled begin-of-text."""
    if find_spec("vllm") is None:
        with pytest.raises(UserError, match="needs the package vllm"):
            VllmModel(tiny_model)
    broken = VllmModel(tiny_model, arguments={"gpu_memory_utilization": 0}, library=Library(local))
    with pytest.raises(UserError, match="cannot load .*: ValueError: no room for weights; check model and vllm"):
        broken.write([[1]], 1)
    doubled = VllmModel(tiny_model, library=Library(local))
    doubled.tokenizer.bos_token = "<|endoftext|>"
    doubled.tokenizer.chat_template = "<|endoftext|><|endoftext|>" + doubled.tokenizer.chat_template
    for asked in (lambda: doubled.encode(CHATS), lambda: doubled.choose(ITEMS)):
        with pytest.raises(UserError, match="twice"):
            asked()


def test_nothing_is_imported_that_was_not_chosen() -> None:
    """Loading the evaluator, its engines and the likelihoods imports neither vllm nor torch nor openai."""
    code = (
        "import sys, eval.run, eval.engines.vllm, eval.engines.openai, medsmith.likelihood\n"
        "print(sorted({'vllm', 'torch', 'transformers', 'openai', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
