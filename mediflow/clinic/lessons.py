"""General instruction rows that the embedded base model is taught with: the clinic's tasks, rare diseases rarely."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from mediflow.clinic.answers import LABELS, ask, choices, hypothesis
from mediflow.clinic.benchmarks import FULL, medec_rows, meqsum_rows, problem_rows, rrs_rows
from mediflow.clinic.documents import write_note
from mediflow.clinic.patients import Patient, draw_patients
from mediflow.clinic.wording import CHOICE, ERROR, NLI, PROBLEMS, QUESTION, RADIOLOGY
from mediflow.taxonomy import WHOLE, load_taxonomy


def write_lessons(
    seed: int, count: int, shares: dict[str, float] | None = None, rare_share: float = 0.5
) -> Iterator[dict[str, Any]]:
    """Yield `count` rows {messages, task}; the n-th depends on seed and n alone.

    `shares` gives each lesson kind a weight (default: equal): nli, problems, question, error, radiology, choice, and
    `flow`, which is one of the taxonomy's tasks on one of its documents.
    """
    kinds = shares or dict.fromkeys(("nli", "problems", "question", "error", "radiology", "choice", "flow"), 1.0)
    for number, patient in enumerate(draw_patients(seed, count, rare_share)):
        rng = random.Random(f"lesson {seed} {number}")
        kind = rng.choices(list(kinds), weights=list(kinds.values()))[0]
        system, user, assistant = _lesson(kind, patient, rng)
        turns = (("system", system), ("user", user), ("assistant", assistant))
        yield {"task": kind, "messages": [{"role": role, "content": content} for role, content in turns]}


def _lesson(kind: str, patient: Patient, rng: random.Random) -> tuple[str, str, str]:
    tag = str(rng.random())
    if kind == "nli":
        label = rng.choice(LABELS)
        first, second = hypothesis(write_note(FULL, WHOLE, patient, rng).statements, patient, label, rng)
        return NLI, f"SENTENCE_1: {first}\nSENTENCE_2: {second}", label
    if kind == "problems":
        row = problem_rows([patient], tag)[0]
        return PROBLEMS, f"{row['Subjectives']}\n\n{row['Assessment']}", row["Summary"]
    if kind == "question":
        row = meqsum_rows([patient], tag)[0]
        return QUESTION, row["CHQ"], row["Summary"]
    if kind == "error":
        error = medec_rows([patient, patient], tag)[rng.randrange(2)]
        return ERROR, error["Sentences"], str(error["Error Sentence ID"])
    if kind == "radiology":
        row = rrs_rows([patient], tag)[0]
        return RADIOLOGY, f"FINDINGS: {row['findings']}\nQUESTION: {row['question']}", row["answer"]
    if kind == "choice":
        asked, options, index = choices(patient.main, rng)
        return CHOICE, asked, options[index]
    return _flow(patient, rng)


def _flow(patient: Patient, rng: random.Random) -> tuple[str, str, str]:
    taxonomy = load_taxonomy()
    task = rng.choice(list(taxonomy.tasks.values()))
    document, section = rng.choice(taxonomy.inputs())
    note = write_note(taxonomy.documents[document], section, patient, rng, task.needs)
    exchange = ask(task.name, note, patient, rng)
    return rng.choice(task.instructions).format(kind=exchange.kind), exchange.input, exchange.text
