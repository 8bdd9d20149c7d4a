"""Preference pairs: the best rows of a curated set, each beside the same answer with one flaw brought in on purpose.

    python -m mediflow.pair mediflow/recipes/pair_embedded.yml curated=out/mediflow/curate/small

A flaw of a drawn type is written by a teacher (`raw/calls.jsonl` keeps what was paid for) or made by a rule (`flaws`).
Every pair that was planned is in `data/`, in `dropped.parquet` with its reason, or in `failed.jsonl` with what came
back. Lengths and short answers are balanced: a model can learn neither to prefer the longer answer nor which answers
are rejected (`answers.jsonl` counts each).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from mediflow.curate import Column, Dropped, write_dropped
from mediflow.curation.card import write_pair_card
from mediflow.pairing.flaws import RULES, apply_rule, load_error_types
from mediflow.pairing.lengths import Balance, balance_lengths, summarise_lengths
from mediflow.pairing.plan import Slot, plan_folder
from mediflow.pairing.proof import CLAIMS_ERROR, SHOWN_WRONG, Proof, find_type, is_formatting, prove
from mediflow.pairing.reading import find_flaw, fold, read_answer
from mediflow.prompt import render
from mediflow.teacher import MODEL as SIMULATED
from medsmith import run
from medsmith.answer_balance import Balanced, balance_answers, count_answers, largest_difference
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.llm import (
    Chat,
    ChatRequest,
    Engine,
    Journal,
    Summary,
    TeacherConfig,
    open_teacher,
    run_calls,
)
from medsmith.records import Instruction, content_id, read_jsonl, write_jsonl, write_parquet
from medsmith.replies import cut_note

Truth = Mapping[str, dict[str, Any]]
"""The facts that rows are about, by the row's id."""


class Config(BaseConfig):
    """Which rows get how many flawed answers, made by whom."""

    libraries: ClassVar[tuple[str, ...]] = ("polars", "simple-icd-10-cm")

    curated: Path = Field(description="a mediflow.curate folder")
    generated: Path | None = Field(
        None, description="the mediflow.generate folder of its rows: with its facts, wrong answers are proven wrong"
    )
    teacher: TeacherConfig | None = Field(None, description="the model that writes flawed answers; none with rules=1")
    ranks: list[tuple[float, int]] = Field(
        [(20_000, 3), (25_000, 2), (40_000, 1)],
        description="[instructions, pairs of each], the best first: numbers, scaled down where there are fewer, or "
        "shares of all up to 1; the paper's by default (A.7)",
    )
    rules: float = Field(0.0, ge=0, le=1, description="the share of pairs whose flaw a rule makes, where one applies")
    error_types: list[str] = Field([], description="types to draw from; all of errors.yml by default")
    stratify: list[Column] = Field(["task_type", "input_data", "output_format"], description="as in mediflow.curate")
    temperature: float = Field(1.0, ge=0, description="of the teacher")
    max_tokens: int = Field(4096, ge=1, description="the longest flawed answer")
    require_proof: bool = Field(
        True,
        description="where the facts are known, a flaw that claims to be a false statement must contradict them or the "
        "chosen answer",
    )
    balance: Balance = Balance()
    title: str = Field("Synthetic clinical preference pairs", description="the data set's name on its card")
    license: str | None = Field(
        None,
        description="the licence on the card, a Hugging Face identifier; null: cdla-permissive-2.0 where all sources "
        "are synthetic, else other",
    )
    engine: Engine = execution("local", "who makes the calls: local, batch, vllm or ray")
    allow_failed: float = execution(0.05, "the share of calls without any answer above which the run stops")

    @model_validator(mode="after")
    def _somebody_makes_flaws(self) -> Config:
        if self.teacher is None and self.rules < 1:
            raise ValueError("give a teacher, or set rules=1 to make every flaw by rule")
        unknown = sorted(set(self.error_types) - set(load_error_types()))
        if unknown:
            raise ValueError(f"no error type {unknown[0]!r}; known are {', '.join(load_error_types())}")
        if not self.ranks or any(size <= 0 or pairs < 1 for size, pairs in self.ranks):
            raise ValueError("ranks needs pairs like [20000, 3], both above 0")
        return self


