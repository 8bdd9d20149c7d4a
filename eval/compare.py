"""Compare two evaluations item by item: where did the second model gain, and what did it unlearn?

    python -m eval.compare out=out/compare/sft before=out/eval/mediphi after=out/eval/sft

Writes compare.json (paired differences with intervals and p) and changed.jsonl (every item whose score changed, the
largest losses first), and logs the table.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

import medsmith.config
from eval.statistics import minimum_detectable_difference, paired_difference
from medsmith import run
from medsmith.command import run_command
from medsmith.errors import UserError
from medsmith.records import read_json, read_jsonl, write_json, write_jsonl

log = logging.getLogger("eval.compare")

Samples = dict[str, dict[str, dict[str, Any]]]


class Config(medsmith.config.Config):
    """Two finished evaluations of one suite."""

    libraries: ClassVar = ()

    before: Path = Field(description="a folder of eval.run")
    after: Path = Field(description="a folder of eval.run on the same suite, data and limit")


def main(config: Config) -> Path:
    """Write the comparison into config.out."""
    with run.start(config, "eval.compare") as this:
        models = [read_json(folder / "result.json") for folder in (config.before, config.after)]
        check_alike(*models)
        before, after = samples_of(config.before), samples_of(config.after)
        entries = {name: compare(before[name], after[name], config.seed) for name in before}
        changed = list(changes(before, after))
        names = {"before": models[0]["model"], "after": models[1]["model"]}
        write_json(this.folder / "compare.json", {**names, "protocol": models[0]["protocol"], "benchmarks": entries})
        write_jsonl(this.folder / "changed.jsonl", changed)
        for name, entry in entries.items():
            log.info(
                "%-14s %+.3f [%+.3f, %+.3f] p %.3f; %d up, %d down of %d",
                *(
                    name,
                    entry["value"],
                    entry["low"],
                    entry["high"],
                    entry["p"],
                    entry["up"],
                    entry["down"],
                    entry["n"],
                ),
            )
        return this.finish(items=sum(entry["n"] for entry in entries.values()), changed=len(changed))


def check_alike(before: dict[str, Any], after: dict[str, Any]) -> None:
    """UserError where the two were not asked and scored alike."""
    if before["protocol"] != after["protocol"]:
        raise UserError(f"protocols {before['protocol']} and {after['protocol']} differ; evaluate both under one")
    ours, theirs = before["benchmarks"], after["benchmarks"]
    if ours.keys() != theirs.keys():
        only = ", ".join(sorted(ours.keys() ^ theirs.keys()))
        raise UserError(f"only one of the two was asked {only}; evaluate both on one suite")
    for name in ours:
        for key in ("version", "metric", "settings"):
            if ours[name][key] != theirs[name][key]:
                raise UserError(
                    f"{name}: {key} is {ours[name][key]} in one and {theirs[name][key]} in the other; evaluate again"
                )


def samples_of(folder: Path) -> Samples:
    """The samples of an evaluation by benchmark and id."""
    found: Samples = defaultdict(dict)
    for row in read_jsonl(folder / "samples.jsonl"):
        found[row["benchmark"]][row["id"]] = row
    return dict(found)


def compare(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """The paired difference of one benchmark, and how many items went up and down."""
    old, new = ({key: float(row["score"]) for key, row in rows.items()} for rows in (before, after))
    found = paired_difference(old, new, groups={key: row["group"] for key, row in before.items()}, seed=seed)
    deltas = [new[key] - old[key] for key in sorted(before)]
    return found._asdict() | {
        "up": sum(delta > 0 for delta in deltas),
        "down": sum(delta < 0 for delta in deltas),
        # A difference smaller than this would probably not have been found with so few items.
        "detectable": minimum_detectable_difference(deltas),
    }


def changes(before: Samples, after: Samples) -> list[dict[str, Any]]:
    """Items whose score changed, the largest losses first, with both outputs."""
    rows = []
    for name, items in before.items():
        for key, old in items.items():
            new = after[name][key]
            if new["score"] != old["score"]:
                shown = {"benchmark": name, "id": key, "change": new["score"] - old["score"], "gold": old["gold"]}
                rows.append(shown | {"before": old["output"], "after": new["output"], "prompt": old["prompt"]})
    return sorted(rows, key=lambda row: (row["change"], row["benchmark"], row["id"]))


if __name__ == "__main__":
    run_command(main, Config)
