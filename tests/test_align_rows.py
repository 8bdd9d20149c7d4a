"""Rows become TRL's shapes, in an order of their own, and what is dropped is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align import prepare, rows
from align.preferences import Pair, compare
from medsmith import run
from medsmith.config import Config
from medsmith.errors import UserError
from medsmith.records import Instruction, read_jsonl, write_jsonl, write_parquet


def row(number: int, **changes: Any) -> Instruction:
    made = Instruction(
        id=f"r{number}",
        instruction=f"Do thing {number // 2}.",
        input=f"Fever {number}?",
        output=f"No fever {number}.",
        task_type="qa",
        input_data="note",
        output_format="plain_text",
        difficulty_level="low",
        rejected_output=f"Fever {number}.",
        quality=float(number % 4),
    )
    return replace(made, **changes)


def test_rows_take_trl_shapes() -> None:
    """The instruction is the system's turn, the input the user's, the outputs the assistant's."""
    turns = [{"role": "system", "content": "Do thing 0."}, {"role": "user", "content": "Fever 1?"}]
    assert rows.messages(row(1)) == [*turns, {"role": "assistant", "content": "No fever 1."}]
    assert rows.preference(row(1)) == {
        "prompt": turns,
        "chosen": [{"role": "assistant", "content": "No fever 1."}],
        "rejected": [{"role": "assistant", "content": "Fever 1."}],
    }


@pytest.mark.parametrize(
    ("changes", "pairs", "reason"),
    [
        ({"instruction": " "}, False, "empty instruction"),
        ({"input": ""}, False, "empty input"),
        ({"output": "\n"}, False, "empty output"),
        ({"id": "r0"}, False, "id seen before"),
        ({"rejected_output": ""}, True, "empty rejected_output"),
        ({"rejected_output": "No fever 1. "}, True, "rejected_output is the output"),
    ],
)
def test_rows_that_teach_nothing_are_dropped(changes: dict[str, Any], pairs: bool, reason: str) -> None:
    """Each with its own reason; a missing rejected answer matters to pairs only."""
    kept, dropped = rows.usable([row(0), row(1, **changes)], pairs)
    assert [each.id for each in kept] == ["r0"] and dropped[0]["reason"] == reason and len(dropped) == 1
    assert pairs is False or len(rows.usable([row(0), row(1, **changes)]).rows) == 2


def test_best_rows_are_those_of_highest_quality() -> None:
    """Five of ten: both of quality 3 and three of the next; a row without a judgement comes last."""
    ten = [row(n) for n in range(9)] + [row(9, quality=None)]
    kept, dropped = rows.best(ten, 5, seed=0)
    assert sorted(each.quality or 0 for each in kept) == [1.0, 2.0, 2.0, 3.0, 3.0]
    assert len(kept) + len(dropped) == 10 and dropped[-1]["id"] == "r9"
    assert rows.best(ten, None, seed=0).dropped == []


def test_order_depends_on_ids_and_seed_only() -> None:
    """Input order does not matter, a new row moves no other, another seed gives another order."""
    ten = [row(n) for n in range(10)]
    order = [each.id for each in rows.in_order(ten, 0)]
    assert [each.id for each in rows.in_order(ten[::-1], 0)] == order
    more = [each.id for each in rows.in_order([*ten, row(11)], 0)]
    assert [name for name in more if name != "r11"] == order
    assert [each.id for each in rows.in_order(ten, 1)] != order != [each.id for each in ten]


def test_an_instruction_lies_on_one_side() -> None:
    """Held-out rows share no instruction with training rows, and are about their share."""
    many = [row(n) for n in range(400)]
    train, held = rows.hold_out(many, 0.25)
    assert not {each.instruction for each in train} & {each.instruction for each in held}
    assert len(train) + len(held) == 400 and 60 < len(held) < 140
    assert rows.hold_out(many, 0.0) == (many, [])


class Toy(Config):
    """A command that only chooses rows."""

    data: Path


def test_every_row_is_counted_and_dropped_ones_are_written(tiny_model: Path, tmp_path: Path) -> None:
    """Rows in are train + held out + dropped; the file names each dropped row, the long one with its length."""
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    long = row(20, output="word " * 100)
    write_parquet(tmp_path / "in" / "data" / "a.parquet", [*(row(n) for n in range(12)), long, row(21, input="")])
    with run.start(Toy(out=tmp_path / "run", data=tmp_path / "in"), "toy") as this:
        chosen = prepare.choose_rows(this, tmp_path / "in", tokenizer, 100, 0.3, top_rows=10)
    assert chosen.counts == {"rows": 14, "train": 8, "heldout": 2, "dropped": 4}
    dropped = {each["id"]: each for each in read_jsonl(tmp_path / "run" / "dropped.jsonl")}
    assert dropped["r20"]["reason"] == "longer than max_tokens"
    assert dropped["r20"]["tokens"] == len(tokenizer.apply_chat_template(rows.messages(long), return_dict=False))
    assert dropped["r21"]["reason"] == "empty input" and len(dropped) == 4

    with run.start(Toy(out=tmp_path / "none", data=tmp_path / "in"), "toy") as this:
        message = "of 14 rows none is left to train on; most often: longer than max_tokens"
        with pytest.raises(UserError, match=message):
            prepare.choose_rows(this, tmp_path / "in", tokenizer, 8, 0.0)


