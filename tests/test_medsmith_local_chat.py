"""A model in this process answers like any teacher, and what it draws is a request's own."""

from __future__ import annotations

import gc
import random
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from medsmith.calls import run_calls
from medsmith.chat import ChatRequest, chat_request
from medsmith.command import as_ctrl_c
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.local_chat import LocalChat, gumbel

TEXTS = ("Fever?", "The patient denies chest pain. Answer the question.", "No.", "Left lower lobe pneumonia?")


def requests(chat: LocalChat, **settings: Any) -> list[ChatRequest]:
    asked = {"temperature": 1.0, "max_tokens": 8, "n": 3} | settings
    return [chat_request(chat.name, [{"role": "user", "content": text}], **asked) for text in TEXTS]


def answers(chat: LocalChat, asked: Sequence[ChatRequest], folder: Path) -> dict[str, list[str]]:
    with Journal(folder / "calls.jsonl") as journal:
        rows = run_calls(asked, chat, journal, 1, "test")
        return {request.id: rows[request.id]["texts"] for request in asked}


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> LocalChat:
    return LocalChat(tiny_model)


def test_answers_do_not_depend_on_neighbours(chat: LocalChat, tmp_path: Path) -> None:
    """Alone, together, or continued after a kill: the same texts; the texts of one request differ from one another."""
    asked = requests(chat)
    together = answers(chat, asked, tmp_path / "together")
    alone = {key: texts for one in asked for key, texts in answers(chat, [one], tmp_path / one.id).items()}
    assert together == alone
    answers(chat, asked[:2], tmp_path / "half")
    assert answers(chat, asked, tmp_path / "half") == together
    assert all(len(texts) == 3 == len(set(texts)) for texts in together.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_gentle_stop_ends_it_between_two_batches(
    chat: LocalChat, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """What was answered before is in the journal, the next batch is not written, and no traceback is logged."""
    asked = [*requests(chat), *requests(chat, temperature=0.5)]
    earlier = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, as_ctrl_c)
    stopped = False

    def stop(request: ChatRequest, row: dict[str, Any]) -> list[ChatRequest]:
        nonlocal stopped
        if not stopped:
            stopped = True
            signal.raise_signal(number)
        return []

    try:
        with Journal(tmp_path / "calls.jsonl") as journal, pytest.raises(KeyboardInterrupt):
            run_calls(asked, chat, journal, 1, "test", follow_up=stop)
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert len((tmp_path / "calls.jsonl").read_text().splitlines()) == len(TEXTS)
    assert len(answers(chat, asked, tmp_path)) == len(asked)


def test_temperature_zero_is_the_likeliest_text(chat: LocalChat, tiny_model: Path, tmp_path: Path) -> None:
    """It is what transformers' own greedy decoding writes, and all texts of a request are alike."""
    import torch

    from medsmith.likelihood import encode_chat
    from medsmith.models import load_model, load_tokenizer

    tokenizer, model = load_tokenizer(tiny_model), load_model(tiny_model)
    found = answers(chat, asked := requests(chat, temperature=0.0, n=2), tmp_path)
    for request in asked:
        ids = torch.tensor(encode_chat(tokenizer, [list(request.messages)]))
        for _ in range(8):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        assert set(found[request.id]) == {tokenizer.decode(ids[0, -8:], skip_special_tokens=True)}


def test_largest_with_noise_is_a_draw_from_the_softmax() -> None:
    """Of 4,000 draws each token has its share within 3 %; with top_p the unlikely ones never come."""
    import torch

    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    for temperature, top_p in ((1.0, 1.0), (2.0, 1.0), (1.0, 0.7)):
        seeds = [f"{number:x}" for number in range(4000)]
        drawn = gumbel(seeds, temperature, top_p)(torch.zeros(0), logits.expand(4000, -1)).argmax(-1).tolist()
        wanted = (logits[0] / temperature).softmax(0)
        if top_p < 1:
            wanted = torch.where(torch.tensor([True, False, False, True]), wanted, 0)
            wanted = wanted / wanted.sum()
        counts = Counter(drawn)
        assert [counts[token] / 4000 for token in range(4)] == pytest.approx(wanted.tolist(), abs=0.03)
        assert top_p == 1 or set(counts) == {0, 3}


def test_prompts_without_room_fail_alone(chat: LocalChat, tmp_path: Path) -> None:
    """One prompt longer than the context has an error in its row; its neighbour is answered."""
    long = chat_request(chat.name, [{"role": "user", "content": "word " * 400}], max_tokens=4)
    short = requests(chat)[0]
    with Journal(tmp_path / "calls.jsonl") as journal:
        rows = run_calls([long, short], chat, journal, 1, "test")
        assert "the context no more" in rows[long.id]["error"] and len(rows[short.id]["texts"]) == 3


def test_another_model_is_another_name(chat: LocalChat, tiny_model: Path, tmp_path: Path) -> None:
    """The name holds the content of the folder and how it draws; a folder that is not there is refused."""
    assert LocalChat(tiny_model).name == chat.name != LocalChat(tiny_model, top_p=0.9).name
    with pytest.raises(UserError, match="no such model folder"):
        LocalChat(tmp_path / "none")


@pytest.fixture(scope="module", params=["plain", "longrope"])
def telling(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> LocalChat:
    """A model that writes another text after another prompt: layers ten times larger; with longrope's border at 64."""
    from medsmith.models import load_model, load_tokenizer

    folder = tmp_path_factory.mktemp("models") / str(request.param)
    model = load_model(tiny_model, "float32", "cpu")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name and "lm_head" not in name:
                weight.mul_(10)
    if request.param == "longrope":
        half = model.config.hidden_size // model.config.num_attention_heads // 2
        factors = {"short_factor": [1.0] * half, "long_factor": [2.0**n for n in range(half)]}
        model.config.rope_parameters = factors | {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
            "original_max_position_embeddings": 64,
        }
        model.config.original_max_position_embeddings = 64
    model.save_pretrained(folder)
    load_tokenizer(tiny_model).save_pretrained(folder)
    return LocalChat(folder, device="cpu")


def test_a_text_is_the_same_alone_and_in_any_batch(telling: LocalChat, tmp_path: Path) -> None:
    """Prompts of any length, up to one that leaves six tokens of the context, in batches of any number; greedily."""
    lengths = (1, 4, 9, 14, 20, 40, 60, 80)
    asked = [
        chat_request(
            telling.name,
            [{"role": "user", "content": "fever " * length + f"{length}?"}],
            max_tokens=16,
        )
        for length in lengths
    ]
    alone = {key: texts for one in asked for key, texts in answers(telling, [one], tmp_path / one.id).items()}
    assert len({text for texts in alone.values() for text in texts}) == len(asked), "the model tells prompts apart"
    assert answers(telling, asked, tmp_path / "all") == alone
    rng = random.Random(0)
    for number in range(2):
        some = rng.sample(asked, rng.randint(2, len(asked)))
        assert answers(telling, some, tmp_path / f"some{number}") == {one.id: alone[one.id] for one in some}
