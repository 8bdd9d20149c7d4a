"""The simulated teacher's flaws carry no mark: any fact, any other value, both ways, and many manners."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from mediflow.clinic.flaws import CHANGES
from mediflow.clinic.knowledge import load_knowledge
from mediflow.clinic.reply import reply

KNOWN = load_knowledge()


def flaws(output: str, error_type: str = "factual_inaccuracy", draws: int = 400, text: str = "") -> Counter[str]:
    request = {"kind": "induce_error", "input": text, "output": output, "error_type": error_type}
    return Counter(reply(request, seed) for seed in range(draws))


def test_a_wrong_drug_is_any_other_drug() -> None:
    """In 400 draws most of the clinic's drugs come, none of them more than a few times, and never the right one."""
    right = KNOWN[3].drugs[0].name
    found = flaws(right)
    drugs = {drug.name for disease in KNOWN for drug in disease.drugs}
    assert set(found) <= drugs - {right} and len(found) > 0.8 * len(drugs)
    assert found.most_common(1)[0][1] < 25
    assert {disease.drugs[1].name for disease in KNOWN if len(disease.drugs) > 1} & set(found), "not the first alone"


def test_any_of_the_facts_of_a_text_is_made_wrong_not_the_first_alone() -> None:
    """Disease, drug, dose, frequency and side are each changed in about a fifth of the draws, one at a time."""
    disease = KNOWN[0]
    text = f"Left {disease.name}, treated with {disease.drugs[0].name} 40 mg twice daily."
    kinds: Counter[str] = Counter()
    for flawed, times in flaws(text).items():
        gone = [
            kind
            for kind, said in (
                ("side", "Left"),
                ("disease", disease.name),
                ("drug", disease.drugs[0].name),
                ("dose", "40 mg"),
                ("frequency", "twice daily"),
            )
            if said not in flawed
        ]
        assert len(gone) == 1, flawed
        kinds[gone[0]] += times
    assert len(kinds) == 5 and min(kinds.values()) > 40


@pytest.mark.parametrize(("figure", "exact"), [("3", 0), ("120", 0), ("7.4", 1), ("0.1", 1)])
def test_figures_go_up_and_down_as_exact_as_before_and_never_below_zero(figure: str, exact: int) -> None:
    """Neither direction tells a wrong figure, nor do its decimals."""
    found = list(flaws(f"A value of {figure} mg.").elements())
    values = [float(re.findall(r"-?\d+(?:\.\d+)?", one)[0]) for one in found]
    assert all(value >= 0 for value in values)
    assert all(len(re.findall(r"\d+(?:\.(\d+))?", one)[0]) == exact for one in found)
    higher = sum(value > float(figure) for value in values) / len(values)
    assert float(figure) <= 0.1 or 0.3 < higher < 0.7


def test_a_wrong_sentence_is_another_sentence_of_the_text_or_none() -> None:
    """Of five numbered sentences any other one, or -1; and from -1 any of them."""
    text = "\n".join(f"{number} Sentence." for number in range(5))
    assert set(flaws("3", text=text)) == {"-1", "0", "1", "2", "4"}
    assert set(flaws("-1", text=text)) == {"0", "1", "2", "3", "4"}
    assert {json.loads(one)["sentence"] for one in flaws('{"sentence": 0}', text=text)} == {-1, 1, 2, 3, 4}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_no_manner_has_a_mark(name: str) -> None:
    """A spoilt manner looks different from text to text: no flaw opens or closes more than two texts in five alike."""
    texts = [f"The patient takes {disease.drugs[0].name} daily for {disease.name} of the lung." for disease in KNOWN]
    found = [reply({"kind": "induce_error", "output": text, "error_type": name}, 0) for text in texts]
    assert all(flawed != text for flawed, text in zip(found, texts, strict=True))
    added = Counter(
        tuple(word for word in flawed.split() if word not in text.split())
        for flawed, text in zip(found, texts, strict=True)
    )
    added.pop((), None)  # words lost or put in another order add none
    assert not added or added.most_common(1)[0][1] <= 0.4 * len(texts)


def test_a_label_is_right_or_wrong_and_has_no_manner() -> None:
    """`ENTAILMENT` becomes one of the other two, whatever the type; so does a side within JSON."""
    for name in CHANGES:
        assert set(flaws("ENTAILMENT", name, 40)) == {"NEUTRAL", "CONTRADICTION"}
        assert set(flaws('{"side": "left"}', name, 10)) == {'{"side": "right"}'}
