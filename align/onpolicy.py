"""The student writes and is corrected toward its teacher on its own words: TRL's DistillationTrainer, as it stands."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align import rows as select
from medsmith import run
from medsmith.errors import UserError
from medsmith.records import Instruction, write_json

if TYPE_CHECKING:
    from align.distill import Config

LOG = logging.getLogger(__name__)


def distill_on_policy(settings: Config, this: run.Run, callbacks: Sequence[Any]) -> Path:
    """Train on prompts of `data`; the gold answers only measure: how well they are predicted before and after.

    Raises:
        UserError: a setting that TRL refuses, or a teacher with other tokens.
    """
    from align.distillation import check_same_tokens
    from align.mix import describe
    from align.prepare import choose_rows, require_context
    from medsmith.lora import load_to_train, save_trained
    from medsmith.models import load_model, load_tokenizer
    from medsmith.training import run_trainer

    assert settings.teacher is not None and settings.data is not None, "the validator asks for them"
    arguments = _arguments(settings, this.folder)
    tokenizer = load_tokenizer(settings.model)
    check_same_tokens(tokenizer, load_tokenizer(settings.teacher))
    chosen = choose_rows(
        this,
        settings.data,
        tokenizer,
        settings.max_tokens,
        settings.heldout_share,
        settings.top_rows,
        quotas=settings.quotas,
    )
    require_context(chosen, settings.model, settings.max_tokens)
    LOG.info("%(rows)d rows: %(train)d to write to, %(heldout)d held out, %(dropped)d dropped", chosen.counts)
    model = load_to_train(settings.model, settings.lora, seed=settings.seed)
    before = heldout_loss(model, tokenizer, chosen.heldout)
    trainer = _trainer(settings, arguments, model, chosen.train, tokenizer, callbacks)
    table = describe(chosen.parts, chosen.turns, dict.fromkeys(chosen.parts, 0))
    write_json(this.folder / "data.json", {"max_tokens": settings.max_tokens, "packed": False, "sources": table})
    summary = run_trainer(trainer, this, "distill")
    save_trained(trainer.model, tokenizer, this.folder, settings.dtype, settings.lora, settings.model)
    after = heldout_loss(load_model(settings.out), tokenizer, chosen.heldout)
    this.facts["distill"] = summary | {"heldout_loss_before": before, "heldout_loss_after": after}
    return this.finish(**chosen.counts)


def heldout_loss(model: Any, tokenizer: Any, rows: Sequence[Instruction]) -> float | None:
    """The mean loss a token of the gold answers; None where none are held out."""
    from medsmith.likelihood import ChoiceItem, score_options

    if not rows:
        return None
    model.eval()
    scores = score_options(model, tokenizer, [ChoiceItem(select.prompt(row), [row.output]) for row in rows])
    return round(-sum(one.logprobs[0] for one in scores) / sum(one.tokens[0] for one in scores), 6)


def _arguments(settings: Config, folder: Path) -> Any:
    from medsmith.training import trainer_arguments

    try:
        from trl import DistillationConfig
    except ImportError:
        raise UserError("this TRL has no DistillationTrainer; install trl>=1.16, or set method=logit") from None
    block = {"max_completion_length": settings.max_new_tokens} | settings.trainer
    return trainer_arguments(DistillationConfig, block, folder, settings.seed, settings.threads)


def _trainer(
    settings: Config,
    arguments: Any,
    model: Any,
    rows: Sequence[Instruction],
    tokenizer: Any,
    callbacks: Sequence[Any],
) -> Any:
    from datasets import Dataset
    from trl import DistillationTrainer

    from align.distiller import freeze
    from medsmith.lora import peft_config
    from medsmith.models import load_model

    assert settings.teacher is not None, "the validator asks for one"
    try:
        return DistillationTrainer(
            model=model,
            teacher_model=freeze(load_model(settings.teacher, settings.teacher_dtype)),
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": select.prompt(row)} for row in rows]),
            processing_class=tokenizer,
            callbacks=list(callbacks),
            peft_config=peft_config(settings.lora),
        )
    except ValueError as error:  # TRL checks its settings against one another
        raise UserError(f"trl refuses the settings: {error}") from error
