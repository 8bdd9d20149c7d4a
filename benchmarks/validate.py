"""What checking a JSON record against a schema costs, and whether the libraries agree.

    python -m benchmarks.validate --rounds 9

Every validator judges the same records of all task types (answers of the simulated clinic) and planted faults of each.
Microseconds of CPU a record, parsing included where it is said; median and spread (least to most) over rounds that take
the validators in turn. `agrees` is the share of verdicts that are jsonschema's. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from mediflow.checking.validate import check_json, check_value
from mediflow.clinic.answers import ask
from mediflow.clinic.documents import write_note
from mediflow.clinic.patients import draw_patients
from mediflow.taxonomy import WHOLE, load_taxonomy

Judge = Callable[[int], bool]
Record = tuple[str, Any, dict[str, Any]]


def records(count: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Right answers of all tasks with their schemas, and each with one fault."""
    taxonomy = load_taxonomy()
    right, wrong = [], []
    for number, patient in enumerate(draw_patients(seed, count)):
        rng = random.Random(number)
        task = list(taxonomy.tasks.values())[number % len(taxonomy.tasks)]
        document = rng.choice(list(taxonomy.documents.values()))
        exchange = ask(task.name, write_note(document, WHOLE, patient, rng, task.needs), patient, rng)
        right.append((json.dumps(exchange.value), exchange.value, task.schema))
        broken = copy.deepcopy(exchange.value)
        key = rng.choice(list(broken))
        fault = rng.randrange(4)
        if fault == 0:
            del broken[key]
        elif fault == 1:
            broken["more"] = 1
        elif fault == 2:
            broken[key] = None
        else:
            broken = [broken]
        wrong.append((json.dumps(broken), broken, task.schema))
    return right, wrong


def judges(rows: list[Record]) -> Iterator[tuple[str, Judge]]:
    """What is installed, each as a function of a record's place."""
    from jsonschema import Draft202012Validator

    keys = [json.dumps(schema) for _, _, schema in rows]
    authority = {key: Draft202012Validator(json.loads(key)) for key in set(keys)}
    yield "json.loads alone", lambda at: json.loads(rows[at][0]) is not None
    if find_spec("orjson"):
        import orjson

        yield "orjson.loads alone", lambda at: orjson.loads(rows[at][0]) is not None
    yield "jsonschema, parsed values", lambda at: authority[keys[at]].is_valid(rows[at][1])
    if find_spec("jsonschema_rs"):
        import jsonschema_rs

        fast = {key: jsonschema_rs.Draft202012Validator(json.loads(key)) for key in set(keys)}
        yield "jsonschema-rs, parsed values", lambda at: fast[keys[at]].is_valid(rows[at][1])
    if find_spec("fastjsonschema"):
        import fastjsonschema

        compiled = {key: fastjsonschema.compile(json.loads(key)) for key in set(keys)}

        def judge(at: int) -> bool:
            try:
                compiled[keys[at]](rows[at][1])
            except fastjsonschema.JsonSchemaValueException:
                return False
            return True

        yield "fastjsonschema, parsed values", judge
    yield "ours, parsed values", lambda at: check_value(rows[at][1], rows[at][2]) is None
    yield "ours, from text", lambda at: check_json(rows[at][0], rows[at][2]) is None


def main() -> None:
    """Read the command line, measure right and wrong records, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for title, rows in zip(("right", "faulty"), records(given.records, given.seed), strict=True):
        size = statistics.mean(len(row[0]) for row in rows)
        found = dict(judges(rows))
        truth = [found["jsonschema, parsed values"](at) for at in range(len(rows))]
        times: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(given.rounds):
            for name, judge in found.items():
                before = time.process_time()
                for at in range(len(rows)):
                    judge(at)
                times[name].append(1e6 * (time.process_time() - before) / len(rows))
        print(f"\n### {len(rows)} {title} records, {size:.0f} characters on average; {sum(truth)} of them fit\n")
        print("| validator | µs a record | spread | agrees |\n| --- | ---: | ---: | ---: |")
        for name, spent in times.items():
            same = sum(found[name](at) == verdict for at, verdict in enumerate(truth)) / len(rows)
            agrees = "" if "alone" in name else f"{same:.1%}"
            print(f"| {name} | {statistics.median(spent):.2f} | {min(spent):.2f} to {max(spent):.2f} | {agrees} |")


if __name__ == "__main__":
    main()
