"""Which of many questions to keep: clusters of their embeddings, the most central of each, then the most different.

The paper clusters question and context by HDBSCAN and keeps all outliers and one question of each cluster; `kmeans`
gives a set of the size that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mediflow.curation.semantic import EncoderConfig, LexicalEncoder, Vectors, open_encoder

Labels = NDArray[np.int64]
OUTLIER = -1
RANDOM_DRAWS = 20


class Diversity(EncoderConfig):
    """How questions are embedded and chosen."""

    method: Literal["hdbscan", "kmeans", "none"] = Field(
        "hdbscan",
        description="hdbscan: all outliers and one question of each cluster (the paper); kmeans: of every cluster the "
        "most central, then those least like all chosen; none: drawn at random",
    )
    least_cluster: int = Field(2, ge=2, description="the smallest cluster of hdbscan; the paper does not tell its own")
    clusters: int | None = Field(None, ge=1, description="clusters of kmeans; default: a quarter of what is kept")


class Choice(NamedTuple):
    """What was chosen, in order, and the cluster of every question (-1: an outlier)."""

    chosen: list[int]
    labels: Labels


def embed(texts: Sequence[str], settings: Diversity, seed: int) -> Vectors:
    """Vectors of length 1; the lexical encoder learns from these texts what is rare."""
    if settings.encoder == "lexical":
        return LexicalEncoder.fit(texts, settings.dimensions, seed).encode(texts)
    return open_encoder(settings, Path()).encode(texts)


def choose(vectors: Vectors, quota: int, settings: Diversity, seed: int) -> Choice:
    """Choose at most `quota` rows; equal vectors, settings and seed give the same choice."""
    count = len(vectors)
    if settings.method == "none" or count < 2:
        drawn = sorted(np.random.default_rng(seed).permutation(count)[:quota].tolist())
        return Choice(drawn, np.zeros(count, dtype=np.int64))
    if settings.method == "hdbscan":
        labels = _hdbscan(vectors, settings.least_cluster)
    else:
        labels = _kmeans(vectors, min(count, settings.clusters or max(1, quota // 4)), seed)
    groups = _groups(labels)
    first = [_most_central(vectors, members) for members in groups] + np.flatnonzero(labels == OUTLIER).tolist()
    if len(first) >= quota:
        return Choice(sorted(_most_different(vectors, first, first[:1], quota)), labels)
    if settings.method == "hdbscan":
        return Choice(sorted(first), labels)
    return Choice(sorted(_most_different(vectors, range(count), first, quota)), labels)


def mean_nearest(vectors: Vectors) -> float | None:
    """The mean likeness (cosine) of a row to the one most like it; None below two rows."""
    if len(vectors) < 2:
        return None
    total = 0.0
    for start in range(0, len(vectors), 1024):
        block = vectors[start : start + 1024] @ vectors.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        total += float(block.max(axis=1).sum())
    return round(total / len(vectors), 6)


def mean_nearest_at_random(vectors: Vectors, size: int, seed: int) -> float | None:
    """The same for so many rows drawn at random: a smaller set is more different by its size alone."""
    rng = np.random.default_rng(seed)
    drawn = [mean_nearest(vectors[rng.permutation(len(vectors))[:size]]) for _ in range(RANDOM_DRAWS)]
    known = [value for value in drawn if value is not None]
    return round(sum(known) / len(known), 6) if known else None


def _hdbscan(vectors: Vectors, least: int) -> Labels:
    from sklearn.cluster import HDBSCAN

    if len(vectors) <= least:
        return np.full(len(vectors), OUTLIER, dtype=np.int64)
    labels: Labels = HDBSCAN(min_cluster_size=least, copy=True).fit_predict(vectors.astype(np.float64))
    return labels.astype(np.int64)


def _kmeans(vectors: Vectors, clusters: int, seed: int) -> Labels:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no stubs

    # Sums in another order, as by more threads, may move a row that lies between two centres.
    with threadpool_limits(1):
        labels: Labels = KMeans(clusters, n_init=4, random_state=seed).fit_predict(vectors.astype(np.float64))
    return labels.astype(np.int64)


def _groups(labels: Labels) -> list[NDArray[np.int64]]:
    """The members of every cluster, the largest first."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels) if label != OUTLIER]
    return sorted(groups, key=lambda members: (-len(members), int(members[0])))


def _most_central(vectors: Vectors, members: NDArray[np.int64]) -> int:
    own = vectors[members]
    return int(members[int(np.argmax(own @ own.mean(axis=0)))])


def _most_different(vectors: Vectors, pool: Sequence[int], chosen: Sequence[int], count: int) -> list[int]:
    """What is chosen and then, again and again, the one of a pool that is least like all chosen, up to `count`."""
    found = list(chosen)
    left = np.array([number for number in pool if number not in set(chosen)], dtype=np.int64)
    nearest = (vectors[left] @ vectors[found].T).max(axis=1)
    while len(found) < count and len(left):
        at = int(np.argmin(nearest))
        found.append(int(left[at]))
        left, nearest = np.delete(left, at), np.delete(nearest, at)
        nearest = np.maximum(nearest, vectors[left] @ vectors[found[-1]])
    return found
