"""Rules of `verify`: each looks for one kind of statement in a sentence and compares it with the facts."""

from __future__ import annotations

import re
from collections.abc import Callable

from mediflow.checking.facts import Medicine, PatientFacts
from mediflow.checking.mentions import Mention
from mediflow.checking.quantities import find_amounts, find_frequencies, is_near, to_amount
from mediflow.checking.verify import Rule, Sentence
from mediflow.checking.verify_allergies import allergies
from mediflow.checking.verify_labs import labs
from mediflow.checking.verify_values import dates, duration, follow_up, person, social, vitals

_TAKES = re.compile(
    r"\b(?:takes?|taking|on|started|starts?|beg[iau]n|prescribed|prescription|receiv\w+|given|"
    r"gave|treat\w*|continue[sd]?|"
    r"medications?|initiat\w+|therapy|drug|rx|ordered|administered|uses?|using)\b",
    re.I,
)
_FOR = re.compile(
    r"^[^.;]{0,60}?\b(?:(?<!sig )(?<!admitted )(?<!neg )(?<!negative )(?<!notable )(?<!significant )for|to treat|"
    r"treats?|against|because of|indicat\w+|"
    r"to control)\s+(?:the\s+|his\s+|her\s+|their\s+)?$",
    re.I,
)
_BY = re.compile(
    r"^\s*(?:(?:is|was|are|being|currently|now)\s+)*(?:treated|managed|controlled|is|"
    r":)?\s*(?:with|by|on|is|:|drug|given|taking|takes|,|–|-)\s*(?:the\s+)?",
    re.I,
)
_LOOSE = re.compile(
    r"\b(?:tablets?|capsules?|puffs|total|maximum|max|up to|increas\w+|titrat\w+|reduc\w+|"
    r"taper\w*|from|range|loading|then)\b",
    re.I,
)
_NOT_TAKEN = re.compile(
    r"\b(?:stop\w*|discontinu\w+|held|hold|avoid\w*|allergic|allergy|intoleran\w*|instead of|"
    r"switch\w*|replac\w*|not tolerat\w+|declin\w+|refus\w+|ask\w*|hives|anaphyla\w+|side effects?)\b",
    re.I,
)
_DIAGNOSED = re.compile(
    r"\b(?:diagnos(?:is|es|ed)\b|consistent with\b|assessment\s*:|impression\s*:|history\b(?: of|\s*:)|known\b|"
    r"conditions?\s*:|suffers? from\b|problem\s*:|(?:has|with|have) (?:a |an |the )?(?:known )?$|underlying\b|"
    r"indicat(?:es?|ive of)\b|point(?:s|ing)? to\b|confirm(?:s|ed)?\b|was found to have\b|lives with\b|"
    r"background of\b|comorbid\w*\b|fits\b|picture (?:is|was)(?: that)? of\b|compatible with\b|in keeping with\b|"
    r"suggest(?:s|ive of)\b|admitted (?:with|for)\b|"
    r"(?:pmhx?|h/o|hx|s/p|dx|dx['’]?d|a/p|a&p|c/w)(?!\w)|imp\s*:|problem list\b|"
    r"(?:illness(?:es)?|(?:medical|chronic|active) (?:problems?|issues?))\s*:|"
    r"told (?:that )?(?:it|this|she|he|they) (?:is|was|has|had|have)\b|"
    r"(?:it|this) (?:is|was) (?:a case of )?$|(?:has|have|is) called\b)|^\s*#\s*$",
    re.I,
)
_DIAGNOSED_BEHIND = re.compile(
    r"(?: and [\w ]{3,40}?)?,?\s+(?:was|were|is|are|has been|"
    r"have been)\s+(?:\w+ly\s+)?(?:diagnosed|confirmed|established)\b",
    re.I,
)
_NO_HISTORY = re.compile(
    r"\b(?:past )?medical history\b[^.]{0,12}\b(?:unremarkable|non-?contributory|none|"
    r"negative)\b|\bno (?:significant |relevant )?(?:past )?medical history\b",
    re.I,
)
_NO_DRUGS = re.compile(
    r"\bno (?:regular |home |current |daily |chronic |other )?(?:medications?|medicines?|drugs)\b(?! allerg)", re.I
)
_SIDE = re.compile(
    r"\b(left|right|bilateral(?:ly)?)\b(?:-sided)?(?!\s+(?:the|a|an|against|without|after|"
    r"before|to|his|her|their|home|away|now|upper arm|arm)\b)",
    re.I,
)
# "L-sided", "Rt", or a letter just before what was found; "2 L" and "mmol/L" are litres.
_LETTER = re.compile(r"(?<![\w/])(?<!\d )([LR])(?:(?:[- ]sided?|t\b\.?)|(?=\s+(?:[a-z]+\s+)?$))")
_SIZES = {
    "small": "small", "tiny": "small", "minor": "small", "minimal": "small", "little": "small", "trace": "small",
    "moderate": "moderate", "moderately": "moderate", "medium": "moderate", "large": "large", "big": "large",
    "massive": "large", "huge": "large", "sizable": "large", "sizeable": "large",
}  # fmt: skip
_SIZE = re.compile(rf"\b({'|'.join(_SIZES)})\b", re.I)
_SIZE_AFTER = re.compile(
    rf"^(?:[\s\w]{{0,25}}[;,]\s*(?:it|which)\s+|\s*(?:\w+\s+){{0,2}}?)(?:is|was|appears|looks|"
    rf",|:|\((?:left|right|bilateral),|being|described as)\s*(?:of\s+|"
    rf"rather\s+|quite\s+)?({'|'.join(_SIZES)})\b",
    re.I,
)
_MEASURED = re.compile(r"\b(\d+(?:\.\d+)?)\s*(mm|cm)\b")
_NORMAL_REGION = re.compile(
    r"\b(?:is|was|are|were|appears?|:)?\s*(?:unremarkable|normal|clear)\b|\bno abnormalit", re.I
)
_CODE = re.compile(r"\b([A-TV-Z]\d[0-9A-Z](?:\.[0-9A-Z]{1,4})?)\b(?![-/.]\w)")
_TEMPERATURE = re.compile(r"T(?:3[4-9]|4[0-2])\.\d")
_CODE_CUE = re.compile(r"\b(?:icd[\w-]*|codes?|coded|coding)\b", re.I)


