"""What a curated set's card, page and coverage say of it; texts are read of a few sampled rows only."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mediflow.curation.card import write_curated_card
from mediflow.curation.columns import AXES, TEXTS, Columns
from mediflow.curation.coverage import describe_coverage, read_planned
from mediflow.curation.curated import CRITERIA
from mediflow.curation.decide import Decided
from mediflow.curation.page import Described, write_page
from mediflow.curation.semantic import LexicalEncoder
from medsmith.records import write_json

if TYPE_CHECKING:
    import polars

SAMPLES = 300
SHOWN_CHARACTERS = 200


class Settings(Protocol):
    """What is read of curate's settings."""

    @property
    def title(self) -> str:
        """The data set's name."""

    @property
    def license(self) -> str | None:
        """A Hugging Face licence identifier."""

    @property
    def map_rows(self) -> int:
        """Rows on the map."""

    @property
    def seed(self) -> int:
        """What is drawn."""


@dataclass(frozen=True)
class Curation:
    """Rows, what was decided of them, and what is known of the whole."""

    columns: Columns
    decided: Decided
    scores: NDArray[np.float64]
    facts: Mapping[str, Any]


def write_description(folder: Path, settings: Settings, one: Curation, generated: Sequence[Path]) -> None:
    """Write coverage.json, README.md and report.html."""
    rows = _rows(one)
    planned = [cell for path in generated for cell in read_planned(path / "coverage.json")]
    coverage = describe_coverage(rows, planned)
    write_json(folder / "coverage.json", coverage)
    facts = dict(one.facts) | {"teachers": _teachers(one, rows)} | _verification(one)
    tasks = rows.filter(rows["decision"] == "kept")["task_type"].cast(str).value_counts().sort("task_type")
    write_curated_card(folder / "README.md", settings, dict(tasks.iter_rows()), len(rows), facts)
    points = _points(one, rows, settings)
    described = Described(settings.title, rows, points, _samples(one), coverage, one.decided.contamination, facts)
    write_page(folder / "report.html", described)


def _rows(one: Curation) -> polars.DataFrame:
    """One line a row that came in, as the page wants it."""
    import polars

    names = polars.Series(one.decided.names, dtype=polars.String)
    table = one.columns.table.select(*AXES, *(f"{part}_words" for part in TEXTS))
    split = polars.col("input_data").cast(polars.String).str.splitn(": ", 2)
    return table.with_columns(
        split.struct.field("field_0").cast(polars.Categorical).alias("document"),
        split.struct.field("field_1").fill_null("").cast(polars.Categorical).alias("section"),
        *(polars.Series(name, one.scores[:, place]).fill_nan(None) for place, name in enumerate(CRITERIA)),
        names.gather(one.decided.reason.astype(np.int64)).cast(polars.Categorical).alias("decision"),
    )


def _teachers(one: Curation, rows: polars.DataFrame) -> dict[str, dict[str, int]]:
    """Rows and kept rows of each teacher; empty where rows do not name theirs."""
    import polars

    counted = (
        polars.DataFrame({"teacher": one.columns.table["teacher"], "kept": one.decided.reason == 0})
        .group_by("teacher")
        .agg(polars.len().alias("rows"), polars.col("kept").sum())
        .sort("teacher")
    )
    del rows
    return {name: {"rows": count, "kept": kept} for name, count, kept in counted.iter_rows() if name}


def _verification(one: Curation) -> dict[str, Any]:
    """Facts that were checked and contradicted in kept rows; nothing where no row was checked."""
    kept = one.columns.table.select("checked", "contradicted")[one.decided.rank]
    rows = len(kept) - kept["checked"].null_count()
    if not rows:
        return {}
    checked, contradicted = int(kept["checked"].sum()), int(kept["contradicted"].sum() or 0)
    return {"verification": {"rows": rows, "checked": checked, "contradicted": contradicted}}


def _samples(one: Curation) -> list[dict[str, Any]]:
    """Kept rows with their texts, the best of every cell of task and input, as far as the number goes."""
    cells = one.columns.table.select("task_type", "input_data", "output_format")[one.decided.rank]
    seen: dict[tuple[Any, ...], int] = {}
    places: list[tuple[int, int]] = []
    for place, cell in enumerate(cells.iter_rows()):
        nth = seen[cell] = seen.get(cell, -1) + 1
        if nth < 3:
            places.append((nth, place))
    chosen = sorted(place for _, place in sorted(places)[:SAMPLES])
    samples = []
    for number in one.decided.rank[chosen].tolist():
        row = one.columns.texts.row(number)
        means = [None if value != value else value for value in one.scores[number].tolist()]
        samples.append(row | dict(zip(CRITERIA, means, strict=True)))
    return samples


def _points(one: Curation, rows: polars.DataFrame, settings: Settings) -> polars.DataFrame:
    """A sample of all rows in two dimensions: words, 50 directions, t-SNE; equal rows and seed give equal points."""
    import polars

    rng = random.Random(f"map {settings.seed}")
    numbers = sorted(rng.sample(range(len(rows)), min(settings.map_rows, len(rows))))
    about = rows.select("task_type", "input_data", "decision")[numbers].with_columns(polars.all().cast(polars.String))
    if len(numbers) < 10:
        return about.clear().with_columns(x=polars.lit(0.0), y=polars.lit(0.0), text=polars.lit(""))
    texts = [one.columns.texts.content(number) for number in numbers]
    places = np.round(_flatten(texts, settings.seed), 2)
    return about.with_columns(
        x=places[:, 0], y=places[:, 1], text=polars.Series([text[:SHOWN_CHARACTERS] for text in texts])
    ).select("x", "y", *about.columns, "text")


def _flatten(texts: Sequence[str], seed: int) -> NDArray[np.float64]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no stubs

    # One thread: sums in another order would end in another picture.
    with threadpool_limits(1):
        vectors = LexicalEncoder.fit(texts, 256, seed).encode(texts)
        vectors = PCA(min(50, len(texts) - 1), random_state=seed).fit_transform(vectors)
        map_ = TSNE(2, perplexity=min(30.0, (len(texts) - 1) / 3), init="pca", random_state=seed, max_iter=500)
        found: NDArray[np.float64] = map_.fit_transform(vectors).astype(np.float64)
    return found
