"""What a task's answer must hold beyond its schema, and what can be put right without asking again.

A task's YAML lists its checks, each with the place in the JSON answer that it is about:

    checks: [{check: spans, at: entities}, {check: in_input, at: relations.drug, split: ";"}]

spans            objects {text, start, end}: `text` stands in the input from `start` to `end`; each in its own place
in_input         the strings stand in the input, word for word
icd10cm          ICD-10-CM codes that exist
option           one of the options that the input lists as `- x`
sentence_number  the number of a sentence that the input numbers, or -1
shorter, longer  than the input, in words
differs          from the input
range            a number from `low` to `high`

A plain-text answer is cut at `split` (one string, or several one after the other) where it names several things. Where
the JSON form has several keys and no `split` tells them apart in plain text, in_input says nothing about plain text.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mediflow.checking.codes import as_icd10cm, find_icd10cm
from mediflow.checking.repairs import as_schema_asks, cut_object, occurrences, one_each, same_label
from mediflow.checking.validate import parse_json, read_json_text
from mediflow.generation.parse import strip_fence
from mediflow.taxonomy import TaskType
from medsmith.errors import UserError

NONE = "none"
"""What a plain-text list says that has nothing in it."""


@dataclass(frozen=True)
class Checked:
    """An answer as it may be used, what is wrong with it still (a line each), and what was put right."""

    output: str
    faults: list[str]
    repairs: list[str]


@dataclass
class _Answer:
    """One answer under way: `value` is the parsed JSON, or for plain text the text itself."""

    input: str
    value: Any
    plain: bool
    faults: list[str]
    repairs: list[str]
    keys: int

    def texts(self, check: dict[str, Any]) -> list[_Place]:
        """What the check is about, each with how to replace it."""
        if not self.plain:
            return list(_places(self.value, check.get("at", "")))
        parts = [self.value.strip()]
        split = check.get("split", ())
        for mark in (split,) if isinstance(split, str) else split:
            parts = [part.strip() for text in parts for part in text.split(mark)]
        if split:
            parts = [part for part in parts if part and part.rstrip(".").casefold() != NONE]
        return [_Place(part, self._replacer(part)) for part in parts]

    def _replacer(self, old: str) -> Callable[[Any], None]:
        def replace(new: Any) -> None:
            self.value = self.value.replace(old, str(new), 1)

        return replace


@dataclass(frozen=True)
class _Place:
    value: Any
    replace: Callable[[Any], None]


def check_example(task: TaskType, output_format: str, input: str, output: str) -> Checked:
    """Check one answer against the schema (JSON) and the checks of its task; the output may come back repaired.

    Raises:
        UserError: the task's checks are not of the vocabulary, or the table of codes is not installed.
    """
    repairs: list[str] = []
    if output_format == "json":
        value, reason = read_json_text(output, task.schema)
        if reason is not None:
            value, done = _repair_json(task.schema, output, input, task.checks)
            if done is None:
                return Checked(output, [reason], [])
            repairs += done
    else:
        value = strip_fence(output)
    answer = _Answer(input, value, output_format != "json", [], repairs, len(task.schema.get("properties", ())))
    if answer.plain:
        _plain_label(answer, task.schema)
    for check in task.checks:
        _checker(task.name, check)[0](answer, check)
    if not answer.repairs:
        return Checked(output, answer.faults, [])
    text = answer.value if answer.plain else json.dumps(answer.value, ensure_ascii=False)
    if not answer.plain and not answer.faults:
        reason = read_json_text(text, task.schema).reason
        assert reason is None, f"a repair broke the schema: {reason}"
    return Checked(text, answer.faults, answer.repairs)


def check_vocabulary(task: TaskType) -> None:
    """Refuse checks that do not exist, settings that they do not take, and places that the task's schema lacks.

    Raises:
        UserError: with the task's file and the nearest name.
    """
    for check in task.checks:
        name = check.get("check")
        _, known, needed = _checker(task.name, check)
        for key in check:
            if key not in {"check", *known}:
                raise UserError(f"{_file(task.name)}: check {name} takes no '{key}'; {_nearest(key, known)}")
        for key in needed:
            if key not in check:
                raise UserError(f"{_file(task.name)}: check {name} needs '{key}'")
        at = check.get("at")
        if at is not None:
            _walk_schema(task, at)


def _walk_schema(task: TaskType, at: str) -> None:
    schema: dict[str, Any] = task.schema
    for part in at.replace("[]", "").split("."):
        schema = _items(schema)
        properties = schema.get("properties", {})
        if part not in properties:
            hint = _nearest(part, sorted(properties))
            raise UserError(f"{_file(task.name)}: the schema has no '{at}'; {hint}")
        schema = properties[part]


def _items(schema: dict[str, Any]) -> dict[str, Any]:
    while schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        schema = schema["items"]
    return schema


def _checker(task: str, check: dict[str, Any]) -> _Checker:
    name = str(check.get("check"))
    if name not in CHECKS:
        raise UserError(f"{_file(task)}: no check '{name}'; {_nearest(name, sorted(CHECKS))}")
    return CHECKS[name]


def _file(task: str) -> str:
    return f"mediflow/tasks/{task}.yml"


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def _repair_json(
    schema: dict[str, Any], output: str, input: str, checks: tuple[dict[str, Any], ...]
) -> tuple[Any, list[str] | None]:
    """The value of a JSON answer whose fault needs no teacher: prose around it, a label's case, a number as text."""
    done: list[str] = []
    value, reason = parse_json(output)
    if reason is not None:
        inner = cut_object(output)
        if inner is None:
            return None, None
        value = parse_json(inner).value
        done.append("took the JSON out of the text around it")
    value, changed = as_schema_asks(value, schema)
    done += changed
    spans = [check["at"] for check in checks if check["check"] == "spans"]
    for at in spans:
        done += _add_offsets(value, at, input)
    fits = read_json_text(json.dumps(value, ensure_ascii=False), schema).reason is None
    return (value, done) if fits and done else (None, None)


