"""Documents out of what a corpus is published as: rows under any names of columns, texts, code tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experts.corpus.bulk import BULK
from experts.corpus.known import Known, known_on_hub, load_known
from experts.corpus.licences import Licences
from experts.corpus.tables import atc, icd10cm, icd10cm_lines
from medsmith.books import data_files
from medsmith.digests import files_of
from medsmith.documents import text_at, value_at
from medsmith.errors import UserError
from medsmith.hub_data import DATA_FILES, HUB_DATA, Fetch, resolve
from medsmith.licences import is_licence
from medsmith.records import Document, content_id
from medsmith.row_files import TABLES, TEXTS, Row, kind_of, name_columns, stream_rows, tell_unread

if TYPE_CHECKING:
    from experts.corpora import Config

log = logging.getLogger("experts.corpora")

OWN = ("id", "title", "text", "source", "license")
"""The columns of a corpus in our own format."""


class Entry(NamedTuple):
    """One document as it was read, with what it is split by and where it lies.

    `article` is what a table of licences calls it; `done` are the bytes read up to here; `fault` says why there is no
    text.
    """

    document: Document
    patient: str = ""
    time: str = ""
    file: str = ""
    row: int = 0
    done: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Origin:
    """Where the documents come from, the settings of the user laid over what is known of the corpus."""

    root: Path | None
    files: list[Path]
    columns: dict[str, str]
    source: str
    license: str
    table: str | None
    known: Known | None
    ids_restart: bool = False
    """Whether ids are numbers in their file: then documents are named by file and id."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def text(self) -> str:
        """The column that holds the text."""
        return self.columns.get("text", "text")


def find_origin(config: Config, fetch: Fetch | None = None) -> Origin:
    """What `corpus`, `known` and `table` name together.

    Raises:
        UserError: an unknown name, nothing there, or nothing that can be read.
    """
    known = load_known(config.known) if config.known else None
    reference = config.corpus
    if isinstance(reference, str) and known is None and (match := HUB_DATA.fullmatch(reference)):
        known = known_on_hub(match[1])
    table = config.table or (known.table if known else None)
    if reference is None and known and not table:
        reference = _pinned(config.known or "", known)
    if reference is None and table != "icd10cm":
        raise UserError(f"corpus: a table of {table} is read from your own file; give its path (corpus=...)")
    patterns = config.files or (known.files if known else [])
    root = None if reference is None else resolve("corpus", reference, config.access, fetch, patterns or DATA_FILES)
    known_columns = list(known.columns.items()) if known else []
    columns = {str(name): column for name, column in (*known_columns, *config.columns.items())}
    files = [] if root is None else find_files(root, patterns)
    return Origin(
        root=root,
        files=files,
        columns=columns,
        source=config.source or (known.source if known else None) or "",
        license=config.license or (known.license if known else None) or "",
        table=table,
        known=known,
        ids_restart=not table and _ids_restart(files, columns.get("id", "id"), columns.get("text", "text")),
    )


def _ids_restart(files: Sequence[Path], key: str, text: str) -> bool:
    """Whether two tables begin with the same id for another text, as those do that count their rows."""
    first: dict[str, Any] = {}
    wanted = {name for column in (key, text) for name in (column, column.partition(".")[0])}
    for path in files if len(files) > 1 else ():
        row = next(stream_rows(path, wanted), None) if kind_of(path) in TABLES else None
        named = value_at(row.values, key) if row else None
        if row and named is not None and first.setdefault(str(named), value := value_at(row.values, text)) != value:
            log.info("ids restart in each file: a document is called by its file and id, '%s:%s'", path.name, named)
            return True
    return False


def _pinned(name: str, known: Known) -> str:
    if not known.hub:
        raise UserError(f"corpus: {name} is not on the hub; {known.where or 'give its path (corpus=...)'}")
    if not known.revision:
        raise UserError(f"corpus: say which revision of {known.hub} (corpus={known.hub}@COMMIT). {known.where}".strip())
    return f"{known.hub}@{known.revision}"


