"""What the mock server says: valid, distinct, equally long texts, composed of bytes that were escaped beforehand.

A text is a handful of sentences out of 4,096, drawn by the hash of its key: two records seldom share more than one, so
that no search for near duplicates finds any.
"""

from __future__ import annotations

import hashlib
import json
import random
import re

from benchmarks.record import DIFFICULTIES, LABELS, MODEL
from mediflow.clinic.knowledge import load_knowledge

SENTENCES = 4096
WORDS = re.findall(
    r"\w+",
    "patient reports denies mild severe acute chronic left right upper lower pain cough fever dyspnea nausea fatigue "
    "headache edema rash tenderness swelling weakness numbness dizziness syncope palpitations murmur wheeze crackles "
    "effusion fracture lesion nodule mass stenosis thrombus embolism infarct ischemia hypertension diabetes asthma "
    "pneumonia sepsis anemia hypothyroidism gout arthritis cirrhosis pancreatitis cholecystitis appendicitis migraine "
    "epilepsy depression anxiety insomnia smoking alcohol exercise diet weight height pressure rate rhythm saturation "
    "temperature glucose sodium potassium creatinine hemoglobin platelets troponin lactate cultures urinalysis imaging "
    "tomography ultrasound radiograph echocardiogram biopsy endoscopy surgery transfusion dialysis ventilation oxygen "
    "fluids antibiotics heparin warfarin aspirin metformin insulin lisinopril amlodipine atorvastatin omeprazole "
    "prednisone albuterol furosemide levothyroxine gabapentin tramadol admitted discharged transferred followed "
    "stable improving worsening resolved persistent intermittent daily twice weekly yesterday overnight morning since "
    "before after during without with and then remains was noted seen given started held increased reduced repeated",
)
DRUGS = ("Warfarin", "Aspirin", "Metformin", "Insulin", "Lisinopril", "Amlodipine", "Prednisone", "Furosemide")

QUIET_WORDS = re.findall(
    r"\w+",
    "the letter was written after a long talk with family who agreed that next visit should be arranged soon and all "
    "papers were handed over to practice before noon while desk confirmed address phone number insurance card form "
    "interpreter not needed parking ticket stamped corridor busy waiting room full colleague informed by message copy "
    "filed archive folder note signed dictated typed corrected page printed sent office team morning round list "
    "updated plan explained questions answered calendar opened reminder set schedule changed twice because of traffic",
)
"""Nothing that a verifier of clinical facts could hold against anybody."""

_MEDICATION = re.compile(
    rb'\\"drug\\":\\"([\w -]+)\\",\\"dose\\":\\"([\d.]+)\\",\\"unit\\":\\"(\w+)\\",'
    rb'\\"frequency\\":\\"([\w -]+)\\",\\"disease\\":\\"([\w -]+)\\"'
)
_FIELD = re.compile(rb'\\"(task_type|output_format)\\": ?\\"(\w+)\\"')
_ENVELOPE = (
    b'{"id":"chatcmpl-%s","object":"chat.completion","created":1790000000,"model":"' + MODEL.encode() + b'",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}'
)

ANSWERS = {
    b"abbreviation_expansion": ({"expansion": "blood pressure"}, "blood pressure"),
    b"aspect_oriented_keyword_extraction": ({"keywords": ["DRUG"]}, "DRUG"),
    b"classification": ({"specialty": "rheumatology"}, "rheumatology"),
    b"error_detection_and_correction": ({"sentence": -1}, "-1"),
    b"multiple_choice_question_answering": ({"answer": "DRUG"}, "DRUG"),
    b"named_entity_recognition": (
        {"entities": [{"text": "DRUG", "label": "drug", "start": 0, "end": "LENGTH"}]},
        "DRUG",
    ),
    b"note_scoring": ({"score": 2, "missing": ["treatment", "follow-up"]}, "2"),
    b"question_answering": ({"answer": "DRUG"}, "DRUG"),
    b"reasoning_and_diagnosis": (
        {"evidence": ["DRUG"], "diagnosis": "DISEASE", "icd10cm": "CODE"},
        "DRUG for DISEASE, CODE",
    ),
    b"relation_extraction": ({"relations": [{"drug": "DRUG", "disease": "DISEASE"}]}, "DRUG for DISEASE"),
    b"summarization": ({"summary": "SAID"}, "SAID"),
    b"text_simplification": ({"simplified": "SAID"}, "SAID"),
    b"textual_entailment": ({"label": "NEUTRAL"}, "NEUTRAL"),
}


def escape(text: str) -> bytes:
    """The inside of a JSON string."""
    return json.dumps(text)[1:-1].encode()


_ANSWERS = {
    task: (escape(json.dumps(value)).replace(b'\\"LENGTH\\"', b"LENGTH"), escape(text))
    for task, (value, text) in ANSWERS.items()
}
"""By task type: the answer as JSON and as text, each escaped as the inside of the reply's own string."""


