"""The duplicates among rows as datasketch or semhash sees them; run by benchmarks.curate, in their own environment.

    python -m benchmarks.peers.duplicates datasketch out.jsonl part-00000.jsonl …

datasketch: MinHash (128 permutations, word 3-grams) and its LSH at 0.8; its candidates are its answer. semhash: with an
encoder of hashed words, since its own model must be fetched; its threshold stays at its default, 0.9.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORD = re.compile(r"\w+")
DIMENSIONS = 256
SEMHASH_ROWS = 20_000


def main() -> None:
    """Read the rows, write {id, of} of each duplicate."""
    system, target, *files = sys.argv[1:]
    find = {"datasketch": by_datasketch, "semhash": by_semhash}[system]
    with Path(target).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps({"id": name, "of": of}) + "\n" for name, of in find(rows(files)))


def rows(files: list[str]) -> Iterator[tuple[str, str]]:
    """Each row's id and content."""
    for file in files:
        with Path(file).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield row["id"], f"{row['input']}\n{row['output']}"


def by_datasketch(given: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The first candidate of each row that LSH proposes among those kept."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=0.8, num_perm=128)
    for name, text in given:
        words = WORD.findall(text.lower())
        sketch = MinHash(num_perm=128)
        sketch.update_batch([" ".join(words[i : i + 3]).encode() for i in range(len(words) - 2)])
        found = lsh.query(sketch)
        if found:
            yield name, min(found)
        else:
            lsh.insert(name, sketch)


class Hashed:
    """Counts of hashed words, of length 1."""

    def encode(self, texts: Any, **_: Any) -> Any:
        """One vector a text."""
        import numpy as np

        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for number, text in enumerate(texts):
            for word in WORD.findall(text.lower()):
                digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")
                vectors[number, digest % DIMENSIONS] += 1 if digest >> 31 else -1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def by_semhash(given: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """What its self_deduplicate filters, each with the first row that it names as its like."""
    from semhash import SemHash

    records = [{"id": name, "text": text} for (name, text), _ in zip(given, range(SEMHASH_ROWS), strict=False)]
    index = SemHash.from_records(records, columns=["text"], model=Hashed())
    for one in index.self_deduplicate().filtered:
        near = [record for record, _ in one.duplicates]
        yield one.record["id"], near[0]["id"] if near else ""


if __name__ == "__main__":
    main()
