"""Supervised fine-tuning on curated instructions; only the assistant's answer and the end of its turn are trained.

    python -m align.sft align/recipes/sft.yml model=out/… data=out/… out=out/…

Writes a model folder, `dropped.jsonl` (each row that was not trained on, with its reason), `mask.html` and `mask.txt`
(what is trained, to read) and `log/metrics.jsonl`. A killed run continues from its last checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError

LOG = logging.getLogger(__name__)


class Config(config.Config):
    """A model, a curate folder and TRL's own settings."""

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl")

    model: ModelRef = Field(description="the model to train: a folder or a hub id")
    data: Path = Field(description="a curate folder (data/*.parquet), or a folder of Parquet files")
    top_rows: int | None = Field(None, ge=1, description="train on the rows of highest judged quality; default: all")
    max_tokens: int = Field(1024, ge=8, description="drop rows that are longer")
    heldout_share: float = Field(0.02, ge=0, lt=1, description="share of instructions to measure the loss on")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="the type to save the weights in")
    show_text: bool | None = Field(
        None, description="write texts of training rows into mask files; default: where their licence is known and open"
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="trl.SFTConfig, as it stands")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")


def main(settings: Config, callbacks: Sequence[Any] = ()) -> Path:
    """Train, measure the loss before and after on held-out rows, save. `callbacks` are transformers' own."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from align import rows
    from align.prepare import choose_rows
    from medsmith.access import may_show
    from medsmith.masks import CHAT, CONVERSATIONS, look
    from medsmith.models import load_model, load_tokenizer
    from medsmith.training import run_trainer, save_model, trainer_arguments

    if "max_length" in settings.trainer:
        raise UserError("trainer: 'max_length' would cut answers short; set max_tokens, which drops long rows instead")
    with run.start(settings, "align.sft") as this:
        block = {"assistant_only_loss": True, "max_length": settings.max_tokens} | settings.trainer
        arguments = trainer_arguments(SFTConfig, block, this.folder, settings.seed, settings.threads)
        tokenizer = load_tokenizer(settings.model)
        chosen = choose_rows(
            this, settings.data, tokenizer, settings.max_tokens, settings.heldout_share, settings.top_rows
        )
        LOG.info("%(rows)d rows: %(train)d to train on, %(heldout)d held out, %(dropped)d dropped", chosen.counts)
        train, heldout = (
            Dataset.from_list([{"messages": rows.messages(row)} for row in part]) if part else None
            for part in (chosen.train, chosen.heldout)
        )
        try:
            trainer = SFTTrainer(
                model=load_model(settings.model),
                args=arguments,
                train_dataset=train,
                eval_dataset=heldout,
                processing_class=tokenizer,
                callbacks=list(callbacks),
            )
        except ValueError as error:  # TRL checks template and settings against one another
            raise UserError(f"trl refuses the settings: {error}") from error
        trained = look(
            trainer,
            tokenizer,
            CHAT if arguments.assistant_only_loss else CONVERSATIONS,
            this.folder,
            show=may_show(settings.show_text, [settings.data]),
            # Packed rows are no longer those that were chosen.
            labels=None if arguments.packing else [row.task_type for row in chosen.train],
        )
        before = _loss(trainer)
        summary = run_trainer(trainer, this, "sft")
        this.facts["sft"] = summary | {
            "trained_share": round(trained, 4),
            "heldout_loss_before": before,
            "heldout_loss_after": _loss(trainer),
        }
        save_model(trainer.model, tokenizer, this.folder, settings.dtype)
        return this.finish(**chosen.counts)


def _loss(trainer: Any) -> float | None:
    """The mean loss on held-out rows; None where none are held out."""
    from transformers import PrinterCallback

    if trainer.eval_dataset is None:
        return None
    trainer.remove_callback(PrinterCallback)  # standard output is the command's result
    return round(float(trainer.evaluate()["eval_loss"]), 6)


if __name__ == "__main__":
    run_command(main, Config)