def _add_offsets(value: Any, at: str, input: str) -> list[str]:
    """Entities without offsets, or given as bare strings where the schema wants objects, get what can be found."""
    done = []
    for place in _places(value, at):
        if isinstance(place.value, dict) and "text" in place.value and not {"start", "end"} <= set(place.value):
            # The first place for all of the same text: the check of spans moves all but one of them on.
            for start, end in occurrences(str(place.value["text"]), input)[:1]:
                place.value.update(start=start, end=end)
                done.append(f"found where '{place.value['text'][:60]}' stands")
    return done


def _plain_label(answer: _Answer, schema: dict[str, Any]) -> None:
    """Where the JSON form knows only certain labels, so does the plain one."""
    properties = list(schema.get("properties", {}).values())
    labels = properties[0].get("enum") if len(properties) == 1 else None
    if not labels or answer.value in labels or not all(isinstance(label, str) for label in labels):
        return
    found = same_label(answer.value, labels)
    if found is None:
        answer.faults.append(f"'{answer.value[:80]}' is none of {', '.join(labels)}")
    else:
        answer.repairs.append(f"took '{answer.value[:60]}' for '{found}'")
        answer.value = found


def _places(value: Any, at: str) -> list[_Place]:
    """The leaves at a path of keys; a list on the way means each of its items."""
    parts = [part for part in at.replace("[]", "").split(".") if part]
    if not parts and isinstance(value, dict) and len(value) == 1:
        parts = list(value)
    return _descend(value, parts, lambda new: None)


def _descend(value: Any, parts: list[str], replace: Callable[[Any], None]) -> list[_Place]:
    if isinstance(value, list):
        return [
            place for number, item in enumerate(value) for place in _descend(item, parts, partial(_set, value, number))
        ]
    if not parts:
        return [_Place(value, replace)]
    if isinstance(value, dict) and parts[0] in value:
        return _descend(value[parts[0]], parts[1:], partial(_set, value, parts[0]))
    return []


def _set(holder: Any, key: Any, new: Any) -> None:
    holder[key] = new


def _spans(answer: _Answer, check: dict[str, Any]) -> None:
    if answer.plain:
        _in_input(answer, check)
        return
    taken: set[tuple[int, int]] = set()
    named: set[tuple[tuple[int, int], str]] = set()
    astray: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entity in (place.value for place in answer.texts(check)):
        # What tells entities of one span apart: their label, say.
        rest = json.dumps({key: entity[key] for key in entity if key not in ("text", "start", "end")}, sort_keys=True)
        span = entity["start"], entity["end"]
        right = 0 <= span[0] < span[1] and answer.input[span[0] : span[1]] == entity["text"]
        if right and (span, rest) not in named:
            taken.add(span)
            named.add((span, rest))
        else:
            astray.setdefault((entity["text"], rest), []).append(entity)
    for (text, rest), entities in astray.items():
        places = occurrences(text, answer.input)
        if not places:
            answer.faults.append(f"'{text[:80]}' does not stand in the input")
            continue
        entities.sort(key=lambda entity: int(entity["start"]))
        free = [span for span in places if span not in taken]
        if len(free) < len(entities):
            free = [span for span in places if (span, rest) not in named]
        if len(free) < len(entities):
            answer.faults.append(f"'{text[:80]}' is named more often than it stands in the input")
        found = one_each([int(entity["start"]) for entity in entities], free)
        taken.update(found)
        named.update((span, rest) for span in found)
        for entity, (start, end) in zip(entities, found, strict=False):
            spelling = answer.input[start:end]
            if spelling != text:
                answer.repairs.append(f"spelled '{text[:60]}' as the input does")
            if (entity["start"], entity["end"]) != (start, end):
                answer.repairs.append(f"moved '{spelling[:60]}' to {start}")
            entity.update(text=spelling, start=start, end=end)


