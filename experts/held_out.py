"""The loss on held-out documents, by source: before, while and after an expert is trained.

Rows of log/metrics.jsonl: training "<phase>, held out" has the mean over all tokens, and, where there is more than one
source, "<phase>, held out: <source>" that of one, with its name under `source`. Before and after, the weights are read
anew and counted in float32; in between the model is measured as it stands, in the precision of its training.

Texts of other corpora (`retain`) are measured too, once before all phases and once after: what an expert's own held-out
texts cannot tell is that it has lost all other language. SmolLM2-135M trained on codes went from a perplexity of 47 to
2,374 on clinical prose.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medsmith.intervals import paired_change
from medsmith.records import Document, read_json, write_json
from medsmith.run import Run

LOG = logging.getLogger(__name__)

MARGIN = 0.05
"""Nats a token by which retained texts may get worse before it is called a loss: a perplexity of 20 becomes 21."""


class HeldOut(NamedTuple):
    """What is measured, and how: documents by source, read in windows of so many tokens."""

    documents: Mapping[str, Sequence[Document]]
    tokenizer: Any
    window: int
    retained: Mapping[str, Sequence[Document]] = {}
    """Documents of other corpora, by name."""


class Scores(NamedTuple):
    """Of each document of a retained corpus the sum of its tokens' losses (nats) and their number."""

    nll: list[float]
    tokens: list[int]

    @property
    def loss(self) -> float:
        """The mean over all tokens."""
        return round(sum(self.nll) / sum(self.tokens), 6)


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
    losses = {"": mean(found.values())} | {source: mean([value]) for source, value in found.items()}
    log_losses(this, phase, step, losses)
    return losses


def log_losses(this: Run, phase: str, step: int, losses: Mapping[str, float]) -> None:
    """Put losses by source, with that of all under '', into the metrics."""
    from medsmith.training import log_row

    log_row(this, f"{phase}, held out", step, heldout_loss=losses[""])
    if len(losses) > 2:
        for source, loss in losses.items():
            if source:
                log_row(this, f"{phase}, held out: {source}", step, source=source, heldout_loss=loss)


def losses_after(report: Mapping[str, Any]) -> dict[str, float]:
    """What a phase's report says of the model that it ended with, which is the one that the next begins with."""
    if report["heldout_loss_after"] is None:
        return {}
    by_source = report.get("heldout_loss_by_source", {})
    return {"": report["heldout_loss_after"]} | {source: after for source, (_, after) in by_source.items()}


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


def retained_scores(this: Run, phase: str, step: int, model: str | Path, held: HeldOut) -> dict[str, Scores]:
    """The losses of a model on the texts of other corpora, in float32, put into the metrics of a phase."""
    from medsmith.likelihood import document_nll
    from medsmith.models import load_model
    from medsmith.training import log_row

    if not held.retained:
        return {}
    loaded, found = load_model(model), {}
    for name, documents in held.retained.items():
        scores = document_nll(loaded, held.tokenizer, [document.text for document in documents], held.window)
        found[name] = Scores([score.nll for score in scores], [score.tokens for score in scores])
        log_row(this, f"{phase}, held out: retain {name}", step, source=name, heldout_loss=found[name].loss)
    return found


def retained_before(this: Run, phase: str, base: str | Path, held: HeldOut) -> dict[str, Scores]:
    """What the base scores; measured once, and read where an earlier try has measured it."""
    note = this.folder / "checkpoints" / "retained.json"
    if note.is_file():
        return {name: Scores(*values) for name, values in read_json(note).items()}
    found = retained_scores(this, phase, 0, base, held)
    if this.main and found:
        write_json(note, found)
    return found


def compare_retained(before: Mapping[str, Scores], after: Mapping[str, Scores], seed: int) -> dict[str, dict[str, Any]]:
    """Of each corpus the loss before and after and the change, with its paired 95 % interval over documents.

    A corpus whose whole interval lies above MARGIN is lost, and a warning says so.
    """
    table = {}
    for name, old in before.items():
        new = after[name]
        documents = [str(number) for number in range(len(old.nll))]
        change = paired_change(old.nll, new.nll, documents, seed, sizes=old.tokens)
        table[name] = {
            "documents": len(documents),
            "tokens": sum(old.tokens),
            "loss_before": old.loss,
            "loss_after": new.loss,
            "change": round(change.value, 6),
            "interval": [round(change.low, 6), round(change.high, 6)],
            "margin": MARGIN,
            "lost": change.low > MARGIN,
        }
        if change.low > MARGIN:
            LOG.warning(
                "language is being lost: on %s the loss rose by %.3f nats a token (95 %% interval %.3f to %.3f, all "
                "above %.2f); rehearse such texts, or train at a lower rate",
                name, change.value, change.low, change.high, MARGIN,
            )  # fmt: skip
    return table


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
