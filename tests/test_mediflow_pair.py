"""Flaws change what they should and nothing else; every planned pair is kept, dropped or failed, with a reason."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest
from pydantic import ValidationError

from mediflow.clinic.patients import draw_patients
from mediflow.clinic.reply import reply
from mediflow.pair import Config, main, make_pairs
from mediflow.pairing.flaws import RULES, apply_rule, load_error_types
from mediflow.pairing.plan import plan_pairs
from mediflow.pairing.reading import find_flaw
from mediflow.prompt import read_request
from medsmith import run
from medsmith.config import Config as BaseConfig
from medsmith.errors import UserError
from medsmith.llm import ChatError, ChatReply, ChatRequest, FakeChat, Journal, TeacherConfig
from medsmith.records import Instruction, read_jsonl, read_parquet, write_parquet

TEACHER = TeacherConfig(base_url="http://127.0.0.1:9/v1", model="fake", concurrency=1)


def row_of(number: int, **changes: Any) -> Instruction:
    row = Instruction(
        id=f"{number:04}",
        instruction=f"Summarize note {number // 2}.",
        input=f"The patient number {number} has pneumonia of the left lung.",
        output=f"Left pneumonia, treated with amoxicillin {500 + number} mg.",
        task_type="summarization",
        input_data="soap_note",
        output_format="plain_text",
        difficulty_level="hard",
        quality=4.0 - (number // 2) / 100,
    )
    return replace(row, **changes)


def config_of(**changes: Any) -> Config:
    values: dict[str, Any] = {"out": Path("unused"), "curated": Path("unused"), "teacher": TEACHER, **changes}
    return Config(**values)


def results(name: str, text: str, draws: int = 30) -> set[str | None]:
    return {apply_rule(name, text, random.Random(seed)) for seed in range(draws)}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rule_number", "metformin 500 mg", {f"metformin {n} mg" for n in (250, 400, 600, 1000, 5000)}),
        ("rule_number", "1. Hb 9.7", {f"1. Hb {n}" for n in ("4.8", "7.8", "11.6", "19.4", "97.0")}),
        ("rule_number", "E11.9 on 2024-01-05, B12, -1", {None}),
        ("rule_number", '{"sentence": 4}', {f'{{"sentence": {n}}}' for n in (2, 3, 5, 8, 40)}),
        ("rule_negation", "The patient denies fever.", {"The patient reports fever."}),
        ("rule_negation", "There is no evidence of pneumonia.", {"There is evidence of pneumonia."}),
        ("rule_negation", "Sodium 140 (normal 135 to 145) and pain", {None}),
        ("rule_negation", "Yes", {"No"}),
        ("rule_negation", "ENTAILMENT", {"CONTRADICTION"}),
        ("rule_negation", '{"label": "ENTAILMENT", "no": 1}', {'{"label": "CONTRADICTION", "no": 1}'}),
        ("rule_side", "Left lower lobe", {"Right lower lobe"}),
        ("rule_side", "RLL opacity", {"LLL opacity"}),
        ("rule_side", "bilateral effusions", {"left effusions", "right effusions"}),
        ("rule_side", "She left the hospital right away, all right", {None}),
        ("rule_drug", "Warfarin, then warfarin", {
            f"{drug.capitalize()}, then {drug}"
            for drug in ("apixaban", "rivaroxaban", "dabigatran", "edoxaban", "enoxaparin", "heparin")
        }),
        ("rule_drug", "no drug named", {None}),
        ("rule_code", "J18.9", {"J18.0", "J18.1", "J18.2", "J18.8"}),
        ("rule_code", "B99.99 and Q1 are no codes", {None}),
        ("rule_omission", "A; B; C", {"B; C", "A; C", "A; B"}),
        ("rule_omission", "He came. He went.", {"He came.", "He went."}),
        ("rule_omission", "one thing", {None}),
        ("rule_omission", '{"entities": ["a", "b"]}', {'{"entities": ["a"]}', '{"entities": ["b"]}'}),
    ],
)  # fmt: skip
def test_each_rule_changes_the_text_as_intended(name: str, text: str, expected: set[str | None]) -> None:
    """Over 60 seeds a rule gives these texts and no other."""
    assert results(name, text, 60) == expected


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize(
    "text",
    [
        '{"relations": [{"drug": "aspirin", "dose": "81 mg"}, {"drug": "warfarin", "dose": "5 mg"}], "code": "I10"}',
        '{\n  "summary": "Denies \\"left\\" pain, code J18.9. Takes aspirin 81 mg.",\n  "n": 4\n}',
        "[1, 2]",
    ],
)
def test_json_stays_json_with_its_keys_and_layout(name: str, text: str) -> None:
    """Whatever a rule does to a JSON answer, keys and indentation stay and exactly one thing differs."""
    good = json.loads(text)
    for changed in results(name, text) - {None}:
        value = json.loads(str(changed))
        assert type(value) is type(good) and value != good
        if isinstance(value, dict):
            assert list(value) == list(good)
        assert ("\n" in str(changed)) == ("\n" in text)


def test_a_rule_is_the_same_for_the_same_seed() -> None:
    """Rules draw from the generator that they are given and nothing else."""
    text = "Left pneumonia with 3 nodules; aspirin 81 mg; denies pain; J18.9"
    for name in RULES:
        assert apply_rule(name, text, random.Random(5)) == apply_rule(name, text, random.Random(5)) is not None


def test_there_are_the_papers_twelve_error_types() -> None:
    """Names as in MediPhi A.7, each with a definition of its own."""
    types = load_error_types()
    assert len(types) == 12 and len(set(types.values())) == 12
    assert {"ambiguity", "over_verbosity", "factual_inaccuracy", "spelling_errors"} <= set(types)
    assert all(len(text.split()) > 10 for text in types.values())


def test_ranks_scale_to_the_instructions_at_hand() -> None:
    """17 instructions of the paper's 85,000 get 4 × 3, 5 × 2 and 8 × 1 pairs, the best first; shares and counts too."""
    rows = [row_of(number) for number in range(34)]
    per_instruction = Counter(slot.row.instruction for slot in plan_pairs(rows, config_of()))
    counts = [per_instruction[f"Summarize note {number}."] for number in range(17)]
    assert counts == [3] * 4 + [2] * 5 + [1] * 8
    assert len(plan_pairs(rows, config_of(ranks=[(3, 2)]))) == 6
    assert len(plan_pairs(rows, config_of(ranks=[(1.0, 1)]))) == 17


