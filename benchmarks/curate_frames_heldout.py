"""Held-out rows for benchmarks/curate.py: other genres, other words and other near-misses than curate_rows.py plants.

The frames (curate_frames_heldout.yml) and this file were written, and committed, before mediflow.curate was run on
them, by somebody who had not read its code. Paraphrases are graded: a, synonyms; b, another order and voice; c,
compressed or expanded. Near-misses differ in one fact and must be kept; `how` says whether the rest is word for word.
Not medical knowledge.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mediflow.vocabulary.drugs import confused_drugs

HERE = Path(__file__).parent
MEDIFLOW = HERE.parent / "mediflow"
SLOT = re.compile(r"\{(\w+)\}")
CHOICE = re.compile(r"\[\[(.*?)\|(.*?)\]\]")
START = re.compile(r"(^|[.!?] )([a-z])")
GRADES = ("a", "b", "c")
KINDS = {
    "case": 0.005,
    "edits 3 %": 0.01,
    "edits 8 %": 0.01,
    **{f"paraphrase {grade}": 0.01 for grade in GRADES},
}
# What a near-miss of each kind changes; the last three are rows of their own that look alike.
SLOTS = {
    "number": ("v", "v2", "v3", "dose", "dose2", "mm", "n", "n2", "bp", "hr", "deg", "kg", "ml"),
    "unit": ("lu", "du", "du2"),
    "negation": ("positive",),
    "side": ("side",),
    "drug": ("drug", "drug2"),
    "diagnosis": ("dx", "dx2"),
    "finding": ("s1", "s2"),
    "time": ("span", "span2", "weeks", "hour"),
    "frequency": ("freq",),
    "sex": ("sex",),
    "age": ("age",),
}
ALIKE = ("other task", "same template", "same disease")
MISSES = dict.fromkeys((*SLOTS, *ALIKE), 0.0025)


def _listed(text: str) -> list[str]:
    return text.split(", ")


SIGNS = _listed(
    "shortness of breath, tiredness, heart racing, queasiness, light-headedness, night-time cough, low-grade fever, "
    "loose stools, itching, poor sleep, dark urine, burning on urination, stiff joints, muscle cramps, shaky hands, "
    "tingling toes, loss of appetite, a hoarse voice, trouble swallowing, nosebleeds, ankle swelling, cold fingers, "
    "heartburn, belching, bloating, ringing in the ears, double vision, dry mouth, easy bruising, hair loss, hot "
    "flushes, forgetfulness, restlessness, a metallic taste, bleeding gums, hiccups, unsteady gait, back stiffness"
)
MORE_DISEASES = _listed(
    "myasthenia gravis, giant cell arteritis, Graves disease, Addison disease, haemochromatosis, polycythaemia vera, "
    "multiple myeloma, follicular lymphoma, aortic stenosis, hypertrophic cardiomyopathy, bronchiectasis, silicosis, "
    "autoimmune hepatitis, Barrett oesophagus, IgA nephropathy, nephrotic syndrome, restless legs syndrome, trigeminal "
    "neuralgia, alopecia areata, hidradenitis suppurativa, ankylosing spondylitis, dermatomyositis, vitiligo, "
    "lichen planus, chronic sinusitis, Meniere disease, dry eye disease, uveitis, panic disorder, bulimia nervosa"
)
MORE_DRUGS = _listed(
    "pyridostigmine, hydroxyurea, lenalidomide, ivabradine, sacubitril, roflumilast, ursodiol, rifaximin, cinacalcet, "
    "midodrine, fludrocortisone, dapsone, acitretin, apremilast, baclofen, tizanidine, riluzole, varenicline"
)
LABS = [
    line.split("|")
    for line in (
        "serum sodium|mmol/L|mg/dL", "haemoglobin|g/dL|g/L", "creatinine|mg/dL|umol/L", "potassium|mmol/L|mg/dL",
        "fasting glucose|mmol/L|mg/dL", "lactate|mmol/L|mg/dL", "troponin I|ng/L|ng/mL", "total bilirubin|mg/dL|umol/L",
        "albumin|g/L|g/dL", "ferritin|ng/mL|ug/dL", "vitamin D|nmol/L|ng/mL", "TSH|mU/L|uU/mL", "CRP|mg/L|mg/dL",
        "NT-proBNP|pg/mL|ng/L", "uric acid|umol/L|mg/dL", "magnesium|mmol/L|mg/dL", "cortisol|nmol/L|ug/dL",
        "PSA|ng/mL|ug/L", "fibrinogen|g/L|mg/dL", "lithium level|mmol/L|umol/L", "ammonia|umol/L|ug/dL",
    )
]  # fmt: skip
PARTS = _listed(
    "knee, hip, shoulder, elbow, wrist, heel, forearm, groin, cheek, upper arm, lower leg, thumb, big toe, parotid "
    "gland, thyroid lobe, kidney, lower lobe of the lung, ovary, maxillary sinus, femur, clavicle, scapula, "
    "adrenal, tonsil"
)
PLACES = _listed(
    "the day clinic, St Mary's ward, the dialysis centre, the hospice, the community practice, the walk-in centre, a "
    "care home, the rehabilitation hospital, the occupational health service, the memory clinic, the student health "
    "service, the prison infirmary"
)
PEOPLE = _listed(
    "daughter, son, wife, husband, sister, neighbour, carer, home nurse, social worker, pharmacist, paramedic, "
    "interpreter"
)
SURNAMES = _listed(
    "Alvarez, Baptiste, Chowdhury, Dvorak, Eriksen, Fontaine, Grabowski, Haddad, Iwasaki, Jovanovic, Kowalczyk, "
    "Lindqvist, Moreau, Nakamura, Okafor, Petrov, Quispe, Rossi, Santos, Tanaka, Ueda, Varga, Wren, Xu, Yilmaz, "
    "Zimmermann"
)
BUGS = _listed(
    "Escherichia coli, Klebsiella pneumoniae, Staphylococcus aureus, Enterococcus faecalis, Proteus mirabilis, "
    "Streptococcus agalactiae, Pseudomonas aeruginosa, Listeria monocytogenes"
)
FREQUENCIES = [
    ("once daily", "once a day"), ("twice daily", "twice a day"), ("three times daily", "three times a day"),
    ("at bedtime", "before sleep"), ("every 8 hours", "each 8 hours"), ("once weekly", "once a week"),
    ("every morning", "each morning"), ("every other day", "on alternate days"), ("with each meal", "at every meal"),
]  # fmt: skip
DOSES = (1, 2, 2.5, 5, 7.5, 10, 12.5, 15, 20, 25, 30, 40, 50, 60, 75, 80, 100, 125, 150, 200, 250, 300, 400, 500, 800)
# Remarks that follow a text: what makes two notes of one genre unlike. As written, a, b, c.
REMARKS = [
    ("An interpreter for {tongue} was present throughout.", "An interpreter for {tongue} was there the whole time.",
     "Throughout, {tongue} was interpreted.", "Interpreter: {tongue}."),
    ("The person works in {work} and lives on floor {floor}.",
     "The person is employed in {work} and resides on floor {floor}.",
     "Home is on floor {floor}; work is in {work}.", "Works: {work}, floor {floor}."),
    ("A grandparent had {dx4}.", "A grandfather or grandmother suffered from {dx4}.",
     "{dx4} was known in a grandparent.", "Grandparent: {dx4}."),
    ("The record was last edited on {date}.", "The file was last changed on {date}.",
     "On {date} the record was edited for the last time.", "Edited {date}."),
    ("Vaccination against {jab} was given {year}.", "Immunisation against {jab} was administered {year}.",
     "In {year} the person was vaccinated against {jab}.", "{jab} jab {year}."),
    ("For leisure there is {hobby}, most of all on {day}s.", "In spare time there is {hobby}, chiefly on {day}s.",
     "{day}s are for {hobby}, the favourite pastime.", "Leisure: {hobby} ({day}s)."),
    ("Earlier surgery: {op} in {year2}.", "Previous operation: {op} in {year2}.",
     "In {year2} {op} had been performed.", "PSH: {op} {year2}."),
    ("Diet is {diet}; travel to {land} was mentioned.", "Nutrition is {diet}; a journey to {land} was mentioned.",
     "Travel to {land} was mentioned, and a diet that is {diet}.", "{diet} diet, travel {land}."),
]  # fmt: skip
WORLD = {
    "tongue": "Arabic, Polish, Tamil, Portuguese, Vietnamese, Farsi, Turkish, Somali, Cantonese, Greek, Amharic, Urdu",
    "work": "a bakery, a law firm, logistics, a foundry, a nursery, banking, a vineyard, road building, a call centre",
    "jab": "influenza, tetanus, shingles, measles, hepatitis B, rabies, yellow fever, pneumococci",
    "hobby": "choir singing, chess, pottery, rowing, birdwatching, quilting, climbing, archery, salsa, model railways",
    "day": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "op": "an appendectomy, a hernia repair, a tonsillectomy, cataract surgery, a hip replacement, a cholecystectomy",
    "diet": "vegetarian, low in salt, lactose-free, gluten-free, unrestricted, ketogenic, halal, low in protein",
    "land": "Kenya, Peru, Nepal, Thailand, Morocco, Brazil, Iceland, Vietnam, Georgia, Mexico, Ghana, Laos",
}
OTHER_TASKS = [
    ("Name the diagnosis only.", "{dx}"),
    ("Name the main complaint only.", "{s1}"),
    ("State age and sex.", "A {sex} of {age} years."),
    ("Return the drug as JSON.", '{"drug": "{drug}", "dose": "{dose} {du}"}'),
    ("Name one laboratory value.", "{lab}: {v} {lu}"),
    ("Which part of the body is affected?", "The {side} {part}."),
]
# Words that a careless copy may lose or misspell without changing what is said.
SMALL = set(
    _listed("the, a, an, of, to, in, on, at, by, for, and, was, is, are, were, has, had, been, be, this, that, it")
)


@cache
def frames() -> list[dict[str, Any]]:
    """The frames of the file."""
    read: list[dict[str, Any]] = yaml.safe_load((HERE / "curate_frames_heldout.yml").read_text(encoding="utf-8"))
    return read


@cache
def drug_groups() -> list[list[str]]:
    """Drugs that are mistaken for one another, and some of our own."""
    return [*confused_drugs(), MORE_DRUGS]


@cache
def diseases() -> list[str]:
    """The clinic's diseases, and some of our own."""
    known = yaml.safe_load((MEDIFLOW / "clinic" / "knowledge.yml").read_text(encoding="utf-8"))
    return [one["name"] for one in known] + MORE_DISEASES


