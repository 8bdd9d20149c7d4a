"""The first pass over a corpus: what is decided by, as columns of numbers. Texts leave nothing else behind.

About 100 bytes a document are in memory, whatever its length; signatures for near duplicates lie on the disk. Every
part of 50,000 documents is put down when it is done, so that a killed run reads on after the last one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from experts.corpus.reading import Entry
from experts.corpus.split import rank
from medsmith.decontaminate import Found, Screen
from medsmith.dedup import Signatures, sign
from medsmith.documents import clean
from medsmith.progress import Bar
from medsmith.shingles import Hashes, ngrams, order_keys, tokenize

if TYPE_CHECKING:
    from experts.corpora import Config

PART_DOCUMENTS = 50_000
BATCH_DOCUMENTS, BATCH_CHARACTERS = 2_000, 4_000_000
NO_TIME = int(np.iinfo(np.int64).min)
NUMBERS = {
    "first": np.uint64, "second": np.uint64, "key": np.uint64, "patient": np.uint64, "time": np.int64,
    "words": np.uint32, "source": np.uint32, "licence": np.uint32, "reason": np.uint32,
    "limit_rank": np.float64, "heldout_rank": np.float64,
}  # fmt: skip
"""Columns: the two halves of the text's key, the id's, the patient's (0: none), seconds, and places in `names`."""

Part = dict[str, NDArray[Any]]


class Columns(NamedTuple):
    """All documents, in order. `names` are sources, licences and reasons; the first, empty one is of no reason.

    `shingles` are those of the documents that share something with a blocklist.
    """

    numbers: Part
    names: list[str]
    found: Found
    shingles: dict[int, Hashes]
    signatures: Signatures | None

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.numbers["first"])


