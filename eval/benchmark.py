"""What a benchmark is: a module of `eval/benchmarks`, listed by its file name and nowhere else.

Such a module reads one public data set in its published file format and has

    VERSION = 1                      raised when its numbers change meaning
    METRIC = "accuracy"              the headline: an id of eval.metrics, or COMPOSITE (then with COMPONENTS)
    ACCESS = "open"                  or "credentialed": texts stay out of the results unless asked for
    LICENCE, SOURCE                  of the data, in words; where to get them
    MAX_NEW_TOKENS = 20              room for an answer (0: options are scored, nothing is written)
    load(path, split) -> Loaded      "test", or "shots": the split that examples may come from
    parse(output, item) -> answer    None where the output cannot be read, Repaired(answer) where it took mending
    score(answer, item) -> scores    {metric id: 0..1} of this item

and, where it needs them,

    COMPONENTS = ("rouge1", "bertscore_f1")   what the headline COMPOSITE averages; what was not computed is named
    ROUNDED = True                   the components' means are rounded to 0.01 first (a published protocol does so)
    BESIDE = ("concept_f1_dictionary",)       further metrics of eval.text_scorers, reported beside the headline
    texts(answer, item) -> (said, true)       the texts that those and learned COMPONENTS compare; else answer and gold
    SLICE_MEAN = True                the headline is the plain mean of the slices' means, not the mean of all items
    count(answer, item) -> counts    {metric id: [numbers]} of metrics that are functions of summed counts, such as
                                     pooled F1; asked for every item, with answer None where it is unreadable
    compose(items, engine) -> items  items whose prompts are filled up to a number of the model's tokens
    answers(item) -> [text]          every answer that the item may have, where they can be counted (for eval.baselines)
    PUBLISHED = {name: Published()}  files as published, to tell whether the given one is
    FILES = {"test": …, "shots": …}  patterns of the published files: the tested one, and that of the training part
    ID_COLUMN = "File"               of a file that is a table with a row an item: the column of items' ids (eval.split)

Answer, score and metric are three things: an unreadable output is counted apart and scores 0 on every metric.
`eval/clue` holds a module of the same name and kind where the published protocol does otherwise (see there).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from medsmith.errors import UserError
from medsmith.records import content_id

FOLDER = Path(__file__).parent / "benchmarks"
CLUE = Path(__file__).parent / "clue"
COMPOSITE = "composite"

log = logging.getLogger("eval.run")


@dataclass(frozen=True)
class Item:
    """One question. `group` is the document or patient that it is about: items of a group are not independent.

    Where there are options, their likelihoods are compared and `gold` is one of them.
    """

    id: str
    group: str
    messages: list[dict[str, str]]
    gold: str
    options: list[str] = field(default_factory=list)
    slice: str = ""
    """A part of the benchmark that is also reported by itself (a level of difficulty, say)."""
    truth: Any = None
    """What scoring needs beyond `gold`, which is the text that a perfect answer would be: spans, codes, a context."""
    weight: int = 1
    """How often the item counts: 1, but where a published protocol counts one twice."""


class Repaired(NamedTuple):
    """An answer that could be read only after its form was mended (a missing bracket, say)."""

    answer: Any


class Published(NamedTuple):
    """A file as it was published: its number of rows, blank ones included, and its SHA-256 where it is known."""

    rows: int
    sha256: str = ""


class Loaded(NamedTuple):
    """The items of a file, the rows left out by reason, and what is noteworthy about the file (for result.json)."""

    items: list[Item]
    dropped: Counter[str]
    notes: dict[str, Any] = {}


class Benchmark(Protocol):
    """The module, as seen by `eval.run`."""

    VERSION: int
    METRIC: str
    ACCESS: str
    LICENCE: str
    SOURCE: str
    MAX_NEW_TOKENS: int

    def load(self, path: Path, split: str) -> Loaded:
        """Read the items of a split."""

    def parse(self, output: str, item: Item) -> Any:
        """Take the answer out of a model's output."""

    def score(self, answer: Any, item: Item) -> dict[str, float]:
        """Score an answer against the item's gold."""


