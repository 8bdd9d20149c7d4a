"""What the review page asks for: rows by filter, one row with all that is known of it, the numbers of the filters."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mediflow.reviewing.decisions import JUDGING, Decision, Decisions, disagree
from mediflow.reviewing.index import CELL, CRITERIA, REJECTED, TEXTS, Sources, open_index, text_files
from mediflow.reviewing.text import diff_words
from medsmith.errors import UserError

ORDERS = {
    "rank": "r.n",
    "quality_low": "r.quality ASC NULLS LAST, r.n",
    "quality_high": "r.quality DESC NULLS LAST, r.n",
    "contradicted": "r.contradicted DESC, r.n",
    "shuffled": "hash(r.id), r.n",
}
STATES = ("undecided", "decided", *JUDGING, "skip", "commented", "disagreement")
REASON = "decision"
PAGE = 100
SEARCHES = 8
"""Searches whose hits are kept: turning the page must not read all texts again."""
SHOWN = ("n", "id", *CELL, *CRITERIA, "decision", "detail", "contradicted", "label")


class Store:
    """The index of one folder and the decisions about it; safe to use from several threads."""

    def __init__(self, sources: Sources, decisions: Decisions, cache: Path | None = None) -> None:
        """Build or open the index and lay the decisions beside it."""
        import duckdb

        self.sources = sources
        self.decisions = decisions
        index = open_index(sources, cache)
        self._files = text_files(sources, index)
        self._base = duckdb.connect()
        quoted = str(index / "index.duckdb").replace("'", "''")
        self._base.execute(f"ATTACH '{quoted}' AS held (READ_ONLY)")
        self._base.execute("CREATE TABLE said (row_id VARCHAR, reviewer VARCHAR, decision VARCHAR, comment VARCHAR)")
        self._base.execute("CREATE TABLE differ (row_id VARCHAR)")
        self._base.execute("CREATE TABLE hits (search INTEGER, n BIGINT)")
        self._searches: OrderedDict[str, int] = OrderedDict()
        self._guard = threading.Lock()
        self._put(decisions.latest)
        (self.total,) = self._one("SELECT count(*) FROM held.rows")
        self.facets = self._facets()

    def follow(self) -> None:
        """Take in what other servers on the same journal have written."""
        changed = set(self.decisions.refresh())
        if changed:
            self._put({row: self.decisions.of(row) for row in changed})

    def record(self, row_id: str) -> None:
        """Take in what has just been decided of one row here."""
        self._put({row_id: self.decisions.of(row_id)})

    def find(self, filters: Mapping[str, Any], reviewer: str, offset: int = 0, limit: int = PAGE) -> dict[str, Any]:
        """The rows that pass, a page of them, and how many there are."""
        order = str(filters.get("order") or "rank")
        if order not in ORDERS:
            raise UserError(f"order '{order}' is none of {', '.join(ORDERS)}")
        where, values = self._where(filters, reviewer)
        (count,) = self._one(f"SELECT count(*) FROM held.rows r WHERE {where}", values)
        columns = ", ".join(f"r.{name}" for name in SHOWN)
        query = f"SELECT {columns} FROM held.rows r WHERE {where} ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?"
        rows = [dict(zip(SHOWN, row, strict=True)) for row in self._all(query, [*values, limit, offset])]
        for row in rows:
            mine = self.decisions.of(row["id"]).get(reviewer)
            row["mine"] = mine.decision if mine else None
            row |= {name: round(row[name], 3) for name in CRITERIA if row[name] is not None}
        return {"total": count, "offset": offset, "rows": rows}

    def row(self, row_id: str) -> dict[str, Any] | None:
        """One row: columns, texts, and what the files beside it say of it. None where there is no such row."""
        more = ("partner", "similarity", "error_type", "instruction_id", "call_id", "facts_id", "teacher", "checked")
        names = [*SHOWN, *more, "file", "place"]
        found = self._all(f"SELECT {', '.join(names)} FROM held.rows WHERE id = ? ORDER BY n LIMIT 1", [row_id])
        if not found:
            return None
        row = dict(zip(names, found[0], strict=True))
        return {name: row[name] for name in names if name not in ("file", "place")} | self._texts(row)

    def details(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What explains a row: the judge's samples, the patient's facts, the ledger, the row that it repeats."""
        ledger = self._lines("SELECT line FROM held.ledger WHERE id = ? OR (id IS NULL AND call_id = ?)", row)
        ledger += self._curate_ledger(row["id"])
        contradictions = [one for line in ledger for one in line.get("contradictions") or []]
        facts_id = row["facts_id"] or next((line["facts_id"] for line in ledger if line.get("facts_id")), None)
        facts = self._json("SELECT line FROM held.facts WHERE facts_id = ? LIMIT 1", facts_id)
        partner = self.row(row["partner"]) if row["partner"] else None
        parts = ("instruction", "input", "output")
        return {
            "judge": self._json("SELECT line FROM held.scores WHERE instruction_id = ? LIMIT 1", row["instruction_id"]),
            "facts": facts.get("facts") if facts else None,
            "facts_id": facts_id,
            "contradictions": contradictions,
            "ledger": [{key: value for key, value in line.items() if key != "text"} for line in ledger],
            "partner": partner,
            "partner_diff": {part: diff_words(partner[part], row[part]) for part in parts} if partner else None,
            "rejected_diff": diff_words(row["output"], row["rejected_output"]) if row["rejected_output"] else None,
        }

    def ids(self) -> Iterable[str]:
        """Every row's id, in order."""
        return (one for (one,) in self._all("SELECT id FROM held.rows ORDER BY n"))

    def labels(self, row_ids: list[str]) -> dict[str, dict[str, str]]:
        """How rows are called in a list, by id."""
        found = self._all("SELECT id, task_type, label FROM held.rows WHERE id IN (SELECT unnest(?))", [row_ids])
        return {row_id: {"task_type": task, "label": label} for row_id, task, label in found}

    def progress(self) -> dict[str, int]:
        """How many rows each reviewer has judged."""
        counts: dict[str, int] = {}
        for held in list(self.decisions.latest.values()):
            for who, one in list(held.items()):
                counts[who] = counts.get(who, 0) + (one.decision in JUDGING)
        return dict(sorted(counts.items()))

    def _where(self, filters: Mapping[str, Any], reviewer: str) -> tuple[str, list[Any]]:
        tests = ["true"]
        values: list[Any] = []
        for name in ("task_type", "document", "input_data", "output_format", "difficulty_level", REASON):
            chosen = filters.get(name) or []
            if chosen:
                tests.append(f"r.{name} IN ({', '.join('?' * len(chosen))})")
                values += chosen
        for name in CRITERIA:
            for side, sign in (("min", ">="), ("max", "<=")):
                if filters.get(f"{name}_{side}") is not None:
                    # The column is a 4-byte number: 2.2 must not fall out of "at most 2.2".
                    tests.append(f"r.{name} {sign} ?::FLOAT")
                    values.append(filters[f"{name}_{side}"])
        if filters.get("contradicted"):
            tests.append("r.contradicted > 0")
        if state := filters.get("state"):
            test, more = self._state(str(state), reviewer)
            tests.append(test)
            values += more
        if text := str(filters.get("text") or "").strip():
            tests.append("r.n IN (SELECT n FROM hits WHERE search = ?)")
            values.append(self._search(text.lower()))
        return " AND ".join(tests), values

    def _state(self, state: str, reviewer: str) -> tuple[str, list[Any]]:
        if state not in STATES:
            raise UserError(f"state '{state}' is none of {', '.join(STATES)}")
        if state == "disagreement":
            return "r.id IN (SELECT row_id FROM differ)", []
        if state == "commented":
            return "r.id IN (SELECT row_id FROM said WHERE comment <> '' AND reviewer = ?)", [reviewer]
        mine = "(SELECT row_id FROM said WHERE reviewer = ?{})"
        if state == "undecided":
            return f"r.id NOT IN {mine.format('')}", [reviewer]
        if state == "decided":
            return f"r.id IN {mine.format(f' AND decision IN {JUDGING}')}", [reviewer]
        return f"r.id IN {mine.format(' AND decision = ?')}", [reviewer, state]

    def _search(self, text: str) -> int:
        """The number under which the hits of a text are kept; ids and details are searched as well as texts."""
        with self._guard:
            if text in self._searches:
                self._searches.move_to_end(text)
                return self._searches[text]
            number = max(self._searches.values(), default=0) + 1
            base = self._base.cursor()
            names = {line[0] for line in base.execute(f"DESCRIBE SELECT * FROM {self._source()}").fetchall()}
            tests = " OR ".join(f"contains(lower(t.{name}), $text)" for name in TEXTS if name in names)
            base.execute(
                f"""INSERT INTO hits SELECT DISTINCT {number}, r.n FROM held.rows r
                LEFT JOIN (SELECT list_position($files, t.filename) - 1 AS file, t.file_row_number AS place
                    FROM {self._source()} t WHERE {tests}) t ON t.file = r.file AND t.place = r.place
                WHERE t.file IS NOT NULL OR contains(lower(r.detail), $text) OR r.id = $text OR r.call_id = $text""",
                {"text": text, "files": self._files},
            )
            self._searches[text] = number
            if len(self._searches) > SEARCHES:
                _, oldest = self._searches.popitem(last=False)
                base.execute("DELETE FROM hits WHERE search = ?", [oldest])
            return number

    def _source(self) -> str:
        files = ", ".join("'" + file.replace("'", "''") + "'" for file in self._files)
        return f"read_parquet([{files}], union_by_name = true, filename = true, file_row_number = true)"

    def _texts(self, row: Mapping[str, Any]) -> dict[str, str]:
        file = self._files[row["file"]].replace("'", "''")
        base = self._base.cursor()
        base.execute(
            f"SELECT * FROM read_parquet('{file}', file_row_number = true) WHERE file_row_number = ?", [row["place"]]
        )
        names = [column[0] for column in base.description or ()]
        values = dict(zip(names, base.fetchall()[0], strict=True))
        return {name: values.get(name) or "" for name in TEXTS}

    def _curate_ledger(self, row_id: str) -> list[dict[str, Any]]:
        """The lines of ledger.parquet about a row, by either id where it was edited; `more` is JSON within."""
        path = self.sources.curate_ledger
        if path is None:
            return []
        base = self._base.cursor()
        names = [line[0] for line in base.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()]
        keys = [name for name in ("id", "edited_id") if name in names]
        tests = " OR ".join(f"{key} = ?" for key in keys)
        base.execute(f"SELECT * FROM read_parquet(?) WHERE {tests} LIMIT 20", [str(path), *[row_id] * len(keys)])
        found = [dict(zip(names, line, strict=True)) for line in base.fetchall()]
        lines = [line | json.loads(line.pop("more", None) or "{}") for line in found]
        return [{name: value for name, value in line.items() if value not in (None, "")} for line in lines]

    def _facets(self) -> dict[str, list[tuple[Any, int]]]:
        names = ("task_type", "document", "input_data", "output_format", "difficulty_level", REASON)
        return {
            name: [
                (value, count)
                for value, count in self._all(f"SELECT {name}, count(*) FROM held.rows GROUP BY 1 ORDER BY 2 DESC, 1")
            ]
            for name in names
        } | {
            "scored": [(name, self._one(f"SELECT count({name}) FROM held.rows")[0]) for name in CRITERIA],
            "contradicted": [("rows", self._one("SELECT count(*) FROM held.rows WHERE contradicted > 0")[0])],
        }

    def _put(self, latest: Mapping[str, Mapping[str, Decision]]) -> None:
        rows = list(latest)
        said = [(row, who, one.decision, one.comment) for row in rows for who, one in latest[row].items()]
        differ = [(row,) for row in rows if disagree(latest[row])]
        with self._guard:
            base = self._base.cursor()
            for first in range(0, len(rows), 1000):
                some = rows[first : first + 1000]
                for table in ("said", "differ"):
                    base.execute(f"DELETE FROM {table} WHERE row_id IN (SELECT unnest(?))", [some])
            if said:
                base.executemany("INSERT INTO said VALUES (?, ?, ?, ?)", said)
            if differ:
                base.executemany("INSERT INTO differ VALUES (?)", differ)

    def _lines(self, query: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        own = row["id"].partition(REJECTED)[0]
        return [json.loads(line) for (line,) in self._all(query, [own, row["call_id"] or own])]

    def _json(self, query: str, key: str | None) -> Any:
        found = self._all(query, [key]) if key else []
        return json.loads(found[0][0]) if found else None

    def _all(self, query: str, values: list[Any] | None = None) -> list[Any]:
        return self._base.cursor().execute(query, values or []).fetchall()

    def _one(self, query: str, values: list[Any] | None = None) -> Any:
        return self._all(query, values)[0]
