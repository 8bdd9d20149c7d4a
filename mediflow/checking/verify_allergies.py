"""Rule of `mediflow.checking.verify` about allergies: whether there are any, and to what."""

from __future__ import annotations

import re

from mediflow.checking.facts import PatientFacts
from mediflow.checking.verify import Sentence

_TOLD = ("allerg", "react", "rxn", "anaphyla", "hives", "nka", "nkda", "all:")
# Not the heading "Medications and Allergies:". "All:" is one only at the start.
_ALLERGIC_TO = re.compile(
    r"(?<!and )\ballerg(?:ic to|y to|ies to|ies include|(?:ic|ies|y|en|ens)(?: list)?\s*[:=–-])"
    r"|\breact(?:s|ed|ions?) to\b"
    r"|\ballergic (?:reactions?|rxn|response) to\b|\brxn to\b|^\W*all\s*:|\bnkd?a (?:except|other than|besides|but)\b"
    r"|\banaphyla(?:xis|ctic \w+) (?:to|with|from|after)\b|\bhives (?:with|from|to|after|when (?:given|exposed to))\b",
    re.I,
)
_BEHIND = re.compile(
    r"[\s-]*allerg|\s+(?:causes?|caused|gives?|gave|triggers?|triggered|leads? to|led to)\s+"
    r"(?:(?:an?|her|him|the|patient|severe|mild)\s+)*(?:allergic|anaphyla|hives)"
    r"(?!.{0,25}\bin (?:some|many|most|few|people|patients|children))"
    r"|\s+(?:should|must|is to|has to) be avoided (?:because of|due to|given) (?:an? |the |her |his )?(?:\w+ )?allerg",
    re.I,
)
# "Allergies: latex (hives) Doctor: Keep taking your lithium": what follows is no longer the list.
_LIST_END = re.compile(
    r"[;:]|\s[-–]\s|\b(?:doctor|on|tx|cont|continue[sd]?|takes?|taking|received|is|was|started|initiated|but|keep|meds?|"
    r"medications?|by mouth|rx)\b",
    re.I,
)
_NO_ALLERGY = re.compile(
    r"\b(?:no (?:known )?(?P<drug>drug |medication )?(?:food )?allerg\w+|den(?:ies|ied) (?:any |"
    r"having )?(?:known )?(?P<drugs>drug )?allerg\w+|(?P<nkda>NKDA)|NKA)\b"
    r"(?! to|[\s,]+(?:except|other than|besides|but|apart))"
    r"|\ballergies\s*:\s*(?:none|no|nil|(?P<nkda2>nkda)(?![\s,]+(?:except|other|besides|but)))\b",
    re.I,
)
_NO_DRUG = frozenset(
    {"latex", "peanuts", "peanut", "shellfish", "eggs", "pollen", "nuts", "bee stings", "dust", "milk"}
)


def allergies(facts: PatientFacts, sentence: Sentence) -> None:
    """Whether there are allergies, and to what; "no known drug allergies" says nothing of latex or food."""
    low, text = sentence.low, sentence.text
    if not any(one in low for one in _TOLD):
        return
    own = {one.lower() for one in facts.allergies}
    none = _NO_ALLERGY.search(text)
    if none and not sentence.context.is_open(none.start(), none.end()):
        if not (any(none.groups()) and own <= _NO_DRUG):
            sentence.compare("allergy", False, "no allergies", ", ".join(facts.allergies))
        return
    cue = _ALLERGIC_TO.search(text)
    for mention in sentence.mentions:
        names = {concept.name for concept in mention.concepts if concept.kind in {"allergen", "drug"}}
        if not names:
            continue
        behind = _BEHIND.match(text, mention.end)
        if not behind and (cue is None or cue.end() > mention.start):
            continue
        if not behind and cue is not None and _LIST_END.search(text, cue.end(), mention.start):
            continue
        # "should be avoided because of an allergy" would leave open what follows, not what it is about.
        asserted = sentence.asserts(mention)
        if asserted is None:
            continue
        if cue is not None and cue.group().lower().startswith("nk"):
            asserted = True
        word = text[mention.start : mention.end]
        if names & own:
            sentence.compare("allergy", asserted, word if asserted else f"no {word}", ", ".join(facts.allergies))
        elif asserted and "allergies" in facts.complete:
            sentence.compare("allergy", False, word, ", ".join(facts.allergies))
