"""What the examples are about: patients of the simulated clinic or of a file, passages of the user's own, or nothing.

A source is asked by the place of a call and gives the same again: nothing of it has to be kept or passed on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mediflow.checking.facts import as_facts
from mediflow.generation.passages import Passage
from medsmith.errors import UserError
from medsmith.records import read_jsonl

LATER_ROUNDS = 1_000_000_000
"""The first number of a patient drawn for round 1; those of the plan lie below, whatever its length."""

Grounding = Literal["patients", "none"]
Kind = Literal["facts", "passages", "none"]


@dataclass(frozen=True)
class Material:
    """What the examples of one call are about, one entry an example."""

    kind: Kind
    examples: int
    facts: Sequence[dict[str, Any]] = ()
    passages: Sequence[Passage] = ()

    def about(self, slot: int) -> tuple[str, dict[str, Any]]:
        """Id and facts of one entry, as facts.jsonl keeps them; of a passage where it is from."""
        if self.kind == "facts":
            return str(self.facts[slot]["id"]), self.facts[slot]
        return self.passages[slot].id, dict(self.passages[slot].origin())


class Source(Protocol):
    """Whatever gives calls their material."""

    kind: Kind

    def material(self, place: tuple[int, int], count: int) -> Material:
        """The material of the call at (round, number)."""
        ...


class Nothing:
    """No material: the teacher invents its patients, as in the paper."""

    kind: Kind = "none"

    def material(self, place: tuple[int, int], count: int) -> Material:
        """None."""
        return Material("none", count)


class Clinic:
    """Patients of the simulated clinic, another one for each example."""

    kind: Kind = "facts"

    def __init__(self, seed: int, most: int) -> None:
        """`most` is the most examples of a planned call."""
        self.seed = seed
        self.most = most

    def material(self, place: tuple[int, int], count: int) -> Material:
        """The next patients."""
        import orjson

        from mediflow.clinic.patients import draw_patient

        first = _first(place, self.most)
        patients = [draw_patient(self.seed, first + number) for number in range(count)]
        # As JSON would give it back, so that drawn patients equal those from a file (and 20 times as fast as asdict).
        return Material("facts", count, [orjson.loads(orjson.dumps(patient)) for patient in patients])


class Listed:
    """Given entries in their order, again from the start where there are too few."""

    def __init__(self, kind: Kind, entries: Sequence[Any], most: int) -> None:
        """`entries` are facts or passages."""
        self.kind = kind
        self.entries = entries
        self.most = most

    def material(self, place: tuple[int, int], count: int) -> Material:
        """The next entries; later rounds start elsewhere."""
        # A step that shares no factor with most lengths, so that a refill is about something else.
        first = place[1] * self.most + place[0] * 7919
        chosen = [self.entries[(first + number) % len(self.entries)] for number in range(count)]
        if self.kind == "facts":
            return Material("facts", count, facts=chosen)
        return Material("passages", count, passages=chosen)


def _first(place: tuple[int, int], most: int) -> int:
    turn, number = place
    # A refill may want a few more examples than a planned call.
    return number * most if turn == 0 else (turn * LATER_ROUNDS) + number * 2 * most


def read_facts(path: Path) -> list[dict[str, Any]]:
    """Patients' facts: Parquet with a column `facts` of JSON texts (mediflow.simulate), or JSON Lines of objects.

    Raises:
        UserError: no facts there, or facts without an id.
    """
    if path.suffix == ".parquet":
        import polars

        table = polars.read_parquet(path)
        if "facts" not in table.columns or table.is_empty():
            raise UserError(f"{path} has no rows with a column 'facts'; make it with mediflow.simulate")
        known = [json.loads(text) for text in table["facts"]]
    else:
        known = list(read_jsonl(path))
        if not known:
            raise UserError(f"{path} holds no patient; give a JSON object with an id a line")
    for number, facts in enumerate(known, 1):
        if not isinstance(facts, dict) or not facts.get("id"):
            raise UserError(f"{path} row {number}: facts without an id; give each patient one")
        try:
            as_facts(facts)
        except (UserError, KeyError) as error:
            raise UserError(f"{path} row {number}: {error}") from None
    if len({str(facts["id"]) for facts in known}) < len(known):
        raise UserError(f"{path}: two patients have one id; give each their own")
    return known
