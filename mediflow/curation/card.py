"""Data set cards: README.md with the header that the Hugging Face Hub reads. No time and no path of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

import yaml

from medsmith.records import Instruction

SIMULATED = (
    "> **Simulated.** These rows were written by a rule-based teacher about invented patients, to exercise the "
    "pipeline. They are not medical knowledge and not for clinical use."
)
EXTRACTED = (
    "> **Simulated answers.** The simulated teacher made them by extraction from given passages (it copies sentences, "
    "numbers and names), to exercise the pipeline. The passages are not simulated. Not for clinical use."
)
OUR_LICENCE = "cdla-permissive-2.0"
LIMITS = (
    "Synthetic text: facts can be wrong, and nobody has checked every row. For research and development of language "
    "models; not medical advice and not for decisions about patients."
)
COLUMNS = """| column | holds |
| --- | --- |
| `id` | hash of the content |
| `instruction`, `input`, `output` | one single-turn exchange: system, user, assistant |
| `task_type`, `input_data`, `output_format`, `difficulty_level` | the cell of the plan that was asked for |
| `rejected_output`, `error_type` | a flawed answer and its flaw; empty outside preference data |
| `quality`, `alignment`, `coherence`, `realism`, `difficulty` | judge's mean scores, 1 to 4; null: not judged |
"""


class CardSettings(Protocol):
    """What a card needs of a command's settings."""

    @property
    def title(self) -> str:
        """The data set's name."""

    @property
    def license(self) -> str | None:
        """A Hugging Face licence identifier; None where the user states none."""


def card_licence(stated: str | None, licences: Mapping[str, str]) -> str:
    """What is stated; else ours where every source is synthetic or under the same licence; else `other`."""
    if stated:
        return stated
    ours = [value.strip().lower() == OUR_LICENCE or "(simulated)" in value.lower() for value in licences.values()]
    return OUR_LICENCE if ours and all(ours) else "other"


def write_curated_card(
    path: Path, config: CardSettings, kept: Mapping[str, int], count: int, facts: Mapping[str, Any]
) -> None:
    """The card of a curated instruction set; `kept` are rows by task type, of `count` that were generated."""
    contamination = [
        [name, counts["texts"], counts["ngram"], counts["containment"], counts["templates"], counts["unprotected"]]
        for name, counts in facts["contamination"].items()
    ]
    dropped = sum(facts["reasons"].values())
    parts = [
        f"{sum(kept.values()):,} rows of {facts['instructions']:,} instructions, kept of {count:,} generated"
        + (f" by `{facts['teacher']}`" if facts.get("teacher") else "")
        + f"; {dropped:,} were dropped, each with its reason.",
        "## How it was made\n\nA plan draws task type, document type and section, output format and difficulty; a "
        "teacher writes an instruction with examples; "
        + ("a judge scores it; " if facts.get("judges") else "")
        + "then rows are filtered (length, repetition, "
        "echo, private identifiers, language, broken JSON), exact and near duplicates removed (verified Jaccard "
        "similarity), "
        + ("benchmark texts removed, " if contamination else "")
        + "and the rest ranked by quality within task × input × format. The "
        "order of the rows is that "
        "rank: any beginning of the file is a balanced selection of the best.",
        "## Who looked at it\n\n" + _seen_by(facts),
        "## Rows\n\n" + _table(("task type", "rows"), sorted(kept.items())),
        "## Dropped\n\n" + (_table(("reason", "rows"), facts["reasons"].items()) if facts["reasons"] else "Nothing.\n"),
        "## Test data kept out\n\n"
        + (
            _table(
                ("benchmark", "texts", "rows out, sequence", "rows out, containment", "templates", "items too short"),
                contamination,
            )
            if contamination
            else "No blocklist was given: **rows were not compared with any benchmark.**\n"
        ),
        "`dropped.parquet` is for inspection and no part of the data set: rows dropped as private or contaminated hold "
        "what they were dropped for.",
        "## Columns\n\n" + COLUMNS,
        "## Licences\n\n" + _licences(facts),
        "## Limits\n\n" + LIMITS,
    ]
    _write(path, config, sum(kept.values()), facts, ["instruction-tuning"], parts)


def _seen_by(facts: Mapping[str, Any]) -> str:
    """A line each of the judges, of people, and of the facts that were compared."""
    lines = []
    for one in facts.get("judges") or []:
        line = f"- Judge `{one['judge'] or 'not named'}`"
        line += f", {one['samples']} samples an instruction" if one["samples"] else ""
        if one["agreement"] is not None:
            line += f", which agree on quality to a Krippendorff's alpha of {one['agreement']:.2f}"
        told = f"it scored {one['told']:,} of {one['planted']:,} planted errors lower than the sound row"
        lines.append(f"{line}; {told if one['planted'] else 'it was not tested on planted errors'}.")
    if not lines:
        lines.append("- No judge scored the rows.")
    if reviewed := facts.get("reviewed"):
        counts = ", ".join(f"{reviewed.get(name, 0):,} {name}ed" for name in ("accept", "reject", "edit"))
        lines.append(f"- People: {facts['reviewers']:,} reviewed; rows: {counts}.")
    else:
        lines.append("- No person decided on any row.")
    if (known := facts.get("verification")) and known["checked"]:
        share = f"{known['contradicted'] / known['checked']:.2%}".replace("%", " %")
        lines.append(
            f"- Of {known['checked']:,} statements of {known['rows']:,} kept rows that could be compared with "
            f"known facts, {known['contradicted']:,} ({share}) contradict them."
        )
    return "\n".join(lines)


