"""Strict, frozen configuration: defaults in the class, then the YAML, then `key.sub=value`.

A command's `Config` subclasses `Config`. Three kinds of field:

* a plain field bears identity: change it and the step is another step;
* a field of type `Path` (at any depth) is an input artefact: its identity is the digest of what lies there, not the
  path itself. `ModelRef` is a local path (an artefact) or a hub id (plain text);
* a field made by `execution(...)` says how the work is done (device, workers, where results go), not what comes out:
  it is recorded and bears no identity.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medsmith.errors import UserError


def execution(default: Any = ..., description: str = "") -> Any:
    """Declare a field that says how the work is done; it bears no identity."""
    return Field(default, description=description, json_schema_extra={"execution": True})


def _path_or_hub_id(value: Any) -> Any:
    if isinstance(value, str) and (value.startswith(("/", "./", "../", "~")) or Path(value).exists()):
        return Path(value).expanduser()
    return value


ModelRef = Annotated[str | Path, Field(union_mode="smart"), BeforeValidator(_path_or_hub_id)]
"""A model folder (absolute, `./…`, or existing: an artefact) or a hub id (`owner/name`, or `owner/name@revision`)."""


class Block(BaseModel):
    """A frozen block of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Config(Block):
    """What every command takes. `schema_version` is raised when the same settings begin to mean something else."""

    schema_version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version changes the result, e.g. ("torch", "trl")."""

    out: Path = execution(description="the folder that this command writes and finishes with run.json")
    seed: int = Field(0, description="one seed for all that is drawn")


C = TypeVar("C", bound=BaseModel)


def load(cls: type[C], recipe: Path | dict[str, Any] | None = None, overrides: Sequence[str] = ()) -> C:
    """Read a recipe into `cls`, then apply `key.sub=value` overrides (values are YAML).

    Raises:
        UserError: unknown key (the nearest one is named), missing or wrong value, unreadable YAML.
    """
    values = {} if recipe is None else (dict(recipe) if isinstance(recipe, dict) else read_yaml(recipe))
    where = str(recipe) if isinstance(recipe, Path) else "the settings"
    for override in overrides:
        _set(values, override)
    for path, key, known in _unknown(cls, values):
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean '{path}{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
        raise UserError(f"{where}: unknown key '{path}{key}'; {hint}")
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        got = "" if first["type"] == "missing" else f" (got {str(first['input'])[:80]!r})"
        raise UserError(f"{where}: '{key}': {first['msg']}{got}; set it in the recipe or as {key}=VALUE") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping."""
    if not path.is_file():
        raise UserError(f"no such file: {path}; give the path of a YAML recipe")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, got a {type(values).__name__}")
    return values


def identity(config: Config) -> dict[str, Any]:
    """The settings that bear identity, as plain JSON values; artefact paths are replaced by None."""
    return _plain(_identity_fields(config))


def artefacts(config: Config) -> dict[str, Path]:
    """Every input artefact as {dotted field: path}; see the module docstring."""
    return dict(_paths("", _identity_fields(config)))


def _identity_fields(model: BaseModel) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("execution"):
            continue
        fields[name] = _descend(getattr(model, name))
    return fields


def _descend(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _identity_fields(value)
    if isinstance(value, dict):
        return {str(key): _descend(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_descend(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, Path) else value


def _paths(prefix: str, value: Any) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield prefix, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(f"{prefix}.{key}" if prefix else key, item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _paths(f"{prefix}.{number}", item)


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}' is not of the form key=value")
    *parents, last = key.split(".")
    target = values
    for parent in parents:
        inner = target.get(parent)
        target[parent] = dict(inner) if isinstance(inner, dict) else {}
        target = target[parent]
    try:
        target[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        target[last] = text


def _unknown(cls: type[BaseModel], values: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, list[str]]]:
    known = [field.alias or name for name, field in cls.model_fields.items()]
    for key, value in values.items():
        if key not in known:
            yield path, str(key), known
        elif isinstance(value, dict):
            for block in _blocks(cls.model_fields[key].annotation):
                yield from _unknown(block, value, f"{path}{key}.")


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    """The settings class of a field, where there is exactly one (dict- and list-valued fields have none)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        found = [block for part in get_args(annotation) for block in _blocks(part)]
        return found if len(found) == 1 else []
    return []
