"""Rows that say the same in other words are found; rows that differ in what matters are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mediflow.curation.semantic import EndpointEncoder, LexicalEncoder, Meanings, SemanticDuplicates, open_encoder
from mediflow.validation.diversity import Diversity
from mediflow.vocabulary.critical import agree, concept_of, critical_keys
from medsmith.config import load
from medsmith.dedup import Duplicate, sign
from medsmith.dedup import search as search_near
from medsmith.errors import UserError
from medsmith.licences import in_force
from medsmith.shingles import shingle, split_words, tokenize

NOTE = (
    "The patient denies fever. The left knee is swollen. Metformin 500 mg was increased; HER2+ tumor of 3 cm, pH < 7."
)


def key(text: str) -> tuple[int, int]:
    keys, counts = critical_keys(tokenize(["another text", text]))
    return int(keys[1]), int(counts[1])


@pytest.mark.parametrize(
    "text",
    [
        "pH < 7. A 3.0 cm tumor, HER2+. Fever is absent, swelling of the LEFT knee, metformin raised: 500mg",
        "Tumor of three cm (HER2+), pH < 7, without fever, left knee swollen, elevated metformin dose 500 mg",
    ],
)
def test_a_paraphrase_has_the_same_concepts(text: str) -> None:
    """Other words, order and spelling of numbers; the same numbers, negation, side, direction and drug."""
    assert key(text) == key(NOTE)
    assert key(NOTE)[1] == 9


@pytest.mark.parametrize(
    ("old", "new"),
    [("500", "850"), ("denies", "reports"), ("left", "right"), ("Metformin", "Glipizide"), ("increased", "reduced"),
     ("HER2+", "HER2-"), ("3 cm", "5 cm"), ("< 7", "> 7"), ("3 cm", "-3 cm")],
)  # fmt: skip
def test_what_matters_makes_another_text(old: str, new: str) -> None:
    """One number, negation, side, drug, direction or sign."""
    assert key(NOTE.replace(old, new))[0] != key(NOTE)[0]


def test_words_that_may_change_have_no_concept() -> None:
    """Ordinary words are free; unknown drugs are known by their stems; codes are concepts."""
    assert [concept_of(word) for word in split_words("the patient reports swelling today in ward")] == [None] * 7
    assert [concept_of(word) for word in ("ramipril", "e11.9", "05", "twice")] == [
        "drug ramipril",
        "sign e11.9",
        "5",
        "2",
    ]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("TSH of 8.4 and creatinine of 21", "creatinine measured 21; the TSH was 8.4", True),
        ("TSH of 8.4 and creatinine of 21", "creatinine measured 8.4; the TSH was 21", False),
        ("lisinopril 5 mg and metoprolol 50 mg", "metoprolol 50 mg with lisinopril 5 mg", True),
        ("lisinopril 5 mg and metoprolol 50 mg", "metoprolol 5 mg with lisinopril 50 mg", False),
        ("pain of the left knee and right hip", "right hip pain, left knee pain", True),
        ("pain of the left knee and right hip", "pain of the right knee and left hip", False),
        ("There is no fever. Cough is present.", "Without fever. There is a cough.", True),
        ("There is no fever. Cough is present.", "There is no cough. Fever is present.", False),
    ],
)
def test_what_changed_places_is_seen(left: str, right: str, same: bool) -> None:
    """Equal concepts said of other things: numbers, sides and negations that were exchanged."""
    assert critical_keys(tokenize([left]))[0] == critical_keys(tokenize([right]))[0]
    assert agree(left, right) is same and agree(right, left) is same


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("Given 5 mg of it.", "Given 5 mcg of it.", False),
        ("Sodium was 4.1 mmol/L.", "Sodium was 4.1 mg/dL.", False),
        ("Troponin 12 ng/L today", "Troponin 12 ng/mL today", False),
        ("Ill for 3 days, 3 mm large", "Ill for 3 weeks, 3 mm large", False),
        ("Ill for 3 days", "For 3 d it has lasted", True),
        ("Calcium 9 mg/dL", "A calcium of 9 mg", True),
        ("Calcium 9 mg/dL", "Calcium of 9", True),
        ("Take it once daily.", "Take it once weekly.", False),
        ("Take it once daily.", "Once a day it is taken.", True),
        ("Take it at bedtime.", "Take it every morning.", False),
        ("Take it every other day.", "Take it at bedtime.", False),
        ("Take it daily, in the morning.", "Take it every day.", True),
    ],
)
def test_a_number_keeps_its_unit_and_a_drug_its_times(left: str, right: str, same: bool) -> None:
    """What no single word of the key tells; spelling, and a unit that one text leaves out, are no difference."""
    assert critical_keys(tokenize([left]))[0] == critical_keys(tokenize([right]))[0]
    assert agree(left, right) is same and agree(right, left) is same


@pytest.mark.parametrize("name", ["azathioprine", "mycophenolate", "donepezil", "levodopa", "doxazosin", "memantine"])
def test_drugs_that_the_package_writes_about_are_known(name: str) -> None:
    """The list of drugs that are mistaken for one another guards as well; an ordinary word is none."""
    assert concept_of(name) == f"drug {name}"
    assert concept_of("appointment") is None


def made_vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 24)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def search(
    vectors: np.ndarray, threshold: float, classes: np.ndarray, confirm: Callable[[int, int], bool]
) -> dict[int, Duplicate]:
    """All rows in order; what repeats a kept one."""
    meanings = Meanings(vectors, threshold, classes, confirm)
    for number in range(len(vectors)):
        assert meanings.repeats(number) == (number in meanings.found)
    return meanings.found


def test_only_kept_rows_of_the_class_are_partners() -> None:
    """The first of a class stays, its likes name it with their cosine; another class and unlike rows are let alone."""
    vectors = made_vectors(6)
    vectors[3] = vectors[5] = vectors[1]
    vectors[4] = (vectors[1] + 0.3 * vectors[2]) / np.linalg.norm(vectors[1] + 0.3 * vectors[2])
    classes = np.array([1, 1, 1, 1, 1, 2], dtype=np.uint64)
    asked: list[tuple[int, int]] = []
    found = search(vectors, 0.9, classes, lambda row, of: not asked.append((row, of)))  # type: ignore[func-returns-value]
    assert {row: one.of for row, one in found.items()} == {3: 1, 4: 1}
    assert found[4].similarity == pytest.approx(float(vectors[4] @ vectors[1]), abs=1e-5)
    assert asked == [(3, 1), (4, 1)]
    assert search(vectors, 0.9, classes, lambda row, of: False) == {}


def test_a_large_class_is_searched_in_clusters() -> None:
    """9,000 rows in 30 clouds: nearly all of 300 planted likes are found by way of k-means, and nothing else."""
    rng = np.random.default_rng(1)
    clouds = 3 * made_vectors(30, 1)[rng.integers(0, 30, 8700)] + made_vectors(8700, 2)
    likes = clouds[:300] + 0.02 * made_vectors(300, 3)
    vectors = np.concatenate([clouds, likes]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = search(vectors, 0.999, np.zeros(9000, dtype=np.uint64), lambda row, of: True)
    assert all(row - 8700 == one.of for row, one in found.items()) and len(found) > 295


def test_the_lexical_encoder_knows_a_paraphrase_from_another_text(tmp_path: Path) -> None:
    """Words in another order are nearly the same vector; others of the same vocabulary are not."""
    rng = random.Random(0)
    words = [f"word{number}" for number in range(400)]
    texts = [" ".join(["the", "patient", *rng.choices(words, k=60)]) for _ in range(300)]
    moved = [" ".join(rng.sample(text.split(), 55)) for text in texts]
    encoder = LexicalEncoder.fit(texts, 256, 0)
    encoder.save(tmp_path / "lexical.npz")
    again = open_encoder(SemanticDuplicates(), tmp_path / "lexical.npz")
    likeness = encoder.encode(texts) @ again.encode(moved).T
    assert np.diag(likeness).min() > 0.85
    assert (likeness - 2 * np.eye(300)).max() < 0.6


def test_an_encoder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """A folder without a model, and a server without a model's name or without an address: none is taken unasked."""
    for settings, message in (
        ({"encoder": "folder"}, "needs model"),
        ({"encoder": "folder", "model": tmp_path}, "no model folder"),
        ({"encoder": "endpoint", "model_name": "bge"}, "needs base_url"),
        ({"encoder": "endpoint", "base_url": "http://127.0.0.1:9/v1"}, "model_name"),
    ):
        for kind in (SemanticDuplicates, Diversity):
            with pytest.raises(UserError, match=message):
                open_encoder(load(kind, settings), tmp_path / "none.npz")
    with pytest.raises(UserError, match="needs its address"):
        EndpointEncoder("", "bge")
    with (
        in_force({"credentialed": ["notes"]}),
        pytest.raises(UserError, match=r"\(notes\) would go to api.example.org"),
    ):
        EndpointEncoder("https://api.example.org/v1", "bge")


def test_near_duplicates_are_looked_for_within_classes() -> None:
    """The same text in another class is no duplicate."""
    sets = shingle(["a b c d e f"] * 3, 3)
    classes = np.array([7, 8, 7], dtype=np.uint64)
    assert search_near(sign(sets, 128, 0), sets, 0.8, classes) == {2: (0, 1.0)}
