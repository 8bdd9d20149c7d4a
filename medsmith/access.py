"""Whether texts of training rows may be written into a run folder: by default where every licence is known and open.

Corpora and everything made from them name their licences in run.json (`facts.licences`). What has no run.json, or a
licence that says nothing of openness, may be under a use agreement: its texts stay out until the user says otherwise.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from medsmith.licences import AGREEMENT, agreements_of
from medsmith.run import find_record

LOG = logging.getLogger(__name__)

OPEN = re.compile(
    r"public domain|creative commons|\bcc0\b|\bcc[ -]by\b|\bmit\b|\bapache\b|\bbsd\b|\bodc-by\b|\bpddl\b|\bodbl\b|"
    r"cdla-permissive|\b[al]?gpl\b",
    re.IGNORECASE,
)
"""Licences under which a text may be read by anybody; what else may be done with it is another question."""


def is_open(licence: str) -> bool:
    """Whether a licence lets anybody read the text."""
    return bool(OPEN.search(licence)) and not AGREEMENT.search(licence)


def why_withheld(sources: Sequence[Path]) -> str:
    """The reason to keep the texts of these files or run folders to ourselves; empty where all are known to be open."""
    for path in sources:
        record = find_record(path)
        if record is None:
            return f"{path} is no run of ours and names no licence"
        for source in agreements_of(record):
            return f"{path} was made from what is under an agreement: {source}"
        licences = record["facts"].get("licences") or {}
        if not licences:
            return f"{path} names no licence"
        for source, licence in sorted(licences.items()):
            if not is_open(str(licence)):
                return f"'{source}' in {path} is under '{licence}'"
    return ""


def may_show(setting: bool | None, sources: Sequence[Path]) -> bool:
    """What the setting `show_text` says; where it says nothing, whether the sources are known to be open."""
    if setting is not None:
        return setting
    reason = why_withheld(sources)
    if reason:
        LOG.info("texts of training rows are withheld: %s; show_text=true shows them where you may", reason)
    return not reason
