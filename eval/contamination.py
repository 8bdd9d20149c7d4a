"""Which test items occur in training data, and what models score without them.

    python -m eval.contamination contamination.yml out=out/contamination

    # contamination.yml
    training: [out/curate, out/corpora/pubmed]
    suite: ours.yml
    benchmarks: {medec: data/medec, pubmedqa: data/pubmedqa}
    evaluations: [out/eval/base, out/eval/sft]

Every item's question (its user turns) and answer (its gold) are looked for apart, in every text of every training row,
by the screen that curation uses: by the share of its 13-grams that occur in training (`ngram`), and by the share of its
3-word shingles within a window of its length, which an edit leaves (`containment`). Inputs and outputs that curation
keeps are not flagged here. With `patients`, an item is flagged too where training rows are of its patient or document.
Training data stream past: they may be larger than memory.

Writes contamination.json, flagged.jsonl (item, rule, how much, training file and row; of texts only digests) and
contamination.md. It says what it found and drops nothing: see blocklists of mediflow.curate for that.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

import medsmith.config
from eval.benchmark import Item, limited, load_benchmark
from eval.contamination_index import FLAGS, Match, Place, Search, Wanted
from eval.contamination_scores import read_effects, share_of
from eval.contamination_tables import write_page
from eval.contamination_training import TrainingRow, count_rows, read_rows, texts_of, training_files
from eval.suite import Suite, find_suite, load_suite
from medsmith import run
from medsmith.command import run_command
from medsmith.decontaminate import Overlap
from medsmith.errors import UserError
from medsmith.progress import Bar
from medsmith.records import content_id, write_json, write_jsonl

BATCH_ROWS, BATCH_CHARACTERS = 1_000, 4_000_000
SHARES = (0.0, 0.2, 0.5, 0.8)
"""Shares of n-grams above which items are counted, so that a reader sees what another threshold would flag."""

log = logging.getLogger("eval.contamination")


class Config(medsmith.config.Config):
    """Training data, and the test sets that should not be in them."""

    libraries: ClassVar = ("polars",)

    training: list[Path] = Field(
        min_length=1, description="folders (curate, pair, corpus, rows, texts) or .jsonl, .parquet, .txt, .md files"
    )
    suite: Annotated[Path, BeforeValidator(find_suite)] = Field(description="a name in eval/suites, or a YAML file")
    benchmarks: dict[str, Path] = Field(description="the published file or folder of each benchmark of the suite")
    evaluations: list[Path] = Field([], description="folders of eval.run: scores with and without flagged items")
    patients: dict[str, str] = Field(
        {}, description="by benchmark, the field of training rows whose value is an item's patient or document"
    )
    rules: Overlap = Field(FLAGS, description="when a text counts as seen")


def main(config: Config) -> Path:
    """Write what was found into config.out."""
    with run.start(config, "eval.contamination") as this:
        suite = load_suite(config.suite, config.benchmarks)
        items = read_items(suite, config)
        files = [file for path in config.training for file in training_files(path)]
        search = Search([one for name, rows in items.items() for one in wanted_of(name, rows)], config.rules)
        patients = Patients(items, config.patients)
        training = scan(files, search, patients)
        matches = search.matches()
        flagged = flagged_rows(search, matches, patients, items)
        ids = flagged_items(flagged)
        benchmarks = {
            name: summary(name, rows, search, matches, patients, ids[name], config.seed) for name, rows in items.items()
        }
        found = {
            "protocol": suite.protocol,
            "rules": config.rules.model_dump(),
            "training": training,
            "benchmarks": benchmarks,
            "evaluations": read_effects(config.evaluations, items, ids, suite.protocol, config.seed),
        }
        write_json(this.folder / "contamination.json", found)
        write_jsonl(this.folder / "flagged.jsonl", flagged)
        write_page(this.folder / "contamination.md", found)
        for name, entry in benchmarks.items():
            log.info("%-14s %4d of %d items flagged", name, entry["flagged"]["items"], entry["items"])
        return this.finish(
            items=sum(map(len, items.values())), flagged=sum(map(len, ids.values())), training_rows=training["rows"]
        )


def read_items(suite: Suite, config: Config) -> dict[str, list[Item]]:
    """The items of every benchmark that the suite asks."""
    beyond = sorted(config.patients.keys() - suite.benchmarks.keys())
    if beyond:
        raise UserError(f"patients.{beyond[0]}: the suite {config.suite.stem} has no benchmark {beyond[0]}")
    return {
        name: limited(load_benchmark(name, suite.protocol).load(config.benchmarks[name], "test").items, settings.limit)
        for name, settings in suite.benchmarks.items()
    }


def wanted_of(benchmark: str, items: Sequence[Item]) -> Iterator[Wanted]:
    """Question and answer of every item."""
    for item in items:
        question = "\n".join(turn["content"] for turn in item.messages if turn["role"] == "user")
        yield Wanted(benchmark, item.id, item.group, "question", question)
        yield Wanted(benchmark, item.id, item.group, "answer", item.gold)


class Patients:
    """Test patients (or documents) that training rows are of: a leak even where no sentence is the same."""

    def __init__(self, items: dict[str, list[Item]], fields: dict[str, str]) -> None:
        self.fields = fields
        self.rows: dict[tuple[str, str], tuple[int, Place]] = {}
        """How many training rows are of a benchmark's group, and the first."""
        self._met: set[str] = set()
        self._groups = {name: {item.group for item in items[name]} for name in fields}

    def look(self, row: TrainingRow) -> None:
        """Note a row that is of a test patient."""
        for benchmark, field in self.fields.items():
            if row.values.get(field) is not None:
                self._met.add(field)
                group = str(row.values[field])
                if group in self._groups[benchmark]:
                    count, first = self.rows.get((benchmark, group), (0, Place(row.file, row.id, field)))
                    self.rows[benchmark, group] = count + 1, first

    def check(self) -> None:
        """UserError where a field was never met: a misspelt one would find no leak, and say so."""
        for benchmark, field in self.fields.items():
            if field not in self._met:
                raise UserError(f"patients.{benchmark}: no training row has a value of '{field}'; name another field")


