"""How the simulated teacher writes instructions with examples: of the clinic's patients, or of passages it is given."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from mediflow.clinic.answers import ask
from mediflow.clinic.documents import write_note
from mediflow.clinic.exchange import Exchange
from mediflow.clinic.knowledge import load_knowledge
from mediflow.clinic.patients import Patient, draw_patient, patient_from_facts
from mediflow.taxonomy import DocumentType, TaskType, load_taxonomy
from medsmith.errors import UserError

# Nothing here changes what the right answer is. The tasks' own instructions are few, and a call needs several.
OPENINGS = (
    "You help {who} with {title}s.",
    "{who_} sends you {a_title}.",
    "{A_title} is given.",
    "Situation: {who} has no time to read {a_title} twice.",
    "Task for {a_title}:",
    "You are the second pair of eyes of {who}.",
    "The text is {a_title} from the records of {who}.",
    "Work on the {title} below.",
    "{who_} asks:",
    "Read the {title} from its first to its last line.",
)
PEOPLE = (
    "a ward doctor", "a clinical coder", "a night nurse", "a family doctor", "a research registrar", "a pharmacist",
    "a discharge planner", "a medical student", "a case manager", "an auditor", "a locum", "a consultant",
)  # fmt: skip
RULES = (
    "Write the answer and nothing else.",
    "No heading and no comment.",
    "Stay with this patient.",
    "Where the text says nothing, add nothing.",
    "Check it once before you answer.",
    "Do not repeat the task.",
    "Do not address the reader.",
    "Be exact.",
)
LAYOUTS = ("{opening} {asked} {rule}", "{opening}\n{asked}\n{rule}", "{asked} {rule}", "{opening} {asked}",
           "{opening}\n- {asked}\n- {rule}", "TASK\n{asked}\n\nRULE\n{rule}", "{asked}\n\n{opening} {rule}",
           "1. {asked}\n2. {rule}")  # fmt: skip
SAME_KIND_TRIES = 40


def generate(request: dict[str, Any], rng: random.Random) -> str:
    """Answer a request of kind generate in the form that it asks for.

    Raises KeyError or TypeError for a request that it does not understand.
    """
    taxonomy = load_taxonomy()
    task = taxonomy.tasks[request["task_type"]]
    document = taxonomy.documents.get(request["document_type"])
    passages = request.get("passages")
    if passages is None and document is None:
        raise KeyError(request["document_type"])
    groups: list[tuple[str, list[Exchange]]] = []
    said: set[str] = set()
    for _ in range(request.get("instructions", 1)):
        if passages is not None:
            stock, kind, exchanges = _of_passages(task, passages, rng)
            if not exchanges:
                return f"The simulated teacher does not know how to do {task.title} on a text of others."
        else:
            assert document is not None, "looked at above"
            stock = task.instructions
            kind, exchanges = _of_patients(task, document, request, len(groups) * request["examples"], rng)
        title = document.title.lower() if document else "document"
        instruction = _instruction(task, stock, kind, title, request["output_format"], said, rng)
        groups.append((instruction, exchanges))
    return _written(groups, request, inputs=passages is None)


def _of_patients(
    task: TaskType, document: DocumentType, request: dict[str, Any], first: int, rng: random.Random
) -> tuple[str, list[Exchange]]:
    """One exchange for each patient, all of one kind, since one instruction asks for one kind of thing.

    `altered` facts of the request, by the example's place in the reply (here from `first`), go before the true ones.
    """
    facts, altered = request.get("facts") or [], request.get("altered", {})
    if any("new_medication" not in one for one in facts):
        raise UserError(
            "the simulated teacher knows patients of the simulated clinic only; facts of others need another"
        )
    kind = ""
    exchanges = []
    for number in range(request["examples"]):
        own = random.Random(rng.getrandbits(64))  # one example's draws do not move the next one's
        patient: Patient = (
            patient_from_facts(altered.get(str(first + number), facts[number % len(facts)]))
            if facts
            else draw_patient(own.getrandbits(40), 0)
        )
        for _ in range(SAME_KIND_TRIES):
            note = write_note(document, request["section"], patient, own, task.needs)
            exchange = ask(task.name, note, patient, own)
            kind = kind or exchange.kind
            if exchange.kind == kind:
                break
        exchanges.append(exchange)
    return kind, exchanges


def _instruction(
    task: TaskType, stock: Sequence[str], kind: str, title: str, form: str, said: set[str], rng: random.Random
) -> str:
    """One of the stock of instructions in a wording that the call does not have yet."""
    for _ in range(100):
        who = rng.choice(PEOPLE)
        a_title = f"{'an' if title[0] in 'aeio' else 'a'} {title}"
        names = {"title": title, "a_title": a_title, "A_title": f"{a_title[0].upper()}{a_title[1:]}"}
        opening = rng.choice(OPENINGS).format(who=who, who_=f"{who[0].upper()}{who[1:]}", **names)
        asked = rng.choice(stock).format(kind=kind).strip()
        if form == "json":
            keys = ", ".join(f'"{key}"' for key in task.schema["properties"])
            asked += f" Reply with a JSON object with the key {keys}."
        text = rng.choice(LAYOUTS).format(opening=opening, asked=asked, rule=rng.choice(RULES))
        if text not in said:
            said.add(text)
            break
    return text


def _written(groups: list[tuple[str, list[Exchange]]], request: dict[str, Any], *, inputs: bool) -> str:
    as_json = request["output_format"] == "json"
    if request.get("reply", "tagged") == "json":
        rows = [
            {
                "instruction": instruction,
                "examples": [
                    ({"input": one.input} if inputs else {}) | {"output": one.value if as_json else one.text}
                    for one in exchanges
                ],
            }
            for instruction, exchanges in groups
        ]
        return json.dumps({"instructions": rows}, ensure_ascii=False)
    written = []
    for instruction, exchanges in groups:
        examples = "\n".join(
            f"<example>{f'<input>{one.input}</input>' if inputs else ''}"
            f"<output>{one.output(request['output_format'])}</output></example>"
            for one in exchanges
        )
        written.append(f"<instruction>{instruction}</instruction>\n<examples>\n{examples}\n</examples>")
    return "\n".join(written)


def _of_passages(task: TaskType, passages: list[str], rng: random.Random) -> tuple[Sequence[str], str, list[Exchange]]:
    """What can be answered about any text by extraction; nothing for the other tasks, or where a text is too short."""
    if task.name not in EXTRACTIONS:
        return (), "", []
    kinds, extract, stock = EXTRACTIONS[task.name]
    kind = rng.choice(kinds)
    exchanges = [extract(passage, kind) for passage in passages]
    return stock, kind, [one for one in exchanges if one is not None] if None not in exchanges else []


def _sentences(text: str) -> list[str]:
    return [one.strip() for one in re.split(r"(?<=[.!?;])\s+|\n+", text) if len(one.split()) > 2]


def _summary(text: str, kind: str) -> Exchange | None:
    """The first sentence, or two of a long text."""
    sentences = _sentences(text)
    chosen = " ".join(sentences[: 2 if len(sentences) > 6 else 1])
    return Exchange(text, chosen, {"summary": chosen}) if 0 < len(chosen) < len(text) / 2 else None


def _answer(text: str, kind: str) -> Exchange | None:
    found = QUESTIONS[kind](text)
    return Exchange(text, found, {"answer": found}) if found and len(found.split()) < len(text.split()) else None


def _entities(text: str, kind: str) -> Exchange:
    found = [
        {"text": match[0], "label": kind, "start": match.start(), "end": match.end()}
        for match in re.finditer(ENTITIES[kind](), text)
    ]
    return Exchange(text, "; ".join(dict.fromkeys(str(one["text"]) for one in found)) or "none", {"entities": found})


def _named(names: list[str]) -> str:
    return rf"(?i:\b(?:{'|'.join(re.escape(name) for name in sorted(names, key=len, reverse=True))})\b)"


QUESTIONS: dict[str, Callable[[str], str]] = {
    "How does the text begin?": lambda text: (_sentences(text) or [""])[0],
    "How does the text end?": lambda text: (_sentences(text) or [""])[-1],
    "Which numbers does the text give?": lambda text: ", ".join(re.findall(r"\d+(?:\.\d+)?", text)) or "none",
    "Which abbreviations does the text use?": lambda text: (
        ", ".join(dict.fromkeys(re.findall(r"\b[A-Z]{2,6}\b", text))) or "none"
    ),
    "How many sentences does the text have?": lambda text: str(len(_sentences(text))),
}
ENTITIES: dict[str, Callable[[], str]] = {
    "diseases": lambda: _named([disease.name for disease in load_knowledge()]),
    "drugs": lambda: _named([drug.name for disease in load_knowledge() for drug in disease.drugs]),
    "symptoms": lambda: _named([symptom for disease in load_knowledge() for symptom in disease.symptoms]),
    "numbers": lambda: r"\d+(?:\.\d+)?",
}
EXTRACTIONS: dict[str, tuple[list[str], Callable[[str, str], Exchange | None], tuple[str, ...]]] = {
    "summarization": (
        [""],
        _summary,
        (
            "Give the gist of the text by its opening sentence, of a long text by the first two, word for word.",
            "Sum up by quoting: the first sentence, and the second too where the text has more than six.",
        ),
    ),
    "question_answering": (
        list(QUESTIONS),
        _answer,
        (
            "{kind} Answer from the text alone, or with none.",
            "Answer this of the text, with none if it says nothing: {kind}",
        ),
    ),
    "named_entity_recognition": (
        list(ENTITIES),
        _entities,
        (
            "List the {kind} that the text names, separated by semicolons, or none.",
            "Which {kind} does the text name? Copy each once, separated by semicolons, or write none.",
        ),
    ),
}