@dataclass(frozen=True)
class Failure:
    """A planned pair that did not come about."""

    row: Instruction
    error_type: str
    reason: str
    text: str


@dataclass(frozen=True)
class Flawed:
    """A row with its rejected answer, and why that is worse."""

    pair: Instruction
    proof: Proof


@dataclass(frozen=True)
class Paired:
    """Every slot, parted into pairs and failures; `calls` are the journal's rows, `proofs` by the pair's id."""

    pairs: list[Instruction]
    failed: list[Failure]
    calls: Mapping[str, dict[str, Any]]
    proofs: dict[str, Proof]


def main(config: Config) -> Path:
    """Make pairs into config.out."""
    with run.start(config, "mediflow.pair") as this:
        curated = run.require_finished(config.curated)
        slots = plan_folder(config.curated / "data", config)
        truth = read_truth(config, {slot.row.id for slot in slots})
        with Journal(this.folder / "raw" / "calls.jsonl") as journal:
            if config.teacher is None:
                paired = make_pairs(slots, config, None, journal, truth)
            else:
                with open_teacher(config.teacher, engine=config.engine, folder=this.folder) as chat:
                    paired = make_pairs(slots, config, chat, journal, truth)
            usage = Summary.of(paired.calls.values())
            usage.refuse_silence(config.allow_failed)
        pairs, repeated = _distinct(paired.pairs)
        answers = balance_answers(pairs, config.seed, swap=True) if config.balance.answers else Balanced(pairs)
        uneven = [Dropped(pair, "answer_balance", detail) for pair, detail in answers.dropped]
        kept, unbalanced = balance_lengths(answers.kept, config.balance, answers.even)
        if not kept:
            raise UserError(f"none of {len(slots)} planned pairs is left; look into raw/ or loosen balance")
        dropped = repeated + uneven + unbalanced
        assert len(slots) == len(kept) + len(dropped) + len(paired.failed), "a pair vanished"
        proofs = _prove_kept(kept, paired, {_row_key(slot.row): truth.get(slot.row.id) for slot in slots})
        counts = count_answers(kept)
        _write(this.folder, kept, dropped, paired, proofs)
        this.facts["simulated"] = bool(this.facts["simulated"]) or SIMULATED in usage.models
        this.facts |= {
            "teacher": config.teacher.model if config.teacher else "rules",
            "own_passages": bool(curated["facts"].get("own_passages")),
            "planned": len(slots),
            "without_flaw": len(paired.failed),
            "usage": usage.facts(),
            "length_ratio": {"before": summarise_lengths(paired.pairs), "after": summarise_lengths(kept)},
            "answers": {
                "swapped": answers.swapped,
                "difference": {"before": largest_difference(count_answers(pairs)), "after": largest_difference(counts)},
            },
            "proof": _count_proofs(kept, proofs),
            "reasons": dict(
                sorted(Counter([*(d.reason for d in dropped), *(f.reason for f in paired.failed)]).items())
            ),
        }
        write_pair_card(this.folder / "README.md", config, kept, this.facts, counts)
        return this.finish(
            **{"in": len(slots), "kept": len(kept), "dropped": len(dropped), "failed": len(paired.failed)}
        )


