"""Where each step of a pipeline stands, and why: nothing here runs a step or changes a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medsmith import resumption, run
from medsmith.config import artefacts, identity
from medsmith.pipeline import Pipeline, Step

State = Literal["finished", "stale", "waiting", "running", "interrupted", "failed", "to do"]


class Standing(NamedTuple):
    """A step's state, the reasons in words, and its record where it has one.

    `waiting` is a finished step that only a change above it could make stale.
    """

    step: Step
    state: State
    reasons: list[str]
    record: dict[str, Any] | None


def survey(pipeline: Pipeline) -> dict[str, Standing]:
    """Every step's standing, in order; what lies below a step that is not finished cannot be known yet."""
    found: dict[str, Standing] = {}
    for step in pipeline.steps.values():
        pending = [need for need in step.needs if found[need].state != "finished"]
        found[step.name] = assess(step, pipeline, pending)
    return found


def assess(step: Step, pipeline: Pipeline, pending: list[str]) -> Standing:
    """One step's standing; `pending` are the steps it needs whose results may still change.

    Raises:
        UserError: an input that no step makes does not exist.
    """
    folder = step.folder
    record, tried = run.read_record(folder), run.read_started(folder)
    waits = [f"waits for {', '.join(pending)}"] if pending else []
    if record is None and run.is_held(folder):
        return Standing(step, "running", [f"since {tried['started']}"] if tried else [], None)
    unknown = [pipeline.steps[need].folder for need in pending]
    wanted = run.step_identity(step.run, step.config, unknown)
    if record is not None:
        changes = list(differences(record["identity"], wanted, step, pipeline))
        if not changes and not run.is_intact(folder, record):
            changes = [f"files in {folder} are not as the run left them"]
        if changes:
            return Standing(step, "stale", changes, record)
        return Standing(step, "waiting" if pending else "finished", waits, record)
    if tried is None:
        return Standing(step, "to do", waits or ["never run"], None)
    changes = list(differences(tried["identity"], wanted, step, pipeline)) if tried.get("identity") else []
    if tried.get("error"):
        return Standing(step, "failed", [tried["error"], *changes, *waits], None)
    return Standing(step, "interrupted", changes or waits or [f"started {tried['started']}; will continue"], None)


def differences(old: dict[str, Any], new: dict[str, Any], step: Step, pipeline: Pipeline) -> Iterator[str]:
    """What makes two identities of a step differ, one line each; inputs that are not known yet are left out."""
    for name, what in (("command", "command"), ("schema_version", "meaning of the settings: version")):
        if old.get(name) != new[name]:
            yield f"{what} {old.get(name)} -> {new[name]}"
    before, after = _flat(old.get("settings", {})), _flat(new["settings"])
    for key in sorted({*before, *after}):
        if before.get(key, "unset") != after.get(key, "unset"):
            yield f"setting {key}: {before.get(key, 'unset')!r} -> {after.get(key, 'unset')!r}"
    paths = artefacts(step.config)
    for name in sorted({*old.get("inputs", {}), *new["inputs"]}):
        was, now = old.get("inputs", {}).get(name), new["inputs"].get(name, "")
        if now is None or was == now:
            continue
        if not was or not now:
            yield f"input {name}: {'added' if now else 'removed'}"
        else:
            yield f"input {name} ({_maker(paths[name], pipeline)}): content {was[:12]} -> {now[:12]}"
    if told := resumption.code_differences(old.get("code", {}), new["code"]):
        yield told
    was, now = old.get("libraries", {}), new["libraries"]
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            yield f"library {name}: {was.get(name, 'absent')} -> {now.get(name, 'absent')}"


def explain(pipeline: Pipeline, name: str) -> list[str]:
    """Why a step would run, wait or be left alone, and the same of each unfinished step above it."""
    found = survey(pipeline.select([name]))
    lines = []
    for standing in reversed(found.values()):
        step = standing.step
        if step.name != name and standing.state == "finished":
            continue
        lines.append(f"{step.name}: {standing.state}")
        lines += [f"  {reason}" for reason in standing.reasons]
        if step.name == name and standing.record:
            lines.append(f"  last built {standing.record['ended']} in {standing.record['seconds']} s")
            lines += [f"  built then because: {reason}" for reason in last_reasons(step.folder)]
            lines += [f"  {text}" for text in _identity_lines(standing)] if standing.state == "finished" else []
    return lines


REASON = "== because: "
"""How the runner writes into step.log why it started a step."""


def last_reasons(folder: Path) -> list[str]:
    """Why the runner last started this step, as its log says."""
    try:
        lines = (folder / "log" / "step.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    starts = [number for number, line in enumerate(lines) if line.startswith("== try ")]
    last = lines[starts[-1] :] if starts else []
    return [line.removeprefix(REASON) for line in last if line.startswith(REASON)]


def _identity_lines(standing: Standing) -> Iterator[str]:
    assert standing.record is not None, "only a finished step has an identity to show"
    inputs = standing.record["identity"]["inputs"]
    yield f"identity {standing.record['key']}: {len(identity(standing.step.config))} settings, {len(inputs)} inputs"


def _maker(path: Path, pipeline: Pipeline) -> str:
    for step in pipeline.steps.values():
        if path == step.folder or step.folder in path.parents:
            return f"made by {step.name}"
    return str(path)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, item in items for name, leaf in _flat(item, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}
