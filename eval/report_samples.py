"""Samples to read: the same items through the whole chain, chosen by what became of them, never by how they look."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from eval.report_inputs import Model, Sample
from medsmith.records import content_id

FATES = ("turned right", "turned wrong", "right at both ends", "wrong at both ends")
WITHHELD = "sha256:"
TURN = re.compile(r"<\|(system|user|assistant)\|>\n?(.+?)<\|end\|>", re.DOTALL)
"""Phi's marks, the ones of the models that this project trains; of another template the text is shown as it is."""
STEP = 0.25
"""How far a score must move to have turned; for right-or-wrong items any step is further."""


def choose_samples(chain: Sequence[Model], benchmarks: Sequence[str], each: int = 2) -> list[dict[str, Any]]:
    """For every benchmark that all of the chain answered: up to `each` items of each fate, with all answers.

    The fate of an item is what the last model does with it, compared to the first. Within a fate the items are taken in
    the order of a hash of their ids: the report shows what there is, not the best of it.
    """
    chosen = []
    for benchmark in benchmarks:
        if len(chain) < 2 or any(benchmark not in model.samples for model in chain):
            continue
        fates: dict[str, list[str]] = {fate: [] for fate in FATES}
        for key in sorted(chain[0].samples[benchmark], key=lambda key: content_id(benchmark, key)):
            fates[fate_of([model.samples[benchmark][key].score for model in chain])].append(key)
        items = [
            _item(fate, [model.samples[benchmark][key] for model in chain], chain)
            for fate in FATES
            for key in fates[fate][:each]
        ]
        counts = {fate: len(keys) for fate, keys in fates.items()}
        chosen.append({"benchmark": benchmark, "counts": counts, "items": items})
    return chosen


def fate_of(scores: Sequence[float]) -> str:
    """What became of an item between the first score and the last."""
    first, last = scores[0], scores[-1]
    if last - first >= STEP:
        return "turned right"
    if first - last >= STEP:
        return "turned wrong"
    return "right at both ends" if last >= 0.5 else "wrong at both ends"


def _item(fate: str, samples: Sequence[Sample], chain: Sequence[Model]) -> dict[str, Any]:
    answers = [
        {
            "model": model.name,
            "stage": model.stage,
            "output": _shown(sample.output or sample.answer) or "(nothing)",
            "score": sample.score,
            "unreadable": sample.unreadable,
        }
        for model, sample in zip(chain, samples, strict=True)
    ]
    gold = samples[0].gold
    shown = _shown(gold) if isinstance(gold, str) else json.dumps(gold, ensure_ascii=False)
    return {"id": samples[0].id, "fate": fate, "turns": turns(samples[0].prompt), "gold": shown, "answers": answers}


def _shown(text: str) -> str:
    return "(withheld)" if text.startswith(WITHHELD) else text


def turns(prompt: Any) -> list[dict[str, str]]:
    """A prompt as turns {role, content}: from a list, from text with a chat template's marks, else one turn.

    Withheld text (of sets under an agreement: only a digest is kept) gives no turn.
    """
    if isinstance(prompt, list):
        return [{"role": str(turn.get("role", "user")), "content": str(turn.get("content", ""))} for turn in prompt]
    text = str(prompt or "")
    if not text or text.startswith(WITHHELD):
        return []
    found = TURN.findall(text)
    return [{"role": role, "content": content.strip()} for role, content in found] or [
        {"role": "user", "content": text}
    ]