def test_pairs_of_an_instruction_take_turns_on_its_examples_with_distinct_types() -> None:
    """Three pairs on two examples use both, with three types, and each names another type to fall back on."""
    slots = plan_pairs([row_of(0), row_of(1)], config_of(ranks=[(1.0, 3)]))
    assert [slot.row.id for slot in slots] == [slots[0].row.id, slots[1].row.id, slots[0].row.id]
    assert {slot.row.id for slot in slots} == {"0000", "0001"}
    types = [name for slot in slots for name in slot.types]
    assert len(set(types)) == 6
    assert plan_pairs([row_of(1), row_of(0)], config_of(ranks=[(1.0, 3)])) == slots


def paired(rows: list[Instruction], replies: list[Any], folder: Path, **changes: Any) -> Any:
    config = config_of(ranks=[(1.0, 1)], **changes)
    chat = FakeChat(replies)
    with Journal(folder / "calls.jsonl") as journal:
        return make_pairs(plan_pairs(rows, config), config, chat, journal), chat


def test_a_good_flaw_is_taken_and_the_prompt_carries_all(tmp_path: Path) -> None:
    """The reply becomes the rejected answer, its code fence off; the request holds the row and the type."""
    row = row_of(0)
    result, chat = paired([row], ["```\nRight pneumonia.\n```"], tmp_path)
    (pair,) = result.pairs
    assert pair.rejected_output == "Right pneumonia." and pair.output == row.output and pair.quality == 4.0
    request = read_request(chat.requests[0].messages)
    assert request is not None and request["kind"] == "induce_error" and request["output"] == row.output
    assert request["error_type"] == pair.error_type in load_error_types()
    text = chat.requests[0].messages[1]["content"]
    assert all(name in text for name in load_error_types()) and f"The type to use: {pair.error_type}." in text
    assert pair.id != row.id


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "empty"),
        ("LEFT pneumonia,  treated with\namoxicillin 500 mg.", "equal_to_chosen"),
        ("I'm sorry, but I cannot help with that.", "refusal"),
        (ChatError("content filter", final=True), "call_failed"),
        (ChatReply(["Right pneu"], {}, "m", finish=["length"]), "cut"),
    ],
)
def test_a_bad_flaw_is_tried_once_more_with_another_type_and_then_fails(tmp_path: Path, bad: Any, reason: str) -> None:
    """One bad reply and a good one make a pair of the second type; two bad ones a failure with the reason."""
    result, chat = paired([row_of(0)], [bad, "Right pneumonia."], tmp_path / "a")
    (slot,) = plan_pairs([row_of(0)], config_of(ranks=[(1.0, 1)]))
    assert [pair.error_type for pair in result.pairs] == [slot.types[1]] and not result.failed
    result, chat = paired([row_of(0)], [bad, bad], tmp_path / "b")
    assert not result.pairs and len(chat.requests) == 2
    assert [(one.reason, one.error_type) for one in result.failed] == [(reason, slot.types[1])]