def names() -> list[str]:
    """Every benchmark there is."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def load_benchmark(name: str, protocol: str = "strict") -> Benchmark:
    """Import a benchmark by name, as a protocol asks and scores it; UserError where there is none."""
    if name not in names():
        raise UserError(f"no benchmark is called '{name}'; there are {', '.join(names())}")
    if protocol == "strict":
        return cast(Benchmark, importlib.import_module(f"eval.benchmarks.{name}"))
    if not (CLUE / f"{name}.py").is_file():
        there = ", ".join(sorted(path.stem for path in CLUE.glob("*.py") if path.stem in names()))
        raise UserError(f"protocol {protocol} does not know {name}; it is defined for {there}")
    return cast(Benchmark, importlib.import_module(f"eval.clue.{name}"))


def ask(system: str, user: str) -> list[dict[str, str]]:
    """A conversation of a system and a user turn."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


class BadRow(UserError):
    """A row of a published set that cannot be asked or scored; it does not take the set with it."""


UNREADABLE = "a row that cannot be read: "
UNREADABLE_SHARE = 0.05
"""Of more rows than these the set is another one than its reader is for."""


@contextlib.contextmanager
def leaving_out(dropped: Counter[str]) -> Iterator[None]:
    """Count a row that is raised as a BadRow apart, under what is wrong with it; `loaded` refuses many of them."""
    try:
        yield
    except BadRow as error:
        dropped[f"{UNREADABLE}{error}"] += 1


def loaded(rows: Iterable[Item], dropped: Counter[str], path: Path, notes: Mapping[str, Any] | None = None) -> Loaded:
    """Check that there are items and that no id is there twice (a Loaded with the items in the file's order)."""
    items = list(rows)
    bad = [reason for reason in dropped if reason.startswith(UNREADABLE)]
    if len(bad) > UNREADABLE_SHARE * (len(items) + dropped.total()):
        raise UserError(bad[0].removeprefix(UNREADABLE) + (f" ({len(bad)} such rows)" if len(bad) > 1 else ""))
    for reason in bad:
        log.warning("left out: %s", reason)
    if not items:
        left = "".join(f"; {count} rows left out: {reason}" for reason, count in dropped.items())
        raise UserError(f"{path} holds no item{left}; an evaluation of nothing has no score")
    twice = [key for key, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise UserError(f"{path}: the id '{twice[0]}' is there twice; make ids unique")
    return Loaded(items, dropped, dict(notes or {}))


def limited(items: list[Item], limit: int | None) -> list[Item]:
    """At most `limit` items, chosen by the hash of their ids, in equal parts from every slice; in the given order.

    The choice depends on nothing but the ids: two models, or two days, are asked the same.
    """
    if limit is None or limit >= len(items):
        return items
    by_slice: dict[str, list[Item]] = {}
    for item in _shuffled(items):
        by_slice.setdefault(item.slice, []).append(item)
    chosen: set[str] = set()
    turn = 0
    while len(chosen) < limit:
        for name in sorted(by_slice):
            if turn < len(by_slice[name]) and len(chosen) < limit:
                chosen.add(by_slice[name][turn].id)
        turn += 1
    return [item for item in items if item.id in chosen]


def with_shots(items: list[Item], examples: list[Item], count: int) -> list[Item]:
    """Put the same `count` solved examples (user, assistant) behind the system turn of every item."""
    if count > len(examples):
        raise UserError(f"{count} shots are asked for, the split for them holds {len(examples)}; ask for fewer")
    shots = list(_turns(_shuffled(examples)[:count]))
    return [replace(item, messages=[item.messages[0], *shots, *item.messages[1:]]) for item in items]


def _shuffled(items: list[Item]) -> list[Item]:
    return sorted(items, key=lambda item: (content_id(item.id), item.id))


def _turns(examples: list[Item]) -> Iterator[dict[str, str]]:
    for example in examples:
        yield example.messages[-1]
        yield {"role": "assistant", "content": example.gold}