def measure(
    read: Callable[[int], Iterator[Entry]],
    config: Config,
    folder: Path,
    screen: Screen | None,
    size: int,
    part_documents: int = PART_DOCUMENTS,
) -> Columns:
    """The columns of all documents; those of parts that an earlier try put down are not read again (`read(skip)`)."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = _finished_parts(folder)
    done = sum(len(part["first"]) for part in parts)
    reader = _Reader(config, screen, json.loads(bytes(parts[-1]["names"])) if parts else [""], done)
    signatures = folder / "signatures.bin"
    width = 4 * config.near_duplicates.permutations
    with (
        Bar("reading documents", size or None, "bytes", int(parts[-1]["done"]) if parts else 0) as bar,
        signatures.open("ab") as file,
    ):
        file.truncate(done * width if config.near_duplicates.threshold else 0)
        entries = read(done)
        while batches := [reader.look(batch, bar, file) for batch in batched(islice(entries, part_documents))]:
            file.flush()
            part = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
            part["names"] = np.frombuffer(json.dumps(reader.names).encode(), dtype=np.uint8)
            part["done"] = np.array(bar.done)
            _put_down(folder / f"part-{len(parts):05}.npz", part)
            parts.append(part)
    return _joined(parts, reader.names, signatures if config.near_duplicates.threshold else None, width // 4)


def batched(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in lists that are neither long nor large."""
    batch: list[Entry] = []
    characters = 0
    for entry in entries:
        batch.append(entry)
        characters += len(entry.document.text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def name_hash(name: str) -> int:
    """64 bits for a name; 0 for none."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8]) if name else 0


def read_time(text: str) -> int:
    """Seconds since 1970 of an ISO date or time, a year, or a year and month; NO_TIME for anything else."""
    whole = {4: f"{text}-01-01", 7: f"{text}-01"}.get(len(text), text)
    try:
        time = datetime.fromisoformat(whole)
    except ValueError:
        return NO_TIME
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def source_name(source: str) -> str:
    """A page's address in the source tells pages apart, not sources."""
    return source.partition("http")[0].strip() or source


class _Reader:
    """Batches of entries into columns; it knows every name met so far."""

    def __init__(self, config: Config, screen: Screen | None, names: list[str], done: int) -> None:
        self.names = names
        self._places = {name: place for place, name in enumerate(names)}
        self._config = config
        self._screen = screen
        self._done = done
        self._licence_reasons: dict[str, str] = {}

    def look(self, batch: Sequence[Entry], bar: Bar, signatures: Any) -> Part:
        """The columns of a batch; its signatures are appended to the file."""
        config, near = self._config, self._config.near_duplicates
        texts = [clean(entry.document.text) for entry in batch]
        words = tokenize(texts)
        first, second = order_keys(words)
        grams = ngrams(words, near.shingle_words) if near.threshold else None
        if grams is not None:
            signatures.write(sign(grams, near.permutations, config.seed).tobytes())
        counts = [len(text.split()) for text in texts]
        unit = [entry.patient if config.split.by == "patient" else entry.document.id for entry in batch]
        rows = zip(batch, counts, strict=True)
        lists = {
            "first": first,
            "second": second,
            "key": [name_hash(entry.document.id) for entry in batch],
            "patient": [name_hash(entry.patient) for entry in batch],
            "time": [read_time(entry.time) if entry.time else NO_TIME for entry in batch],
            "words": counts,
            "source": [self._place(source_name(entry.document.source)) for entry in batch],
            "licence": [self._place(entry.document.license.strip()) for entry in batch],
            "reason": [self._place(self._reason(entry, count)) for entry, count in rows],
            "limit_rank": [rank(entry.document.id, f"limit {config.seed}") for entry in batch],
            "heldout_rank": [rank(key, f"heldout {config.seed}") for key in unit],
        }
        part = {name: np.array(lists[name], dtype=kind) for name, kind in NUMBERS.items()}
        if self._screen is not None:
            same = grams is not None and near.shingle_words == self._screen.settings.shingle_words
            shingles = grams if same and grams is not None else ngrams(words, self._screen.settings.shingle_words)
            part |= _found_part(self._screen.find(words, shingles), shingles.of, self._done)
        self._done += len(batch)
        bar.advance(batch[-1].done - bar.done)
        return part

    def _place(self, name: str) -> int:
        place = self._places.setdefault(name, len(self.names))
        if place == len(self.names):
            self.names.append(name)
        return place

    def _reason(self, entry: Entry, words: int) -> str:
        """Why a document is left out for what it is by itself; empty where it is not."""
        if entry.fault:
            return entry.fault
        if not words:
            return "empty"
        # A line of a table is short by its form: "ICD-10-CM code A00: Cholera."
        if words < self._config.min_words and self._config.form != "lines":
            return f"fewer than {self._config.min_words} words"
        licence = entry.document.license
        if licence not in self._licence_reasons:
            self._licence_reasons[licence] = self._config.licences.reason(licence) or ""
        return self._licence_reasons[licence]


def _found_part(found: Found, shingles_of: Callable[[int], Hashes], done: int) -> Part:
    """What was found in a batch, its documents by their numbers in the corpus, and those documents' shingles."""
    holders = np.union1d(found.sequences[0], found.contained[0]).astype(np.int64)
    sets = [np.unique(shingles_of(number)) for number in holders.tolist()]
    return {
        "sequence_rows": found.sequences[0] + done,
        "sequences": found.sequences[1],
        "contained_rows": found.contained[0] + done,
        "contained": found.contained[1],
        "shares": found.shares,
        "holders": holders + done,
        "holder_sizes": np.array([len(one) for one in sets], dtype=np.int64),
        "holder_shingles": np.concatenate([np.zeros(0, dtype=np.uint64), *sets]),
    }


def _joined(parts: Sequence[Part], names: list[str], signatures: Path | None, permutations: int) -> Columns:
    def whole(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype=kind), *(part[name] for part in parts if name in part)])

    numbers = {name: whole(name, kind) for name, kind in NUMBERS.items()}
    found = Found(
        (whole("sequence_rows", np.int64), whole("sequences", np.int64)),
        (whole("contained_rows", np.int64), whole("contained", np.int64)),
        whole("shares", np.float64),
    )
    ends = np.cumsum(whole("holder_sizes", np.int64))
    hashes = np.split(whole("holder_shingles", np.uint64), ends[:-1]) if len(ends) else []
    shingles = dict(zip(whole("holders", np.int64).tolist(), hashes, strict=True))
    on_disk = None
    if signatures is not None and len(numbers["first"]):
        on_disk = np.memmap(signatures, dtype=np.uint32, mode="r", shape=(len(numbers["first"]), permutations))
    return Columns(numbers, names, found, shingles, on_disk)


def _finished_parts(folder: Path) -> list[Part]:
    found = []
    for path in sorted(folder.glob("part-*.npz")):
        with np.load(path) as held:
            found.append(dict(held))
    return found


def _put_down(path: Path, part: Part) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, **cast(Any, part))
    partial.replace(path)