def read_truth(config: Config, ids: Set[str]) -> dict[str, dict[str, Any]]:
    """The facts of the patients that rows are about, by the row's id; of rows without any, none."""
    # The facts of passages that a user gave tell where they are from, and nothing of a patient.
    if config.generated is None or run.require_finished(config.generated)["config"].get("passages"):
        return {}
    import polars

    # A row that a person edited has an id of its own; a refused repeat has the row's id and may be of another patient.
    ledger = polars.scan_parquet(config.curated / "ledger.parquet").filter(polars.col("decision") == "kept")
    row = polars.coalesce("edited_id", "id")
    known = ledger.filter(row.is_in(list(ids)) & polars.col("facts_id").is_not_null())
    about = dict(known.select(row.alias("row"), "facts_id").collect().rows())
    patients = set(about.values())
    facts = {
        row["facts_id"]: row["facts"]
        for row in read_jsonl(config.generated / "facts.jsonl")
        if row["facts_id"] in patients
    }
    return {key: facts[facts_id] for key, facts_id in about.items() if facts_id in facts}


def make_pairs(
    slots: Sequence[Slot], config: Config, chat: Chat | None, journal: Journal, truth: Truth | None = None
) -> Paired:
    """Bring a flaw into the answer of every slot: by rule where planned and possible, else by the teacher.

    `truth` gives the facts that a row is about, by its id.
    """
    truth = truth or {}
    made: dict[int, Flawed] = {}
    for number, slot in enumerate(slots):
        flawed = make_by_rule(slot.row, f"rule {config.seed} {number}", config, truth) if slot.by_rule else None
        if flawed is not None:
            made[number] = flawed
    # Requests are made when they are wanted and again when they are read: their texts together are large.
    numbers: dict[str, int] = {}

    def requests(teacher: TeacherConfig) -> Iterator[ChatRequest]:
        for number, slot in enumerate(slots):
            if number not in made:
                request = build_request(config, teacher, slot, 0, number)
                numbers[request.id] = number
                yield request

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        if request.id not in numbers or not row["final"] or config.teacher is None:
            return None
        slot = slots[numbers[request.id]]
        if isinstance(read_flaw(slot.row, slot.types[0], read_answer(row), config, truth), Flawed):
            return None
        return build_request(config, config.teacher, slot, 1, numbers[request.id])

    calls: Mapping[str, dict[str, Any]] = {}
    if config.teacher is not None and len(made) < len(slots):
        assert chat is not None, "calls are planned and nobody is there to answer"
        calls = run_calls(
            requests(config.teacher),
            chat,
            journal,
            config.teacher.concurrency,
            "pair",
            follow_up=follow_up,
            total=len(slots) - len(made),
        )
    failed = []
    for number, slot in enumerate(slots):
        if number not in made:
            outcome = _read_slot(slot, number, config, calls, truth)
            if isinstance(outcome, Failure):
                failed.append(outcome)
            else:
                made[number] = outcome
    assert len(slots) == len(made) + len(failed), "a slot vanished"
    in_order = [made[number] for number in sorted(made)]
    proofs = {one.pair.id: one.proof for one in in_order}
    return Paired([one.pair for one in in_order], failed, calls, proofs)


def make_by_rule(row: Instruction, seed: str, config: Config, truth: Truth) -> Flawed | None:
    """The row with a flaw by the first of the rules, in drawn order, that has a hold on its answer."""
    rng = random.Random(seed)
    for name in rng.sample(sorted(RULES), len(RULES)):
        flawed = read_flaw(row, name, apply_rule(name, row.output, rng), config, truth)
        if isinstance(flawed, Flawed):
            return flawed
    return None


def build_request(config: Config, teacher: TeacherConfig, slot: Slot, turn: int, number: int) -> ChatRequest:
    """Ask for the answer of a row with a flaw of the slot's `turn`-th type; equal ones are told apart by number."""
    row, error_type = slot.row, slot.types[turn]
    request = {
        "kind": "induce_error",
        "instruction": row.instruction,
        "input": row.input,
        "output": row.output,
        "error_type": error_type,
    }
    messages = render(
        "induce_error",
        request,
        types=load_error_types(),
        error_type=error_type,
        json_output=row.output_format == "json",
    )
    return teacher.request(
        messages,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        sample=number,
        about={"row_id": row.id, "error_type": error_type},
    )


