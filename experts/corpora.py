"""Bring one corpus into shape: clean, without duplicates, every text under a licence, a part held out.

    python -m experts.corpora out=out/corpora/medcode table=icd10cm 'prefixes=[E11, I10]'
    python -m experts.corpora out=out/corpora/clinical known=pmc_patients corpus=PMC-Patients-V2.json
    python -m experts.corpora out=out/corpora/notes corpus=notes.csv access=credentialed \
        'license=our agreement of 2026' 'columns={text: note_text, id: note_id, patient: subject_id}' split.by=patient

Reads JSON Lines, JSON, Parquet, CSV, folders of .txt, .md or .pdf, a data set of the hub by `owner/name@revision`, or
a code table. Corpora known by name (experts/corpus/*.yml) bring their columns and licences. Writes train.jsonl,
heldout.jsonl, dropped.jsonl (every document left out, with the reason), corpus.json (counts, words, licences) and a
card, README.md. Whether a document is held out depends on its id (or patient) and the seed alone: adding documents
moves no other. Of form=lines nearly every held-out line is another wording of a code that is read: the loss on them
tells recall, for no code's meaning follows from another's; and a blocklist that asks for the codes drops their lines.
With `access=credentialed` no text is copied: rows say where each lies, and training reads it there.

Documents are read twice (three times with near duplicates) and never kept, so a corpus may be larger than memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

import medsmith.config
from experts.corpus.card import write_card
from experts.corpus.decide import decide
from experts.corpus.licences import Licences
from experts.corpus.measure import measure
from experts.corpus.reading import LicenceTable, Origin, find_origin, read
from experts.corpus.split import Split
from experts.corpus.split import rank as rank  # what else draws by ids does it alike
from experts.corpus.tables import WORDINGS
from experts.corpus.write import Spool, summarise, under_agreement, write
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Block, ModelRef
from medsmith.decontaminate import Decontamination, build_screen
from medsmith.hub_data import HUB_DATA, Fetch
from medsmith.records import write_json

log = logging.getLogger("experts.corpora")

Column = Literal["id", "title", "text", "source", "license", "patient", "time", "article", "code", "name", "level"]


def _path_or_hub_data(value: Any) -> Any:
    """Text of the form owner/name@revision stays text; all else is a path, there or not yet."""
    if isinstance(value, str) and not (HUB_DATA.fullmatch(value) and not Path(value).exists()):
        return Path(value).expanduser()
    return value


class NearDuplicates(Block):
    """When two documents say nearly the same: the Jaccard similarity of their sets of word n-grams."""

    threshold: float | None = Field(
        None, gt=0, le=1, description="similarity that drops the later one, e.g. 0.8; null: not looked for"
    )
    shingle_words: int = Field(3, ge=1, description="words in an n-gram")
    permutations: int = Field(128, ge=16, description="MinHash permutations; more propose more surely and cost more")


class Config(medsmith.config.Config):
    """One corpus."""

    schema_version: ClassVar[int] = 2
    libraries: ClassVar = ("polars", "pyarrow", "pypdf", "rensa", "simple_icd_10_cm")

    corpus: Annotated[str | Path | None, Field(union_mode="smart"), BeforeValidator(_path_or_hub_data)] = Field(
        None,
        description="a file or folder (.jsonl .json .parquet .csv .tsv .txt .md .pdf), or owner/name@revision of the "
        "hub; without more settings with the columns id, title, text, source, license",
    )
    known: str | None = Field(None, description="read it as a corpus of experts/corpus/*.yml; alone: from the hub")
    files: list[str] = Field([], description="patterns of a folder's files; the first that matches is read")
    columns: dict[Column, str] = Field(
        {}, description="what columns are called, e.g. {text: note_text, id: note_id, patient: subject_id}; a.b: inner"
    )
    source: str | None = Field(None, description="the source of documents that do not name theirs")
    license: str | None = Field(None, description="the licence of documents that do not name theirs")
    access: Literal["open", "credentialed"] = Field(
        "open", description="credentialed: under an agreement; then no text is copied into this or any corpus folder"
    )
    table: Literal["icd10cm", "atc"] | None = Field(
        None, description="build documents from a code table: icd10cm is at hand, atc is your own file (corpus=)"
    )
    form: Literal["pages", "lines"] = Field(
        "pages", description="of icd10cm: a page a category, or lines, each a document: what one code means"
    )
    wordings: int = Field(
        5,
        ge=1,
        le=len(WORDINGS),
        description="of form=lines: wordings of each code; the second and the last two name first",
    )
    prefixes: list[str] = Field([], description="beginnings of the codes to take, e.g. [E11, I10]; none: all")
    max_characters: int | None = Field(None, ge=3, description="longest ICD code, without its dot; none: all")
    licences: Licences = Field(Licences(), description="which licences may be used")
    min_words: int = Field(5, ge=1, description="shorter texts are dropped")
    near_duplicates: NearDuplicates = NearDuplicates()
    blocklists: list[Path] = Field(
        [], description="benchmark files, or folders of them, whose texts no document may hold; as published"
    )
    decontamination: Decontamination = Decontamination()
    limit_documents: int | None = Field(None, ge=2, description="keep so many, drawn by the hash of their ids")
    heldout_share: float = Field(0.1, ge=0, lt=1, description="held out for the loss before and after training")
    split: Split = Field(Split(), description="what is held out")
    tokenizer: ModelRef | None = Field(None, description="count tokens with this model's tokenizer")

    @model_validator(mode="after")
    def _one_origin(self) -> Config:
        if self.corpus is None and self.table is None and self.known is None:
            raise ValueError("give exactly one of corpus (a file) and table (icd10cm), or a known corpus")
        if self.corpus is not None and self.table == "icd10cm":
            raise ValueError("give exactly one of corpus (a file) and table (icd10cm): that table comes with a package")
        of_codes = self.table or self.known in ("icd10cm", "atc")
        if not of_codes and (self.prefixes or self.max_characters):
            raise ValueError("prefixes and max_characters choose codes of a table; they have no meaning for a corpus")
        if self.form == "lines" and (self.table or self.known) != "icd10cm":
            raise ValueError("form=lines writes the codes of table=icd10cm; leave it out for other corpora")
        if self.form == "lines" and self.near_duplicates.threshold:
            raise ValueError(
                "near_duplicates would drop wordings of one code, and codes that differ by one word; leave it out with "
                "form=lines"
            )
        if self.access == "credentialed" and (of_codes or not isinstance(self.corpus, Path)):
            raise ValueError("texts under an agreement stay in your own files; give their path as corpus")
        if self.split.by == "patient" and "patient" not in self.columns and self.known is None:
            raise ValueError("split.by=patient needs to know the patient of each document; set columns.patient=NAME")
        if self.split.by == "time" and "time" not in self.columns and self.known is None:
            raise ValueError("split.by=time needs to know the time of each document; set columns.time=NAME")
        return self


def main(config: Config, fetch: Fetch | None = None) -> Path:
    """Write the corpus folder. `fetch(repository, revision)` gives the folder of a data set of the hub."""
    if isinstance(config.corpus, Path):
        # run.json says where texts lie that are not copied; that must hold from any folder.
        config = config.model_copy(update={"corpus": config.corpus.absolute()})
    with run.start(config, "experts.corpora") as this:
        origin = find_origin(config, fetch)
        licences = LicenceTable(config.licences) if config.licences.table else None
        blocklist = config.decontamination.load(config.blocklists)
        screen = build_screen(blocklist.texts, config.decontamination) if blocklist.texts else None
        again = partial(read, origin, config, licences)
        scratch = this.folder / "checkpoints"  # no part of the result; removed at the end
        columns = measure(again, config, scratch, screen, origin.size)

        def shingles_of(numbers: set[int]) -> Spool:
            words = config.near_duplicates.shingle_words
            return Spool(scratch / "shingles.bin", again(0), numbers, words, origin.size)

        decided = decide(config, columns, screen, blocklist.texts, shingles_of)
        tokens = write(
            this.folder, again(0), config, columns, decided, blocklist.texts, origin.text, origin.size,
            _token_counter(config.tokenizer),
        )  # fmt: skip
        summary = summarise(columns, decided, blocklist.texts, blocklist.unprotected, tokens)
        _describe(this, config, origin, summary)
        counts = summary["documents"]
        assert counts["read"] == counts["train"] + counts["heldout"] + counts["dropped"], "every document is in a file"
        return this.finish(**counts)


def _describe(this: run.Run, config: Config, origin: Origin, summary: dict[str, Any]) -> None:
    """corpus.json, the card, and what run.json says of licences."""
    if config.access == "credentialed":
        summary["licences"] = {source: under_agreement(stated) for source, stated in summary["licences"].items()}
    write_json(this.folder / "corpus.json", summary)
    this.state_licences("corpus", summary["licences"])
    non_commercial = summary["licence_kinds"].get("non-commercial", 0)
    if non_commercial:
        this.facts["non_commercial_documents"] = non_commercial
        of = [source for source, counts in summary["sources"].items() if "non-commercial" in counts["licence_kinds"]]
        log.warning("%d documents are under a non-commercial licence: %s", non_commercial, ", ".join(of))
    simulated = bool(this.facts.get("simulated"))
    card = write_card(config, origin.known, summary, simulated)
    (this.folder / "README.md").write_text(card, encoding="utf-8")


def _token_counter(model: str | Path | None) -> Callable[[list[str]], list[int]] | None:
    if model is None:
        return None
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(model)

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    return count


if __name__ == "__main__":
    run_command(main, Config)
