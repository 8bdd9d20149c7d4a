"""Likelihoods equal those of one plain forward pass per option or document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medsmith.borders import begin_of_document
from medsmith.errors import UserError
from medsmith.likelihood import (
    ChoiceItem,
    OptionScores,
    document_nll,
    document_pieces,
    encode_chat,
    encode_options,
    score_options,
)
from medsmith.models import load_model, load_tokenizer


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    return load_model(tiny_model, device="cpu"), load_tokenizer(tiny_model)


def ask(question: str, options: list[str]) -> ChoiceItem:
    return ChoiceItem([{"role": "user", "content": question}], options)


ITEMS = [
    ask("No fever.", ["a", "pneumonia", "Blood pressure 150/90", "the left lower lobe pneumonia and metformin 500 mg"]),
    ask("Patient admitted with chest pain and shortness of breath. Which code?", ["E11.9", "E11.9"]),
    ask("?", ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]),
]


def plain(model: Any, ids: list[int], scored: int) -> float:
    """The sum of log-probabilities of the last `scored` ids, by one forward pass without batch, mask or positions."""
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[place - 1, ids[place]]) for place in range(len(ids) - scored, len(ids)))


def test_options_score_as_one_by_one(loaded: tuple[Any, Any]) -> None:
    """Each option's log-probability and length equal a forward pass of prompt + option alone, in any batch size."""
    model, tokenizer = loaded
    for batch_tokens in (1, 200, None):
        scores = score_options(model, tokenizer, ITEMS, batch_tokens=batch_tokens)
        for item, score in zip(ITEMS, scores, strict=True):
            prefix = encode_chat(tokenizer, [item.messages])[0]
            for option, value, count in zip(item.options, score.logprobs, score.tokens, strict=True):
                branch = tokenizer(option, add_special_tokens=False)["input_ids"]
                assert count == len(branch)
                assert value == pytest.approx(plain(model, prefix + branch, len(branch)), abs=1e-4)


def test_options_score_alike_without_the_tree_mask(tiny_model: Path, loaded: tuple[Any, Any]) -> None:
    """A model whose attention window is shorter than the row gets a row an option, an eager one a mask: same scores."""
    model, tokenizer = loaded
    expected = score_options(model, tokenizer, ITEMS[:2])
    eager = load_model(tiny_model, device="cpu")
    eager.set_attn_implementation("eager")
    windowed = load_model(tiny_model, device="cpu")
    windowed.config.sliding_window = 50
    for other in (eager, windowed):
        # The first two items with their one option at a time fit into 50 tokens; with all options they do not.
        for score, wanted in zip(score_options(other, tokenizer, ITEMS[:2]), expected, strict=True):
            assert score.tokens == wanted.tokens
            assert score.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)


def test_best_option_by_mean_and_by_sum() -> None:
    """A long option wins by its mean (-1 each of 4) and loses by its sum; of equals the first is best."""
    score = OptionScores([-2.0, -4.0, -4.0], [1, 4, 4])
    assert score.best() == 1
    assert score.best(normalise=False) == 0


def test_bad_items_are_refused(loaded: tuple[Any, Any]) -> None:
    """No options, an empty option and a prompt beyond the context are named; no items give no scores."""
    model, tokenizer = loaded
    assert score_options(model, tokenizer, []) == []
    for item, message in [
        (ask("?", []), "no options"),
        (ask("?", ["yes", ""]), "no options"),
        (ask("fever " * 300, ["yes"]), "context is 256"),
    ]:
        with pytest.raises(UserError, match=message):
            score_options(model, tokenizer, [item])


def test_short_documents_equal_the_plain_sum(loaded: tuple[Any, Any]) -> None:
    """A document's first token is conditioned on the end-of-text token; bytes are UTF-8; no text costs nothing."""
    model, tokenizer = loaded
    texts = ["Patient denies fever.", "é", "", "Left lower lobe pneumonia. " * 5]
    scores = document_nll(model, tokenizer, texts)
    begin = model.config.bos_token_id
    for text, score in zip(texts, scores, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (score.tokens, score.bytes) == (len(ids), len(text.encode()))
        assert score.nll == pytest.approx(-plain(model, [begin, *ids], len(ids)) if ids else 0, abs=1e-3)
    assert scores[0].nll > 0


def test_long_documents_are_scored_once_a_token_across_windows(loaded: tuple[Any, Any]) -> None:
    """Windows of 16 ids move by 8: the first scores 15 tokens, each next one 8, with what lies before as context."""
    model, tokenizer = loaded
    text = "Started on metformin 500 mg daily for diabetes. " * 4
    ids = [model.config.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    expected, done = -plain(model, ids[:16], 15), 16
    while done < len(ids):
        end = min(done + 8, len(ids))
        expected -= plain(model, ids[end - 16 : end], end - done)
        done = end
    (score,) = document_nll(model, tokenizer, [text], window=16)
    assert score.tokens == len(ids) - 1
    assert score.nll == pytest.approx(expected, abs=1e-3)
    for window in (2, 3, 17, 256):
        assert document_nll(model, tokenizer, [text], window=window)[0].tokens == len(ids) - 1
    with pytest.raises(UserError, match="window=300"):
        document_nll(model, tokenizer, [text], window=300)


def test_a_doubled_beginning_is_refused(tiny_model: Path) -> None:
    """A template that writes the beginning-of-text token twice is an error, not a silent loss of points."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = "<|endoftext|><|endoftext|>" + tokenizer.chat_template
    with pytest.raises(UserError, match="twice"):
        encode_chat(tokenizer, [ITEMS[0].messages])
    with pytest.raises(UserError, match="twice"):
        encode_options(tokenizer, ITEMS, 256)


def test_pieces_hold_every_token_once(loaded: tuple[Any, Any]) -> None:
    """What is scored of the pieces, put together, is the text; the first begins as a document does in training."""
    _, tokenizer = loaded
    text = "Started on metformin 500 mg daily for diabetes. " * 4
    for window in (2, 7, 16, 256):
        pieces = list(document_pieces(tokenizer, text, window))
        assert all(len(ids) <= window and 0 < scored < len(ids) for ids, scored in pieces)
        assert pieces[0][0][0] == begin_of_document(tokenizer)
        assert [one for ids, scored in pieces for one in ids[-scored:]] == tokenizer(text)["input_ids"]
    assert list(document_pieces(tokenizer, "", 16)) == []
