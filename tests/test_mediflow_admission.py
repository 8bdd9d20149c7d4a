"""Repeats among accepted records: what is found, by how much, within what group, and when the index is large."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mediflow.generation.admission
from mediflow.generation.admission import Admitted, Look, NearRepeats, Repeat
from mediflow.vocabulary.critical import agree, critical_keys
from mediflow.vocabulary.drugs import known_drugs
from medsmith.dedup import search, sign
from medsmith.shingles import shingle, tokenize

WORDS = [f"word{number}" for number in range(3000)]


class Store:
    """Admits texts and keeps those that were accepted."""

    def __init__(self, **settings: float | int | None) -> None:
        self.texts: list[str] = []
        self.admitted = Admitted(NearRepeats(**settings), self.texts.__getitem__)

    def put(self, text: str, group: str = "g") -> Repeat | None:
        look: Look = self.admitted.look(group, text)
        if look.repeat is None:
            self.admitted.add(look, len(self.texts))
            self.texts.append(text)
        return look.repeat


def text(rng: random.Random, words: int = 60) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def changed(rng: random.Random, original: str, count: int) -> str:
    words = original.split()
    for place in rng.sample(range(len(words)), count):
        words[place] = f"other{rng.randrange(10_000)}"
    return " ".join(words)


def test_equal_words_are_an_exact_repeat() -> None:
    """Case and punctuation do not matter, signs and decimals do; an earlier record is named."""
    store = Store()
    assert store.put("Potassium 1.5, given twice.") is None
    assert store.put("Nothing alike here at all.") is None
    assert store.put("POTASSIUM 1.5 - given twice") == Repeat(0, 1.0, True)
    assert store.put("Potassium 15, given twice.") is None
    assert store.put("") is None
    assert store.put("?") is None
    assert store.put("?") == Repeat(4, 1.0, True)


def test_a_near_repeat_has_its_true_similarity() -> None:
    """Of 100 shingles one changed word takes three: 97 of 103 are shared. Three changed words are too many at 0.9."""
    words = [f"word{number}" for number in range(102)]
    store = Store(threshold=0.9)
    assert store.put(" ".join(words)) is None
    one = [*words[:50], "other", *words[51:]]
    found = store.put(" ".join(one))
    assert found is not None
    assert (found.of, found.exact) == (0, False)
    assert found.similarity == pytest.approx(97 / 103)
    assert store.put(" ".join([*words[:20], "x", *words[21:50], "y", *words[51:80], "z", *words[81:]])) is None


def test_records_are_compared_within_their_group_only() -> None:
    """The same note may serve two tasks."""
    store = Store()
    assert store.put("one two three four five", "summary") is None
    assert store.put("one two three four five", "question") is None
    assert store.put("one two three four five", "question") == Repeat(1, 1.0, True)


def test_without_a_threshold_only_equal_records_repeat() -> None:
    """A changed word makes another record."""
    rng = random.Random(0)
    store = Store(threshold=None)
    one = text(rng)
    assert store.put(one) is None
    assert store.put(changed(rng, one, 1)) is None
    assert store.put(one.upper()) == Repeat(0, 1.0, True)


def test_what_is_refused_is_no_partner_later() -> None:
    """A chain of small changes ends at the record that was accepted: the others are not in the index."""
    rng = random.Random(1)
    store = Store()
    one = text(rng)
    store.put(one)
    for number in range(4):
        found = store.put(changed(rng, one, number % 2 + 1))
        assert found is not None
        assert found.of == 0
    assert len(store.texts) == 1


@given(
    seed=st.integers(0, 10**6),
    change=st.sampled_from(
        [("left", "right"), ("0.5 mg", "5 mg"), ("mg", "mcg"), ("no fever", "fever"), ("colchicine", "allopurinol"),
         ("gout", "asthma"), ("daily", "weekly"), ("weekend", "Sunday"), ("", "")]
    ),
)  # fmt: skip
@settings(max_examples=40, deadline=None, derandomize=True)
def test_generation_refuses_what_curation_drops(seed: int, change: tuple[str, str]) -> None:
    """One word of a hundred changed: admission and curation agree whether the two are the same, for every such word."""
    around = text(random.Random(seed), 80)
    one = f"{around} pain in the left foot since the weekend; gout, no fever; takes colchicine 0.5 mg daily."
    other = one.replace(*change) if change[0] else f"{one}!"
    store = Store()
    store.put(one)
    guard = critical_keys(tokenize([one, other]))[0]
    sets = shingle([one, other], 3)
    drops = search(sign(sets, 128, 0), sets, 0.8, guard, lambda row, of: agree((one, other)[row], (one, other)[of]))
    assert (store.put(other) is not None) == bool(drops) == (change[0] in ("gout", "weekend", ""))


def test_the_guard_knows_drugs_without_the_simulation() -> None:
    """No module of curation, pairing, admission or the vocabulary imports the clinic, inside functions or not."""
    folder = Path(mediflow.generation.admission.__file__).parents[1]
    files = [file for room in ("vocabulary", "curation", "pairing") for file in (folder / room).glob("*.py")]
    assert len(files) > 15
    for file in (*files, folder / "generation" / "admission.py"):
        assert "mediflow.clinic" not in file.read_text(encoding="utf-8"), file
    assert {"sevelamer", "warfarin", "donepezil"} <= known_drugs()


@pytest.mark.parametrize("entries", [100, 1 << 18])
def test_planted_repeats_are_found_and_nothing_else(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 changes of three words in 120 (similarity 0.86), all but one or two; of 600 other texts none.

    The same whether the entries are all fresh or in many sorted runs that were merged.
    """
    monkeypatch.setattr(mediflow.generation.admission, "FRESH_ENTRIES", entries)
    monkeypatch.setattr(mediflow.generation.admission, "LONGEST_RUN", 20 * entries)
    rng = random.Random(2)
    store = Store()
    planted = found = 0
    for number in range(660):
        if number % 11 == 10:
            planted += 1
            found += store.put(changed(rng, rng.choice(store.texts), 3)) is not None
        else:
            assert store.put(text(rng, 120)) is None
    assert planted == 60
    assert found >= 58
    runs = store.admitted._entries._runs
    assert (len(runs) > 1) == (entries == 100)
    assert all((run[1:] >= run[:-1]).all() for run in runs)
    assert sum(map(len, runs)) == (17 * len(store.texts) // 102 * 102 if runs else 0)
