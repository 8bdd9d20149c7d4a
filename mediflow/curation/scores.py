"""The judges' scores of the rows that are curated, and whether a judge folder is of these rows at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mediflow.curation.columns import Columns
from mediflow.curation.curated import CRITERIA
from medsmith import run
from medsmith.errors import UserError
from medsmith.records import read_jsonl, read_parts


class Settings(Protocol):
    """What is read of curate's settings."""

    @property
    def generated(self) -> Path:
        """The first generate folder."""

    @property
    def more_generated(self) -> list[Path]:
        """Further ones."""

    @property
    def judged(self) -> Path | None:
        """Its judge folder."""

    @property
    def more_judged(self) -> list[Path]:
        """Those of the further ones."""


def require_own_judges(config: Settings, records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse judge folders that know none of the instructions, before any row is read into columns.

    `records` are run.json of the generate folders. Where one of the judges was made from one of these, no id is read.

    Raises:
        UserError: see above, or a folder without scores.
    """
    folders = _judge_folders(config)
    keys = {record["key"] for record in records}
    own = [run.require_finished(folder).get("parents", {}).get("generated") in keys for folder in folders]
    for folder in folders:
        if not (folder / "scores.jsonl").is_file():
            raise UserError(f"judged: {folder} holds no scores.jsonl; give a folder of mediflow.judge")
    if not folders or any(own):
        return
    judged = {str(row["instruction_id"]) for folder in folders for row in read_jsonl(folder / "scores.jsonl")}
    parts = (folder / "instructions" for folder in (config.generated, *config.more_generated))
    if not any(str(row["instruction_id"]) in judged for part in parts for row in read_parts(part)):
        raise UserError(f"{folders[0]} judged none of the instructions of {config.generated}; give their own judge run")


def read_scores(config: Settings, columns: Columns) -> NDArray[np.float64]:
    """The mean scores of each row's instruction, one column a criterion; not a number where no judge answered."""
    import polars

    folders = _judge_folders(config)
    if not folders:
        return np.full((len(columns), len(CRITERIA)), np.nan)
    names: list[str] = []
    means: list[tuple[float | None, ...]] = []
    for folder in folders:
        for row in read_jsonl(folder / "scores.jsonl"):
            names.append(str(row["instruction_id"]))
            means.append(tuple(row["mean"].get(name) for name in CRITERIA))
    schema = dict.fromkeys(CRITERIA, polars.Float64)
    held = polars.DataFrame(means, schema=schema, orient="row").with_columns(
        instruction_id=polars.Series(names, dtype=polars.String)
    )
    wanted = columns.table.select("instruction_id")
    joined = wanted.join(
        held.unique("instruction_id", keep="last", maintain_order=True),
        on="instruction_id",
        how="left",
        maintain_order="left",
    )
    scores: NDArray[np.float64] = joined.select(CRITERIA).to_numpy().astype(np.float64)
    return scores


def describe_judges(config: Settings) -> list[dict[str, Any]]:
    """Of each judge folder: the model, its samples, their agreement on quality, and the planted errors it told."""
    described = []
    for folder in _judge_folders(config):
        record = run.require_finished(folder)
        facts = record["facts"]
        calibration = facts.get("calibration") or {}
        quality = calibration.get("criteria", {}).get("quality", {})
        described.append(
            {
                "judge": facts.get("judge", ""),
                "samples": record["config"].get("samples"),
                "agreement": facts.get("agreement", {}).get("samples", {}).get("quality"),
                "planted": quality.get("n", 0),
                "told": quality.get("lower", 0),
            }
        )
    return described


def _judge_folders(config: Settings) -> list[Path]:
    return [folder for folder in (config.judged, *config.more_judged) if folder is not None]
