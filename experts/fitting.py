"""One phase of an expert's training with TRL: packed blocks in, a model folder out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.sequences import Phase
from experts.texts import without_address
from medsmith import run
from medsmith.dev_slice import Evaluate, open_slice
from medsmith.lora import Lora
from medsmith.packing import Blocks, reads_borders

SHAPE: dict[str, Any] = {
    "max_length": None,
    "include_num_input_tokens_seen": "all",
    # The data set makes a block when it is asked for one: there is nothing to prepare and no column to remove.
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "remove_unused_columns": False,
}
"""What a recipe cannot set, for documents are always packed."""


@dataclass(frozen=True)
class Fit:
    """How a phase is trained. `trainer` is TRL's block."""

    name: str
    trainer: dict[str, Any]
    max_tokens: int
    dtype: str
    seed: int
    threads: int | None = None
    lora: Lora | None = None
    outputs_only: bool = False
    """Rows are what a teacher wrote, without the documents."""
    show: bool = False
    """Whether texts of rows may be written down."""
    evaluate: Evaluate | None = None
    prompts: Sequence[Sequence[int]] = ()
    """Beginnings of held-out documents, which the model goes on from for the report."""


def fit(
    this: run.Run,
    how: Fit,
    phase: Phase,
    start: str | Path,
    tokenizer: Any,
    target: Path,
    callbacks: Sequence[Any],
) -> dict[str, Any]:
    """Train the model `start` on a phase into the folder `target`; return what a card should say."""
    from trl import SFTConfig, SFTTrainer

    from medsmith.attention import set_attention
    from medsmith.labelled_loss import score_labelled
    from medsmith.lora import load_to_train, peft_config, save_trained
    from medsmith.masks import DOCUMENTS, DOCUMENTS_AND_CHATS, OUTPUTS, look
    from medsmith.training import trainer_arguments
    from medsmith.training_report import Story, follow

    blocks = phase.blocks(how.max_tokens)
    kind = DOCUMENTS_AND_CHATS if phase.chats else OUTPUTS if how.outputs_only else DOCUMENTS
    model = load_to_train(start, how.lora, device="cpu", seed=how.seed)
    block = how.trainer | SHAPE | (in_order(how.trainer, phase.epochs) if phase.plan is not None else {})
    arguments = trainer_arguments(SFTConfig, block, this.folder, how.seed, how.threads, phase=how.name)
    attention = set_attention(model, how.max_tokens, half=arguments.bf16 or arguments.fp16)
    # Flash attention reads one flattened row; every other kernel would draw a mask quadratic in it (see Blocks).
    flat = reads_borders(model)
    arguments.padding_free = flat
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=block_set(phase, blocks),
        processing_class=tokenizer,
        data_collator=None if flat else Blocks(tokenizer.pad_token_id),
        peft_config=peft_config(how.lora),
        callbacks=list(callbacks),
    )
    score_labelled(trainer)
    facts: dict[str, Any] = {"attention": attention.kernel}
    if how.lora is not None:
        facts |= trained_parameters(trainer.model)
    trained = look(
        trainer,
        tokenizer,
        kind,
        this.folder,
        show=how.show,
        name=f"mask-{how.name}",
        labels=Sources(phase, blocks),
        longest=how.max_tokens,
    )
    story = Story(how.prompts, how.show, data_rows(phase), round(trained, 4))
    summary = follow(trainer, this, how.name, tokenizer, story, open_slice(how.evaluate, tokenizer))
    summary["epochs"] = round(summary["epochs"] * phase.epochs, 4)
    if phase.rehearsed:
        facts["rehearsed"] = {key: phase.rehearsed[key] for key in ("share", "tokens", "trained", "sources")}
    save_trained(trainer.model, tokenizer, target, how.dtype, how.lora, start)
    return summary | facts


@dataclass(frozen=True)
class Sources(Sequence[str]):
    """Of each block, the sources of what is in it; a block may be one of millions."""

    phase: Phase
    blocks: Sequence[Sequence[int]]

    def __len__(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    def __getitem__(self, number: Any) -> Any:
        """The names of the sources of one block."""
        pieces = self.phase.pieces
        return ", ".join(
            sorted({without_address(pieces.sources[pieces.source_numbers[at]]) for at in self.blocks[number]})
        )


def in_order(trainer: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Settings for blocks that are laid out in the order of their training, so many epochs one after the other."""
    return {"train_sampling_strategy": "sequential", "num_train_epochs": trainer["num_train_epochs"] / epochs}


def data_rows(phase: Phase) -> list[dict[str, Any]]:
    """What a report says of each source: the tokens that one epoch reads, or all epochs of what is rehearsed."""
    tokens: Counter[str] = Counter()
    for name, count in phase.summary()["sources"].items():
        tokens[without_address(name)] += count
    # A report multiplies by the epochs of the trainer, and for it the epochs that are laid out are one.
    rows = [{"source": name, "tokens": count, "epochs": phase.epochs} for name, count in sorted(tokens.items())]
    again = phase.rehearsed.get("sources", {})
    return rows + [{"source": name, "tokens": count, "epochs": 1} for name, count in sorted(again.items())]


def block_set(phase: Phase, blocks: Sequence[Sequence[int]]) -> Any:
    """The blocks as a data set that makes each when it is asked for it: a corpus may be larger than memory."""
    from datasets import Dataset

    def make(asked: dict[str, list[int]]) -> dict[str, list[list[int]]]:
        rows = list(phase.rows([blocks[number] for number in asked["block"]]))
        return {key: [row[key] for row in rows] for key in rows[0]}

    return Dataset.from_dict({"block": range(len(blocks))}).with_transform(make)


def trained_parameters(model: Any) -> dict[str, Any]:
    """How many parameters an adapter trains, and their share of those that the model itself has."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # Their method counts packed 4-bit weights as what they stand for.
    whole = model.get_base_model().num_parameters() - trained
    return {"trained_parameters": trained, "trained_share": round(trained / whole, 6)}
