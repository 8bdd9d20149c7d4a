"""The transformers engine writes what one prompt at a time writes, and knows when a model has changed."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eval.engines.transformers import LocalModel, generate, shared_start, takes_shared_start
from medsmith.errors import UserError
from medsmith.likelihood import ChoiceItem

CHATS = [
    [{"role": "user", "content": text}]
    for text in ("No fever.", "Patient admitted with chest pain. Started on metformin 500 mg daily.", "?")
]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> LocalModel:
    torch.set_num_threads(1)
    return LocalModel(tiny_model, device="cpu")


def greedy(model: Any, ids: list[int], steps: int, ends: set[int]) -> list[int]:
    """The most probable token, again and again, without cache or padding."""
    written: list[int] = []
    with torch.inference_mode():
        while len(written) < steps and (not written or written[-1] not in ends):
            written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
    return written


def test_a_padded_batch_writes_what_single_prompts_write(engine: LocalModel) -> None:
    """Greedy, token for token; padding on the left changes nothing."""
    encoded = engine.encode(CHATS)
    replies = engine.write(encoded, 8)
    for ids, reply in zip(encoded, replies, strict=True):
        expected = greedy(engine.model, ids, 8, {engine.tokenizer.eos_token_id, engine.tokenizer.pad_token_id})
        assert reply.text == engine.tokenizer.decode(expected, skip_special_tokens=True)
        assert (reply.tokens, reply.finish) == (8, "length")


def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(engine: LocalModel) -> None:
    """Six questions of other lengths behind one instruction: token for token what each writes alone, without a start.

    The model sees the instruction once for all, and then only the rests. Its weights are enlarged: what small random
    ones write hardly depends on what stands before, so that even padding in sight would change nothing.
    """
    model = copy.deepcopy(engine.model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)
    told = {"role": "system", "content": "Answer the question. Decide how the second sentence relates to the first."}
    texts = ("No fever.", "?", "Left lower lobe pneumonia.", CHATS[1][0]["content"], "Blood pressure 150/90.", "ICD-10")
    encoded = engine.encode([[told, {"role": "user", "content": text}] for text in texts])
    start = shared_start(encoded)
    widths: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, given: widths.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    try:
        replies = generate(model, engine.tokenizer, encoded, 8)
    finally:
        hook.remove()

    assert takes_shared_start(model) and start > 10
    assert widths[:2] == [(1, start), (6, max(map(len, encoded)) - start)]
    for ids, reply in zip(encoded, replies, strict=True):
        expected = greedy(model, ids, 8, {engine.tokenizer.eos_token_id, engine.tokenizer.pad_token_id})
        assert reply.text == engine.tokenizer.decode(expected, skip_special_tokens=True)


def test_a_start_is_shared_where_it_is_long_enough_and_the_model_allows_it(engine: LocalModel) -> None:
    """One token is left to each; one prompt, or few tokens, share nothing; windows and stretched ropes refuse."""
    same = list(range(20))
    assert shared_start([[*same, 1], [*same, 2, 3]]) == 20
    assert shared_start([same, [*same, 1]]) == 19
    assert shared_start([same]) == shared_start([same[:7], [*same[:7], 9]]) == shared_start([[1, *same], same]) == 0
    plain = engine.model.config.to_dict()
    for change in (
        {"sliding_window": 64},
        {"layer_types": ["linear_attention", "full_attention"]},
        {"rope_parameters": {"rope_type": "longrope"}},
        {"rope_parameters": None},
    ):
        config = SimpleNamespace(**{**plain, **change})
        model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda config=config: config))
        assert not takes_shared_start(model)


def test_writing_stops_at_the_end_of_the_turn(engine: LocalModel) -> None:
    """With a token that the model does write declared an end, the text stops before it, and says so."""
    encoded = engine.encode(CHATS)
    full = greedy(engine.model, encoded[0], 8, set())
    end = full[3]
    first = full.index(end)
    settings = engine.model.generation_config
    kept = settings.eos_token_id
    settings.eos_token_id = [end]
    try:
        replies = generate(engine.model, engine.tokenizer, encoded, 8)
    finally:
        settings.eos_token_id = kept
    assert replies[0].finish == "stop"
    assert replies[0].tokens == first + 1
    assert replies[0].text == engine.tokenizer.decode(full[:first], skip_special_tokens=True)


def test_a_models_own_sampling_settings_do_not_count(engine: LocalModel) -> None:
    """A generation_config that samples and punishes repetition is laid aside, and put back."""
    encoded = engine.encode(CHATS)
    expected = engine.write(encoded, 8)
    settings = engine.model.generation_config
    settings.update(do_sample=True, temperature=5.0, repetition_penalty=9.0, min_new_tokens=4)
    try:
        assert engine.write(encoded, 8) == expected
        assert engine.model.generation_config is settings
    finally:
        settings.update(do_sample=False, temperature=1.0, repetition_penalty=1.0, min_new_tokens=None)


def test_the_fingerprint_is_of_contents(tiny_model: Path, tmp_path: Path) -> None:
    """A copy elsewhere is the same model; one changed weight, template or type is another; a card changes nothing."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    first = LocalModel(tiny_model).fingerprint
    assert LocalModel(copy).fingerprint == first
    (copy / "README.md").write_text("a card")
    assert LocalModel(copy).fingerprint == first
    assert LocalModel(copy, dtype="bfloat16").fingerprint != first

    template = copy / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text + " ")
    assert LocalModel(copy).fingerprint != first
    template.write_text(text)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert LocalModel(copy).fingerprint != first


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    """The error names what is missing."""
    with pytest.raises(UserError, match="no weights"):
        _ = LocalModel(tmp_path).fingerprint


def test_the_prompt_ends_with_the_assistants_opening(engine: LocalModel) -> None:
    """Rendered once, with no token doubled; the context is the model's."""
    (ids,) = engine.encode(CHATS[:1])
    assert engine.decode(ids) == "<|user|>\nNo fever.<|end|>\n<|assistant|>\n"
    assert engine.context == 256
    assert engine.tokens_of(["No fever.", ""])[1] == 0


def test_only_needed_positions_reach_the_output_layer(engine: LocalModel) -> None:
    """Of a prompt that is continued one position becomes logits; of one with options, their tail."""
    seen: list[int] = []
    head = engine.model.get_output_embeddings().register_forward_pre_hook(
        lambda module, given: seen.append(given[0].shape[1])
    )
    encoded = engine.encode(CHATS)
    options = ["pneumonia", "E11.9"]
    try:
        engine.write(encoded, 4)
        assert seen == [1, 1, 1, 1]
        seen.clear()
        engine.choose([ChoiceItem(chat, options) for chat in CHATS])
    finally:
        head.remove()
    assert seen and max(seen) <= sum(engine.tokens_of(options)) + 1 < max(map(len, encoded))


@pytest.mark.parametrize("together", [1, 2, 7])
def test_prompts_of_any_length_are_written_alike_in_any_company(engine: LocalModel, together: int) -> None:
    """From one word to the model's whole context: texts, token counts and reasons do not depend on the batch."""
    texts = ["?", "fever " * 100, "No fever.", "pain " * 40, "a", "b", "Left lower lobe pneumonia. " * 5]
    encoded = engine.encode([[{"role": "user", "content": text}] for text in texts])
    assert max(map(len, encoded)) > 100 > 10 > min(map(len, encoded))
    alone = [engine.write([ids], 6)[0] for ids in encoded]
    found = [
        reply
        for start in range(0, len(encoded), together)
        for reply in engine.write(encoded[start : start + together], 6)
    ]
    assert found == alone
