"""Have a teacher write multiple-choice questions with context on twelve topics: what merges are chosen by.

    python -m mediflow.validation_sets mediflow/recipes/validation_sets_embedded.yml out=out/validation

`sets/<topic>.jsonl` has the kept questions as merge_recipes.search reads them (`validation: [out/validation/sets]`),
`dropped.jsonl` all others with the reason, `coverage.json` and `report.md` what became of each topic. Every finished
call is in `raw/` and is never paid for twice. Test data stay for reporting: give the benchmarks as `blocklists`, and
give the sets to mediflow.curate as a blocklist in turn. A new topic is a new file in mediflow/validation_topics.

The paper (section 3.1.4): gpt-4o of 2024-08-06, twelve topics, HDBSCAN on embeddings of question and context, at most
1,200 questions a topic. What it does not tell, and is ours: prompts, options of a question, checks, the reviewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mediflow.teacher import MODEL as SIMULATED
from mediflow.validation.asking import Calls, Entry
from mediflow.validation.diversity import Diversity
from mediflow.validation.screening import drop_contaminated, drop_doubted, drop_known, drop_repeats
from mediflow.validation.sets import diversify, write_sets
from mediflow.validation.topics import Topic, load_topics
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.config import ModelRef, execution
from medsmith.decontaminate import Decontamination
from medsmith.errors import UserError, nearest
from medsmith.llm import Chat, Engine, Journal, Summary, TeacherConfig, open_teacher, run_calls

LICENCE = "CDLA-Permissive-2.0"
CHARACTERS_PER_TOKEN = 4
TOKENS_PER_WORD = 1.4
OTHER_TOKENS = 200
"""What a question, its options, evidence and reason take beside the context."""
ANSWER_TOKENS = 8


class Config(BaseConfig):
    """How many questions, from whom, who reads them a second time, and how the most different are chosen."""

    libraries: ClassVar[tuple[str, ...]] = ("rensa", "scikit-learn")

    teacher: TeacherConfig = Field(description="the model that writes")
    reviewer: TeacherConfig | None = Field(
        None, description="a model that answers every question unseen; what it answers otherwise is dropped"
    )
    engine: Engine = execution("local", "who makes the calls: local, batch, vllm or ray")
    topics: list[str] | None = Field(None, min_length=1, description="default: all of mediflow/validation_topics")
    questions: int = Field(1200, ge=1, description="kept of a topic at most (the paper: 1,200)")
    candidates: int = Field(1600, ge=1, description="asked for of a topic")
    per_call: int = Field(5, ge=1, description="questions asked for in a call")
    options: int = Field(4, ge=2, le=8, description="of a question, where the topic has no labels of its own")
    context_words: tuple[int, int] = Field((20, 250), description="of a context, at least and at most")
    temperature: float = Field(1.0, ge=0, description="of the teacher")
    max_tokens: int = Field(4096, ge=1, description="the longest reply")
    structured: bool = Field(True, description="send the JSON schema along; set false where an endpoint refuses it")
    repair: bool = Field(True, description="ask once more, with the reasons, for questions that cannot be used")
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of three-word shingles that drops the later of two questions"
    )
    blocklists: list[Path] = Field([], description="files or folders of benchmarks; what holds their texts is dropped")
    decontamination: Decontamination = Decontamination()
    closed_book: ModelRef | None = Field(
        None, description="a model, the base as a rule; what it answers without the context is dropped"
    )
    diversity: Diversity = Diversity()
    licence: str = Field(LICENCE, description="what the teacher's terms allow for what it writes")
    device: Literal["auto", "cpu", "cuda"] = execution("auto", "where closed_book runs")
    allow_failed: float = execution(0.05, "the share of calls without any answer above which the run stops")

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.candidates < self.questions:
            raise ValueError(f"candidates={self.candidates} are fewer than questions={self.questions}; ask for more")
        if not 1 <= self.context_words[0] <= self.context_words[1]:
            raise ValueError(f"context_words {list(self.context_words)} is no range; give [least, most]")
        return self


def main(config: Config) -> Path:
    """Make the sets in config.out."""
    with run.start(config, "mediflow.validation_sets") as this:
        teacher = open_teacher(config.teacher, engine=config.engine, folder=this.folder)
        reviewer = None
        if config.reviewer is not None:
            # A folder of its own: the two may be one model, and their batches are not.
            own = this.folder / "raw" / "review"
            reviewer = open_teacher(config.reviewer, engine=config.engine, folder=own)
        return make(config, this, teacher, reviewer)


def make(
    config: Config,
    this: run.Run,
    teacher: AbstractContextManager[Chat],
    reviewer: AbstractContextManager[Chat] | None = None,
) -> Path:
    """What main does, with any chat models; each is open only while it is asked, since two may not fit one GPU."""
    topics = topics_of(config)
    with teacher as chat:
        entries, usage, counts = ask(config, this, topics, chat)
    models = set(usage.models)
    drop_repeats(entries, config.near_duplicate)
    drop_contaminated(entries, config)
    if config.reviewer is not None:
        assert reviewer is not None, "main opens the reviewer that the settings name"
        with reviewer as chat:
            reviews = drop_doubted(entries, config, topics, chat, this.folder)
        this.facts |= {"reviewer": config.reviewer.model, "usage_of_reviewer": reviews.facts()}
        models |= reviews.models
    drop_known(entries, config, topics)
    told = {
        name: diversify([e for e in entries if e.topic == name], config.questions, config.diversity, config.seed)
        for name in topics
    }
    counts |= write_sets(this.folder, entries, topics, told, config.seed)
    if not counts["kept"]:
        raise UserError(
            f"none of {counts['questions']} questions was kept; see {this.folder / 'report.md'} for why{usage.cut_note}"
        )
    this.facts["licences"] |= {"synthetic validation sets": config.licence}
    this.facts["simulated"] = this.facts["simulated"] or SIMULATED in models
    this.facts |= {"teacher": config.teacher.model, "usage": usage.facts()}
    return this.finish(**counts)


def ask(
    config: Config, this: run.Run, topics: Mapping[str, Topic], chat: Chat
) -> tuple[list[Entry], Summary, dict[str, int]]:
    """Every question of every topic as the teacher wrote it, what the calls took, and their number."""
    calls = Calls(config, topics)
    with Journal(this.folder / "raw" / "calls.jsonl") as journal:
        rows = run_calls(
            calls.requests(), chat, journal, config.teacher.concurrency, "questions",
            follow_up=calls.follow_up, total=sum(1 for _ in calls.planned()),
        )  # fmt: skip
        usage = Summary.of(rows.values())
        usage.refuse_silence(config.allow_failed)
        counts = {"topics": len(topics), "calls": len(calls.ids), "repairs": len(rows) - len(calls.ids)}
        return calls.entries(rows), usage, counts


def plan(config: Config) -> str:
    """What a run will take: by its real prompts, and replies as long as they may be. Nobody is called."""
    requests = list(Calls(config, topics_of(config)).requests())
    asked = config.candidates * len(topics_of(config))
    sent = sum(len(message["content"]) for request in requests for message in request.messages) // CHARACTERS_PER_TOKEN
    each = round(config.context_words[1] * TOKENS_PER_WORD + OTHER_TOKENS)
    lines = [f"{len(requests)} calls for {asked} questions: {sent} tokens sent, {asked * each} at most come back"]
    takes = [(config.teacher, sent, asked * each)]
    if config.reviewer is not None:
        lines.append(f"{asked} readings by the reviewer at most: {asked * each} tokens sent")
        takes.append((config.reviewer, asked * each, asked * ANSWER_TOKENS))
    for teacher, prompt, completion in takes:
        price = teacher.token_price
        cost = None if price is None else price.cost(prompt, completion, batch=config.engine == "batch")
        lines.append(
            f"{teacher.model}: " + ("no price is known" if cost is None else f"at most {cost:.2f} and the repairs")
        )
    return "\n".join(lines)


def topics_of(config: Config) -> dict[str, Topic]:
    """The topics that are asked for. UserError for one that has no file."""
    known = load_topics()
    for name in config.topics or ():
        if name not in known:
            raise UserError(f"there is no topic '{name}'; {nearest(name, list(known))}")
    return {name: known[name] for name in config.topics or known}


if __name__ == "__main__":
    run_command(main, Config)
