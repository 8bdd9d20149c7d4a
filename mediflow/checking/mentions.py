"""Where a text names diseases, drugs, symptoms, findings and tests, and whether it asserts or denies them.

Negation follows NegEx: a cue in front ("denies", "no evidence of") holds up to "but", a new verb or the sentence's end,
one behind ("was not seen") for what stands before it. What is only feared, asked, planned for, or true of a relative is
neither asserted nor denied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from mediflow.vocabulary.drugs import confusable_drugs

CASED = frozenset({"Cr", "Na", "Ca", "Hb", "Hgb", "Plt"})
"""Short names beside those in capitals that are meant only as they are written here."""
TOKEN = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\w+(?:[.'’-]\w+)*")
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\.[a-z]\.)(?<!\bDr\.)(?<!\bvs\.)\s+|\s*\n\s*")

# The patterns of negation and openness are searched in small letters.
_HAVING = r"(?:\s+(?:having(?:\s+had)?|experiencing|any|ever|a|the|of|use of)\b)*"
_NEGATIVE = re.compile(
    r"(?:\b|(?=\(-\)))(?:(?:there (?:is|are|was|were) )?no (?:clear |definite |radiographic )?(?:evidence|"
    r"signs?|indication|suggestion|history|complaints?|"
    r"presence) of|neg(?:ative)? for|pertinent negatives?:?|\(-\)(?: for)?|"
    r"free (?:of|from)|absence of|den(?:y|ies|ied|ying):?|without|w/o|"
    r"(?:do|does|did|has|have|had|is|are|"
    r"was|were|could|can)(?: not|n['’]t)(?: (?:have|had|report|show|see|seen|note|describe|"
    r"complain of|reveal|demonstrate|"
    r"feel|suffer from))?|never (?:had|has|have)|never|cannot|nor|neither|no|not|ruled out|rules out|excludes?|lack of|"
    rf"lacks|none of|absent[^.;]{{0,20}}\bas (?:is|are|was|were)|absent and so (?:is|are))(?:\b|(?<=[:)])){_HAVING}",
)
# One of these is in all that it finds: looking for them first costs a tenth.
_IN_NEGATIVE = ("no", "den", "without", "w/o", "neg", "free ", "absen", "(-)", "n't", "n’t", "never", "neither",
                "ruled out", "rules out", "exclude", "lack")  # fmt: skip
_NO_NEGATION = re.compile(
    r"\b(?:no (?:further|new|more|other|longer|change|increase|worsening|doubt|improvement|known|question)"
    r"|not (?:only|necessarily|sure|certain|clear|known|yet|all|just|improv\w+|resol\w+|better|chang\w+)"
    r"|without (?:difficulty|doubt|change|help|any change))\b",
)
_STOP = re.compile(
    r"\b(?:but|however|although|though|except|apart from|aside from|other than|yet|while|whereas|which|because|since|"
    r"due to|secondary to|presents?|presented|reports?|reported|complain(?:s|ed)|endorses?|"
    r"endorsed|admits?|has|have|had|"
    r"positive for|shows?|showed|reveals?|revealed|found|started|prescribed|takes?|is present|"
    r"are present|there is|there are)\b|[;:]",
)
_NEGATIVE_AFTER = re.compile(
    r"\s*(?:,\s*)?(?:(?:is|are|was|were|has been|have been|could be)\s+(?:not|"
    r"n['’]t)\s+(?:be\s+)?(?:seen|present|noted|reported|found|"
    r"observed|identified|detected|demonstrated|visible|visualized|appreciated|evident|"
    r"described|a complaint)|(?:is|are|was|"
    r"were|has been|have been)?\s*\b(?:absent|denied|negative|ruled out|excluded|lacking|"
    r"missing|r/o['’]?d)(?!\w)|not (?:seen|present|"
    r"noted|found|reported|identified)\b|[:=(\-–]+\s*(?:no|none|denied|denies|absent|negative|neg|nil)\b)",
)
_OPEN_BEFORE = re.compile(
    r"\b(?:if|should|unless|in case of|when|whenever|whether|return (?:for|with)|"
    r"watch(?: out)? for|look for|monitor\w* for|risks?|"
    r"warn\w*|side effects?|adverse|may|might|could be|possible|possibly|probabl[ey]|suspect\w*|suspicio\w+|concern\w*|"
    r"rule out|r/o|to exclude|evaluat\w+ for|assess\w* for|check\w* for|screen\w* (?:for|of)|"
    r"prevent\w*|prophylaxis|educat\w+|counsel\w*|differential|"
    r"versus|vs|less likely|unlikely|rather than|instead of|(?:grand)?(?:mother|father|"
    r"parents?)|brother|sister|siblings?|son|daughter|"
    r"mom|mum|dad|niece|nephew|wife|husband|spouse|roommate|fhx?|ddx|"
    r"aunt|uncle|cousin|family(?! (?:confirms?|reports?|states?|notes?|says))|relatives?|"
    r"previous(?:ly)?|prior|in the past|used to|would|alternative\w*|such as|e\.g|"
    r"causes? of|caused by|mimics?|can (?:cause|present|lead|show)|associated with|linked to|"
    r"not to|typical\w*|usual\w*|often|"
    r"patients with|people with|guidelines?|considered|excluding|improve[ds]?|resolv\w+|lessen\w*|less|reliev\w+)\b",
)
_OPEN_AFTER = re.compile(
    r"[^.;,]{0,30}?\b(?:resolved|subsided|improved|lessened|gone|is unlikely|are unlikely|"
    r"may occur|can occur|is possible|"
    r"was considered|were considered|is considered|questionnaire|screening|risk|prophylaxis|"
    r"prevention|clinic|specialist|nurse)\b",
)
# "Fever and night sweats were denied": what shares its verb with the next.
_LISTED = re.compile(r"(?:,? (?:and|or) |, )(?:[a-z-]+ ){0,3}[a-z-]+(?= (?:is|are|was|were|has|have|not)\b)")
# "No fever, cough for three days": what is given a time of its own is not denied.
_OWN_TIME = re.compile(r"\s+(?:for|since|over|x|starting|that began)\s+(?:the\s+)?(?:past|last)?\s*[\w-]+")


class Concept(NamedTuple):
    """What can be named: `kind` is disease, symptom, drug, finding, lab or allergen; `name` its first name."""

    kind: str
    name: str


class Mention(NamedTuple):
    """Where a sentence names something; one name may stand for several things (a disease and a finding)."""

    start: int
    end: int
    concepts: tuple[Concept, ...]

    def of(self, kind: str) -> str | None:
        """The name of the concept of this kind, if it is one."""
        for concept in self.concepts:
            if concept.kind == kind:
                return concept.name
        return None


class Lexicon:
    """Names with what they stand for, found by their first word. Longer names win over shorter ones."""

    def __init__(self, names: Iterable[tuple[str, Concept]], base: Lexicon | None = None) -> None:
        self.base = base
        self.exact: dict[str, tuple[Concept, ...]] = {}
        self.first: dict[str, list[tuple[tuple[str, ...], tuple[Concept, ...]]]] = {}
        self.names: set[tuple[str, Concept]] = set()
        known = base.names if base is not None else self.names
        for name, concept in names:
            if (name, concept) not in known:
                self._add(name, concept)
                self.names.add((name, concept))
        self.anchors = {
            *self.first,
            *self.exact,
            *(f"{word}s" for word in self.first),
            *(w.lower() for w in self.exact),
        }

    def _add(self, name: str, concept: Concept) -> None:
        # AS, PE, MS, UC: in small letters these are words.
        if (len(name) <= 5 and name.isupper()) or name in CASED:
            known = self.exact.get(name) or (self.base.exact.get(name, ()) if self.base else ())
            self.exact[name] = tuple(dict.fromkeys((*known, concept)))
            return
        words = tuple(normal(word) for word in TOKEN.findall(name.lower()))
        if not words:
            return
        if words[0] not in self.first:
            inherited = self.base.first.get(words[0], ()) if self.base else ()
            self.first[words[0]] = list(inherited)
        entries = self.first[words[0]]
        for number, (rest, concepts) in enumerate(entries):
            if rest == words[1:]:
                entries[number] = (rest, tuple(dict.fromkeys((*concepts, concept))))
                return
        entries.append((words[1:], (concept,)))
        entries.sort(key=lambda entry: -len(entry[0]))

    def find(self, sentence: str, tokens: Sequence[str]) -> list[Mention]:
        """The mentions of one sentence in its order; none overlap. `tokens` are its own, in small letters."""
        base = self.base
        if base is not None and not self.names:
            return base.find(sentence, tokens)
        anchors = self.anchors
        maybe = [at for at, token in enumerate(tokens) if token in anchors or (base and token in base.anchors)]
        if not maybe:
            return []
        places = list(TOKEN.finditer(sentence))
        found: list[Mention] = []
        past = 0
        for at in maybe:
            if at < past:
                continue
            place, key = places[at], normal(tokens[at])
            exact = self.exact.get(place[0]) or (base.exact.get(place[0]) if base else None)
            if exact:
                found.append(Mention(place.start(), place.end(), exact))
                continue
            for rest, meant in self.first.get(key) or (base.first.get(key) if base else None) or ():
                end = at + 1 + len(rest)
                if not rest or tuple(map(normal, tokens[at + 1 : end])) == rest:
                    past = end
                    found.append(Mention(place.start(), places[past - 1].end(), meant))
                    break
        return found


def normal(word: str) -> str:
    """Without the plural's s."""
    return word[:-1] if len(word) > 4 and word[-1] == "s" and word[-2] not in "sui" else word


