"""How many planted wrong facts does the verifier find, and how often does it accuse a true text?

    python -m benchmarks.verify --examples 24000

Simulated throughout: patients, documents and answers are the simulated clinic's (all tasks, all inputs), with one fact
altered in 5 % of the examples. The other tables are in other words
(`paraphrases.py`, `paraphrases_held_out.py`): sets on which the rules were mended. An altered fact counts where the
text states it; it is found where a contradiction of its own kind is. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.paraphrases import LATER_WORDINGS, WORDINGS, paraphrase
from benchmarks.paraphrases_held_out import HELD_OUT_WORDINGS
from benchmarks.paraphrases_independent import write_independent
from mediflow.checking.verify import PARTS, verify_example
from mediflow.clinic.answers import ask
from mediflow.clinic.documents import write_note
from mediflow.clinic.patients import Patient, draw_patient
from mediflow.clinic.plant import Planted, plant
from mediflow.taxonomy import TaskType, Taxonomy, load_taxonomy
from medsmith.intervals import wilson

TRIES = 30
# What a fact of one kind changes may rightly show as another: a disease's drugs and codes change with it.
SHOWS_AS = {
    "diagnosis": {"diagnosis", "drug", "negation", "code"},
    "drug": {"drug", "dose", "frequency"},
    "lab_flag": {"lab_flag", "lab_value"},
    "unit": {"unit", "dose"},
    "dose": {"dose", "unit"},
}


class Example(NamedTuple):
    """An example with the parts of it that state facts."""

    asserts: tuple[str, ...]
    input: str
    output: str

    def stated(self) -> str:
        """What states facts."""
        return "\n".join(PARTS[part](self.input, self.output) for part in self.asserts)


Write = Callable[[Patient, int], Example]


@dataclass
class Result:
    """Counts of one set of examples."""

    planted: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    """Those of whose own kind there is a finding."""
    noticed: int = 0
    """Those with any finding at all."""
    clean: int = 0
    accused: int = 0
    statements: int = 0
    microseconds: list[float] = field(default_factory=list)
    missed: list[tuple[Planted, str]] = field(default_factory=list)
    wrongly: list[str] = field(default_factory=list)


def measure(write: Write, examples: int, share: float, seed: int) -> Result:
    """Write, alter a share of them, verify."""
    result = Result()
    for number in range(examples):
        rng = random.Random(f"verify {seed} {number}")
        patient = draw_patient(900 + seed, number)
        example, planted = write(patient, number), None
        if rng.random() < share:
            example, planted = _wrong(write, patient, number, example, rng)
        facts = json.loads(json.dumps(patient.facts()))
        before = time.process_time()
        verified = verify_example(example.asserts, facts, example.input, example.output)
        result.microseconds.append(1e6 * (time.process_time() - before) / len(example.asserts))
        result.statements += verified.checked
        if planted is None:
            result.clean += 1
            result.accused += bool(verified.contradicted)
            result.wrongly += [f"{one.kind}: said {one.said}, true {one.true}" for one in verified.contradicted]
        else:
            result.planted[planted.kind] += 1
            found = any(one.kind in SHOWS_AS.get(planted.kind, {planted.kind}) for one in verified.contradicted)
            result.found[planted.kind] += found
            result.noticed += bool(verified.contradicted)
            if not found:
                result.missed.append((planted, example.stated()))
    return result


def _wrong(
    write: Write, patient: Patient, number: int, true: Example, rng: random.Random
) -> tuple[Example, Planted | None]:
    """The example about the altered patient; facts are altered in turn until one shows in what it states."""
    for _ in range(TRIES):
        altered, planted = plant(patient, rng)
        written = write(altered, number)
        wrong = Example(written.asserts, planted.apply(written.input), planted.apply(written.output))
        stated = wrong.stated()
        if stated != true.stated() and (not planted.marks or any(mark in stated for mark in planted.marks)):
            return wrong, planted
    return true, None


def clinic_writer(taxonomy: Taxonomy) -> Write:
    """The clinic's own wording: every task on every input, both formats."""
    inputs, tasks = taxonomy.inputs(), list(taxonomy.tasks.values())

    def write(patient: Patient, number: int) -> Example:
        rng = random.Random(f"clinic {number}")
        task: TaskType = rng.choice(tasks)
        document, section = rng.choice(inputs)
        note = write_note(taxonomy.documents[document], section, patient, rng, task.needs)
        exchange = ask(task.name, note, patient, rng)
        return Example(task.asserts, exchange.input, exchange.output(rng.choice(("json", "plain_text"))))

    return write


def paraphrase_writer(wordings: dict[str, list[str]]) -> Write:
    """Other words; the document alone."""
    return lambda patient, number: Example(
        ("input",), paraphrase(patient, random.Random(f"other {number}"), wordings), ""
    )


def independent_writer(patient: Patient, number: int) -> Example:
    """Wordings and asides by an author who had not read the rules; the document alone."""
    return Example(("input",), write_independent(patient, random.Random(f"independent {number}")), "")


def lines(title: str, result: Result) -> Iterator[str]:
    """The result as a Markdown table."""
    found, planted = sum(result.found.values()), sum(result.planted.values())
    yield f"\n### {title} (simulated)\n"
    yield f"{result.clean} true examples, {planted} with one wrong fact; {result.statements} statements compared."
    yield f"a finding of any kind in {wilson(result.noticed, planted)} of the wrong ones"
    yield f"recall {wilson(found, planted)}, precision {wilson(found, max(1, found + result.accused))}"
    yield f"true examples accused: {result.accused} of {result.clean} ({wilson(result.accused, result.clean)})"
    kinds = Counter(one.split(":")[0] for one in result.wrongly)
    yield f"contradictions found in them, by kind: {', '.join(f'{k} {n}' for k, n in kinds.most_common()) or 'none'}"
    cuts = statistics.quantiles(result.microseconds, n=20)
    yield f"CPU: median {statistics.median(result.microseconds):.0f} µs a text, 95 % below {cuts[-1]:.0f} µs\n"
    yield "| kind | planted | found | recall (95 % interval) |"
    yield "| --- | ---: | ---: | --- |"
    for kind in sorted(result.planted):
        share = wilson(result.found[kind], result.planted[kind])
        yield f"| {kind} | {result.planted[kind]} | {result.found[kind]} | {share} |"


def main() -> None:
    """Read the command line, measure both sets, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=24_000)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--misses", type=int, default=0, help="print as many missed and wrongly accused texts")
    parser.add_argument("--sets", nargs="*", default=[], help="only sets whose title has one of these")
    given = parser.parse_args()
    sets = {
        "the clinic's wording": clinic_writer(load_taxonomy()),
        "other wording, on which the rules were mended": paraphrase_writer(WORDINGS),
        "other wording, the second set for mending": paraphrase_writer(LATER_WORDINGS),
        "other wording, the third set for mending": paraphrase_writer(HELD_OUT_WORDINGS),
        "independent wording, not seen": independent_writer,
    }
    for title, write in sets.items():
        if given.sets and not any(one in title for one in given.sets):
            continue
        result = measure(write, given.examples, given.share, given.seed)
        print("\n".join(lines(title, result)), flush=True)
        for planted, text in result.missed[: given.misses]:
            print(f"missed {planted.kind}: {planted.true} -> {planted.said}\n    {text[:400]}")
        for text, count in Counter(result.wrongly).most_common(given.misses):
            print(f"wrongly accused {count} x {text}")


if __name__ == "__main__":
    main()
