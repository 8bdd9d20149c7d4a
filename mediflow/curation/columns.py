"""Rows as columns of numbers: each part file is read once, and no text stays in memory.

What all later decisions need of a row is a line of a table (place in its file, faults, keys), a MinHash signature, a
vector, and what it shares with benchmarks. Each part's columns are files in a cache folder, addressed by everything
that bears on them: a run with other thresholds finds them there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mediflow.curation.filters import Finding, Limits, find_fault, may_be_faulty
from mediflow.curation.semantic import Encoder, SemanticDuplicates, open_encoder
from mediflow.vocabulary.critical import critical_keys
from medsmith.decontaminate import Decontamination, Found, Screen, load_screen
from medsmith.dedup import sign
from medsmith.errors import UserError
from medsmith.records import Instruction, content_id, parse_row
from medsmith.shingles import Hashes, Places, Words, mix, ngrams, order_keys, tokenize

if TYPE_CHECKING:
    import polars

BATCH = 1000
SMALL_BYTES = 64 << 20
SCREEN, LEXICAL = "screen.npz", "lexical.npz"
TEXTS = ("instruction", "input", "output")
AXES = ("task_type", "input_data", "output_format", "difficulty_level")


@dataclass(frozen=True)
class Reading:
    """What is asked of every row; the same for all parts. None: not wanted."""

    cache: Path
    limits: Limits
    edits: Mapping[str, Mapping[str, str]]
    shingle_words: int
    permutations: int | None
    seed: int
    decontamination: Decontamination | None
    semantic: SemanticDuplicates | None


@dataclass(frozen=True)
class Part:
    """One part file and its number over all folders; `given`: its inputs are passages that the user gave."""

    number: int
    path: Path
    given: bool = False


@dataclass(frozen=True)
class Texts:
    """The rows' texts, read from their places when they are asked for."""

    paths: Sequence[Path]
    parts: NDArray[np.int32]
    offsets: Places
    lengths: NDArray[np.int32]
    edits: Mapping[str, Mapping[str, str]]
    given: Sequence[bool]

    def row(self, number: int) -> dict[str, Any]:
        """One row as it stands in its file, with a reviewer's edit in place of its texts."""
        import orjson

        line = os.pread(_descriptor(self.paths[self.parts[number]]), int(self.lengths[number]), self.offsets[number])
        row: dict[str, Any] = orjson.loads(line)
        return apply_edit(row, self.edits)

    def take(self, numbers: Places) -> Texts:
        """Some of the rows, numbered anew: what is sent to another process."""
        return Texts(
            self.paths, self.parts[numbers], self.offsets[numbers], self.lengths[numbers], self.edits, self.given
        )

    def content(self, number: int) -> str:
        """What makes a row itself, as in generation: instructions share templates, given inputs are alike anyway."""
        return compared(self.row(number), self.given[self.parts[number]])

    def screened(self, number: int) -> str:
        """What is held against benchmarks."""
        return compared(self.row(number), given=False)


def compared(row: Mapping[str, Any], given: bool) -> str:
    """The input of a row, or, where that was given, its instruction; and its output."""
    return f"{row['instruction' if given else 'input']}\n{row['output']}"


