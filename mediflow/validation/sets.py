"""The sets as files: kept questions by topic, dropped ones with their reasons, coverage.json and report.md."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mediflow.validation.asking import Entry
from mediflow.validation.candidates import FAILED, Broken, Candidate
from mediflow.validation.diversity import OUTLIER, Diversity, choose, embed, mean_nearest, mean_nearest_at_random
from mediflow.validation.screening import left
from mediflow.validation.topics import Topic
from medsmith.records import write_json, write_jsonl


def diversify(entries: Sequence[Entry], quota: int, settings: Diversity, seed: int) -> dict[str, Any]:
    """Drop what is not chosen of one topic's questions; the clusters, and how alike questions are before and after."""
    open_ = left(entries)
    if not open_:
        return {"clusters": [], "outliers": 0, "nearest": dict.fromkeys(("candidates", "random", "kept"))}
    vectors = embed([entry.candidate.text for entry in open_], settings, seed)
    chosen, labels = choose(vectors, quota, settings, seed)
    for number, entry in enumerate(open_):
        entry.cluster = int(labels[number])
        if number not in chosen:
            entry.drop("not_chosen", f"cluster {entry.cluster}" if entry.cluster != OUTLIER else "an outlier")
    sizes = Counter(labels.tolist())
    return {
        "clusters": sorted((size for label, size in sizes.items() if label != OUTLIER), reverse=True),
        "outliers": sizes[OUTLIER],
        "nearest": {
            "candidates": mean_nearest(vectors),
            "random": mean_nearest_at_random(vectors, len(chosen), seed),
            "kept": mean_nearest(vectors[chosen]),
        },
    }


def rows_of(name: str, topic: Topic, kept: Sequence[Entry], seed: int) -> list[dict[str, Any]]:
    """The kept questions as merge_recipes.search reads them, the right option in each place equally often."""
    count = 1 + len(kept[0].candidate.wrong) if kept else 1
    places = [number % count for number in range(len(kept))]
    random.Random(f"places {seed} {name}").shuffle(places)
    rows = []
    for entry, place in zip(kept, places, strict=True):
        one = entry.candidate
        options = random.Random(f"options {seed} {entry.id}").sample(one.wrong, len(one.wrong))
        options.insert(place, one.right)
        rows.append(
            {
                "id": entry.id,
                "topic": name,
                "instruction": topic.instruction,
                "context": one.context,
                "question": one.question,
                "options": options,
                "answer_index": place,
                "evidence": one.evidence,
                "reason": one.reason,
                "model": entry.model,
            }
        )
    return rows


def write_sets(
    folder: Path, entries: Sequence[Entry], topics: Mapping[str, Topic], told: Mapping[str, dict[str, Any]], seed: int
) -> dict[str, int]:
    """Write everything; the counts of in = kept + dropped + failed.

    `told` is what `diversify` says of each topic.
    """
    coverage = {}
    for name, topic in topics.items():
        own = [entry for entry in entries if entry.topic == name]
        rows = rows_of(name, topic, left(own), seed)
        write_jsonl(folder / "sets" / f"{name}.jsonl", rows)
        coverage[name] = _cover(own, rows, told[name], topic)
    write_jsonl(folder / "dropped.jsonl", map(_dropped_row, (entry for entry in entries if entry.reason is not None)))
    write_json(folder / "coverage.json", coverage)
    (folder / "report.md").write_text(_report(coverage), encoding="utf-8")
    counts = {key: sum(one[key] for one in coverage.values()) for key in ("questions", "kept", "dropped", "failed")}
    assert counts["questions"] == counts["kept"] + counts["dropped"] + counts["failed"], "a question vanished"
    return counts


def _cover(
    own: Sequence[Entry], rows: Sequence[Mapping[str, Any]], told: Mapping[str, Any], topic: Topic
) -> dict[str, Any]:
    reasons = Counter(entry.reason for entry in own if entry.reason is not None)
    failed = sum(count for reason, count in reasons.items() if reason in FAILED)
    right = [row["options"][row["answer_index"]] for row in rows]
    longest = [
        len(text) > max(len(o) for o in row["options"] if o != text) for text, row in zip(right, rows, strict=True)
    ]
    positions = Counter(row["answer_index"] for row in rows)
    return {
        "title": topic.title,
        "questions": len(own),
        "kept": len(rows),
        "dropped": sum(reasons.values()) - failed,
        "failed": failed,
        "reasons": dict(sorted(reasons.items())),
        # Why the first try could not be used of those that a repair has put right; kept or dropped like any other.
        "mended": dict(sorted(Counter(entry.mended for entry in own if entry.mended is not None).items())),
        **told,
        "right_by_place": [positions[place] for place in range(len(rows[0]["options"]) if rows else 0)],
        # Above one in so many options, the longest is a good guess.
        "right_is_longest": round(sum(longest) / len(rows), 4) if rows else None,
        **({"right_by_label": {label: right.count(label) for label in topic.labels}} if topic.labels else {}),
    }


def _dropped_row(entry: Entry) -> dict[str, Any]:
    about = {"topic": entry.topic, "reason": entry.reason, "detail": entry.detail, "call_id": entry.call_id}
    about["status"] = "failed" if entry.reason in FAILED else "dropped"
    if isinstance(entry.slot, Broken):
        return about | {"text": entry.slot.text}
    one: Candidate = entry.slot
    said = {"id": entry.id, "context": one.context, "question": one.question, "right": one.right}
    return about | said | {"wrong": list(one.wrong), "evidence": one.evidence}


def _report(coverage: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "# Validation sets",
        "",
        "Nearest is the mean cosine similarity of a question (with its context) to the one most like it: of all usable "
        "candidates, of a random pick as large as what was kept, and of what was kept. Lower is more different.",
        "",
        "| topic | questions | kept | dropped | failed | clusters | outliers | nearest: all | random | kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in coverage.values():
        near = ["–" if value is None else f"{value:.3f}" for value in one["nearest"].values()]
        cells = [one["title"], one["questions"], one["kept"], one["dropped"], one["failed"], len(one["clusters"])]
        lines.append(f"| {' | '.join(map(str, [*cells, one['outliers'], *near]))} |")
    reasons = sum((Counter(one["reasons"]) for one in coverage.values()), Counter[str]())
    lines += ["", "| not kept because | questions |", "|---|---:|"]
    lines += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    mended = sum((Counter(one["mended"]) for one in coverage.values()), Counter[str]())
    lines += ["", "| written anew because | questions |", "|---|---:|"] if mended else []
    lines += [f"| {reason} | {count} |" for reason, count in mended.most_common()]
    return "\n".join(lines) + "\n"