class Writer:
    """All texts of one seed."""

    def __init__(self, seed: int = 0) -> None:
        """Draw the sentences."""
        self.sentences = _sentences(random.Random(seed), WORDS, 11, 17)
        self.codes = {one.name.encode(): one.code.encode() for one in load_knowledge()}
        self.quiet = _sentences(random.Random(seed), QUIET_WORDS, 16, 24)

    def probe(self) -> bytes:
        """The answer to the question with which curator finds out whether a server has structured output."""
        return _ENVELOPE % (b"probe", escape('{"name": "Jason", "age": 25}'), 10, 5, 15)

    def reply(self, key: str, body: bytes, attempt: int = 0, *, broken: bool = False) -> bytes:
        """A whole chat completion for the request `body` about `key`; broken, its text is cut half way.

        A record stays as it is; to one of our own prompts that comes again the answer is another one, as a model's is.
        """
        content = self.record(key) if key.startswith("r-") else self.generated(f"{key} {attempt}", body)
        if broken:
            # A backslash at the cut would escape the closing quote of the envelope.
            content = content[: len(content) // 2].rstrip(b"\\")
        if b"```json" in body:
            content = b"```json\\n%s\\n```" % content
        prompt, completion = len(body) // 4, len(content) // 4
        return _ENVELOPE % (key.encode(), content, prompt, completion, prompt + completion)

    def record(self, key: str) -> bytes:
        """The record of benchmarks.record.SCHEMA with this key, escaped."""
        draw = hashlib.blake2b(key.encode(), digest_size=32).digest()
        said = self._draw(draw, 2)
        drug = DRUGS[draw[0] % len(DRUGS)].encode()
        source = b" ".join([drug + b" was given.", *self._draw(draw[4:], 5 + draw[1] % 3)])
        return (
            b'{\\"id\\":\\"%s\\",\\"instruction\\":\\"%s\\",\\"input\\":\\"%s\\",\\"output\\":\\"%s\\",'
            b'\\"difficulty\\":\\"%s\\",\\"entities\\":[{\\"text\\":\\"%s\\",\\"label\\":\\"%s\\",\\"start\\":0,\\"end\\":%d}]}'
        ) % (
            key.encode(), said[0], source, said[1], DIFFICULTIES[draw[2] % 4].encode(), drug,
            LABELS[draw[3] % 3].encode(), len(drug),
        )  # fmt: skip

    def generated(self, key: str, body: bytes) -> bytes:
        """An instruction and an example in the JSON form of mediflow.generate, escaped; the task's checks pass it.

        Where the request tells of a patient, the example is about that patient's drug and nothing else that is medical.
        """
        asked = dict(_FIELD.findall(body))
        task, as_json = asked.get(b"task_type", b""), asked.get(b"output_format") == b"json"
        draw = hashlib.blake2b(key.encode(), digest_size=32).digest()
        known = _MEDICATION.search(body)
        pool = self.quiet if b'\\"facts\\"' in body else self.sentences
        drug, disease = (known[1], known[5]) if known else (DRUGS[draw[0] % len(DRUGS)].encode(), b"gout")
        dose = b" ".join(known.groups()[1:4]) if known else b"daily"
        said = self._draw(draw, 2, pool)
        source = b"%s for %s, %s. " % (drug, disease, dose) if known or pool is self.sentences else b""
        source += b" ".join(self._draw(draw[4:], 6 + draw[1] % 3, pool))
        if not known and pool is self.quiet:
            drug = disease = source.split(b" ", 1)[0]
        if task == b"text_expansion":
            # The answer is longer than its input, and both together as long as the others'.
            source = source[: len(source) // 2]
            answers = b'{\\"expanded\\":\\"%s %s\\"}' % (source, said[1]), b"%s %s" % (source, said[1])
        else:
            answers = _ANSWERS.get(task, (b"", b"SAID"))
        if task == b"multiple_choice_question_answering":
            source += b"\\\\n- %s\\\\n- %s" % (drug, said[1])
        answer = answers[0] if as_json else b'\\"%s\\"' % answers[1]
        answer = answer.replace(b"DRUG", drug).replace(b"DISEASE", disease).replace(b"SAID", said[1])
        answer = answer.replace(b"CODE", self.codes.get(disease, b"M10.9"))
        return (
            b'{\\"instructions\\":[{\\"instruction\\":\\"%s\\",\\"examples\\":[{\\"input\\":\\"%s\\",\\"output\\":%s}]}]}'
        ) % (said[0], source, answer.replace(b"LENGTH", b"%d" % len(drug)))

    def _draw(self, draw: bytes, count: int, pool: list[bytes] | None = None) -> list[bytes]:
        places = (int.from_bytes(draw[2 * one : 2 * one + 2]) % SENTENCES for one in range(count))
        return [(pool or self.sentences)[place] for place in places]


def _sentences(rng: random.Random, words: list[str], least: int, most: int) -> list[bytes]:
    return [
        " ".join(rng.choices(words, k=rng.randint(least, most))).capitalize().encode() + b"." for _ in range(SENTENCES)
    ]
