"""Ask teachers for clinical instructions with examples until every cell of the plan has the records it is to have.

    python -m mediflow.generate mediflow/recipes/generate_embedded.yml instructions=200

Every finished call is in `raw/calls.jsonl` and is never paid for twice. `instructions/part-*.jsonl` has a row for each
accepted example, in the order of the plan; `ledger/part-*.jsonl` a line for every example there was, with the reason
where it was not accepted; `facts.jsonl` the patients or passages that they are about; `coverage.json` what each cell
was to have and has. `python -m mediflow.plan` says beforehand what a run will cost. What is good enough to keep is
decided by mediflow.judge and mediflow.curate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from mediflow.generation.admission import NearRepeats
from mediflow.generation.calls import Calls
from mediflow.generation.ledger import Books
from mediflow.generation.parse import ReplyForm
from mediflow.generation.passages import PassagesConfig, read_passages
from mediflow.generation.rounds import Rounds
from mediflow.generation.sources import Clinic, Grounding, Listed, Nothing, Source, read_facts
from mediflow.taxonomy import Taxonomy, check_weights, load_taxonomy, single_document
from mediflow.teacher import MODEL as SIMULATED
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.llm import (
    Chat,
    Engine,
    Journal,
    Summary,
    TeacherConfig,
    open_teachers,
    run_calls,
)

LICENCE = "CDLA-Permissive-2.0"
Count = Annotated[int, Field(ge=1)]


class Config(BaseConfig):
    """How many instructions, about what, from whom, and what is done with replies that fall short."""

    libraries: ClassVar[tuple[str, ...]] = ("rensa",)

    teacher: TeacherConfig = Field(description="the model that writes")
    more_teachers: list[TeacherConfig] = Field(
        [], description="further models; each gets the part of the calls that its share says"
    )
    engine: Engine = execution("local", "who makes the calls: this process, a provider's batches, vLLM here, or Ray")
    instructions: int = Field(100, ge=1, description="instructions planned, rounded up to whole calls")
    per_call: int = Field(1, ge=1, description="instructions asked for in a call, all of one cell (the paper: 10)")
    examples: Count | list[Count] = Field(
        4, description="examples of an instruction; of a list ([3, 4] in the paper) one is drawn for each call"
    )
    reply: ReplyForm = Field(
        "tagged", description="tagged, or json: sent along as a JSON schema, for endpoints that keep to one"
    )
    weights: str | dict[str, dict[Any, float]] = Field(
        "paper",
        description="paper, uniform, or shares by axis (task_type, document_type, input, difficulty, output_format, "
        "temperature), e.g. {difficulty: {hard: 3, extreme: 1}}; what is not named is as in the paper",
    )
    grounding: Grounding = Field(
        "patients", description="patients: each example is about a known patient; none: as in the paper"
    )
    patients: Path | None = Field(
        None,
        description="patients' facts: Parquet of mediflow.simulate, or JSON Lines in the form that "
        "mediflow/checking/facts.py tells (id, age, sex, conditions, medications, labs …), for any teacher but the "
        "simulated one; none draws them from the clinic",
    )
    passages: PassagesConfig | None = Field(None, description="own documents as inputs, in the place of grounding")
    credentialed: bool = Field(
        False, description="patients or passages are under a use agreement: to no remote endpoint without its switch"
    )
    max_tokens: int = Field(4096, ge=1, description="the longest reply")
    repair: bool = Field(True, description="ask once more, with the reasons, for what cannot be used of a reply")
    max_contradicted: int | None = Field(
        0, ge=0, description="a record that contradicts more of its facts is refused; null only counts them"
    )
    near_repeats: NearRepeats = NearRepeats()
    refills: int = Field(
        3, ge=0, description="rounds of further calls for the records that a cell lacks; 0 asks each cell once"
    )
    allow_failed: float = execution(0.05, "the share of calls without any answer above which the run stops")

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if not isinstance(self.examples, int) and not self.examples:
            raise ValueError("examples is an empty list; give a number, or several to draw from")
        if self.passages is not None and (self.patients is not None or self.grounding == "none"):
            raise ValueError("passages take the place of grounding; leave grounding and patients out")
        if self.patients is not None and self.grounding == "none":
            raise ValueError("grounding none uses no patients; leave patients out or set grounding: patients")
        return self

    @property
    def teachers(self) -> list[TeacherConfig]:
        """All of them."""
        return [self.teacher, *self.more_teachers]

    @property
    def most_examples(self) -> int:
        """The most examples of an instruction."""
        return self.examples if isinstance(self.examples, int) else max(self.examples)


def main(config: Config) -> Path:
    """Generate into config.out."""
    with run.start(config, "mediflow.generate") as this:
        source = open_source(config, this)
        with open_teachers(config.teachers, engine=config.engine, folder=this.folder) as chat:
            return generate(config, this, chat, source)


def generate(config: Config, this: run.Run, chat: Chat, source: Source | None = None) -> Path:
    """What main does, with any chat model."""
    source = source or open_source(config, this)
    taxonomy = taxonomy_of(config)
    check_weights(config.weights, taxonomy)
    calls = Calls(config, taxonomy, source)
    given = source.kind == "passages"
    with (
        Journal(this.folder / "raw" / "calls.jsonl") as journal,
        Books(this.folder, taxonomy, config.near_repeats, config.seed, given_inputs=given) as books,
    ):
        rounds = Rounds(calls, books, journal, repair=config.repair, refills=config.refills)
        rows = run_calls(
            rounds.requests(),
            chat,
            journal,
            sum(teacher.concurrency for teacher in config.teachers),
            "generate",
            follow_up=rounds.follow_up,
            total=calls.planned,
        )
        assert rounds.finished, "a call was not admitted"
        usage = Summary.of(rows.values())
        usage.refuse_silence(config.allow_failed)
        counts = books.finish()
        if not counts["accepted"]:
            raise UserError(
                f"none of {counts['calls']} calls gave a usable example; most often: {books.commonest_reason()}, see "
                f"{this.folder / 'ledger'}{usage.cut_note}"
            )
    this.facts["licences"] |= {"synthetic": LICENCE}
    this.facts["simulated"] = this.facts["simulated"] or SIMULATED in books.models
    names = [teacher.name for teacher in config.teachers]
    this.facts |= {"teacher": ", ".join(teacher.model for teacher in config.teachers), "usage": usage.facts()}
    this.facts |= {"teachers": dict(books.teachers)} if names[1:] else {}
    if counts["facts_checked"]:
        this.facts["contradicted_share"] = round(counts["facts_contradicted"] / counts["facts_checked"], 6)
    return this.finish(**counts)


def taxonomy_of(config: Config) -> Taxonomy:
    """What can be asked for; with passages, every task of one document type of the user's own."""
    taxonomy = load_taxonomy()
    return single_document(taxonomy, config.passages.document_type) if config.passages else taxonomy


def open_source(config: Config, this: run.Run | None = None) -> Source:
    """What the examples are about; the licences of passages go into the run's facts."""
    if config.passages is not None:
        passages = read_passages(config.passages)
        if this is not None:
            this.state_licences("passages", {passage.source: passage.license for passage in passages})
        return Listed("passages", passages, config.most_examples)
    if config.grounding == "none":
        return Nothing()
    if config.patients is not None:
        return Listed("facts", read_facts(config.patients), config.most_examples)
    return Clinic(config.seed, config.most_examples)


if __name__ == "__main__":
    run_command(main, Config)
