"""Strict, frozen configuration: defaults in the class, then the YAML, then `key.sub=value`.

A command's `Config` subclasses `Config`. Three kinds of field:

* a plain field bears identity: change it and the step is another step;
* a field of type `Path` (at any depth) is an input artefact: its identity is the digest of what lies there, not the
  path itself. `ModelRef` is a local path (an artefact) or a hub id (plain text);
* a field made by `execution(...)` says how the work is done (device, workers, where results go), not what comes out:
  it is recorded and bears no identity.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from medsmith.errors import UserError, nearest
from medsmith.yaml_files import parse_value, read_yaml


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
    positional: ClassVar[tuple[str, ...]] = ()
    """The settings that first arguments without `=` give, in this order, where the first is not a recipe."""

    foreign: ClassVar[dict[str, str]] = {}
    """Keys of another command's recipes that are likely given by mistake, with what to say then."""

    out: Path = execution(description="the folder that this command writes and finishes with run.json")
    seed: int = Field(0, description="one seed for all that is drawn")


C = TypeVar("C", bound=BaseModel)


def load(cls: type[C], recipe: Path | dict[str, Any] | None = None, overrides: Sequence[str] = ()) -> C:
    """Read a recipe into `cls`, then apply `key.sub=value` overrides (values are YAML; `list.0.key` counts from 0).

    Raises:
        UserError: unknown key (the nearest one is named), missing or wrong value, unreadable YAML.
    """
    values = {} if recipe is None else (recipe if isinstance(recipe, dict) else read_yaml(recipe))
    for override in overrides:
        values = assign(values, override)
    for path, key, known in _unknown(cls, values):
        where = _giver(f"{path}{key}", recipe, overrides)
        if not path and (said := getattr(cls, "foreign", {}).get(key)):
            raise UserError(f"{where}: {said}")
        raise UserError(f"{where}: unknown key '{path}{key}'; {nearest(key, known, path)}")
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = _place(first["loc"], values, first["type"] == "missing")
        where = _giver(key, recipe, overrides)
        if first["type"] == "extra_forbidden":
            raise UserError(f"{where}: unknown key '{key}'; remove it or see --help for the known ones") from None
        # Of a block that does not hold together the sentence names the values; the whole block would bury them.
        whole = first["type"] == "missing" or isinstance(first["input"], dict)
        got = "" if whole else f" (got {str(first['input'])[:80]!r})"
        value = "[VALUE, …]" if first["type"] in ("list_type", "tuple_type") else "VALUE"
        said = first["msg"].removeprefix("Value error, ")
        if not key:  # several settings that do not go together: the sentence names them
            raise UserError(f"{where}: {said}") from None
        # A file of another kind than a recipe (a suite, prices) takes no settings from the command line.
        remedy = f"set it in the recipe or as {key}={value}" if issubclass(cls, Config) else "mend it there"
        raise UserError(f"{where}: '{key}': {said}{got}; {remedy}") from None


def _giver(key: str, recipe: Any, overrides: Sequence[str]) -> str:
    """Where a setting was given, for a message: an override has the last word over the recipe."""
    given = (override.partition("=")[0] for override in overrides)
    if key and any(f"{key}.".startswith(f"{name}.") for name in given):
        return "the command line"
    return str(recipe) if isinstance(recipe, Path) else "the settings"


def _place(loc: Sequence[str | int], values: Any, missing: bool) -> str:
    """The dotted key of an error, without the names that pydantic gives to the members of a union."""
    kept = []
    for number, part in enumerate(loc, 1):
        if isinstance(values, dict | list) and part in (values if isinstance(values, dict) else range(len(values))):
            values = values[part]  # type: ignore[index]
        elif not (missing and number == len(loc)):
            continue
        kept.append(str(part))
    return ".".join(kept)


def assign(values: dict[str, Any], override: str) -> dict[str, Any]:
    """A copy of `values` with one `key.sub=value` applied; the value is YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}' is not of the form key=value")
    assigned: dict[str, Any] = _assigned(values, key.split("."), parse_value(text), override)
    return assigned


def _assigned(target: Any, keys: list[str], value: Any, override: str) -> Any:
    if not keys:
        return value
    head, *rest = keys
    if isinstance(target, list):
        if not head.isdigit() or int(head) >= len(target):
            raise UserError(f"'{override}': '{head}' is not a place in a list of {len(target)} (they count from 0)")
        copy = list(target)
        copy[int(head)] = _assigned(copy[int(head)], rest, value, override)
        return copy
    inner = dict(target) if isinstance(target, dict) else {}
    inner[head] = _assigned(inner.get(head), rest, value, override)
    return inner


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with `above` laid over it: mappings are merged key by key, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def identity(config: Config) -> dict[str, Any]:
    """The settings that bear identity, as plain JSON values; artefact paths are replaced by None."""
    plain: dict[str, Any] = _plain(_identity_fields(config))
    return plain


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


def _unknown(cls: type[BaseModel], values: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, list[str]]]:
    fields = {field.alias or name: field for name, field in cls.model_fields.items()}
    for key, value in values.items():
        if key not in fields:
            yield path, str(key), list(fields)
        else:
            yield from _unknown_below(fields[key].annotation, value, f"{path}{key}.")


def _unknown_below(annotation: Any, value: Any, path: str) -> Iterator[tuple[str, str, list[str]]]:
    """Walk a value beside its type: a block, or a list or mapping of blocks at any depth."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    parts = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        # Which of several shapes is meant is for pydantic to say; only one that is alone can be walked here.
        shapes = [part for part in parts if _holds_block(part)]
        if len(shapes) == 1:
            yield from _unknown_below(shapes[0], value, path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if isinstance(value, dict):
            yield from _unknown(annotation, value, path)
    elif isinstance(value, dict) and len(parts) == 2:
        for key, item in value.items():
            yield from _unknown_below(parts[1], item, f"{path}{key}.")
    elif isinstance(value, list) and parts:
        for number, item in enumerate(value):
            yield from _unknown_below(parts[0], item, f"{path}{number}.")


def _holds_block(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_holds_block(part) for part in get_args(annotation))
