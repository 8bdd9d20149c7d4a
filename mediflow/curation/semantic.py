"""Rows that say the same in other words: embeddings, cosine similarity within groups, and a guard on what is said.

Likeness of vectors does not see a changed dose or a lost "no". So only rows with equal concepts
(mediflow/vocabulary/critical.py: numbers, negations, sides, directions, drugs) are compared at all, which also makes
the search small and exact: the rows of a group fall into many small classes. A class that is large (texts without any
number, say) is split by k-means first and searched within its clusters, as SemDeDup does (Abbas et al. 2023,
arXiv:2303.09540).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medsmith import licences
from medsmith.config import Block, execution
from medsmith.dedup import Duplicate
from medsmith.errors import UserError
from medsmith.shingles import Hashes, Words, tokenize

Vectors = NDArray[np.float32]
BUCKETS = 1 << 16
"""Columns that words are hashed into by the encoder that needs no model."""
SEARCHED_WHOLE = 8192
CLUSTER_ROWS = 2048


class EncoderConfig(Block):
    """Who turns texts into vectors."""

    encoder: Literal["lexical", "folder", "endpoint"] = Field(
        "lexical",
        description="lexical: words weighted by how rare they are in these rows, no model needed; folder: a "
        "sentence-transformers or other encoder in `model`; endpoint: OpenAI-compatible /v1/embeddings",
    )
    model: Path | None = Field(None, description="the model's folder, for encoder: folder")
    model_name: str = Field("", description="the model's name, for encoder: endpoint")
    base_url: str | None = execution(None, "the endpoint's address; its key is OPENAI_API_KEY")
    dimensions: int = Field(256, ge=2, description="of the lexical encoder's vectors")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.encoder == "folder" and self.model is None:
            raise ValueError("encoder folder needs model, the folder of a local encoder")
        if self.encoder == "endpoint" and not (self.base_url and self.model_name):
            raise ValueError(
                "encoder endpoint needs base_url, its address, and model_name, the server's name of its model"
            )
        return self


class SemanticDuplicates(EncoderConfig):
    """When two rows say the same in other words. Rows that differ in a number, negation, side or drug never do."""

    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="cosine similarity that drops the lesser row; null: not looked for, since of rows that differ in a "
        "diagnosis or finding only some are taken for the same (benchmarks/README.md); 0.7 suits the lexical encoder",
    )
    least_concepts: int = Field(
        5, ge=0, description="numbers, negations, sides, drugs … that a row must have, for equal ones to say something"
    )
    sample: int = Field(20_000, ge=2, description="rows that the lexical encoder learns from")


class Encoder(Protocol):
    """Texts to vectors of length 1."""

    def encode(self, texts: Sequence[str], words: Words | None = None) -> Vectors:
        """One vector a text; `words` are the texts' words where they are at hand."""


class LexicalEncoder:
    """Weighted words (TF-IDF, hashed) in fewer dimensions by a random projection, about the mean of a sample.

    A projection keeps the angles of all words alike. Latent semantic analysis does not: its first directions are those
    of style, which a paraphrase changes (measured: reworded rows 0.2 to 0.4 by LSA, 0.8 to 0.9 by projection).
    """

    def __init__(self, weights: Vectors, centre: Vectors) -> None:
        self.weights = weights
        self.centre = centre

    @classmethod
    def fit(cls, texts: Sequence[str], dimensions: int, seed: int) -> LexicalEncoder:
        """Learn how rare words are; equal texts and seed give equal weights."""
        counts = _count(tokenize(texts))
        held = np.bincount(counts.indices, minlength=BUCKETS)
        # A word that every row has says nothing, and weighs nothing.
        rarity = np.log((1 + len(texts)) / np.maximum(1, held)).astype(np.float32)
        directions = np.random.default_rng(seed).standard_normal((BUCKETS, dimensions), dtype=np.float32)
        weights = rarity[:, None] * directions
        centre = np.asarray(_unit(_dampened(counts) @ weights).mean(axis=0), dtype=np.float32)
        return cls(weights, centre)

    def encode(self, texts: Sequence[str], words: Words | None = None) -> Vectors:
        """Vectors about the mean of the sample: what all rows share says nothing of two of them."""
        counts = _count(words if words is not None else tokenize(texts))
        return _unit(_unit(_dampened(counts) @ self.weights) - self.centre)

    def save(self, path: Path) -> None:
        """Write to one file, which other processes load."""
        np.savez(path, weights=self.weights, centre=self.centre)

    @classmethod
    def load(cls, path: Path) -> LexicalEncoder:
        """What `save` wrote."""
        with np.load(path) as held:
            return cls(held["weights"], held["centre"])