def negation(facts: PatientFacts, sentence: Sentence) -> None:
    """What is there must not be denied, what is not there must not be asserted."""
    here, gone, own = facts.here, facts.gone, facts.own
    for mention in sentence.mentions:
        names = {concept.name for concept in mention.concepts if concept.kind in {"symptom", "finding"}}
        diseases = {concept.name for concept in mention.concepts if concept.kind == "disease"}
        is_here, is_gone = bool(names & here or diseases & own), bool((names | diseases) & gone)
        if is_here == is_gone:
            continue
        said = sentence.asserts(mention)
        bare = len(sentence.text.strip(" .-:")) <= mention.end - mention.start
        if said is None or bare:
            continue
        word = sentence.text[mention.start : mention.end]
        sentence.compare("negation", said == is_here, word if said else f"no {word}", f"no {word}" if is_gone else word)


def diagnosis(facts: PatientFacts, sentence: Sentence) -> None:
    """Where all diseases are known, no other may be stated as the patient's."""
    own, also = facts.own, facts.here | facts.gone
    if len(own) > 1 and "history" in sentence.low and _NO_HISTORY.search(sentence.text):
        sentence.compare("diagnosis", False, "no medical history", ", ".join(sorted(own)))
    for mention in sentence.mentions:
        name = mention.of("disease")
        if name is None or any(concept.name in also for concept in mention.concepts):
            continue
        if not sentence.asserts(mention):
            continue
        known = any(concept.name in own for concept in mention.concepts)
        cue = _DIAGNOSED.search(sentence.text[: mention.start]) or _DIAGNOSED_BEHIND.match(sentence.text, mention.end)
        if cue is not None:
            sentence.compare("diagnosis", known, sentence.text[mention.start : mention.end], ", ".join(sorted(own)))


def drugs(facts: PatientFacts, sentence: Sentence) -> None:
    """Dose, unit and frequency of each drug, what it is for, and whether it is the patient's at all."""
    text = sentence.text
    if "no " in sentence.low and _NO_DRUGS.search(text) and any(not one.new for one in facts.medications):
        sentence.compare("drug", False, "no medication", ", ".join(one.drug for one in facts.medications))
    named = [mention for mention in sentence.mentions if mention.of("drug")] if sentence.mentions else []
    if not named or _NOT_TAKEN.search(text):
        return
    for number, mention in enumerate(named):
        after = named[number + 1].start if number + 1 < len(named) else len(text)
        own = [one for one in facts.medications if one.drug.lower() == mention.of("drug")]
        asserted = sentence.asserts(mention)
        if own and asserted:
            before = named[number - 1].end if number else 0
            _regimen(sentence, own, text[before : mention.start], text[mention.end : after], number + 1 < len(named))
        if asserted is None or not asserted:
            continue
        disease = _disease_of(sentence, mention, after)
        if not _purpose(facts, sentence, mention, own, disease, after) and not own:
            takes = _TAKES.search(text) or find_amounts(text[mention.end : after])
            avoided = "allerg" in sentence.low and mention.of("drug") in facts.avoided
            if takes and not avoided and "medications" in facts.complete:
                true = ", ".join(one.drug for one in facts.medications)
                sentence.compare("drug", False, text[mention.start : mention.end], true)


