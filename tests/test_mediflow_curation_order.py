"""Whatever people decide, benchmarks hold and judges say: a row goes for one that stays, and accepted rows stay."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars
import pytest

from mediflow import pair
from mediflow.curate import Config, main
from medsmith import run
from medsmith.config import Config as BaseConfig
from medsmith.records import Instruction, read_json, read_parquet, write_json, write_jsonl

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")
NOUNS = [f"finding{number}" for number in range(900)]
LEAK = " ".join(f"benchmark{number}" for number in range(20))
FAMILIES = 8


class Made(BaseConfig):
    """A step without settings."""


@dataclass(frozen=True)
class World:
    """Rows in families of copies (the id begins with the family's number), and what is decided and held of them."""

    rows: list[Instruction]
    decisions: list[dict[str, Any]]
    settings: dict[str, Any]

    def curate(self, folder: Path, facts: bool = False, passages: bool = False) -> Path:
        """Run the command on a generate folder, a judge folder, decisions and a blocklist of these rows."""
        with run.start(Made(out=folder / "generate"), "test") as this:
            values = [{**asdict(row), "instruction_id": f"i{row.id}"} for row in self.rows]
            write_jsonl(this.folder / "instructions" / "part-00000.jsonl", values)
            if facts:
                ledger = [
                    {"id": row.id, "facts_id": f"p{row.id}", "status": "accepted", "call_id": "c"} for row in self.rows
                ]
                # A refused repeat, with the id of the row that it repeats, about somebody else.
                ledger.append({"id": self.rows[0].id, "facts_id": f"p{self.rows[1].id}", "status": "refused"})
                write_jsonl(this.folder / "ledger" / "part-00000.jsonl", ledger)
                told = [{"facts_id": f"p{row.id}", "facts": {"id": row.id}} for row in self.rows]
                write_jsonl(this.folder / "facts.jsonl", told)
            this.finish(rows=len(self.rows))
        if passages:
            record = read_json(folder / "generate" / "run.json")
            record["config"]["passages"] = {"path": "p"}
            write_json(folder / "generate" / "run.json", record)
        with run.start(Made(out=folder / "judge"), "test") as this:
            scores = [
                {"instruction_id": f"i{row.id}", "mean": dict.fromkeys(CRITERIA, row.quality)} for row in self.rows
            ]
            write_jsonl(this.folder / "scores.jsonl", scores)
            this.finish(rows=len(scores))
        write_jsonl(folder / "decisions.jsonl", self.decisions)
        write_jsonl(folder / "leaks.jsonl", [{"text": LEAK}])
        inputs = {"generated": folder / "generate", "judged": folder / "judge", "map_rows": 0, "keep_columns": False}
        inputs |= {"decisions": [folder / "decisions.jsonl"], "blocklists": [folder / "leaks.jsonl"]}
        return main(Config(out=folder / "curate", **inputs, **self.settings))


def draw_world(seed: int) -> World:
    """Families of exact, near and reworded copies, over tasks; some leak, some are decided on, of any quality."""
    rng = random.Random(f"order {seed}")
    rows, decisions = [], []
    for family in range(FAMILIES):
        words = rng.choices(NOUNS, k=50)
        for member in range(rng.randint(2, 8)):
            own = list(words)
            # None: an exact copy. One word: a near one (0.89). The halves exchanged, every fourth word: by meaning.
            match rng.randrange(4):
                case 1:
                    own[rng.randrange(50)] = rng.choice(NOUNS)
                case 2:
                    own = own[25:] + own[:25]
                    own[::4] = [f"other{number}" for number in range(len(own[::4]))]
                case 3:
                    own += LEAK.split() if rng.random() < 0.5 else []
            row = Instruction(
                id=f"{family}-{member}", instruction="Summarize the note in one sentence.", input=" ".join(own),
                output=f"Output of family{family} in some words", task_type=rng.choice(("summary",) * 3 + ("triage",)),
                input_data=rng.choice(["discharge_summary", "soap_note: Plan"]), output_format="plain_text",
                difficulty_level="hard", quality=rng.choice([None, 1.0, 2.0, 3.0, 4.0]),
            )  # fmt: skip
            rows.append(row)
            if said := rng.choice(["", "", "", "accept", "reject", "edit"]):
                edit = (
                    {"edited": {"output": f"Mended output of family{family} in some words"}} if said == "edit" else {}
                )
                decisions.append({"row_id": row.id, "reviewer": "ann", "decision": said, **edit})
    rng.shuffle(rows)
    settings = {
        "min_quality": rng.choice([None, 2.5]),
        "top_rows": rng.choice([None, 5]),
        "semantic": {"threshold": rng.choice([None, 0.5]), "least_concepts": 0},
        "near_duplicates": {"threshold": rng.choice([0.8, 0.8, None])},
    }
    return World(rows, decisions, settings)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[World, Path]]:
    """Each world with its curated folder."""
    drawn = [draw_world(seed) for seed in range(8)]
    return [(world, world.curate(tmp_path_factory.mktemp(f"world{seed}"))) for seed, world in enumerate(drawn)]


