"""Compare two evaluations item by item: what is a real gain, what is noise, and what was unlearned?

    medsmith eval.compare out/eval/base out/eval/sft

Writes compare.md and compare.json (by benchmark the paired difference with its interval, p, verdict, and the smallest
difference that could have been found; by corpus the same of nats a token) and changed.jsonl (every item whose score
changed, right → wrong first). What only one of the two was asked is named and compared with nothing.
Verdicts follow Holm's correction over all headlines and corpora together; those on secondary metrics, of which there
are many and which decide nothing, Benjamini and Hochberg's. Texts of credentialed sets stay out unless keep_text=true.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

import medsmith.config
from eval import statistics
from eval.compare_documents import describe, document_tables, documents_of
from eval.compare_page import render
from eval.metrics import find_metric, table_of
from eval.results import read_result
from eval.statistics import FEWEST_GROUPS, Difference, Table, benjamini_hochberg, holm, mark
from medsmith import run
from medsmith.command import run_command
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.records import content_id, read_jsonl, write_json, write_jsonl

log = logging.getLogger("eval.compare")

Samples = dict[str, dict[str, dict[str, Any]]]
"""Rows of samples.jsonl by benchmark and id."""
CORRECTIONS = {"holm": holm, "benjamini_hochberg": benjamini_hochberg}
WORDS = {"gain": "real gain", "loss": "real loss"}
DIGEST = "sha256:"
ALIKE = ("version", "metric", "slice_mean", "settings")


class Config(medsmith.config.Config):
    """Two finished evaluations, which share benchmarks or corpora."""

    positional: ClassVar = ("before", "after")

    out: Path = execution(Path("out/compare"), "the folder that is written; unset: out/compare/BEFORE-AFTER")
    before: Path = Field(description="a folder of eval.run")
    after: Path = Field(description="a folder of eval.run on the same data and limits")
    correction: Literal["holm", "benjamini_hochberg"] = Field(
        "holm", description="over the benchmarks' headlines and the corpora"
    )
    keep_text: bool = Field(
        False, description="write texts of credentialed benchmarks, where the evaluations hold them"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_folder(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "out" in values or not {"before", "after"} <= values.keys():
            return values
        ends = [Path(values[key]).resolve() for key in ("before", "after")]
        names = [end.name for end in ends]
        if names[0] == names[1]:
            names = [f"{end.parent.name}-{end.name}" for end in ends]
        return values | {"out": Path("out/compare") / "-".join(names)}


def main(config: Config) -> Path:
    """Write the comparison into config.out."""
    with run.start(config, "eval.compare") as this:
        results = [read_result(folder) for folder in (config.before, config.after)]
        shared = shared_parts(*results)
        check_alike(results[0], results[1], shared["benchmarks"])
        entries = {name: results[0]["benchmarks"][name] for name in shared["benchmarks"]}
        before, after = (
            {name: rows for name, rows in samples_of(folder).items() if name in entries}
            for folder in (config.before, config.after)
        )
        for name in entries:
            check_items(name, before.get(name, {}), after.get(name, {}))
        read = [documents_of(folder) for folder in (config.before, config.after)]
        corpora = {name: document_tables(name, *(one[name] for one in read)) for name in shared["corpora"]}
        found = {
            "before": results[0]["model"],
            "after": results[1]["model"],
            "protocol": results[0]["protocol"],
            "simulated": any(entry.get("simulated") for entry in entries.values()),
            "only_before": shared["only_before"],
            "only_after": shared["only_after"],
            **compare(entries, before, after, corpora, config.correction, config.seed),
        }
        shown = {
            name: config.keep_text or entry["access"] == "open" or bool(entry["simulated"])
            for name, entry in entries.items()
        }
        changed = changes(before, after, shown)
        page = render(found, changed)
        write_json(this.folder / "compare.json", found)
        write_jsonl(this.folder / "changed.jsonl", changed)
        (this.folder / "compare.md").write_text(page, encoding="utf-8")
        log.info("\n%s", page.partition("\n## ")[0])
        documents = sum(len(pair[0].ids) for pair in corpora.values())
        return this.finish(items=sum(map(len, before.values())), changed=len(changed), documents=documents)


def shared_parts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[str]]:
    """The benchmarks and the corpora that both were asked, and what only one of them was.

    Raises:
        UserError: they share nothing, or read documents in windows of different lengths.
    """
    pairs = {
        "benchmarks": (before["benchmarks"], after["benchmarks"]),
        "corpora": (before.get("perplexity") or {}, after.get("perplexity") or {}),
    }
    found = {kind: [name for name in ours if name in theirs] for kind, (ours, theirs) in pairs.items()}
    for side, (mine, other) in {"only_before": (0, 1), "only_after": (1, 0)}.items():
        found[side] = [name for pair in pairs.values() for name in pair[mine] if name not in pair[other]]
    if not found["benchmarks"] and not found["corpora"]:
        raise UserError(
            f"the two share no benchmark and no corpus (one has {', '.join(found['only_before']) or 'none'}, the other "
            f"{', '.join(found['only_after']) or 'none'}); evaluate both on one suite"
        )
    windows = [result.get("window") for result in (before, after)]
    if found["corpora"] and windows[0] != windows[1]:
        raise UserError(f"documents were read in windows of {windows[0]} and of {windows[1]} tokens; set one window")
    return found


def check_alike(before: dict[str, Any], after: dict[str, Any], names: Sequence[str]) -> None:
    """UserError where the two were not asked and scored alike on the benchmarks of these names."""
    if before["protocol"] != after["protocol"]:
        raise UserError(f"protocols {before['protocol']} and {after['protocol']} differ; evaluate both under one")
    ours, theirs = before["benchmarks"], after["benchmarks"]
    for name in names:
        for key in ALIKE:
            if key not in ours[name] or key not in theirs[name]:
                raise UserError(f"{name}: an evaluation of an older version does not say its {key}; evaluate again")
            if ours[name][key] != theirs[name][key]:
                raise UserError(
                    f"{name}: {key} is {ours[name][key]} in one and {theirs[name][key]} in the other; evaluate again"
                )


def check_items(name: str, before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> None:
    """UserError where the two were not asked the same items, or one file had other golds than the other."""
    only = sorted(before.keys() ^ after.keys())
    if only:
        raise UserError(
            f"{name}: {len(only)} items are in only one of the two (e.g. '{only[0]}'); "
            "compare runs of one suite and limit"
        )
    for key, old in before.items():
        new = after[key]
        same = all(old[part] == new[part] for part in ("group", "slice", "weight"))
        if not same or _digest(old["gold"]) != _digest(new["gold"]):
            raise UserError(f"{name}: item '{key}' is another in the two; evaluate both on the same file")


def samples_of(folder: Path) -> Samples:
    """The samples of an evaluation by benchmark and id."""
    found: Samples = defaultdict(dict)
    for row in read_jsonl(folder / "samples.jsonl"):
        found[row["benchmark"]][row["id"]] = row
    return dict(found)


def compare(
    entries: dict[str, dict[str, Any]],
    before: Samples,
    after: Samples,
    corpora: dict[str, tuple[Table, Table, str]],
    correction: str,
    seed: int,
) -> dict[str, Any]:
    """Every headline and corpus, corrected together; secondary metrics; and the average over the benchmarks."""
    pairs = {
        name: _tables(before[name], after[name], entry["metric"], entry["slice_mean"])
        for name, entry in entries.items()
    }
    headlines = {name: statistics.difference(*pair, seed=seed) for name, pair in pairs.items()}
    read = {name: statistics.difference(pair[0], pair[1], seed=seed) for name, pair in corpora.items()}
    # One family: whoever looks at benchmarks and perplexities looks at all of them for a difference.
    family = {("benchmark", name): one for name, one in headlines.items()} | {
        ("corpus", name): one for name, one in read.items()
    }
    losses = {("benchmark", name): find_metric(entry["metric"]).loss for name, entry in entries.items()}
    verdicts = _judged(family, losses | {("corpus", name): True for name in read}, correction)
    others = {
        (name, metric): pair
        for name, entry in entries.items()
        for metric, pair in _secondary(before[name], after[name], entry["metric"]).items()
    }
    seconds = {key: statistics.difference(*pair, seed=seed) for key, pair in others.items()}
    judged = _judged(seconds, {key: find_metric(key[1]).loss for key in seconds}, "benjamini_hochberg")
    benchmarks = {}
    for name, entry in entries.items():
        second = {key[1]: _shown(others[key], seconds[key], judged[key]) for key in others if key[0] == name}
        benchmarks[name] = {
            "metric": entry["metric"],
            "definition": find_metric(entry["metric"]).definition,
            **_shown(pairs[name], headlines[name], verdicts["benchmark", name]),
            **counts_of(before[name], after[name]),
            "secondary": second,
        }
    return {
        "correction": correction,
        "secondary_correction": "benjamini_hochberg",
        "benchmarks": benchmarks,
        "average": _average(list(pairs.values()), seed) if pairs else None,
        "perplexity": {name: describe(pair, read[name]) | verdicts["corpus", name] for name, pair in corpora.items()},
    }


def counts_of(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is counted item by item: scores that rose and fell, the share that stayed, and what could not be read."""
    deltas = [after[key]["score"] - row["score"] for key, row in before.items()]
    return {
        "up": sum(delta > 0 for delta in deltas),
        "down": sum(delta < 0 for delta in deltas),
        "agreement": sum(delta == 0 for delta in deltas) / len(deltas),
        "unreadable": {
            side: sum(bool(row["unreadable"]) for row in rows.values())
            for side, rows in (("before", before), ("after", after))
        },
    }