def test_a_json_answer_needs_a_json_flaw_with_its_keys() -> None:
    """Broken syntax and other keys are no flaws to learn from; other values are."""
    row = row_of(0, output='{"summary": "a"}', output_format="json")
    assert find_flaw(row, "summary: b")[1] == "not_json"
    assert find_flaw(row, '{"SUMMARY": "A B"}')[1] == "other_keys"
    assert find_flaw(row, '{"summary": "b"}')[1] is None
    assert find_flaw(row_of(0, output="1.5 mg"), "15 mg")[1] is None


def test_a_restart_pays_for_nothing_again(tmp_path: Path) -> None:
    """With the journal of a first run a second makes no call and gives the same pairs."""
    rows = [row_of(number) for number in range(0, 10, 2)]
    replies = [f"Right pneumonia {number}." for number in range(5)]
    first, _ = paired(rows, replies, tmp_path)
    second, chat = paired(rows, [], tmp_path)
    assert second == first and len(first.pairs) == 5 and not chat.requests


def test_rules_take_their_share_and_the_teacher_the_rest(tmp_path: Path) -> None:
    """Rows without a hold for any rule go to the teacher, or fail where there is none."""
    rows = [row_of(0), row_of(2, output="glaucoma")]
    result, chat = paired(rows, ["glaukoma"], tmp_path / "a", rules=1.0)
    assert sorted(pair.error_type in RULES for pair in result.pairs) == [False, True]
    assert len(chat.requests) == 1
    result, chat = paired(rows, [], tmp_path / "b", rules=1.0, teacher=None)
    assert [(one.row.id, one.reason) for one in result.failed] == [("0002", "no_rule_applies")]


class SimulatedChat:
    """The simulated teacher without a server."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer by rule."""
        return ChatReply([reply(read_request(request.messages) or {}, 0)], {}, "simulated")


def test_the_simulated_teacher_gives_the_same_pairs_again(tmp_path: Path) -> None:
    """Two runs over 40 rows agree in every pair and failure, whatever the order of the rows and the concurrency."""
    rows = [row_of(number) for number in range(40)]
    found = []
    for name, given, concurrency in (("a", rows, 1), ("b", rows[::-1], 8)):
        teacher = TEACHER.model_copy(update={"concurrency": concurrency})
        config = config_of(ranks=[(1.0, 3)], rules=0.3, teacher=teacher)
        with Journal(tmp_path / name) as journal:
            result = make_pairs(plan_pairs(given, config), config, SimulatedChat(), journal)
        found.append((result.pairs, result.failed))
    assert found[0] == found[1]
    assert len(found[0][0]) + len(found[0][1]) == 60 and len(found[0][0]) > 50
    assert all(pair.rejected_output.casefold() != pair.output.casefold() for pair in found[0][0])


def test_a_claimed_error_must_contradict_the_facts_where_they_are_known(tmp_path: Path) -> None:
    """A reworded answer is no factual error: with the facts the second type is tried, without them it stands."""
    patient = draw_patients(0, 1)[0]
    new = patient.new_medication
    good = f"The patient was started on {new.drug} {new.dose} {new.unit} {new.frequency} for {new.disease}."
    row = row_of(0, output=good)
    types = ["factual_inaccuracy", "ambiguity"]
    config = config_of(ranks=[(1.0, 1)], error_types=types)
    (slot,) = (replace(slot, types=("factual_inaccuracy", "ambiguity")) for slot in plan_pairs([row], config))
    same, wrong = f"Indeed, {good}", good.replace(f" {new.dose} ", f" {int(new.dose) * 10} ")
    found = {}
    for name, truth, replies in (
        ("unknown", {}, [same]),
        ("reworded", {row.id: patient.facts()}, [same, same]),
        ("wrong", {row.id: patient.facts()}, [wrong]),
    ):
        with Journal(tmp_path / name) as journal:
            result = make_pairs([slot], config, FakeChat(replies), journal, truth)
        found[name] = [(pair.error_type, result.proofs[pair.id].kind) for pair in result.pairs]
    assert found == {
        "unknown": [("factual_inaccuracy", "differs")],
        "reworded": [("ambiguity", "differs")],
        "wrong": [("factual_inaccuracy", "contradicts")],
    }
    lax = config_of(ranks=[(1.0, 1)], error_types=types, require_proof=False)
    with Journal(tmp_path / "lax") as journal:
        result = make_pairs([slot], lax, FakeChat([same]), journal, {row.id: patient.facts()})
    assert [pair.error_type for pair in result.pairs] == ["factual_inaccuracy"]


