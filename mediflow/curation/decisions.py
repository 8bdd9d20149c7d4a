"""What people decided of rows, from the journals of mediflow.review: one verdict a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medsmith.errors import UserError
from medsmith.records import read_jsonl

Conflict = Literal["reject", "majority"]
KNOWN = ("accept", "reject", "edit", "skip")
TEXTS = ("instruction", "input", "output")


class Verdict(NamedTuple):
    """accept, reject or edit; who said so; and the texts that an edit puts in place of the row's own."""

    decision: str
    by: str
    edited: Mapping[str, str]


def read_verdicts(paths: Sequence[Path], conflict: Conflict) -> dict[str, Verdict]:
    """One verdict a row id; rows that were only skipped have none.

    The last line of a row and reviewer counts. Where reviewers disagree, one rejection is enough, or, by `majority`,
    as many rejections as others. Of several edits the latest stands.

    Raises:
        UserError: a line without row_id, reviewer or a known decision, or an edit that changes nothing.
    """
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        for number, line in enumerate(read_jsonl(path), 1):
            _check(line, f"{path} line {number}")
            latest[str(line["row_id"]), str(line["reviewer"])] = line
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (row, _), line in latest.items():
        if line["decision"] != "skip":
            lines[row].append(line)
    return {row: _settle(votes, conflict) for row, votes in lines.items()}


def read_reviewers(paths: Sequence[Path]) -> list[str]:
    """Everyone who decided on a row, by name."""
    lines = (line for path in paths for line in read_jsonl(path) if line["decision"] != "skip")
    return sorted({str(line["reviewer"]) for line in lines})


def _settle(votes: list[dict[str, Any]], conflict: Conflict) -> Verdict:
    against = [vote for vote in votes if vote["decision"] == "reject"]
    enough = 1 if conflict == "reject" else len(votes) / 2
    if against and len(against) >= enough:
        return Verdict("reject", ", ".join(sorted(str(vote["reviewer"]) for vote in against)), {})
    others = [vote for vote in votes if vote["decision"] != "reject"]
    edits = [vote for vote in others if vote["decision"] == "edit"]
    if not edits:
        return Verdict("accept", ", ".join(sorted(str(vote["reviewer"]) for vote in others)), {})
    last = max(edits, key=lambda vote: (str(vote.get("at", "")), str(vote["reviewer"])))
    return Verdict(
        "edit", str(last["reviewer"]), {name: last["edited"][name] for name in TEXTS if name in last["edited"]}
    )


def _check(line: Mapping[str, Any], where: str) -> None:
    missing = [name for name in ("row_id", "reviewer", "decision") if not line.get(name)]
    if missing:
        raise UserError(f"{where}: a decision without '{missing[0]}'; mend or remove the line")
    if line["decision"] not in KNOWN:
        raise UserError(f"{where}: unknown decision '{line['decision']}'; known: {', '.join(KNOWN)}")
    edited = line.get("edited")
    if line["decision"] == "edit" and not (
        isinstance(edited, dict) and any(isinstance(edited.get(name), str) for name in TEXTS)
    ):
        raise UserError(f"{where}: an edit needs 'edited' with one of {', '.join(TEXTS)}; mend or remove the line")
