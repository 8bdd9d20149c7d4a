"""contamination.md: what was found, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medsmith.decontaminate import SHORT_CONTAINMENT


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Write the page of what contamination.json holds."""
    path.write_text("\n".join(_page(found)) + "\n", encoding="utf-8")


def _page(found: dict[str, Any]) -> Iterator[str]:
    training, rules = found["training"], found["rules"]
    yield "# Test items in training data\n"
    yield (
        f"{training['rows']:,} training rows ({training['words']:,} words in {training['texts']:,} texts) of "
        f"{len(training['files'])} files. Shares with 95 % intervals.\n"
    )
    yield from _flagged(found["benchmarks"])
    yield "\n## By rule\n"
    yield from _by_rule(found["benchmarks"])
    if found["evaluations"]:
        yield "\n## Scores with all items and without the flagged ones\n"
        yield from _scores(found["evaluations"])
    yield "\n## What the rules say\n"
    yield from _rules(rules)


def _flagged(benchmarks: dict[str, Any]) -> Iterator[str]:
    patients = any(entry["patient"] for entry in benchmarks.values())
    heads = ["benchmark", "items", "flagged", "share", "question seen", "answer seen", "both"]
    yield from _head([*heads, *(["patient"] if patients else [])])
    for name, entry in benchmarks.items():
        flagged = entry["flagged"]
        cells = [name, entry["items"], flagged["items"], _percent(flagged)]
        cells += [_of(entry["question"]), _of(entry["answer"]), entry["both"]["items"]]
        if patients:
            cells.append(entry["patient"]["items"] if entry["patient"] else "–")
        yield _row(cells)


def _by_rule(benchmarks: dict[str, Any]) -> Iterator[str]:
    levels = list(next(iter(benchmarks.values()))["question"]["ngram_share_at_least"])
    shares = [f"n-grams {'> 0' if level == '0' else f'≥ {float(level):.0%}'}" for level in levels]
    yield from _head(["benchmark", "text", "judged", "too short", "template", "ngram", "containment", *shares])
    for name, entry in benchmarks.items():
        for side in ("question", "answer"):
            one = entry[side]
            counts = [one[key] for key in ("judged", "too_short", "template", "ngram", "containment")]
            yield _row([name, side, *counts, *one["ngram_share_at_least"].values()])


def _scores(effects: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from _head(["model", "benchmark", "metric", "all", "n", "without flagged", "n", "difference"])
    for one in effects:
        clean = one["clean"]
        cells = [one["model"], one["benchmark"], one["metric"], _percent(one["all"]), one["all"]["n"]]
        cells += [_percent(clean), clean["n"]] if clean else ["no item is clean", 0]
        yield _row([*cells, _points(one["difference"]) if one["difference"] else "–"])


def _rules(rules: dict[str, Any]) -> Iterator[str]:
    yield (
        "An item is flagged where its question or its answer is seen in any text of a training row, or where a "
        "training row is of its patient. Words are compared without case and punctuation.\n"
    )
    yield (
        f"* ngram: at least {rules['ngram_share']:.0%} of its {rules['ngram_words']}-grams occur anywhere in training."
    )
    yield (
        f"* containment: a training text holds at least {rules['containment']:.0%} of its "
        f"{rules['shingle_words']}-word shingles within a window of its length, as an edited copy does (texts of fewer "
        f"than {2 * rules['ngram_words']} words: {SHORT_CONTAINMENT:.0%})."
    )
    yield (
        f"* Not judged: texts of fewer than {rules['min_words']} words, and language that {rules['common_benchmarks']} "
        f"benchmarks share, or more than {rules['common_documents']} documents of one: template."
    )
    yield "* mediflow.curate and experts.corpora drop a row for a single n-gram: more than is flagged here."
    yield "* Not found: translations, paraphrases that share no long phrase, and facts learnt from other words."


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _of(side: dict[str, Any]) -> str:
    return f"{side['seen']['items']} of {side['judged']}"


def _percent(interval: dict[str, Any]) -> str:
    return f"{100 * interval['value']:.1f} %{_ends(interval, '.1f')}"


def _points(interval: dict[str, Any]) -> str:
    return f"{100 * interval['value']:+.1f}{_ends(interval, '+.1f')}"


def _ends(interval: dict[str, Any], form: str) -> str:
    """Of one group of items there is no interval."""
    if interval["low"] is None:
        return ""
    return f" ({100 * interval['low']:{form}} to {100 * interval['high']:{form}})"