def _in_input(answer: _Answer, check: dict[str, Any]) -> None:
    if answer.plain and answer.keys > 1 and "split" not in check:
        return
    for place in answer.texts(check):
        text = str(place.value)
        found = occurrences(text, answer.input)
        if not found:
            answer.faults.append(f"'{text[:80]}' does not stand in the input")
        elif (spelling := answer.input[slice(*found[0])]) != text:
            place.replace(spelling)
            answer.repairs.append(f"spelled '{text[:60]}' as the input does")


def _icd10cm(answer: _Answer, check: dict[str, Any]) -> None:
    places = answer.texts(check)
    if answer.plain:
        places = [_Place(text, answer._replacer(text)) for text in find_icd10cm(answer.value)]
        if not places and answer.value.strip().rstrip(".").casefold() != NONE:
            answer.faults.append("no ICD-10-CM code in the answer")
    for place in places:
        code = as_icd10cm(str(place.value))
        if code is None:
            answer.faults.append(f"'{str(place.value)[:40]}' is no ICD-10-CM code")
        elif code != place.value:
            place.replace(code)
            answer.repairs.append(f"wrote {place.value} as {code}")


def _option(answer: _Answer, check: dict[str, Any]) -> None:
    listed = re.findall(r"^\s*(?:[-*•]|\(?[A-Ha-h1-9][.)])\s+(.+?)\s*$", answer.input, re.MULTILINE)
    options = _last_list(answer.input) or listed
    for place in answer.texts(check):
        text = str(place.value)
        if text in options:
            continue
        found = same_label(text, options)
        if found is None:
            answer.faults.append(f"'{text[:80]}' is none of the options")
            continue
        if answer.plain:
            answer.value = found
        else:
            place.replace(found)
        answer.repairs.append(f"took '{text[:60]}' for the option '{found[:60]}'")


def _last_list(input: str) -> list[str]:
    """The options: the last run of lines `- x` in the input; a list in the document above is none."""
    lines = input.rstrip().splitlines()
    options: list[str] = []
    for line in reversed(lines):
        match = re.match(r"\s*- (.+?)\s*$", line)
        if match:
            options.insert(0, match[1])
        elif options:
            break
    return options


def _sentence_number(answer: _Answer, check: dict[str, Any]) -> None:
    known = {int(number) for number in re.findall(r"^\s*\[?(\d+)[\].):]?\s", answer.input, re.MULTILINE)}
    for place in answer.texts(check):
        number = place.value
        if answer.plain:
            found = re.findall(r"-?\b\d+\b", number)
            if len(set(found)) != 1:
                answer.faults.append(f"'{str(number)[:80]}' is not one sentence number")
                continue
            if found[0] != number:
                answer.value = found[0]
                answer.repairs.append(f"took the number out of '{str(number)[:60]}'")
            number = int(found[0])
        if number != -1 and number not in known:
            answer.faults.append(f"the input numbers no sentence {number}")


def _length(answer: _Answer, check: dict[str, Any]) -> None:
    words = len(" ".join(str(place.value) for place in answer.texts(check)).split())
    limit = len(answer.input.split())
    shorter = check["check"] == "shorter"
    if (words >= limit) if shorter else (words <= limit):
        answer.faults.append(f"{words} words where the input has {limit}: not {check['check']}")


def _differs(answer: _Answer, check: dict[str, Any]) -> None:
    said = " ".join(str(place.value) for place in answer.texts(check))
    if said.casefold().split() == answer.input.casefold().split():
        answer.faults.append("the answer is the input again")


def _range(answer: _Answer, check: dict[str, Any]) -> None:
    low, high = check["low"], check["high"]
    for place in answer.texts(check):
        number = place.value
        if answer.plain:
            match = re.search(r"-?\d+(?:\.\d+)?", number)
            number = float(match[0]) if match else None
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
            answer.faults.append(f"'{str(place.value)[:40]}' is not from {low} to {high}")


_Checker = tuple[Callable[[_Answer, dict[str, Any]], None], tuple[str, ...], tuple[str, ...]]

# What does it, the settings it takes, and those it needs.
CHECKS: dict[str, _Checker] = {
    "spans": (_spans, ("at", "split"), ("at",)),
    "in_input": (_in_input, ("at", "split"), ("at",)),
    "icd10cm": (_icd10cm, ("at", "split"), ("at",)),
    "option": (_option, ("at",), ()),
    "sentence_number": (_sentence_number, ("at",), ()),
    "shorter": (_length, ("at",), ()),
    "longer": (_length, ("at",), ()),
    "differs": (_differs, ("at",), ()),
    "range": (_range, ("at", "low", "high"), ("low", "high")),
}
