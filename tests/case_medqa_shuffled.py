"""As MedQA: only the order of the options is another, which a question without letters does not show."""

from __future__ import annotations

from tests.case_medqa import CASE as CASE
