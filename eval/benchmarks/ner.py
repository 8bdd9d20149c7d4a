"""Named entities: list what a text names, each with its type. Tokens with IOB2 tags, as CoNLL columns or JSON Lines.

CoNLL (.tsv, .txt, .conll): a token a line, first column the token, last one the tag, an empty line after a sentence,
-DOCSTART- before a document. JSON Lines: {id, tokens, tags}, with doc_id where several are of one document. Open sets
of this kind are NCBI disease, BC5CDR and MACCROBAT. One under an agreement (n2c2) does not belong here: texts are kept.

An I- that continues no entity of its type is an error of the file. It opens none (strict IOB2; the lenient reading of
CoNLL's script would), and the notes count such tags. A file of another scheme (no B-, or S- and E-) is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from eval.benchmark import Item, Loaded, Repaired, ask, loaded
from eval.parsing import parse_json
from eval.scorers import counts_multiset, entities_iob2
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import UserError, quoted
from medsmith.records import read_text

VERSION = 1
METRIC = "ner_f1_strict"
ACCESS = "open"
LICENCE = "as the file given: the hub says 'unknown' for NCBI disease and 'other' for BC5CDR"
SOURCE = "huggingface.co/datasets/ncbi/ncbi_disease, bigbio/bc5cdr, or a file of that format"
MAX_NEW_TOKENS = 256

FILES = {"test": "test.*", "shots": "train.*"}
SYSTEM = (
    "List the entities of the text that are of one of the types, in their order, as a JSON array of "
    '{"text": ..., "type": ...}. Answer [] if there is none.'
)
COLUMNS = (".tsv", ".txt", ".conll", ".bio", ".iob", ".iob2")
Pair = tuple[str, str]


class Sentence(NamedTuple):
    """Tokens and their tags; `document` is empty where the file does not tell it."""

    id: str
    document: str
    tokens: list[str]
    tags: list[str]


def load(path: Path, split: str = "test") -> Loaded:
    """Read the sentences; those of a document are a group, as far as the file tells documents apart."""
    file = find_split(path, FILES, split, SOURCE)
    read = _read_columns if file.suffix in COLUMNS else _read_rows
    sentences = list(read(file))
    tags = Counter(tag.partition("-")[0] for sentence in sentences for tag in sentence.tags)
    if set(tags) - {"B", "I", "O"} or (tags["I"] and not tags["B"]):
        raise UserError(f"{file} has tags like {', '.join(sorted(tags))}; convert it to IOB2 (B-type, I-type, O)")
    types = sorted({tag[2:] for sentence in sentences for tag in sentence.tags if tag != "O"})
    dropped: Counter[str] = Counter()
    items, inside = [], 0
    for sentence in sentences:
        if not sentence.tokens:
            dropped["empty sentence"] += 1
            continue
        spans = entities_iob2(sentence.tags)
        inside += sum(span.end - span.start - 1 for span in spans)
        pairs = [(" ".join(sentence.tokens[span.start : span.end]), span.label) for span in spans]
        gold = json.dumps([{"text": text, "type": kind} for text, kind in pairs], ensure_ascii=False)
        asked = ask(SYSTEM, f"TYPES: {', '.join(types)}\nTEXT: {' '.join(sentence.tokens)}")
        items.append(Item(sentence.id, sentence.document or sentence.id, asked, gold, truth=pairs))
    notes = file_notes({file: len(sentences)}, {}) | {
        "types": types,
        "entities": sum(len(item.truth) for item in items),
        "tags_that_continue_nothing": tags["I"] - inside,
        "documents_known": all(sentence.document for sentence in sentences),
    }
    return loaded(items, dropped, file, notes)


def parse(output: str, item: Item) -> Any:
    """Pairs [text, type] from JSON, or from lines `type: text; text`; none where that is said."""
    found = parse_json(output)
    if found.state in ("valid", "repaired"):
        pairs = _pairs_of_json(found.value)
        return Repaired(pairs) if pairs is not None and found.state == "repaired" else pairs
    if re.fullmatch(r"\W*(?:none|no entities|n/a)\W*", output, re.IGNORECASE):
        return []
    return _pairs_of_lines(output, item.messages[-1]["content"].partition("\n")[0].removeprefix("TYPES: ").split(", "))


def score(answer: list[Pair], item: Item) -> dict[str, float]:
    """Nothing by item: F1 is of pooled counts."""
    return {}


def count(answer: list[Pair] | None, item: Item) -> dict[str, list[float]]:
    """True positives, predicted and true entities. How a text is cut into tokens is not the model's to know."""
    said, true = [["".join(text.split()) + "\n" + kind.casefold() for text, kind in pairs or ()]
                  for pairs in (answer, item.truth)]  # fmt: skip
    return {"ner_f1_strict": counts_multiset(said, true)}


def _pairs_of_json(value: Any) -> list[Pair] | None:
    """Of objects with text and type, or of an object {type: [texts]}; None for anything else."""
    if isinstance(value, dict) and "text" not in value:
        value = [{"text": text, "type": kind} for kind, texts in value.items()
                 for text in (texts if isinstance(texts, list) else [texts])]  # fmt: skip
    rows = [value] if isinstance(value, dict) else value
    if not all(isinstance(row, dict) and {"text", "type"} <= row.keys() for row in rows):
        return None
    pairs = [(row["text"], row["type"]) for row in rows]
    return pairs if all(isinstance(part, str) and part.strip() for pair in pairs for part in pair) else None


def _pairs_of_lines(output: str, types: list[str]) -> list[Pair] | None:
    """Of lines that each begin with a type; a line of another kind makes the answer unreadable, but for a heading."""
    pairs: list[Pair] = []
    lines = [line.strip(" \t-*•") for line in output.splitlines() if line.strip() and not line.rstrip().endswith(":")]
    for line in lines:
        kind, _, texts = line.partition(":")
        kind = kind.strip(" *_\"'")
        if kind.casefold() not in {name.casefold() for name in types} or not texts.strip(" *"):
            return None
        named = [text.strip(" .*\"'") for text in texts.split(";")]
        pairs += [(text, kind) for text in named if text and text.casefold() != "none"]
    return pairs if lines else None


def _read_columns(file: Path) -> Iterator[Sentence]:
    """A last empty line may be missing."""
    tokens: list[str] = []
    tags: list[str] = []
    number = documents = 0
    for place, line in enumerate([*read_text(file).splitlines(), ""], 1):
        cells = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            if tokens:
                number += 1
                yield Sentence(f"{number:05d}", f"document {documents}" if documents else "", tokens, tags)
            tokens, tags = [], []
        elif cells[0] == "-DOCSTART-":
            documents += 1
        elif len(cells) < 2 or not cells[0].strip() or not cells[-1].strip():
            raise UserError(f"{file} line {place}: {quoted(line)} is no token with a tag; separate them by a tab")
        else:
            tokens.append(cells[0].strip())
            tags.append(cells[-1].strip())


def _read_rows(file: Path) -> Iterator[Sentence]:
    for number, row in enumerate(read_table(file, ("tokens", "tags")), 1):
        tokens, tags = list(row["tokens"]), list(row["tags"])
        if len(tokens) != len(tags) or not all(isinstance(part, str) for part in (*tokens, *tags)):
            raise UserError(
                f"{file} row {number}: give as many tags as tokens, each by name (B-Disease), not by number"
            )
        yield Sentence(str(row.get("id") or f"{number:05d}"), str(row.get("doc_id") or ""), tokens, tags)
