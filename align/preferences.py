"""What preference training did: how probable the better and the worse answers are, before and after."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medsmith.intervals import paired_change
from medsmith.records import Instruction

SIDES = ("before", "after")


@dataclass(frozen=True)
class Pair:
    """Log-probabilities (nats) of the chosen and the rejected answer, and their lengths in tokens."""

    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int

    @property
    def prefers_chosen(self) -> bool:
        """Whether the chosen answer is the likelier one, per token, so that length decides nothing."""
        return self.chosen / self.chosen_tokens > self.rejected / self.rejected_tokens


def measure(model: Any, tokenizer: Any, rows: Sequence[Instruction]) -> list[Pair]:
    """Score both answers of every row as the assistant's turn."""
    from align.rows import prompt
    from medsmith.likelihood import ChoiceItem, score_options

    model.eval()
    items = [ChoiceItem(prompt(row), [row.output, row.rejected_output]) for row in rows]
    scores = score_options(model, tokenizer, items)
    return [Pair(score.logprobs[0], score.logprobs[1], score.tokens[0], score.tokens[1]) for score in scores]


def compare(rows: Sequence[Instruction], before: Sequence[Pair], after: Sequence[Pair], beta: float) -> dict[str, Any]:
    """The facts for a card: log-probabilities per token, accuracies, margin, and likelihood displacement.

    * `accuracy`: the share of pairs where the chosen answer is the likelier one, per token, so that length decides
      nothing.
    * `accuracy_change`: its change, with a paired 95 % interval over instructions; `by_error_type`: pairs, accuracy
      before and after.
    * `reward_accuracy`, `reward_margin`: of DPO's implicit reward, beta times what training added to an answer's
      log-probability; 0.5 is chance.
    * `chosen_change`: what training added to the chosen answers, in nats per token. Below zero, training moved
      probability away from the good answers as well (likelihood displacement): it can raise every margin and still
      make a worse model.
    """
    assert len(rows) == len(before) == len(after) > 0, "the same pairs are measured before and after"
    rewards = [
        (beta * (new.chosen - old.chosen), beta * (new.rejected - old.rejected))
        for old, new in zip(before, after, strict=True)
    ]
    facts: dict[str, Any] = {"pairs": len(before)}
    for name, pairs in (("before", before), ("after", after)):
        facts[name] = {
            "chosen_logprob": _per_token(pairs, "chosen"),
            "rejected_logprob": _per_token(pairs, "rejected"),
            "accuracy": _mean([pair.prefers_chosen for pair in pairs]),
        }
    right = [[float(pair.prefers_chosen) for pair in pairs] for pairs in (before, after)]
    change = paired_change(right[0], right[1], [row.instruction for row in rows])
    facts["accuracy_change"] = {name: round(value, 6) for name, value in change._asdict().items()}
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.error_type or "none given"].append(place)
    facts["by_error_type"] = {
        name: {"pairs": len(at), **{side: _mean([one[n] for n in at]) for side, one in zip(SIDES, right, strict=True)}}
        for name, at in sorted(places.items())
    }
    facts["reward_accuracy"] = _mean([(good > bad) + 0.5 * (good == bad) for good, bad in rewards])
    facts["reward_margin"] = _mean([good - bad for good, bad in rewards])
    facts["chosen_change"] = round(facts["after"]["chosen_logprob"] - facts["before"]["chosen_logprob"], 6)
    facts["likelihood_displacement"] = facts["chosen_change"] < 0
    return facts


def compare_lengths(tokenizer: Any, rows: Sequence[Instruction]) -> dict[str, float]:
    """How long the answers of each side are, in tokens. DPO learns length where the two are far apart.

    `mean_log_ratio` is that of rejected over chosen: 0 where neither side is longer; `chosen_longer` is a share of the
    pairs, those of equal length counted half.
    """
    chosen, rejected = (
        [len(ids) for ids in tokenizer([getattr(row, side) for row in rows], add_special_tokens=False)["input_ids"]]
        for side in ("output", "rejected_output")
    )
    both = list(zip(chosen, rejected, strict=True))
    return {
        "chosen_tokens": _mean(chosen),
        "rejected_tokens": _mean(rejected),
        "mean_log_ratio": _mean([math.log(max(1, bad) / max(1, good)) for good, bad in both]),
        "chosen_longer": _mean([(good > bad) + 0.5 * (good == bad) for good, bad in both]),
    }


def _per_token(pairs: Sequence[Pair], side: str) -> float:
    total = sum(getattr(pair, side) for pair in pairs)
    return round(float(total / sum(getattr(pair, f"{side}_tokens") for pair in pairs)), 6)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6)
