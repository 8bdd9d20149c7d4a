"""Rules of `verify` about the patient and the course: age, times, vital signs, habits, allergies, dates."""

from __future__ import annotations

import re

from mediflow.checking.facts import PatientFacts
from mediflow.checking.quantities import NUMBER, find_durations, is_near, is_rounded, to_number
from mediflow.checking.verify import Sentence


def _is_timed(sentence: Sentence) -> bool:
    if not _TIME.isdisjoint(sentence.words) or "-day" in sentence.low or "-week" in sentence.low:
        return True
    return _SHORT_TIME.search(sentence.low) is not None


def duration(facts: PatientFacts, sentence: Sentence) -> None:
    """How long the complaint has lasted."""
    if not _is_timed(sentence):
        return
    complaint = any((name := one.of("symptom")) and name in facts.here for one in sentence.mentions)
    if not complaint and not _ONSET.search(sentence.text):
        return
    if _LATER.search(sentence.text) or any(one.of("drug") for one in sentence.mentions):
        return
    found = []
    for length, start, end in find_durations(sentence.text):
        if length.unit == "month" or sentence.context.is_open(start, end) and not complaint:
            continue
        slack = 0 if length.unit == "day" else 3
        found.append((abs(length.days - (facts.duration_days or 0)) <= slack, start, end))
    _compare_times(sentence, "duration", found, facts.duration_days)


def _compare_times(sentence: Sentence, kind: str, found: list[tuple[bool, int, int]], true: int | None) -> None:
    """Where one of several times is right, the others are of something else; the end of a range is no time."""
    single = [one for one in found if not _RANGED.search(sentence.text[: one[1]])]
    right = [one for one in single if one[0]]
    for agrees, start, end in right or single:
        sentence.compare(kind, agrees, sentence.text[start:end], f"{true} days")


_RANGED = re.compile(r"\d\s*(?:to|or|-|–)\s*$")


_TIME = {"day", "days", "week", "weeks", "fortnight", "month", "months"}
_SHORT_TIME = re.compile(r"\d[ -]?(?:d|w|wks?|mos?)\b")
_ONSET = re.compile(
    r"\b(?:symptom\w*|complaint\w*|present(?:s|ed|ing)|onset|began|started|lasting|lasted|for how many days)\b", re.I
)
_LATER = re.compile(
    r"\b(?:follow\w*|return\w*|review\w*|recheck|repeat\w*|appointment|next|in \w+ (?:days|"
    r"weeks) (?:with|by)|after discharge|course of|every|each|per|suture\w*|therapy|trial|"
    r"home visits?|observed|f/u|fu|rtc|rto|appt|see \w+ again|come back|meet again)\b",
    re.I,
)
_FOLLOW = re.compile(
    r"\b(?:follow(?:ed|s|ing)?[- ]?up|return\w*|(?:be )?seen (?:again|by)|re-?(?:view|check|visit|"
    r"evaluat\w+)\w*|appointment|appts?|next (?:visit|contact|appointment)|comes? back|clinic visit|see (?:me|us|"
    r"you|the|again|\w+ again|\w+ \w+ again)|f/u|fup?|rtc|rto|should come(?: back)? to|"
    r"back (?:to|in) clinic|meet again)\b",
    re.I,
)
# What else is done again after a time.
_NOT_VISIT = re.compile(
    r"\b(?:repeat\w*|labs?|blood (?:work|tests?|count)|imaging|cts?|mri|x-?rays?|cxr|ultrasound|echo\w*|scan|"
    r"(?:colono|endo)scopy|biopsy|cultures?|vaccin\w+|shot|booster|dose|sutures?|stitches|staples?|cast|work|school|"
    r"sports?|driving|exercise|baseline|symptoms?|antibiotics?|daughter|son|mother|father|wife|husband)\b",
    re.I,
)
_CLAUSE_END = re.compile(r"[,;.]|\b(?:and|then)\b", re.I)


