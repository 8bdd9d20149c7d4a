"""Make questions on radiology findings from reports, in the format of the benchmark rrs_qa.

    python -m eval.make_rrs_qa out=out/benchmarks/rrs_qa test=data/indiana_dev.json 'license=as MEDIQA 2021 task 3'

Reports are findings with impressions: a .json list (as MEDIQA 2021 publishes), .jsonl or .csv with these two columns,
or a folder with one `*.findings.tok` and one `*.impression.tok`, a report a line.

The questions are made here, by rules and without a model: they are not those of the paper, and scores on the two are
not comparable. An impression says what matters; so each of its sentences gives at most one question, about the longest
words that it shares with a sentence of the findings, and the answer is a verbatim piece of the findings:

    where     "Where is the airspace disease?"                  left lower lobe
    kind      "What kind of cardiomegaly is described?"         Mild cardiomegaly
    presence  "Is there any pneumothorax?"                      No pneumothorax

A sentence that gives none is counted by its reason: nothing shared, said differently in both, or more than one answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

import medsmith.config
from eval.tables import find_file, read_table
from medsmith import run
from medsmith.command import run_command
from medsmith.errors import UserError
from medsmith.records import read_text, write_jsonl

WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*|\d[\w.]*\w|\d")
SENTENCE = re.compile(r"(?:\d+\.\s+)?[^\s.;][^.;\n]*(?:\.\d[^.;\n]*)*")  # "1. Mass of 2.5 cm" is one
PLACES = {
    "right", "left", "bilateral", "bibasilar", "biapical", "both", "upper", "lower", "middle", "mid", "lobe", "lobes",
    "base", "bases", "basilar", "apex", "apices", "apical", "lung", "lungs", "perihilar", "retrocardiac", "anterior",
    "posterior",
}  # fmt: skip
EMPTY = {
    "a", "an", "the", "is", "are", "was", "were", "be", "there", "of", "in", "at", "on", "to", "with", "and", "or",
    "seen", "noted", "has", "have", "this", "that",
}  # fmt: skip
NEGATIONS = {"no", "not", "without", "negative"}
MOST_WORDS = 10
LICENCE = "Apache-2.0 (the rules; the texts keep the licence of the reports)"


class Config(medsmith.config.Config):
    """Which reports, by split."""

    test: Path = Field(description="reports to ask about: a file, or a folder with the two .tok files")
    dev: Path | None = Field(None, description="other reports, for examples before the question (dev.jsonl)")
    license: str = Field(min_length=1, description="the licence or agreement that the reports came under")

    foreign: ClassVar = {"licence": "the setting is called 'license'"}


class Report(NamedTuple):
    """One report."""

    id: str
    findings: str
    impression: str


class Shared(NamedTuple):
    """Words that a sentence of the impression shares with one of the findings: their place, and whether denied."""

    start: int
    end: int
    denied_from: int | None
    denied_in_impression: bool


def main(config: Config) -> Path:
    """Write test.jsonl, and dev.jsonl where reports for it are given."""
    with run.start(config, "eval.make_rrs_qa") as this:
        this.facts["note"] = "made by rules from findings and impressions; not the questions of the paper"
        this.facts["licences"] = {"reports": config.license, "questions made by eval.make_rrs_qa": LICENCE}
        counts: dict[str, int] = {}
        for split, path in (("test", config.test), ("dev", config.dev)):
            if path is None:
                continue
            left_out: Counter[str] = Counter()
            rows = [row for report in read_reports(path, left_out) for row in questions(report, left_out)]
            if not rows:
                reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(left_out.items()))
                raise UserError(
                    f"{path}: no sentence of an impression gives a question; left out were {reasons}; "
                    "give other or more reports"
                )
            counts[split] = write_jsonl(this.folder / f"{split}.jsonl", rows)
            this.facts[f"left_out_{split}"] = dict(sorted(left_out.items()))
        return this.finish(**counts)


def read_reports(path: Path, left_out: Counter[str]) -> Iterator[Report]:
    """The reports of a file or of two .tok files; one without findings or impression is left out."""
    if path.is_dir():
        findings, impressions = (
            read_text(find_file(path, f"*.{part}.tok", "MEDIQA-RRS")).splitlines()
            for part in ("findings", "impression")
        )
        if len(findings) != len(impressions):
            raise UserError(f"{path}: {len(findings)} findings and {len(impressions)} impressions; give matching files")
        rows: list[dict[str, Any]] = [
            {"findings": one, "impression": other} for one, other in zip(findings, impressions, strict=True)
        ]
    else:
        rows = read_table(path, ("findings", "impression"))
    for number, row in enumerate(rows, 1):
        findings_of, impression = (" ".join(str(row[key] or "").split()) for key in ("findings", "impression"))
        if not findings_of or not impression:
            left_out["report without findings or impression"] += 1
            continue
        yield Report(str(row.get("study_id") or row.get("id") or f"{number:05d}"), findings_of, impression)


def questions(report: Report, left_out: Counter[str]) -> Iterator[dict[str, str]]:
    """The questions of a report, each question once."""
    asked: set[str] = set()
    for sentence in (match.group() for match in SENTENCE.finditer(report.impression)):
        if not WORD.search(re.sub(r"^\d+\.\s*", "", sentence)):
            continue
        made = question(sentence, report.findings)
        if isinstance(made, str) or made[0] in asked:
            left_out[made if isinstance(made, str) else "asked before"] += 1
            continue
        asked.add(made[0])
        name = f"{report.id}-{len(asked)}"
        yield {"id": name, "findings": report.findings, "question": made[0], "answer": made[1]}


def question(sentence: str, findings: str) -> tuple[str, str] | str:
    """The question and its answer, a verbatim piece of the findings; or why there is none."""
    shared = longest_shared(sentence, findings)
    if shared is None:
        return "no words shared"
    if (shared.denied_from is not None) != shared.denied_in_impression:
        return "denied in one of impression and findings"
    words = list(WORD.finditer(findings, shared.start, shared.end))
    text = findings[shared.start : shared.end]
    if shared.denied_from is not None:
        answer = findings[shared.denied_from : shared.end]
        if len(WORD.findall(answer)) > MOST_WORDS:
            return "answer too long"
        return (f"Is there any {_lower(text)}?", answer) if _once(text, findings) else "more than one answer"
    place = [n for n, word in enumerate(words) if word.group().lower() in PLACES]
    run_of = [n for k, n in enumerate(place) if n - k == place[0]]
    if run_of and run_of[-1] + 1 < len(words):
        thing = findings[words[run_of[-1] + 1].start() : shared.end]
        answer = findings[words[run_of[0]].start() : words[run_of[-1]].end()]
        return (f"Where is the {_lower(thing)}?", answer) if _once(thing, findings) else "more than one answer"
    if len(words) < 2 or place:
        return "too few words shared"
    head = words[-1].group()
    return (f"What kind of {_lower(head)} is described?", text) if _once(head, findings) else "more than one answer"


def longest_shared(sentence: str, findings: str) -> Shared | None:
    """The longest run of words that both have, in one sentence of the findings and without empty words at its ends."""
    ours = [word.lower() for word in WORD.findall(sentence)]
    best: Shared | None = None
    most = 0
    for part in SENTENCE.finditer(findings):
        theirs = list(WORD.finditer(findings, part.start(), part.end()))
        words = [word.group().lower() for word in theirs]
        for i in range(len(ours)):
            for j in range(len(words)):
                size = 0
                while i + size < len(ours) and j + size < len(words) and ours[i + size] == words[j + size]:
                    size += 1
                first, last = _trimmed(words, j, j + size)
                if last - first > most:
                    most = last - first
                    denials = [n for n in range(first) if words[n] in NEGATIONS]
                    begin = theirs[denials[-1]].start() if denials else None
                    denied = bool(NEGATIONS & set(ours[: i + first - j]))
                    best = Shared(theirs[first].start(), theirs[last - 1].end(), begin, denied)
    return best


def _trimmed(words: list[str], first: int, last: int) -> tuple[int, int]:
    """The run without empty and denying words at its ends."""
    while first < last and words[first] in EMPTY | NEGATIONS:
        first += 1
    while first < last and words[last - 1] in EMPTY | NEGATIONS:
        last -= 1
    return first, last


def _once(text: str, findings: str) -> bool:
    return len(re.findall(rf"(?<!\w){re.escape(text)}(?!\w)", findings, re.IGNORECASE)) == 1


def _lower(text: str) -> str:
    """A beginning in the midst of a sentence: abbreviations stay."""
    return text[0].lower() + text[1:] if text[1:2].islower() else text


if __name__ == "__main__":
    run_command(main, Config)
