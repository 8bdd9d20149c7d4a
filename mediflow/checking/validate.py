"""Does a JSON text fit a JSON Schema (Draft 2020-12)? Validators are compiled once a schema.

`jsonschema` and the standard `json` are the authority: a text is refused by them alone, and their message is what
people and repairs see. `orjson` and `jsonschema-rs`, where they are installed, only say sooner that a text is right,
and only for schemas and numbers on which a test shows that they agree with the authority.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

from mediflow.generation.parse import strip_fence
from medsmith.errors import UserError

# Numbers of 16 digits and more: orjson turns large integers into floats, and comparisons may differ beyond 2**53.
_LONG_NUMBER = re.compile(r"\d{16}")
_EXACT = 2**53

# Which keywords the front may judge. Left out on purpose, so that the authority decides alone: patternProperties and
# most of pattern (regular expressions of another dialect), multipleOf (other rounding), format and content* (what is
# asserted is a setting), $dynamicRef, $anchor, $id and $ref elsewhere, and whatever is not listed.
# Literal ASCII, classes of it, quantifiers, groups and anchors mean the same in both dialects.
_SAME_PATTERN = re.compile(r"(?:[A-Za-z0-9 _/,^$|)?*+{}-]|\((?!\?)|\[[A-Za-z0-9 _-]+\]|\\\.)*")
# fmt: off
_PLAIN = {
    "type", "required", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength",
    "maxLength", "minItems", "maxItems", "minContains", "maxContains", "uniqueItems", "minProperties", "maxProperties",
    "dependentRequired", "title", "description", "default", "examples", "deprecated", "$comment", "$schema",
}
_ONE = {
    "additionalProperties", "items", "contains", "propertyNames", "not", "if", "then", "else", "unevaluatedItems",
    "unevaluatedProperties",
}
# fmt: on
_SEVERAL = {"allOf", "anyOf", "oneOf", "prefixItems"}
_NAMED = {"properties", "$defs", "dependentSchemas"}


class Read(NamedTuple):
    """The value and None, or None and one line that says what is wrong."""

    value: Any
    reason: str | None


def check_json(text: str, schema: dict[str, Any]) -> str | None:
    """None where the text is JSON that fits, else one line that says where it does not."""
    return read_json_text(text, schema).reason


def read_json_text(text: str, schema: dict[str, Any]) -> Read:
    """The value of a JSON text that fits the schema. A Markdown fence around the JSON is passed over.

    Raises:
        UserError: the schema is none.
    """
    value, reason = parse_json(text)
    if reason is None:
        reason = check_value(value, schema, exact=_LONG_NUMBER.search(text) is not None)
    return Read(None, reason) if reason is not None else Read(value, None)


def parse_json(text: str) -> Read:
    """The value of a JSON text, by the standard library's rules without NaN, infinities and halves of characters."""
    text = strip_fence(text)
    fast = _fast_parser()
    if fast is not None and not _LONG_NUMBER.search(text):
        try:
            return Read(fast(text), None)
        except ValueError:
            pass  # the authority may take it, and else has the words for it
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if "\\ud" in text.lower() or not text.isprintable():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Read(None, "is not valid JSON: half of a surrogate pair, which is no character")
    except RecursionError:
        return Read(None, "is not valid JSON: nested too deep")
    except ValueError as error:
        return Read(None, f"is not valid JSON: {error}")
    return Read(value, None)


def check_value(value: Any, schema: dict[str, Any], *, exact: bool = False) -> str | None:
    """None where the value fits, else one line. `exact` asks the authority alone, as long numbers need it.

    Raises:
        UserError: the schema is none.
    """
    fast, authority = _compiled(_key(schema))
    if fast is not None and not exact and fast(value):
        return None
    try:
        errors = sorted(authority.iter_errors(value), key=lambda error: list(map(str, error.path)))
    except RecursionError:
        return "does not fit the schema: nested too deep"
    if not errors:
        return None
    where = "/".join(str(part) for part in errors[0].path) or "the answer"
    return f"does not fit the schema at {where}: {errors[0].message[:300]}"


def is_plain(schema: Any) -> bool:
    """Whether the fast validator is trusted with the schema: it holds only keywords on which the two were compared."""
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict):
        return False
    for key, inner in schema.items():
        if key in _ONE:
            good = is_plain(inner)
        elif key in _SEVERAL:
            good = isinstance(inner, list) and all(map(is_plain, inner))
        elif key in _NAMED:
            good = isinstance(inner, dict) and all(map(is_plain, inner.values()))
        elif key == "pattern":
            good = isinstance(inner, str) and _SAME_PATTERN.fullmatch(inner) is not None
        elif key == "$ref":
            # Only into $defs of the same text: a pointer may lead to a place where no schema was looked at.
            good = isinstance(inner, str) and re.fullmatch(r"#/\$defs/[\w-]+", inner) is not None
        else:
            good = key in _PLAIN and _small(inner)
        if not good:
            return False
    return True


def _small(value: Any) -> bool:
    """No number in it that a float cannot hold exactly."""
    if isinstance(value, dict):
        return all(map(_small, value.values()))
    if isinstance(value, list):
        return all(map(_small, value))
    return not isinstance(value, int | float) or abs(value) <= _EXACT


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


@cache
def _fast_parser() -> Callable[[str], Any] | None:
    try:
        import orjson
    except ImportError:
        return None
    return orjson.loads


@cache
def _dumper() -> Callable[[Any], bytes]:
    try:
        import orjson
    except ImportError:
        return lambda value: json.dumps(value).encode()
    return orjson.dumps


def _key(schema: dict[str, Any]) -> bytes:
    try:
        return _dumper()(schema)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(schema).encode()


@lru_cache(maxsize=4096)
def _compiled(key: bytes) -> tuple[Callable[[Any], bool] | None, Any]:
    """The fast verdict (None where it is not to be had or not trusted) and the authority."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    schema = json.loads(key)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(map(str, error.path)) or "its top"
        raise UserError(f"no JSON Schema (wrong at {where}): {error.message[:200]}") from None
    authority = Draft202012Validator(schema)
    if not is_plain(schema):
        return None, authority
    try:
        import jsonschema_rs
    except ImportError:
        return None, authority
    return jsonschema_rs.Draft202012Validator(schema).is_valid, authority
