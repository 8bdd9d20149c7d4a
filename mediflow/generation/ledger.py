"""The books of a run: accepted rows, one ledger line a record, the facts, and what every cell of the plan came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from mediflow.generation.admission import Admitted, Look, NearRepeats
from mediflow.generation.calls import Call
from mediflow.generation.readings import FAILED, GOOD, Reading, Record
from mediflow.generation.sources import Material
from mediflow.taxonomy import Taxonomy, input_name
from medsmith.records import PartWriter, content_id, to_line, write_json

AXES = ("task_type", "input_data", "output_format", "difficulty_level")


@dataclass
class Outcome:
    """What came of one call and its repair. `call_id` is the first request's; the cost is that of both."""

    call: Call
    material: Material
    reading: Reading
    call_id: str
    repair_id: str | None
    teacher: str
    model: str | None
    cost: float


@dataclass
class Cell:
    """Records of one cell of the coverage: wanted by the plan, accepted, and the reasons of those that were not."""

    planned: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass
class Tally:
    """What is counted: calls and records. `records` counts them as they come in, the next three as they go out."""

    calls: int = 0
    calls_parsed: int = 0
    calls_failed: int = 0
    repairs: int = 0
    refills: int = 0
    records: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    instructions: int = 0
    facts_checked: int = 0
    facts_contradicted: int = 0
    mended: int = 0


