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
    b"reasoning_and_diagnosis": ({"evidence": ["DRUG"], "diagnosis": "Gout", "icd10cm": "M10.9"}, "DRUG. Gout, M10.9"),
    b"relation_extraction": ({"relations": [{"drug": "DRUG", "disease": "gout"}]}, "DRUG for gout"),
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
        rng = random.Random(seed)
        self.sentences = [
            " ".join(rng.choices(WORDS, k=rng.randint(11, 17))).capitalize().encode() + b"." for _ in range(SENTENCES)
        ]

    def probe(self) -> bytes:
        """The answer to the question with which curator finds out whether a server has structured output."""
        return _ENVELOPE % (b"probe", escape('{"name": "Jason", "age": 25}'), 10, 5, 15)

    def reply(self, key: str, body: bytes, *, broken: bool = False) -> bytes:
        """A whole chat completion for the request `body` about `key`; broken, its text is cut half way."""
        content = self.record(key) if key.startswith("r-") else self.generated(key, body)
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
        """An instruction and an example in the JSON form of mediflow.generate, escaped; the task's checks pass it."""
        asked = dict(_FIELD.findall(body))
        draw = hashlib.blake2b(key.encode(), digest_size=32).digest()
        said = self._draw(draw, 2)
        drug = DRUGS[draw[0] % len(DRUGS)].encode()
        source = b" ".join([drug + b" was given for gout.", *self._draw(draw[4:], 6 + draw[1] % 3)])
        task = asked.get(b"task_type", b"")
        if task == b"text_expansion":
            # The answer is longer than its input, and both together as long as the others'.
            source = source[: len(source) // 2]
            answer = b'{\\"expanded\\":\\"%s %s\\"}' % (source, said[1]), b"%s %s" % (source, said[1])
        else:
            answer = tuple(one.replace(b"DRUG", drug) for one in _ANSWERS.get(task, (b"", b"SAID")))
            answer = tuple(one.replace(b"SAID", said[1]) for one in answer)
            answer = tuple(one.replace(b"LENGTH", b"%d" % len(drug)) for one in answer)
        if task == b"multiple_choice_question_answering":
            source += b"\\\\n- %s\\\\n- %s" % (drug, said[1])
        output = answer[0] if asked.get(b"output_format") == b"json" else b'\\"%s\\"' % answer[1]
        return (
            b'{\\"instructions\\":[{\\"instruction\\":\\"%s\\",\\"examples\\":[{\\"input\\":\\"%s\\",\\"output\\":%s}]}]}'
        ) % (said[0], source, output)

    def _draw(self, draw: bytes, count: int) -> list[bytes]:
        places = (int.from_bytes(draw[2 * one : 2 * one + 2]) % SENTENCES for one in range(count))
        return [self.sentences[place] for place in places]