def follow_up(facts: PatientFacts, sentence: Sentence) -> None:
    """When the patient is to be seen again."""
    if not _is_timed(sentence) or not _FOLLOW.search(sentence.text):
        return
    if re.search(r"\b(?:ago|if|in case|every|each|sutures?|history|previous|last)\b", sentence.text, re.I):
        return
    found = []
    for length, start, end in find_durations(sentence.text):
        if re.search(
            r"(?<!made )(?<!booked )(?<!visit )(?<!due )\b(?:for|of|past|last|since)\s+(?:the\s+)?$",
            sentence.text[:start],
            re.I,
        ) or re.match(r"\s*(?:of|history)\b", sentence.text[end:]):
            continue
        if _NOT_VISIT.search(_clause(sentence.text, start, end)):
            continue
        slack = 2 if length.unit == "month" else 0
        found.append((abs(length.days - (facts.follow_up_days or 0)) <= slack, start, end))
    _compare_times(sentence, "follow_up", found, facts.follow_up_days)


def _clause(text: str, start: int, end: int) -> str:
    """What stands there with the rest of its clause."""
    low = max((match.end() for match in _CLAUSE_END.finditer(text, 0, start)), default=0)
    high = _CLAUSE_END.search(text, end)
    return text[low : high.start() if high else len(text)]


_RELATIVE = re.compile(
    r"\b(?:son|daughter|mother|father|brother|sister|child|baby|husband|wife|aunt|uncle|grand\w+|who died|died|mom|mum|"
    r"dad|cousin|niece|nephew|siblings?|spouse|partner|friend|roommate|fhx?|family history)\b",
    re.I,
)
_AGE = re.compile(
    r"(?<![\w./])(?<!over )(?<!under )(?<!above )(?<!than )(?<!age of )(\d{1,3})[\s-]*"
    r"(?:years?[\s-]+old|y\.?/?o\b\.?|yrs?[\s-]+old|years? of age)(?:[\s,-]+(?:\w+[\s-]+){0,2}?"
    r"(wom[ae]n|female|lady|girl|man|men|male|gentleman|boy))?|\b(?:aged|age|age is|"
    r"age:)\s+(\d{1,3})\b(?!\s*(?:months|to|-|–))"
    r"|\b(?:age/sex|age)\s*[:=]\s*(\d{1,3})(?!\d|\s*(?:months|to|-|–))"
    r"|\b(?:man|woman|male|female|gentleman|lady|patient) of (\d{2,3})\b"
    r"(?!\s*(?:kg|mg|%|cm|lbs?|mm|/|\.\d|days|weeks|m\b))"
    r"|\b(?:who|you|patient|pt|she|he) (?:is|are) (\d{2,3})"
    r"(?=\s*(?:,|years?\b(?! (?:ago|after|post|out|into|since))|$))",
    re.I,
)
# "64M", "HPI: 64 F, ..."; not a temperature.
_AGE_SEX = re.compile(
    r"(?<![\w./-])(\d{2})(?:-|\s?y/?o?\s?)?"
    r"(?:([MF])\b|\s([MF])(?=\s*(?:,|with\b|w/|p/w|c/o|who\b|here\b|present|admitted)))"
)
_WARM = re.compile(r"\b(?:t|tm?a?x|temp\w*|fever|febrile|fr|french|catheter)\b|°")
_AGED = ("year", "age", "y/o", "yo", "y.", "yr", "y o", " is ", " are ", "man of", "male of", "lady of", "patient of")
_FEMALE = {"woman", "women", "female", "lady", "girl", "f"}
_MALE = {"man", "men", "male", "gentleman", "boy", "m"}