def facts(rng: random.Random) -> dict[str, Any]:
    """What a row says; every wording says the same."""
    number = rng.randint
    dx, signs = rng.sample(diseases(), 4), rng.sample(SIGNS, 3)
    drugs = [rng.choice(group) for group in rng.sample(drug_groups(), 3)]
    while len(set(drugs)) < 3:
        drugs = [rng.choice(group) for group in rng.sample(drug_groups(), 3)]
    lab, lab2 = rng.sample(LABS, 2)
    said = {
        "age": number(18, 96), "sex": rng.choice(("man", "woman")), "side": rng.choice(("left", "right")),
        "positive": rng.random() < 0.5, "dx": dx[0], "dx2": dx[1], "dx4": dx[3],
        "s1": signs[0], "s2": signs[1], "s3": signs[2], "drug": drugs[0], "drug2": drugs[1], "drug3": drugs[2],
        "dose": rng.choice(DOSES), "dose2": rng.choice(DOSES), "du": rng.choice(("mg", "mg", "mcg")),
        "du2": rng.choice(("mg", "mg", "mcg")), "freq": rng.choice(FREQUENCIES), "lab": lab[0], "lu": lab[1],
        "lab2": lab2[0], "lu2": lab2[1], "span": span(rng), "span2": span(rng), "weeks": number(1, 26),
        "hour": number(1, 23), "part": rng.choice(PARTS), "place": rng.choice(PLACES), "who": rng.choice(PEOPLE),
        "name": f"{rng.choice('ABCDEFGHJKLMNPRSTVW')}. {rng.choice(SURNAMES)}", "bug": rng.choice(BUGS),
        "mm": number(3, 88), "n": number(2, 30), "n2": number(3, 48), "n4": number(2, 40) * 5, "ml": number(3, 99) * 10,
        "deg": number(60, 140), "deg2": number(10, 59), "metres": number(2, 90) * 5, "kg": number(42, 140),
        "kcal": number(16, 48) * 50, "map": number(55, 95), "fio": number(25, 80), "sat": number(80, 99),
        "hr": number(48, 160), "bp": f"{number(85, 210)}/{number(45, 118)}", "temp": f"{rng.uniform(35.5, 40.5):.1f}",
        "v": f"{rng.uniform(0.2, 60):.1f}", "v2": f"{rng.uniform(0.2, 60):.1f}", "v3": f"{rng.uniform(0.2, 60):.1f}",
        "big": number(30, 4000), "member": f"{rng.choice('KMPRX')}{number(10000, 99999)}", "floor": number(0, 14),
        "year": number(1995, 2025), "year2": number(1965, 2024),
        "date": f"{number(1, 28)}/{number(1, 12)}/{number(2015, 2025)}",
    }  # fmt: skip
    return said | {name: rng.choice(of.split(", ")) for name, of in WORLD.items()}