def find_files(root: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """The files of a corpus in order: the file itself; of a folder those of a pattern, or all of the first kind there.

    Tables come before texts, so that a LICENSE.txt beside a table is no document. What is not read is told.

    Raises:
        UserError: nothing there, or nothing that can be read.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        hint = f"; of a data set on the hub say which revision: {root}@COMMIT" if len(root.parts) == 2 else ""
        raise UserError(f"no such file or folder: {root}{hint}")
    there = data_files(files_of(root))
    if patterns:
        chosen = (sorted(set(there).intersection(root.glob(pattern))) for pattern in patterns)
        fault = f"{root} holds no {' or '.join(patterns)}; name its files by files=[...]"
    else:
        kinds = (*((kind,) for kind in (*TABLES, *BULK)), TEXTS)
        chosen = ([path for path in there if kind_of(path) in kind] for kind in kinds)
        fault = f"{root} holds no file that can be read; {', '.join((*TABLES, *TEXTS))} are"
    found = next(filter(None, chosen), None)
    if not found:
        raise UserError(fault)
    tell_unread(root, set(there) - set(found))
    return found


class LicenceTable:
    """The licence of every article, by its key; each licence's text is in memory once."""

    def __init__(self, settings: Licences) -> None:
        """Read the table. Raises UserError where a column is missing or nothing was read."""
        assert settings.table is not None, "asked for by a setting"
        self.path = settings.table
        self._licences: dict[str, str] = {}
        texts: dict[str, str] = {}
        for path in find_files(settings.table):
            for row in stream_rows(path, {settings.key, settings.license}):
                _check(row.values, [settings.key, settings.license], f"{path} row {row.number}")
                licence = str(row.values[settings.license] or "").strip()
                if key := str(row.values[settings.key] or "").strip():
                    self._licences[key] = texts.setdefault(licence, licence)
        if not self._licences:
            raise UserError(f"licences.table: {settings.table} holds no row; give a table of keys and licences")

    def find(self, key: str) -> str:
        """The licence, or the empty text: none."""
        return self._licences.get(key.strip(), "")


def read(origin: Origin, config: Config, licences: LicenceTable | None = None, skip: int = 0) -> Iterator[Entry]:
    """Every document in order, but the first `skip`, which are not looked at.

    Raises:
        UserError: a column is missing, or a document has no licence where that is refused.
    """
    if origin.table:
        if config.form == "lines":
            built = icd10cm_lines(config.prefixes, config.max_characters, config.wordings)
        else:
            built = icd10cm(config.prefixes, config.max_characters)
        if origin.table == "atc":
            built = atc(origin.files, origin.columns, config.prefixes, origin.source or "ATC", origin.license)
        yield from islice((Entry(document) for document in built), skip, None)
        return
    before = 0
    for path in origin.files:
        file = _File(path, origin, config, licences, before)
        bulk = BULK.get(kind_of(path))
        for row in bulk(path) if bulk else stream_rows(path, file.names):
            if skip:
                skip -= 1
                continue
            yield file.entry(row)
        before += path.stat().st_size


class _File:
    """One file of a corpus: rows into entries."""

    def __init__(self, path: Path, origin: Origin, config: Config, licences: LicenceTable | None, before: int) -> None:
        self.path = path
        self.columns = {name: name for name in OWN} | origin.columns
        self.names = {name for column in self.columns.values() for name in (column, column.partition(".")[0])}
        self._name = path.name if origin.root in (path, None) else path.relative_to(origin.root or path).as_posix()
        self._origin, self._licences, self._before = origin, licences, before
        self._missing = config.licences.missing
        self._source = origin.source or (origin.root or path).stem
        self._is_text = kind_of(path) in TEXTS
        # Rows in our own columns are held to them: a text that is none is a mistake there, no empty document.
        strict = "text" not in origin.columns and not self._is_text
        given = {"source": bool(origin.source), "license": bool(origin.license or licences)}
        self._own = [name for name in OWN if strict and name not in origin.columns]
        self._needed = [name for name in self._own if not given.get(name)]
        self._named = list(origin.columns.values())

    def entry(self, row: Row) -> Entry:
        """The document of a row."""
        values, columns = row.values, self.columns
        if self._named and not row.fault:
            self._check_named(row)
        for name in self._own:
            if name in values and not isinstance(values[name], str):
                raise UserError(f"{self._where(row)}: '{name}' is of type {type(values[name]).__name__}, not a text")
            if name not in values and name in self._needed:
                _check(values, [name], self._where(row))
        text = text_at(values, columns["text"])
        key, title = text_at(values, columns["id"]), text_at(values, columns["title"])
        if self._is_text:
            key, title = key or self._name, title or self.path.stem
        if key and self._origin.ids_restart:
            key = f"{self._name}:{key}"
        key = key or content_id(text or self._where(row))
        if self._licences is not None:
            stated = self._licences.find(text_at(values, columns.get("article", "")))
        else:
            stated = text_at(values, columns["license"]).strip() or self._origin.license
        if self._missing == "refuse" and not is_licence(stated):
            raise UserError(
                f"{self._where(row)}: no license for '{key}'; a corpus is used under known licences only (license=... "
                "for all of it, or licences.missing=drop)"
            )
        return Entry(
            Document(key, title, text, text_at(values, columns["source"]).strip() or self._source, stated),
            patient=text_at(values, columns["patient"]).strip() if "patient" in columns else "",
            time=str(value_at(values, columns["time"]) or "").strip() if "time" in columns else "",
            file=self._name,
            row=row.number,
            done=self._before + row.end,
            fault=row.fault,
        )

    def _where(self, row: Row) -> str:
        return f"{self.path} row {row.number}"

    def _check_named(self, row: Row) -> None:
        """A column that is named must be there, at least in the first row that has any."""
        for column in self._named:
            if column not in row.values:
                _check(row.values, [column.partition(".")[0]], self._where(row))
        self._named = []


def _check(values: Iterable[str], columns: Sequence[str], where: str) -> None:
    there = list(values)
    for column in columns:
        if column not in there:
            raise UserError(
                f"{where}: missing column '{column}' ({name_columns(there)}); say what it is called, e.g. "
                "columns.text=NAME"
            )
