"""Send rows and decisions to Argilla, and take people's responses back into the journal of decisions.

    medsmith mediflow.review_argilla out/mediflow/curate/small export=argilla.json
    medsmith mediflow.review_argilla out/mediflow/curate/small import=argilla.json

The file holds records as `dataset.records.to_json` of Argilla's Python SDK 2 writes and `from_json` reads them; beside
it `….settings.json` for `rg.Settings.from_json`, with guidelines, questions and metadata. Argilla knows people by ids:
`users` is a JSON file {name: id} of its users; who is not in it gets an id made from the name.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from mediflow.review import decisions_path
from mediflow.reviewing.decisions import PARTS, Decision, Decisions, Verdict
from mediflow.reviewing.index import CELL, CRITERIA, find_sources
from mediflow.reviewing.store import Store
from mediflow.reviewing.text import check_edit
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.records import read_json, write_json

LOG = logging.getLogger(__name__)
FIELDS = ("instruction", "input", "output", "rejected_output")
ANSWERS = {"accept": "Accept as it is", "reject": "Reject", "edit": "Accept with my changes below"}
GUIDELINES = """# Reviewing synthetic clinical instructions

Read the instruction, the input and the output as if a colleague had written them.

* **Accept** what is right, complete, and does what the instruction asks.
* **Reject** what is wrong, unsafe, or no clinician would write.
* **Accept with my changes** where a small change makes it right: change the text below. JSON must stay JSON.

A comment tells others why. Discard what you cannot judge.
"""


class Config(BaseConfig):
    """What goes out or comes in."""

    positional: ClassVar = ("folder",)

    folder: Path = Field(description="a folder of mediflow.curate or mediflow.generate")
    out: Path = execution(
        Path("out/mediflow/review"), "decisions are in a folder in here, named as the folder reviewed"
    )
    decisions: Path | None = execution(None, "the journal of decisions (default: <out>/<folder>/decisions.jsonl)")
    export: Path | None = execution(None, "write the records to this file")
    taken: Path | None = Field(
        None,
        alias="import",
        description="read responses from this file into the journal",
        json_schema_extra={"execution": True},
    )
    users: Path | None = execution(None, "a JSON file {name: id of the Argilla user}")
    rows: int | None = Field(None, ge=1, description="export so many rows, in the order of rank; null: all")
    kept_only: bool = Field(True, description="export what was kept (or accepted), not what was dropped")


def main(config: Config) -> Path:
    """Export or import; return the file that was written.

    Raises:
        UserError: neither or both are asked for, or a file does not hold what it should.
    """
    if (config.export is None) == (config.taken is None):
        raise UserError("give export=FILE or import=FILE")
    decisions = Decisions(decisions_path(config.folder, config.decisions, config.out))
    store = Store(find_sources(config.folder), decisions)
    users = read_users(config.users)
    if config.taken is not None:
        counts = take_records(read_records(config.taken), store, users)
        LOG.info(
            "%s: %s", config.taken, ", ".join(f"{count} {name}" for name, count in counts.items()) or "no response"
        )
        return decisions.path
    assert config.export is not None, "one of the two is set"
    ids = wanted_ids(store, config.rows, config.kept_only)
    count = write_records(config.export, (record_of(store, row_id, users) for row_id in ids))
    write_json(config.export.with_suffix(".settings.json"), settings_of(store))
    LOG.info("%d records in %s", count, config.export)
    return config.export


def read_users(path: Path | None) -> dict[str, str]:
    """Names and the ids of Argilla's users."""
    users = read_json(path) if path else {}
    if not isinstance(users, dict):
        raise UserError(f"{path}: expected {{name: id}}")
    return {str(name): str(identity) for name, identity in users.items()}


def user_id(reviewer: str, users: Mapping[str, str]) -> str:
    """The id of a reviewer: Argilla's, or one that depends on nothing but the name."""
    return users.get(reviewer) or str(uuid.uuid5(uuid.NAMESPACE_URL, f"medsmith:reviewer:{reviewer}"))


def wanted_ids(store: Store, rows: int | None, kept_only: bool) -> Iterator[str]:
    """The ids of rows to export, in order."""
    filters = {"decision": ["kept", "accepted"]} if kept_only else {}
    offset = 0
    while page := store.find(filters, "", offset, 1000)["rows"]:
        for row in page:
            if rows is not None and offset >= rows:
                return
            offset += 1
            yield row["id"]