def span(rng: random.Random) -> str:
    """A length of time."""
    return f"{rng.randint(2, 28)} {rng.choice(('hours', 'days', 'weeks', 'months'))}"


def say(text: str, said: dict[str, Any]) -> str:
    """A frame's text with its facts."""
    values = {**said, "freq": said["freq"][0], "freq_": said["freq"][1]}
    text = CHOICE.sub(lambda found: found[1] if said["positive"] else found[2], text)
    text = SLOT.sub(lambda found: str(values[found[1]]), text)
    return START.sub(lambda found: found[1] + found[2].upper(), text)


def original(number: int, seed: int) -> tuple[int, dict[str, Any], list[int]]:
    """Row `number`: its frame, facts and remarks, a function of number and seed."""
    rng = random.Random(f"heldout {seed} {number}")
    return rng.randrange(len(frames())), facts(rng), rng.sample(range(len(REMARKS)), rng.randint(1, 4))


def texts(frame: int, said: dict[str, Any], remarks: list[int], wording: int = 0) -> dict[str, str]:
    """Instruction, input and output in one of the four wordings (as written, a, b, c)."""
    one = frames()[frame]
    order = remarks[::-1] if wording > 1 else remarks
    body = " ".join([one["inputs"][wording], *(REMARKS[remark][wording] for remark in order)])
    return {
        "instruction": one["asks"][wording > 1],
        "input": say(body, said),
        "output": say(one["outputs"][wording], said),
    }


