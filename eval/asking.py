"""Put the items of a benchmark to a model: one sample an item, with output, answer, score and how it was read."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmark import Benchmark, Item, Repaired, limited, load_benchmark, with_shots
from eval.engine import RemoteEngine
from eval.parsing import parse_letter
from eval.responses import Responses, fit
from eval.suite import BenchmarkSettings
from medsmith.errors import UserError
from medsmith.progress import Bar
from medsmith.records import content_id, write_json

if TYPE_CHECKING:
    from eval.engine import Engine

LETTERS = "ABCDEFGHIJ"
LETTER_TOKENS = 16
LETTER = "Answer with the letter."

log = logging.getLogger("eval.run")


@dataclass(frozen=True)
class Task:
    """A benchmark made ready: its items as they will be asked."""

    name: str
    benchmark: Benchmark
    settings: BenchmarkSettings
    path: Path
    items: list[Item]
    dropped: Counter[str]
    max_new_tokens: int
    notes: dict[str, Any] = field(default_factory=dict)


def prepare(
    name: str,
    settings: BenchmarkSettings,
    path: Path,
    limit: int | None,
    context: int,
    protocol: str = "strict",
    likelihoods: bool = True,
) -> Task:
    """Load a benchmark, take the items that are asked, put examples in front and lay out options.

    An answer gets no more than half of the model's context: the other half is for the question. Of a model without
    `likelihoods` options are answered by writing their letter, and the settings of the task say so.
    """
    benchmark = load_benchmark(name, protocol)
    items, dropped, notes = benchmark.load(path, "test")
    options = benchmark.MAX_NEW_TOKENS == 0
    if not options and (settings.choice != "text" or settings.generate):
        raise UserError(f"{name} has no options to choose from; leave choice and generate out of its settings")
    if options and not likelihoods:
        settings = settings.model_copy(update={"choice": "written"})
    lettered = options and settings.choice != "text"
    written = options and settings.choice == "written"
    arrange = getattr(benchmark, "arrange", None)
    if arrange is not None:  # the protocol has its own examples, taken from the items that are scored
        before = len(items)
        items = arrange(items, settings.shots)
        dropped = dropped + Counter({"example of the protocol": before - len(items)})
    smallest = min((value for value in (limit, settings.limit) if value is not None), default=None)
    taken = limited(items, smallest)
    if len(taken) < len(items):
        dropped = dropped + Counter({"beyond the limit": len(items) - len(taken)})
    shots = benchmark.load(path, "shots").items if settings.shots and arrange is None else []
    if lettered:
        taken, shots = [list(map(with_letters, rows)) for rows in (taken, shots)]
    if shots:
        try:
            taken = with_shots(taken, shots, settings.shots)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    if written:
        taken = list(map(told, taken))
    longest = settings.max_new_tokens or (LETTER_TOKENS if written else benchmark.MAX_NEW_TOKENS)
    room = min(longest, context // 2)
    return Task(name, benchmark, settings, path, taken, dropped, room, notes)


def ask(task: Task, responses: Responses, folder: Path, bar: Bar, withheld: bool = False) -> list[dict[str, Any]]:
    """Put a benchmark's items to the model, read and score what comes back: one sample an item, in their order.

    The exact first prompt is written into log/; of a withheld text only its digest and length.
    """
    from medsmith.likelihood import ChoiceItem

    compose = getattr(task.benchmark, "compose", None)
    if compose is not None:  # prompts that are filled up to a number of tokens
        task = replace(task, items=compose(task.items, responses.engine))
    engine, items = responses.engine, task.items
    options = engine.tokens_of([option for item in items for option in item.options])
    room = engine.context - max([task.max_new_tokens, *options])
    conversations, encoded, truncated = _fitted(engine, task, room)
    prompts = [engine.decode(ids) for ids in encoded]
    begins = engine.begin_tokens(encoded[0])
    shown: dict[str, Any] = {"prompt": f"sha256:{content_id(prompts[0])}"} if withheld else {"prompt": prompts[0]}
    if not withheld and not isinstance(engine, RemoteEngine):  # which shows no tokens
        shown["token_ids"] = encoded[0]
    first = {"benchmark": task.name, **shown, "tokens": len(encoded[0]), "begin_of_text_tokens": begins}
    write_json(folder / "log" / "first_prompts" / f"{task.name}.json", first)
    log.info(
        "%s: %d items; the first (%d begin-of-text) is log/first_prompts/%s.json",
        task.name,
        len(items),
        begins,
        task.name,
    )
    written = task.settings.choice == "written" and bool(items[0].options)
    if items[0].options and not written:
        asked = [ChoiceItem(chat, item.options) for chat, item in zip(conversations, items, strict=True)]
        lengths = [len(ids) + sum(map(len, item.options)) // 3 for ids, item in zip(encoded, items, strict=True)]
        rows = responses.choose(prompts, asked, lengths, bar)
        outputs = [_best(item, row) for item, row in zip(items, rows, strict=True)]
    else:
        rows = responses.write(prompts, encoded, task.max_new_tokens, bar)
        outputs = [row["text"] for row in rows]
    samples = []
    for item, prompt, cut, output, row in zip(items, prompts, truncated, outputs, rows, strict=True):
        details = {"truncated": cut, "finish": row["finish"]} if "finish" in row else {"truncated": cut, **row}
        samples.append(sample_of(task.name, task.benchmark, item, prompt, output, written) | details)
    if task.settings.generate and items[0].options and not written:
        _write_letters(task, responses, samples, bar)
    return samples


def _write_letters(task: Task, responses: Responses, samples: list[dict[str, Any]], bar: Bar) -> None:
    """Let the model write the letter too: what it chooses by likelihood and what it says are two abilities."""
    engine = responses.engine
    lettered = [told(item if _is_lettered(item) else with_letters(item)) for item in task.items]
    asked = replace(task, items=lettered, max_new_tokens=LETTER_TOKENS)
    _, encoded, _ = _fitted(engine, asked, engine.context - LETTER_TOKENS)
    rows = responses.write([engine.decode(ids) for ids in encoded], encoded, LETTER_TOKENS, bar)
    for sample, item, row, plain in zip(samples, lettered, rows, task.items, strict=True):
        texts = dict(zip(item.options, plain.options, strict=True))
        letter = parse_letter(row["text"], item.options)
        chosen = item.options[plain.options.index(sample["answer"])]
        sample["written"] = row["text"]
        sample["written_answer"] = texts[letter] if letter else None
        sample["scores"] |= {
            "accuracy_written": float(letter == item.gold),
            "readable_written": float(letter is not None),
            "agreement_written": float(letter == chosen),
        }


def told(item: Item) -> Item:
    """The item with the request for a letter: of one that is to be written, not chosen, this must be said."""
    last = item.messages[-1]
    return replace(item, messages=[*item.messages[:-1], {**last, "content": f"{last['content']}\n{LETTER}"}])


def _is_lettered(item: Item) -> bool:
    return item.options == list(LETTERS[: len(item.options)])


def _fitted(engine: Engine, task: Task, room: int) -> tuple[list[list[dict[str, str]]], list[list[int]], list[bool]]:
    """Conversations, their ids, and which of them were cut to fit."""
    conversations = [item.messages for item in task.items]
    encoded = engine.encode(conversations)
    truncated = [len(ids) > room for ids in encoded]
    for index, long in enumerate(truncated):
        if long:
            shorter = fit(engine, conversations[index], room)
            if shorter is None:
                raise UserError(
                    f"{task.name}: item {task.items[index].id} and its answer do not fit into {engine.context} tokens; "
                    "ask with fewer shots or a smaller max_new_tokens, or take a model of longer context"
                )
            conversations[index] = shorter
            encoded[index] = engine.encode([shorter])[0]
    return conversations, encoded, truncated


def sample_of(
    name: str, benchmark: Benchmark, item: Item, prompt: str, output: str, letter: bool = False
) -> dict[str, Any]:
    """Answer, score and metric of one item. Unreadable: no answer, and 0 on every metric.

    `letter`: the output is a text that names the letter of an option.
    """
    found = parse_letter(output, item.options) if letter else benchmark.parse(output, item)
    answer = found.answer if isinstance(found, Repaired) else found
    scores = {} if answer is None else benchmark.score(answer, item)
    assert all(0 <= value <= 1 for value in scores.values()), f"{name}: a score of {item.id} is outside 0..1"
    count = getattr(benchmark, "count", None)
    return {
        "benchmark": name,
        "id": item.id,
        "group": item.group,
        "slice": item.slice,
        "weight": item.weight,
        "prompt": prompt,
        "output": output,
        "answer": answer,
        "gold": item.gold,
        "scores": scores,
        "counts": {} if count is None else count(answer, item),
        "unreadable": answer is None,
        "reading": _reading(found, output),
    }


def _reading(found: Any, output: str) -> str:
    """How an output was read: valid, repaired, unreadable or empty."""
    if found is None:
        return "unreadable" if output.strip() else "empty"
    return "repaired" if isinstance(found, Repaired) else "valid"


def _best(item: Item, row: dict[str, Any]) -> str:
    from medsmith.likelihood import OptionScores

    return item.options[OptionScores(**row).best()]


def with_letters(item: Item) -> Item:
    """The item with its options as lettered lines, to be answered by a letter."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, item.options, strict=False)]
    turn = {"role": "user", "content": "\n".join([item.messages[-1]["content"], *lines])}
    letters = list(LETTERS[: len(item.options)])
    gold = letters[item.options.index(item.gold)]
    return replace(item, messages=[*item.messages[:-1], turn], options=letters, gold=gold)
