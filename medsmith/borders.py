"""Where texts begin and turns end, in tokens: one answer for training, measuring and generating. Pure."""

from __future__ import annotations

from typing import Any


def end_tokens(tokenizer: Any) -> list[int]:
    """What a generation stops at: the end of a turn first, then the tokenizer's own end and that of a document."""
    return list(dict.fromkeys([end_of_turn(tokenizer), tokenizer.eos_token_id, end_of_document(tokenizer)]))


def end_of_turn(tokenizer: Any) -> int:
    """The id that closes an assistant's turn: the first special token that the chat template puts after the answer."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "medsmith"}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        after = tokenizer(text[text.rindex("medsmith") :], add_special_tokens=False)["input_ids"]
        for token in after:
            if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder:
                return int(token)
    return int(tokenizer.eos_token_id)


def end_of_document(tokenizer: Any) -> int:
    """The id that closes a document: the end-of-text token where the tokenizer has one, else its eos.

    In a chat model they differ: eos may close a turn, and pre-training on documents must not teach that a document's
    end is a turn's end.
    """
    for token in ("<|endoftext|>", "<|end_of_text|>"):
        if token in tokenizer.get_vocab():
            return int(tokenizer.convert_tokens_to_ids(token))
    return int(tokenizer.eos_token_id)


def begin_of_document(tokenizer: Any) -> int:
    """The id before a document's first token: what the tokenizer itself puts before a text, else the end of the last.

    That a tokenizer names a bos token is not enough: in some chat models it opens a turn (SmolLM2's `<|im_start|>`) and
    never stood before a document. Its perplexity behind it was a sixth too high.
    """
    first = tokenizer("a")["input_ids"][0]
    return int(first) if first == tokenizer.bos_token_id else end_of_document(tokenizer)