def _regimen(sentence: Sentence, own: list[Medicine], before: str, after: str, more: bool) -> None:
    text = after
    amounts = find_amounts(text)
    if more and amounts and re.fullmatch(r"\s*(?:of\s+)?", text[amounts[-1][2] :]):
        # "aspirin and 500 mg of metformin": the amount belongs to the next drug.
        amounts.pop()
    in_front = [one for one in find_amounts(before) if re.fullmatch(r"\s*(?:tablets?\s+)?(?:of\s+)?", before[one[2] :])]
    said = [one[0] for one in (*amounts, *in_front) if one[0].dimension != "share"]
    doses = [dose for one in own if one.dose is not None and (dose := to_amount(f"{one.dose:g}", one.unit))]
    if said and len(doses) == len(own) and not (_LOOSE.search(before + after) and len(said) > 1):
        agrees = any(a.dimension == d.dimension and is_near(a.base, d.base) for a in said for d in doses)
        same_number = any(a.number == d.number for a in said for d in doses)
        true = " or ".join(f"{d.number:g} {d.unit}" for d in doses)
        words = f"{own[0].drug} {said[0].number:g} {said[0].unit}"
        if agrees or same_number or not _LOOSE.search(before + after):
            sentence.compare("unit" if same_number and not agrees else "dose", agrees, words, true)
    true_frequencies = {found[0] for one in own if (found := find_frequencies(one.frequency))}
    frequencies = find_frequencies(after)
    if not frequencies and len(find_frequencies(before)) == 1 and in_front:
        frequencies = find_frequencies(before)
    if frequencies and len(true_frequencies) and all(find_frequencies(one.frequency) for one in own):
        agrees = bool(true_frequencies & set(frequencies))
        sentence.compare("frequency", agrees, f"{own[0].drug} {frequencies[0]}", " or ".join(sorted(true_frequencies)))


def _disease_of(sentence: Sentence, drug: Mention, after: int) -> Mention | None:
    """The disease that the sentence says the drug is for."""
    text = sentence.text
    diseases = [mention for mention in sentence.mentions if mention.of("disease") is not None]
    for mention in diseases:
        if drug.end <= mention.start <= after and _FOR.match(text[drug.end : mention.start]):
            return mention
    for mention in diseases:
        near = mention.end <= drug.start and drug.start - mention.end < 40
        if near and _BY.fullmatch(text[mention.end : drug.start]):
            return mention
    return None


def _purpose(
    facts: PatientFacts, sentence: Sentence, drug: Mention, own: list[Medicine], disease: Mention | None, after: int
) -> bool:
    """Compare drug and disease; whether that could be done."""
    if disease is None:
        return False
    names = {concept.name for concept in disease.concepts}
    said = f"{sentence.text[drug.start : drug.end]} for {sentence.text[disease.start : disease.end]}"
    if own:
        targets = {one.disease.lower() for one in own if one.disease}
        if not targets:
            return False
        # "gout - metformin (type 2 diabetes)", "both for gout and asthma": its own disease stands behind it too.
        names |= {
            concept.name
            for one in sentence.mentions
            if drug.end <= one.start <= max(after, disease.end + 40)
            for concept in one.concepts
            if concept.kind == "disease"
        }
        sentence.compare("drug", bool(names & targets), said, f"{own[0].drug} for {', '.join(sorted(targets))}")
        return True
    treated = [one.drug for one in facts.medications if one.disease.lower() in names]
    if treated:
        sentence.compare("drug", False, said, f"{', '.join(treated)} for {', '.join(sorted(names))}")
    return bool(treated)


def findings(facts: PatientFacts, sentence: Sentence) -> None:
    """Side and size of what imaging shows, and a region called normal that is not."""
    here = [one for one in facts.imaging if one.present]
    if sentence.mentions and not any(mention.of("finding") for mention in sentence.mentions):
        return
    for one in here if not sentence.mentions and _NORMAL_REGION.search(sentence.text) else ():
        region = one.region.lower()
        if region and re.search(
            rf"\bimaging of the {re.escape(region)}|\b{re.escape(region)} (?:x-ray|ct|mri|scan|imaging|ultrasound)",
            sentence.text,
            re.I,
        ):
            sentence.compare("negation", False, f"normal {region}", one.finding)
    for mention in sentence.mentions:
        name = mention.of("finding")
        for one in here:
            if one.finding.lower() == name and sentence.asserts(mention):
                _side(sentence, mention, one.side.lower(), one.finding)
                _size(sentence, mention, one.size.lower(), one.finding)


