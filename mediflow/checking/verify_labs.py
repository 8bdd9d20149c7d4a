"""Rule of `mediflow.checking.verify` about laboratory results: value, unit, and whether that is high, low or normal."""

from __future__ import annotations

import re

from mediflow.checking.facts import LabResult, PatientFacts
from mediflow.checking.quantities import NUMBER, is_rounded, to_number
from mediflow.checking.verify import Sentence


def labs(facts: PatientFacts, sentence: Sentence) -> None:
    """Value, unit and level of each measurement; a reference range is no value."""
    if not any(mention.of("lab") for mention in sentence.mentions):
        return
    text = _REFERENCE.sub(lambda match: " " * len(match[0]), sentence.text)
    for mention in sentence.mentions:
        for lab in facts.labs:
            if lab.name.lower() == mention.of("lab") and not sentence.context.is_open(mention.start, mention.end):
                following = [one.start for one in sentence.mentions if one.start >= mention.end and one.of("lab")]
                _one_lab(sentence, lab, text[: mention.start], text[mention.end : min([len(text), *following])])


_RANGE = r"\d+(?:\.\d+)?\s*(?:to|-|–|and)\s*\d+(?:\.\d+)?"
_REFERENCE = re.compile(
    rf"[(\[,]?\s*\b(?:normal(?:ly)?|reference|ref\.?|target|goal|expected|"
    rf"limits?)\b[^.;()]{{0,25}}?\b{_RANGE}[^\s,.;)]*(?:\s?[%\w/]+)?\s*[)\]]?"
    rf"|[(\[]\s*{_RANGE}[^)\]]*[)\]]|[(\[]?\b(?:normal|reference|ref|target|"
    rf"goal)\b[^.;()]{{0,12}}?[<>≤≥]\s*\d+(?:\.\d+)?[^)]{{0,10}}[)\]]?",
    re.I,
)
_LEVELS = {
    "high": "high", "elevated": "high", "raised": "high", "increased": "high", "above": "high", "up": "high",
    "low": "low", "decreased": "low", "reduced": "low", "depressed": "low", "below": "low", "down": "low",
    "normal": "normal", "unremarkable": "normal", "within": "normal",
    "wnl": "normal",
}  # fmt: skip
_LEVEL = "|".join(_LEVELS)
_GAP = (
    r"(?:[\s:=,(–-]|\b(?:levels?|values?|counts?|results?|concentration|reading|was|is|were|"
    r"are|of|at|came|comes|back|measured|found|to|be|as|"
    r"reported|turned|out|has|had|been|looks?|appears?|appeared|resulted|sits|shows?|"
    r"on admission|now|today|currently|still|mildly|markedly|significantly|slightly|clearly|very|"
    r"and|a|an|the|with|read|stood|stands|"
    r"returned|remains?|remained|in|serum|plasma|blood|flagged|noted|which|being|abnormally|"
    r"high|elevated|raised|increased|low|decreased|reduced|normal|lay|lies|fell|"
    r"falls|above|below|within|reference|range|limits?|upper|lower)\b)*?"
)
_VALUE = re.compile(rf"^{_GAP}{NUMBER.pattern}\s*([%°]|[A-Za-zµμ]+(?:/[A-Za-z\d.]+)?)?")
_LEVEL_AFTER = re.compile(
    rf"^{_GAP}\b(?<!than )(not |never )?({_LEVEL})\b(?!er)(?! (?:mood|back|blood pressure))", re.I
)
_LEVEL_BEHIND = re.compile(
    rf"^\s*[%\w/µμ.]*[\s,;:(–-]*(?:(?:which|that|and|this|is|was|a|i\.e\.,?|flagged|reported|"
    rf"as|are|abnormally|clearly|mildly|markedly)\s+)*(not )?({_LEVEL})\b",
    re.I,
)
_LEVEL_BEFORE = re.compile(
    rf"\b(not |non-)?(?:an? |the |with )?({_LEVEL})\s+(?:serum |plasma |blood |urine |"
    rf"level of |levels of |the |value of |value for )*$",
    re.I,
)
# As laboratories print it: "5.9 (H)", "5.9 mmol/L L", "3.1 ↓".
_FLAG = re.compile(
    r"^\s*(?:[A-Za-zµμ%]+/[A-Za-zµμ\d.]+|%|mmHg|ratio)?(?:\s*[(\[]\s*(H{1,2}|L{1,2}|N|WNL)\s*[)\]]"
    r"|\s+(H{1,2}|L{1,2}|WNL)(?=[\s.,;]|$)|\s*([↑↓]))"
)
_FLAGS = {"H": "high", "L": "low", "N": "normal", "W": "normal", "↑": "high", "↓": "low"}
_AIM = re.compile(r"\b(?:goal|target|aim\w*)\b", re.I)
_LIMIT = re.compile(r"\b(?:above|below)\b", re.I)
_RANGED = re.compile(r"\b(?:range|limits?|normal|reference)\b", re.I)
_TIMES = re.compile(r"^(?:days?|weeks?|months?|years?|hours?|minutes?|times?|st|nd|rd|th|am|pm|mg|mcg|tablets?)$", re.I)


