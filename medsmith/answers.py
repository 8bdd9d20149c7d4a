"""The loss mask of a conversation by any chat template: what is rendered with the answer and was not there without it.

    sequence = label_answers(tokenizer, [[{"role": "user", …}, {"role": "assistant", …}], …])[0]

TRL reads the mask from marks in the template (`{% generation %}`), which few published models have, or from versions
of known templates that it brings. Where there is neither, the last turn is trained: the answer, and the token that
ends the turn. The prompt is encoded by itself, as it is when the model is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medsmith.borders import end_of_turn
from medsmith.errors import UserError
from medsmith.packing import IGNORED, Labelled

Messages = Sequence[dict[str, str]]


def has_marks(tokenizer: Any) -> bool:
    """Whether TRL can tell the answers from the prompts by the template's marks, or knows a version that has them."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        get_training_chat_template(tokenizer)
    except ValueError:
        return False
    return True


def label_answers(tokenizer: Any, conversations: Sequence[Messages]) -> list[Labelled]:
    """Token ids and labels of conversations whose last turn is the assistant's.

    Raises:
        UserError: the template writes the prompt otherwise once there is an answer, changes it, or ends no turn.
    """
    end = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))
    prompts = tokenizer.apply_chat_template(
        [list(turns[:-1]) for turns in conversations], tokenize=False, add_generation_prompt=True
    )
    wholes = tokenizer.apply_chat_template([list(turns) for turns in conversations], tokenize=False)
    parts: list[str] = []
    for turns, prompt, whole in zip(conversations, prompts, wholes, strict=True):
        answer = turns[-1]["content"].strip()
        if not whole.startswith(prompt):
            raise _unfit("writes the prompt otherwise once there is an answer")
        rest = whole[len(prompt) :]
        start = rest.find(answer)
        if start < 0 or rest[:start].strip():
            raise _unfit(f"does not write the answer as it is given ({answer[:40]!r} became {rest[:60]!r})")
        stop = rest.find(end, start + len(answer))
        if stop < 0 or rest[start + len(answer) : stop].strip():
            raise _unfit(f"does not end the assistant's turn with {end} behind the answer, so a model would not stop")
        parts += [prompt, rest[: stop + len(end)], rest[stop + len(end) :]]
    ids = tokenizer(parts, add_special_tokens=False, verbose=False)["input_ids"] if parts else []
    return [
        Labelled([*before, *trained, *after], [*[IGNORED] * len(before), *trained, *[IGNORED] * len(after)])
        for before, trained, after in zip(ids[::3], ids[1::3], ids[2::3], strict=True)
    ]


def _unfit(what: str) -> UserError:
    return UserError(
        f"the chat template {what}, so what is to be trained cannot be told apart; put {{% generation %}} and "
        "{% endgeneration %} around the assistant's turn in the model's chat_template.jinja"
    )
