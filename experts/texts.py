"""What an expert is trained on and measured on: corpora, and the rows that a teacher made of their documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medsmith import run
from medsmith.errors import UserError
from medsmith.records import Document, content_id, read_documents, read_jsonl, stream_documents


@dataclass(frozen=True)
class Corpus:
    """A finished folder of experts.corpora. Its training documents are read when they are wanted, never kept."""

    name: str
    folder: Path

    def train(self) -> Iterator[Document]:
        """The documents to train on, in the order of their file."""
        yield from stream_documents(self.folder / "train.jsonl")

    def heldout(self, limit: int, seed: int) -> list[Document]:
        """At most `limit` held-out documents, by the hash of their ids."""
        found = read_documents(self.folder / "heldout.jsonl")
        return sorted(found, key=lambda document: content_id(seed, document.id))[:limit]


@dataclass(frozen=True)
class Texts:
    """What is trained on, and what is only measured (by source)."""

    corpora: list[Corpus]
    documents: int
    """To train on, in all corpora."""
    heldout: dict[str, list[Document]]
    outputs: dict[str, list[str]] = field(default_factory=dict)
    task: str = ""
    """What the outputs are; empty where they are of several tasks, or there are none."""

    @property
    def heldout_documents(self) -> int:
        """How many documents are measured."""
        return sum(map(len, self.heldout.values()))


def read_texts(corpora: list[Corpus], rows: Path | None, limit: int, seed: int, task: str | None = None) -> Texts:
    """Read rows and held-out documents. `task`: the rows must be of this one.

    Raises:
        UserError: a folder is not finished; a row of another task, of a document that is held out, or of none.
    """
    documents = sum(int(run.require_finished(corpus.folder)["counts"]["train"]) for corpus in corpora)
    held = [(corpus, document) for corpus in corpora for document in corpus.heldout(limit, seed)]
    heldout: dict[str, list[Document]] = defaultdict(list)
    for corpus, document in held:
        heldout[corpus.name or source_name(document)].append(document)
    outputs, tasks = ({}, set()) if rows is None else _read_rows(corpora[0].folder, rows, task)
    of = tasks.pop() if len(tasks) == 1 else ""
    return Texts(corpora, documents, dict(sorted(heldout.items())), outputs, of)


def read_retained(folders: list[Path], limit: int, seed: int) -> dict[str, list[Document]]:
    """At most `limit` held-out documents of each of several corpora, by the name of its folder.

    Raises:
        UserError: a folder is not finished or holds out nothing, or two have one name.
    """
    found: dict[str, list[Document]] = {}
    for folder in folders:
        run.require_finished(folder)
        if folder.name in found:
            raise UserError(
                f"retain: two folders are called '{folder.name}'; rename one, since results go by that name"
            )
        found[folder.name] = Corpus("", folder).heldout(max(1, limit), seed)
        if not found[folder.name]:
            raise UserError(f"retain: {folder} holds out no document; build it with heldout_share above 0")
    return found


def _read_rows(documents: Path, rows: Path, task: str | None) -> tuple[dict[str, list[str]], set[str]]:
    run.require_finished(rows)
    known = {row["id"] for row in read_jsonl(documents / "train.jsonl")}
    held = {row["id"] for row in read_jsonl(documents / "heldout.jsonl")}
    outputs: dict[str, list[str]] = defaultdict(list)
    tasks: set[str] = set()
    for number, row in enumerate(read_jsonl(rows / "rows.jsonl"), 1):
        where, key = f"{rows}/rows.jsonl row {number}", row["document_id"]
        if key not in known:
            what = "is held out of" if key in held else "is not in"
            raise UserError(f"{where}: document '{key}' {what} {documents}; run experts.prepare on that folder")
        if task is not None and row.get("task") != task:
            raise UserError(f"{where} is of task {row.get('task')}; run experts.prepare with task={task}")
        outputs[key].append(row["output"])
        tasks.add(str(row.get("task", "")))
    return dict(outputs), tasks


def source_name(document: Document) -> str:
    """Where a document is from."""
    return without_address(document.source)


def without_address(source: str) -> str:
    """A source's name; a page's address in it tells pages apart, not sources."""
    return source.partition("http")[0].strip(" :,;-") or source