def _one_lab(sentence: Sentence, lab: LabResult, before: str, after: str) -> None:
    behind = after
    match = _VALUE.match(after)
    if _AIM.search(before) or (
        match and _LIMIT.search(after[: match.start(1)]) and not _RANGED.search(after[: match.start(1)])
    ):
        return
    if match and lab.value is not None:
        unit = (match[2] or "").rstrip(".").replace("μ", "µ").replace("µ", "u")
        true_unit = lab.unit.replace("μ", "µ").replace("µ", "u")
        if not (_TIMES.match(unit) and unit.lower() != true_unit.lower()):
            behind = after[match.end(1) :]
            same_unit = unit.lower() == true_unit.lower() or not _is_unit(unit)
            agrees = is_rounded(match[1], lab.value) or to_number(match[1]) == lab.value
            if same_unit:
                sentence.compare(
                    "lab_value", agrees, f"{lab.name} {match[1]} {unit}".strip(), f"{lab.value:g} {lab.unit}"
                )
            elif to_number(match[1]) == lab.value:
                sentence.compare("unit", False, f"{lab.name} {match[1]} {unit}", f"{lab.value:g} {lab.unit}")
    elif lab.value is not None:
        amount = re.search(
            rf"({NUMBER.pattern})\s*{re.escape(lab.unit)}\s*(?:of|for|in)?\s*(?:the |serum |plasma )*$", before, re.I
        )
        if amount:
            agrees = is_rounded(amount[1], lab.value)
            sentence.compare("lab_value", agrees, f"{lab.name} {amount[1]}", f"{lab.value:g} {lab.unit}")
    if lab.level:
        level = (
            _LEVEL_AFTER.match(after)
            or (_LEVEL_BEHIND.match(behind) if behind is not after else None)
            or _LEVEL_BEFORE.search(before)
        )
        if level and not re.match(
            r"\s*(?:normal|reference)?\s*(?:range|limits?)?\s*(?:of\s*)?\d", after[level.end() :]
        ):
            said = _LEVELS[level[2].lower()]
            agrees = (said != lab.level) if level[1] else (said == lab.level)
            sentence.compare("lab_flag", agrees, f"{lab.name} {level[1] or ''}{said}", lab.level)
        elif behind is not after and (flag := _FLAG.match(behind)):
            said = _FLAGS[next(filter(None, flag.groups()))[0]]
            sentence.compare("lab_flag", said == lab.level, f"{lab.name} {said}", lab.level)


def _is_unit(text: str) -> bool:
    return "/" in text or text.lower() in {"%", "mmhg", "ratio", "mm", "u", "iu", "units"}
