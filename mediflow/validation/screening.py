"""What is dropped of the usable questions: repeats, benchmark texts, what a reader doubts, what needs no context.

Each step looks at the questions that are left, in the order of the plan, and says of those it drops why.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediflow.checking.validate import read_json_text
from mediflow.generation.parse import find_json
from mediflow.prompt import render
from mediflow.validation.asking import Entry
from mediflow.validation.topics import Topic
from medsmith.llm import Chat, ChatRequest, Journal, Summary, run_calls
from medsmith.replies import cut_note

if TYPE_CHECKING:
    from mediflow.validation_sets import Config


def left(entries: Sequence[Entry]) -> list[Entry]:
    """Those that are not dropped."""
    return [entry for entry in entries if entry.reason is None]


def drop_repeats(entries: Sequence[Entry], threshold: float) -> None:
    """Equal words anywhere, and within a topic a question with its context that is too like an earlier one."""
    from medsmith.dedup import find_exact_duplicates, find_near_duplicates

    open_ = left(entries)
    for number, found in find_exact_duplicates([(entry.candidate.text,) for entry in open_]).items():
        open_[number].drop("exact_duplicate", f"of {open_[found.of].id}")
    open_ = left(entries)
    texts, topics = [entry.candidate.text for entry in open_], [entry.topic for entry in open_]
    for number, found in find_near_duplicates(texts, threshold, topics).items():
        open_[number].drop("near_duplicate", f"of {open_[found.of].id}, likeness {found.similarity:.3f}")


def drop_contaminated(entries: Sequence[Entry], config: Config) -> None:
    """Questions that hold a text of the blocklists: what a merge is chosen by must not be what it is reported on."""
    from medsmith.decontaminate import find_contaminated, refuse_losses

    if not config.blocklists:
        return
    settings = config.decontamination
    blocked = settings.load(config.blocklists).texts
    open_ = left(entries)
    hits = find_contaminated([entry.candidate.text for entry in open_], blocked, settings).hits
    refuse_losses([hit.blocked for hit in hits.values()], len(open_), blocked, settings)
    for number, hit in hits.items():
        one = blocked[hit.blocked]
        open_[number].drop("contaminated", f"{one.benchmark} {one.place} ({hit.rule}, {hit.similarity:.2f})")


def review_request(config: Config, topic: Topic, entry: Entry) -> ChatRequest:
    """The question as a reader meets it who knows no answer: its options numbered in an order of their own."""
    assert config.reviewer is not None, "asked only where there is a reviewer"
    one = entry.candidate
    options = shown_options(config, entry)
    request = {"kind": "choose", "context": one.context, "question": one.question, "options": options}
    return config.reviewer.request(
        render("choose", request, instruction=topic.instruction),
        temperature=0.0,
        max_tokens=config.max_tokens,
        response_schema=_review_schema(len(options)) if config.structured else None,
        about={"question_id": entry.id},
    )


def shown_options(config: Config, entry: Entry) -> list[str]:
    """The options as the reviewer is shown them."""
    one = entry.candidate
    return random.Random(f"review {config.seed} {entry.id}").sample([one.right, *one.wrong], 1 + len(one.wrong))


def drop_doubted(
    entries: Sequence[Entry], config: Config, topics: Mapping[str, Topic], chat: Chat, folder: Path
) -> Summary:
    """Questions that the reviewer answers otherwise, or of which nothing can be read; what its calls took."""
    assert config.reviewer is not None, "asked only where there is a reviewer"
    open_ = left(entries)
    asked: dict[str, list[Entry]] = {}

    def requests() -> Iterator[ChatRequest]:
        for entry in open_:
            request = review_request(config, topics[entry.topic], entry)
            asked.setdefault(request.id, []).append(entry)
            yield request

    with Journal(folder / "raw" / "reviews.jsonl") as journal:
        rows = run_calls(requests(), chat, journal, config.reviewer.concurrency, "review", total=len(open_))
        usage = Summary.of(rows.values())
        usage.refuse_silence(config.allow_failed)
        for key, reviewed in asked.items():
            row = rows[key]
            for entry in reviewed:
                _judge(entry, row, shown_options(config, entry))
        return usage


def _judge(entry: Entry, row: dict[str, Any], options: list[str]) -> None:
    if row["texts"] is None:
        entry.drop("reviewer_silent", row["error"] or "")
        return
    value, problem = read_json_text(find_json(row["texts"][0]), _review_schema(len(options)))
    if problem is not None:
        entry.drop("reviewer_silent", problem + cut_note(row))
    elif value["answer"] == 0:
        entry.drop("reviewer_disagrees", "no option, or more than one")
    elif options[value["answer"] - 1] != entry.candidate.right:
        entry.drop("reviewer_disagrees", f"{options[value['answer'] - 1]!r} instead of {entry.candidate.right!r}")


def _review_schema(options: int) -> dict[str, Any]:
    answer = {"type": "integer", "minimum": 0, "maximum": options}
    return {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}


def drop_known(entries: Sequence[Entry], config: Config, topics: Mapping[str, Topic]) -> None:
    """Questions that a model answers without their context, in topics where the context is to decide.

    A quarter of four options is right by luck: of what is left this model knows less without the context than luck.
    """
    if config.closed_book is None:
        return
    from medsmith.likelihood import ChoiceItem, score_options
    from medsmith.models import load_model, load_tokenizer

    open_ = [entry for entry in left(entries) if not topics[entry.topic].knowledge]
    model = load_model(config.closed_book, device=config.device)
    items = []
    for entry in open_:
        system = {"role": "system", "content": topics[entry.topic].instruction}
        user = {"role": "user", "content": entry.candidate.question}
        items.append(ChoiceItem([system, user], [entry.candidate.right, *entry.candidate.wrong]))
    for entry, scores in zip(open_, score_options(model, load_tokenizer(config.closed_book), items), strict=True):
        means = [value / count for value, count in zip(scores.logprobs, scores.tokens, strict=True)]
        # The right option stands first here; a tie is no knowledge.
        if means[0] > max(means[1:]):
            entry.drop("known_without_context", str(config.closed_book))
