"""Train one expert on one corpus: domain adaptive pre-training, or pre-instruction tuning in two phases.

    python -m experts.train experts/recipes/medcode.yml base=… documents=out/corpora/medcode rows=out/rows/medcode out=…

* `dapt`: next-token prediction on the documents.
* `pit`: phase 1 on what a teacher made of the documents (experts.prepare), without the documents; phase 2 on both, the
  rows of a document before its text, in one sequence. No chat format and no instructions, in spite of the name.

Sequences are packed best-fit into blocks of `max_tokens`, and no token sees another document. Writes a model folder,
data.json (what each phase trained on) and log/metrics.jsonl. The loss on held-out documents is measured in float32
before and after each phase. A killed run goes on from its last checkpoint; a finished phase is not trained again.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

import medsmith.config
from experts.sequences import Marks, Phase, block_rows, build_phase
from medsmith import run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError
from medsmith.packing import Blocks, reads_borders
from medsmith.records import Document, content_id, read_documents, read_json, read_jsonl, write_json

PAPER: dict[str, dict[str, Any]] = {
    # MediPhi, section 3.1.2. Its text has 5e-5 for DAPT and its Table 6 has 1e-4; the table is the more detailed.
    "dapt": {"num_train_epochs": 1, "learning_rate": 1.0e-4, "lr_scheduler_type": "cosine"},
    "phase1": {"num_train_epochs": 1, "learning_rate": 1.0e-4, "lr_scheduler_type": "cosine"},
    "phase2": {"num_train_epochs": 2, "learning_rate": 3.0e-4, "lr_scheduler_type": "cosine"},
}
"""What a phase does where the recipe says nothing else."""

SHORT = 512
"""Up to this block length plain attention beats sdpa on a CPU: by 11% with blocks of 256 at 6M parameters."""

PACKED = ("packing", "packing_strategy", "eval_packing", "padding_free", "max_length")


class Config(medsmith.config.Config):
    """One expert."""

    libraries: ClassVar = ("torch", "transformers", "trl")

    base: ModelRef = Field(description="the model to train: a folder or a hub id")
    documents: Path = Field(description="a finished folder of experts.corpora")
    rows: Path | None = Field(None, description="a finished folder of experts.prepare, made from the same documents")
    method: Literal["dapt", "pit"] = Field(description="dapt: documents alone; pit: rows, then rows with documents")
    max_tokens: int = Field(4096, ge=8, description="block length; longer documents are cut into pieces, none is lost")
    trainer: dict[str, Any] = Field({}, description="trl.SFTConfig, as it stands, for every phase")
    phase1: dict[str, Any] = Field({}, description="over `trainer`, for phase 1 of pit")
    phase2: dict[str, Any] = Field({}, description="over `trainer`, for phase 2 of pit")
    heldout_documents: int = Field(256, ge=0, description="measure the loss on at most so many held-out documents")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="the type to save the weights in")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")

    @model_validator(mode="after")
    def _method_and_rows(self) -> Config:
        if self.method == "pit" and self.rows is None:
            raise ValueError("method pit needs rows=, a folder made by experts.prepare")
        if self.method == "dapt" and (self.rows or self.phase1 or self.phase2):
            raise ValueError("method dapt takes documents and `trainer` alone; rows, phase1, phase2 belong to pit")
        for block in (self.trainer, self.phase1, self.phase2):
            for key in sorted(set(block) & set(PACKED)):
                raise ValueError(f"'{key}' is not for a recipe: documents are always packed; set max_tokens")
        return self


@dataclass(frozen=True)
class Texts:
    """What is trained on, and what is only measured."""

    train: list[Document]
    heldout: list[Document]
    outputs: dict[str, list[str]]


def main(config: Config, callbacks: Sequence[Any] = ()) -> Path:
    """Train the phases one after the other; `callbacks` are transformers' own."""
    from medsmith.models import load_tokenizer

    run.require_finished(config.documents)
    texts = read_texts(config)
    with run.start(config, "experts.train") as this:
        tokenizer = load_tokenizer(config.base)
        _check_context(config)
        phases = build_phases(config, texts, tokenizer)
        write_json(this.folder / "data.json", describe(config, texts, phases))
        reports = []
        model: str | Path = config.base
        for name, phase in phases.items():
            report, model = train_phase(config, this, name, phase, model, tokenizer, texts.heldout, callbacks)
            reports.append({"phase": name} | report)
        assert isinstance(model, Path), "there is at least one phase"
        shutil.copytree(model, this.folder, dirs_exist_ok=True)
        this.facts |= {
            "method": config.method,
            "phases": reports,
            "heldout_loss_before": reports[0]["heldout_loss_before"],
            "heldout_loss_after": reports[-1]["heldout_loss_after"],
        }
        outputs = sum(map(len, texts.outputs.values()))
        return this.finish(documents=len(texts.train), heldout=len(texts.heldout), rows=outputs)


def _check_context(config: Config) -> None:
    from transformers import AutoConfig

    name, revision = (config.base, "") if isinstance(config.base, Path) else config.base.partition("@")[::2]
    longest = AutoConfig.from_pretrained(name, revision=revision or None).get_text_config().max_position_embeddings
    if config.max_tokens > longest:
        raise UserError(f"max_tokens={config.max_tokens} is more than the model's context of {longest}; lower it")


