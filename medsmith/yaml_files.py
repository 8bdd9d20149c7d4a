"""YAML as our commands read it: a key written twice is refused, and 2e-5 is a number."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from medsmith.errors import UserError


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML that refuses a key written twice (plain YAML keeps the last, silently) and reads 2e-5 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is set twice", key.start_mark)
                seen.add(key.value)
        built: dict[Any, Any] = super().construct_mapping(node, deep)
        return built


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_value(text: str) -> Any:
    """A value of the command line: YAML, or the text itself where it is not."""
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except yaml.YAMLError:
        return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML (or, by its suffix, JSON) mapping; an empty file is an empty mapping."""
    if not path.is_file():
        raise UserError(f"no such file: {path}; give the path of a YAML recipe")
    try:
        text = path.read_text(encoding="utf-8")
        values: Any = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid {'JSON' if path.suffix == '.json' else 'text'}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, got a {type(values).__name__}")
    return values
