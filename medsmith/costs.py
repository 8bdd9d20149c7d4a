"""What a pipeline takes: GPU hours, tokens of paid calls and disk, step by step, from sizes that are known beforehand.

A token costs 2·P operations to read and 6·P to train on (P parameters: a multiplication and an addition each, the way
back twice the way forth), and attention 2·S·H·L and 6·S·H·L more (blocks of S tokens, each of which sees half of them;
L layers, H numbers a token). Hours are operations over what the GPU does, times the share that is put to use (MFU).
Recomputing activations, loading, checkpoints and failures are in that share or nowhere.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medsmith.config import artefacts
from medsmith.llm import is_loopback
from medsmith.pipeline import Pipeline, Step
from medsmith.prices import extra_calls
from medsmith.sizes import Benchmark, Size, Sizes

NOTHING = Size.model_validate({"from": "nothing is known of it"})
SAVED, OPTIMISER = 2, 12
"""Bytes a parameter: of a finished model in 16 bits; of a checkpoint with float32 weights and AdamW's two moments."""
TOKEN = 4
"""Bytes of a token in the file that a training reads."""


@dataclass(frozen=True)
class Work:
    """What one step does. Passes of a token are counted, so two epochs are twice the tokens."""

    trained: float = 0
    read: float = 0
    written: float = 0
    prompt: float = 0
    completion: float = 0
    cost: float | None = 0.0
    """Of paid calls, in the currency of their prices; None where one is not known."""
    kept: float = 0
    """Bytes on disk when it is finished."""
    scratch: float = 0
    """Bytes more while it works."""
    span: float | None = None
    """Tokens that attend to one another; None: a block's."""
    how: str = ""

    def hours(self, sizes: Sizes) -> float:
        """GPU hours."""
        model, gpu = sizes.model, sizes.gpu
        attention = (self.span or sizes.block) * model.hidden * model.layers
        training = self.trained * 6 * (model.parameters + attention)
        reading = self.read * 2 * (model.parameters + attention)
        writing = self.written * 2 * model.parameters
        return (training / gpu.mfu + reading / gpu.mfu + writing / gpu.writing_mfu) / (gpu.tflops * 1e12 * 3600)


@dataclass(frozen=True)
class View:
    """A step, and the sizes of what it is made from."""

    step: Step
    sizes: Sizes
    makers: Mapping[str, str] = field(default_factory=dict)
    """The step that makes each input, by the field that names it."""

    @property
    def config(self) -> Any:
        """The step's settings."""
        return self.step.config

    @property
    def own(self) -> Size:
        """What is known of the step itself."""
        return self.named(self.step.name)

    def of(self, name: str) -> Size:
        """What is known of the input that the field `name` gives."""
        return self.named(self.makers[name]) if name in self.makers else NOTHING

    def named(self, step: str) -> Size:
        """What is known of a step."""
        fitting = (size for pattern, size in self.sizes.steps.items() if fnmatch.fnmatch(step, pattern))
        return next(fitting, NOTHING)


def costs_of(pipeline: Pipeline, sizes: Sizes) -> dict[str, Work]:
    """The work of every step, in order."""
    found = {}
    for step in pipeline.steps.values():
        makers = {}
        for name, path in artefacts(step.config).items():
            for need in step.needs:
                folder = pipeline.steps[need].folder
                if path == folder or folder in path.parents:
                    makers[name] = need
        work = COMMANDS.get(step.run)
        found[step.name] = work(View(step, sizes, makers)) if work else Work()
    return found


def _corpora(view: View) -> Work:
    own = view.own
    return Work(kept=own.tokens * view.sizes.bytes_per_token, how=f"{count(own.tokens)} tokens of text")


def _calls(view: View, calls: float, document_tokens: float = 0, samples: int = 1) -> Work:
    """Calls of paid teachers with their repairs, as mediflow.plan prices them; samples of a call share its prompt."""
    own, config = view.own, view.config
    teachers = [one for one in (config.teacher, *getattr(config, "more_teachers", ())) if one is not None]
    if not teachers:
        return Work()
    more = 1 + extra_calls(config)
    prompt = more * (calls * own.prompt_tokens + document_tokens)
    completion = more * calls * own.completion_tokens * samples
    cost: float | None = 0.0
    for teacher in teachers:
        part = teacher.share / sum(one.share for one in teachers)
        if (price := teacher.token_price) is not None and cost is not None:
            cost += price.cost(part * prompt, part * completion, batch=config.engine == "batch")
        elif teacher.base_url is not None and not is_loopback(teacher.base_url):
            cost = None
    each = more * max(1, calls)
    how = f"{count(more * calls)} calls of {count(prompt / each)} + {count(completion / each)} tokens"
    how += ", repairs included" if more > 1 else ""
    kept = (prompt + 2 * completion) * view.sizes.bytes_per_token
    return Work(prompt=prompt, completion=completion, cost=cost, kept=kept, how=how)


