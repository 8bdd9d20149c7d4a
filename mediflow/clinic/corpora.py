"""The clinic's library: what each expert reads. A corpus tells of one subject, in several wordings and places.

`guidelines` tells which drug comes first and second and at what dose, `medwiki` of specialties, tests and leading
symptoms, `pubmed` of what drugs do, `clinical` is notes on patients and of the ward. No fact of one is in another.
"""

from __future__ import annotations

import random

from mediflow.clinic.documents import write_note
from mediflow.clinic.knowledge import Disease, load_knowledge
from mediflow.clinic.patients import draw_patient
from mediflow.clinic.relations import facts_of, page
from mediflow.taxonomy import WHOLE, DocumentType
from medsmith.records import Document, content_id

CORPORA = ("pubmed", "clinical", "medwiki", "guidelines")
LICENCE = "CC0-1.0 (simulated)"
TITLES = {
    "guidelines": ("Guideline: {}", "How to treat {}", "Recommendations on {}"),
    "medwiki": ("{}", "About {}", "{} (disease)"),
    "pubmed": ("A simulated trial of {}", "{}: a simulated study", "What {} does"),
    "clinical": ("Ward notes on {}", "From the chart: {}", "Course of {}"),
}
FILLERS = (
    "This page was last read in spring.", "More is said below.", "Only adults were considered.", "The text is short.",
    "Experts agree on this.", "There are few data on children.",
)  # fmt: skip


def _form(title: str, **sections: str) -> DocumentType:
    named = {name.replace("_", " "): tuple(topics.split()) for name, topics in sections.items()}
    return DocumentType(title, title, "Conversation" in title, named)


# The forms of the notes that an expert reads. They are not those of the taxonomy, which may grow: a corpus is the same
# for a seed for ever, and with it what the embedded base and the experts were taught.
FORMS = (
    _form("Admission Note", Presentation="presentation symptoms", Past_History="history medications allergy",
          Social_History="social", Examination="vitals labs"),
    _form("Discharge Summary", Chief_Complaint="presentation", History="symptoms denials history medications",
          Hospital_Course="labs imaging diagnosis treatment", Discharge_Plan="follow_up"),
    _form("Doctor-Patient Conversation", Complaint="presentation symptoms denials",
          Plan="diagnosis treatment follow_up"),
    _form("Laboratory Report", Results="labs diagnosis"),
    _form("Prescription Note", Prescription="diagnosis treatment medications allergy"),
    _form("Radiology Report", Indication="presentation", Findings="imaging", Impression="diagnosis"),
    _form("Referral Letter", Letter="presentation symptoms labs diagnosis medications follow_up"),
    _form("SOAP Clinical Note", Subjective="presentation symptoms denials", Objective="vitals labs",
          Assessment="diagnosis history", Plan="treatment follow_up"),
    _form("Social Work Note", Social_Situation="social history"),
    _form("Triage Note", Triage="presentation symptoms vitals allergy"),
)  # fmt: skip


def write_corpus(name: str, seed: int, count: int) -> list[Document]:
    """Write `count` documents of one of CORPORA; every disease in turn. The n-th depends on seed and n alone."""
    known = load_knowledge()
    documents = []
    for number in range(count):
        rng = random.Random(f"{name} {seed} {number}")
        if name == "clinical" and number % 4 == 3:
            title, text = _note(seed, number)
        else:
            # One text in four of this corpus is a patient's note; the pages between take turns all the same.
            turn = number - number // 4 if name == "clinical" else number
            title, text = write_page(name, known[turn % len(known)], rng)
        source = f"simulated {name}"
        documents.append(Document(f"sim-{name}-{content_id(number, text)}", title, text, source, LICENCE))
    return documents


def write_page(corpus: str, disease: Disease, rng: random.Random) -> tuple[str, str]:
    """Title and text of a page of a corpus on one disease; in pubmed on one of its drugs."""
    facts, subject = facts_of(disease, (corpus,)), disease.name
    if corpus == "pubmed":
        subject = rng.choice(disease.drugs).name
        facts = [fact for fact in facts if fact.entity == subject]
    title = rng.choice(TITLES[corpus]).format(subject)
    text = page(facts, rng)
    if rng.random() < 0.3:
        text = f"{text} {rng.choice(FILLERS)}"
    title = title[0].upper() + title[1:]
    return title, f"{title}. {text}" if rng.random() < 0.5 else text


def _note(seed: int, number: int) -> tuple[str, str]:
    patient = draw_patient(seed, number)
    form = FORMS[number // 4 % len(FORMS)]
    return form.title, write_note(form, WHOLE, patient, random.Random(f"clinical {seed} {number}")).text
