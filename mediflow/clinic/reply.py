"""What the simulated teacher says: a request as data in, a text out. It knows the clinic's truth and nothing else."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from mediflow.checking.verify import verify
from mediflow.clinic.flaws import induce_error
from mediflow.clinic.generating import generate
from mediflow.clinic.knowledge import load_knowledge, world_in_use
from mediflow.clinic.quizzes import write_questions
from mediflow.clinic.reading import choose
from mediflow.clinic.relations import PAGES_ONLY, Fact, facts_of, load_relations, question, say

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
        found = _questions(text, rng) or [(f"What is said of {title or 'the topic'}?", s) for s in sentences[:3]]
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


def _questions(text: str, rng: random.Random) -> list[tuple[str, str]]:
    """What the text says of the clinic's diseases and drugs, as questions in the teacher's words with short answers."""
    stated = [
        fact for sentence, fact in _sayings(world_in_use()) if sentence in text and fact.relation not in PAGES_ONLY
    ]
    return [(question(fact, "teacher", rng), fact.value) for fact in dict.fromkeys(stated)]


@cache
def _sayings(world: str) -> list[tuple[str, Fact]]:
    """Every sentence in which a page can state a fact."""
    relations = load_relations()
    facts = (fact for disease in load_knowledge(world) for fact in facts_of(disease))
    return [(say(wording, fact), fact) for fact in facts for wording in relations[fact.relation].pages]


KINDS: dict[str, Callable[[dict[str, Any], random.Random], str]] = {
    "generate": generate,
    "judge": _judge,
    "induce_error": induce_error,
    "pit": _pit,
    "question": write_questions,
    "choose": choose,
}
