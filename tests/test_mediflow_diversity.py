"""The choice of the most different: beside a random pick, on planted clusters; as the paper has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mediflow.validation.diversity import Diversity, choose, embed, mean_nearest, mean_nearest_at_random


def planted(sizes: list[int], seed: int, spread: float = 0.5, dimensions: int = 24) -> tuple[Any, list[int]]:
    """Unit vectors about directions of their own, and whose each is."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0][: len(sizes)]
    owners = [number for number, size in enumerate(sizes) for _ in range(size)]
    noise = rng.standard_normal((len(owners), dimensions)) * spread / dimensions**0.5
    points = centres[owners] + noise
    order = rng.permutation(len(owners))
    vectors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)[order]
    return vectors, [owners[place] for place in order]


@pytest.mark.parametrize("seed", range(6))
def test_the_chosen_are_more_different_than_a_random_pick(seed: int) -> None:
    """Of clusters of 120 down to 3: every one is represented, and the nearest are less alike than of a random pick."""
    vectors, owners = planted([120, 40, 12, 5, 3], seed)
    for clusters, quota in ((8, 20), (None, 24), (12, 12)):
        given = Diversity(method="kmeans", clusters=clusters)
        chosen, labels = choose(vectors, quota, given, seed)
        assert len(chosen) == len(set(chosen)) == quota
        assert {owners[number] for number in chosen} == {0, 1, 2, 3, 4}
        nearest, by_chance = mean_nearest(vectors[chosen]), mean_nearest_at_random(vectors, quota, seed)
        assert nearest is not None and by_chance is not None
        assert nearest < by_chance - 0.01
        again = choose(vectors.copy(), quota, given, seed)
        assert again.chosen == chosen
        assert (again.labels == labels).all()


def test_a_random_pick_leaves_small_clusters_out() -> None:
    """The negative control: drawn at random, most picks of the same size miss a cluster, and are as alike as chance."""
    missed = 0
    for seed in range(6):
        vectors, owners = planted([120, 40, 12, 5, 3], seed)
        chosen, _ = choose(vectors, 20, Diversity(method="none"), seed)
        missed += {owners[number] for number in chosen} != {0, 1, 2, 3, 4}
        drawn, by_chance = mean_nearest(vectors[chosen]), mean_nearest_at_random(vectors, 20, seed + 1)
        assert drawn == pytest.approx(by_chance, abs=0.08)
    assert missed >= 3


def test_the_papers_way_keeps_one_of_each_cluster_and_all_outliers() -> None:
    """Three tight clusters and two rows far from all: HDBSCAN keeps 3 + 2, a quota below that the most different."""
    vectors, owners = planted([30, 9, 4, 1, 1], 1, spread=0.05)
    chosen, labels = choose(vectors, 100, Diversity(least_cluster=3), 0)
    assert sorted(owners[number] for number in chosen) == [0, 1, 2, 3, 4]
    assert {owners[number] for number in np.flatnonzero(labels == -1)} == {3, 4}
    fewer = choose(vectors, 4, Diversity(least_cluster=3), 0).chosen
    assert len(fewer) == 4
    assert set(fewer) < set(chosen)


def test_mean_nearest_is_what_it_says() -> None:
    """Of three rows, two equal and one at a right angle: (1 + 1 + 0) / 3; of one row there is no nearest."""
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert mean_nearest(vectors) == pytest.approx(2 / 3, abs=1e-6)
    assert mean_nearest(vectors[:1]) is None


def test_the_lexical_encoder_sees_who_is_alike() -> None:
    """Two questions in nearly the same words are nearer than two on different matters."""
    texts = ["Which drug treats asthma at night?", "Which drug treats asthma by day?", "On which side is the fracture?",
             "How large is the effusion seen?"]  # fmt: skip
    vectors = embed(texts, Diversity(), 0)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > max(likeness[0, 2], likeness[0, 3], likeness[1, 2]) + 0.1
