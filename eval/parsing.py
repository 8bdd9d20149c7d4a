"""From a model's output to its answer. An output that could mean two things is unreadable; nothing is guessed."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

# "not ENTAILMENT", "isn't an entailment", "rather than neutral": the label is named and denied.
_DENIED = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|non|cannot|without|rather than|instead of|except|excludes?|rules? out|unlikely)"
    r"\b|n['’]t\b)[^.;:!?\n]{0,40}\Z",
    re.IGNORECASE,
)
_MINUS = str.maketrans("−–—", "---")

# A bracket in a text begins JSON where it is followed by what JSON can hold: "[see note]" does not.
_JSON_BEGINS = re.compile(r"""\{\s*["'}]|\[\s*(?:[\[{"'\]\d-]|(?:true|false|null)\b)""")
# Strings of either quote, also one that never ends: JSON has no line break inside a string.
_JSON_TOKEN = re.compile(r"""(?s:"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)|[\[\]{},]|[^\[\]{},"']+""")
_CLOSES = {"{": "}", "[": "]"}
_DEEPEST = 100  # brackets in brackets; what nests deeper is no answer, and no reader would take it

# ICD-10-CM: a letter, a digit, a digit or A or B, then up to four signs after a dot.
_DOTTED_CODE = re.compile(
    r"(?<![\w.])(?<!\w-)[A-Z]\d[0-9AB]\.[0-9A-Z]{1,4}(?!\w|\.\w|-[A-Z]\d)", re.IGNORECASE | re.ASCII
)
_BARE_CODE = re.compile(r"(?<![\w.])(?<!\w-)[A-Z]\d[0-9AB][0-9A-Z]{0,4}(?!\w|\.\w|-[A-Z]\d)", re.ASCII)
_BEFORE_PART = re.compile(r"(?:\A|[,;|:\n])[\s*_`(\[•\d.)-]*\Z")
_AFTER_CODE = re.compile(r"[*_`)\]]*\s*(?:[,;:(|\n*]|-\s|\.?\s*\Z)")


def parse_label(output: str, labels: Sequence[str]) -> str | None:
    """The one label that is named as a whole word, in any case and as often as it likes.

    None where no label is named, where several are ("ENTAILMENT, NEUTRAL or CONTRADICTION"), and where it is denied
    ("This is not an entailment.").
    """
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, labels))})(?!\w)", re.IGNORECASE)
    named: set[str] = set()
    for match in pattern.finditer(output):
        if _denied_before(output, match.start()):
            return None
        named.add(match.group(1).casefold())
    if len(named) != 1:
        return None
    return next((label for label in labels if label.casefold() in named), None)


def parse_leading_label(output: str, labels: Sequence[str]) -> str | None:
    """The label that the output begins with, or that follows "answer is" or "answer:".

    For labels that are everyday words ("no"): elsewhere in a text they say nothing. A sentence that goes on from the
    label to another one ("yes, no or maybe", "yes or no") is unreadable, and so is "no difference was found".
    """
    names = "|".join(map(re.escape, labels))
    lead = rf"(?<!\w)(?:the )?(?:final |short |correct )?answer(?: is|:)[\s*:\"'“(]*({names})(?!\w)"
    found = [match.group(1).casefold() for match in re.finditer(lead, output, re.IGNORECASE)]
    if not found:
        match = re.match(rf"[\s*_\"'“(\[]*({names})(?=[\s*_\"'”)\]]*(?:$|[.,;:!\n—–-]))", output, re.IGNORECASE)
        if match is None:
            return None
        found = [match.group(1).casefold()]
    other = rf"(?<!\w)({names})\W+(?:(?:or|and)\W+)*({names})(?!\w)"
    listed = any(a.casefold() != b.casefold() for a, b in re.findall(other, output, re.IGNORECASE))
    if listed or len(set(found)) != 1:
        return None
    return next((label for label in labels if label.casefold() == found[0]), None)


