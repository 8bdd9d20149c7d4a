"""The last pass over a corpus: every document goes into one of three files, and what was decided becomes counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experts.corpus.decide import COUNTED_AS, Decided, Kind, count_reasons
from experts.corpus.licences import parse_licence
from experts.corpus.measure import Columns, batched
from experts.corpus.reading import Entry
from medsmith.blocklists import Blocked
from medsmith.documents import clean, text_digest
from medsmith.licences import AGREEMENT
from medsmith.progress import Bar
from medsmith.records import to_line
from medsmith.shingles import Hashes, distinct, ngrams, tokenize

if TYPE_CHECKING:
    from experts.corpora import Config

FILES = ("train", "heldout", "dropped")


class Spool:
    """The shingles of chosen documents in a file on the disk: found by number, hardly any of them in memory."""

    def __init__(self, path: Path, entries: Iterable[Entry], wanted: set[int], words: int, size: int) -> None:
        """Read the documents and put down the shingles of those that are `wanted`."""
        numbers: list[int] = []
        sizes: list[int] = []
        done = 0
        with path.open("wb") as file, Bar("comparing documents", size or None, "bytes") as bar:
            for batch in batched(entries):
                chosen = [place for place in range(len(batch)) if done + place in wanted]
                texts = [clean(batch[place].document.text) for place in chosen]
                sets = distinct(ngrams(tokenize(texts), words)) if texts else None
                if sets is not None:
                    file.write(sets.hashes.tobytes())
                    sizes += np.diff(sets.offsets).tolist()
                    numbers += [done + place for place in chosen]
                done += len(batch)
                bar.advance(batch[-1].done - bar.done)
        self._places = {number: place for place, number in enumerate(numbers)}
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._hashes = np.memmap(path, dtype=np.uint64, mode="r") if self._offsets[-1] else np.zeros(0, np.uint64)

    def of(self, number: int) -> Hashes:
        """The sorted, distinct shingles of one document."""
        place = self._places[number]
        return np.asarray(self._hashes[self._offsets[place] : self._offsets[place + 1]])

    def ready(self, numbers: Sequence[int]) -> None:
        """The disk's own cache does this."""


def write(
    folder: Path,
    entries: Iterator[Entry],
    config: Config,
    columns: Columns,
    decided: Decided,
    blocked: Sequence[Blocked],
    text_column: str,
    size: int,
    count_tokens: Callable[[list[str]], list[int]] | None,
) -> dict[str, int]:
    """Write train.jsonl, heldout.jsonl and dropped.jsonl; return the tokens of each where they are counted."""
    wanted = np.zeros(len(columns), dtype=bool)
    repeats = np.isin(decided.kind, (Kind.TEXT, Kind.NEAR))
    wanted[decided.of[repeats]] = True
    ids: dict[int, str] = {}
    tokens = dict.fromkeys(FILES, 0) if count_tokens else {}
    number = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.jsonl").open("wb", 1 << 20)) for name in FILES}
        bar = stack.enter_context(Bar("writing documents", size or None, "bytes"))
        for batch in batched(entries):
            texts = [clean(entry.document.text) for entry in batch]
            counts = count_tokens(texts) if count_tokens else []
            for place, (entry, text) in enumerate(zip(batch, texts, strict=True)):
                if wanted[number]:
                    ids[number] = entry.document.id
                name = side_of(decided, number)
                row = document_row(entry, text, config, text_column)
                if name == "dropped":
                    row |= why(columns, decided, number, ids, blocked)
                files[name].write(to_line(row))
                if counts:
                    tokens[name] += counts[place]
                number += 1
            bar.advance(batch[-1].done - bar.done)
    assert number == len(columns), "the last pass reads what the first one read"
    return tokens


def side_of(decided: Decided, number: int) -> str:
    """The file that a document goes into."""
    if decided.kind[number] != Kind.KEPT:
        return "dropped"
    return "heldout" if decided.heldout[number] else "train"


def document_row(entry: Entry, text: str, config: Config, text_column: str) -> dict[str, Any]:
    """A row as it is written: with its text or, where that must not be copied, with its place and digest."""
    document = entry.document
    if config.access == "open":
        return {
            "id": document.id,
            "title": clean(document.title),
            "text": text,
            "source": document.source,
            "license": document.license,
        }
    return {
        "id": document.id,
        "source": document.source,
        "license": under_agreement(document.license),
        "file": entry.file,
        "row": entry.row,
        "column": text_column,
        "digest": text_digest(text),
    }