ANSWERS_SHOWN = 6
"""Answers of a task and field on a card, the most frequent; answers.jsonl has all."""
AnswerCounts = Mapping[tuple[str, str], Mapping[str, tuple[int, int]]]
"""By task type and field, how often each short answer is (chosen, rejected)."""


def write_pair_card(
    path: Path, config: CardSettings, kept: Sequence[Instruction], facts: Mapping[str, Any], answers: AnswerCounts
) -> None:
    """The card of a preference set."""
    ratio = facts["length_ratio"]
    before, after = ratio["before"], ratio["after"]
    parts = [
        f"{len(kept):,} preference pairs: `output` is the answer to prefer, `rejected_output` the same answer with one "
        "flaw brought in on purpose.",
        "## How it was made\n\nInstructions are ranked by quality within task × input × format; better ranks get more "
        "pairs, each with another error type. The flaw is written by a teacher, or by a rule (`rule_…`: a changed "
        "number, side, drug, code or negation, or an omission). Pairs whose answers are equal, empty or of "
        "another format are "
        "not used." + _without_flaw(facts),
        "## Length\n\nRejected over chosen length, geometric mean: "
        f"{before['geometric_mean']:.3f} before balancing, **{after['geometric_mean']:.3f}** after "
        f"(of {before['pairs']:,} pairs, {after['pairs']:,} are kept), so that length is no shortcut. The rejected "
        f"answer is longer in {before['longer']:,} and shorter in {before['shorter']:,} pairs before, in "
        f"**{after['longer']:,}** and **{after['shorter']:,}** after.",
        "## Short answers\n\n" + _answers(answers, facts["answers"]),
        "## Error types\n\nShown to be worse: the rejected answer contradicts the patient's known facts, is another "
        "answer where only one is right, or leaves a part out. Of the others it is only known that they differ.\n\n"
        + _table(
            ("error type", "pairs", "shown to be worse", "length ratio", "longer / shorter"),
            [
                [
                    name,
                    one["pairs"],
                    _shown(facts["proof"].get(name, {})),
                    f"{one['geometric_mean']:.3f}",
                    f"{one['longer']} / {one['shorter']}",
                ]
                for name, one in after["by_error_type"].items()
            ],
        ),
        "## Columns\n\n" + COLUMNS,
        "## Licences\n\n" + _licences(facts),
        "## Limits\n\n" + LIMITS,
    ]
    _write(path, config, len(kept), facts, ["preference", "dpo"], parts)


def _answers(counts: AnswerCounts, facts: Mapping[str, Any]) -> str:
    """Chosen and rejected counts of the most frequent answers, a row each task and field."""
    rows = []
    for (task, field), answers in counts.items():
        shown = [f"{shorten(answer, 40)} {good}:{bad}" for answer, (good, bad) in list(answers.items())[:ANSWERS_SHOWN]]
        more = [f"{len(answers) - ANSWERS_SHOWN} more"] if len(answers) > ANSWERS_SHOWN else []
        pairs = sum(good for good, _ in answers.values())
        cell = "; ".join([*shown, *more]).replace("|", "\\|").replace("\n", " ")
        rows.append([f"{task}: {field}" if field else task, pairs, cell])
    if not rows:
        return "No pair has a short answer.\n"
    difference = facts["difference"]
    return (
        "How often an answer is chosen and rejected (`chosen:rejected`); where the two differ, a model learns which "
        f"answers are rejected in place of why. They differ by up to {difference['before']:,} before balancing, "
        f"by up to **{difference['after']:,}** after; {facts['swapped']:,} pairs were given the right answer of "
        "another row to reject (`other_answer`).\n\n" + _table(("task", "pairs", "most frequent answers"), rows)
    )


def _without_flaw(facts: Mapping[str, Any]) -> str:
    """How many planned pairs found no flaw that could be used."""
    failed = facts.get("without_flaw", 0)
    return f" For {failed:,} of {facts['planned']:,} planned pairs no usable flaw was found." if failed else ""


def _shown(proofs: Mapping[str, int]) -> str:
    """`12 of 40: contradicts 9, leaves_out 3`."""
    shown = {kind: count for kind, count in proofs.items() if kind != "differs"}
    how = f": {', '.join(f'{kind} {count}' for kind, count in shown.items())}" if shown else ""
    return f"{sum(shown.values())} of {sum(proofs.values())}{how}"


def _write(
    path: Path, config: CardSettings, rows: int, facts: Mapping[str, Any], tags: list[str], parts: list[str]
) -> None:
    simulated = bool(facts["simulated"])
    banner = EXTRACTED if facts.get("own_passages") else SIMULATED
    licence = card_licence(config.license, facts["licences"])
    header = {
        "license": licence,
        # The hub wants a name and a place where the licence is none that it knows.
        **({"license_name": "see-sources", "license_link": "README.md"} if licence == "other" else {}),
        "language": ["en"],
        "task_categories": ["text-generation"],
        "tags": ["medical", "clinical", "synthetic", *tags, *(["simulated"] if simulated else [])],
        "pretty_name": config.title,
        "size_categories": [_size(rows)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    body = "\n\n".join([f"# {config.title}", *([banner] if simulated else []), *(part.strip() for part in parts)])
    path.write_text(f"---\n{text}---\n\n{body}\n", encoding="utf-8")


def _size(rows: int) -> str:
    edges = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for edge, name in edges if rows < edge), "1M<n<10M")


def _licences(facts: Mapping[str, Any]) -> str:
    rows = sorted(facts["licences"].items())
    return _table(("source", "licence"), rows) if rows else "No source recorded a licence.\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += [
        "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"
