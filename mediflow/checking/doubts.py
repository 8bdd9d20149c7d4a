"""What keeps a reading from being certain: another time, another person, a condition, a plan, a range.

Looked for only in sentences that seem to contradict the facts, so that true texts cost nothing. Each is by kind, of the
whole sentence: a missed contradiction is cheaper than a true text accused.
"""

from __future__ import annotations

import re

_MONTH = r"(?:january|february|march|april|june|july|august|september|october|november|december)"
_PAST = (
    r"\blast (?:year|month|week|night|winter|summer|spring|autumn|fall|visit|time|checked|seen)\b|\byesterday\b"
    r"|\b(?:days?|weeks?|months?|years?) ago\b|\b(?:previous(?:ly)?|formerly|prior|earlier|at home|used to)\b"
    rf"|\bin (?:{_MONTH}|(?:19|20)\d\d)\b|\bas a child\b|\bin childhood\b"
)
_OTHERS = (
    r"\bin (?:her|his|the) (?:father|mother|brother|sister|son|daughter|aunt|uncle|husband|wife|family)\b"
    r"|\b(?:patients|people|children|those) (?:who|with)\b|\bfor (?:children|adults|many|most|some)\b"
)
_UNSURE = r"\bif\b|\bconsider\b|\b(?:could|can|may|might|would)\b|\bdiscuss\w*\b"
_LAB = (
    rf"\s(?:->|→)\s|\d(?:->|→)\d|\bbaseline\b|\bat discharge from\b|\bpregnan\w+\b|\bwould\b|\bhopes?\b"
    rf"|\bback to normal\b|"
    rf"{_PAST}|\bfrom\s+\d|\bby\s+\d|\bor (?:higher|more|greater|above|lower|less|below)\b|\bdiagnostic\b"
    rf"|\bexpected\b"
    r"|\d\s*\S{0,8} (?:above|below|over|under) (?:the )?(?:upper|lower)|\b(?:rose|fell|dropped|climbed) to\b"
    r"|,.*\btoday\b"
)
_DOSE = (
    rf"\d ?x ?\d|\bx ?\d\b(?!\s*(?:d|w|m|/))|\(\d tab|\bresum\w+\b|\bforgets?\b|\blevel checked\b|"
    rf"{_PAST}|{_UNSURE}|{_OTHERS}|\bmax\w*\b|\bper day\b|\bdivided\b|\bmiss\w+\b|\bextra\b|\d\s?[-–]\s?\d|\btotal\b"
    r"|\bincreas\w+ from\b|\bhalf\b|\bdoubled\b|\btablets of\b"
)
_WORDS = {
    "lab_value": _LAB,
    "lab_flag": rf"{_LAB}|\bthan (?:last|before)\b|\b(?:up|down) from\b",
    "unit": _DOSE,
    "dose": _DOSE,
    "frequency": _DOSE,
    "drug": rf"\brecommend\w*\b|\bnext step\b|\bgiven once\b|\bin the (?:ed|er|emergency)\b|\bin ed\b|"
    rf"{_PAST}|{_UNSURE}|{_OTHERS}|\b(?:not|n['’]t|never|no longer) (?:\w+ )?(?:takes?|taken|taking|uses?|"
    r"using|on|start\w*|given|prescribed|for)\b|\bd/c\b|\bd/c['’]?d\b|\bsingle dose\b|\b(?:completed|finished)\b"
    r"|\bfor (?:fever|pain)\b|\btried\b|\bhad been on\b|\balternative\b|\bwithout success\b|\b(?:will|plan to"
    r"|going to) start\b.*\bif\b"
    r"|\bin (?:asthma|patients|people)\b|\bfailed\b|\bno effect on\b|\bran out\b",
    "vital": rf"\bmedications?\b|\brecheck\w*\b|\brepeat\w*\b|"
    rf"{_PAST}|\brang(?:e|es|ed|ing)\b|\bovernight\b|\bideal\w*\b|\bnormal\b|\bhome\b"
    rf"|\bafter (?:fluids|exercise|"
    r"walking|rest)\b|\bfrom\s+\d|\bpeak\w*\b|\bexertion\b|\bstanding\b|\bnocturnal\b",
    "said": r"\babated\b|\binfant\b|\blast \w+ \d|\bwas \w+ (?:weeks|months|years) ago\b|\bin the past\b|\bprone\b|"
    r"\bhealed\b|\bin childhood\b|\bas a child\b|\bwent away\b|\bworr(?:y|ied)\b|\bafraid\b|\bfears?\b"
    r"|\b(?:fever|pain) reducers?\b|\b(?:tylenol|paracetamol|acetaminophen|prn|as needed)\b|\bnever occurred\b"
    r"|\bchest pain (?:unit|center|centre|clinic)\b|\bfail(?:s|ed)? to\b|\b(?:in|of) (?:19|20)\d\d\b|\bbroke\b"
    r"|\bnot true\b|\(\s*[-–]\s*\)|\s[-–](?:[,;.]|$)|\bnegatives?\s*:|[\s-]free\b(?! (?:of|from))"
    r"|[:=]\s*(?:denied|none|no|neg\w*|absent|n|nil)\W*$|\blast (?:year|week|month|winter|summer)\b",
    "denied": r"\b(?:no|without) (?!evidence|signs?|indication|suggestion|history|complaint|presence|symptom"
    r"|report|finding|"
    r"episode|recent|acute|trace|hint|new)\w+ (?:of|with|for|from|causing)\b|\b(?:relief|medication)\b|"
    r"\bno (?:small|tiny|moderate|large|big|massive|right|left|significant|severe)\b|\bnot a (?:small|large"
    r"|right|left)\b|"
    r"\bnot (?:bothered|mention\w*|attribut\w*|a day|present during)\b|\blast night\b|\bunable to\b|\bno polyuria\x00|"
    r"\(\s*\+\s*\)|\s\+(?:[,;.]|$)|\bnobody\b|\b(?:not|cannot|n['’]t) deny\b|\bbesides\b|\bbeyond\b"
    r"|\bbefore\b"
    r"|\buntil\b|\bno (?!evidence|signs?|indication|suggestion|history|complaint|presence)\w+ of the\b"
    r"|\bno effect on\b"
    r"|\bnot (?:for|used|to treat|coded)\b|\bdo not use\b",
    "side": r"\bin (?:19|20)\d\d\b|\bprevious\w*\b|\bformer\w*\b|"
    r"\b(?:lay|lying|lies|slept|turned|sleeps)\b|\bright (?:where|there|then|here|now|away)\b|\bdecubitus\b",
    "size": rf"{_PAST}|\bgr[eo]w\b|\bshr[aiu]nk\b|\bfrom (?:small|moderate|large|\d)",
    "diagnosis": rf"\bnegative (?:history|for)\b|\bunlikely\W*$|\bdoubt\w*\b|\bsuggests? \w+ over\b"
    rf"|\bsuggests? against\b|\bsought\b|"
    rf"\bfriend\b|\bneighbou?r\b|\b(?:ma|pa)ternal\b|\((?:mother|father|brother|sister|son|daughter)\)|\bfears?\b|"
    rf"{_OTHERS}|\bmis-?diagnos\w+|\binitial\w*\b|\bnever\b|\bof exclusion\b|\brevised\b|\bwrong\w*\b"
    r"|\berroneous\w*\b|\bfalsely\b|\bnot confirmed\b|\bformerly\b",
    "code": r"\bformerly\b|\breplac\w+\b|\bnot\b|\bcode blue\b|\binstead\b|\bcode status\b",
    "age": r"\blesion\b|\bdonor\b|\bcaregiver\b|\bat diagnosis\b|"
    r"\b(?:looks?|appears?|will be|turns?|almost|nearly)(?: about| around)? \d|\bwhen (?:she|he|they|i"
    r"|you|the patient) "
    r"w\w+|\bsince (?:she|he|they|i) w|\bwhen \w+ was\b|\b(?:cat|dog|scar|building|house|car|children|kids"
    r"|neighbou?r|"
    r"average|twins?|flatmate|colleague|boyfriend|girlfriend)\b|\blives with\b|\bmedian\b|\bwomen\b|\bmen\b",
    "duration": r"\bwithin \w+ (?:days|weeks) of\b|\bnot a day\b|"
    r"\bfree for\b|\bbetween\b|\bpeaked\b|\bcourse\b|\bmissed\b|\bcollected\b|\banother hospital\b|\bseen \d"
    r"|\bof \d+ days\b|"
    r"\bworse\w*|\b(?:more|less|longer|fewer) than\b|\bover a\b|\bat least\b|\b(?:days|nights"
    r"|times) (?:a|per) "
    r"(?:week|month)\b|\b(?:days?|weeks?) after (?:an?|the|her|his|return\w*|surgery)\b|\bafter an? \d+-day\b"
    r"|\bepisodes?\b"
    rf"|\b(?:several|few|some|most) days\b|\blast (?:winter|summer|year|spring|autumn|fall)\b|\bresolv\w+\b"
    rf"|\bin the past\b"
    rf"|\bin {_MONTH}\b|\bof a cold\b|\bleave\b|\btrip\b",
    "follow_up": r"\bblood draw\b|\bphysical therapy\b|\bdelayed\b|"
    r"\breturn\w* from\b|\bcalls?\b|\bdentist\b|\beye doctor\b|\boptician\b|\bor sooner if\b.*\d",
    "allergy": r"\bfood allerg\w+\b|\b(?:none|nil) (?:besides|other than|apart from|except)\b|"
    r"\btolerat\w+\b|\bwithout (?:any )?reaction\b|\bsafely\b|\bas a child\b|\btested negative\b"
    r"|\bno food allerg"
    r"|\bno (?:\w+ )?allergic (?:reaction|response)|\b(?:asthma|tumou?r|infection|pain) re(?:acts|acted)\b"
    r"|\bnot to\b",
    "social": r"\bsmoke (?:detector|alarm)\b|"
    r"\bsecond-?hand\b|\bpassive\b|\b(?:daughter|son|mother|father|sister|brother|husband"
    r"|wife)(?:'s)? (?:lives|"
    r"smokes|drinks|works)\b",
    "date": r"\b(?:last|prior|previous|before|after|since)\b",
}  # fmt: skip
_WORDS["sex"] = _WORDS["age"]
_DOUBTS = {kind: re.compile(words, re.I) for kind, words in _WORDS.items()}
_NOT_NOW = re.compile(r"\b(?:current(?:ly)?|now|any ?more|any longer|no longer|since|for \w+ years|at present)\b", re.I)
_HABITS = re.compile(r"\b(?:alcohol|tobacco|smok\w+|illicit|etoh)\b", re.I)
_BESIDE = frozenset({"lab_value", "vital", "size"})
_FIGURE = re.compile(r"\d+(?:[./]\d+)*")


def is_doubtful(kind: str, said: str, true: str, sentence: str) -> bool:
    """Whether the sentence may be true after all, though it seems to say `said` where `true` is known."""
    if kind == "negation":
        kind = "denied" if said.startswith("no ") else "said"
    doubt = _DOUBTS.get(kind)
    if doubt is not None and doubt.search(sentence):
        return True
    if kind in _BESIDE:
        # "9.4 % in May, 8.1 % today": what is true is said as well.
        figures = _FIGURE.findall(true)
        return bool(figures) and figures[0] in _FIGURE.findall(sentence)
    if kind == "side" and re.search(rf"(?i)\b{true.split()[0]}\b(?! (?:upper )?arm\b)", sentence):
        return True  # "effusion on the left; on the right a nodule"
    if said == "no medication":  # "stopped alcohol, no drugs"
        return _HABITS.search(sentence) is not None
    return kind == "social" and said.endswith("never") and _NOT_NOW.search(sentence) is not None
