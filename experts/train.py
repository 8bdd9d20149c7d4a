"""Train one expert: continued pre-training, pre-instruction tuning, training on rewrites, or on a mixture of corpora.

    python -m experts.train experts/recipes/medcode.yml base=… documents=out/corpora/medcode rows=out/rows/medcode out=…

* `dapt`: next-token prediction on the documents.
* `pit`: phase 1 on what a teacher made of the documents (experts.prepare), without the documents; phase 2 on both, the
  rows of a document before its text, in one sequence. No chat format and no instructions, in spite of the name.
* `explainer`: next-token prediction on a teacher's rewrites of the documents (experts.prepare with task=explainer).
* `datamix`: `dapt` on several corpora, each whole or by shares of the tokens.

With `rows_as: chat` the teacher's rows are not text before a document but conversations beside it, in the model's chat
template, trained on the answers: what is read as text is recited as text, what is read as an answer is answered. With
`rehearse` a share of every epoch's tokens is drawn from rows of what the model knows already.

Sequences are packed best-fit into blocks of `max_tokens`, and no token sees another document. All weights are trained,
or an adapter (`lora`). Writes a model folder, data.json (what each phase trained on) and log/metrics.jsonl. The loss on
held-out documents is measured in float32 before and after each phase, by source, and while training where
`heldout_steps` says so. A killed run goes on from its last checkpoint; a finished phase is not trained again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

import medsmith.config
from experts.chats import converse
from experts.fitting import Fit, fit
from experts.held_out import (
    HeldOut,
    beginnings,
    compare_retained,
    heldout_losses,
    log_losses,
    losses_after,
    retained_before,
    retained_scores,
    watcher,
)
from experts.mixing import choose
from experts.rehearsal import Rehearse, Row, read_rows, rehearse, whole_epochs
from experts.sequences import Marks, Phase, PhaseBuilder
from experts.texts import Corpus, Texts, read_retained, read_texts
from medsmith import processes, run
from medsmith.access import may_show
from medsmith.answers import label_answers
from medsmith.borders import begin_of_document, end_of_document
from medsmith.command import run_command
from medsmith.config import Block, ModelRef, execution
from medsmith.dev_slice import Evaluate
from medsmith.errors import UserError
from medsmith.lora import Lora
from medsmith.records import content_id, read_json, write_json, write_jsonl

PAPER: dict[str, dict[str, Any]] = {
    # MediPhi, section 3.1.2. Its text has 5e-5 for DAPT and its Table 6 has 1e-4; the table is the more detailed.
    "dapt": {"num_train_epochs": 1, "learning_rate": 1.0e-4, "lr_scheduler_type": "cosine"},
    "datamix": {"num_train_epochs": 1, "learning_rate": 1.0e-4, "lr_scheduler_type": "cosine"},
    "explainer": {"num_train_epochs": 2, "learning_rate": 1.0e-4, "lr_scheduler_type": "cosine"},
    "phase1": {"num_train_epochs": 1, "learning_rate": 1.0e-4, "lr_scheduler_type": "cosine"},
    "phase2": {"num_train_epochs": 2, "learning_rate": 3.0e-4, "lr_scheduler_type": "cosine"},
}
"""What a phase does where the recipe says nothing else."""

PACKED = (
    "packing", "packing_strategy", "eval_packing", "padding_free", "max_length", "dataset_kwargs",
    "remove_unused_columns",
)  # fmt: skip

NEEDS = {
    "dapt": ("documents",),
    "pit": ("documents", "rows"),
    "explainer": ("documents", "rows"),
    "datamix": ("mix",),
}
"""What each method is made of; anything else is refused."""


class Mix(Block):
    """Several corpora in one training."""

    corpora: dict[str, Path] = Field(min_length=2, description="finished folders of experts.corpora, by name")
    shares: dict[str, float] = Field(
        {}, description="of the trained tokens, in any unit, e.g. {pubmed: 2, clinical: 1}; none: each corpus whole"
    )
    tokens: int | None = Field(None, ge=1, description="of one epoch, with shares; none: as many as `repeats` allows")
    repeats: float = Field(1.0, gt=0, description="how often a corpus may be read in one epoch, with shares")

    @model_validator(mode="after")
    def _a_share_for_each(self) -> Mix:
        if self.shares and (set(self.shares) != set(self.corpora) or min(self.shares.values()) <= 0):
            raise ValueError(f"shares must give each of {', '.join(self.corpora)} a number above 0, and no other")
        if self.tokens is not None and not self.shares:
            raise ValueError("tokens without shares; give shares, or limit_documents to experts.corpora")
        return self


class ExpertLora(Lora):
    """An adapter in place of all weights; it is merged back, since experts are there to be merged."""

    merge: bool = Field(True, description="save a whole model, the change put into the weights, not the adapter")


class Config(medsmith.config.Config):
    """One expert."""

    libraries: ClassVar = ("torch", "transformers", "trl")

    base: ModelRef = Field(description="the model to train: a folder or a hub id")
    documents: Path | None = Field(None, description="a finished folder of experts.corpora")
    rows: Path | None = Field(None, description="a finished folder of experts.prepare, made from the same documents")
    rows_as: Literal["text", "chat"] = Field(
        "text",
        description="text: rows before their document, in one sequence, as the paper has it; chat: each row a "
        "conversation in the model's chat template, trained on the answer",
    )
    mix: Mix | None = Field(None, description="the corpora of datamix")
    rehearse: Rehearse | None = Field(
        None, description="rows of what the model knows already, mixed in: {rows: [PATH, …], share: 0.35}"
    )
    method: Literal["dapt", "pit", "explainer", "datamix"] = Field(
        description="dapt: documents; pit: rows, then rows with documents; explainer: rewrites; datamix: many corpora"
    )
    max_tokens: int = Field(4096, ge=8, description="block length; longer documents are cut into pieces, none is lost")
    evaluate: Evaluate | None = Field(
        None, description="measure while training: {every_steps: 200, questions: […], patience: 5, keep: best}"
    )
    trainer: dict[str, Any] = Field({}, description="trl.SFTConfig, as it stands, for every phase")
    phase1: dict[str, Any] = Field({}, description="over `trainer`, for phase 1 of pit")
    phase2: dict[str, Any] = Field({}, description="over `trainer`, for phase 2 of pit")
    lora: ExpertLora | None = Field(None, description="train an adapter; none: all weights")
    show_text: bool | None = Field(
        None, description="write texts of training rows into mask files; default: where their licence is known and open"
    )
    heldout_documents: int = Field(
        256, ge=0, description="measure the loss on at most so many held-out documents of each corpus"
    )
    retain: list[Path] = Field(
        [],
        description="finished folders of experts.corpora: their held-out texts are measured before and after, and a "
        "warning says where language is lost",
    )
    heldout_steps: int | None = execution(None, "measure it every so many steps too; none: before and after alone")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="the type to save the weights in")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")

    @model_validator(mode="after")
    def _what_the_method_needs(self) -> Config:
        makers = {"documents": "experts.corpora", "rows": "experts.prepare", "mix": "mix.corpora"}
        for name, maker in makers.items():
            given, needed = getattr(self, name) is not None, name in NEEDS[self.method]
            if needed and not given:
                raise ValueError(f"method {self.method} needs {name}=, {_wanted(name, maker, self.method)}")
            if given and not needed:
                raise ValueError(f"method {self.method} takes {' and '.join(NEEDS[self.method])}, not {name}")
        if self.method != "pit" and (self.phase1 or self.phase2):
            raise ValueError(
                f"phase1 and phase2 belong to pit, and {self.method} has one phase; set phase1={{}} phase2={{}}, and "
                "what they hold in `trainer`"
            )
        if self.method == "pit" and self.lora is not None and not self.lora.merge:
            raise ValueError(
                "lora.merge=false with method pit: the adapter of phase 2 stands on the weights of phase 1, which are "
                "not kept; merge, and take an adapter of the whole change by merge_recipes.extract"
            )
        if self.rows_as == "chat" and self.rows is None:
            raise ValueError(
                f"rows_as=chat is about the teacher's rows, and method {self.method} has none; leave it out"
            )
        for block in (self.trainer, self.phase1, self.phase2):
            if self.rehearse and "max_steps" in block:
                raise ValueError("rehearse is laid out by epochs; set trainer.num_train_epochs in place of max_steps")
            for key in sorted(set(block) & set(PACKED)):
                raise ValueError(f"'{key}' is not for a recipe: documents are always packed; set max_tokens")
        return self

    @property
    def corpora(self) -> list[Corpus]:
        """The corpora to train on; the one of `documents` has no name."""
        if self.mix is not None:
            return [Corpus(name, folder) for name, folder in self.mix.corpora.items()]
        assert self.documents is not None, "every method but datamix has documents"
        return [Corpus("", self.documents)]

    @property
    def sources(self) -> list[Path]:
        """Where texts come from: the corpora, and what a teacher made of them."""
        again = self.rehearse.rows if self.rehearse else []
        return [corpus.folder for corpus in self.corpora] + ([self.rows] if self.rows else []) + again


def _wanted(name: str, maker: str, method: str) -> str:
    task = " with task=explainer" if name == "rows" and method == "explainer" else ""
    return "a mapping of corpora" if name == "mix" else f"a folder made by {maker}{task}"


def main(config: Config, callbacks: Sequence[Any] = ()) -> Path:
    """Train the phases one after the other; `callbacks` are transformers' own."""
    from medsmith.models import load_tokenizer
    from medsmith.training_report import write_report

    task = "explainer" if config.method == "explainer" else None
    texts = read_texts(config.corpora, config.rows, config.heldout_documents, config.seed, task)
    with run.start(config, "experts.train") as this:
        tokenizer = load_tokenizer(config.base)
        _check_context(config)
        again, licences = read_rows(config.rehearse.rows) if config.rehearse else ([], {})
        this.state_licences("rehearse", licences)
        phases, mixed = build_phases(config, texts, tokenizer, this.folder / "checkpoints", again)
        left_out = [{"phase": name} | row for name, phase in phases.items() for row in phase.left_out]
        if left_out:
            write_jsonl(this.folder / "left_out.jsonl", left_out)
        write_json(this.folder / "data.json", describe(config, texts, phases, mixed))
        retained = read_retained(config.retain, config.heldout_documents, config.seed)
        held = HeldOut(texts.heldout, tokenizer, config.max_tokens, retained)
        retained_of_base = retained_before(this, next(iter(phases)), config.base, held)
        reports: list[dict[str, Any]] = []
        model: str | Path = config.base
        for name, phase in phases.items():
            known = losses_after(reports[-1]) if reports else None
            report, model = train_phase(config, this, name, phase, model, held, callbacks, known)
            reports.append({"phase": name} | report)
        assert isinstance(model, Path), "there is at least one phase"
        retained_of_expert = retained_scores(this, reports[-1]["phase"], reports[-1]["steps"], model, held)
        if this.main:
            shutil.copytree(model, this.folder, dirs_exist_ok=True)
        this.facts |= {
            "method": config.method,
            "phases": reports,
            "heldout_loss_before": reports[0]["heldout_loss_before"],
            "heldout_loss_after": reports[-1]["heldout_loss_after"],
        }
        if held.retained:
            this.facts["retained"] = compare_retained(retained_of_base, retained_of_expert, config.seed)
        write_report(this)
        return this.finish(documents=texts.documents, heldout=texts.heldout_documents, rows=_outputs(texts))


