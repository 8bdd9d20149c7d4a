"""The held-out rows of curate's benchmark say what they claim to say."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from benchmarks import curate_frames_heldout as heldout

DIGITS = re.compile(r"\d+(?:\.\d+)?")


def _slots(text: str) -> set[str]:
    return {name.removesuffix("_") for name in heldout.SLOT.findall(text)}


def test_a_frame_says_the_same_facts_in_all_wordings() -> None:
    frames = heldout.frames()
    assert len(frames) >= 25
    assert len({frame["genre"] for frame in frames}) == len(frames)
    for frame in frames:
        for part in ("inputs", "outputs"):
            assert len(set(frame[part])) >= 3, frame["genre"]
            first = frame[part][0]
            for wording in frame[part][1:]:
                assert _slots(wording) == _slots(first), (frame["genre"], wording)
                assert ("[[" in wording) == ("[[" in first), (frame["genre"], wording)


@pytest.mark.parametrize("wording", [1, 2, 3])
def test_paraphrases_keep_every_number(wording: int) -> None:
    for number in range(300):
        frame, said, remarks = heldout.original(number, 3)
        one, other = (heldout.texts(frame, said, remarks, which)["input"] for which in (0, wording))
        # 2 and 0 are digits of SpO2 and FiO2, and of a clock's full hour, which shorthand leaves out.
        left, right = (set(DIGITS.findall(text)) - {"2", "00", "20"} for text in (one, other))
        assert left == right, (heldout.frames()[frame]["genre"], left ^ right)
        assert one != other


@pytest.mark.parametrize("kind", heldout.SLOTS)
def test_near_misses_differ_in_one_fact_only_and_in_every_wording(kind: str) -> None:
    rng = random.Random(kind)
    seen: Counter[int] = Counter()
    for number in range(200):
        frame, said, remarks = heldout.original(number, 4)
        other = heldout.changed(frame, said, kind, rng)
        if other is None:
            continue
        differing = [name for name in said if said[name] != other[name]]
        assert len(differing) == 1
        assert differing[0] in heldout.SLOTS[kind]
        for wording in range(4):
            texts = [heldout.texts(frame, facts, remarks, wording)["input"] for facts in (said, other)]
            assert texts[0] != texts[1], (heldout.frames()[frame]["genre"], differing, wording)
        seen[frame] += 1
    assert len(seen) >= 10


def test_a_careless_copy_keeps_the_facts() -> None:
    rng = random.Random(1)
    for frame in heldout.frames():
        text = frame["inputs"][0]
        copy = heldout.edited(text, 0.08, rng)
        assert copy != text
        assert heldout.SLOT.findall(copy) == heldout.SLOT.findall(text)
        assert heldout.CHOICE.findall(copy) == heldout.CHOICE.findall(text)


def test_rows_are_a_function_of_the_seed_and_copies_are_judged_lower() -> None:
    rows = list(heldout.rows(1500, 6))
    assert rows == list(heldout.rows(1500, 6))
    assert rows != list(heldout.rows(1500, 7))
    by_id = {row["id"]: row for row in rows}
    planted = [row for row in rows if row["planted"]]
    assert 60 < len(planted) < 250
    for row in planted:
        of = by_id[row["planted"]["of"]]
        assert of["planted"] is None
        assert row["quality"] < 2 <= of["quality"]
        assert (row["input"] == of["input"]) == (row["planted"]["kind"] == "other task")