def changes(before: Samples, after: Samples, shown: dict[str, bool]) -> list[dict[str, Any]]:
    """Items whose score changed, right → wrong first, with both outputs; None for texts that are withheld."""
    rows = []
    for name, items in before.items():
        for key, old in items.items():
            new = after[name][key]
            if new["score"] == old["score"]:
                continue
            texts = {"gold": old["gold"], "before": old["output"], "after": new["output"], "prompt": old["prompt"]}
            rows.append(
                {
                    "benchmark": name,
                    "id": key,
                    "change": new["score"] - old["score"],
                    "turned": turned(old["score"], new["score"]),
                    "unreadable": [side for side, row in (("before", old), ("after", new)) if row["unreadable"]],
                    **{part: text if shown[name] and not _is_digest(text) else None for part, text in texts.items()},
                }
            )
    return sorted(rows, key=lambda row: (row["change"], row["benchmark"], row["id"]))


def turned(old: float, new: float) -> str:
    """What became of an item, in words."""
    if {old, new} == {0, 1}:
        return "wrong → right" if new else "right → wrong"
    return "higher" if new > old else "lower"


def _tables(
    before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], metric: str, by_slice: bool = False
) -> tuple[Table, Table]:
    """The two tables of a metric, of the items for which both have it."""
    a, b = (table_of([rows[key] for key in before], metric, by_slice) for rows in (before, after))
    shared = set(a.ids) & set(b.ids)
    return a.only(shared), b.only(shared)