def _prepare(view: View) -> Work:
    documents = view.of("documents")
    asked = min(documents.documents, view.config.limit or math.inf)
    return _calls(view, asked, documents.tokens * asked / max(1, documents.documents))


def _generate(view: View) -> Work:
    return _calls(view, math.ceil(view.config.instructions / view.config.per_call))


def _judge(view: View) -> Work:
    return _calls(view, view.own.calls, samples=view.config.samples)


def _planned(view: View) -> Work:
    return _calls(view, view.own.calls or view.own.rows)


def _train(view: View) -> Work:
    config, sizes = view.config, view.sizes
    names = [name for name in view.makers if name != "rows"]
    documents = sum(view.of(name).tokens for name in names if name.startswith(("documents", "mix")))
    asked = sum(view.of(name).documents for name in names if name.startswith(("documents", "mix")))
    rows = asked * view.of("rows").tokens_per_row
    one, two = (_epochs(config.trainer | block) for block in (config.phase1, config.phase2))
    if config.method == "pit":
        trained = rows * one + (rows + documents) * two
        how = f"{count(rows)} of rows × {one:g} + ({count(rows)} + {count(documents)} of documents) × {two:g}"
    else:
        what = rows if config.method == "explainer" else documents
        trained, how = what * one, f"{count(what)} tokens × {one:g}"
    return _trained(trained, sizes, how, held=TOKEN * (rows + documents))


def _trained(
    trained: float, sizes: Sizes, how: str, read: float = 0, held: float = 0, span: float | None = None
) -> Work:
    parameters = sizes.model.parameters
    return Work(trained, read, kept=SAVED * parameters, scratch=OPTIMISER * parameters + held, span=span, how=how)


def _epochs(trainer: Mapping[str, Any]) -> float:
    return float(trainer.get("num_train_epochs", 3))  # TRL's own default


def _sft(view: View) -> Work:
    data, epochs = view.of("data"), _epochs(view.config.trainer)
    rows = min(data.rows, view.config.top_rows or math.inf)
    how = f"{count(rows)} rows of {data.tokens_per_row:g} tokens × {epochs:g}"
    return _trained(rows * data.tokens_per_row * epochs, view.sizes, how, span=data.tokens_per_row)


def _dpo(view: View) -> Work:
    data, epochs = view.of("data"), _epochs(view.config.trainer)
    both = 2 * data.rows * data.tokens_per_row
    how = f"{count(data.rows)} pairs of 2 × {data.tokens_per_row:g} tokens × {epochs:g}, and read once by the reference"
    return _trained(both * epochs, view.sizes, how, read=both, span=data.tokens_per_row)


def _search(view: View) -> Work:
    sizes, questions = view.sizes, view.of("validation.0")
    grid = math.prod(len(values) if isinstance(values, list) else 1 for values in view.config.space.values())
    candidates = view.config.budget or grid
    read = candidates * questions.rows * questions.tokens_per_row
    how = f"{candidates} candidates × {count(questions.rows)} questions of {questions.tokens_per_row:g} tokens"
    model = SAVED * sizes.model.parameters
    return Work(read=read, kept=model, scratch=2 * model, span=questions.tokens_per_row, how=how)


def _evaluate(view: View) -> Work:
    known: list[Benchmark] = [
        view.sizes.benchmarks[name] for name in view.config.benchmarks if name in view.sizes.benchmarks
    ]
    read, written = sum(one.items * one.read for one in known), sum(one.items * one.written for one in known)
    missing = len(view.config.benchmarks) - len(known)
    how = f"{count(sum(one.items for one in known))} prompts of {len(known)} benchmarks"
    how += f"; of {missing} no size is known" if missing else ""
    return Work(read=read, written=written, how=how)


COMMANDS: dict[str, Callable[[View], Work]] = {
    "experts.corpora": _corpora,
    "experts.prepare": _prepare,
    "experts.train": _train,
    "mediflow.generate": _generate,
    "mediflow.judge": _judge,
    "mediflow.pair": _planned,
    "mediflow.validation_sets": _planned,
    "merge_recipes.search": _search,
    "align.sft": _sft,
    "align.dpo": _dpo,
    "eval.run": _evaluate,
}
"""What each command does; one that is not here takes no GPU and pays nobody."""


@dataclass(frozen=True)
class Comparison:
    """The same steps' hours here and as published."""

    hours: float
    published: float
    mfu: float
    """The share of the GPU's operations with which the two would be equal."""

    @property
    def difference(self) -> float:
        """Of ours from the published hours, as a share of those."""
        return self.hours / self.published - 1


def compare(works: Mapping[str, Work], sizes: Sizes) -> Comparison | None:
    """Our hours beside the published ones; None where none are published."""
    if sizes.published is None:
        return None
    without = sizes.published.without
    hours = sum(
        work.hours(sizes) for name, work in works.items() if not any(fnmatch.fnmatch(name, one) for one in without)
    )
    return Comparison(hours, sizes.published.gpu_hours, sizes.gpu.mfu * hours / sizes.published.gpu_hours)


def count(value: float) -> str:
    """A number as it is said: 48.0B, 321k."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
