"""The bulk files of the National Library of Medicine: PubMed's baseline in XML, PubMed Central's archives of texts.

Their rows have the columns of the data sets on the hub (ncbi/pubmed, pmc/open_access), so that one description serves
both.
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from medsmith.errors import UserError
from medsmith.row_files import Row

_SECTION = re.compile(r"(?m)^==== (Front|Body|Refs)\s*$")


def stream_pubmed(path: Path) -> Iterator[Row]:
    """The citations of a file of PubMed's baseline (`pubmed25n0001.xml.gz`); an abstract's parts keep their labels.

    Raises:
        UserError: it is no XML, or torn.
    """
    with path.open("rb") as raw:
        source: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        number = 0
        try:
            for _, article in ElementTree.iterparse(source):
                if article.tag != "PubmedArticle":
                    continue
                number += 1
                yield Row(number, {"MedlineCitation": _citation(article)}, raw.tell())
                article.clear()
        except (ElementTree.ParseError, EOFError, OSError) as error:
            raise UserError(f"{path} after citation {number}: no whole XML ({error}); fetch the file again") from None


def _citation(article: ElementTree.Element) -> dict[str, Any]:
    citation = article.find("MedlineCitation")
    if citation is None:
        return {}
    parts = []
    for part in citation.iterfind("Article/Abstract/AbstractText"):
        label, text = part.get("Label"), "".join(part.itertext()).strip()
        parts += [f"{label}: {text}" if label else text] if text else []
    title = citation.find("Article/ArticleTitle")
    return {
        "PMID": citation.findtext("PMID"),
        "DateRevised": {"Year": citation.findtext("DateRevised/Year")},
        "Article": {
            "ArticleTitle": "" if title is None else "".join(title.itertext()).strip(),
            "Abstract": {"AbstractText": "\n".join(parts)},
        },
    }


def stream_archive(path: Path) -> Iterator[Row]:
    """The articles of an archive of texts (`oa_comm_txt.PMC000xxxxxx….tar.gz`): their bodies, without references.

    Licences are not in it, but in the list beside it: licences={table: ….filelist.csv, key: AccessionID}.

    Raises:
        UserError: it is no archive, or torn.
    """
    number = 0
    with path.open("rb") as raw:
        try:
            with tarfile.open(fileobj=raw, mode="r|*") as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.name.endswith(".txt") else None
                    if file is None:
                        continue
                    number += 1
                    text = _body(file.read().decode("utf-8", errors="replace"))
                    values = {"accession_id": Path(member.name).stem, "text": text}
                    absent = dict.fromkeys(("pmid", "license", "last_updated"))
                    yield Row(number, values | absent, raw.tell())
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{path} after article {number}: no whole archive ({error}); fetch it again") from None


def _body(text: str) -> str:
    """What stands between the marks of body and references; all of a text without marks."""
    pieces = _SECTION.split(text)
    sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return sections.get("Body", text).strip()


BULK: dict[str, Callable[[Path], Iterator[Row]]] = {".xml": stream_pubmed, ".tar": stream_archive}
"""Readers by the suffix before `.gz`."""
