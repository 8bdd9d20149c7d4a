"""Under which licences and agreements a run stands: taken over from its inputs, asked before anything leaves.

`inherit` is called by medsmith.run.start, so no command has to remember it. While a run is open, whoever opens a
remote model asks `refuse_remote`, which looks at all runs that are open in this process. What nobody states is
`unknown`, which publishing refuses; plain files may state their licence in the README.md beside them (in its front
matter: `license:`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from medsmith.books import is_book
from medsmith.errors import UserError
from medsmith.yaml_files import parse_value

AGREEMENT = re.compile(r"physionet|credentialed|data use agreement|\bdua\b", re.IGNORECASE)
NOT_TO_PASS_ON = re.compile(r"\bproprietary\b|\ball rights reserved\b", re.IGNORECASE)
NO_LICENCE = {"", "none", "unknown", "unlicensed", "n/a", "null", "not stated", "not known"}
UNKNOWN = "unknown"
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
BASE_FIELDS = {"base", "model", "base_model", "reference"}
"""Settings that name a model. Of a plain folder its card is asked where it is read (`unlicensed_bases`)."""
KEPT_OUT = {"blocklists"}
"""Inputs whose texts are looked for and let nowhere in: their licences and labels are not the result's."""
ONLY_READ = KEPT_OUT | {
    *("benchmarks", "suite", "evaluate", "evaluations", "corpora", "retain", "held_out", "heldout", "validation"),
    *("calibration", "learned", "endpoint", "tokenizer", "closed_book", "semantic", "diversity"),
    *("recipe", "decisions", "licences", "notes", "runs"),
}
"""Inputs that are measured with or on, or that a person wrote: plain files among them are no source of the result."""


class Licences(dict[str, str]):
    """{source: licence}. Of two licences under one name both are kept, the second as `source (licence)`."""

    def __ior__(self, other: Any) -> Licences:  # type: ignore[override,misc]  # a mapping is all that is laid over it
        """Take over each licence."""
        for source, licence in dict(other).items():
            self[source if self.get(source, licence) == licence else f"{source} ({licence})"] = licence
        return self


def inherit(config: BaseModel, inputs: Mapping[str, tuple[Path, dict[str, Any] | None]]) -> dict[str, Any]:
    """The facts of a run that follow from its inputs ({dotted field: (path, its run's record)}) and its own settings.

    `credentialed` names what is under a use agreement. Raises UserError where a setting would send that elsewhere.
    """
    licences, agreements, simulated = Licences(), set[str](), False
    for name, (path, record) in inputs.items():
        field = name.partition(".")[0]
        if field in KEPT_OUT:
            continue
        if record is not None and path.is_file() and is_book(path):
            raise UserError(f"{name}={path} is what a run left out, and no data; give a file of what it kept")
        if record is None:
            stated = read_licence(path) or UNKNOWN
            if field not in ONLY_READ | BASE_FIELDS | {"models"}:
                licences |= {path.name: stated}
            elif AGREEMENT.search(stated):
                agreements.add(path.name)
        else:
            licences |= record["facts"].get("licences") or {}
            agreements.update(agreements_of(record))
            simulated = simulated or bool(record["facts"].get("simulated"))
    if _stated(config.__dict__):
        agreements.add("what the settings call credentialed")
    facts = {"licences": licences, "simulated": simulated, "credentialed": sorted(agreements)}
    for name, block in _addresses("", config):
        switch = f"{name}.allow_remote_credentialed" if hasattr(block, "allow_remote_credentialed") else ""
        _refuse(facts, block.base_url, getattr(block, "allow_remote_credentialed", False), switch)
    return facts


def _stated(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("credentialed")) or settings.get("access") == "credentialed"


def agreements_of(record: Mapping[str, Any]) -> list[str]:
    """What of a run, or of what it was made from, is under a data use agreement; empty where nothing is."""
    facts = record.get("facts", {})
    named, licences = set(facts.get("credentialed") or ()), facts.get("licences") or {}
    if "credentialed" not in facts:  # made before runs noted it: each one on the way is asked
        steps = [*record.get("ancestry", []), {"name": "this", **record.get("identity", {})}]
        named = {str(step["name"]) for step in steps if _stated(step.get("settings", {}))}
        licences = collect_licences(record)
    return sorted({*named, *(source for source, licence in licences.items() if AGREEMENT.search(str(licence)))})