def read_flaw(row: Instruction, error_type: str, text: str | None, config: Config, truth: Truth) -> Flawed | Failure:
    """The pair with what is proven of it, or why the text cannot stand as the rejected answer."""
    answer, reason = find_flaw(row, text)
    if reason is None:
        facts = truth.get(row.id)
        proof = prove(row, answer, facts)
        claimed = error_type in CLAIMS_ERROR and proof.kind not in SHOWN_WRONG
        if claimed and is_formatting(row, answer):
            reason = "formatting_alone"
        elif claimed and config.require_proof and facts is not None:
            reason = "not_proven_wrong"
        else:
            found = find_type(error_type, proof)
            pair = replace(row, id=content_id(row.id, found, answer), rejected_output=answer, error_type=found)
            return Flawed(pair, proof)
    return Failure(row, error_type, reason, answer)


def _read_slot(
    slot: Slot, number: int, config: Config, calls: Mapping[str, dict[str, Any]], truth: Truth
) -> Flawed | Failure:
    if config.teacher is None:
        return Failure(slot.row, "rule", "no_rule_applies", "")
    failure = None
    for turn, name in enumerate(slot.types):
        call = calls.get(build_request(config, config.teacher, slot, turn, number).id)
        if call is None:
            continue
        if call["error"]:
            reason = "refusal" if "declined" in call else "call_failed"
            failure = Failure(slot.row, name, reason, str(call["error"]))
            continue
        if cut := cut_note(call):
            failure = Failure(slot.row, name, "cut", cut.strip())
            continue
        outcome = read_flaw(slot.row, name, read_answer(call), config, truth)
        if isinstance(outcome, Flawed):
            return outcome
        failure = outcome
    assert failure is not None, "a slot without any call"
    return failure


def _prove_kept(
    kept: Sequence[Instruction], paired: Paired, about: Mapping[str, dict[str, Any] | None]
) -> dict[str, Proof]:
    """The proof of each pair; anew where another row's answer was swapped in."""
    return {
        pair.id: paired.proofs.get(pair.id) or prove(pair, pair.rejected_output, about[_row_key(pair)]) for pair in kept
    }


def _row_key(row: Instruction) -> str:
    return content_id(row.instruction, row.input, row.output)


def _write(
    folder: Path, kept: list[Instruction], dropped: list[Dropped], paired: Paired, proofs: Mapping[str, Proof]
) -> None:
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", kept)
    write_dropped(folder / "dropped.parquet", dropped)
    write_jsonl(
        folder / "failed.jsonl",
        (
            {"row_id": one.row.id, "error_type": one.error_type, "reason": one.reason, "text": one.text}
            for one in paired.failed
        ),
    )
    write_jsonl(
        folder / "answers.jsonl",
        (
            {"task_type": task, "field": field, "answer": answer, "chosen": chosen, "rejected": rejected}
            for (task, field), answers in count_answers(kept).items()
            for answer, (chosen, rejected) in answers.items()
        ),
    )
    write_jsonl(folder / "proofs.jsonl", ({"id": pair.id, **proofs[pair.id]._asdict()} for pair in kept))


def _count_proofs(kept: Sequence[Instruction], proofs: Mapping[str, Proof]) -> dict[str, dict[str, int]]:
    """By error type, how many rejected answers are shown to be wrong, and how."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in kept:
        counts[pair.error_type][proofs[pair.id].kind] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def _distinct(pairs: Sequence[Instruction]) -> tuple[list[Instruction], list[Dropped]]:
    """Each pair of chosen and rejected answer once: two types may have led to the same flaw."""
    first: dict[str, Instruction] = {}
    repeated = []
    for pair in pairs:
        key = content_id(_row_key(pair), fold(pair.rejected_output))
        kept = first.setdefault(key, pair)
        if kept is not pair:
            repeated.append(Dropped(pair, "repeated_pair", of=kept.id, similarity=1.0))
    return list(first.values()), repeated


if __name__ == "__main__":
    run_command(main, Config)