def record_of(store: Store, row_id: str, users: Mapping[str, str]) -> dict[str, Any]:
    """One row as a record: texts as fields, the output as a suggestion to change, decisions as responses."""
    row = store.row(row_id)
    assert row is not None, f"row {row_id} is in the list and not in the files"
    metadata = {name: row[name] for name in (*CELL, *CRITERIA, "contradicted") if row[name] is not None}
    # Not "decision": Argilla wants every name of a data set once.
    metadata["status"] = row["decision"]
    responses: dict[str, list[dict[str, str]]] = {}
    for reviewer, one in sorted(store.decisions.of(row_id).items()):
        if one.decision == "skip" and not one.comment:
            continue
        answers: dict[str, str] = {"decision": one.decision} if one.decision in ANSWERS else {}
        answers |= {f"edited_{part}": text for part, text in one.edited.items()}
        answers |= {"comment": one.comment} if one.comment else {}
        for question, value in answers.items():
            responses.setdefault(question, []).append({"value": value, "user_id": user_id(reviewer, users)})
    return {
        "id": row_id,
        "fields": {name: row[name] for name in FIELDS if row[name]},
        "metadata": {name: round(value, 6) if isinstance(value, float) else value for name, value in metadata.items()},
        "suggestions": {"edited_output": {"value": row["output"], "score": None, "agent": row["teacher"]}},
        "responses": responses,
        "vectors": {},
        "_server_id": None,
    }


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """One JSON list, a record a line, written as it comes; return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        file.write("[")
        for record in records:
            file.write(("," if count else "") + "\n" + json.dumps(record, ensure_ascii=False))
            count += 1
        file.write("\n]\n")
    partial.replace(path)
    return count


def settings_of(store: Store) -> dict[str, Any]:
    """The data set's settings as `rg.Settings.from_json` reads them."""
    options = [{"value": value, "text": text} for value, text in ANSWERS.items()]
    plain = {"type": "text", "use_markdown": False}

    def question(name: str, title: str, settings: dict[str, Any], required: bool = False) -> dict[str, Any]:
        described = {"name": name, "title": title, "description": None, "required": required}
        return described | {"settings": settings, "type": settings["type"]}

    edits = [question(f"edited_{part}", f"The {part}, changed", plain) for part in ("output", "input", "instruction")]
    label = {"type": "label_selection", "options": options, "visible_options": len(options)}
    terms = [
        {
            "name": name,
            "title": name.replace("_", " "),
            "visible_for_annotators": True,
            "settings": {"type": "terms", "values": None, "visible_for_annotators": True},
        }
        for name in (*CELL, "status")
    ]
    numbers = [
        {
            "name": name,
            "title": name,
            "visible_for_annotators": True,
            "settings": {"type": kind, "min": None, "max": None, "visible_for_annotators": True},
        }
        for name, kind in [*((name, "float") for name in CRITERIA), ("contradicted", "integer")]
    ]
    return {
        "guidelines": GUIDELINES,
        "questions": [
            question("decision", "What becomes of this row?", label, required=True),
            *edits,
            question("comment", "Comment", plain),
        ],
        "fields": [
            {
                "name": name,
                "title": name.replace("_", " "),
                "required": name == "output",
                "settings": plain,
                "type": "text",
            }
            for name in FIELDS
        ],
        "vectors": [],
        "metadata": terms + numbers,
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None,
    }


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a JSON list, or one a line.

    Raises:
        UserError: neither, or something that is no record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"import: {path}: {error.strerror}") from None
    try:
        values = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except ValueError as error:
        raise UserError(f"import: {path} is neither a JSON list nor JSON lines: {error}") from None
    for number, record in enumerate(values, 1):
        if not isinstance(record, dict) or "id" not in record or not isinstance(record.get("responses", {}), dict):
            raise UserError(f"import: {path} record {number} has no id or no responses; export it with records.to_json")
    return values


def take_records(records: Iterable[Mapping[str, Any]], store: Store, users: Mapping[str, str]) -> dict[str, int]:
    """Write every response that is new into the journal; return how many were what.

    Repeating an import adds nothing. What cannot be used is told, each with its reason, and counted.
    """
    names = {user_id(name, users): name for name in (*store.decisions.reviewers, *users)}
    counts: Counter[str] = Counter()
    for record in records:
        row = store.row(str(record["id"]))
        answers: dict[str, dict[str, Any]] = {}
        for question, given in (record.get("responses") or {}).items():
            for one in given:
                answers.setdefault(str(one["user_id"]), {})[question] = one["value"]
        for user, said in sorted(answers.items()):
            if row is None:
                counts["of unknown rows"] += 1
                LOG.warning("no row %s in %s", record["id"], store.sources.folder)
                continue
            name = names.get(user, user)
            wanted, faults = read_answers(row, name, said)
            held = store.decisions.of(row["id"]).get(name)
            if faults:
                counts["not usable"] += 1
                LOG.warning("row %s by %s: %s", row["id"], name, "; ".join(faults))
            elif held and (held.decision, dict(held.edited), held.comment) == (
                wanted.decision, dict(wanted.edited), wanted.comment
            ):  # fmt: skip
                counts["known before"] += 1
            else:
                store.decisions.add(row["id"], name, wanted.decision, wanted.edited, wanted.comment)
                counts[wanted.decision] += 1
    return dict(sorted(counts.items()))


def read_answers(row: Mapping[str, Any], reviewer: str, said: Mapping[str, Any]) -> tuple[Decision, list[str]]:
    """One person's answers as a decision, and why it cannot be used.

    A text that was changed makes an accept an edit; a text as it was, which the suggestion fills in, is no change.
    """
    texts = {part: str(said[f"edited_{part}"]) for part in PARTS if said.get(f"edited_{part}")}
    edited = {part: text for part, text in texts.items() if text != row[part]}
    comment = str(said.get("comment") or "").strip()
    chosen = said.get("decision")
    verdict: Verdict = "skip"
    faults: list[str] = []
    if chosen == "reject":
        verdict, edited = "reject", {}
    elif chosen in ("accept", "edit"):
        verdict = "edit" if edited else "accept"
        if chosen == "edit" and not edited:
            faults.append("an edit without a change")
    elif chosen is not None:
        faults.append(f"decision '{chosen}' is none of {', '.join(ANSWERS)}")
    elif edited:
        faults.append("a changed text without a decision")
    if verdict == "edit":
        edited, wrong, _ = check_edit(dict(row), edited)
        faults += wrong
    return Decision(str(row["id"]), reviewer, verdict, edited, comment), faults


if __name__ == "__main__":
    run_command(main, Config)