def person(facts: PatientFacts, sentence: Sentence) -> None:
    """Age and sex of the patient, not of a relative."""
    short = _AGE_SEX.search(sentence.text)
    if short and not _WARM.search(sentence.low) and not _RELATIVE.search(sentence.text):
        sex = short[2] or short[3]
        if facts.age is not None:
            sentence.compare("age", int(short[1]) == facts.age, f"age {short[1]}", f"age {facts.age}")
        if facts.sex.lower() in _FEMALE | _MALE:
            sentence.compare("sex", (sex == "F") == (facts.sex.lower() in _FEMALE), sex, facts.sex)
    low = sentence.low
    for match in _AGE.finditer(sentence.text) if any(one in low for one in _AGED) else ():
        if _RELATIVE.search(sentence.text) or re.search(
            r"\b(?:at|since|from|until)\s+(?:the )?$", sentence.text[: match.start()]
        ):
            continue
        said = match[1] or match[3] or match[4] or match[5] or match[6]
        if facts.age is not None:
            sentence.compare("age", int(said) == facts.age, f"age {said}", f"age {facts.age}")
        if match[2] and facts.sex.lower() in _FEMALE | _MALE:
            agrees = (match[2].lower() in _FEMALE) == (facts.sex.lower() in _FEMALE)
            sentence.compare("sex", agrees, match[2], facts.sex)


_VITALS = {
    "temperature": re.compile(
        r"\b(?:temperature|temp|tmax|febrile (?:at|to)|fever (?:of|at))\b"
        r"|\b(?-i:T)(?=[\s:=]*\d\d(?:\.\d|\s?°?[CF]\b))",
        re.I,
    ),
    "pulse": re.compile(r"\b(?:pulse(?! ox)|heart rate|HR)\b|\b(?-i:HR(?=\d)|P(?=[\s:=]*\d\d\d?\b(?![./%])))", re.I),
    "blood pressure": re.compile(r"\b(?:(?:blood )?pressure\b|BP(?=\d|\b))", re.I),
    "respiratory rate": re.compile(r"\b(?:respiratory rate|respirations?|RR|breathes)\b", re.I),
    "oxygen saturation": re.compile(r"\b(?:(?:oxygen )?saturation|SpO2|O2 sats?|sats?|pulse ox\w*)\b", re.I),
    "weight": re.compile(r"\b(?:weight|weighs)\b", re.I),
    "height": re.compile(r"\b(?:height)\b", re.I),
    "pain": re.compile(r"\b(?:pain(?: score)? (?:is|was|of)(?: rated)?|pain score)\b", re.I),
}
_VITAL_WORD = {
    "temperature": {"temperature", "temp", "tmax", "t", "febrile", "fever"},
    "pulse": {"pulse", "heart", "hr", "p"},
    "blood pressure": {"pressure", "bp", "mmhg"},
    "respiratory rate": {"respiratory", "respirations", "respiration", "rr", "breathes"},
    "oxygen saturation": {"saturation", "spo2", "o2", "sat", "sats", "pulse"},
    "weight": {"weight", "weighs"},
    "height": {"height"},
    "pain": {"pain"},
}
_VITAL_WORDS = frozenset[str]().union(*_VITAL_WORD.values())
_STUCK = re.compile(r"(?-i:\b(?:T|P|HR|BP)\d\d)")
_STUCK_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_VITAL_GAP = re.compile(
    r"^(?:[\s:=,(]|\b(?:is|was|of|at|were|the|a|an|rate|reading|measured|found|to|be|as|on|"
    r"room|air|body|about|rated|taken|today|"
    r"recorded|noted|with|read|stood|stands|remains|score|currently|now|up|down)\b)*$",
    re.I,
)
_PRESSURE = re.compile(r"(?<![\d/])(\d{2,3})\s*(?:/|over)\s*(\d{2,3})(?![\d/])")
_AIMED = re.compile(
    r"\b(?:goal|target|aim|below|above|under|over|less|greater|more|than|keep|if|until|reduce\w*|loss|gain)\b|[<>≤≥]",
    re.I,
)
_FAHRENHEIT = re.compile(r"^\s*(?:°|degrees?)?\s*(?:F\b|Fahrenheit)", re.I)
_POUNDS = re.compile(r"^\s*(?:lbs?|pounds)\b", re.I)


