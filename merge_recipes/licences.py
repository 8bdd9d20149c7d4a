"""Under which licences the models of a merge stand: from their run.json, else from their model card."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from medsmith.licences import Licences, collect_licences, is_licence, read_licence, unlicensed_bases
from medsmith.run import find_record

LOG = logging.getLogger(__name__)

NOT_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research[ -](use[ -])?only|academic", re.IGNORECASE)


def find_licences(models: Mapping[str, str | Path], folders: Mapping[str, Path]) -> dict[str, str]:
    """The licences of everything that a merge's models were made from, by source, to be laid over `facts["licences"]`.

    A model that is a run folder has them in its run.json. Of others the source is the hub id, or the folder's name,
    and the licence is what the card says; `unknown` where a hub's card says nothing, which publishing refuses (a plain
    folder it refuses by itself). The log names the models whose licence is not known or does not allow commercial use.
    """
    found = Licences()
    unknown, restricted, silent = [], [], set()
    for name, ref in models.items():
        record = find_record(ref) if isinstance(ref, Path) else None
        if record:
            own = collect_licences(record)
            known = bool(own) and all(map(is_licence, own.values())) and not unlicensed_bases(record)
        else:
            source = ref.name if isinstance(ref, Path) else ref.partition("@")[0]
            licence = read_licence(folders[name])
            own, known = {source: licence or "unknown"}, licence is not None
            if not known and isinstance(ref, Path):
                silent.add(source)
                own = {}
        found |= own
        if not known:
            unknown.append(name)
        if limits := sorted({licence for licence in own.values() if NOT_COMMERCIAL.search(licence)}):
            restricted.append(f"{name} ({', '.join(limits)})")
    if unknown:
        LOG.warning("licence not known: %s; find it before you publish this merge", ", ".join(unknown))
    if restricted:
        LOG.warning("not for commercial use: %s; neither is this merge", ", ".join(restricted))
    # Not said of any folder of that name: of two that are called alike, one's licence is not the other's.
    return {source: licence for source, licence in found.items() if source not in silent}