def scan(files: Sequence[Path], search: Search, patients: Patients) -> dict[str, Any]:
    """Read all training rows once; what was read, file by file."""
    counts: dict[str, int] = {}
    texts: list[str] = []
    places: list[Place] = []
    characters = 0
    shortest = 2 * search.rules.min_words - 1  # letters and blanks; shorter texts have too few words to tell
    with Bar("reading training rows", sum(map(count_rows, files)), "rows") as bar:
        for file in files:
            for row in read_rows(file):
                patients.look(row)
                for field, text in texts_of(row.values):
                    if len(text) < shortest:
                        continue
                    texts.append(text)
                    places.append(Place(row.file, row.id, field))
                    characters += len(text)
                counts[str(file)] = counts.get(str(file), 0) + 1
                if len(texts) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
                    search.look(texts, places)
                    texts, places, characters = [], [], 0
                bar.advance()
        if texts:
            search.look(texts, places)
    if not counts:
        raise UserError(f"{', '.join(map(str, files))}: no training row; give files that hold rows")
    patients.check()
    files_read = [{"file": str(file), "rows": counts.get(str(file), 0)} for file in files]
    return {"rows": sum(counts.values()), "texts": search.texts, "words": search.words, "files": files_read}


def flagged_rows(
    search: Search, matches: Sequence[Match], patients: Patients, items: dict[str, list[Item]]
) -> list[dict[str, Any]]:
    """What flagged.jsonl says: one row an item, side and rule. No text, only its digest: sets may be credentialed."""
    found = []
    for match in matches:
        if search.flags(match):
            one = search.wanted[match.text]
            said = {"benchmark": one.benchmark, "id": one.item, "side": one.side, "rule": match.rule}
            where = match.place._asdict()
            found.append(said | {"amount": round(match.amount, 4), **where, "digest": content_id(one.text)})
    for name, rows in items.items():
        for item in rows:
            if (name, item.group) in patients.rows:
                count, first = patients.rows[name, item.group]
                said = {"benchmark": name, "id": item.id, "side": "patient", "rule": "patient"}
                found.append(said | {"amount": count, **first._asdict(), "digest": content_id(item.group)})
    return found


def flagged_items(flagged: Sequence[dict[str, Any]]) -> dict[str, set[str]]:
    """The ids of flagged items by benchmark."""
    ids: dict[str, set[str]] = defaultdict(set)
    for row in flagged:
        ids[row["benchmark"]].add(row["id"])
    return ids


def summary(
    name: str,
    items: Sequence[Item],
    search: Search,
    matches: Sequence[Match],
    patients: Patients,
    flagged: set[str],
    seed: int,
) -> dict[str, Any]:
    """What contamination.json says of one benchmark."""
    sides: dict[str, dict[str, Any]] = {}
    seen: dict[str, set[str]] = {}
    for side in ("question", "answer"):
        numbers = [n for n, one in enumerate(search.wanted) if (one.benchmark, one.side) == (name, side)]
        own = set(numbers)
        of_side = [match for match in matches if match.text in own]
        seen[side] = {search.wanted[match.text].item for match in of_side if search.flags(match)}
        sides[side] = search.describe(numbers) | _by_rule(of_side, search) | {"seen": share_of(seen[side], items, seed)}
    both = seen["question"] & seen["answer"]
    of_patients = {item.id for item in items if (name, item.group) in patients.rows}
    return {
        "items": len(items),
        "flagged": share_of(flagged, items, seed),
        "both": share_of(both, items, seed),
        "patient": share_of(of_patients, items, seed) if name in patients.fields else None,
        **sides,
    }


def _by_rule(matches: Sequence[Match], search: Search) -> dict[str, Any]:
    counts = {
        rule: sum(match.rule == rule and search.flags(match) for match in matches) for rule in ("ngram", "containment")
    }
    shares = [match.amount for match in matches if match.rule == "ngram"]
    above = {f"{share:g}": sum(value > share or value == share > 0 for value in shares) for share in SHARES}
    return counts | {"ngram_share_at_least": above}


if __name__ == "__main__":
    run_command(main, Config)
