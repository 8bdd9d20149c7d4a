"""Which ICD-10-CM codes exist, from the table of the package simple-icd-10-cm, without its two seconds of import."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from medsmith.errors import UserError

CODE = re.compile(r"\b[A-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?(?![\w.]*\w)", re.IGNORECASE)


def find_icd10cm(text: str) -> list[str]:
    """What looks like codes in a text, in its own spelling."""
    return [match[0] for match in CODE.finditer(text)]


def as_icd10cm(text: str) -> str | None:
    """The code as the table writes it (`e119` is E11.9); None where there is none."""
    plain = re.sub(r"[\s.\-]", "", text).upper()
    code = plain if len(plain) <= 3 else f"{plain[:3]}.{plain[3:]}"
    return code if code in icd10cm_codes() else None


@cache
def icd10cm_codes() -> frozenset[str]:
    """All codes of the table, headings of three characters included, ranges and chapters not.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("simple_icd_10_cm")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("checking ICD-10-CM codes needs simple-icd-10-cm; pip install 'medsmith[generate]'")
    tables = sorted((Path(spec.submodule_search_locations[0]) / "data").glob("code-list-*.txt"))
    if tables:
        lines = tables[-1].read_text(encoding="utf-8").split()
    else:  # another release keeps it elsewhere: the slow way
        import simple_icd_10_cm

        lines = simple_icd_10_cm.get_all_codes()
    codes = frozenset(
        code if "." in code or len(code) < 4 else f"{code[:3]}.{code[3:]}" for code in lines if _is_code(code)
    )
    assert "E11.9" in codes and len(codes) > 50_000, "the table of codes has another layout"
    return codes


def _is_code(text: str) -> bool:
    return re.fullmatch(r"[A-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?", text) is not None
