"""One call of the generator: which cell, how many instructions and examples, its prompt, its repair, its teacher.

A call is known by its number in the plan and its round (0 is the plan; later rounds fill what the earlier left short).
Everything here is a function of the settings and these two, so that a restart builds the same requests again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from mediflow.generation.readings import Form, Reading
from mediflow.generation.sources import Material, Source
from mediflow.prompt import render_block, request_block
from mediflow.taxonomy import WHOLE, Cell, Taxonomy, iter_plan
from medsmith.llm import ChatRequest, Message, TeacherConfig

if TYPE_CHECKING:
    from mediflow.generate import Config

GOLDEN = 0.6180339887498949
"""Its multiples spread evenly over the unit interval: any stretch of calls has nearly the teachers' shares."""

PROMPTS_KEPT = 1 << 15
"""All cells of the taxonomy without their data: 14 tasks, 98 inputs, six levels, two formats; some 3 kB each."""


class Place(NamedTuple):
    """Where a call stands: rounds are admitted one after the other, and within a round by number."""

    round: int
    number: int


@dataclass(frozen=True, slots=True)
class Call:
    """So many instructions with so many examples each about one cell. `wanted` is the records that count for it."""

    place: Place
    cell: Cell
    instructions: int
    examples: int
    wanted: int
    parent: str | None = None


class Calls:
    """Builds the calls of a run."""

    def __init__(self, config: Config, taxonomy: Taxonomy, source: Source) -> None:
        """`source` is what the examples are about."""
        self.config = config
        self.taxonomy = taxonomy
        self.source = source
        self.teachers = [config.teacher, *config.more_teachers]
        shares = [teacher.share for teacher in self.teachers]
        self._until = [part / sum(shares) for part in accumulate(shares)]
        self._sizes = [config.examples] if isinstance(config.examples, int) else config.examples
        self._prompt = lru_cache(maxsize=PROMPTS_KEPT)(self._render)
        self._form = lru_cache(maxsize=None)(self._build_form)

    @property
    def planned(self) -> int:
        """How many calls the plan has."""
        return -(-self.config.instructions // self.config.per_call)

    def plan(self) -> Iterator[Call]:
        """The calls of round 0, in order."""
        weights = self.config.weights
        for cell in islice(iter_plan(self.taxonomy, self.config.seed, weights), self.planned):
            yield self.first(cell)

    def first(self, cell: Cell) -> Call:
        """The planned call of a cell."""
        sizes = self._sizes
        drawn = random.Random(f"examples {self.config.seed} {cell.number}").choice(sizes) if sizes[1:] else sizes[0]
        wanted = self.config.per_call * drawn
        return Call(Place(0, cell.number), cell, self.config.per_call, drawn, wanted)

    def refill(self, call: Call, short: int, parent: str) -> Call:
        """The call of the next round for the `short` records that one has left; its own round's last is too many."""
        instructions = max(1, round(short / call.examples)) if call.instructions > 1 else 1
        place = Place(call.place.round + 1, call.place.number)
        return Call(place, call.cell, instructions, -(-short // instructions), short, parent)

    def teacher(self, place: Place) -> TeacherConfig:
        """Whose a call is; a later round goes to another teacher sooner or later."""
        if len(self.teachers) == 1:
            return self.teachers[0]
        point = ((place.number + 0.5) * GOLDEN + place.round * (1 - GOLDEN)) % 1
        return next((self.teachers[n] for n, until in enumerate(self._until) if point < until), self.teachers[-1])

    def form(self, call: Call) -> Form:
        """How the call's reply is to be read."""
        return self._form(call.cell.task_type, call.cell.output_format)

    def material(self, call: Call) -> Material:
        """What the examples are about; the instructions of a call share it, or its prompt would be mostly facts."""
        return self.source.material(call.place, call.examples)

    def request(self, call: Call, material: Material) -> ChatRequest:
        """The call's request. Its place tells apart what would else be equal requests."""
        cell = call.cell
        name = (cell.task_type, cell.document_type, cell.section, cell.output_format, cell.difficulty)
        system, user = self._prompt(*name, call.instructions, call.examples)
        asked = self.asked(call, material)
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": f"{user}\n\n{request_block(asked)}"},
        ]
        about = {**cell.__dict__, "round": call.place.round}
        return self._request(call, messages, call.place.number + (call.place.round << 40), about)

    def asked(self, call: Call, material: Material) -> dict[str, Any]:
        """The request as data, at the end of the prompt."""
        cell = call.cell
        asked: dict[str, Any] = {
            "kind": "generate",
            "task_type": cell.task_type,
            "document_type": cell.document_type,
            "section": cell.section,
            "output_format": cell.output_format,
            "difficulty": cell.difficulty,
            "instructions": call.instructions,
            "examples": call.examples,
            "reply": self.config.reply,
        }
        if material.facts:
            asked["facts"] = material.facts
        if material.passages:
            asked["passages"] = [passage.text for passage in material.passages]
        if material.kind == "none":
            # Nothing else tells the calls of one cell apart, and the same words invite the same answer.
            asked["variant"] = f"{call.place.number}.{call.place.round}"
        return asked

    def repair(self, call: Call, request_messages: list[Message], text: str, reading: Reading) -> ChatRequest | None:
        """The one second try of a call whose reply has faults, with the faults named; None where it has none.

        Of several instructions only those with faults are asked for again.
        """
        problems = reading.problems()
        if not problems:
            return None
        again = [number + 1 for number in reading.broken_groups()] if len(reading.groups) > 1 else []
        messages = [
            *request_messages,
            # Some endpoints refuse an empty assistant message.
            {"role": "assistant", "content": text or "(nothing)"},
            {"role": "user", "content": render_block("generate", "repair", problems=problems, again=again)},
        ]
        place = call.place
        about = {"repairs_number": place.number, "round": place.round, "problems": problems}
        return self._request(call, messages, place.number + (place.round << 40), about)

    def _request(self, call: Call, messages: list[Message], sample: int, about: dict[str, Any]) -> ChatRequest:
        return self.teacher(call.place).request(
            messages,
            temperature=call.cell.temperature,
            max_tokens=self.config.max_tokens,
            response_schema=self.form(call).reply_schema,
            sample=sample,
            about=about,
        )

    def _render(
        self, task: str, document: str, section: str, output_format: str, difficulty: str, count: int, examples: int
    ) -> tuple[str, str]:
        own = self.taxonomy.tasks[task]
        values: dict[str, Any] = {
            "task": own,
            "document": self.taxonomy.documents[document],
            "section": None if section == WHOLE else section,
            "schema": json.dumps(own.schema) if output_format == "json" else None,
            "difficulty": difficulty,
            "instructions": count,
            "count": examples,
            "material": self.source.kind,
            "reply": self.config.reply,
        }
        return render_block("generate", "system", **values), render_block("generate", "user", **values)

    def _build_form(self, task: str, output_format: str) -> Form:
        inputs = self.source.kind != "passages"
        return Form(self.taxonomy.tasks[task], output_format, self.config.reply, inputs, self.config.max_contradicted)
