"""What the benchmarks of the protocol `clue` share: prompts that are files, and examples out of the test split."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from eval.benchmark import Item, Loaded, ask
from medsmith.config import Block, load
from medsmith.errors import UserError

FOLDER = Path(__file__).parent / "prompts"
SEED = 1
"""Of the order of the test items, as published."""
ROUNDING = "means of the components are rounded to 0.01 before they are averaged, as published"
TWICE = "the first item that is scored counts twice, as published"


class Prompt(Block):
    """A file of eval/clue/prompts."""

    wording: str = Field(description="where the words are from")
    system: str
    user: str = Field("{question}", description="the user's turn; {question} is that of the strict benchmark")


@functools.cache
def load_prompt(name: str) -> Prompt:
    """The prompt of a benchmark."""
    return load(Prompt, FOLDER / f"{name}.yml")


def filled(template: str, **fields: str) -> str:
    """A template with its fields; braces in the fields, and others in the template, stay as they are."""
    at = sorted((template.index(f"{{{name}}}"), name) for name in fields)
    parts, end = [], 0
    for start, name in at:
        parts += [template[end:start], fields[name]]
        end = start + len(name) + 2
    return "".join([*parts, template[end:]])


def prompted(
    found: Loaded, name: str, fields: Callable[[str], dict[str, str]] = lambda user: {"question": user}, **notes: Any
) -> Loaded:
    """The items of the strict benchmark, asked in the protocol's words; where these are from is noted.

    `fields` takes the strict benchmark's turn apart, where the prompt has other places for its parts.
    """
    prompt = load_prompt(name)
    items = [
        replace(item, messages=ask(prompt.system, filled(prompt.user, **fields(item.messages[-1]["content"]))))
        for item in found.items
    ]
    return Loaded(items, found.dropped, {**found.notes, "prompt wording": prompt.wording, **notes})


def shuffled(items: Sequence[Item]) -> list[Item]:
    """The published order: that of random.seed(1) and random.shuffle, with a generator of its own."""
    order = list(items)
    random.Random(SEED).shuffle(order)
    return order


def with_examples(items: Sequence[Item], examples: Sequence[Item]) -> list[Item]:
    """Every item behind the same solved examples, in their order."""
    turns = [turn for one in examples for turn in (one.messages[-1], {"role": "assistant", "content": one.gold})]
    return [replace(item, messages=[item.messages[0], *turns, *item.messages[1:]]) for item in items]


def shots_from_test(items: Sequence[Item], shots: int) -> list[Item]:
    """The first items of the published order are examples for the others, and are not scored."""
    if shots >= len(items):
        raise UserError(f"{shots} shots of {len(items)} test items leave none to score; ask for fewer")
    order = shuffled(items)
    return with_examples(order[shots:], order[:shots])


def first_counts_twice(items: Sequence[Item]) -> list[Item]:
    """The published running average stores its first scores twice."""
    return [replace(item, weight=2) if number == 0 else item for number, item in enumerate(items)]
