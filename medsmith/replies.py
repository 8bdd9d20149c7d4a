"""What the answer of a chat endpoint says, whatever its shape: text, reasoning, why there is no text, tokens used.

Servers differ in the shape of an answer and models in where they write their reasoning. All of it is brought to one
form here, before anything is kept: a text without reasoning and without halves of characters, the reasoning apart, and
one line where there is no text. Pure: no network, no files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from medsmith.chat import ChatError, ChatReply
from medsmith.records import encodable

REASONING = {"thinking", "reasoning", "reasoning_text", "summary_text", "redacted_thinking"}
"""Types of content parts that are no part of the answer."""
FILTERED = {"content_filter", "refusal", "safety"}
"""What `finish_reason` is where a provider stopped or withheld the answer."""
DEPTH = 8
"""Lists of parts inside parts; deeper is no answer."""

# <think> of DeepSeek and Qwen, its relatives, Magistral, Kimi, and the channels of gpt-oss.
_TAG = re.compile(
    r"<(/?)(?:think(?:ing)?|thoughts?|reasoning|seed:think)>|\[(/?)THINK\]|◁(/?)think▷"
    r"|<\|channel\|>(?:analysis<\|message\|>|(final)<\|message\|>)",
    re.IGNORECASE,
)
_END = re.compile(r"(?:<\|(?:return|end)\|>\s*)+\Z")

# A refusal speaks of helping or writing, at the beginning; a patient's "I'm unable to walk" does not.
REFUSAL = (
    r"(?i)\A\W*(?:(?:unfortunately|(?:i apologi[sz]e|(?:i(?:['’]m| am) )?(?:very |so |really )?sorry))\b"
    r"[^.!?\n]{0,40}?\W+(?:but )?)?(?:i|we)(?: (?:can[’']t|cannot|can not|won[’']t|will not|must decline|have to "
    r"decline|decline|refuse)|(?: am|['’]m|['’]re| are) (?:unable|not able|not allowed|not permitted))(?: to)?\b"
    r"[^.!?\n]{0,40}?\b(?:assist|help|provide|comply|fulfil+|answer|generate|create|produce|write|discuss|engage|do "
    r"(?:that|this|so))\b|\A.{0,160}\bas an ai\b"
)
"""Plain-text refusals, as a pattern that Python's and Rust's engines read alike."""
_REFUSAL = re.compile(REFUSAL)


class Said(NamedTuple):
    """One choice of an answer. `fault` says why it has no text."""

    text: str
    reasoning: str = ""
    finish: str = ""
    fault: str | None = None


class Used(NamedTuple):
    """Tokens of an answer."""

    prompt: int
    completion: int


def read_choice(choice: Mapping[str, Any]) -> Said:
    """One choice of a chat completion; its message is a JSON object."""
    message = choice["message"]
    parts = list(_parts(message.get("content"), "text"))
    thoughts = [text for kind, text in parts if kind == "reasoning"]
    beside = (_parts(message.get(name), "reasoning") for name in ("reasoning_content", "reasoning"))
    thoughts += [text for found in beside for _, text in found if text][:1]
    finish = choice.get("finish_reason")
    text = "".join(text for kind, text in parts if kind == "text")
    said = Said(text, "\n".join(thoughts), finish if isinstance(finish, str) else "")
    others = [text for kind, text in parts if kind == "other"]
    refusal = message.get("refusal")
    fault = None
    if said.finish.lower() in FILTERED:
        fault = f"stopped by the provider: finish_reason {said.finish}"
    elif said.text.strip():
        pass
    elif isinstance(refusal, str) and refusal.strip():
        fault = f"refused: {refusal}"
    elif message.get("tool_calls") or message.get("function_call"):
        fault = "it calls a tool in place of an answer; take tools out of extra_body"
    elif choice.get("error"):
        fault = f"the provider's error: {json.dumps(choice['error'])}"
    elif others:
        fault = f"no text but {others[0]}"
    return said if fault is None else Said("", said.reasoning, "refused", encodable(" ".join(fault.split()))[:300])


def _parts(content: Any, kind: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The texts of a content with their kinds: text, reasoning, or other, which tells what it is instead."""
    if content is None:
        return
    if isinstance(content, str):
        yield kind, content
    elif isinstance(content, list) and depth < DEPTH:
        for part in content:
            yield from _parts(part, kind, depth + 1)
    elif isinstance(content, dict) and depth < DEPTH:
        named = str(content.get("type", "text"))
        kind = "reasoning" if named in REASONING else kind
        keys = ("text", "value", "content", "thinking", "reasoning", "summary")
        inner = next((content[key] for key in keys if content.get(key) is not None), None)
        if inner is not None and (kind == "reasoning" or named in ("text", "output_text")):
            yield from _parts(inner, kind, depth + 1)
        elif kind != "reasoning":
            yield "other", f"a part of type {named[:40]!r}: {content.get('refusal') or ''}"
    else:
        yield "other", f"a {type(content).__name__}"


