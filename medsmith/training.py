"""What every training command shares: TRL's own settings on safe defaults, a run that resumes, a model that is saved.

    arguments = trainer_arguments(SFTConfig, config.trainer, this.folder, config.seed)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    summary = run_trainer(trainer, this, "sft")
    save_model(trainer.model, tokenizer, this.folder)

A killed training goes on from its latest whole checkpoint in `<run>/checkpoints/` and gives the same weights, bit for
bit on one CPU thread (medsmith/resumption.py). `<run>/log/metrics.jsonl` tells how it went (medsmith/training_log.py).
Run.finish removes the checkpoints.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Any, TypeVar

from medsmith import processes, resumption
from medsmith.borders import end_tokens
from medsmith.dev_slice import DevSlice, check_whole, dev_watcher, keep_best
from medsmith.errors import UserError
from medsmith.machine import keep_freed_memory
from medsmith.run import Run
from medsmith.training_log import METRICS, Metrics, watcher
from medsmith.training_log import log_row as log_row

Arguments = TypeVar("Arguments")

OURS = {
    "output_dir": "set out= of the command",
    "seed": "set seed= of the command",
    "data_seed": "set seed= of the command",
    "resume_from_checkpoint": "run the same command again: it resumes",
    "push_to_hub": "publish the finished folder with `medsmith publish`",
}
"""Settings of TRL that a recipe may not give, each with what to do instead."""


def trainer_arguments(
    cls: type[Arguments],
    block: dict[str, Any],
    folder: Path,
    seed: int,
    threads: int | None = None,
    phase: str = "",
) -> Arguments:
    """Build TRL's `cls` (SFTConfig, DPOConfig): our defaults for this machine first, then the recipe's block over them.

    `phase` names a folder of its own under `<folder>/checkpoints/`, for a command that trains more than once.

    Raises:
        UserError: a key that `cls` does not have (the nearest is named), text where a number belongs (`2e-5`), or a
            value that `cls` refuses.
    """
    import datasets
    import transformers

    from medsmith.models import set_threads
    from medsmith.trackers import check_trackers

    _check(cls, block)
    check_trackers(block, folder)
    set_threads(threads)
    keep_freed_memory()
    # One display: ours. Theirs write to a log file as well as to a terminal.
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    arguments = _defaults(block) | {
        "output_dir": str(folder / "checkpoints" / phase),
        "seed": seed,
        "data_seed": seed,
    }
    try:
        return cls(**(arguments | block))
    except (ValueError, TypeError) as error:
        raise UserError(f"trainer: {cls.__name__} refuses the settings: {error}") from error


def _defaults(block: dict[str, Any]) -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    packed = bool(block.get("packing") or block.get("padding_free"))
    defaults: dict[str, Any] = {
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        # Autocast, weights stay in float32: 1.4 times faster at 5M parameters and 2 times at 30M on a CPU with AMX.
        "bf16": not block.get("fp16", False) and (not cuda or torch.cuda.is_bf16_supported()),
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 10,
        # With the filter a broken run logs a loss of zero and looks like a very good one.
        "logging_nan_inf_filter": False,
        # A flattened batch has no attention mask, and no padding either.
        "include_num_input_tokens_seen": "all" if packed else "non_padding",
        "save_strategy": "steps",
        "save_steps": 0.1,
        "save_total_limit": 1,
    }
    if "gradient_checkpointing" not in block:
        # TRL turns it on, under a name that transformers has deprecated. It costs 25% time; a CPU has memory to spare.
        defaults["activation_checkpointing"] = cuda
    return defaults


def _check(cls: type[Any], block: dict[str, Any]) -> None:
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key, value in block.items():
        if key in OURS:
            raise UserError(f"trainer: '{key}' is not for a recipe; {OURS[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"see the fields of trl.{cls.__name__}"
            raise UserError(f"trainer: unknown key '{key}' for trl.{cls.__name__}; {hint}")
        if isinstance(value, str) and _only_numbers(hints[key]):
            raise UserError(f"trainer: '{key}' must be a number, got the text {value!r}{_as_number(value)}")


def _only_numbers(hint: Any) -> bool:
    parts = set(typing.get_args(hint) or (hint,)) - {type(None)}
    return parts <= {int, float, bool}


def _as_number(text: str) -> str:
    """YAML takes `2e-5` for text; say how it must be written."""
    try:
        float(text)
    except ValueError:
        return ""
    mantissa, e, exponent = text.lower().partition("e")
    written = f"{mantissa}{'' if '.' in mantissa else '.0'}{e}{exponent}" if e else mantissa
    return f"; write {written} (YAML wants the point, and no quotes)"


def run_trainer(trainer: Any, this: Run, description: str, dev: DevSlice | None = None) -> dict[str, Any]:
    """Train to the end, resuming where an earlier try of this run was killed; return what a card should say.

    With `dev` the model is measured while it trains, and holds its best weights afterwards where that is asked for.

    Returns: steps, epochs, tokens, loss_first, loss_last (as logged), eval_loss where the trainer evaluated, and dev.

    Raises:
        UserError: the loss is not finite; the step is named.
    """
    from transformers import PrinterCallback

    if dev is not None:
        check_whole(dev, trainer)
    folder = Path(trainer.args.output_dir)
    checkpoint = None
    # Compared before anything is moved: a checkpoint that this training does not fit is not a torn one.
    resumption.check_base(trainer, resumed=this.resumed and any(folder.glob("checkpoint-*")))
    if this.resumed:  # the main process alone moves torn ones aside
        latest = processes.tell(resumption.latest_checkpoint(folder) if this.main else None)
        checkpoint = folder / latest.name if latest else None
    resumption.note_maker(this)
    step = resumption.step_of(checkpoint) if checkpoint else 0
    # It prints every log as a dictionary on standard output, which belongs to the command's result.
    trainer.remove_callback(PrinterCallback)
    metrics = Metrics(this.folder / METRICS, description, step)
    watch = watcher(metrics, description, step)
    trainer.add_callback(watch)
    measure = dev_watcher(dev, metrics, folder) if dev else None
    if measure is not None:
        trainer.add_callback(measure)
    try:
        stopped = measure is not None and dev is not None and measure.history.is_over(dev.settings.patience)
        if checkpoint and (stopped or resumption.is_last(checkpoint)):
            resumption.restore(trainer, checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        watch.close()
        trainer.remove_callback(watch)
        if measure is not None:
            trainer.remove_callback(measure)
    measured = {"dev": keep_best(dev, trainer.model, folder, measure.history)} if dev and measure else {}
    if accepted := resumption.accepted_changes(this.folder):
        this.facts["resumed_across"] = accepted
    rows = [row for row in metrics.rows if "loss" in row]
    evaluated = [row["eval_loss"] for row in metrics.rows if "eval_loss" in row]
    return {
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0.0, 4),
        "tokens": trainer.state.num_input_tokens_seen,
        "loss_first": rows[0]["loss"] if rows else None,
        "loss_last": rows[-1]["loss"] if rows else None,
        **({"eval_loss": evaluated[-1]} if evaluated else {}),
        **measured,
    }


def save_model(model: Any, tokenizer: Any, folder: Path, dtype: str = "float32") -> None:
    """Write a model folder: safetensors in `dtype`, tokenizer, chat template, and a generation config that stops.

    The generation config's eos_token_id names the token that ends a chat turn first, then the tokenizer's own end and
    the end of a document. The model is cast in place. Of several processes all must call this, and the main one writes.

    Raises:
        UserError: a weight is not finite; the tensor is named.
    """
    import torch

    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise UserError(f"the trained weights '{name}' are not all finite; lower learning_rate in the recipe")
    model.to(getattr(torch, dtype))
    model.eval()
    weights = processes.whole_weights(model)
    model.generation_config.eos_token_id = end_tokens(tokenizer)
    if tokenizer.pad_token_id is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if processes.is_main():
        model.save_pretrained(folder, **({"state_dict": weights} if weights else {}))
        tokenizer.save_pretrained(folder)
    processes.wait()
