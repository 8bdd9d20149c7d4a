"""What a run stands under follows from its inputs; nothing leaves and nothing is published against it."""

from __future__ import annotations

import importlib
import itertools
import re
import socket
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from medsmith import run
from medsmith.command import list_commands
from medsmith.config import Config, artefacts
from medsmith.errors import UserError
from medsmith.licences import KEPT_OUT, agreements_of, check_licences, in_force, refuse_remote
from medsmith.records import write_jsonl

ROOT = Path(__file__).parents[1]
REMOTE = "https://api.example.org/v1"
CLIENTS = ("openai", "httpx", "httpx2", "requests", "aiohttp", "urllib3", "urllib.request")
"""Packages that speak to other machines."""
SPEAKERS = {"medsmith/openai_chat.py", "medsmith/batch_api.py", "mediflow/curation/semantic.py"}
"""Our modules that import one; each asks `refuse_remote`, or is called by one that has asked."""


class Step(Config):
    """Any command."""

    data: Path | None = None
    more: Path | None = None
    blocklists: list[Path] = []
    credentialed: bool = False


def finished(folder: Path, licences: dict[str, str] | None = None, **settings: Any) -> Path:
    """A finished run that states these licences."""
    with run.start(Step(out=folder, **settings), "toy.step") as this:
        this.facts["licences"] |= licences or {}
        for name in ("rows.jsonl", "instructions/part-00000.jsonl"):
            write_jsonl(this.folder / name, [{"text": "Patient 17 has gout."}])
        return this.finish(rows=1)


def plain(folder: Path, licence: str = "") -> Path:
    """A folder of a user's own, with a card where it is to state a licence."""
    write_jsonl(folder / "rows.jsonl", [{"text": "Patient 17 has gout."}])
    if licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# Rows\n")
    return folder


