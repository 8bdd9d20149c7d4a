"""Supervised fine-tuning on curated instructions; only the assistant's answer and the end of its turn are trained.

    python -m align.sft align/recipes/sft.yml model=out/… data=out/… out=out/…

One folder of rows (`data`), or several in set proportions (`mix`, see align/mix.py). With `trainer: {packing: true}`
rows lie side by side in blocks of max_tokens, none sees another, and a token costs what it costs in a row of its own.
With `lora` an adapter is trained in place of the weights. Any chat template will do: where it does not mark what the
assistant says, the mask is what the answer adds to the rendering (medsmith/answers.py).

Writes a model folder, `data.json` (rows, epochs and tokens by source), `dropped.jsonl` (each row that was not trained
on, with its reason), `mask.html` and `mask.txt` (what is trained, to read) and `log/metrics.jsonl`. A killed run
continues from its last checkpoint.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from align.mix import Source, describe
from align.quotas import Quotas, Room
from medsmith import config, processes, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.dev_slice import Evaluate, open_slice
from medsmith.errors import UserError
from medsmith.lora import Lora
from medsmith.packing import IGNORED, Blocks, Labelled, pack_rows, reads_borders
from medsmith.records import write_json

if TYPE_CHECKING:
    from align.prepare import Chosen
    from medsmith.records import Instruction

LOG = logging.getLogger(__name__)

OURS = {
    "max_length": "would cut answers short; set max_tokens, which drops long rows instead",
    "packing_strategy": "is not for a recipe: rows are packed best-fit, and none sees another",
    "padding_free": "is not for a recipe: set packing",
    "eval_packing": "is not for a recipe: held-out rows are packed as the others are",
}
"""TRL's settings that a recipe may not give, and why."""

WINDOW = 4096
"""Rows of a mixture that are packed among themselves, so that its order stays."""


class Config(config.Config):
    """A model, a curate folder and TRL's own settings."""

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl")

    model: ModelRef = Field(description="the model to train: a folder or a hub id")
    data: Path | None = Field(None, description="a curate folder (data/*.parquet), or a folder of Parquet files")
    mix: dict[str, Source] = Field({}, description="in place of data: several sources, {name: {data: …, share: …}}")
    top_rows: int | None = Field(None, ge=1, description="train on the rows of highest judged quality; default: all")
    quotas: Quotas = Field({}, description="at most so many rows of a kind, e.g. {difficulty_level: {low: 1000}}")
    max_tokens: int = Field(1024, ge=8, description="drop rows that are longer")
    heldout_share: float = Field(0.02, ge=0, lt=1, description="share of instructions to measure the loss on")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="the type to save the weights in")
    show_text: bool | None = Field(
        None, description="write texts of training rows into mask files; default: where their licence is known and open"
    )
    lora: Lora | None = Field(
        None, description="train an adapter: {r: 16, alpha: 32, merge: true}; default: all weights"
    )
    evaluate: Evaluate | None = Field(
        None, description="measure while training: {every_steps: 200, questions: […], patience: 5, keep: best}"
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="trl.SFTConfig, as it stands")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> Config:
        if (self.data is None) == (not self.mix):
            raise ValueError("give exactly one of data (a folder) and mix (several sources)")
        if self.mix and (self.top_rows or self.quotas):
            raise ValueError("top_rows and quotas belong to data; of a mix each source has its own rows and quotas")
        if self.mix and "num_train_epochs" in self.trainer:
            raise ValueError("trainer.num_train_epochs belongs to data; of a mix each source has its own epochs")
        Room(self.quotas, self.top_rows)
        return self

    @property
    def folders(self) -> list[Path]:
        """Where rows come from."""
        return [self.data] if self.data else [source.data for source in self.mix.values()]


def main(settings: Config, callbacks: Sequence[Any] = ()) -> Path:
    """Train, measure the loss before and after on held-out rows, save. `callbacks` are transformers' own."""
    with run.start(settings, "align.sft") as this:
        return tune(settings, this, "sft", callbacks)


def tune(
    settings: Config,
    this: run.Run,
    name: str,
    callbacks: Sequence[Any] = (),
    trainer_of: Callable[..., Any] | None = None,
) -> Path:
    """What every training on rows of instructions is; facts go under `name`.

    `trainer_of` builds a trainer from the arguments of SFTTrainer, which is the default.
    """
    from align.prepare import beginnings, data_rows
    from medsmith.access import may_show
    from medsmith.answers import has_marks
    from medsmith.labelled_loss import score_labelled
    from medsmith.lora import load_to_train, save_trained
    from medsmith.masks import CHAT, CONVERSATIONS, look
    from medsmith.models import load_tokenizer
    from medsmith.training_report import Story, follow, write_report

    arguments, packing = _arguments(settings, this.folder)
    tokenizer = load_tokenizer(settings.model)
    kind = CHAT if arguments.assistant_only_loss else CONVERSATIONS
    labelled_here = kind is CHAT and not has_marks(tokenizer)
    arguments.assistant_only_loss = kind is CHAT and not labelled_here
    chosen = _choose(settings, this, tokenizer)
    LOG.info("%(rows)d rows: %(train)d to train on, %(heldout)d held out, %(dropped)d dropped", chosen.counts)
    model = load_to_train(settings.model, settings.lora, seed=settings.seed)
    arguments.padding_free = packing and reads_borders(model)
    trainer = _trainer(settings, arguments, model, chosen, tokenizer, labelled_here, callbacks, trainer_of)
    if trainer_of is None:
        score_labelled(trainer)
    by_source = _count_trained(trainer.train_dataset, chosen.sources)
    table = describe(chosen.parts, chosen.turns, dict.fromkeys(chosen.parts, 0) | by_source)
    if packing:
        _pack(trainer, settings, tokenizer)
    write_json(
        this.folder / "data.json",
        {
            "max_tokens": settings.max_tokens,
            "packed": packing,
            "sequences": len(trainer.train_dataset),
            "sources": table,
        },
    )
    show = may_show(settings.show_text, settings.folders)
    trained = look(
        trainer,
        tokenizer,
        kind,
        this.folder,
        show=show,
        # Packed rows are no longer those that were chosen.
        labels=None if packing else [row.task_type for row in chosen.train],
    )
    # A model in parts is put into them by the training; DeepSpeed would refuse to evaluate it before.
    before = None if processes.is_sharded(trainer) else _loss(trainer)
    story = Story(beginnings(chosen, tokenizer), show, data_rows(table), round(trained, 4))
    summary = follow(trainer, this, name, tokenizer, story, open_slice(settings.evaluate, tokenizer))
    this.facts[name] = summary | {
        "trained_share": round(trained, 4),
        "heldout_loss_before": before,
        "heldout_loss_after": _loss(trainer),
    }
    save_trained(trainer.model, tokenizer, this.folder, settings.dtype, settings.lora, settings.model)
    write_report(this)
    return this.finish(**chosen.counts)


