"""Worlds of invented diseases: `base`, which the embedded base model was taught about, and the `second` clinic.

Names of diseases, drugs and abbreviations are made of syllables and are those of nothing else here; codes of `base` do
not exist (chapter U of ICD-10-CM is nearly empty), codes of `second` do, since checks look them up, but stand for
something else there. Words for symptoms, tests, specialties and findings are the clinic's own: words are shared, facts
are not.
"""

from __future__ import annotations

import random

from mediflow.clinic.diseases import Disease, Drug, Lab, read_clinic

SIZES = {"base": 120, "second": 42}
ONSETS = [
    "b",
    "br",
    "c",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "sk",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "io", "ou"]
ENDS = ["", "n", "r", "l", "s", "m", "t", "k", "x", "nd", "rt", "lm"]
DRUG_ENDS = [
    "tinib",
    "mab",
    "olol",
    "azine",
    "cillin",
    "oxan",
    "idone",
    "stat",
    "pril",
    "artan",
    "ide",
    "amine",
    "azole",
    "cycline",
    "profen",
    "vir",
    "etine",
    "urea",
    "onide",
    "afil",
]
KINDS = [
    "syndrome",
    "disease",
    "fever",
    "palsy",
    "sclerosis",
    "dystrophy",
    "dermatitis",
    "neuropathy",
    "nephritis",
    "insufficiency",
    "obstruction",
    "deficiency",
    "infection",
    "atrophy",
]
ENDINGS = ["osis", "itis", "emia", "oma", "algia"]
DOSES = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 100, 120, 150, 200, 250, 300, 325, 400, 500, 600, 650, 800)
UNITS = ("mg", "mcg", "g")
CODES = [
    "A02.1",
    "A15.5",
    "A27.0",
    "A35",
    "B02.9",
    "B26.2",
    "B50.8",
    "C18.4",
    "C43.9",
    "C73",
    "D12.2",
    "D61.1",
    "D70.1",
    "E20.0",
    "E55.9",
    "E75.5",
    "F40.1",
    "F51.3",
    "G12.1",
    "G25.0",
    "G61.0",
    "H10.5",
    "H35.0",
    "H81.0",
    "I27.1",
    "I34.2",
    "I73.1",
    "I88.9",
    "J32.4",
    "J61",
    "J86.0",
    "K35.2",
    "K44.9",
    "L10.4",
    "L40.3",
    "M35.2",
    "M65.4",
    "N04.5",
    "N13.1",
    "N61.0",
    "N80.1",
    "R55",
]
"""Codes of the second clinic; the clinic written by hand has none of them."""


def invent(world: str) -> tuple[Disease, ...]:
    """The diseases of `base` or `second`; the same for ever. Raises KeyError for another name."""
    count = SIZES[world]
    rng = random.Random(f"invented {world}")
    clinic = read_clinic()
    taken = {part for d in clinic for part in (d.name, d.abbreviation, *(drug.name for drug in d.drugs))}
    if world == "second":
        taken |= {part for d in invent("base") for part in (d.name, d.abbreviation, *(drug.name for drug in d.drugs))}
    symptoms = sorted({symptom for d in clinic for symptom in d.symptoms})
    labs = sorted({(d.lab.name, d.lab.unit, d.lab.low, d.lab.high) for d in clinic})
    specialties = sorted({d.specialty for d in clinic})
    imaging = sorted({(d.region, d.finding) for d in clinic if d.region and d.finding})
    codes = CODES if world == "second" else _codes(rng, count)
    found = []
    for number in range(count):
        name = _new(taken, lambda: _disease(rng))
        drugs = tuple(
            Drug(_new(taken, lambda: _drug(rng)), str(rng.choice(DOSES)), rng.choice(UNITS[:2])) for _ in range(2)
        )
        test, unit, low, high = rng.choice(labs)
        region, finding = rng.choice(imaging) if rng.random() < 0.6 else (None, None)
        found.append(
            Disease(
                name=name,
                abbreviation=_new(taken, lambda n=name: _abbreviation(n, rng)),
                code=codes[number],
                common=number % 2 == 0,
                specialty=rng.choice(specialties),
                symptoms=tuple(rng.sample(symptoms, 3)),
                drugs=drugs,
                lab=Lab(test, unit, low, high, rng.choice(("high", "low", "normal"))),
                region=region,
                finding=finding,
            )
        )
    return tuple(found)


def _new(taken: set[str], make: object) -> str:
    """A name that nothing has and that is part of no other."""
    assert callable(make)
    while True:
        name = str(make())
        folded = name.lower()
        if not any(folded in other.lower() or (len(other) > 3 and other.lower() in folded) for other in taken):
            taken.add(name)
            return name


def word(rng: random.Random, syllables: int) -> str:
    """A word that means nothing."""
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)]
    return "".join(parts) + rng.choice(ENDS)


def _disease(rng: random.Random) -> str:
    return f"{word(rng, 2)} {rng.choice(KINDS)}" if rng.random() < 0.6 else word(rng, 2) + rng.choice(ENDINGS)


def _drug(rng: random.Random) -> str:
    return word(rng, rng.choice((1, 2))) + rng.choice(DRUG_ENDS)


def _abbreviation(name: str, rng: random.Random) -> str:
    letters = [name[0], *rng.sample(name[1:].replace(" ", ""), 2)]
    return "".join(letters).upper() + rng.choice("XYZQW")


def _codes(rng: random.Random, count: int) -> list[str]:
    numbers = rng.sample(range(100, 1000), count)
    return [f"U{number // 10}.{number % 10}" for number in numbers]
