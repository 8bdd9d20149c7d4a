"""What a licence lets one do, read from the many ways of writing it.

`CC BY-NC-SA 4.0`, `cc-by-nc-sa-4.0`, `https://creativecommons.org/licenses/by-nc-sa/4.0/` and "Creative Commons
Attribution-NonCommercial-ShareAlike 4.0 International" are one licence. Where a text names several, all their
restrictions hold. What is not recognised is `unknown`, never assumed to be free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from medsmith.config import Block
from medsmith.licences import AGREEMENT, is_licence

TRAITS = (
    "public-domain",
    "permissive",
    "share-alike",
    "no-derivatives",
    "non-commercial",
    "agreement",
    "unknown",
)
"""`permissive`: recognised, with no restriction but naming the author. `agreement`: only for those who signed one."""

_CODE = re.compile(r"\bcc ?by((?: ?(?:nc|nd|sa))*)\b|\blicenses by((?: (?:nc|nd|sa))*)\b")
_LONG = re.compile(r"creative commons attribution|^attribution\b(?=.*(international|unported|licen[cs]e|\d\.\d))")
_VERSION = re.compile(r"\b([1-4])(?:\.(\d))?\b(?! ?[a-z]*clause)")
_ZERO = re.compile(r"\bcc ?0\b|\bcc zero\b|creative commons zero|publicdomain zero")
_PUBLIC = re.compile(
    r"public domain|publicdomain|\bpddl\b|\bunlicense\b|(us|u\.s\.|united states) government work|no known copyright"
)
_RESTRICTIONS = {"nc": "non-commercial", "nd": "no-derivatives", "sa": "share-alike"}
_OTHERS = {
    "permissive": re.compile(
        r"\bmit\b|\bapache\b|\bbsd\b|\bisc\b|\bodc by\b|\bcdla permissive\b|\bopen government licen[cs]e\b|\bogl\b"
    ),
    "share-alike": re.compile(r"\bgfdl\b|\bgnu free documentation\b|\b[al]?gpl\b|\bodbl\b|\bcdla sharing\b"),
    "non-commercial": re.compile(
        r"non ?commercial|not for commercial|\bnc\b"
        r"|(?:research|academic|educational|evaluation) (?:use |purposes? )?only"
    ),
}
# PubMed Central's word for: there may be a licence, but none that a machine can read.
_NONE = re.compile(r"^(no cc( code)?|other|unknown|common crawl|see (card|licen[cs]e).*|author manuscript)?$")


@dataclass(frozen=True)
class Licence:
    """A licence as it was understood: a name that is the same for all spellings, and its traits."""

    name: str
    traits: frozenset[str]

    @property
    def non_commercial(self) -> bool:
        """Whether it forbids what is sold."""
        return "non-commercial" in self.traits


@lru_cache(maxsize=100_000)
def parse_licence(text: str) -> Licence:
    """Understand a licence; what is not recognised keeps its text as its name and is `unknown`."""
    stated = " ".join(text.split())
    words = _plain(stated)
    traits: set[str] = set()
    names: list[str] = []
    if AGREEMENT.search(stated):
        traits.add("agreement")
    if _ZERO.search(words):
        traits.add("public-domain")
        names.append("CC0 1.0")
    elif _PUBLIC.search(words):
        traits.add("public-domain")
    parts = _cc_parts(words)
    if parts is not None:
        version = _VERSION.search(words)
        number = f" {version[1]}.{version[2] or 0}" if version else ""
        igo = " IGO" if re.search(r"\bigo\b", words) else ""
        names.append(f"CC {'-'.join(['BY', *(part.upper() for part in sorted(parts))])}{number}{igo}")
        traits |= {_RESTRICTIONS[part] for part in parts} or {"permissive"}
    for trait, pattern in _OTHERS.items():
        # A licence's own text speaks of "commercial and non-commercial use": its code says what holds.
        if pattern.search(words) and not (trait == "non-commercial" and parts is not None):
            traits.add(trait)
            names.append("")
    restricted = traits & {"share-alike", "no-derivatives", "non-commercial", "agreement"}
    if restricted:
        traits -= {"permissive", "public-domain"}
    only = names[0] if len(names) == 1 and names[0] and "agreement" not in traits else ""
    unknown = not traits or bool(_NONE.match(words))
    return Licence(only or stated, frozenset({"unknown"} if unknown else traits))


def _cc_parts(words: str) -> set[str] | None:
    """Of a Creative Commons licence other than CC0 its restrictions; None where there is none."""
    codes = [code[0] or code[1] for code in _CODE.findall(words)]
    if codes or _CODE.search(words):
        return {part for code in codes for part in re.findall("nc|nd|sa", code)}
    if not _LONG.search(words):
        return None
    long = {"nc": r"\bnc\b|non ?commercial", "nd": r"\bnd\b|no ?deriv", "sa": r"\bsa\b|share ?alike"}
    return {part for part, pattern in long.items() if re.search(pattern, words)}


class Licences(Block):
    """Which documents may be used, by their licences."""

    allow: list[str] = Field(
        [], description=f"only these: licences in any spelling (`CC BY`: of any version), or {', '.join(TRAITS)}"
    )
    deny: list[str] = Field([], description="not these, in the same words; then what is not recognised is left out too")
    missing: Literal["refuse", "drop"] = Field("refuse", description="what to do where a document has no licence")
    table: Path | None = Field(
        None, description="a table that tells documents' licences, e.g. PMC's oa_file_list.csv, or a folder of them"
    )
    key: str = Field("PMID", description="the table's column that `columns.article` is looked up in")
    license: str = Field("License", description="the table's column that holds the licence")

    @field_validator("allow", "deny")
    @classmethod
    def _known(cls, entries: list[str]) -> list[str]:
        for entry in entries:
            if "unknown" in parse_licence(entry).traits and entry not in TRAITS and re.fullmatch(r"[a-z-]+", entry):
                raise ValueError(f"'{entry}' is no licence that is recognised; kinds are {', '.join(TRAITS)}")
        return entries

    def reason(self, text: str) -> str | None:
        """Why a document under this licence is left out, or None. An empty text is no licence."""
        if not is_licence(text):
            return "no licence"
        licence = parse_licence(text)
        named = any(_matches(entry, licence) for entry in self.allow)
        for entry in self.deny:
            if _matches(entry, licence):
                return f"licence {licence.name}: {entry} is denied"
        if self.allow and not named:
            return f"licence {licence.name}: not among those allowed"
        if self.deny and "unknown" in licence.traits and not named:
            return f"licence {licence.name}: not recognised"
        return None


def _matches(entry: str, licence: Licence) -> bool:
    if entry in TRAITS:
        return entry in licence.traits
    wanted, held = _plain(parse_licence(entry).name), _plain(licence.name)
    return wanted == held or wanted == re.sub(r" \d\.\d( igo)?$", "", held)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[^a-z0-9.+]+", name.casefold())).strip()
