"""Which medical concepts does a text name? F1 of the concepts of an answer and of its gold, by one of two extractors.

A dictionary (of ICD-10-CM names, or one of your own) is offline and finds names as they are written. It knows neither
negation nor abbreviations, and is no UMLS linker: the two have metrics of their own, and never stand in for each other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.scorers import set_f1
from medsmith.digests import cache_folder, file_digest
from medsmith.errors import UserError
from medsmith.records import content_id, write_json

Extractor = Callable[[str], set[str]]

LONGEST_NAME = 8  # words; longer descriptions of the table are never written out in a note
# Chapters of diseases, symptoms and injuries. External causes (V-Y) and encounters (Z) are named by everyday words.
CHAPTERS = frozenset("ABCDEFGHIJKLMNOPQRSTU")

_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_SAYS_LITTLE = re.compile(r"\A\s*Unspecified\b|\b(?:NOS|NEC)\b|,?\s*\b(?:unspecified|not elsewhere classified)\b.*")
_OTHER = re.compile(r"\s*other\b", re.IGNORECASE)
_PLURAL = re.compile(r"(?<=[a-z0-9]{3})(?<![siu])s\b")
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Dictionary:
    """Names of concepts, found in a text by the longest match of whole words, without case and plural s."""

    source: str
    names: dict[tuple[str, ...], str]
    lengths: dict[str, tuple[int, ...]]
    """By a name's first word: how many words such names have, the longest first."""

    def find(self, text: str) -> set[str]:
        """The concepts that a text names; words inside a longer name are no name of their own."""
        words, place, found = _words(text), 0, set()
        while place < len(words):
            step = 1
            for length in self.lengths.get(words[place], ()):
                concept = self.names.get(tuple(words[place : place + length]))
                if concept is not None:
                    found.add(concept)
                    step = length
                    break
            place += step
        return found


def concept_f1(said: str, true: str, find: Extractor) -> float | None:
    """F1 of the sets of concepts of two texts; None where the gold names none."""
    gold = find(true)
    return set_f1(find(said), gold) if gold else None


@functools.lru_cache(maxsize=2)
def load_dictionary(path: Path | None = None) -> Dictionary:
    """The dictionary of a file, or of the ICD-10-CM table that comes with simple_icd_10_cm; built once a process.

    A file is lines of `concept id<TAB>name` (.tsv), or an ICD-10-CM tabular list as CDC publishes it (.xml).

    Raises:
        UserError: the file is not there, is of another kind, or holds no name.
    """
    file = path or packaged_table()
    if not file.is_file():
        raise UserError(f"{file} does not exist; give a dictionary (.tsv of concept id and name, or .xml)")
    readers = {".tsv": _read_tsv, ".xml": _read_tabular}
    if file.suffix not in readers:
        raise UserError(f"{file}: cannot read '{file.suffix}'; give a dictionary that ends with .tsv or .xml")
    digest = file_digest(file)
    # To read the table takes a second, which is a tenth of an evaluation of a small model: its names are kept.
    kept = cache_folder() / f"concepts-{content_id(digest, file_digest(Path(__file__)))}.json"
    names = _read_kept(kept)
    if names is None:
        names = {}
        for concept, name in readers[file.suffix](file):
            words = tuple(_words(name))
            # The table lists a category before its codes: a name that several have is the most general one's.
            if words and (len(words) > 1 or len(words[0]) > 2):
                names.setdefault(words, concept)
        if not names:
            raise UserError(f"{file} holds no name of a concept; write lines of concept id, tab, name")
        with contextlib.suppress(OSError):  # without a cache it is read again
            write_json(kept, {" ".join(words): concept for words, concept in names.items()})
    source = f"{file.name}, {len(names)} names, sha256 {digest[:12]}"
    return Dictionary(source, names, _lengths(names))


def _read_kept(path: Path) -> dict[tuple[str, ...], str] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {tuple(name.split(" ")): concept for name, concept in kept.items()}


def packaged_table() -> Path:
    """The tabular list inside the package simple_icd_10_cm, read as a file: importing the package takes seconds."""
    found = importlib.util.find_spec("simple_icd_10_cm")
    places = list(found.submodule_search_locations or ()) if found else []
    tables = sorted(table for place in places for table in Path(place).glob("data/*tabular*.xml"))
    if not tables:
        raise UserError("no ICD-10-CM table is installed: pip install simple-icd-10-cm, or give a dictionary")
    return tables[-1]


def names_of(description: str) -> Iterator[str]:
    """The name that a description of the table holds: without what is in brackets or says that nothing more is known.

    "Hypertension (arterial) (benign)" is hypertension, "Pneumonia, unspecified organism" pneumonia, "Gout NOS" gout.
    "Other …" is no name.
    """
    if description.count(" ") > 2 * LONGEST_NAME:
        return
    plain = _SAYS_LITTLE.sub("", _BRACKETS.sub(" ", description))
    if not _OTHER.match(plain) and len(_words(plain)) <= LONGEST_NAME:
        yield plain


def _read_tsv(file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            concept, tab, name = line.partition("\t")
            if not tab or not concept.strip() or not name.strip():
                raise UserError(f"{file} line {number}: '{line[:40]}' is not a concept id, a tab and a name")
            yield concept.strip(), name.strip()


def _read_tabular(file: Path) -> Iterator[tuple[str, str]]:
    """(code, name) of every description and every term that is included in it, in the order of the list."""
    from xml.etree import ElementTree

    for entry in ElementTree.parse(file).getroot().iter("diag"):
        code = entry.findtext("name", "").strip()
        if code[:1] not in CHAPTERS:
            continue
        terms = [entry.findtext("desc", ""), *(note.text or "" for note in entry.iterfind("inclusionTerm/note"))]
        terms += [note.text or "" for note in entry.iterfind("includes/note")]
        yield from ((code, name) for term in terms for name in names_of(term))


def _lengths(names: Iterable[tuple[str, ...]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for words in names:
        found.setdefault(words[0], set()).add(len(words))
    return {first: tuple(sorted(lengths, reverse=True)) for first, lengths in found.items()}


def _words(text: str) -> list[str]:
    """Small words without a plural s ("fractures"; not "sepsis", "abscess", "virus")."""
    return _WORD.findall(_PLURAL.sub("", text.lower()))
