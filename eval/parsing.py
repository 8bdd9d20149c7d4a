"""From a model's output to its answer. An output that could mean two things is unreadable; nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence

# "not ENTAILMENT", "isn't an entailment", "rather than neutral": the label is named and denied.
_DENIED = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|non|cannot|without|rather than|instead of|except|excludes?|rules? out|unlikely)"
    r"\b|n['’]t\b)[^.;:!?\n]{0,40}$",
    re.IGNORECASE,
)
_MINUS = str.maketrans("−–—", "---")


def parse_label(output: str, labels: Sequence[str]) -> str | None:
    """The one label that is named as a whole word, in any case and as often as it likes.

    None where no label is named, where several are ("ENTAILMENT, NEUTRAL or CONTRADICTION"), and where it is denied
    ("This is not an entailment.").
    """
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, labels))})(?!\w)", re.IGNORECASE)
    named: set[str] = set()
    for match in pattern.finditer(output):
        if _DENIED.search(output[: match.start()].replace("*", "")):
            return None
        named.add(match.group(1).casefold())
    if len(named) != 1:
        return None
    return next(label for label in labels if label.casefold() in named)


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
    other = rf"(?<!\w)({names})\W+(?:(?:or|and|/)\W+)*({names})(?!\w)"
    listed = any(a.casefold() != b.casefold() for a, b in re.findall(other, output, re.IGNORECASE))
    if listed or len(set(found)) != 1:
        return None
    return next(label for label in labels if label.casefold() == found[0])


def parse_letter(output: str, letters: Sequence[str]) -> str | None:
    """The letter of an option that an answer names: "B", "(B)", "B.", "**B**: text", "The answer is B".

    None where two are named ("A or B"), and for the article: "A patient with gout" names nothing.
    """
    names = "".join(letters)
    said = {
        match.group(1).upper()
        for match in re.finditer(
            rf"(?:answer|option|choice)(?: is)?[\s:*\"'(\[]*([{names}])(?!\w)", output, re.IGNORECASE
        )
    }
    lead = re.match(rf"[\s*_\"'“(\[]*([{names}])(?=[\s*_\"'”]*(?:$|[).\]:,;*\n–—-]))", output)
    found = said | ({lead.group(1)} if lead else set())
    listed = re.search(rf"(?<!\w)([{names}])\W*(?:\b(?:or|and)\b|[,/&])\W*([{names}])(?!\w)", output)
    return found.pop() if len(found) == 1 and not listed else None


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
        rf"(?:{label}[\s:#*]*(?:is|in|at|id|number|sentence)?[\s:#*]*){{0,3}}(-1|\d+)\W*", text, re.IGNORECASE
    )
    if alone:
        return int(alone.group(1))
    before = re.match(r"(\d+)[\s.:)\]*-]+(\S.*)", text, re.DOTALL)
    if before and _begins_like(before.group(2), sentences.get(int(before.group(1)), "")):
        return int(before.group(1))
    named = {int(number) for number in re.findall(r"\b(?:sentence|line)\W{1,3}(\d+)\b", text, re.IGNORECASE)}
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