class Made(BaseConfig):
    """A step without settings."""


def curated(folder: Path, rows: list[Instruction]) -> Path:
    with run.start(Made(out=folder), "test") as this:
        write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
        this.facts |= {"licences": {"synthetic": "CDLA-Permissive-2.0"}, "simulated": True}
        return this.finish(rows=len(rows))


def test_the_command_accounts_for_every_pair_byte_for_byte(tmp_path: Path) -> None:
    """By rules alone: in = kept + dropped + failed over the files, and a second run gives the same bytes."""
    rows = [row_of(number) for number in range(0, 40, 2)] + [row_of(41, output="glaucoma")]
    folder = curated(tmp_path / "curate", rows)
    settings = {"curated": folder, "rules": 1.0, "ranks": [(1.0, 3)], "balance": {"max_dropped": 0.6}}
    one, two = (main(Config(out=tmp_path / name, **settings)) for name in ("one", "two"))
    record = json.loads((one / "run.json").read_text())
    kept = read_parquet(one / "data")
    dropped = polars.read_parquet(one / "dropped.parquet")
    failed = list(read_jsonl(one / "failed.jsonl"))
    assert record["counts"] == {"in": 63, "kept": len(kept), "dropped": len(dropped), "failed": 3}
    assert len(kept) + len(dropped) == 60 and {row["row_id"] for row in failed} == {"0041"}
    assert sum(record["facts"]["reasons"].values()) == len(dropped) + 3
    assert record["facts"]["simulated"] is True
    assert abs(record["facts"]["length_ratio"]["after"]["mean_log"]) < 0.05
    assert all(pair.error_type in RULES and pair.rejected_output != pair.output for pair in kept)
    proofs = {row["id"]: row["kind"] for row in read_jsonl(one / "proofs.jsonl")}
    assert list(proofs) == [pair.id for pair in kept]
    assert {proofs[pair.id] for pair in kept if pair.error_type == "rule_omission"} <= {"leaves_out"}
    counts = list(read_jsonl(one / "answers.jsonl"))
    assert all(abs(row["chosen"] - row["rejected"]) <= 1 for row in counts)
    assert record["facts"]["answers"]["difference"]["after"] <= 1
    assert Counter(proofs.values()) == sum(map(Counter, record["facts"]["proof"].values()), Counter())
    assert len({(pair.input, pair.rejected_output) for pair in kept}) == len(kept)
    for name in ("data/train-00000-of-00001.parquet", "dropped.parquet", "failed.jsonl", "answers.jsonl", "README.md"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    card = (one / "README.md").read_text()
    assert f"{len(kept)} preference pairs" in card and "**Simulated.**" in card and "- dpo" in card
    assert "For 3 of 63 planned pairs no usable flaw was found." in card


def test_settings_that_make_no_flaws_are_refused() -> None:
    """No teacher without rules=1, unknown types and empty ranks are errors that name the value."""
    with pytest.raises(ValidationError, match="give a teacher, or set rules=1"):
        config_of(teacher=None)
    with pytest.raises(ValidationError, match="no error type 'typo'"):
        config_of(error_types=["typo"])
    with pytest.raises(ValidationError, match="ranks needs"):
        config_of(ranks=[(0, 1)])


def test_nothing_left_is_a_user_error(tmp_path: Path) -> None:
    """Where no rule has a hold on any row the run fails in one line and stays unfinished."""
    folder = curated(tmp_path / "curate", [row_of(0, output="glaucoma")])
    with pytest.raises(UserError, match="none of 1 planned pairs is left"):
        main(Config(out=tmp_path / "out", curated=folder, rules=1.0, ranks=[(1.0, 1)]))
    assert not (tmp_path / "out" / "run.json").exists()
