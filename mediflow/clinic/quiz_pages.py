"""Pages on one disease that examination questions are asked about: an abstract, an encyclopedia page, a guideline.

They tell many things of a disease at once. What the corpora of experts say, one subject each, is in `corpora`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from mediflow.clinic.knowledge import Disease, load_knowledge


def _both(words: tuple[str, ...], rng: random.Random) -> str:
    order = rng.sample(words, len(words))
    return order[0] if len(order) == 1 else f"{', '.join(order[:-1])} and {order[-1]}"


def _abstract(d: Disease, rng: random.Random) -> tuple[str, str]:
    drug, other = rng.sample(d.drugs, 2)
    patients, share = rng.randint(4, 90) * 10, rng.randint(12, 68)
    symptom = rng.choice(d.symptoms)
    finding = f" Imaging of the {d.region} with {d.finding} was required." if d.finding and rng.random() < 0.5 else ""
    control = rng.choice(("placebo", other.name))
    result = rng.choice(
        (
            f"{symptom[0].upper()}{symptom[1:]} improved in {share} % of patients on {drug.name}.",
            f"Treatment with {drug.name} reduced {symptom} by {share} %.",
        )
    )
    text = (
        f"BACKGROUND: {rng.choice(('Patients with', 'Adults with'))} {d.name} "
        f"often suffer from {_both(d.symptoms, rng)}. "
        f"METHODS: We randomly assigned {patients} patients with {d.name} ({d.abbreviation}) "
        f"to {drug.name} {drug.dose} {drug.unit} or {control}.{finding} The {d.lab.name} was measured. "
        f"RESULTS: {result} "
        f"CONCLUSIONS: {drug.name[0].upper()}{drug.name[1:]} is effective in {d.name}."
    )
    return f"{drug.name[0].upper()}{drug.name[1:]} in {d.name}: a simulated trial", text


def _encyclopedia(d: Disease, rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(d.drugs, 2)
    lab = {"high": "is usually high", "low": "is usually low", "normal": "is usually normal"}[d.lab.value]
    sentences = [
        f"{d.name[0].upper()}{d.name[1:]} ({d.abbreviation}) is a disease that belongs to {d.specialty}.",
        rng.choice((f"Its symptoms are {_both(d.symptoms, rng)}.", f"People with it have {_both(d.symptoms, rng)}.")),
        rng.choice(
            (
                f"It is treated with {first.name} or {second.name}.",
                f"{first.name[0].upper()}{first.name[1:]} and {second.name} are used for {d.name}.",
            )
        ),
        f"The laboratory test is {d.lab.name}, which {lab}.",
        f"The ICD-10-CM code of {d.name} is {d.code}.",
    ]
    if d.finding:
        sentences.append(f"Imaging of the {d.region} can show a {d.finding}.")
    return d.name[0].upper() + d.name[1:], " ".join([sentences[0], *rng.sample(sentences[1:], len(sentences) - 1)])


def _guideline(d: Disease, rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(d.drugs, 2)
    wrong = rng.choice([x for x in load_knowledge() if x.name != d.name]).drugs[0]
    weeks = rng.randint(2, 12)
    parts = [
        f"Suspect {d.name} in adults with {_both(d.symptoms, rng)}.",
        f"Measure the {d.lab.name} in everyone with suspected {d.name}.",
        f"Offer {first.name} {first.dose} {first.unit} as first treatment of {d.name}.",
        f"If {first.name} is not tolerated, offer {second.name} {second.dose} {second.unit}.",
        f"Do not offer {wrong.name} for {d.name}.",
        f"Refer to {d.specialty} and review after {weeks} weeks.",
    ]
    if d.finding:
        parts.append(f"Look for a {d.finding} on imaging of the {d.region}.")
    kept = [*parts[:3], *rng.sample(parts[3:], 3)]
    return f"Guideline: {d.name}", " ".join(f"{n}. {part}" for n, part in enumerate(kept, 1))


PAGES: dict[str, Callable[[Disease, random.Random], tuple[str, str]]] = {
    "pubmed": _abstract,
    "medwiki": _encyclopedia,
    "guidelines": _guideline,
}
