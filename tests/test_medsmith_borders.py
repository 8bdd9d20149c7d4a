"""Training and measuring put the same token before a document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experts import train
from medsmith.likelihood import document_pieces


def tokenizer_that(puts_begin: bool) -> Any:
    """A tokenizer of words that has a bos token, and puts it before a text or not."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "<s>": 1, "a": 2, "b": 3}, unk_token="b"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if puts_begin:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<|endoftext|>", unk_token="b")


@pytest.mark.parametrize(("puts_begin", "expected"), [(True, "<s>"), (False, "<|endoftext|>")])
def test_a_named_bos_begins_a_document_only_where_the_tokenizer_puts_it(puts_begin: bool, expected: str) -> None:
    """SmolLM2 names the token that opens a chat turn; no document of its training, or of ours, stood behind it."""
    tokenizer = tokenizer_that(puts_begin)
    ((ids, scored),) = document_pieces(tokenizer, "a b", 16)
    assert tokenizer.convert_ids_to_tokens(ids) == [expected, "a", "b"] and scored == 2
    assert train.document_marks(tokenizer).begin == ids[0]


def test_the_embedded_model_begins_with_the_end_of_the_last(tiny_model: Path) -> None:
    """Phi-3's small tokenizer has no begin-of-text token."""
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    assert next(document_pieces(tokenizer, "a", 16))[0][0] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
