"""CLIP: which follow-up does a sentence of a discharge note ask for? `sentence_level.csv` with `{train,test}_ids.csv`.

Read are the columns doc_id, sent_index, sentence (a list of tokens in Python's notation, or a text) and labels (such a
list, each with I- in front). A split is what its file of ids names, one a line: documents, never single sentences.

A published scorer takes a whole answer for one label, so that "A, B" for A and B earns nothing; here it earns two.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from eval.benchmark import Item, Loaded, Published, ask, loaded
from eval.scorers import counts_by_label, counts_f1
from eval.tables import file_notes, find_file, read_table
from medsmith.errors import UserError, quoted
from medsmith.records import read_text

VERSION = 1
METRIC = "f1_macro"
ACCESS = "credentialed"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SOURCE = "physionet.org/content/mimic-iii-clinical-action/1.0.0"
MAX_NEW_TOKENS = 96
PUBLISHED = {"sentence_level.csv": Published(107_494)}

LABELS = (
    "Appointment-related followup",
    "Case-specific instructions for patient",
    "Imaging-related followup",
    "Lab-related followup",
    "Medication-related followups",
    "Other helpful contextual information",
    "Procedure-related followup",
)
FILES = {"test": "test_ids.csv", "shots": "train_ids.csv"}
SENTENCES = "sentence_level.csv"
CONTEXT_WORDS = 64
"""So many words before and after the sentence are shown."""
SYSTEM = (
    "Decide which of these labels the sentence from a discharge note has: "
    f"{'; '.join(LABELS)}. Answer with its labels, separated by commas, or none."
)

# Models write the labels in singular and plural, and "follow-up" for "followup".
_WORDINGS = {
    label: re.compile(
        {
            "Case": r"case[- ]specific instructions? for (?:the )?patients?",
            "Other": r"other helpful contextual information",
        }.get(re.split(r"[- ]", label)[0], rf"{label.split('-')[0]}[- ]related follow[- ]?ups?"),
        re.IGNORECASE,
    )
    for label in LABELS
}
_DENIED = re.compile(r"(?:\bnot|\bno|\bneither|\bnor|\bwithout|n['’]t)\b[^.;,:\n]{0,40}\Z", re.IGNORECASE)
_FALSE = re.compile(r"[\s\"'*]*[:=][\s\"'*]*(?:no|false|0|none)\b", re.IGNORECASE)
_NONE = re.compile(r"\W*(?:none(?: of (?:the above|these|them|the labels))?|no labels?|n/a|\[\])\W*", re.IGNORECASE)


def load(path: Path, split: str = "test") -> Loaded:
    """Read the sentences of a split's documents; a document is a group. A file alone is taken whole."""
    if path.is_file() and split == "shots":
        raise UserError(f"{path} is one file, examples from it would be test items; give the folder, or set shots: 0")
    file = find_file(path, SENTENCES, SOURCE)
    wanted = None if path.is_file() else _ids(find_file(path, FILES[split], SOURCE))
    table = read_table(file, ("doc_id", "sent_index", "sentence", "labels"))
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table:
        documents[str(row["doc_id"])].append(row)
    missing = sorted((wanted or set()) - documents.keys())
    if missing:
        raise UserError(f"{file} has no document {missing[0]}, which {FILES[split]} names; give files of one release")
    dropped: Counter[str] = Counter()
    items: list[Item] = []
    for name, rows in documents.items():
        if wanted is not None and name not in wanted:
            dropped["document of another split"] += len(rows)
            continue
        found = _items(name, rows, f"{file}, document {name}")
        dropped["empty sentence"] += len(rows) - len(found)
        items += found
    labelled = sum(bool(item.truth) for item in items)
    notes = file_notes({file: len(table)}, PUBLISHED) | {"sentences_with_a_label": labelled}
    return loaded(items, +dropped, file, notes)


def parse(output: str, item: Item) -> list[str] | None:
    """The labels that are named, in any order and form; none where that is said. A denied label makes it unreadable.

    Of a table of all labels with yes or no ({"Lab-related followup": false}) those with no are not named.
    """
    named = [(label, match) for label, wording in _WORDINGS.items() for match in wording.finditer(output)]
    if any(_DENIED.search(output[max(0, match.start() - 60) : match.start()]) for _, match in named):
        return None
    if not named:
        return [] if _NONE.fullmatch(output.strip()) else None
    said = {label for label, match in named if not _FALSE.match(output, match.end())}
    return [label for label in LABELS if label in said]


def score(answer: list[str], item: Item) -> dict[str, float]:
    """Nothing by item: both F1s are of pooled counts."""
    return {}


def count(answer: list[str] | None, item: Item) -> dict[str, list[float]]:
    """True positives, predicted and true: label by label, and of all labels."""
    said = answer or []
    return {"f1_macro": counts_by_label(said, item.truth, LABELS), "f1_micro": counts_f1(said, item.truth)}


def _ids(file: Path) -> set[str]:
    return {line.strip() for line in read_text(file).splitlines() if line.strip()}


def _items(name: str, rows: list[dict[str, Any]], where: str) -> list[Item]:
    """The sentences of one document, each with the words around it."""
    words = [" ".join(_listed(row["sentence"], where)).split() for row in rows]
    flat = [word for sentence in words for word in sentence]
    items, end = [], 0
    for row, sentence in zip(rows, words, strict=True):
        start, end = end, end + len(sentence)
        labels = _labels(row, where)
        if sentence:
            context = " ".join(flat[max(0, start - CONTEXT_WORDS) : end + CONTEXT_WORDS])
            asked = ask(SYSTEM, f"CONTEXT: {context}\nSENTENCE: {' '.join(sentence)}")
            items.append(Item(f"{name}-{row['sent_index']}", name, asked, ", ".join(labels) or "none", truth=labels))
    return items


def _listed(value: Any, where: str) -> list[str]:
    """A list in Python's notation; a plain text is its only part."""
    text = str(value).strip()
    if not text.startswith("["):
        return [text] if text else []
    try:
        return [str(part) for part in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        raise UserError(f"{where}: cannot read the list ({quoted(text)}); write it as ['a', 'b']") from None


def _labels(row: dict[str, Any], where: str) -> list[str]:
    labels = sorted({label.removeprefix("I-") for label in _listed(row["labels"], where)})
    unknown = [label for label in labels if label not in LABELS]
    if unknown:
        raise UserError(f"{where} has the label {quoted(unknown[0])}, not one of {'; '.join(LABELS)}")
    return labels