class Books:
    """Admits outcomes, in the order in which they are given, and writes everything down. A context manager."""

    def __init__(self, folder: Path, taxonomy: Taxonomy, near: NearRepeats, seed: int, *, given_inputs: bool) -> None:
        """Start empty files in `folder`; what an earlier try has left there is written again."""
        self.folder = folder
        self.seed = seed
        # Instructions share templates and say nothing of likeness; nor do inputs that were given.
        self.compared = ("instruction", "output") if given_inputs else ("input", "output")
        self.given_inputs = given_inputs
        self.tally = Tally()
        self.cells: dict[tuple[str, ...], Cell] = {}
        self.rows = PartWriter(folder / "instructions")
        self.ledger = PartWriter(folder / "ledger")
        self.admitted = Admitted(near, lambda number: self._content(self.rows.read(number)), seed)
        self._facts = (folder / "facts.jsonl").open("wb", buffering=1 << 20)
        self._told: set[str] = set()
        self.models: set[str | None] = set()
        self.teachers: Counter[str] = Counter()
        """Accepted records by teacher."""
        self._schemas = {name: content_id(task.schema) for name, task in taxonomy.tasks.items()}

    def __enter__(self) -> Books:
        """Return the books themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self.rows.__exit__(kind, error, trace)
        self.ledger.__exit__(kind, error, trace)
        self._facts.close()

    def admit(self, outcome: Outcome) -> int:
        """Write down every record of an outcome and accept what may be; how many of those wanted are still missing."""
        call, reading, tally = outcome.call, outcome.reading, self.tally
        cell = self._cell(call)
        planned = call.place.round == 0
        tally.calls += 1
        tally.calls_parsed += reading.reason is None
        tally.calls_failed += reading.reason is not None
        tally.repairs += outcome.repair_id is not None
        tally.refills += not planned
        cell.planned += call.wanted if planned else 0
        count = sum(len(group.records) for group in reading.groups)
        tally.records += count
        common = self._common(outcome, count)
        accepted = number = 0
        for group in reading.groups:
            before = accepted
            for record in group.records:
                common["attempt"] = group.attempt
                accepted += self._admit(outcome, record, common, number, wanted=accepted < call.wanted)
                number += 1
            tally.instructions += accepted > before
        cell.accepted += accepted
        self.models.add(outcome.model)
        self.teachers[outcome.teacher] += accepted
        if reading.reason is None and count < call.wanted:
            cell.reasons["too_few"] += call.wanted - count
        return call.wanted - accepted

    def _admit(self, outcome: Outcome, record: Record, common: dict[str, Any], number: int, *, wanted: bool) -> bool:
        """One record: its ledger line, and its row where it is accepted."""
        tally = self.tally
        facts_id = self._tell(outcome.material, record.slot)
        row = self._row(outcome, record, facts_id)
        reason, detail, look = record.reason, record.detail, None
        if reason == GOOD and not wanted:
            reason, detail = "surplus", "the call gave more than was asked for"
        elif reason == GOOD:
            look = self.admitted.look(self._group(outcome, row), self._content(row))
            if look.repeat is not None:
                reason = "exact_duplicate" if look.repeat.exact else "near_duplicate"
        status = "accepted" if reason == GOOD else "failed" if reason in FAILED else "rejected"
        line = {
            "id": row["id"] if status != "failed" else content_id(outcome.call_id, number),
            **common,
            "status": status,
            "reason": reason,
            "detail": detail,
            **self._repeat(look),
            "facts_id": facts_id,
            "checked": record.checked,
            "contradictions": record.contradictions,
            "repairs": record.repairs,
        }
        tally.facts_checked += record.checked
        tally.facts_contradicted += len(record.contradictions)
        tally.mended += bool(record.repairs)
        if status == "accepted":
            assert look is not None, "what was not looked at is not accepted"
            self.admitted.add(look, self.rows.write(row))
            tally.accepted += 1
        else:
            written = {name: row[name] for name in ("instruction", "input", "output")}
            line["text"] = record.text if status == "failed" else written
            self._cell(outcome.call).reasons[reason] += 1
            tally.failed += status == "failed"
            tally.rejected += status == "rejected"
        self.ledger.write(line)
        return status == "accepted"

    def finish(self) -> dict[str, int]:
        """Write coverage.json and return the counts, having asserted that no call and no record vanished."""
        tally = self.tally
        assert tally.calls == tally.calls_parsed + tally.calls_failed, "a call vanished"
        assert tally.records == tally.accepted + tally.rejected + tally.failed == len(self.ledger), "a record vanished"
        assert tally.accepted == len(self.rows), "a row vanished"
        cells = []
        for place, cell in sorted(self.cells.items(), key=lambda item: item[0]):
            missing = cell.planned - cell.accepted
            line: dict[str, Any] = dict(zip(AXES, place, strict=True))
            line |= {"planned": cell.planned, "accepted": cell.accepted, "missing": missing}
            if missing:
                line["reasons"] = dict(cell.reasons.most_common())
            cells.append(line)
        planned = sum(cell.planned for cell in self.cells.values())
        assert planned - tally.accepted == sum(line["missing"] for line in cells), "a missing record is in no cell"
        short = sum(line["missing"] > 0 for line in cells)
        coverage = {"planned": planned, "accepted": tally.accepted, "cells_short": short, "cells": cells}
        write_json(self.folder / "coverage.json", coverage)
        # What came of it first: the closing line shows the first few.
        first = {"accepted": tally.accepted, "planned": planned, "records": tally.records, "rejected": tally.rejected}
        return {**first, **vars(tally), "cells": len(cells), "cells_short": short}

    def commonest_reason(self) -> str:
        """Why most of what is missing is missing."""
        reasons = sum((cell.reasons for cell in self.cells.values()), Counter[str]())
        return reasons.most_common(1)[0][0] if reasons else "nothing came"

    def _common(self, outcome: Outcome, records: int) -> dict[str, Any]:
        call = outcome.call
        cell = call.cell
        return {
            "call_id": outcome.call_id,
            "repair_id": outcome.repair_id,
            "parent": call.parent,
            "number": call.place.number,
            "round": call.place.round,
            "attempt": 1,
            "task_type": cell.task_type,
            "document_type": cell.document_type,
            "section": cell.section,
            "output_format": cell.output_format,
            "difficulty": cell.difficulty,
            "temperature": cell.temperature,
            "seed": self.seed,
            "teacher": outcome.teacher,
            "model": outcome.model,
            "schema_hash": self._schemas[cell.task_type] if cell.output_format == "json" else None,
            "cost": round(outcome.cost / records, 9),
        }

    def _row(self, outcome: Outcome, record: Record, facts_id: str | None) -> dict[str, Any]:
        cell = outcome.call.cell
        place = (cell.task_type, input_name(cell.document_type, cell.section), cell.output_format, cell.difficulty)
        about = dict(zip(AXES, place, strict=True))
        return {
            "id": content_id(record.instruction, record.input, record.output, about),
            "instruction_id": content_id(record.instruction, about),
            **about,
            "instruction": record.instruction,
            "input": record.input,
            "output": record.output,
            "facts_id": facts_id,
            "call_id": outcome.call_id,
            "teacher": outcome.teacher,
            "checked": record.checked,
            "contradicted": len(record.contradictions),
        }

    def _repeat(self, look: Look | None) -> dict[str, Any]:
        if look is None or look.repeat is None:
            return {"of": None, "similarity": None}
        return {"of": self.rows.read(look.repeat.of)["id"], "similarity": round(look.repeat.similarity, 6)}

    def _cell(self, call: Call) -> Cell:
        cell = call.cell
        place = (cell.task_type, input_name(cell.document_type, cell.section), cell.output_format, cell.difficulty)
        return self.cells.setdefault(place, Cell())

    def _group(self, outcome: Outcome, row: dict[str, Any]) -> str:
        """Within what records are compared: task and format, and the same input where inputs are given."""
        cell = outcome.call.cell
        return f"{cell.task_type} {cell.output_format} {row['facts_id'] if self.given_inputs else ''}"

    def _content(self, row: dict[str, Any]) -> str:
        return "\n".join(row[name] for name in self.compared)

    def _tell(self, material: Material, slot: int | None) -> str | None:
        """Put what a record is about into facts.jsonl, once; its id."""
        if slot is None:
            return None
        key, facts = material.about(slot)
        if key not in self._told:
            self._told.add(key)
            self._facts.write(to_line({"facts_id": key, "facts": facts}))
        return key