def _choose(settings: Config, this: run.Run, tokenizer: Any) -> Chosen:
    from align.prepare import choose_mix, choose_rows, require_context

    longest, share = settings.max_tokens, settings.heldout_share
    if settings.data is None:
        chosen = choose_mix(this, settings.mix, tokenizer, longest, share)
    else:
        chosen = choose_rows(this, settings.data, tokenizer, longest, share, settings.top_rows, quotas=settings.quotas)
    require_context(chosen, settings.model, longest)
    return chosen


def _arguments(settings: Config, folder: Path) -> tuple[Any, bool]:
    """TRL's configuration, and whether rows are packed, which is done here."""
    from trl import SFTConfig

    from medsmith.training import trainer_arguments

    for key, why in OURS.items():
        if key in settings.trainer:
            raise UserError(f"trainer: '{key}' {why}")
    packing = bool(settings.trainer.get("packing"))
    block: dict[str, Any] = {"assistant_only_loss": True, "max_length": settings.max_tokens}
    if settings.mix:
        # The order of a mixture is made in align/mix.py.
        block |= {"num_train_epochs": 1, "train_sampling_strategy": "sequential"}
    block |= settings.trainer
    if packing:
        # Rows that are too long were dropped; and of a batch without a mask, padding cannot be told from tokens.
        block |= {"packing": False, "max_length": None, "include_num_input_tokens_seen": "all"}
    return trainer_arguments(SFTConfig, block, folder, settings.seed, settings.threads), packing


def _trainer(
    settings: Config,
    arguments: Any,
    model: Any,
    chosen: Chosen,
    tokenizer: Any,
    labelled_here: bool,
    callbacks: Sequence[Any],
    trainer_of: Callable[..., Any] | None,
) -> Any:
    from datasets import Dataset
    from trl import SFTTrainer

    from medsmith.lora import peft_config

    train, heldout = (
        Dataset.from_list(_examples(part, tokenizer, labelled_here)) if part else None
        for part in (chosen.train, chosen.heldout)
    )
    try:
        return (trainer_of or SFTTrainer)(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=heldout,
            processing_class=tokenizer,
            callbacks=list(callbacks),
            peft_config=peft_config(settings.lora),
        )
    except ValueError as error:  # TRL checks template and settings against one another
        raise UserError(f"trl refuses the settings: {error}") from error


def _examples(part: Sequence[Instruction], tokenizer: Any, labelled_here: bool) -> list[dict[str, Any]]:
    """Conversations for TRL to encode; encoded and labelled here where the template does not mark its answers."""
    from align import rows
    from medsmith.answers import label_answers

    conversations = [rows.messages(row) for row in part]
    if not labelled_here:
        return [{"messages": turns} for turns in conversations]
    return [{"input_ids": one.tokens, "labels": one.labels} for one in label_answers(tokenizer, conversations)]


def _count_trained(dataset: Any, sources: Sequence[str]) -> dict[str, int]:
    """Tokens under the loss by source, repeats counted."""
    counts: Counter[str] = Counter()
    for source, row in zip(sources, dataset, strict=True):
        counts[source] += len(row["labels"]) - row["labels"].count(IGNORED)
    return dict(counts)


def _pack(trainer: Any, settings: Config, tokenizer: Any) -> None:
    """Put blocks in the place of the rows that the trainer has made, masks and all."""
    from datasets import Dataset

    def blocks(rows: Any) -> Any:
        sequences = [Labelled(row["input_ids"], row["labels"]) for row in rows]
        return Dataset.from_list(pack_rows(sequences, settings.max_tokens, WINDOW if settings.mix else None))

    trainer.train_dataset = blocks(trainer.train_dataset)
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = blocks(trainer.eval_dataset)
    if not trainer.args.padding_free:
        trainer.data_collator = Blocks(tokenizer.pad_token_id)


def _loss(trainer: Any) -> float | None:
    """The mean loss on held-out rows; None where none are held out."""
    from transformers import PrinterCallback

    if trainer.eval_dataset is None:
        return None
    trainer.remove_callback(PrinterCallback)  # standard output is the command's result
    return round(float(trainer.evaluate()["eval_loss"]), 6)


if __name__ == "__main__":
    run_command(main, Config)
