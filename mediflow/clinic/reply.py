"""What the simulated teacher says: a request as data in, a text out. It knows the clinic's truth and nothing else."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from mediflow.checking.verify import verify
from mediflow.clinic.answers import LABELS
from mediflow.clinic.generating import generate
from mediflow.clinic.knowledge import load_knowledge
from mediflow.clinic.quizzes import write_questions
from mediflow.clinic.reading import choose

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")


def reply(request: dict[str, Any], seed: int) -> str:
    """Answer one request of a kind in KINDS; the same request and seed, the same text.

    Raises KeyError or TypeError for a request that it does not understand.
    """
    # Altered facts (clinic/wrong.py) do not change the draws, so that a text differs by them alone.
    drawn = {key: value for key, value in request.items() if key != "altered"}
    rng = random.Random(f"{seed} {json.dumps(drawn, sort_keys=True)}")
    return KINDS[request["kind"]](request, rng)


def _judge(request: dict[str, Any], rng: random.Random) -> str:
    """Scores follow what can be seen: empty, copied, equal or short texts, and statements that contradict the facts."""
    examples = request["examples"]
    outputs = [example["output"].strip() for example in examples]
    flawed = sum(
        not output or output == example["input"].strip() for output, example in zip(outputs, examples, strict=True)
    )
    same = len(outputs) > 1 and len(set(outputs)) == 1
    # A careful reader, but not a perfect one: what the verifier knows to be wrong is missed one time in ten.
    false = sum(
        facts is not None and rng.random() < 0.9 and bool(verify(facts, example["output"]).contradicted)
        for facts, example in zip(request["facts"], examples, strict=True)
    )
    words = sum(len(example["input"].split()) for example in examples) / max(1, len(examples))
    good = 4 - min(2, flawed + false) - (1 if same else 0)
    level = {
        "quality": good,
        "alignment": good,
        "coherence": 4 if len(request["instruction"].split()) > 5 else 3,
        "realism": 4 if words > 25 else 3,
        "difficulty": 3 if words > 40 else 2,
    }
    scores = {}
    for criterion in CRITERIA:
        score = min(4, max(1, level[criterion] - (rng.random() < 0.3)))
        scores[criterion] = {"rationale": f"Simulated judgement of {criterion} by rule.", "score": int(score)}
    return json.dumps(scores)


def _induce_error(request: dict[str, Any], rng: random.Random) -> str:
    output, kind = request["output"], request["error_type"].lower().replace("-", " ").replace("_", " ")
    try:
        value = json.loads(output)
    except json.JSONDecodeError:
        return _flaw(output, kind, rng)
    if not isinstance(value, dict | list):
        return _flaw(output, kind, rng)
    return json.dumps(_flaw_within(value, kind, rng), ensure_ascii=False)


def _flaw_within(value: Any, kind: str, rng: random.Random) -> Any:
    """The same JSON with one leaf made wrong: its keys and types stay, as a careful flaw would leave them."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        return value | {key: _flaw_within(value[key], kind, rng)}
    if isinstance(value, list):
        if len(value) > 1 and any(word in kind for word in ("brevity", "partial", "unbalanced")):
            return value[:-1]
        if not value:
            return ["fever"]
        at = rng.randrange(len(value))
        return [*value[:at], _flaw_within(value[at], kind, rng), *value[at + 1 :]]
    if isinstance(value, int):
        return value + rng.randint(1, 3)
    if value in LABELS:
        return rng.choice([label for label in LABELS if label != value])
    return _flaw(str(value), kind, rng)


def _flaw(output: str, kind: str, rng: random.Random) -> str:
    for name, change in CHANGES.items():
        if name in kind:
            changed = change(output, rng)
            if changed.strip() and changed.strip() != output.strip():
                return changed
    return _wrong_fact(output, rng)


def _wrong_fact(text: str, rng: random.Random) -> str:
    """Another drug, disease, side, figure or label than the right one; the first that the text holds."""
    for d in load_knowledge():
        others = [x for x in load_knowledge() if x.name != d.name]
        for drug in d.drugs:
            if drug.name in text:
                return text.replace(drug.name, rng.choice(others).drugs[0].name, 1)
        if d.name in text:
            return text.replace(d.name, rng.choice(others).name, 1)
        if d.specialty == text.strip():
            return rng.choice(sorted({x.specialty for x in others} - {d.specialty}))
        for symptom in d.symptoms:
            if symptom in text:
                return text.replace(symptom, rng.choice(others).symptoms[0], 1)
    for group in (("left", "right"), ("small", "moderate", "large"), ("ENTAILMENT", "NEUTRAL", "CONTRADICTION"),
                  ("yes", "no"), ("high", "low", "normal"), ("daily", "at bedtime")):  # fmt: skip
        for word in group:
            if re.search(rf"\b{word}\b", text):
                return re.sub(rf"\b{word}\b", rng.choice([w for w in group if w != word]), text, count=1)
    if re.search(r"\d", text):
        return re.sub(r"\d+", lambda m: str(int(m[0]) + rng.randint(1, 5)), text, count=1)
    return f"not {text}"


