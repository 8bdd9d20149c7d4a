"""The lines of benchmarks.train: which command, with which settings, and the same settings for plain TRL."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.train_data import NANO

CONTEXT = 512
"""Of experts/nano; MediFlow's rows are shrunk from 4,096 to it."""

COMMON: dict[str, Any] = {
    "learning_rate": 2.0e-4,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
}

PLAIN: dict[str, Any] = {
    "bf16": True,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "dataloader_pin_memory": False,
    "seed": 0,
}
"""What our commands choose on a CPU by themselves, and a user of plain TRL has to say; all else is as TRL has it."""


@dataclass(frozen=True)
class Case:
    """One line: `settings` are the command's, `trainer` is TRL's block on both sides."""

    name: str
    command: str
    data: dict[str, str]
    """Settings of the command that name folders of the data."""
    settings: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    sides: tuple[str, ...] = ("ours", "trl", "loop")

    def ours(self, folder: Path, out: Path) -> dict[str, Any]:
        """The settings of our command; the data lie in `folder`."""
        model = "base" if self.command == "experts.train" else "model"
        data = {key: folder / name for key, name in self.data.items()}
        return {"out": out, model: NANO, "threads": 1, "trainer": COMMON | self.trainer} | data | self.settings

    def plain(self, out: Path, **changes: Any) -> dict[str, Any]:
        """TRL's settings for whoever uses it directly."""
        return PLAIN | COMMON | self.trainer | {"output_dir": str(out)} | changes


BOTH = ("ours", "trl")
SFT: dict[str, Any] = {"max_tokens": CONTEXT, "heldout_share": 0.02}
GROUPED: dict[str, Any] = {"gradient_accumulation_steps": 2, "train_sampling_strategy": "group_by_length"}
DPO: dict[str, Any] = {"gradient_accumulation_steps": 2, "beta": 0.1, "precompute_ref_log_probs": True}

CASES = {
    case.name: case
    for case in (
        Case("dapt", "experts.train", {"documents": "documents"}, {"method": "dapt", "max_tokens": 256}),
        Case(
            "pit",
            "experts.train",
            {"documents": "documents", "rows": "rows"},
            # The paper has two epochs in phase 2.
            {"method": "pit", "max_tokens": 256, "phase2": {"num_train_epochs": 1}},
        ),
        Case("sft", "align.sft", {"data": "sft"}, SFT, GROUPED),
        # Sixteen rows at random are the paper's batch of one GPU.
        Case("sft padded", "align.sft", {"data": "sft"}, SFT, {"per_device_train_batch_size": 16}, BOTH),
        Case("sft packed", "align.sft", {"data": "sft"}, SFT, {"packing": True}),
        Case("dpo", "align.dpo", {"data": "pairs"}, {"max_tokens": CONTEXT, "heldout_share": 0.02}, DPO),
    )
}
