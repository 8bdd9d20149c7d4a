"""DPO's reference: its log-probabilities are computed once and found again by what they were computed from.

TRL keeps them too, but in a folder that ends with the process, where the rows are made in memory as they are here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from medsmith.records import content_id, read_json, write_json

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""What TRL's trainer wants beside each pair."""


def trainer_class(folder: Path) -> Any:
    """TRL's DPOTrainer that keeps the reference's log-probabilities in `folder`, a file for each content."""
    from datasets import Dataset, concatenate_datasets
    from trl import DPOTrainer

    class Trainer(DPOTrainer):
        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            precision = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else "as stored"
            key = content_id(self._precompute_model_hash, digest_of(dataset), precision)
            file = folder / f"{key}.json"
            if not file.is_file():
                made = super()._precompute_ref_logps(dataset, name, batch_size)
                if self.accelerator.is_main_process:
                    write_json(file, {column: list(made[column]) for column in COLUMNS})
                return made
            return concatenate_datasets([dataset, Dataset.from_dict(read_json(file))], axis=1)

    return Trainer


def digest_of(dataset: Any) -> str:
    """Of all rows of a data set and of their order."""
    total = hashlib.sha256()
    for row in dataset:
        total.update(content_id(sorted(row.items())).encode())
    return total.hexdigest()