def _check_context(config: Config) -> None:
    from medsmith.models import context_of

    longest = context_of(config.base)
    if longest is not None and config.max_tokens > longest:
        raise UserError(f"max_tokens={config.max_tokens} is more than the model's context of {longest}; lower it")


def build_phases(
    config: Config, texts: Texts, tokenizer: Any, folder: Path, again: Sequence[Row] = ()
) -> tuple[dict[str, Phase], dict[str, dict[str, float]]]:
    """The phases by name, in order, their tokens in files of `folder`; and what each corpus gave to a mixture.

    `again` is rehearsed in each.
    """
    marks = document_marks(tokenizer)

    def encode(parts: list[str]) -> list[list[int]]:
        if not parts:
            return []
        encoded: list[list[int]] = tokenizer(parts, add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    mixed: dict[str, dict[str, float]] = {}

    def build(name: str, outputs: dict[str, list[str]], with_documents: bool) -> Phase:
        file = folder / f"{name}.tokens"
        builder = PhaseBuilder(
            encode,
            marks,
            config.max_tokens,
            file,
            write=processes.is_main(),
            encode_chats=partial(label_answers, tokenizer),
        )
        for corpus in texts.corpora:
            builder.add(
                corpus.train(),
                outputs,
                with_documents=with_documents,
                name=corpus.name,
                rank=lambda key: int(content_id("mix", config.seed, key)[:12], 16),
                converse=partial(converse, task=texts.task, seed=config.seed) if config.rows_as == "chat" else None,
            )
        if config.mix is not None:
            shares = config.mix
            builder.phase.chosen, given = choose(builder.phase, shares.shares, shares.tokens, shares.repeats)
            mixed.update(given)
        if config.rehearse is not None:
            epochs = whole_epochs(settings(config, name)["num_train_epochs"])
            rehearse(builder, again, config.rehearse, epochs, config.seed, name)
        phase = builder.finish()
        processes.wait()
        return phase

    if config.method == "pit":
        return {"phase1": build("phase1", texts.outputs, False), "phase2": build("phase2", texts.outputs, True)}, {}
    if config.method == "explainer":
        return {"explainer": build("explainer", texts.outputs, False)}, {}
    return {config.method: build(config.method, {}, True)}, mixed


def document_marks(tokenizer: Any) -> Marks:
    """A document begins with what the tokenizer itself puts before a text, else with the end of the one before."""
    return Marks(begin=begin_of_document(tokenizer), end=end_of_document(tokenizer))


def describe(
    config: Config, texts: Texts, phases: dict[str, Phase], mixed: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """What data.json says; the same for the same documents, rows and settings."""
    return {
        "method": config.method,
        "max_tokens": config.max_tokens,
        "documents": texts.documents,
        "documents_with_rows": len(texts.outputs),
        "rows": _outputs(texts),
        "heldout_documents": texts.heldout_documents,
        "phases": {
            name: phase.summary() | {"blocks": len(phase.blocks(config.max_tokens)), "trainer": settings(config, name)}
            for name, phase in phases.items()
        },
    } | ({"mix": mixed} if mixed else {})


def _outputs(texts: Texts) -> int:
    return sum(map(len, texts.outputs.values()))


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
    held: HeldOut,
    callbacks: Sequence[Any] = (),
    known: dict[str, float] | None = None,
) -> tuple[dict[str, Any], Path]:
    """Train one phase from the model `start`, unless it is finished; return its report and the folder of its model.

    `known` are the held-out losses of `start` where the phase before has measured them.
    """
    from medsmith.models import set_threads

    set_threads(config.threads)
    finished = this.folder / "checkpoints" / f"{name}.finished"
    note = this.folder / "checkpoints" / f"{name}.json"
    if finished.is_dir():
        report: dict[str, Any] = read_json(note)
        return report, finished
    if not len(phase.numbers):
        raise UserError(f"{name} has nothing to train on; see {config.documents} and {config.rows}")
    if known:
        log_losses(this, name, 0, known)
    before = dict(known) if known is not None else heldout_losses(this, name, 0, start, held)
    partial = finished.with_suffix(".partial")
    how = Fit(
        name,
        settings(config, name),
        config.max_tokens,
        config.dtype,
        config.seed,
        config.threads,
        config.lora,
        outputs_only=name in ("phase1", "explainer"),
        show=may_show(config.show_text, config.sources),
        evaluate=config.evaluate,
        prompts=beginnings(held, document_marks(held.tokenizer).begin),
    )
    if config.heldout_steps and before:
        callbacks = [*callbacks, watcher(this, name, held, config.heldout_steps)]
    summary = fit(this, how, phase, start, held.tokenizer, partial, callbacks)
    after = heldout_losses(this, name, summary.get("dev", {}).get("kept_step") or summary["steps"], partial, held)
    report = {"heldout_loss_before": before.pop("", None), "heldout_loss_after": after.pop("", None)} | summary
    if len(after) > 1:
        report["heldout_loss_by_source"] = {source: [before[source], after[source]] for source in after}

    def settle() -> None:
        write_json(note, report)
        partial.rename(finished)
        shutil.rmtree(this.folder / "checkpoints" / name, ignore_errors=True)

    processes.alone(settle)
    return report, finished


if __name__ == "__main__":
    run_command(main, Config)