def parse_letter(output: str, letters: Sequence[str]) -> str | None:
    """The letter of an option that an answer names: "B", "(b)", "**B**: text", "The answer is B because", "Option B".

    None where two are named ("A or B", a list of the options), where it is denied ("not B", "B is wrong"), and for
    everyday words: "A patient with gout" and "The answer is a patient with gout" name nothing.
    """
    names = "".join(letters)
    close = r"(?=[\s*_`\"'”’]*(?:$|[).\]:,;!*\n–—]|-(?!\w)))"
    # In a sentence the letters A and I may be words: then a sign has to follow, as it has after a small letter.
    named = rf"(?:(?-i:(?![AI])[{names}])(?=\s)|[{names}]{close}|[{names}](?=\s+(?:because|since|as|\()))"
    lead = rf"\W*([{names}]){close}"
    found: list[re.Match[str]] = []
    for pattern in (rf"(?<!\w)answer(?: is|:| would be)*[\W_]*?({named})(?!\w)", rf"\A{lead}"):
        found += re.finditer(pattern, output, re.IGNORECASE)
    if not found:
        found += re.finditer(rf"(?<!\w)(?:option|choice)(?: is)?[\s:*\"'(\[]*({named})(?!\w)", output, re.IGNORECASE)
    said = {match.group(1).upper() for match in found}
    if len(said) != 1 or any(_is_denied(output, match.start(1), match.end(1)) for match in found):
        return None
    letter = said.pop()
    others = {match.group(1) for match in re.finditer(rf"(?m)(?:^[ \t*(]*|(?<=[\s*])\(?)([{names}])\)", output)}
    others |= {match.group(1) for match in re.finditer(rf"(?m)^[ \t*(]*([{names}])(?=[).:*]|$)", output)}
    listed = rf"(?<!\w)([{names}])(?:\W*\b(?:or|and)\b\W*|\W*[,/&]\W*)([{names}])(?!\w)"
    return None if others - {letter} or re.search(listed, output) or letter not in letters else letter


def _is_denied(output: str, start: int, end: int) -> bool:
    """Whether what stands at a place is denied before it ("not B") or after it ("B is wrong")."""
    after = r"[\s*_\"'”’)\]]*(?:is|are|was)(?:n['’]t| not| wrong| incorrect| false| excluded| unlikely)\b"
    return bool(re.compile(after, re.IGNORECASE).match(output, end)) or _denied_before(output, start)


def _denied_before(output: str, start: int) -> bool:
    return bool(_DENIED.search(output[max(0, start - 80) : start].replace("*", "")))


def parse_sentence_number(output: str, sentences: dict[int, str]) -> int | None:
    """The number of a sentence, or -1 for "none is wrong".

    Read are a number alone ("4", "-1", "Sentence 4.", "**4**"), one before its own sentence ("4 Patient is …"), and one
    that is named as a sentence's ("The error is in sentence 4."); also the word CORRECT alone. Two numbers ("5 or 7"),
    a dose ("10 mg of aspirin") and free text are not.
    """
    text = output.strip().translate(_MINUS).strip("*_`\"' \t\n")
    if re.fullmatch(r"(?:the )?(?:text|note|answer)?(?: is)?[:\s]*correct\W*", text, re.IGNORECASE):
        return -1
    label = r"(?:the )?(?:final )?(?:answer|error|sentence|id|number|line)"
    alone = re.fullmatch(
        rf"(?:{label}[\s:#*]*(?:is|in|at|id|number|sentence)?[\s:#*]*){{0,3}}(-1|\d{{1,4}})\W*", text, re.IGNORECASE
    )
    if alone:
        return int(alone.group(1))
    before = re.match(r"(\d{1,4})[\s.:)\]*-]+(\S.*)", text, re.DOTALL)
    if before and _begins_like(before.group(2), sentences.get(int(before.group(1)), "")):
        return int(before.group(1))
    named = {int(number) for number in re.findall(r"\b(?:sentence|line)\W{1,3}(\d{1,4})\b", text, re.IGNORECASE)}
    several = re.search(r"\b(?:sentence|line)s?\W{1,3}\d+\s*(?:,|/|-|or|and)\s*\d", text, re.IGNORECASE)
    denied = re.search(r"\b(?:not|no|isn't|except)\b[^.;\n]{0,30}\b(?:sentence|line)\b", text, re.IGNORECASE)
    if len(named) == 1 and not several and not denied and "-1" not in text:
        return named.pop()
    return None


def parse_text(output: str) -> str | None:
    """The output without surrounding space; None where nothing is left."""
    return output.strip() or None


def split_list(text: str) -> list[str]:
    """The parts of a list that is separated by semicolons or lines, without bullets and case, each once, in order."""
    parts = [
        re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", part).strip(" .\t").casefold() for part in re.split(r"[;\n]", text)
    ]
    return list(dict.fromkeys(part for part in parts if part))


def _begins_like(text: str, sentence: str) -> bool:
    """Whether a text repeats the beginning of a sentence: its first three words."""
    words = re.findall(r"\w+", sentence.casefold())[:3]
    return bool(words) and re.findall(r"\w+", text.casefold())[: len(words)] == words


class Json(NamedTuple):
    """A JSON value and how it was read; `value` is None unless it is valid or repaired."""

    value: Any
    state: Literal["valid", "repaired", "invalid", "empty"]


def parse_json(output: str) -> Json:
    """The last balanced {…} or […] of an output, inside or outside of a code fence.

    Strict JSON is valid. Else it is repaired once: single quotes, trailing commas, missing closing brackets. Invalid is
    whatever could mean two things or nothing: a key given twice, NaN, a string that never ends, an answer cut off in
    its midst (its last complete part is not the answer).
    """
    if not output.strip():
        return Json(None, "empty")
    tokens = _last_json(output)
    if tokens is None:
        return Json(None, "invalid")
    for text, state in (("".join(tokens), "valid"), (_repaired(tokens), "repaired")):
        try:
            return Json(_strict_json(text), state)  # type: ignore[arg-type]
        except (ValueError, RecursionError):
            continue
    return Json(None, "invalid")