def edited(text: str, share: float, rng: random.Random) -> str:
    """A frame's text with small words lost and long words misspelt; slots and choices, so the facts, stay."""
    parts = re.split(r"(\[\[.*?\]\]|\{\w+\})", text)
    words = [(place, word) for place, part in enumerate(parts) if place % 2 == 0 for word in part.split(" ")]
    free = [n for n, (_, word) in enumerate(words) if word in SMALL or (len(word) > 6 and word.isalpha())]
    for n in rng.sample(free, min(len(free), max(1, round(share * len(text.split()))))):
        place, word = words[n]
        cut = rng.randrange(1, len(word) - 1) if len(word) > 6 else 0
        words[n] = (place, word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :] if cut else "")
    pieces: list[list[str]] = [[] for _ in parts]
    for place, word in words:
        pieces[place].append(word)
    joined = "".join(part if place % 2 else " ".join(pieces[place]) for place, part in enumerate(parts))
    return re.sub(" +", " ", joined)


def changed(frame: int, said: dict[str, Any], kind: str, rng: random.Random) -> dict[str, Any] | None:
    """The facts with one of them another; None where the frame says none of that kind."""
    body = frames()[frame]["inputs"][0]
    names = [name for name in SLOTS[kind] if f"{{{name}}}" in body or (name == "positive" and "[[" in body)]
    if not names:
        return None
    name = rng.choice(names)
    now = said[name]
    return {**said, name: other(kind, name, now, said, rng)}