# --- what may leave this machine --------------------------------------------------------------------------------------

_OPEN: list[dict[str, Any]] = []
"""The facts of the runs that are open in this process; they are looked at when something is about to leave."""


@contextmanager
def in_force(facts: dict[str, Any]) -> Iterator[None]:
    """Hold every remote model that is called in this block to the agreements of a run, as its facts tell them then."""
    _OPEN.append(facts)
    try:
        yield
    finally:
        _OPEN[:] = [each for each in _OPEN if each is not facts]


def refuse_remote(base_url: str, allowed: bool = False, switch: str = "") -> None:
    """Raise a UserError where an open run is under a use agreement and the address is not of this machine.

    `allowed`: what the setting called `switch` says.
    """
    for facts in _OPEN:
        _refuse(facts, base_url, allowed, switch)


def _refuse(facts: dict[str, Any], base_url: str, allowed: bool, switch: str) -> None:
    found = agreements_of({"facts": facts})
    if found and not allowed and not is_loopback(base_url):
        where = urlsplit(base_url).hostname
        remedy = f", or set {switch}=true where your agreement permits that endpoint" if switch else ""
        raise UserError(
            f"data under a use agreement ({', '.join(found[:3])}) would go to {where}; use a local model{remedy}"
        )


def is_loopback(base_url: str) -> bool:
    """Does the address stay on this machine? A name other than localhost is not looked up: it counts as remote."""
    host = urlsplit(base_url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _addresses(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every block of settings that names an address, with its dotted name."""
    if isinstance(value, BaseModel):
        if getattr(value, "base_url", None):
            yield name, value
        inner: Any = value.__dict__.items()
    elif isinstance(value, dict | list | tuple):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
    else:
        return
    for key, item in inner:
        yield from _addresses(f"{name}.{key}" if name else str(key), item)


# --- what may be published --------------------------------------------------------------------------------------------


def check_licences(record: dict[str, Any], where: str) -> dict[str, str]:
    """The licences of everything that went in, {source: licence}.

    Raises:
        UserError: none is named, a source has none, or one forbids passing the data on.
    """
    licences = collect_licences(record)
    if not licences:
        raise UserError(
            f"{where} names no licence of what it was made from; put licences into its sources and run again"
        )
    for source, licence in sorted(licences.items()):
        if not is_licence(licence):
            raise UserError(
                f"{where}: the source '{source}' has no licence ({licence!r}); find it (that of plain files "
                "goes into the README.md beside them) or leave the source out"
            )
        if NOT_TO_PASS_ON.search(str(licence)):
            raise UserError(f"{where}: the source '{source}' is not to be passed on ({licence}); leave it out")
    for source in agreements_of(record):
        raise UserError(
            f"{where}: the source '{source}' is under an agreement ({licences.get(source, 'by its settings')}); it may "
            "not be published here, share it where that agreement says"
        )
    return dict(sorted(licences.items()))


def collect_licences(record: Mapping[str, Any]) -> dict[str, str]:
    """The licences of everything that went into a run, {source: licence}; of what was kept out of it none."""
    facts = record.get("facts", {})
    if "credentialed" in facts:  # then it took over those of its inputs, by `inherit`
        return Licences(facts.get("licences") or {})
    licences = Licences()
    for entry in [*record.get("ancestry", []), record]:
        licences |= entry.get("facts", {}).get("licences") or {}
    return licences


def is_licence(licence: Any) -> bool:
    """Whether this names a licence at all."""
    return str(licence or "").strip().lower() not in NO_LICENCE


def read_licence(path: Path) -> str | None:
    """The licence that a card names: the metadata of the README.md in a folder, or beside a file. None without one."""
    card = (path if path.is_dir() else path.parent) / "README.md"
    matter = FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    values: Any = parse_value(matter[1]) if matter else None
    if not isinstance(values, dict):
        return None
    licence = values.get("license")
    if licence == "other":
        licence = values.get("license_name")
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    return str(licence) if is_licence(licence) else None


def unlicensed_bases(record: dict[str, Any]) -> list[str]:
    """The names of models on the way that are plain folders whose licence no run.json tells, and no model card."""
    fields, licences = BASE_FIELDS | {"models"}, collect_licences(record)
    files = [entry for entry in record["ancestry"] if entry["command"] == "file" and entry["name"] not in licences]
    return [entry["name"] for entry in files if str(entry.get("field", "")).partition(".")[0] in fields]