def read_texts(config: Config) -> Texts:
    """Read documents and rows.

    Raises:
        UserError: a row of a document that is held out, or that is not in the corpus.
    """
    train = read_documents(config.documents / "train.jsonl")
    heldout = read_documents(config.documents / "heldout.jsonl")
    heldout.sort(key=lambda document: content_id(config.seed, document.id))
    outputs: dict[str, list[str]] = defaultdict(list)
    if config.rows is not None:
        run.require_finished(config.rows)
        known, held = {document.id for document in train}, {document.id for document in heldout}
        for number, row in enumerate(read_jsonl(config.rows / "rows.jsonl"), 1):
            if row["document_id"] not in known:
                what = "is held out of" if row["document_id"] in held else "is not in"
                raise UserError(
                    f"{config.rows}/rows.jsonl row {number}: document '{row['document_id']}' {what} "
                    f"{config.documents}; run experts.prepare on that folder"
                )
            outputs[row["document_id"]].append(row["output"])
    return Texts(train, heldout[: config.heldout_documents], dict(outputs))


def build_phases(config: Config, texts: Texts, tokenizer: Any) -> dict[str, Phase]:
    """The phases by name, in order."""
    marks = document_marks(tokenizer)

    def encode(parts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = tokenizer(parts, add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    def build(outputs: dict[str, list[str]], with_documents: bool) -> Phase:
        return build_phase(texts.train, outputs, encode, marks, config.max_tokens, with_documents=with_documents)

    if config.method == "dapt":
        return {"dapt": build({}, True)}
    return {"phase1": build(texts.outputs, False), "phase2": build(texts.outputs, True)}


def document_marks(tokenizer: Any) -> Marks:
    """A document begins with what the tokenizer itself puts before a text, else with the end of the one before."""
    from medsmith.training import end_of_document

    end = end_of_document(tokenizer)
    first = tokenizer("a")["input_ids"][0]
    return Marks(begin=first if first == tokenizer.bos_token_id else end, end=end)


def describe(config: Config, texts: Texts, phases: dict[str, Phase]) -> dict[str, Any]:
    """What data.json says; the same for the same documents, rows and settings."""
    return {
        "method": config.method,
        "max_tokens": config.max_tokens,
        "documents": len(texts.train),
        "documents_with_rows": len(texts.outputs),
        "rows": sum(map(len, texts.outputs.values())),
        "heldout_documents": len(texts.heldout),
        "phases": {
            name: phase.summary()
            | {"blocks": len(block_rows(phase.pieces, config.max_tokens)), "trainer": settings(config, name)}
            for name, phase in phases.items()
        },
    }


def settings(config: Config, phase: str) -> dict[str, Any]:
    """TRL's settings of a phase: the paper's, then the recipe's, then the phase's own."""
    own = {"phase1": config.phase1, "phase2": config.phase2}.get(phase, {})
    return PAPER[phase] | config.trainer | own


def train_phase(
    config: Config,
    this: run.Run,
    name: str,
    phase: Phase,
    start: str | Path,
    tokenizer: Any,
    heldout: list[Document],
    callbacks: Sequence[Any] = (),
) -> tuple[dict[str, Any], Path]:
    """Train one phase from the model `start`, unless it is finished; return its report and the folder of its model."""
    from medsmith.models import set_threads

    set_threads(config.threads)
    finished = this.folder / "checkpoints" / f"{name}.finished"
    note = this.folder / "checkpoints" / f"{name}.json"
    if finished.is_dir():
        report: dict[str, Any] = read_json(note)
        return report, finished
    before = heldout_loss(this, name, 0, start, tokenizer, heldout, config.max_tokens)
    partial = finished.with_suffix(".partial")
    summary = _fit(config, this, name, phase, start, tokenizer, partial, callbacks)
    after = heldout_loss(this, name, summary["steps"], partial, tokenizer, heldout, config.max_tokens)
    report = {"heldout_loss_before": before, "heldout_loss_after": after} | summary
    write_json(note, report)
    partial.rename(finished)
    shutil.rmtree(this.folder / "checkpoints" / name, ignore_errors=True)
    return report, finished


def _fit(
    config: Config,
    this: run.Run,
    name: str,
    phase: Phase,
    start: str | Path,
    tokenizer: Any,
    target: Path,
    callbacks: Sequence[Any],
) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from medsmith.models import load_model
    from medsmith.training import run_trainer, save_model, trainer_arguments

    if not phase.pieces:
        raise UserError(f"{name} has nothing to train on; see {config.documents} and {config.rows}")
    model = load_model(start, device="cpu")
    if model.config._attn_implementation == "sdpa" and not torch.cuda.is_available() and config.max_tokens <= SHORT:
        model.set_attn_implementation("eager")
    flat = reads_borders(model)
    shape = {"max_length": None, "padding_free": flat, "include_num_input_tokens_seen": "all"}
    block = settings(config, name) | shape
    trainer = SFTTrainer(
        model=model,
        args=trainer_arguments(SFTConfig, block, this.folder, config.seed, config.threads, phase=name),
        train_dataset=Dataset.from_list(block_rows(phase.pieces, config.max_tokens)),
        processing_class=tokenizer,
        data_collator=None if flat else Blocks(tokenizer.pad_token_id),
        callbacks=list(callbacks),
    )
    summary = run_trainer(trainer, this, name)
    save_model(trainer.model, tokenizer, target, config.dtype)
    return summary


def heldout_loss(
    this: run.Run, phase: str, step: int, model: str | Path, tokenizer: Any, documents: list[Document], window: int
) -> float | None:
    """The mean loss a token of held-out documents, in float32; None where there are none. Goes into the metrics too."""
    if not documents:
        return None
    from medsmith.likelihood import document_nll
    from medsmith.models import load_model
    from medsmith.training import log_row

    scores = document_nll(load_model(model), tokenizer, [document.text for document in documents], window)
    loss = round(sum(score.nll for score in scores) / sum(score.tokens for score in scores), 6)
    log_row(this, f"{phase}, held out", step, heldout_loss=loss)
    return loss


if __name__ == "__main__":
    run_command(main, Config)