def vitals(facts: PatientFacts, sentence: Sentence) -> None:
    """Measured vital signs; goals and limits are none."""
    text = sentence.text
    stuck = _STUCK.search(text) is not None
    if (
        (_VITAL_WORDS.isdisjoint(sentence.words) and not stuck)
        or not any(map(str.isdigit, text))
        or _AIMED.search(_PRESSURE.sub(" ", text))
    ):
        return
    for name, true in facts.vitals.items():
        cue = _VITALS.get(name)
        if cue is None or (not stuck and _VITAL_WORD[name].isdisjoint(sentence.words)):
            continue
        if name == "blood pressure":
            said = [match[0] for match in _PRESSURE.finditer(text)] if cue.search(text) or "mmHg" in text else []
            if said:
                agrees = any(_PRESSURE.sub(r"\1/\2", one) == true for one in said)
                sentence.compare("vital", agrees, f"{name} {said[0]}", true)
            continue
        for match in cue.finditer(text):
            value = _STUCK_NUMBER.match(text, match.end()) or NUMBER.search(text, match.end())
            if value and _VITAL_GAP.match(text[match.end() : value.start()]):
                agrees = _same_vital(value[1], text[value.end() :], float(true))
                sentence.compare("vital", agrees, f"{name} {value[1]}", true)
                break


def _same_vital(said: str, rest: str, true: float) -> bool:
    value = to_number(said)
    if _FAHRENHEIT.match(rest) or (value > 80 and 30 < true < 45):
        return abs((value - 32) / 1.8 - true) <= 0.06
    if _POUNDS.match(rest):
        return is_near(value * 0.4536, true) or abs(value * 0.4536 - true) <= 0.5
    return is_rounded(said, true)


_SUBSTANCES = {
    "tobacco": re.compile(r"\b(?:tobacco|smok\w+|cigarettes?|nicotine)\b", re.I),
    "alcohol": re.compile(r"\b(?:alcohol|drinks?|drinking|drinker|ethanol|etoh)\b", re.I),
    "drugs": re.compile(
        r"\b(?:(?:illicit|recreational|street|illegal) (?:drugs?|substances?)|(?:used?|uses|using|"
        r"user of|use of) drugs|drug (?:use|abuse))\b",
        re.I,
    ),
}
_STATUS = (
    (
        "never",
        re.compile(
            r"\b(?:never|den(?:y|ies|ied)|no|not|non-?\w*|lifelong abstainer|abstinent|abstains?|without)\b", re.I
        ),
    ),
    (
        "past",
        re.compile(
            r"\b(?:in the past|formerly|former|quit|ex|stopped|gave up|previous(?:ly)?|used to|past|prior)\b", re.I
        ),
    ),
    (
        "current",
        re.compile(
            r"\b(?:current(?:ly)?|active(?:ly)?|still|smokes|drinks|uses|regular(?:ly)?|daily|continues)\b", re.I
        ),
    ),
)
_SOCIAL_WORDS = {
    "tobacco", "smokes", "smoke", "smoked", "smoker", "smoking", "non-smoker", "nonsmoker", "ex-smoker",
    "cigarettes", "cigarette", "nicotine", "alcohol", "drinks", "drink", "drinker", "drinking", "ethanol",
    "etoh", "drugs", "drug", "substances", "lives", "live", "living", "resides", "works", "employment",
    "work", "occupation", "employed", "unemployed", "retired", "student", "disability", "jobless",
}  # fmt: skip
_ADVICE = re.compile(
    r"\b(?:advi[sc]e\w*|suggest\w*|avoid\w*|diet|meals?|recommend\w*|limit\w*|should|counsel\w*|plan)\b", re.I
)
_CLAUSE = re.compile(r",|;|\bbut\b|\band\b", re.I)
_SOCIAL_CUE = {
    "work": re.compile(
        r"\b(?:patient is|employment\s*:|occupation\s*:|work(?: status)?\s*:|currently|he is|she is|I am)\b", re.I
    ),
    "living": re.compile(r"\b(?:lives|living(?: situation)?|resides|I live)\b", re.I),
}
_SOCIAL = {
    "work": {
        "employed": r"(?<!un)employed|works? (?:as|full|part)", "unemployed": r"unemployed|out of work|jobless",
        "retired": r"retired", "a student": r"(?:a )?student", "on disability": r"on disability",
    },
    "living": {"alone": r"alone|by (?:him|her|my)self", "with family": r"with (?:\w+ )?(?:family|wife|husband|spouse)",
               "with others": r"with (?:others|friends|roommates)"},
}  # fmt: skip