class Context:
    """Of one sentence: which of its stretches are denied, and which are left open."""

    def __init__(self, sentence: str) -> None:
        """`sentence` is in small letters."""
        self.sentence = sentence
        self.denied: list[tuple[int, int]] = []
        negative = list(_NEGATIVE.finditer(sentence)) if any(one in sentence for one in _IN_NEGATIVE) else []
        pseudo = [match.span() for match in _NO_NEGATION.finditer(sentence)] if negative else []
        for match in negative:
            if any(start <= match.start() < end for start, end in pseudo):
                continue
            stop = _STOP.search(sentence, match.end())
            self.denied.append((match.end(), stop.start() if stop else len(sentence)))
        opened = _OPEN_BEFORE.search(sentence)
        self.open_from = opened.start() if opened else len(sentence) + 1

    def is_denied(self, start: int, end: int) -> bool:
        """Whether what stands there is said not to be."""
        listed_with = _LISTED.match(self.sentence, end)
        if _NEGATIVE_AFTER.match(self.sentence, end) or (
            listed_with and _NEGATIVE_AFTER.match(self.sentence, listed_with.end())
        ):
            return True
        if not any(low <= start < high for low, high in self.denied):
            return False
        listed = "," in self.sentence[:start]
        return not (listed and _OWN_TIME.match(self.sentence, end))

    def is_open(self, start: int, end: int) -> bool:
        """Whether what stands there is only considered, feared, past, or another person's."""
        return self.open_from <= start or _OPEN_AFTER.match(self.sentence, end) is not None


