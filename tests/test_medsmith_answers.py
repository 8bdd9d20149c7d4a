"""The mask of answers, by rendering: the same as by marks, for templates that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align import sft
from medsmith import run
from medsmith.answers import has_marks, label_answers
from medsmith.errors import UserError
from medsmith.models import load_tokenizer
from medsmith.packing import IGNORED
from medsmith.records import write_parquet
from tests.toy_training import instruction

UNMARKED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|system|>\nYou help.<|end|>\n"
    "{% endif %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""As that of SmolLM2: one line for all roles, and a system turn of its own."""
CHATS = [
    [
        {"role": "user", "content": "The patient denies fever."},
        {"role": "assistant", "content": "No pleural effusion."},
    ],
    [
        {"role": "system", "content": "Answer the question."},
        {"role": "user", "content": "Chest pain?"},
        {"role": "assistant", "content": "E11.9"},
    ],
]


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    found = load_tokenizer(tiny_model)
    found.chat_template = UNMARKED
    return found


def test_exactly_the_answer_and_the_end_of_its_turn_are_labelled(tokenizer: Any) -> None:
    """Nothing of the prompt, of a default system turn, or of the line break behind the turn; the text is whole."""
    assert not has_marks(tokenizer)
    found = label_answers(tokenizer, CHATS)
    for chat, one in zip(CHATS, found, strict=True):
        trained = [token for token, label in zip(one.tokens, one.labels, strict=True) if label != IGNORED]
        assert tokenizer.decode(trained) == chat[-1]["content"] + "<|end|>"
        assert tokenizer.decode(one.tokens) == tokenizer.apply_chat_template(chat, tokenize=False)


def test_it_is_the_mask_that_marks_give(tiny_model: Path) -> None:
    """On a template with marks, both ways give the same tokens and the same mask."""
    tokenizer = load_tokenizer(tiny_model)
    assert has_marks(tokenizer)
    for chat, one in zip(CHATS, label_answers(tokenizer, CHATS), strict=True):
        marked = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
        assert one.tokens == marked["input_ids"]
        assert [label != IGNORED for label in one.labels] == [bool(value) for value in marked["assistant_masks"]]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (UNMARKED.replace("You help.", "{{ messages | length }} turns."), "writes the prompt otherwise once there is"),
        (
            UNMARKED.replace("message['content']", "message['content'] | replace('No', 'Not')"),
            "does not write the answer as it is",
        ),
        (UNMARKED.replace("+ '<|end|>\n'", "+ '\n'"), "does not end the assistant's turn with <|end|>"),
    ],
)
def test_a_template_that_hides_the_answer_is_refused(tokenizer: Any, template: str, message: str) -> None:
    """Where prompt, answer or end cannot be found in the rendering, nothing is guessed."""
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        label_answers(tokenizer, CHATS)


@pytest.mark.parametrize("packing", [False, True])
def test_a_model_with_an_unmarked_template_is_trained(tiny_model: Path, tmp_path: Path, packing: bool) -> None:
    """SFT trains the answers alone, packed or not, and the model keeps its own template."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(UNMARKED)
    write_parquet(tmp_path / "rows" / "data" / "part-0.parquet", [instruction(n) for n in range(12)])
    out = sft.main(
        sft.Config(
            out=tmp_path / "run",
            model=folder,
            data=tmp_path / "rows",
            heldout_share=0.2,
            trainer={"max_steps": 2, "packing": packing, "per_device_train_batch_size": 2},
            threads=1,
            show_text=True,
        )
    )
    shown = [part.split("⟧")[0] for part in (out / "mask.txt").read_text().split("⟦")[1:]]
    assert shown and set(shown) == {"No pleural effusion.<|end|>"}
    assert run.require_finished(out)["facts"]["sft"]["heldout_loss_after"] > 0
    assert (out / "chat_template.jinja").read_text() == UNMARKED