def social(facts: PatientFacts, sentence: Sentence) -> None:
    """Work, living situation, and the use of tobacco, alcohol and drugs."""
    text = sentence.text
    if _SOCIAL_WORDS.isdisjoint(sentence.words):
        return
    for name, true in facts.social.items():
        substance = _SUBSTANCES.get(name)
        if substance is not None and true in {"never", "past", "current"}:
            _substance(sentence, name, true, substance)
        elif name in _SOCIAL and true in _SOCIAL[name] and (cue := _SOCIAL_CUE[name].search(text)):
            rest = text[cue.end() : cue.end() + 40]
            said = [
                value
                for value, words in _SOCIAL[name].items()
                if re.match(rf"[\s:]*(?:\w+ )?(?:{words})\b", rest, re.I)
            ]
            if said:
                sentence.compare("social", true in said, f"{name}: {said[0]}", f"{name}: {true}")


def _substance(sentence: Sentence, name: str, true: str, pattern: re.Pattern[str]) -> None:
    if not pattern.search(sentence.text) or _RELATIVE.search(sentence.text) or _ADVICE.search(sentence.text):
        return
    for clause in _CLAUSE.split(sentence.text):
        if pattern.search(clause):
            said = next((status for status, words in _STATUS if words.search(clause)), None)
            if said is not None:
                sentence.compare("social", said == true, f"{name}: {said}", f"{name}: {true}")


_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DATE = re.compile(
    r"\b(\d{4})-(\d{2})-(\d{2})\b|\b(\d{1,2})/(\d{1,2})/(\d{4})\b|\b("
    + "|".join(_MONTHS)
    + r")[a-z]*\.? (\d{1,2}),? (\d{4})\b"
    r"|\b(\d{1,2}) (" + "|".join(_MONTHS) + r")[a-z]*\.? (\d{4})\b",
    re.I,
)


def dates(facts: PatientFacts, sentence: Sentence) -> None:
    """A date that the sentence names as that of the admission, the discharge, or another of the facts."""
    found = [_iso(match) for match in _DATE.finditer(sentence.text)]
    if len(found) != 1:
        return
    for name, true in facts.dates.items():
        words = re.sub(r"[\W_]+", " ", name).strip()
        stem = words if len(words) < 7 else words[:7]
        if re.search(rf"\b{re.escape(stem)}", sentence.text, re.I):
            sentence.compare("date", true in found[0], f"{name} {found[0][0]}", true)


def _iso(match: re.Match[str]) -> list[str]:
    """Year, month and day; in both orders where the text leaves it open."""
    year, month, day, a, b, y, name, d, y2, d3, name3, y3 = match.groups()
    if year:
        return [f"{year}-{month}-{day}"]
    if y:
        return [f"{y}-{int(a):02}-{int(b):02}", f"{y}-{int(b):02}-{int(a):02}"]
    month_name, on, of = (name, d, y2) if name else (name3, d3, y3)
    return [f"{of}-{_MONTHS.index(month_name.lower()[:3]) + 1:02}-{int(on):02}"]