class FolderEncoder:
    """Mean-pooled last hidden states of a local encoder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise UserError(f"the encoder {folder} is no model folder (no config.json); give one, or use lexical")
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def encode(self, texts: Sequence[str], words: Words | None = None) -> Vectors:
        """Thirty-two texts at a time, each cut at the model's length."""
        import torch

        blocks = []
        longest = min(int(self._tokenizer.model_max_length), int(self._model.config.max_position_embeddings))
        for first in range(0, len(texts), 32):
            batch = self._tokenizer(
                list(texts[first : first + 32]), padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            blocks.append(((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float().numpy())
        return _unit(np.concatenate(blocks))


class EndpointEncoder:
    """The embeddings of an OpenAI-compatible server."""

    def __init__(self, base_url: str | None, model: str) -> None:
        """Raises a UserError without an address, or where the open run is under an agreement and it is remote."""
        if not base_url:  # the library would take a public one
            raise UserError("an encoder behind an endpoint needs its address; set base_url")
        licences.refuse_remote(base_url)
        import os

        from openai import OpenAI

        # Local servers take any key; the client insists on one.
        self._client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY") or "none")
        self._model = model

    def encode(self, texts: Sequence[str], words: Words | None = None) -> Vectors:
        """A hundred texts a request."""
        from openai import OpenAIError

        found: list[list[float]] = []
        for first in range(0, len(texts), 100):
            try:
                reply = self._client.embeddings.create(model=self._model, input=list(texts[first : first + 100]))
            except OpenAIError as error:
                said = " ".join(str(error).split())[:200]
                raise UserError(f"embeddings of {self._model}: {said}; check base_url and the key") from None
            found += [one.embedding for one in sorted(reply.data, key=lambda one: one.index)]
        return _unit(np.array(found, dtype=np.float32))


def open_encoder(settings: EncoderConfig, lexical: Path) -> Encoder:
    """The encoder that the settings name; the lexical one was fitted before and lies at `lexical`."""
    match settings.encoder:
        case "lexical":
            return LexicalEncoder.load(lexical)
        case "folder":
            assert settings.model is not None, "the settings were checked"
            return FolderEncoder(settings.model)
        case "endpoint":
            return EndpointEncoder(settings.base_url, settings.model_name)


class Meanings:
    """The rows kept so far, asked row by row in order of preference: does this one say the same as one of them?

    `confirm(row, of)` reads the two texts; it is asked only about pairs at or above the threshold.
    """

    def __init__(
        self, vectors: Vectors, threshold: float, classes: Hashes, confirm: Callable[[int, int], bool], seed: int = 0
    ) -> None:
        self.found: dict[int, Duplicate] = {}
        self._vectors = vectors
        self._threshold = threshold
        self._confirm = confirm
        self._parts: list[_Kept] = []
        self._part_of = np.full(len(vectors), -1, dtype=np.int64)
        order = np.argsort(classes, kind="stable")
        starts = np.flatnonzero(np.diff(classes[order], prepend=classes[order][:1] ^ np.uint64(1)))
        for members in np.split(order, starts[1:]):
            for part in _clusters(vectors, members, seed) if len(members) > SEARCHED_WHOLE else [members]:
                if len(part) > 1:
                    self._part_of[part] = len(self._parts)
                    self._parts.append(_Kept(len(part), vectors.shape[1]))

    def repeats(self, number: int) -> bool:
        """Whether the row repeats one that is kept, noted in `found` with the most alike; if not, it is kept."""
        if self._part_of[number] < 0:
            return False
        kept = self._parts[self._part_of[number]]
        own = self._vectors[number].astype(np.float32)
        likeness = kept.vectors[: len(kept.rows)] @ own
        candidates = np.flatnonzero(likeness >= self._threshold)
        # Most alike first; of equals the preferred one.
        for place in candidates[np.argsort(-likeness[candidates], kind="stable")].tolist():
            if self._confirm(number, kept.rows[place]):
                self.found[number] = Duplicate(kept.rows[place], round(float(likeness[place]), 6))
                return True
        kept.vectors[len(kept.rows)] = own
        kept.rows.append(number)
        return False


class _Kept:
    """The kept rows of a class or cluster, and their vectors from the first place on."""

    def __init__(self, most: int, dimensions: int) -> None:
        self.rows: list[int] = []
        self.vectors: Vectors = np.empty((most, dimensions), dtype=np.float32)


def _clusters(vectors: Vectors, members: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    from sklearn.cluster import MiniBatchKMeans

    own = vectors[members].astype(np.float32)
    means = MiniBatchKMeans(-(-len(members) // CLUSTER_ROWS), random_state=seed, n_init=1, batch_size=4096)
    labels = means.fit_predict(own)
    return [members[labels == label] for label in np.unique(labels)]


def _count(words: Words) -> Any:
    """Words of each text by bucket, as a sparse matrix."""
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # has no stubs of its own

    columns = (words.hashes & np.uint64(BUCKETS - 1)).astype(np.int32)
    ones = np.ones(len(columns), dtype=np.float32)
    counts = csr_matrix((ones, columns, words.offsets), shape=(len(words), BUCKETS))
    counts.sum_duplicates()
    return counts


def _dampened(counts: Any) -> Any:
    """A word said ten times says less than ten words."""
    dampened = counts.copy()
    dampened.data = 1 + np.log(counts.data)
    return dampened


def _unit(vectors: Any) -> Vectors:
    values = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Vectors = values / np.maximum(lengths, 1e-12).astype(np.float32)
    return unit