def test_rows_longer_than_the_models_context_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    """A context of 256 does for a larger max_tokens as long as no row needs more; then the line says how many do."""
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    write_parquet(tmp_path / "in" / "a.parquet", [row(1), row(2), row(3, output="word " * 300)])
    with run.start(Toy(out=tmp_path / "run", data=tmp_path / "in"), "toy") as this:
        every = prepare.choose_rows(this, tmp_path / "in", tokenizer, 4096, 0.0)
        short = prepare.choose_rows(this, tmp_path / "in", tokenizer, 256, 0.0)
    prepare.require_context(short, tiny_model, 4096)
    prepare.require_context(every, tiny_model, 256)
    with pytest.raises(UserError, match="max_tokens=4096 is more than the context of .*, 256, and 1 rows are longer"):
        prepare.require_context(every, tiny_model, 4096)


def test_length_of_a_pair_is_that_of_the_longer_answer(tiny_model: Path) -> None:
    """A long rejected answer counts where pairs are trained, and only there."""
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    short, long = row(1), row(1, rejected_output="word " * 50)
    assert prepare.count_tokens([long], tokenizer) == prepare.count_tokens([short], tokenizer)
    assert prepare.count_tokens([long], tokenizer, pairs=True)[0] > prepare.count_tokens([short], tokenizer)[0] + 50


def test_preference_facts_are_computed_by_hand() -> None:
    """Two pairs: one learned, one unlearned; the good answers lose probability, and that is said."""
    before = [Pair(-4.0, -4.0, 2, 4), Pair(-6.0, -2.0, 2, 2)]
    after = [Pair(-5.0, -9.0, 2, 4), Pair(-6.0, -1.0, 2, 2)]
    rows = [row(1, error_type="ambiguity"), row(2, error_type="rule_drug")]
    facts = compare(rows, before, after, beta=0.1)
    assert facts["before"] == {"chosen_logprob": -2.5, "rejected_logprob": -1.0, "accuracy": 0.0}
    assert facts["after"] == {"chosen_logprob": -2.75, "rejected_logprob": -1.666667, "accuracy": 0.0}
    # rewards: 0.1 * (-1 - -5) = 0.4 and 0.1 * (0 - 1) = -0.1
    assert facts["reward_margin"] == pytest.approx(0.15) and facts["reward_accuracy"] == 0.5
    assert facts["chosen_change"] == -0.25 and facts["likelihood_displacement"] is True
    assert compare(rows, before, before, 0.1)["reward_accuracy"] == 0.5


def test_planted_errors_are_counted_by_type_with_a_paired_interval() -> None:
    """Of four pairs one is preferred before and three after, both new ones of one type."""
    sound, flawed = Pair(-1.0, -2.0, 1, 1), Pair(-2.0, -1.0, 1, 1)
    rows = [row(n, instruction=f"Task {n}.", error_type=name) for n, name in enumerate(("side", "side", "dose", ""))]
    facts = compare(rows, [flawed, flawed, sound, flawed], [sound, sound, sound, flawed], 0.1)
    assert facts["by_error_type"] == {
        "dose": {"pairs": 1, "before": 1.0, "after": 1.0},
        "none given": {"pairs": 1, "before": 0.0, "after": 0.0},
        "side": {"pairs": 2, "before": 0.0, "after": 1.0},
    }
    change = facts["accuracy_change"]
    assert change["value"] == 0.5 and change["low"] == 0.0 and change["high"] == 1.0


def test_questions_of_a_teacher_are_rows_once_each_and_other_tasks_are_refused(tmp_path: Path) -> None:
    """A folder of experts.prepare is read as questions with answers; what a teacher repeated comes once."""
    folder = tmp_path / "prepare"
    outputs = ["Question: What treats gout? Answer: allopurinol", "Question: Who? Answer: Ada"] * 2
    write_jsonl(folder / "rows.jsonl", [{"output": output} for output in outputs])
    rows = prepare.read_source(folder)

    assert [(row.input, row.output) for row in rows] == [("What treats gout?", "allopurinol"), ("Who?", "Ada")]
    assert len({row.id for row in rows}) == 2
    assert all(row.instruction for row in rows)
    write_jsonl(folder / "rows.jsonl", [{"output": "A summary of the page."}])
    with pytest.raises(UserError, match=r"a text of 22 characters is no question with its answer"):
        prepare.read_source(folder)