def reply_of(
    said: Sequence[Said], used: Used | None, model: str, *, attempts: int = 1, seconds: float = 0.0, cost: float = 0.0
) -> ChatReply | ChatError:
    """The choices as one reply, in which a choice without a text is empty; an error where all of them are."""
    if all(one.fault for one in said):
        return ChatError(str(said[0].fault), final=True, attempts=attempts, cost=cost)
    usage = {} if used is None else {"prompt_tokens": used.prompt, "completion_tokens": used.completion}
    texts, finish = [one.text for one in said], [one.finish for one in said]
    reasoning = [one.reasoning for one in said]
    return ChatReply(texts, usage, encodable(model), attempts, seconds, finish, cost, reasoning)


def settle(reply: ChatReply, max_tokens: int | None = None) -> ChatReply | ChatError:
    """The reply of any engine with its reasoning apart and its texts encodable; an error where nothing else is left."""
    split = [split_reasoning(encodable(text)) for text in reply.texts]
    texts = [text for text, _ in split]
    given = [*reply.reasoning, *[""] * (len(split) - len(reply.reasoning))]
    thoughts = [
        "\n".join(part for part in (encodable(first), second) if part)
        for first, (_, second) in zip(given, split, strict=True)
    ]
    if not any(thoughts):
        return reply if texts == reply.texts else replace(reply, texts=texts, reasoning=[])
    if not any(text.strip() for text in texts):
        reason = "it wrote its reasoning and no answer"
        if "length" in reply.finish:
            limit = "" if max_tokens is None else f"={max_tokens}"
            reason += f", cut at max_tokens{limit}: raise it, or turn reasoning off in extra_body"
        return ChatError(reason, final=True, attempts=reply.attempts, cost=reply.cost)
    return replace(reply, texts=texts, reasoning=thoughts)


def split_reasoning(text: str) -> tuple[str, str]:
    """The answer, and what was thought: between tags, before a closing tag, or behind one that is never closed.

    Templates may write the opening tag into the prompt, so that all before a closing one is reasoning.
    """
    if _TAG.search(text) is None:
        return text, ""
    answer: list[str] = []
    thoughts: list[str] = []
    inside, place = False, 0
    for tag in _TAG.finditer(text):
        piece, place = text[place : tag.start()], tag.end()
        if any(tag.groups()):
            thoughts += [piece] if inside else [*answer, piece]
            answer = answer if inside else []
            inside = False
        else:
            (thoughts if inside else answer).append(piece)
            inside = True
    (thoughts if inside else answer).append(text[place:])
    return _END.sub("", "".join(answer)).strip(), "\n".join(part.strip() for part in thoughts if part.strip())


def read_usage(usage: Any) -> Used | None:
    """The tokens that an answer says it used; None where it does not say it, or says nothing that is a number."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = (whole_number(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    return Used(prompt, completion) if prompt and completion is not None else None


def whole_number(value: Any) -> int | None:
    """A count as an endpoint or a user may write it (12, 12.0, "12"); None for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and 0 <= number < 1e15 else None


def mend_row(row: dict[str, Any]) -> dict[str, Any]:
    """A journal's row of an earlier version, which kept what came as it came, as one of today's."""
    texts, finish = row.get("texts"), row.get("finish") or []
    if isinstance(texts, list) and texts:
        ends = [*finish, *[""] * len(texts)]
        said = [read_choice({"message": {"content": t}, "finish_reason": e}) for t, e in zip(texts, ends, strict=False)]
        reply = reply_of(said, read_usage(row.get("usage")), str(row.get("model")))
        reply = settle(reply) if isinstance(reply, ChatReply) else reply
        if isinstance(reply, ChatError):
            return row | {"texts": None, "error": str(reply), "usage": {}, "finish": []}
        kept = {"reasoning": reply.reasoning} if any(reply.reasoning) else {}
        row = row | {"texts": reply.texts, "finish": reply.finish, "usage": reply.usage} | kept
    return row


def is_refusal(text: str) -> bool:
    """Whether a text declines to answer, by its first 200 characters."""
    return _REFUSAL.search(text[:200]) is not None


def cut_note(row: Mapping[str, Any], number: int = 0) -> str:
    """` (cut at max_tokens=…)` where a journal row's text was; else nothing."""
    if row["finish"][number : number + 1] != ["length"]:
        return ""
    limit = (row.get("request") or {}).get("max_tokens")
    return f" (cut at max_tokens{'' if limit is None else f'={limit}'}; raise it)"
