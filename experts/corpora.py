"""Bring one corpus into shape: clean, without duplicates, every text under a licence, a part held out.

    python -m experts.corpora out=out/corpora/medcode table=icd10cm 'prefixes=[E11, I10]'

Reads JSON Lines with the columns id, title, text, source, license, or builds documents from a code table. Writes
train.jsonl, heldout.jsonl, dropped.jsonl (every document left out, with the reason) and corpus.json (counts, words,
licences). Whether a document is held out depends on its id and the seed alone: adding documents moves no other.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

import medsmith.config
from medsmith import run
from medsmith.command import run_command
from medsmith.errors import UserError
from medsmith.records import Document, parse_row, read_jsonl, write_json

# ICD-10-CM is published by the US government (CDC/NCHS); the package that carries the table is under MIT.
ICD10CM_LICENCE = "public domain (US government, CDC/NCHS)"


class Config(medsmith.config.Config):
    """One corpus."""

    libraries: ClassVar = ("simple_icd_10_cm",)

    corpus: Path | None = Field(
        None, description="JSON Lines with id, title, text, source, license; or a folder of them"
    )
    table: Literal["icd10cm"] | None = Field(None, description="build documents from a code table instead")
    prefixes: list[str] = Field([], description="beginnings of the codes to take, e.g. [E11, I10]; none: all")
    max_characters: int | None = Field(None, ge=3, description="longest code, without its dot; none: all")
    min_words: int = Field(5, ge=1, description="shorter texts are dropped")
    limit_documents: int | None = Field(None, ge=2, description="keep so many, drawn by the hash of their ids")
    heldout_share: float = Field(0.1, ge=0, lt=1, description="held out for the loss before and after training")

    @model_validator(mode="after")
    def _one_origin(self) -> Config:
        if (self.corpus is None) == (self.table is None):
            raise ValueError("give exactly one of corpus (a file) and table (icd10cm)")
        if self.corpus is not None and (self.prefixes or self.max_characters):
            raise ValueError("prefixes and max_characters choose codes of a table; they have no meaning for a corpus")
        return self


def main(config: Config) -> Path:
    """Write the corpus folder; the documents are read twice, so that none need stay in memory."""
    with run.start(config, "experts.corpora") as this:
        kept = [document.id for document, reason in judged(config) if reason is None]
        limit = _smallest(kept, config.limit_documents, f"limit {config.seed}")
        kept = [key for key in kept if limit is None or rank(key, f"limit {config.seed}") <= limit]
        if len(kept) < 2:
            raise UserError(
                f"{len(kept)} documents are left of {config.corpus or config.table}; see min_words, prefixes"
            )
        heldout = _heldout_bound(kept, config)
        tally = _Tally()
        with ExitStack() as stack:
            names = ("train", "heldout", "dropped")
            files = {
                name: stack.enter_context((this.folder / f"{name}.jsonl").open("w", encoding="utf-8")) for name in names
            }
            for document, reason in judged(config):
                if reason is None and limit is not None and rank(document.id, f"limit {config.seed}") > limit:
                    reason = "beyond limit_documents"
                held = rank(document.id, f"heldout {config.seed}") <= heldout
                name = "dropped" if reason else "heldout" if held else "train"
                row = asdict(document) | ({"reason": reason} if reason else {})
                files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
                tally.count(document, name, reason)
        summary = tally.summary()
        write_json(this.folder / "corpus.json", summary)
        this.facts["licences"] |= summary["licences"]
        counts = tally.documents
        assert tally.read == sum(counts.values()), "every document read is kept or dropped"
        return this.finish(read=tally.read, train=counts["train"], heldout=counts["heldout"], dropped=counts["dropped"])


def judged(config: Config) -> Iterator[tuple[Document, str | None]]:
    """Every document, cleaned, with the reason to leave it out or None."""
    texts: dict[bytes, str] = {}
    ids: set[str] = set()
    for document in _read(config.corpus) if config.corpus else icd10cm(config.prefixes, config.max_characters):
        document = replace(document, title=clean(document.title), text=clean(document.text))
        words = len(document.text.split())
        digest = hashlib.sha256(normalised(document.text).encode()).digest()[:16]
        if not words:
            yield document, "empty"
        elif words < config.min_words:
            yield document, f"fewer than {config.min_words} words"
        elif digest in texts:
            yield document, f"same text as {texts[digest]}"
        elif document.id in ids:
            yield document, "its id belongs to another text"
        else:
            texts[digest] = document.id
            ids.add(document.id)
            yield document, None


def clean(text: str) -> str:
    """Unicode NFC, no control or invisible characters, single blanks, at most one empty line in a row."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    # Cc: control; Cf: invisible (zero-width blanks, soft hyphens, byte order marks); Cs: halves of broken pairs.
    text = "".join(c for c in text if c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"})
    text = "\n".join(" ".join(line.split()) for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def normalised(text: str) -> str:
    """What two texts must share to be duplicates: the same letters and digits in the same order of words."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def rank(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on the key and the salt alone."""
    return int.from_bytes(hashlib.sha256(f"{salt}|{key}".encode()).digest()[:6]) / 2**48


def _smallest(keys: list[str], count: int | None, salt: str) -> float | None:
    if count is None or count >= len(keys):
        return None
    return heapq.nsmallest(count, (rank(key, salt) for key in keys))[-1]


def _heldout_bound(kept: list[str], config: Config) -> float:
    """The rank up to which documents are held out: the share, but at least one document and never all."""
    if config.heldout_share == 0:
        return -1.0
    ranks = sorted(rank(key, f"heldout {config.seed}") for key in kept)
    return min(max(config.heldout_share, ranks[0]), ranks[-2])


def _read(corpus: Path) -> Iterator[Document]:
    files = sorted(corpus.glob("*.jsonl")) if corpus.is_dir() else [corpus]
    if not files:
        raise UserError(f"no .jsonl file in {corpus}")
    for path in files:
        for number, row in enumerate(read_jsonl(path), 1):
            where = f"{path} row {number}"
            document = parse_row(Document, row, where)
            for name, value in asdict(document).items():
                if not isinstance(value, str):
                    raise UserError(f"{where}: '{name}' is {value!r}, not a text")
            if not document.license.strip():
                raise UserError(f"{where}: no license for '{document.id}'; a corpus is used under known licences only")
            yield document


def icd10cm(prefixes: list[str], max_characters: int | None) -> Iterator[Document]:
    """One document a category of ICD-10-CM: what it is, where it stands, and its codes with their descriptions.

    Raises:
        UserError: a prefix that no code begins with.
    """
    import simple_icd_10_cm as table

    wanted = tuple(prefix.upper().replace(".", "") for prefix in prefixes)
    codes = [code for code in dict.fromkeys(table.get_all_codes(True)) if table.is_category_or_subcategory(code)]
    found: dict[str, list[str]] = defaultdict(list)
    for code in codes:
        bare = code.replace(".", "")
        if len(bare) <= (max_characters or 7) and (not wanted or bare.startswith(wanted)):
            found[code[:3]].append(code)
    for prefix in wanted:
        if not any(code.replace(".", "").startswith(prefix) for code in codes):
            raise UserError(f"prefixes: no ICD-10-CM code begins with '{prefix}'")
    for category, members in found.items():
        title = table.get_description(category)
        places = [table.get_description(place) for place in table.get_ancestors(category, prioritize_blocks=False)]
        lines = [f"ICD-10-CM category {category}: {title}.", f"It belongs to {', in '.join(dict.fromkeys(places))}."]
        included = table.get_includes(category) + table.get_inclusion_term(category)
        if included:
            lines.append(f"It includes {'; '.join(included)}.")
        lines += [f"ICD-10-CM code {code}: {table.get_description(code)}." for code in members if code != category]
        if table.is_leaf(category):
            lines.append(f"ICD-10-CM code {category}: {title}.")
        yield Document(f"icd10cm-{category}", title, "\n".join(lines), "ICD-10-CM", ICD10CM_LICENCE)


class _Tally:
    """Counts of documents, words and licences, in all and for each source."""

    def __init__(self) -> None:
        self.read = 0
        self.documents: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.sources: dict[str, Counter[str]] = defaultdict(Counter)
        self.licences: dict[str, set[str]] = defaultdict(set)

    def count(self, document: Document, name: str, reason: str | None) -> None:
        words = len(document.text.split())
        self.read += 1
        self.documents[name] += 1
        self.words[name] += words
        if reason:
            self.reasons["same text as another" if reason.startswith("same text") else reason] += 1
            return
        # A page's address in the source tells pages apart, not sources.
        source = document.source.partition("http")[0].strip() or document.source
        self.sources[source].update({name: 1, "words": words})
        self.licences[source].add(document.license.strip())

    def summary(self) -> dict[str, Any]:
        names = ("train", "heldout", "dropped")
        licences = {source: ", ".join(sorted(found)) for source, found in sorted(self.licences.items())}
        return {
            "documents": {"read": self.read} | {name: self.documents[name] for name in names},
            "words": {name: self.words[name] for name in names},
            "dropped": dict(sorted(self.reasons.items())),
            "sources": {source: dict(sorted(self.sources[source].items())) for source in licences},
            "licences": licences,
        }


if __name__ == "__main__":
    run_command(main, Config)
