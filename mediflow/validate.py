"""Does a JSON text fit a JSON Schema? Validators are compiled once a schema."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from mediflow.parse import strip_fence


def check_json(text: str, schema: dict[str, Any]) -> str | None:
    """None where the text is JSON that fits, else one line that says where it does not."""
    value, reason = read_json_text(text, schema)
    del value
    return reason


def read_json_text(text: str, schema: dict[str, Any]) -> tuple[Any, str | None]:
    """The value and None, or None and the reason. A Markdown fence around the JSON is passed over."""
    try:
        value = json.loads(strip_fence(text), parse_constant=_refuse)
    except ValueError as error:
        return None, f"is not valid JSON: {error}"
    errors = sorted(
        _validator(json.dumps(schema, sort_keys=True)).iter_errors(value), key=lambda e: list(map(str, e.path))
    )
    if errors:
        where = "/".join(str(part) for part in errors[0].path) or "the answer"
        return None, f"does not fit the schema at {where}: {errors[0].message[:300]}"
    return value, None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator

    parsed = json.loads(schema)
    Draft202012Validator.check_schema(parsed)
    return Draft202012Validator(parsed)