def other(kind: str, name: str, now: Any, said: dict[str, Any], rng: random.Random) -> Any:
    """Another value of a fact, a plausible one."""
    choices: list[Any]
    if kind == "negation":
        return not now
    if kind == "unit":
        choices = next(units for lab, *units in LABS if lab == said["lab"]) if name == "lu" else ["mg", "mcg"]
    elif kind == "drug":
        choices = next(group for group in drug_groups() if now in group)
    elif kind in {"side", "sex"}:
        choices = ["left", "right"] if kind == "side" else ["man", "woman"]
    elif name in {"dose", "dose2"}:
        choices = list(DOSES)
    elif name == "bp":
        high, low = now.split("/")
        choices = [f"{int(high) + 10}/{low}", f"{high}/{int(low) + 5}"]
    elif name.startswith("v"):
        choices = [f"{float(now) * by:.1f}" for by in (0.5, 0.9, 1.1, 2, 10)]
    elif name.startswith("span"):
        count, unit = now.split()
        choices = [f"{int(count) + 1} {unit}", *(f"{count} {one}" for one in ("hours", "days", "weeks", "months"))]
    elif kind in {"diagnosis", "finding", "frequency"}:
        choices = FREQUENCIES if kind == "frequency" else diseases() if kind == "diagnosis" else SIGNS
    else:
        choices = [now + by for by in (-1, 1, 2, 7)]
    taken = (
        [value for value in said.values() if isinstance(value, str)] if kind in {"drug", "diagnosis", "finding"} else []
    )
    return rng.choice([one for one in choices if one != now and one not in taken])


def planted(kind: str, number: int, seed: int, rng: random.Random) -> tuple[dict[str, str], str] | None:
    """A copy or near-miss of row `number`, and how it is worded; None where the row does not lend itself."""
    frame, said, remarks = original(number, seed)
    row = texts(frame, said, remarks)
    if kind == "case":
        return {"instruction": row["instruction"], "input": row["input"].upper(), "output": row["output"].lower()}, ""
    if kind.startswith("edits"):
        share = float(kind.split()[1]) / 100
        body = " ".join([frames()[frame]["inputs"][0], *(REMARKS[remark][0] for remark in remarks)])
        return {**row, "input": say(edited(body, share, rng), said)}, ""
    if kind.startswith("paraphrase"):
        return texts(frame, said, remarks, 1 + GRADES.index(kind[-1])), kind[-1]
    if kind == "other task":
        fit = [
            (ask, out)
            for ask, out in OTHER_TASKS
            if set(SLOT.findall(out)) <= set(SLOT.findall(frames()[frame]["inputs"][0]))
        ]
        if not fit:
            return None
        ask, out = rng.choice(fit)
        return {**row, "instruction": ask, "output": say(out, said)}, "same words"
    if kind in ALIKE:
        new = facts(rng)
        if kind == "same disease":
            new |= {name: said[name] for name in ("dx", "dx2", "drug", "drug2", "drug3", "lab", "lu", "positive")}
        return texts(frame, new, remarks), "same words"
    new_facts = changed(frame, said, kind, rng)
    if new_facts is None:
        return None
    wording = rng.choice((0, 0, 0, 1, 2, 3))
    return texts(frame, new_facts, remarks, wording), ("same words", *GRADES)[wording]


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows in the shape that curate_rows.write_rows takes."""
    rng = random.Random(f"heldout plan {seed}")
    weights = {**KINDS, **MISSES}
    plain: list[int] = []
    for number in range(count):
        kind = rng.choices(list(weights), list(weights.values()))[0] if number > 100 else ""
        if rng.random() >= sum(weights.values()):
            kind = ""
        of = rng.randrange(len(plain)) if kind else 0
        made = planted(kind, plain[of], seed, rng) if kind else None
        source = plain[of] if made else number
        if made is None:
            kind, made = "", (texts(*original(number, seed)), "")
            plain.append(number)
        elif kind in MISSES:
            # Two near-misses of one row may be the same in other words.
            plain[of] = plain[-1]
            plain.pop()
        about = random.Random(f"heldout cell {seed} {source}")
        row, how = made
        yield {
            "id": f"{number:016x}", "instruction_id": f"i{number}", **row,
            "task_type": f"task_{about.randrange(14):02}", "input_data": f"document_{about.randrange(36):02}",
            "output_format": "plain_text", "difficulty_level": about.choice(("easy", "medium", "hard", "expert")),
            "call_id": "c", "teacher": "made", "checked": 0, "contradicted": 0,
            # Copies are judged lower than what they copy, so that it is they that must go.
            "quality": round(rng.uniform(1, 1.9) if kind else rng.uniform(2, 4), 2),
            "planted": {"kind": kind, "of": f"{source:016x}", "how": how} if kind else None,
        }  # fmt: skip