def test_every_row_goes_for_one_that_is_kept(worlds: list[tuple[World, Path]]) -> None:
    """Decisions × contamination × quality × number: every `of` is the id of a row that is kept, in both books."""
    for _, folder in worlds:
        kept = {row.id for row in read_parquet(folder / "data")}
        dropped, ledger = (polars.read_parquet(folder / f"{name}.parquet") for name in ("dropped", "ledger"))
        assert set(dropped.filter(polars.col("reason").str.ends_with("_duplicate"))["of"]) <= kept
        assert set(ledger.filter(polars.col("decision_reason").str.ends_with("_duplicate"))["decision_of"]) <= kept


def test_accepted_rows_and_families_stay(worlds: list[tuple[World, Path]]) -> None:
    """An accepted row stays unless it leaks or repeats an accepted one; of a family one, if one has no own fault."""
    for world, folder in worlds:
        kept = {row.id for row in read_parquet(folder / "data")}
        why = {row["id"]: row for row in polars.read_parquet(folder / "dropped.parquet").iter_rows(named=True)}
        ledger = polars.read_parquet(folder / "ledger.parquet")
        names = dict(ledger.select("id", polars.coalesce("edited_id", "id").alias("now")).rows())
        accepted = {names[one["row_id"]] for one in world.decisions if one["decision"] != "reject"}
        for row in accepted - kept:
            assert why[row]["reason"] == "contaminated" or why[row]["of"] in accepted, why[row]
        for family in range(FAMILIES):
            members = {names[row.id] for row in world.rows if row.id.startswith(f"{family}-")}
            own = {row for row in members - kept if not why[row]["reason"].endswith("_duplicate")}
            assert kept & members or own == members


def test_the_worlds_hold_every_kind_of_duplicate(worlds: list[tuple[World, Path]]) -> None:
    """Negative control: the generated rows do repeat one another in all three ways, leak, and go for other reasons."""
    met = {reason for _, folder in worlds for reason in polars.read_parquet(folder / "dropped.parquet")["reason"]}
    assert {
        "exact_duplicate", "near_duplicate", "semantic_duplicate", "contaminated", "low_quality", "beyond_top_rows",
    } <= met  # fmt: skip


def test_an_edited_row_keeps_its_patient(tmp_path: Path) -> None:
    """Pairs about a row that a person mended are proven by its facts; a refused repeat's facts are not the row's."""
    rows = [
        replace(draw_world(1).rows[0], id=name, input=f"A note of {name} about {' '.join(NOUNS[place : place + 9])}")
        for place, name in ((0, "a"), (20, "b"), (40, "c"))
    ]
    output = "Another output of some words"
    edit = {"row_id": "b", "reviewer": "ann", "decision": "edit", "edited": {"output": output}}
    folder = World(rows, [edit], {}).curate(tmp_path, facts=True)
    kept = {row.id: row for row in read_parquet(folder / "data")}
    truth = pair.read_truth(
        pair.Config(out=tmp_path / "o", curated=folder, generated=tmp_path / "generate", rules=1), set(kept)
    )
    assert sorted(facts["id"] for facts in truth.values()) == ["a", "b", "c"]
    assert truth["a"]["id"] == "a"
    (edited,) = [row for row in kept if row not in ("a", "c")]
    assert truth[edited]["id"] == "b" and kept[edited].output == output


def test_rows_about_one_given_passage_are_compared_by_what_was_written(tmp_path: Path) -> None:
    """As at admission: of a passage that the user gave, instruction and answer tell; a leak in the passage is seen."""
    base = replace(draw_world(1).rows[0], input=" ".join(NOUNS[:300]))
    asked = {name: " ".join(random.Random(name).choices(NOUNS, k=12)) for name in ("one", "two", "three")}
    rows = [
        replace(base, id=name, instruction=f"Tell of {text}.", output=f"It was {text}.") for name, text in asked.items()
    ]
    rows.append(replace(rows[0], id="copy", output=f"{rows[0].output} Yes."))
    rows.append(replace(rows[1], id="leak", input=f"{base.input} {LEAK}"))
    for passages, count in ((True, 3), (False, 1)):
        folder = World(rows, [], {}).curate(tmp_path / str(passages), passages=passages)
        kept = {row.id for row in read_parquet(folder / "data")}
        assert len(kept) == count and (not passages or {"two", "three"} < kept)
        dropped = {row["id"]: row["reason"] for row in polars.read_parquet(folder / "dropped.parquet").to_dicts()}
        assert dropped.pop("leak") == "contaminated"
        assert set(dropped.values()) == {"near_duplicate"}
