"""Direct preference optimisation on pairs of a good answer and one with a planted error.

    python -m align.dpo align/recipes/dpo.yml model=out/… data=out/… out=out/…

Any of TRL's losses, or a weighted mixture (`loss_type: [sigmoid, sft], loss_weights: [1.0, 0.1]`). The reference's
log-probabilities are computed once and kept in raw/reference, by the content of its weights and of the pairs: a killed
run, or one with another beta, reads them. With `lora` an adapter is trained; the reference is the model without it.

Writes a model folder, `dropped.jsonl`, `mask.html`, `mask.txt` and `log/metrics.jsonl`; run.json says how probable the
good and the bad answers were before and after, how long they are beside one another, and warns where the good ones lost
(likelihood displacement).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.dev_slice import Evaluate, open_slice
from medsmith.errors import UserError
from medsmith.lora import Lora

if TYPE_CHECKING:
    from align.prepare import Chosen

LOG = logging.getLogger(__name__)
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
"""What TRL's DPOTrainer knows; it keeps no list of them."""


class Config(config.Config):
    """A model, a pair folder and TRL's own settings."""

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl")

    model: ModelRef = Field(description="the model to train, usually of align.sft; it is also the reference")
    data: Path = Field(description="a pair folder (data/*.parquet with rejected_output), or a folder of Parquet files")
    max_tokens: int = Field(1024, ge=8, description="drop pairs with a longer conversation")
    heldout_share: float = Field(0.05, ge=0, lt=1, description="share of instructions to measure preferences on")
    measured_pairs: int = Field(256, ge=1, description="pairs to measure before and after; training pairs if none held")
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
    trainer: dict[str, Any] = Field(default_factory=dict, description="trl.DPOConfig, as it stands")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")


def main(settings: Config, callbacks: Sequence[Any] = ()) -> Path:
    """Train, measure preferences before and after, save. `callbacks` are transformers' own."""
    from align.displacement import displacement_facts, displacement_watch
    from align.preferences import compare, compare_lengths, measure
    from align.prepare import beginnings, choose_rows, require_context
    from medsmith.access import may_show
    from medsmith.lora import load_to_train, save_trained
    from medsmith.masks import CHAT, look
    from medsmith.models import load_model, load_tokenizer
    from medsmith.training import trainer_arguments
    from medsmith.training_log import read_log
    from medsmith.training_report import Story, follow, write_report

    if "max_length" in settings.trainer:
        raise UserError("trainer: 'max_length' would cut answers short; set max_tokens, which drops long pairs instead")
    with run.start(settings, "align.dpo") as this:
        from trl import DPOConfig

        arguments = trainer_arguments(DPOConfig, _block(settings), this.folder, settings.seed, settings.threads)
        check_losses(arguments.loss_type)
        tokenizer = load_tokenizer(settings.model)
        chosen = choose_rows(this, settings.data, tokenizer, settings.max_tokens, settings.heldout_share, pairs=True)
        require_context(chosen, settings.model, settings.max_tokens)
        LOG.info("%(rows)d pairs: %(train)d to train on, %(heldout)d held out, %(dropped)d dropped", chosen.counts)
        measured = (chosen.heldout or chosen.train)[: settings.measured_pairs]
        model = load_to_train(settings.model, settings.lora, seed=settings.seed)
        before = measure(model, tokenizer, measured)
        trainer = _trainer(settings, model, arguments, chosen, tokenizer, callbacks)
        show = may_show(settings.show_text, [settings.data])
        labels = [row.task_type for row in chosen.train]
        trained = look(trainer, tokenizer, CHAT, this.folder, show=show, labels=labels)
        trainer.add_callback(displacement_watch(arguments.beta))
        sizes = {"source": "data", "rows": len(chosen.train), "tokens": None}
        story = Story(beginnings(chosen, tokenizer), show, [sizes], round(trained, 4))
        summary = follow(trainer, this, "dpo", tokenizer, story, open_slice(settings.evaluate, tokenizer))
        save_trained(trainer.model, tokenizer, this.folder, settings.dtype, settings.lora, settings.model)
        # What was saved, loaded as before: the trainer's own copy computes in bfloat16 even after training.
        facts = compare(measured, before, measure(load_model(settings.out), tokenizer, measured), arguments.beta)
        facts["lengths"] = compare_lengths(tokenizer, chosen.train)
        facts["measured_on"] = "held-out pairs" if chosen.heldout else "training pairs"
        if facts["likelihood_displacement"]:
            LOG.warning(
                "training moved %.3f nats per token away from the good answers (likelihood displacement); lower "
                "learning_rate, or train with loss_type: [sigmoid, sft]",
                -facts["chosen_change"],
            )
        facts |= displacement_facts(read_log(this, "dpo"), arguments.beta)
        this.facts["dpo"] = summary | facts | {"trained_share": round(trained, 4)}
        write_report(this)
        return this.finish(**chosen.counts)


def check_losses(names: Sequence[str]) -> None:
    """Refuse a loss that TRL does not have; its own trainer would say so at the first step."""
    for name in names:
        if name not in LOSSES:
            raise UserError(f"trainer: unknown loss_type '{name}'; TRL has {', '.join(LOSSES)}")


def _block(settings: Config) -> dict[str, Any]:
    # Log-probabilities of the reference are computed once, before the first step: no second model in memory.
    fixed = not settings.trainer.get("sync_ref_model")
    return {"beta": 0.1, "precompute_ref_log_probs": fixed, "max_length": settings.max_tokens} | settings.trainer


def _trainer(
    settings: Config, model: Any, arguments: Any, chosen: Chosen, tokenizer: Any, callbacks: Sequence[Any]
) -> Any:
    from datasets import Dataset

    from align.reference import trainer_class
    from align.rows import preference
    from medsmith.lora import peft_config

    evaluated = chosen.heldout if arguments.eval_strategy != "no" else []
    try:
        return trainer_class(settings.out / "raw" / "reference")(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list([preference(row) for row in chosen.train]),
            eval_dataset=Dataset.from_list([preference(row) for row in evaluated]) if evaluated else None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
            peft_config=peft_config(settings.lora),
        )
    except ValueError as error:  # TRL checks template and settings against one another
        raise UserError(f"trl refuses the settings: {error}") from error


if __name__ == "__main__":
    run_command(main, Config)
