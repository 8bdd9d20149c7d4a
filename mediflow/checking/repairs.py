"""Small repairs of an answer that need no second call. Pure: each finds the one thing that can be meant, or None."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mediflow.checking.validate import check_value, parse_json

_QUOTES = str.maketrans("‘’‛′“”„″‐‑‒–—\u00a0", "''''\"\"\"\"----- ")
_LETTERED = re.compile(r"\(?([A-Ha-h]|[1-9])[.):]?(?:\s+(.*))?", re.DOTALL)
_LEAD = re.compile(
    r"(?:the\s+)?(?:correct\s+|right\s+|best\s+|final\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*", re.I
)


def occurrences(text: str, within: str) -> list[tuple[int, int]]:
    """Where `text` stands, in order: as it is written, if anywhere, else in other spellings."""
    found = [match.span() for match in re.finditer(re.escape(text), within)] if text.strip() else []
    return [span for span in found if _is_whole(within, *span)] or _spellings(text, within)


def one_each(starts: Sequence[int], free: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """An occurrence for each of the places that were given, none twice, in their order; fewer where there are fewer.

    Each takes the nearest that is left; then they are dealt out in order, so that none passes another.
    """
    left, taken = list(free), []
    for start in starts[: len(free)]:
        taken.append(min(left, key=lambda span: abs(span[0] - start)))
        left.remove(taken[-1])
    return sorted(taken)


def _spellings(text: str, within: str) -> list[tuple[int, int]]:
    """Where it stands whatever its case, whitespace, quotes and dashes."""
    words = text.translate(_QUOTES).strip(" \"'.,;:").split()
    if not words:
        return []
    flat = within.translate(_QUOTES)  # one character for one, so that places stay
    pattern = r"\s+".join(map(re.escape, words))
    return [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", flat, re.IGNORECASE)]


def _is_whole(text: str, start: int, end: int) -> bool:
    """Not a part of a word or number; `500` in `500mg` is whole."""
    return not (_joined(text[start - 1 : start], text[start]) or _joined(text[end - 1], text[end : end + 1]))


def _joined(one: str, other: str) -> bool:
    return (one.isalpha() and other.isalpha()) or (one.isdigit() and other.isdigit())


def cut_object(text: str) -> str | None:
    """The one JSON object in a text with prose around it, or None where there is none or several."""
    found = []
    at = text.find("{")
    while at >= 0:
        end = _closes(text, at)
        if end is None:
            return None
        if parse_json(text[at:end]).reason is None:
            found.append(text[at:end])
        at = text.find("{", end)
    return found[0] if len(found) == 1 else None


def _closes(text: str, at: int) -> int | None:
    depth = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|[{}]', text[at:]):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth and match[0] == "}":
            return at + match.end()
    return None


def as_schema_asks(value: Any, schema: dict[str, Any]) -> tuple[Any, list[str]]:
    """The value with labels in the schema's own spelling and numbers as numbers, and what was changed."""
    done: list[str] = []
    return _as_asked(value, schema, done), done


def _as_asked(value: Any, schema: Any, done: list[str]) -> Any:
    if not isinstance(schema, dict) or check_value(value, schema) is None:
        return value
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        return {key: _as_asked(item, inner.get(key), done) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_asked(item, schema.get("items"), done) for item in value]
    for other in _other_forms(value, schema):
        if check_value(other, schema) is None:
            done.append(f"wrote {str(value)[:60]!r} as {other!r}")
            return other
    return value


def _other_forms(value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if isinstance(value, str):
        labels = [label for label in schema.get("enum", ()) if isinstance(label, str)]
        found = same_label(value, labels) if labels else None
        if found is not None:
            yield found
        if schema.get("type") in {"integer", "number"} and re.fullmatch(r"\s*-?\d+(?:\.\d+)?\s*", value):
            yield float(value) if "." in value else int(value)
        yield value.strip()
    elif isinstance(value, int | float) and not isinstance(value, bool) and schema.get("type") == "string":
        yield str(value)


def same_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that is meant: in another case, by letter or number, with prose around it; None where unclear."""
    said = _plain(text)
    plain = {_plain(label): label for label in labels}
    if said in plain:
        return plain[said]
    bare = _plain(_LEAD.sub("", said, count=1)) if _LEAD.match(said) else said
    if bare in plain:
        return plain[bare]
    match = _LETTERED.fullmatch(bare)
    if match and match[2] is None:
        place = int(match[1]) - 1 if match[1].isdigit() else ord(match[1].casefold()) - ord("a")
        return labels[place] if place < len(labels) else None
    if match and match[2] is not None and _plain(match[2]) in plain:
        return plain[_plain(match[2])]
    within = [label for label in labels if re.search(rf"(?<!\w){re.escape(_plain(label))}(?!\w)", said)]
    # "not A but B" and "A rather than B" name two; "A; B is wrong" too. Only one that stands alone is meant.
    longest = [
        label for label in within if not any(label != other and _plain(label) in _plain(other) for other in within)
    ]
    denied = re.search(r"\b(?:not|no|never|neither|except|isn't)\b", said)
    return longest[0] if len(longest) == 1 and not denied else None


def _plain(text: str) -> str:
    return " ".join(text.translate(_QUOTES).strip().strip("\"'`*.,;:").casefold().split())