def parse_json_as(output: str, schema: dict[str, Any]) -> Json:
    """The same, invalid also where the value does not fit the JSON Schema."""
    found = parse_json(output)
    if found.state in ("valid", "repaired") and not _validator(json.dumps(schema)).is_valid(found.value):
        return Json(None, "invalid")
    return found


def parse_codes(output: str) -> list[str]:
    """The ICD-10-CM codes of an output, upper case and with their dot, each once, in order.

    A dotted code is one by its form, known to the table or not ("I99.99" is a wrong code, not none). Without a dot it
    is one where it stands by itself in a list ("I10, E119", "I10: hypertension"), or where the table knows it: "B12
    deficiency", "H1N1", "T4" and a range ("C50-C58", "C5-C6") are none.
    """
    text = output.translate(_MINUS)
    found = {match.start(): match.group() for match in _DOTTED_CODE.finditer(text)}
    for match in _BARE_CODE.finditer(text):
        before = _BEFORE_PART.search(text[max(0, match.start() - 40) : match.start()])
        alone = before and _AFTER_CODE.match(text, match.end())
        if alone or valid_code(match.group()):
            found[match.start()] = match.group()
    codes = (found[start].upper().replace(".", "") for start in sorted(found))
    return list(dict.fromkeys(code[:3] + ("." + code[3:] if code[3:] else "") for code in codes))


def valid_code(code: str) -> bool:
    """Whether the ICD-10-CM table of simple_icd_10_cm has this category or code, with or without dot."""
    table = _icd10cm()
    return bool(table.is_valid_item(code) and table.is_category_or_subcategory(code))


def _last_json(output: str) -> list[str] | None:
    """The tokens of the last part of an output that begins like JSON, up to its last bracket or the output's end.

    Every sign is looked at once, whatever the output.
    """
    found: list[str] | None = None
    begin = _JSON_BEGINS.search(output)
    while begin is not None:
        found, closing, end = [], [], begin.start()
        for match in _JSON_TOKEN.finditer(output, begin.start()):
            token, end = match.group(), match.end()
            found.append(token)
            if token in _CLOSES:
                closing.append(_CLOSES[token])
            elif token in ("}", "]") and closing.pop() != token:
                break
            if len(closing) > _DEEPEST:
                return None
            if not closing:
                break
        begin = _JSON_BEGINS.search(output, end)
    return found


def _repaired(tokens: list[str]) -> str:
    """The tokens with double quotes, without trailing commas and with the closing brackets that are missing."""
    kept: list[str] = []
    closing: list[str] = []
    for token in tokens:
        if token in ("}", "]"):
            _drop_comma(kept)
            if closing and closing[-1] == token:
                closing.pop()
        elif token in _CLOSES:
            closing.append(_CLOSES[token])
        elif token[0] == "'" and len(token) > 1 and token[-1] == "'":
            token = '"' + re.sub(r'(?s)\\.|"', _in_double_quotes, token[1:-1]) + '"'
        kept.append(token)
    _drop_comma(kept)
    said = [token for token in kept if token.strip()]
    # Cut off right behind an opening bracket: what it would have held is not known, least of all that it is empty.
    return "".join([*kept, *reversed(closing)]) if said[-1] not in _CLOSES else ""


def _in_double_quotes(sign: re.Match[str]) -> str:
    return {"\\'": "'", '"': '\\"'}.get(sign.group(), sign.group())


def _drop_comma(kept: list[str]) -> None:
    """Take away a comma at the end that follows a value."""
    signs = [index for index in range(len(kept) - 1, max(-1, len(kept) - 5), -1) if kept[index].strip()]
    if len(signs) > 1 and kept[signs[0]] == "," and kept[signs[1]] not in ("{", "[", ","):
        del kept[signs[0]]


def _strict_json(text: str) -> Any:
    """The value of a JSON text by RFC 8259: no NaN, no infinity, no key twice, no half of a character."""
    value = json.loads(
        text, parse_constant=_number, parse_float=_number, parse_int=_number, object_pairs_hook=_without_repeats
    )
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _number(text: str) -> int | float:
    """A number that every reader takes for the same; ValueError for others."""
    value = float(text)
    if not math.isfinite(value) or (text.lstrip("-").isdecimal() and abs(value) > 2**53):
        raise ValueError(f"{text[:20]} is no exact number")
    return int(text) if text.lstrip("-").isdecimal() else value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


@functools.cache
def _icd10cm() -> Any:
    import simple_icd_10_cm

    return simple_icd_10_cm
