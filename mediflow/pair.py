"""Preference pairs: the best rows of a curated set, each beside the same answer with one flaw brought in on purpose.

    python -m mediflow.pair mediflow/recipes/pair_embedded.yml curated=out/mediflow/curate/small

A flaw of a drawn type is written by a teacher (`raw/calls.jsonl` keeps what was paid for) or made by a rule (`flaws`).
Every pair that was planned is in `data/`, in `dropped.parquet` with its reason, or in `failed.jsonl` with what came
back. Length is balanced, so that a model cannot learn to prefer the longer answer.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from mediflow.card import write_pair_card
from mediflow.curate import Column, Dropped, write_dropped
from mediflow.filters import REFUSAL
from mediflow.flaws import RULES, apply_rule, load_error_types
from mediflow.lengths import Balance, balance_lengths, summarise_lengths
from mediflow.parse import strip_fence
from mediflow.prompt import render
from mediflow.rank import order_stratified
from mediflow.teacher import MODEL as SIMULATED
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.llm import (
    ChatModel,
    ChatRequest,
    Journal,
    TeacherConfig,
    open_teacher,
    refuse_silence,
    run_calls,
    summarise,
)
from medsmith.records import Instruction, content_id, read_parquet, write_jsonl, write_parquet


class Config(BaseConfig):
    """Which rows get how many flawed answers, made by whom."""

    libraries: ClassVar[tuple[str, ...]] = ("polars", "simple-icd-10-cm")

    curated: Path = Field(description="a mediflow.curate folder")
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
    balance: Balance = Balance()
    title: str = Field("Synthetic clinical preference pairs", description="the data set's name on its card")
    license: str = Field("cdla-permissive-2.0", description="the licence on the card, a Hugging Face identifier")
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
class Slot:
    """One planned pair: the row, and the error types to try, in order."""

    row: Instruction
    types: tuple[str, str]
    by_rule: bool


@dataclass(frozen=True)
class Failure:
    """A planned pair that did not come about."""

    row: Instruction
    error_type: str
    reason: str
    text: str


@dataclass(frozen=True)
class Paired:
    """Every slot, parted into pairs and failures; `calls` are the journal's rows."""

    pairs: list[Instruction]
    failed: list[Failure]
    calls: dict[str, dict[str, Any]]


def main(config: Config) -> Path:
    """Make pairs into config.out."""
    with run.start(config, "mediflow.pair") as this:
        run.require_finished(config.curated)
        slots = plan_pairs(read_parquet(config.curated / "data"), config)
        with Journal(this.folder / "raw" / "calls.jsonl") as journal:
            if config.teacher is None:
                paired = make_pairs(slots, config, None, journal)
            else:
                with open_teacher(config.teacher) as chat:
                    paired = make_pairs(slots, config, chat, journal)
        refuse_silence(paired.calls.values(), config.allow_failed)
        pairs, repeated = _distinct(paired.pairs)
        kept, unbalanced = balance_lengths(pairs, config.balance)
        if not kept:
            raise UserError(f"none of {len(slots)} planned pairs is left; look into raw/ or loosen balance")
        dropped = repeated + unbalanced
        assert len(slots) == len(kept) + len(dropped) + len(paired.failed), "a pair vanished"
        write_parquet(this.folder / "data" / "train-00000-of-00001.parquet", kept)
        write_dropped(this.folder / "dropped.parquet", dropped)
        write_jsonl(
            this.folder / "failed.jsonl",
            (
                {"row_id": one.row.id, "error_type": one.error_type, "reason": one.reason, "text": one.text}
                for one in paired.failed
            ),
        )
        simulated = any(row["model"] == SIMULATED for row in paired.calls.values())
        this.facts["simulated"] = bool(this.facts["simulated"]) or simulated
        this.facts |= {
            "teacher": config.teacher.model if config.teacher else "rules",
            "usage": summarise(paired.calls.values()),
            "length_ratio": {"before": summarise_lengths(paired.pairs), "after": summarise_lengths(kept)},
            "reasons": dict(
                sorted(Counter([*(d.reason for d in dropped), *(f.reason for f in paired.failed)]).items())
            ),
        }
        write_pair_card(this.folder / "README.md", config, kept, this.facts)
        return this.finish(
            **{"in": len(slots), "kept": len(kept), "dropped": len(dropped), "failed": len(paired.failed)}
        )


def plan_pairs(rows: Sequence[Instruction], config: Config) -> list[Slot]:
    """Rank the instructions, give each its number of pairs, spread over its examples and over error types."""
    grouped: dict[tuple[str, ...], list[Instruction]] = defaultdict(list)
    for row in rows:
        about = (row.task_type, row.input_data, row.output_format, row.difficulty_level)
        grouped[row.instruction, *about].append(row)
    groups = list(grouped.values())
    order = order_stratified(
        [group[0].quality for group in groups],
        [content_id(key) for key in grouped],
        [tuple(getattr(group[0], column) for column in config.stratify) for group in groups],
    )
    types = config.error_types or list(load_error_types())
    slots = []
    for number, count in zip(order, _counts(config.ranks, len(groups)), strict=False):
        examples = sorted(groups[number], key=lambda row: row.id)
        rng = random.Random(f"pair {config.seed} {examples[0].id}")
        rng.shuffle(examples)
        drawn = rng.sample(types, len(types))
        for place in range(count):
            # The second type is tried where the first brings nothing; it is nobody else's first while types last.
            first, second = drawn[place % len(drawn)], drawn[(place + count) % len(drawn)]
            slots.append(Slot(examples[place % len(examples)], (first, second), rng.random() < config.rules))
    return slots


