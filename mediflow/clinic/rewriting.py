"""Tasks that change a document or weigh it as a whole: reason, simplify, expand, find keywords, score."""

from __future__ import annotations

import random
import re
from functools import cache

from mediflow.clinic.care import care_of, load_care
from mediflow.clinic.documents import Note
from mediflow.clinic.exchange import Exchange, as_written
from mediflow.clinic.knowledge import Disease, find_disease, load_knowledge, world_in_use
from mediflow.clinic.patients import Patient
from mediflow.clinic.statements import Statement

# The four points of a note's completeness, as the task's instructions state them, and the statements that give each.
POINTS = {"complaint": "presentation", "laboratory": "lab", "treatment": "treatment", "follow-up": "follow_up"}


def reason(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    """The disease from its signs: the document with its name taken out, and what points to it."""
    disease = patient.main
    shown = hide(note.text, disease)
    evidence = [
        as_written(shown, term) for term in (patient.symptoms[0], disease.lab.name, patient.new_medication.drug)
    ]
    text = f"{'; '.join(evidence)}: these point to {disease.name} ({disease.code})."
    return Exchange(shown, text, {"diagnosis": disease.name, "icd10cm": disease.code, "evidence": evidence})


def hide(text: str, disease: Disease) -> str:
    """The text without a name of the disease: neither its own, nor its abbreviation, nor its lay name."""
    lay = care_of(disease.name)["lay"]
    # A finding may bear the disease's name: on imaging a pleural effusion is seen, not "the condition".
    text = re.sub(rf"\b(small|moderate|large) {re.escape(disease.name)}\b", r"\1 abnormality", text)
    text = re.sub(rf", which means {re.escape(lay)}", "", text)
    pattern = rf"(?i:\b(?:{re.escape(disease.name)}|{re.escape(lay)})\b)|\b{disease.abbreviation}\b"
    return re.sub(pattern, "the condition in question", text)


def simplify(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    """The document with lay words in the place of terms and abbreviations; nothing else changes."""
    text = _terms(world_in_use()).sub(_lay, note.text)
    for disease in load_knowledge():
        lay = care_of(disease.name)["lay"]
        text = text.replace(f"{lay}, which means {lay}", lay)
    return Exchange(note.text, text, {"simplified": text})


@cache
def _terms(world: str) -> re.Pattern[str]:
    names = sorted([*(d.name for d in load_knowledge(world)), *load_care()["plain"]], key=len, reverse=True)
    short = "|".join(d.abbreviation for d in load_knowledge(world))
    return re.compile(rf"(?i:\b(?:{'|'.join(map(re.escape, names))})\b)|\b(?:{short})\b")


def _lay(match: re.Match[str]) -> str:
    term = match[0]
    for disease in load_knowledge():
        if term in {disease.abbreviation, disease.name} or term.lower() == disease.name.lower():
            plain = care_of(disease.name)["lay"]
            return plain if term == disease.abbreviation else _capital_like(term, disease.name, plain)
    return _capital_like(term, term.lower(), load_care()["plain"][term.lower()])


def _capital_like(term: str, usual: str, plain: str) -> str:
    """A capital where the term has one that it does not usually have."""
    return plain[0].upper() + plain[1:] if term[0] != usual[0] else plain


# A telegraphic note as clinicians scribble it. Only what can be restored is cut.
SHORTHAND = tuple(
    (re.compile(pattern), short)
    for pattern, short in (
        (r"(\d+)-year-old woman", r"\1 yo F"),
        (r"(\d+)-year-old man", r"\1 yo M"),
        (r"presents with|comes to the clinic because of", "c/o"),
        (r"has a history of", "h/o"),
        (r"[Pp]ast medical history(?: is)?", "PMH"),
        (r"[Ff]amily history", "FH"),
        (r"twice daily", "bid"),
        (r"every eight hours", "q8h"),
        (r"at bedtime", "qhs"),
        (r"\bdaily\b", "qd"),
        (r"Follow-up", "F/u"),
        (r"Blood pressure is", "BP"),
        (r"Temperature is", "T"),
        (r"Pulse is", "HR"),
        (r"Respiratory rate is", "RR"),
        (r"(\d+) days\b", r"\1d"),
        (r"(\d+) weeks?\b", r"\1w"),
        (r"(\d+) hours\b", r"\1h"),
        (r"The diagnosis is", "Dx"),
        (r"These findings are consistent with", "c/w"),
        (r"Treatment with", "Tx"),
        (r"\b[Tt]he patient\b", "pt"),
        (r"\b[Pp]atient\b", "pt"),
        (r"\bwithout\b", "w/o"),
        (r"\bwith\b", "w/"),
        (r"\b(?:[Tt]here (?:is|are|was)|[Tt]he|[Aa]n?|[Tt]his|is|are|was|were|has|have|had)\b ?", ""),
    )
)


def expand(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    """A telegraphic note back into full sentences, with the names of diseases written out."""
    diseases = [find_disease(name) for name in patient.diseases]
    full = note.text
    for disease in diseases:
        full = re.sub(rf"\b{disease.abbreviation}\b", disease.name, full)
    short = full
    for disease in diseases:
        short = re.sub(rf"(?i:\b{re.escape(disease.name)}\b)", disease.abbreviation, short)
    for pattern, written in SHORTHAND:
        short = pattern.sub(written, short)
    return Exchange(short, full, {"expanded": full})


def keywords(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    """The terms of one aspect of the document, as it writes them; the input names the aspect."""
    found: dict[str, list[str]] = {}
    for statement, (start, end) in zip(note.statements, note.spans, strict=True):
        aspect, terms = _aspect(statement)
        if aspect and terms:
            said = note.text[start:end]
            found.setdefault(aspect, []).extend(as_written(said, term) for term in terms)
    aspect = rng.choice(list(found))
    distinct = list({term.lower(): term for term in reversed(found[aspect])}.values())[::-1]
    return Exchange(f"{note.text}\nASPECT: {aspect}", "; ".join(distinct), {"keywords": distinct})


def _aspect(s: Statement) -> tuple[str, tuple[str, ...]]:
    """The aspect that a statement belongs to and its terms, which stand in its text."""
    if s.aspect or not s.values:
        return s.aspect, s.keywords
    v = s.values
    terms: dict[str, tuple[str, tuple[str, ...]]] = {
        "presentation": ("complaints", v[2:3]),
        "symptom": ("complaints", v[:1]),
        "denial": ("complaints that are denied", v[:1]),
        "lab": ("laboratory", (v[0], " ".join(v[1:3]))),
        "imaging": ("imaging", (v[0], " ".join(v[1:3]))),
        "treatment": ("new treatment", (v[0], " ".join(v[1:3]), *v[3:4])),
        "medication": ("home medication", (v[0], " ".join(v[1:3]), *v[3:4])),
        "vital": ("vital signs", v),
        "follow_up": ("follow-up", v),
        "work": ("social situation", v),
        "living": ("social situation", v),
        "allergy": ("allergies", v),
    }
    return terms.get(s.kind, ("", ()))


def score(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    """A note from which up to three of the four points were taken, and how many it still has."""
    missing = rng.sample(list(POINTS), rng.randrange(4))
    left = note.where(lambda s: s.kind not in {POINTS[point] for point in missing})
    points = len(POINTS) - len(missing)
    ordered = [point for point in POINTS if point in missing]
    return Exchange(left.text, str(points), {"score": points, "missing": ordered})
