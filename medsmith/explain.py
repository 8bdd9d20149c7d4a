"""A command's settings as text, for `--help`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def field_lines(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Two lines a field: dotted name, type and default; then what it means. Blocks below follow with their own."""
    for name, info in cls.model_fields.items():
        extra = info.json_schema_extra
        marks = [" [execution: no part of the identity]"] if isinstance(extra, dict) and extra.get("execution") else []
        if "Path" in type_text(info.annotation) and not marks:
            marks = [" [input: identified by its content]"]
        default = "required" if info.is_required() else f"default {_default_text(info)}"
        yield f"  {prefix}{info.alias or name}  ({type_text(info.annotation)}, {default}){''.join(marks)}"
        if info.description:
            yield f"      {info.description}"
        for below, block in _blocks(info.annotation):
            yield from field_lines(block, f"{prefix}{info.alias or name}.{below}")


def _default_text(info: Any) -> str:
    if info.default_factory is not None:
        value = info.default_factory()
    else:
        value = None if info.default is PydanticUndefined else info.default
    if isinstance(value, BaseModel):
        return "as below"
    return "null" if value is None else str(value)


def type_text(annotation: Any) -> str:
    """A type as a reader of recipes would say it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(parts[0])
    if origin is Literal:
        return "|".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        named = [type_text(part) for part in parts if part is not type(None)]
        text = "folder Path or hub id" if set(parts) == {str, Path} else " or ".join(named)
        return f"{text} or null" if type(None) in parts else text
    if parts:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(type_text(part) for part in parts)}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "block"
    return getattr(annotation, "__name__", str(annotation))


def _blocks(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every settings class inside a type, with the keys that lead to it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    elif origin is dict:
        yield from ((f"NAME.{below}", block) for below, block in _blocks(parts[1]))
    elif origin in (list, tuple):
        yield from ((f"0.{below}", block) for below, block in _blocks(parts[0]))
    elif origin in (Union, types.UnionType, Annotated):
        for part in parts:
            yield from _blocks(part)
