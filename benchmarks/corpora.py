"""A million short documents through `experts.corpora`: documents a second, memory, and what of the planted is found.

    python -m benchmarks.corpora --documents 1000000 --folder /tmp/corpora

Documents are made here: sentences of words drawn at random (so that nothing repeats by chance), 40 to 120 words. Among
them are planted copies in other case, near copies (one word in fifty changed), texts of a benchmark, and documents
under a non-commercial licence; what was planted is known by id. Each line of the table is a process of its own with a
folder of its own, its peak memory is that of the whole process tree. `cut` was killed half way and started again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, run_measured, table
from medsmith.records import read_json, read_jsonl, to_line, write_json

HOUR = 3600.0
VOCABULARY = 20_000
KINDS = {"copy": 0.02, "near": 0.02, "benchmark": 0.001, "non-commercial": 0.05}
"""The share of documents of each kind; the rest is plain."""
BENCHMARK_ITEMS = 1_000
REASONS = {"copy": "same text", "near": "near duplicate", "benchmark": "holds a text", "non-commercial": "licence"}
SETTINGS: dict[str, tuple[str, ...]] = {
    "clean, exact, licences, split": (),
    "and near duplicates at 0.8": ("near_duplicates.threshold=0.8",),
    "and a benchmark's texts": ("near_duplicates.threshold=0.8", "blocklists=[{folder}/benchmark.jsonl]"),
}


def main() -> None:
    """Write the corpus, run every setting, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    folder: Path = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "truth.json").is_file():
        make(folder, given.documents, given.seed)
    results = [measure(folder, name, settings) for name, settings in SETTINGS.items()]
    results.append(
        measure(folder, "the last, cut half way", SETTINGS["and a benchmark's texts"], results[-1]["seconds"])
    )
    write_json(folder / "result.json", results)
    size = (folder / "corpus.jsonl").stat().st_size
    print(f"{machine()}; {given.documents:,} documents, {size / 1e6:,.0f} MB\n")
    print(show(results))


def make(folder: Path, documents: int, seed: int) -> None:
    """corpus.jsonl, benchmark.jsonl and truth.json {id: kind}."""
    rng = random.Random(seed)
    items = [text_of(rng, 30) for _ in range(BENCHMARK_ITEMS)]
    (folder / "benchmark.jsonl").write_bytes(b"".join(to_line({"question": item}) for item in items))
    truth: dict[str, str] = {}
    with (folder / "corpus.jsonl").open("wb") as file:
        for row, kind in rows(rng, documents, items):
            file.write(to_line(row))
            if kind != "plain":
                truth[row["id"]] = kind
    write_json(folder / "truth.json", truth)


def rows(rng: random.Random, documents: int, items: list[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Documents and what each is."""
    plain = [text_of(rng, rng.randint(40, 120))]
    names, weights = ["plain", *KINDS], [1 - sum(KINDS.values()), *KINDS.values()]
    for number, kind in enumerate(rng.choices(names, weights, k=documents)):
        licence, text = "CC BY", text_of(rng, rng.randint(40, 120))
        if kind == "copy":
            text = rng.choice(plain).upper().replace(" ", "  ")
        elif kind == "near":
            text = edited(rng, rng.choice(plain))
        elif kind == "benchmark":
            text = f"{text} {rng.choice(items)}"
        elif kind == "non-commercial":
            licence = "CC BY-NC"
        elif len(plain) < 100_000:
            plain.append(text)
        else:
            plain[rng.randrange(len(plain))] = text
        yield {"id": f"d{number}", "title": "", "text": text, "source": f"s{number % 5}", "license": licence}, kind


def text_of(rng: random.Random, words: int) -> str:
    """Sentences of words that mean nothing."""
    drawn = [f"w{rng.randrange(VOCABULARY)}" for _ in range(words)]
    return ". ".join(" ".join(drawn[start : start + 12]) for start in range(0, words, 12)) + "."


def edited(rng: random.Random, text: str) -> str:
    """The text with one word in fifty changed, at least one."""
    words = text.split(" ")
    for place in rng.sample(range(len(words)), max(1, len(words) // 50)):
        words[place] = f"w{rng.randrange(VOCABULARY)}"
    return " ".join(words)


def measure(folder: Path, name: str, settings: tuple[str, ...], cut_of_seconds: float = 0) -> dict[str, Any]:
    """One run from nothing, or one that goes on after it was killed at half of the seconds that it needs."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable, "-m", "experts.corpora", f"out={out}", f"corpus={folder / 'corpus.jsonl'}",
        "licences.deny=[non-commercial]", *(one.format(folder=folder) for one in settings),
    ]  # fmt: skip
    if cut_of_seconds:
        assert run_measured(command, folder, cut_of_seconds / 2).stopped, "it was to be killed"
    used = run_measured(command, folder, 2 * HOUR)
    assert used.code == 0, (folder / "log.txt").read_text()[-2000:]
    counts = read_json(out / "corpus.json")["documents"]
    return {
        "settings": name,
        "documents": counts["read"],
        "seconds": used.seconds,
        "cpu": used.cpu,
        "peak_mb": used.peak_mb,
        **score(folder, out),
    }


def score(folder: Path, out: Path) -> dict[str, Any]:
    """The share of each kind dropped for its own reason, and documents dropped in which nothing was planted."""
    truth: dict[str, str] = json.loads((folder / "truth.json").read_text())
    found: Counter[str] = Counter()
    plain = 0
    for row in read_jsonl(out / "dropped.jsonl"):
        kind = truth.get(row["id"])
        plain += kind is None
        found[kind or ""] += kind is not None and row["reason"].startswith(REASONS[kind])
    totals = Counter(truth.values())
    return {"recall": {kind: found[kind] / totals[kind] for kind in KINDS if totals[kind]}, "plain_dropped": plain}


def show(results: list[dict[str, Any]]) -> str:
    """One line a setting."""
    lines = [
        [
            one["settings"],
            f"{one['seconds']:,.0f}",
            f"{one['documents'] / one['seconds']:,.0f}",
            f"{one['cpu']:,.0f}",
            f"{one['peak_mb']:,.0f}",
            *(f"{one['recall'].get(kind, 0):.3f}" for kind in KINDS),
            one["plain_dropped"],
        ]
        for one in results
    ]
    return table(["settings", "seconds", "documents a second", "CPU s", "peak MB", *KINDS, "plain dropped"], lines)


if __name__ == "__main__":
    main()