def _swap_letters(text: str, rng: random.Random) -> str:
    words = list(re.finditer(r"[A-Za-z]{5,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = word.start() + 1 + rng.randrange(len(word[0]) - 3)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _verbose(text: str, rng: random.Random) -> str:
    return f"Based on the information that was given above, the answer is as follows: {text}"


def _shorter(text: str, rng: random.Random) -> str:
    words = text.split()
    return " ".join(words[: max(1, len(words) * 2 // 3)]) if len(words) > 1 else text


def _vague(text: str, rng: random.Random) -> str:
    return f"Possibly {text}, or something else."


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "verbosity": _verbose,
    "brevity": _shorter,
    "partial": _shorter,
    "unbalanced": _shorter,
    "ambiguity": _vague,
    "stylistic": lambda text, rng: text.upper() if text != text.upper() else text.lower(),
    "spelling": _swap_letters,
    "grammatical": lambda text, rng: f"The answer are {text}",
}


def _pit(request: dict[str, Any], rng: random.Random) -> str:
    """Reading tasks on any text, by extraction: what a document says, in its own words."""
    title, text = request["document"]["title"], request["document"]["text"]
    sentences = [s.strip() for s in re.split(r"(?<=[.!?;])\s+|\n+", text) if len(s.split()) > 2]
    kept = sentences[: max(1, min(3, len(sentences) // 2 + 1))]
    if request["task"] == "summary":
        return f"{title}. {' '.join(kept)}" if title else " ".join(kept)
    if request["task"] == "explainer":
        return _explained(title, text)
    if request["task"] == "question_answer":
        found = _questions(text) or [(f"What is said of {title or 'the topic'}?", s) for s in sentences[:3]]
        return "\n".join(f"Question: {asked} Answer: {answer}" for asked, answer in found)
    names = sorted(
        {m for d in load_knowledge() for m in (d.name, *d.symptoms, *(x.name for x in d.drugs)) if m in text}
    )
    words = names or sorted(set(re.findall(r"\b[A-Za-z]{7,}\b", text)))[:8]
    if request["task"] == "entities":
        return "\n".join(f"- {name}" for name in words)
    return "\n".join(f"- {title or words[0]} | mentions | {name}" for name in words)


def _explained(title: str, text: str) -> str:
    """The whole text as running sentences under its subject: nothing is lost, `name: meaning` lines are spelled out."""
    sentences = [f"The subject is {title}."] if title else []
    for line in filter(None, (part.strip(" -*") for part in re.split(r"(?<=[.!?;])\s+|\n+", text))):
        name, colon, meaning = line.partition(": ")
        said = f"{name} means {meaning}" if colon and len(name.split()) <= 6 else line
        sentences.append(said[0].upper() + said[1:].rstrip(" .;,") + ".")
    return " ".join(sentences)


def _questions(text: str) -> list[tuple[str, str]]:
    """What the text says of a disease of the clinic that it names, as questions with short answers."""
    found = []
    for d in load_knowledge():
        if not re.search(rf"\b{d.name}\b", text, re.IGNORECASE):
            continue
        for drug in d.drugs:
            if re.search(rf"\b{drug.name}\b", text, re.IGNORECASE):
                found += [(f"Which drug treats {d.name}?", drug.name), (f"What is {drug.name} used for?", d.name)]
        found += [(f"Which is a symptom of {d.name}?", symptom) for symptom in d.symptoms if symptom in text]
        if d.code in text:
            found.append((f"What is the ICD-10-CM code of {d.name}?", d.code))
        if d.specialty in text:
            found.append((f"Which specialty treats {d.name}?", d.specialty))
        if d.lab.name in text:
            found.append((f"Which laboratory test is used in {d.name}?", d.lab.name))
    return found


KINDS: dict[str, Callable[[dict[str, Any], random.Random], str]] = {
    "generate": generate,
    "judge": _judge,
    "induce_error": _induce_error,
    "pit": _pit,
    "question": write_questions,
    "choose": choose,
}