@cache
def known_names() -> Lexicon:
    """The names that the project itself knows: the clinic's diseases with all that is theirs, and common drugs."""
    from mediflow.clinic.knowledge import load_knowledge

    names: list[tuple[str, Concept]] = []
    for disease in (*load_knowledge("clinic"), *load_knowledge("second")):
        names += [(name, Concept("disease", disease.name.lower())) for name in (disease.name, disease.abbreviation)]
        names += [(symptom, Concept("symptom", symptom.lower())) for symptom in disease.symptoms]
        names += [(drug.name, Concept("drug", drug.name.lower())) for drug in disease.drugs]
        names.append((disease.lab.name, Concept("lab", disease.lab.name.lower())))
        if disease.finding:
            names.append((disease.finding, Concept("finding", disease.finding.lower())))
    names += [(drug, Concept("drug", drug.lower())) for drug in confusable_drugs()]
    names += [(allergen, Concept("allergen", allergen)) for allergen in ALLERGENS]
    names += [(short, Concept("allergen", allergen)) for short, allergen in SHORT_ALLERGENS.items()]
    names += [(short, Concept("lab", lab)) for short, lab in SHORT_LABS.items()]
    return Lexicon(dict.fromkeys(names))


ALLERGENS = (
    "penicillin", "latex", "sulfa", "peanuts", "iodine", "aspirin", "codeine", "shellfish", "eggs", "pollen",
    "contrast", "amoxicillin", "ibuprofen", "morphine", "nuts", "bee stings",
)  # fmt: skip
SHORT_ALLERGENS = {
    "PCN": "penicillin", "sulfonamides": "sulfa", "sulfa drugs": "sulfa", "sulpha": "sulfa", "ASA": "aspirin",
    "peanut butter": "peanuts", "egg": "eggs",
}  # fmt: skip
SHORT_LABS = {
    "A1c": "hba1c", "hemoglobin A1c": "hba1c", "WBC": "white cell count", "white count": "white cell count",
    "Cr": "creatinine", "creat": "creatinine", "Na": "sodium", "Ca": "calcium", "trop": "troponin",
    "eos": "eosinophils", "Hgb": "hemoglobin", "Hb": "hemoglobin", "Plt": "platelets", "K": "potassium",
    "RF": "rheumatoid factor",
}  # fmt: skip