@lru_cache(maxsize=512)
def _descriptor(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


def apply_edit(row: dict[str, Any], edits: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The row with a reviewer's texts, under an id of its own."""
    edit = edits.get(row["id"]) if edits else None
    return row if edit is None else {**row, **edit, "id": edited_id(row["id"], edit)}


def edited_id(row: str, edit: Mapping[str, str]) -> str:
    """The id of a row whose texts a reviewer replaced; the row's own where nothing was."""
    return content_id(row, dict(edit)) if edit else row


@dataclass(frozen=True)
class Columns:
    """All rows, in the order of their files."""

    table: polars.DataFrame
    texts: Texts
    parts: Sequence[Part]
    cache: Path
    starts: Places

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.table)

    def array(self, name: str) -> NDArray[Any]:
        """One column of the table."""
        values: NDArray[Any] = self.table[name].to_numpy()
        return values

    def places(self, numbers: Places) -> Places:
        """The rows' places within their part files."""
        return numbers - self.starts[self.texts.parts[numbers]]

    @cached_property
    def found(self) -> Found:
        """What all rows share with the benchmarks."""
        parts = []
        for part, start in zip(self.parts, self.starts.tolist(), strict=True):
            with np.load(_file(self.cache, part, "found", "npz")) as held:
                parts.append((held["a"] + start, held["b"], held["c"] + start, held["d"], held["e"]))
        a, b, c, d, e = (np.concatenate(one) for one in zip(*parts, strict=True))
        return Found((a, b), (c, d), e)


def gather(cache: Path, parts: Sequence[Part], kind: str, owners: NDArray[np.int32], places: Places) -> NDArray[Any]:
    """Rows of `signatures` or `vectors` in the order asked for, by the number of their part and their place in it."""
    rows: NDArray[Any] | None = None
    for number in np.unique(owners).tolist():
        held = np.load(_file(cache, parts[number], kind), mmap_mode="r")
        rows = np.empty((len(owners), held.shape[1]), dtype=held.dtype) if rows is None else rows
        own = owners == number
        rows[own] = held[places[own]]
    return np.zeros((0, 1), dtype=np.float32) if rows is None else rows


def read_part(part: Part, reading: Reading) -> int:
    """Write the columns of one part file into the cache, unless they are there; return its number of rows.

    Raises:
        UserError: a line that is no row.
    """
    import polars

    target = _file(reading.cache, part, "table", "arrow")
    if target.is_file():
        return int(polars.scan_ipc(target).select(polars.len()).collect().item())
    tools = _tools(reading)
    tables, signatures, vectors, founds, count = [], [], [], [], 0
    for batch in _batches(part.path):
        rows = _parse(batch, part.path, count, reading.edits)
        table, content, screened = _describe(rows, reading.limits, part.given)
        tables.append(table.with_columns(length=polars.Series([len(line) for line in batch], dtype=polars.Int32)))
        grams = ngrams(content, reading.shingle_words)
        if reading.permutations is not None:
            signatures.append(sign(grams, reading.permutations, reading.seed))
        if tools.screen is not None:
            same = tools.screen.settings.shingle_words == reading.shingle_words and not part.given
            founds.append((count, tools.screen.find(screened, grams if same else None)))
        if tools.encoder is not None:
            texts = [compared(row, part.given) for row in rows]
            vectors.append(tools.encoder.encode(texts, content).astype(np.float16))
        count += len(rows)
    if signatures:
        np.save(_file(reading.cache, part, "signatures"), np.concatenate(signatures))
    if vectors:
        np.save(_file(reading.cache, part, "vectors"), np.concatenate(vectors))
    _save_found(_file(reading.cache, part, "found", "npz"), founds)
    # Last and by renaming: where it is, the others are whole.
    partial = target.with_suffix(".partial")
    table = (
        polars.concat(tables)
        if tables
        else _describe([], reading.limits)[0].with_columns(length=polars.lit(0, polars.Int32))
    )
    lengths = polars.col("length").cast(polars.Int64)
    table.with_columns(offset=lengths.cum_sum() - lengths).write_ipc(partial)
    partial.replace(target)
    return count


def sample_contents(paths: Sequence[Path], count: int, rng: random.Random) -> list[str]:
    """Contents of some rows: of all where the files are small, else the rows that stand at random places."""
    import orjson

    sizes = [path.stat().st_size for path in paths]
    lines: list[bytes] = []
    if sum(sizes) <= SMALL_BYTES:
        lines = [line for path in paths for line in path.read_bytes().splitlines()]
        lines = rng.sample(lines, count) if len(lines) > count else lines
    else:
        for path, size in zip(paths, sizes, strict=True):
            with path.open("rb") as file:
                for place in sorted(rng.randrange(size) for _ in range(-(-count * size // sum(sizes)))):
                    file.seek(place)
                    file.readline()
                    lines += [line] if (line := file.readline()) else []
    contents = []
    for line in lines:
        # A line that is no row is told with its number when all rows are read.
        with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
            row = orjson.loads(line)
            contents.append(f"{row['input']}\n{row['output']}")
    return contents


def load_columns(cache: Path, parts: Sequence[Part], edits: Mapping[str, Mapping[str, str]]) -> Columns:
    """The table of all parts, and the ways to what is not in memory."""
    import polars

    tables = [polars.read_ipc(_file(cache, part, "table", "arrow")) for part in parts]
    sizes = [len(table) for table in tables]
    table = polars.concat([one.with_columns(polars.col(AXES).cast(polars.Categorical)) for one in tables])
    texts = Texts(
        [part.path for part in parts],
        np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
        table["offset"].to_numpy(),
        table["length"].to_numpy(),
        edits,
        [part.given for part in parts],
    )
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    if table["id"].n_unique() != len(table):
        twice = table["id"].filter(table["id"].is_duplicated())[0]
        raise UserError(f"the row id '{twice}' occurs twice; give each generate folder once, and each its own seed")
    return Columns(table.drop("offset", "length"), texts, parts, cache, starts)


@dataclass(frozen=True)
class _Tools:
    screen: Screen | None
    encoder: Encoder | None


_opened: dict[Path, _Tools] = {}


def _tools(reading: Reading) -> _Tools:
    """The benchmark index and the encoder, loaded once a process."""
    if reading.cache not in _opened:
        settings = reading.decontamination
        screen = load_screen(reading.cache / SCREEN, settings) if settings else None
        encoder = open_encoder(reading.semantic, reading.cache / LEXICAL) if reading.semantic else None
        _opened.clear()
        _opened[reading.cache] = _Tools(screen, encoder)
    return _opened[reading.cache]


def _batches(path: Path) -> Iterator[list[bytes]]:
    with path.open("rb", buffering=1 << 20) as lines:
        while batch := list(islice(lines, BATCH)):
            yield batch


def _parse(
    lines: Sequence[bytes], path: Path, first: int, edits: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    import orjson

    rows = []
    for number, line in enumerate(lines, first + 1):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not valid JSON ({error}); mend or remove the line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: expected a JSON object, got {type(row).__name__}")
        parse_row(Instruction, row, f"{path} line {number}")
        rows.append(apply_edit(row, edits))
    return rows


def _describe(
    rows: Sequence[dict[str, Any]], limits: Limits, given: bool = False
) -> tuple[polars.DataFrame, Words, Words]:
    """The table of a batch, but for the places of the rows, and the words that are compared, and those screened."""
    import polars

    texts = [row[name] for row in rows for name in TEXTS]
    words = tokenize(texts)
    content = _content(words, 1 if given else 0)
    faults = _faults(rows, texts, words, limits)
    keys = [key.reshape(-1, 3) for key in order_keys(words)]
    counts = words.counts.reshape(-1, 3)
    for number, place in zip(*np.nonzero(counts == 0), strict=True):
        # Texts without any word are told apart by their signs.
        keys[0][number, place] = _own_hash(texts[3 * number + place])
    guard, concepts = critical_keys(content)
    strings = {name: [str(row.get(name) or "") for row in rows] for name in ("instruction_id", "teacher")}
    numbers = {
        name: polars.Series([_number(row.get(name)) for row in rows], dtype=polars.Int32)
        for name in ("checked", "contradicted")
    }
    named = {
        name: polars.Series([value and value[place] for value in faults], dtype=polars.String)
        for place, name in enumerate(("reason", "detail"))
    }
    table = polars.DataFrame(
        {
            "id": polars.Series([row["id"] for row in rows], dtype=polars.String),
            **{axis: polars.Series([row[axis] for row in rows], dtype=polars.String) for axis in AXES},
            **{name: polars.Series(values, dtype=polars.String) for name, values in strings.items()},
            **numbers,
            **named,
            "exact_a": _fold(keys[0]),
            "exact_b": _fold(keys[1]),
            "instruction_key": keys[0][:, 0],
            "guard": guard,
            "concepts": concepts,
            "has_words": content.counts > 0,
            **{f"{part}_words": counts[:, place].astype(np.int32) for place, part in enumerate(TEXTS)},
        }
    )
    return table, content, _content(words, 0) if given else content


def _content(words: Words, gone: int) -> Words:
    """Of three texts a row, all but one as one."""
    counts = words.counts.copy()
    counts[gone::3] = 0
    chosen = np.repeat(np.arange(len(words)) % 3 != gone, words.counts)
    offsets = np.zeros(len(words) // 3 + 1, dtype=np.int64)
    np.cumsum(counts.reshape(-1, 3).sum(axis=1), out=offsets[1:])
    return Words(words.text.filter(chosen), offsets)


def _faults(rows: Sequence[dict[str, Any]], texts: Sequence[str], words: Words, limits: Limits) -> list[Finding | None]:
    suspect = may_be_faulty(texts, words, [row["output_format"] for row in rows], limits)
    return [
        find_fault(parse_row(Instruction, row, "row"), limits) if may else None
        for row, may in zip(rows, suspect.tolist(), strict=True)
    ]


def _fold(keys: Hashes) -> Hashes:
    """One key of a row's three."""
    return mix(mix(mix(keys[:, 0]) ^ keys[:, 1]) ^ keys[:, 2])


def _own_hash(text: str) -> int:
    digest = hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _number(value: Any) -> int | None:
    """A count, or the length of a list; None where there is neither."""
    if isinstance(value, list):
        return len(value)
    return int(value) if isinstance(value, int | float) else None


def _file(cache: Path, part: Part, kind: str, suffix: str = "npy") -> Path:
    return cache / f"{part.number:05}-{kind}.{suffix}"


def _save_found(path: Path, founds: Sequence[tuple[int, Found]]) -> None:
    """The findings of all batches as one, their rows counted from the part's first."""
    nothing = Found(
        (np.zeros(0, np.int64), np.zeros(0, np.int64)), (np.zeros(0, np.int64), np.zeros(0, np.int64)), np.zeros(0)
    )
    every = [(0, nothing), *founds]
    np.savez(
        path,
        a=np.concatenate([found.sequences[0] + first for first, found in every]),
        b=np.concatenate([found.sequences[1] for _, found in every]),
        c=np.concatenate([found.contained[0] + first for first, found in every]),
        d=np.concatenate([found.contained[1] for _, found in every]),
        e=np.concatenate([found.shares for _, found in every]),
    )