def _side(sentence: Sentence, mention: Mention, true: str, finding: str) -> None:
    if true not in {"left", "right", "bilateral"}:
        return
    findings = [one for one in sentence.mentions if one.of("finding")]
    low, high = 0, len(sentence.text)
    if len(findings) > 1:
        # Which of them a side belongs to is clear just before each, and after the last.
        low = max(mention.start - 25, *(one.end for one in findings if one.end <= mention.start), 0)
        high = high if mention is findings[-1] else mention.start
    said = set()
    for match in _SIDE.finditer(sentence.text, low, high):
        # "left lower abdominal pain" is the name of something else.
        inside = any(one.start <= match.start() < one.end and one.of("finding") is None for one in sentence.mentions)
        if not inside:
            said.add("bilateral" if match[1].lower().startswith("bi") else match[1].lower())
    for match in _LETTER.finditer(sentence.text[: mention.start], low):
        said.add("left" if match[1] == "L" else "right")
    if said:
        sentence.compare("side", true in said, f"{' and '.join(sorted(said))} {finding}", f"{true} {finding}")


def _size(sentence: Sentence, mention: Mention, true: str, finding: str) -> None:
    measured = _MEASURED.match(true)
    if measured:
        found = list(_MEASURED.finditer(sentence.text))
        if found:
            millimetres = [float(one[1]) * (10 if one[2] == "cm" else 1) for one in (measured, *found)]
            agrees = any(is_near(one, millimetres[0]) for one in millimetres[1:])
            sentence.compare("size", agrees, f"{found[0][0]} {finding}", true)
        return
    if true not in _SIZES:
        return
    words = sentence.text[: mention.start].split()[-4:]
    said = [_SIZES[word.lower().strip(",")] for word in words if word.lower().strip(",") in _SIZES]
    after = _SIZE_AFTER.match(sentence.text[mention.end :])
    if not said and after:
        said = [_SIZES[after[1].lower()]]
    sized = re.search(rf"\b({'|'.join(_SIZES)})[ -](?:in )?size", sentence.text, re.I)
    if not said and sized:
        said = [_SIZES[sized[1].lower()]]
    if said:
        sentence.compare("size", _SIZES[true] in said, f"{said[-1]} {finding}", f"{true} {finding}")


def codes(facts: PatientFacts, sentence: Sentence) -> None:
    """A code beside a disease must be that disease's; where all codes are known, any must be one of them."""
    found = list(_CODE.finditer(sentence.text))
    if not found:
        return
    own = {one.name.lower(): one.code for one in facts.conditions if one.code}
    for match in found:
        code = match[1]
        cue = _CODE_CUE.search(sentence.text, 0, match.start()) is not None
        if _TEMPERATURE.fullmatch(code) and not cue and code not in own.values():
            continue
        # T12 is a vertebra and B12 a vitamin, unless something says that it is a code.
        bracketed = sentence.text[match.start() - 1 : match.start()] == "("
        if "." not in code and not cue and not bracketed and code not in own.values():
            continue
        named = [own[name] for mention in sentence.mentions if (name := mention.of("disease")) in own]
        foreign = any((name := mention.of("disease")) and name not in own for mention in sentence.mentions)
        if len(named) == 1 and len(found) == 1 and not foreign:
            sentence.compare("code", code == named[0], code, named[0])
        elif own and "codes" in facts.complete and not foreign and (cue or "." in code):
            sentence.compare("code", code in own.values(), code, ", ".join(own.values()))


_Applies = Callable[[PatientFacts], bool]

# Each with what a sentence must hold for it (names, figures, or nothing in particular), and whether there is anything
# to compare with.
RULES: tuple[tuple[str, _Applies, Rule], ...] = (
    ("names", lambda facts: bool(facts.present or facts.absent or facts.imaging or facts.conditions), negation),
    ("", lambda facts: "conditions" in facts.complete, diagnosis),
    ("", lambda facts: bool(facts.medications), drugs),
    ("", lambda facts: any(one.present for one in facts.imaging), findings),
    ("figures", lambda facts: any(one.code for one in facts.conditions), codes),
    ("names", lambda facts: bool(facts.labs), labs),
    ("figures", lambda facts: facts.age is not None or bool(facts.sex), person),
    ("", lambda facts: facts.duration_days is not None, duration),
    ("", lambda facts: facts.follow_up_days is not None, follow_up),
    ("figures", lambda facts: bool(facts.vitals), vitals),
    ("", lambda facts: bool(facts.allergies), allergies),
    ("", lambda facts: bool(facts.social), social),
    ("figures", lambda facts: bool(facts.dates), dates),
)
