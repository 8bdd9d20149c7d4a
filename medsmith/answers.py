"""The loss mask of a conversation by any chat template: what is rendered with the answer and was not there without it.

    sequence = label_answers(tokenizer, [[{"role": "user", …}, {"role": "assistant", …}], …])[0]

TRL reads the mask from marks in the template (`{% generation %}`), which few published models have, or from versions
of known templates that it brings. Here every turn of the assistant is trained without them: the answer, and the token
that ends the turn. The prompt is encoded by itself, as it is when the model is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from medsmith.borders import end_of_turn
from medsmith.errors import UserError, quoted
from medsmith.packing import IGNORED, Labelled

Messages = Sequence[Mapping[str, str]]


class _Part(NamedTuple):
    text: str
    trained: bool


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
        UserError: there is no template or it refuses a conversation; it writes a prompt otherwise once there is an
            answer, changes the answer, or ends no turn; or a conversation has no turn of the assistant.
    """
    if not tokenizer.chat_template:
        raise UserError("the model has no chat template, so it cannot be asked; give it a chat_template.jinja")
    end = str(tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)))
    parts = [list(_parts(tokenizer, turns, end)) for turns in conversations]
    texts = [part.text for conversation in parts for part in conversation]
    encoded = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else [])
    found = []
    for conversation in parts:
        whole = Labelled([], [])
        for part in conversation:
            ids = next(encoded)
            whole.tokens.extend(ids)
            whole.labels.extend(ids if part.trained else [IGNORED] * len(ids))
        found.append(whole)
    return found


def _parts(tokenizer: Any, turns: Messages, end: str) -> Iterator[_Part]:
    """The rendering of a conversation, what is read and what is trained in turn."""
    roles = ", ".join(turn["role"] for turn in turns)
    if not turns or turns[-1]["role"] != "assistant":
        raise UserError(f"a conversation does not end with the assistant's turn, but with {roles or 'none'}")
    written = ""
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        answer = turn["content"].strip()
        prompt = _render(tokenizer, turns[:number], True)
        whole = _render(tokenizer, turns[: number + 1], False)
        if not (prompt.startswith(written) and whole.startswith(prompt)):
            raise _unfit("writes the prompt otherwise once there is an answer")
        rest = whole[len(prompt) :]
        start = rest.find(answer)
        if start < 0 or rest[:start].strip():
            raise _unfit(f"does not write the answer as it is given ({quoted(answer)} became {quoted(rest)})")
        stop = rest.find(end, start + len(answer))
        if stop < 0 or rest[start + len(answer) : stop].strip():
            raise _unfit(f"does not end the assistant's turn with {end} behind the answer, so a model would not stop")
        yield _Part(prompt[len(written) :], False)
        yield _Part(rest[: stop + len(end)], True)
        written = prompt + rest[: stop + len(end)]
    yield _Part(whole[len(written) :], False)


def _render(tokenizer: Any, turns: Messages, ask: bool) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(list(turns), add_generation_prompt=ask, tokenize=False)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise UserError(f"the model's chat template refuses turns of {roles}: {error}") from None
    return text


def _unfit(what: str) -> UserError:
    return UserError(
        f"the chat template {what}, so what is to be trained cannot be told apart; put {{% generation %}} and "
        "{% endgeneration %} around the assistant's turn in the model's chat_template.jinja"
    )