def _secondary(
    before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], headline: str
) -> dict[str, tuple[Table, Table]]:
    """The metrics beside the headline that both models have, of shared items."""
    ours, theirs = (
        {name for row in rows.values() for name in (*row["scores"], *row["counts"])} - {headline}
        for rows in (before, after)
    )
    pairs = {name: _tables(before, after, name) for name in sorted(ours & theirs)}
    return {name: pair for name, pair in pairs.items() if pair[0].ids}


def _judged(found: dict[Any, Difference], losses: dict[Any, bool], correction: str) -> dict[Any, dict[str, Any]]:
    """Corrected p and verdict of a family of differences.

    What has too few groups for any test is not tested, and no part of the family.
    """
    tested = [key for key, one in found.items() if one.groups >= FEWEST_GROUPS]
    corrected = dict(zip(tested, CORRECTIONS[correction]([found[key].p for key in tested]), strict=True))
    return {
        key: {
            "p_corrected": corrected.get(key),
            "verdict": verdict(one, corrected.get(key), losses[key]),
        }
        for key, one in found.items()
    }


def verdict(found: Difference, p: float | None, loss: bool = False) -> str:
    """The report's words: real gain, weak gain, noise, weak loss, real loss; not tested where no test could tell."""
    if p is None:
        return "not tested"
    sides = (found.value, found.low, found.high)
    name = mark(*((-sides[0], -sides[2], -sides[1]) if loss else sides), p)
    return WORDS.get(name, name)


def _shown(pair: tuple[Table, Table], found: Difference, judged: dict[str, Any]) -> dict[str, Any]:
    return {"before": pair[0].observed(), "after": pair[1].observed(), **statistics.plain(found), **judged}


def _average(pairs: list[tuple[Table, Table]], seed: int) -> dict[str, Any]:
    """The average, uncorrected: it is one question."""
    found = statistics.overall(pairs, seed)
    return {
        "before": found.before,
        "after": found.after,
        **statistics.plain(found.difference),
        "verdict": verdict(found.difference, found.difference.p),
        "datasets_gained": statistics.plain(found.datasets_gained),
        "of": len(pairs),
        "cv": statistics.plain(found.cv),
    }


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and text.startswith(DIGEST)


def _digest(text: Any) -> str:
    """Comparable where one of the two evaluations kept texts and the other did not."""
    return text if _is_digest(text) else f"{DIGEST}{content_id(text)}"


if __name__ == "__main__":
    run_command(main, Config)
