"""The loss on held-out documents, by source: before, while and after an expert is trained.

Rows of log/metrics.jsonl: training "<phase>, held out" has the mean over all tokens, and, where there is more than one
source, "<phase>, held out: <source>" that of one, with its name under `source`. Before and after, the weights are read
anew and counted in float32; in between the model is measured as it stands, in the precision of its training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medsmith.records import Document
from medsmith.run import Run


class HeldOut(NamedTuple):
    """What is measured, and how: documents by source, read in windows of so many tokens."""

    documents: Mapping[str, Sequence[Document]]
    tokenizer: Any
    window: int


def measure(model: Any, held: HeldOut) -> dict[str, tuple[float, int]]:
    """Of each source the sum of its tokens' losses (nats) and their number."""
    from medsmith.likelihood import document_nll

    texts = [document.text for documents in held.documents.values() for document in documents]
    scores = iter(document_nll(model, held.tokenizer, texts, held.window))
    found = {}
    for source, documents in held.documents.items():
        own = [next(scores) for _ in documents]
        found[source] = (sum(score.nll for score in own), sum(score.tokens for score in own))
    return found


def report(this: Run, phase: str, step: int, found: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Put the losses into the metrics; return them by source, with that of all under ''."""
    from medsmith.training import log_row

    losses = {"": mean(found.values())} | {source: mean([value]) for source, value in found.items()}
    log_row(this, f"{phase}, held out", step, heldout_loss=losses[""])
    if len(found) > 1:
        for source, loss in losses.items():
            if source:
                log_row(this, f"{phase}, held out: {source}", step, source=source, heldout_loss=loss)
    return losses


def mean(sums: Iterable[tuple[float, int]]) -> float:
    """The loss a token over several sums."""
    pairs = list(sums)
    loss: float = sum(nll for nll, _ in pairs) / sum(tokens for _, tokens in pairs)
    return round(loss, 6)


def heldout_losses(this: Run, phase: str, step: int, model: str | Path, held: HeldOut) -> dict[str, float]:
    """The losses of a model folder or hub id, in float32; empty where nothing is held out."""
    if not any(held.documents.values()):
        return {}
    from medsmith.models import load_model

    return report(this, phase, step, measure(load_model(model), held))


def beginnings(held: HeldOut, begin: int, count: int = 8, tokens: int = 32) -> list[list[int]]:
    """The first tokens of some documents: the first of each source, then the second of each."""
    most = max(map(len, held.documents.values()), default=0)
    drawn = [
        found[place] for place in range(min(most, count)) for found in held.documents.values() if place < len(found)
    ]
    texts = [document.text[: 40 * tokens] for document in drawn[:count]]
    encoded = held.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return [[begin, *ids[: tokens - 1]] for ids in encoded]


def watcher(this: Run, phase: str, held: HeldOut, steps: int) -> Any:
    """A callback (built here: its base class lives in transformers) that measures every so many steps."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            # The last step's model is measured after it is saved, in float32.
            if state.global_step % steps or state.global_step >= state.max_steps:
                return
            training = model.training
            model.eval()
            found = measure(model, held)
            model.train(training)
            if state.is_world_process_zero:
                report(this, phase, state.global_step, found)

    return Watcher()