def inner(annotation: Any) -> Iterator[Any]:
    """Every type in an annotation."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from inner(part)


def blocks(cls: type[BaseModel], way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Every block of settings below a class, with its dotted way."""
    for name, field in cls.model_fields.items():
        for part in inner(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield (*way, name), part
                yield from blocks(part, (*way, name))


def made(cls: type[BaseModel], way: tuple[str, ...], value: Any, folder: Path) -> BaseModel:
    """Settings with one value in its place and `folder` wherever one is required; what goes together is not asked."""
    given: dict[str, Any] = {
        name: folder if Path in inner(field.annotation) else None
        for name, field in cls.model_fields.items()
        if field.is_required()
    }
    if way:
        annotation = cls.model_fields[way[0]].annotation
        below = next((p for p in inner(annotation) if isinstance(p, type) and issubclass(p, BaseModel)), None)
        inside = value if not way[1:] or below is None else made(below, way[1:], value, folder)
        shapes = {typing.get_origin(part) for part in inner(annotation)}
        given[way[0]] = [inside] if list in shapes else {"x": inside} if dict in shapes else inside
    return cls.model_construct(**given)


def senders() -> list[tuple[str, type[Config], list[tuple[str, ...]]]]:
    """Every command with a setting that is an address, and where those are."""
    found = []
    for name, _ in list_commands():
        cls = importlib.import_module(name).Config
        ways = [way for way, block in blocks(cls) if "base_url" in block.model_fields]
        if ways:
            found.append((name, cls, ways))
    return found


def inputs(cls: type[BaseModel], way: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a class takes files or folders whose texts may go into its result or its prompts."""
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra
        if name in KEPT_OUT or (isinstance(extra, dict) and extra.get("execution")):
            continue
        if Path in inner(field.annotation):
            yield (*way, name)
        for part in inner(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from inputs(part, (*way, name))


def test_no_command_opens_a_remote_model_where_an_ancestor_is_under_an_agreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command with an address × each of its addresses × each of its inputs, under every kind of agreement."""
    monkeypatch.chdir(ROOT)
    looked_up: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: looked_up.append(host))
    said = finished(tmp_path / "said", credentialed=True)
    runs = [
        finished(tmp_path / "far", data=finished(tmp_path / "near", data=said)),
        finished(tmp_path / "licensed", {"mimic": "PhysioNet Credentialed Health Data License 1.5.0"}),
    ]
    plain_files = [
        plain(tmp_path / "plain", "physionet-1.5.0"),
        plain(tmp_path / "one file", "other data use agreement") / "rows.jsonl",
    ]
    free, found, tried = finished(tmp_path / "free", {"rows": "MIT"}), senders(), 0
    expected = {"mediflow.generate", "mediflow.judge", "mediflow.pair", "mediflow.validation_sets", "align.sample"}
    assert expected < {name for name, _, _ in found}
    for name, cls, ways in found:
        for address, way in itertools.product(ways, inputs(cls)):
            for path in (*runs, *plain_files, free):
                given = made(cls, way, path, free)
                settings = {**made(cls, (*address, "base_url"), REMOTE, free).__dict__, way[0]: getattr(given, way[0])}
                if way[0] == address[0]:  # one block holds both
                    settings[way[0]] = getattr(given, way[0]).model_copy(update={"base_url": REMOTE})
                config = cls.model_construct(**{**settings, "out": tmp_path / "out" / name})
                assert path in artefacts(config).values()
                tried += 1
                if path is free:
                    with run.start(config, name):
                        continue
                with pytest.raises(UserError, match=r"use agreement \(.*would go to api.example.org"):
                    run.start(config, name).__enter__()
                if path is runs[0]:  # and the command itself, which may find another fault before
                    with pytest.raises(UserError):
                        importlib.import_module(name).main(config)
    assert tried > 200 and not looked_up


def test_only_modules_that_ask_speak_to_other_machines() -> None:
    """A new client of any kind is seen here, wherever it is imported."""
    client = re.compile(rf"^\s*(?:import|from) (?:{'|'.join(CLIENTS)})\b", re.MULTILINE)
    stages = ("medsmith", "mediflow", "experts", "merge_recipes", "align", "eval")
    files = [path for stage in stages for path in (ROOT / stage).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if client.search(path.read_text(encoding="utf-8"))}
    assert found == SPEAKERS


def test_what_is_learnt_while_a_run_is_open_counts(tmp_path: Path) -> None:
    """A licence that rows state, a benchmark's own: from then on nothing leaves; when the run is closed others may."""
    with run.start(Step(out=tmp_path / "out"), "toy.step") as this:
        refuse_remote(REMOTE)
        this.facts["licences"] |= {"notes": "PhysioNet"}
        refuse_remote("http://127.0.0.1:8000/v1")
        refuse_remote(REMOTE, allowed=True)
        with in_force({}), pytest.raises(UserError, match=r"\(notes\) would go to"):
            refuse_remote(REMOTE)
    refuse_remote(REMOTE)


def test_two_sources_under_one_name_keep_both_licences(tmp_path: Path) -> None:
    """Whichever comes last; and what is not to be passed on is not published for standing beside an open one."""
    a, b = finished(tmp_path / "a", {"notes": "proprietary"}), finished(tmp_path / "b", {"notes": "CC0-1.0"})
    record = run.require_finished(finished(tmp_path / "c", data=a, more=b))
    assert record["facts"]["licences"] == {"notes": "proprietary", "notes (CC0-1.0)": "CC0-1.0"}
    with pytest.raises(UserError, match="'notes' is not to be passed on"):
        check_licences(record, "c")


def test_plain_data_are_unknown_until_somebody_says_what_they_are_under(tmp_path: Path) -> None:
    """Never absent: refused when published, stated by the card beside them or by the step that read it in the rows."""
    record = run.require_finished(finished(tmp_path / "a", {"synthetic": "MIT"}, data=plain(tmp_path / "notes")))
    assert record["facts"]["licences"] == {"notes": "unknown", "synthetic": "MIT"}
    with pytest.raises(UserError, match="'notes' has no licence"):
        check_licences(run.require_finished(finished(tmp_path / "b", data=tmp_path / "a")), "b")
    carded = finished(tmp_path / "c", data=plain(tmp_path / "carded", "cc-by-4.0"))
    assert check_licences(run.require_finished(carded), "c") == {"carded": "cc-by-4.0"}
    with run.start(Step(out=tmp_path / "d", data=tmp_path / "notes"), "toy.step") as this:
        this.state_licences("data", {"ward": "CC0-1.0"})
        write_jsonl(this.folder / "rows.jsonl", [])
        this.finish()
    assert check_licences(run.require_finished(tmp_path / "d"), "d") == {"ward": "CC0-1.0"}


def test_what_is_under_an_agreement_is_not_published_by_any_route(tmp_path: Path) -> None:
    """By a setting three steps ago, though every licence is open; what a blocklist keeps out has no part in it."""
    far = finished(tmp_path / "far", {"rows": "MIT"}, data=finished(tmp_path / "said", {}, credentialed=True))
    with pytest.raises(UserError, match="is under an agreement"):
        check_licences(run.require_finished(far), "far")
    kept = run.require_finished(finished(tmp_path / "kept", {"rows": "MIT"}, blocklists=[far]))
    assert check_licences(kept, "kept") == {"rows": "MIT"} and agreements_of(kept) == []


def test_runs_of_before_are_asked_by_their_ancestry() -> None:
    """A record without the note: settings of each step on the way, and licences of each."""
    old: dict[str, Any] = {
        "command": "x",
        "identity": {"settings": {}},
        "facts": {"licences": {"n": "MIT"}},
        "ancestry": [],
    }
    assert agreements_of(old) == []
    step = {"command": "mediflow.generate", "name": "g", "settings": {"credentialed": True}, "facts": {}}
    assert agreements_of({**old, "ancestry": [step]}) == ["g"]
    assert agreements_of({**old, "ancestry": [{**step, "settings": {}, "facts": {"licences": {"m": "DUA"}}}]}) == ["m"]