def why(
    columns: Columns, decided: Decided, number: int, ids: dict[int, str], blocked: Sequence[Blocked]
) -> dict[str, Any]:
    """The reason that dropped.jsonl gives, and of what and how near where it is a repeat."""
    kind, of = Kind(int(decided.kind[number])), int(decided.of[number])
    amount = round(float(decided.amount[number]), 4)
    if kind == Kind.OWN:
        return {"reason": columns.names[int(columns.numbers["reason"][number])]}
    if kind == Kind.TEXT:
        return {"reason": f"same text as {ids[of]}", "of": ids[of], "similarity": 1.0}
    if kind == Kind.NEAR:
        return {"reason": f"near duplicate of {ids[of]}", "of": ids[of], "similarity": amount}
    if kind == Kind.BENCHMARK:
        text = blocked[of]
        reason = f"holds a text of the benchmark {text.benchmark}"
        return {"reason": reason, "benchmark": text.benchmark, "of": text.place, "similarity": amount}
    return {"reason": COUNTED_AS[kind]}


def summarise(
    columns: Columns, decided: Decided, blocked: Sequence[Blocked], unprotected: dict[str, int], tokens: dict[str, int]
) -> dict[str, Any]:
    """What corpus.json says."""
    numbers, kept = columns.numbers, decided.kind == Kind.KEPT
    sides = {"train": kept & ~decided.heldout, "heldout": kept & decided.heldout, "dropped": ~kept}
    words = numbers["words"].astype(np.int64)
    by_source = _licences_by_source(columns, kept)
    sources = {}
    for place in np.unique(numbers["source"][kept]).tolist():
        own = numbers["source"] == place
        counts = {name: int((own & sides[name]).sum()) for name in ("train", "heldout")}
        sources[columns.names[place]] = {
            **{name: count for name, count in sorted(counts.items()) if count},
            "words": int(words[own & kept].sum()),
            "licence_kinds": sorted(_kinds(columns, own & kept)),
        }
    benchmarks: dict[str, int] = {}
    for number in np.flatnonzero(decided.kind == Kind.BENCHMARK).tolist():
        name = blocked[int(decided.of[number])].benchmark
        benchmarks[name] = benchmarks.get(name, 0) + 1
    found = {
        "documents": {"read": len(columns)} | {name: int(side.sum()) for name, side in sides.items()},
        "words": {name: int(words[side].sum()) for name, side in sides.items()},
        "tokens": tokens,
        "dropped": count_reasons(columns, decided),
        "sources": dict(sorted(sources.items())),
        "licences": {source: ", ".join(sorted(found)) for source, found in sorted(by_source.items())},
        "licence_kinds": _kinds(columns, kept),
        "benchmarks": dict(sorted(benchmarks.items())),
        "template_texts": decided.templates,
        "unprotected_items": unprotected,
        "split_at": decided.facts.get("cutoff"),
    }
    return {name: value for name, value in found.items() if value not in ({}, None)} | {"dropped": found["dropped"]}


def _licences_by_source(columns: Columns, kept: Any) -> dict[str, set[str]]:
    numbers = columns.numbers
    pairs = np.unique(np.stack([numbers["source"][kept], numbers["licence"][kept]]), axis=1)
    found: dict[str, set[str]] = {}
    for source, licence in pairs.T.tolist():
        found.setdefault(columns.names[source], set()).add(columns.names[licence])
    return found


def _kinds(columns: Columns, kept: Any) -> dict[str, int]:
    """Kept documents by what their licences restrict; a document under two restrictions is counted under both."""
    counts: dict[str, int] = {}
    for place, count in zip(*np.unique(columns.numbers["licence"][kept], return_counts=True), strict=True):
        for trait in parse_licence(columns.names[int(place)]).traits:
            counts[trait] = counts.get(trait, 0) + int(count)
    return dict(sorted(counts.items()))


def under_agreement(licence: str) -> str:
    """A licence in words that nobody takes for an open one, publishing included."""
    return licence if AGREEMENT.search(licence) else f"{licence} (data use agreement)"
