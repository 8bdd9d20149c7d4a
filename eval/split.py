"""Split one published benchmark file into named parts by a fixed hash: to train on one and test on another.

    python -m eval.split out=out/meqsum benchmark=meqsum data=data/MeQSum.xlsx 'parts={test: 300, train: rest}'

Each part is a folder (out/meqsum/test, out/meqsum/train) with a file of the published name and columns, which
`eval.run` reads and calls a known part. `ids.json` names the rows of every part, so that others can make the same split
from the published file; `dropped.jsonl` holds the rows that are in no part, with the reason.

Rows with one question, or about one document or patient, never stand in two parts. The order of rows in the file has no
bearing on the split, nor has the seed: groups of rows are sorted by a hash of `by`, and fill the parts in the order
given. A part whose name begins with `train` may be trained on (`eval.make_rows`), any other may not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

import medsmith.config
from eval.benchmark import Item, load_benchmark, names
from eval.tables import find_file, read_table
from medsmith import run
from medsmith.command import run_command
from medsmith.digests import file_digest
from medsmith.errors import UserError
from medsmith.records import content_id, write_json, write_jsonl
from medsmith.table_files import write_table

CONTENT = "content"
REST = "rest"

log = logging.getLogger("eval.split")


class Config(medsmith.config.Config):
    """Which file, and how many rows a part."""

    benchmark: str = Field(description="a benchmark of eval/benchmarks whose published file is a table, a row an item")
    data: Path = Field(description="the published file, or the folder that holds the tested one")
    parts: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")],
        Annotated[int, Field(ge=1)] | Literal["rest"],
    ] = Field(description="rows by part, in the order in which they are filled, e.g. {test: 300, train: rest}")
    by: str = Field(CONTENT, description="what is hashed: 'content' (the question's text), or a column of the file")
    draw: int = Field(0, ge=0, description="hashed too: another number is another split (seed is not: test sets stay)")


def main(config: Config) -> Path:
    """Write the parts into config.out."""
    benchmark: Any = load_benchmark(config.benchmark)
    if not hasattr(benchmark, "ID_COLUMN"):
        can = [name for name in names() if hasattr(load_benchmark(name), "ID_COLUMN")]
        raise UserError(f"the file of {config.benchmark} is no table with a row an item; those of {', '.join(can)} are")
    with run.start(config, "eval.split") as this:
        file = find_file(config.data, benchmark.FILES["test"], benchmark.SOURCE)
        rows = read_table(file, (benchmark.ID_COLUMN, *([] if config.by == CONTENT else [config.by])))
        loaded = benchmark.load(file, "test")
        split = {
            "benchmark": config.benchmark,
            "file": file.name,
            "rows": len(rows),
            "sha256": file_digest(file),
            "as_published": loaded.notes.get("as_published"),
            "by": config.by,
            "draw": config.draw,
        }
        ids = [str(row[benchmark.ID_COLUMN] or "").strip() for row in rows]
        parts = divide(config, ids, rows, loaded.items, file)
        place = {name: part for part, members in parts.items() for name in members}
        reason = " or ".join(sorted(loaded.dropped)) or "left out by the benchmark"
        items = {item.id: item for item in loaded.items}
        dropped = [
            {"row": number, "id": name, "reason": "beyond the parts" if name in items else reason}
            for number, name in enumerate(ids, 1)
            if name not in place
        ]
        record: dict[str, Any] = {}
        for part in parts:
            kept = [row for name, row in zip(ids, rows, strict=True) if place.get(name) == part]
            write_table(this.folder / part / file.name, kept)
            record[part] = {"rows": len(kept), "sha256": file_digest(this.folder / part / file.name)}
        ordered = {part: [name for name in ids if place.get(name) == part] for part in parts}
        write_json(this.folder / "ids.json", split | {"parts": ordered})
        write_jsonl(this.folder / "dropped.jsonl", dropped)
        shared = golds_in_two([[items[name].gold for name in members] for members in parts.values()])
        if not this.facts["simulated"]:
            this.state_licences("data", {f"benchmark {config.benchmark}": benchmark.LICENCE})
        this.facts["split"] = split | {"parts": record, "answers_in_two_parts": shared}
        counts = {part: one["rows"] for part, one in record.items()}
        assert len(rows) == sum(counts.values()) + len(dropped), "no row vanishes"
        said = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        log.info("%s, in no part %d; answers that stand in two parts: %d", said, len(dropped), shared)
        return this.finish(rows=len(rows), **counts, dropped=len(dropped))


def divide(
    config: Config, ids: Sequence[str], rows: Sequence[dict[str, Any]], items: Sequence[Item], file: Path
) -> dict[str, list[str]]:
    """The ids of the items in each part; `ids` and `rows` are those of the file, items without a question included."""
    texts = {item.id: _text(item) for item in items}
    twice = next((name for name, count in Counter(ids).items() if count > 1 and name in texts), None)
    if twice is not None:
        raise UserError(f"{file}: the id '{twice}' is there twice; make ids unique")
    by_id = {name: row for name, row in zip(ids, rows, strict=True) if name in texts}
    assert by_id.keys() == texts.keys(), f"{config.benchmark}: an item's id is not that of its row"
    keys = texts if config.by == CONTENT else {name: str(row[config.by]) for name, row in by_id.items()}
    ranks = {name: content_id("eval.split", config.draw, key) for name, key in keys.items()}
    return fill(sorted(grouped(items), key=lambda group: min(ranks[name] for name in group)), config.parts)


def grouped(items: Iterable[Item]) -> list[list[str]]:
    """Ids of items that belong together: of one question (case and spaces apart) or one group; in the order given."""
    owner: dict[tuple[str, str], list[str]] = {}
    found: dict[int, list[str]] = {}
    for item in items:
        keys = (("text", _text(item)), ("group", item.group))
        own = [item.id]
        for other in {id(owner[key]): owner[key] for key in keys if key in owner}.values():
            own = other + own
            found.pop(id(other))
            for key in [key for key, group in owner.items() if group is other]:
                owner[key] = own
        owner |= dict.fromkeys(keys, own)
        found[id(own)] = own
    return list(found.values())


def fill(groups: Sequence[Sequence[str]], wanted: Mapping[str, int | str]) -> dict[str, list[str]]:
    """Put groups, whole and in their order, into the first part with room for them; `rest` takes what is left.

    Raises:
        UserError: the rows do not suffice, or two parts ask for the rest.
    """
    rest = [name for name, size in wanted.items() if size == REST]
    if len(rest) > 1:
        raise UserError(f"parts: {' and '.join(rest)} both ask for the rest; give one of them a number")
    room = {name: size for name, size in wanted.items() if isinstance(size, int)}
    total = sum(map(len, groups))
    if sum(room.values()) + len(rest) > total:
        raise UserError(f"parts: {sum(room.values())} rows are asked for, {total} are there; ask for fewer")
    parts: dict[str, list[str]] = {name: [] for name in wanted}
    for group in groups:
        name = next((name for name in room if room[name] >= len(group)), rest[0] if rest else None)
        if name is None:
            continue
        parts[name] += group
        if name in room:
            room[name] -= len(group)
    empty = [name for name, ids in parts.items() if not ids]
    if empty:
        raise UserError(f"parts: no group of rows is small enough for {empty[0]}; ask for more rows")
    return parts


def golds_in_two(parts: Sequence[Sequence[str]]) -> int:
    """How many different answers stand in more than one part. Of labels that is no matter; of texts it is told."""
    return sum(count > 1 for count in Counter(gold for golds in parts for gold in set(golds)).values())


def _text(item: Item) -> str:
    return " ".join(item.messages[-1]["content"].split()).casefold()


if __name__ == "__main__":
    run_command(main, Config)