def _counts(ranks: Sequence[tuple[float, int]], instructions: int) -> list[int]:
    """The number of pairs of the first, second, … instruction."""
    sizes = [size * instructions if size <= 1 else size for size, _ in ranks]
    scale = min(1.0, instructions / sum(sizes))
    counts: list[int] = []
    end = 0.0
    for size, (_, pairs) in zip(sizes, ranks, strict=True):
        end += size * scale
        counts += [pairs] * (round(end) - len(counts))
    return counts


def make_pairs(slots: Sequence[Slot], config: Config, chat: ChatModel | None, journal: Journal) -> Paired:
    """Bring a flaw into the answer of every slot: by rule where planned and possible, else by the teacher."""
    made: dict[int, Instruction] = {}
    asked: dict[int, tuple[ChatRequest, ChatRequest]] = {}
    for number, slot in enumerate(slots):
        flawed = make_by_rule(slot.row, f"rule {config.seed} {number}") if slot.by_rule else None
        if flawed is not None:
            made[number] = flawed
        elif config.teacher is not None:
            first, second = (build_request(config, config.teacher, slot.row, name, number) for name in slot.types)
            asked[number] = (first, second)
    second_of = {first.id: (number, second) for number, (first, second) in asked.items()}

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        if request.id not in second_of or not row["final"]:
            return None
        number, second = second_of[request.id]
        return second if find_flaw(slots[number].row, read_answer(row))[1] else None

    calls: dict[str, dict[str, Any]] = {}
    if asked:
        assert chat is not None and config.teacher is not None, "calls are planned and nobody is there to answer"
        requests = [first for first, _ in asked.values()]
        calls = run_calls(requests, chat, journal, config.teacher.concurrency, "pair", follow_up=follow_up)
    failed = []
    for number, slot in enumerate(slots):
        if number in made:
            continue
        outcome = _read_slot(slot, asked.get(number), calls)
        if isinstance(outcome, Failure):
            failed.append(outcome)
        else:
            made[number] = outcome
    assert len(slots) == len(made) + len(failed), "a slot vanished"
    return Paired([made[number] for number in sorted(made)], failed, calls)


def make_by_rule(row: Instruction, seed: str) -> Instruction | None:
    """The row with a flaw by the first of the rules, in drawn order, that has a hold on its answer."""
    rng = random.Random(seed)
    for name in rng.sample(sorted(RULES), len(RULES)):
        text = apply_rule(name, row.output, rng)
        if text is not None and find_flaw(row, text)[1] is None:
            return _pair(row, text, name)
    return None


def build_request(
    config: Config, teacher: TeacherConfig, row: Instruction, error_type: str, number: int
) -> ChatRequest:
    """Ask for the answer of a row with one flaw; slots that ask the same are told apart by their number."""
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


def read_answer(call: dict[str, Any]) -> str | None:
    """The flawed answer of a call, without a code fence around it; None where no answer came."""
    return strip_fence(call["texts"][0]) if call["texts"] else None


def find_flaw(row: Instruction, text: str | None) -> tuple[str, str | None]:
    """The answer, and why it cannot stand as the rejected one, or None."""
    if text is None or not text.strip():
        return "", "empty"
    if _plain(text) == _plain(row.output):
        return text, "equal_to_chosen"
    if row.output_format == "json" and (good := _keys(row.output)) is not None:
        # Broken syntax or other keys would be learned in place of the flaw.
        keys = _keys(text)
        if keys is None:
            return text, "not_json"
        if keys != good:
            return text, "other_keys"
    if REFUSAL.search(text[:200]) and not REFUSAL.search(row.output[:200]):
        return text, "refusal"
    return text, None


def _read_slot(
    slot: Slot, requests: tuple[ChatRequest, ChatRequest] | None, calls: dict[str, dict[str, Any]]
) -> Instruction | Failure:
    if requests is None:
        return Failure(slot.row, "rule", "no_rule_applies", "")
    failure = None
    for request, name in zip(requests, slot.types, strict=True):
        call = calls.get(request.id)
        if call is None:
            continue
        if call["error"]:
            failure = Failure(slot.row, name, "call_failed", str(call["error"]))
            continue
        text, reason = find_flaw(slot.row, read_answer(call))
        if reason is None:
            return _pair(slot.row, text, name)
        failure = Failure(slot.row, name, reason, text)
    assert failure is not None, "a slot without any call"
    return failure


def _pair(row: Instruction, text: str, error_type: str) -> Instruction:
    return replace(row, id=content_id(row.id, error_type, text), rejected_output=text, error_type=error_type)


def _distinct(pairs: Sequence[Instruction]) -> tuple[list[Instruction], list[Dropped]]:
    """Each pair of chosen and rejected answer once: two types may have led to the same flaw."""
    first: dict[str, Instruction] = {}
    repeated = []
    for pair in pairs:
        key = content_id(pair.instruction, pair.input, pair.output, _plain(pair.rejected_output))
        kept = first.setdefault(key, pair)
        if kept is not pair:
            repeated.append(Dropped(pair, "repeated_pair", of=kept.id, similarity=1.0))
    return list(first.values()), repeated


def _plain(text: str) -> str:
    """Without spacing, case and Unicode variants; punctuation stays, for 1.5 is not 15."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _keys(text: str) -> set[str] | None:
    """The top-level keys of a JSON text, none for a list or a value; None where it is no JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return set(value) if isinstance(value, dict) else set()


if __name__ == "__main__":
    run_command(main, Config)
