"""The simulated teacher's wrong facts: examples about a patient of whom one fact was altered, and a note of which."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mediflow.clinic.patients import patient_from_facts
from mediflow.clinic.plant import Planted, plant

TRIES = 6
"""Facts that are altered in turn until the example states one; a short document holds few."""

Answer = Callable[[dict[str, Any], int], str]
_EXAMPLE = re.compile(r"<example>(.*?)</example>", re.DOTALL)


def answer_wrongly(
    answer: Answer, request: dict[str, Any], seed: int, share: float, rng: random.Random
) -> tuple[str, list[dict[str, Any]]]:
    """The answer to a request of kind generate with `share` of its examples wrong, and what is wrong in which.

    Each row of the second is {example, facts_id, kind, true, said, stated}; the example is its place in the reply, from
    0, and `stated` False where no altered fact would show in its text.
    """
    text = answer(request, seed)
    facts = request.get("facts") or []
    slots = request.get("instructions", 1) * request["examples"]
    rows = []
    altered: dict[str, Any] = {}
    swaps: dict[int, Planted] = {}
    for slot in range(slots if facts else 0):
        if rng.random() >= share:
            continue
        own = facts[slot % request["examples"] % len(facts)]
        patient = patient_from_facts(own)
        for _ in range(TRIES):
            other, planted = plant(patient, rng)
            changed = request | {"altered": altered | {str(slot): json.loads(json.dumps(other.facts()))}}
            written = answer(changed, seed)
            for place, one in (swaps | {slot: planted}).items():
                written = _swap(written, place, one)
            before, after = _examples(text), _examples(written)
            stated = after[slot] != before[slot] and _shows(planted, after[slot])
            if stated:
                altered, text = changed["altered"], written
                swaps[slot] = planted
                break
        row = {key: value for key, value in asdict(planted).items() if key in {"kind", "true", "said"}}
        rows.append({"example": slot, "facts_id": own["id"], **row, "stated": stated})
    return text, rows


def _shows(planted: Planted, text: str) -> bool:
    return not planted.marks or any(mark in text for mark in planted.marks)


def _examples(text: str) -> list[str]:
    """The examples of a reply in its order, tagged or JSON."""
    if not text.startswith("{"):
        return _EXAMPLE.findall(text)
    groups = json.loads(text)["instructions"]
    return [json.dumps(example, ensure_ascii=False) for group in groups for example in group["examples"]]


def _swap(text: str, slot: int, planted: Planted) -> str:
    """The reply with what the altered state could not change put into the one example."""
    examples = _examples(text)
    if planted.swap is None or slot >= len(examples):
        return text
    if not text.startswith("{"):
        parts = list(_EXAMPLE.finditer(text))
        start, end = parts[slot].span(1)
        return text[:start] + planted.apply(text[start:end]) + text[end:]
    reply = json.loads(text)
    holders = [group["examples"] for group in reply["instructions"]]
    at = [(group, number) for group in holders for number in range(len(group))][slot]
    at[0][at[1]] = json.loads(planted.apply(examples[slot]))
    return json.dumps(reply, ensure_ascii=False)
