"""What benchmarks.train is measured on: documents, summaries, instruction rows and pairs of words drawn at random.

The texts mean nothing and have lengths of their kind. Each word is one token of experts/nano. Lengths of instruction
rows follow MediFlow's means and standard deviations, as log-normal draws, over `SHRINK`: 4,096 tokens of context there
are 512 here. The chat template's tokens cannot be shrunk; the instruction is so much shorter in their place.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import medsmith.config
from medsmith import run
from medsmith.records import Instruction, content_id, read_jsonl, write_jsonl, write_parquet

NANO = Path(__file__).parent.parent / "experts" / "nano"
SHRINK = 8
TEMPLATE = 15
"""Tokens of nano's chat template in a row."""


class Length(NamedTuple):
    """Mean and standard deviation, in tokens."""

    mean: float
    deviation: float


# MediFlow, figures 7 to 9 of the paper.
INSTRUCTION, INPUT, OUTPUT = Length(301, 295), Length(76, 67), Length(79, 66)
DOCUMENT, SUMMARY = Length(160, 100), Length(40, 25)
"""Not of any corpus: as long as the embedded corpora's."""


class Sizes(NamedTuple):
    """How much is made."""

    documents: int = 130
    rows: int = 380
    pairs: int = 150


SIZES = Sizes()


class Rows(medsmith.config.Config):
    """What stands in for experts.prepare, whose rows come from a teacher."""

    libraries: ClassVar[tuple[str, ...]] = ()

    documents: Path


def make(folder: Path, sizes: Sizes = SIZES) -> None:
    """Write documents, their summaries, rows and pairs into `folder`, where they are not there."""
    note = folder / "made"
    if note.is_file() and note.read_text() == str(sizes):
        return
    shutil.rmtree(folder, ignore_errors=True)
    draw, words = random.Random(0), vocabulary()
    documents = _corpus(folder, draw, words, sizes.documents)
    _summaries(folder, draw, words, documents)
    write_parquet(folder / "sft" / "data" / "rows.parquet", instructions(draw, words, sizes.rows))
    write_parquet(folder / "pairs" / "data" / "rows.parquet", instructions(draw, words, sizes.pairs, pairs=True))
    note.write_text(str(sizes))


def vocabulary(model: Path = NANO) -> list[str]:
    """Words that are one token where a space stands before them."""
    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(model)
    tokens = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    return sorted({token[1:] for token in tokens if token[:1] == " " and token[1:].isalpha() and token.islower()})


def words_of(draw: random.Random, length: Length, shrink: float = SHRINK) -> int:
    """A log-normal number of that mean and deviation over `shrink`, at least one."""
    spread = math.log1p((length.deviation / length.mean) ** 2)
    drawn = draw.lognormvariate(math.log(length.mean) - spread / 2, math.sqrt(spread))
    return max(1, round(drawn / shrink))


def instructions(
    draw: random.Random, words: Sequence[str], count: int, pairs: bool = False, shrink: float = SHRINK
) -> list[Instruction]:
    """Rows as long as MediFlow's; of a pair the rejected answer is as long as the good one."""

    def text(tokens: int) -> str:
        return " ".join(draw.choices(words, k=tokens))

    rows, longer = [], round(TEMPLATE - TEMPLATE / shrink)
    for number in range(count):
        instruction, given, answer = (words_of(draw, length, shrink) for length in (INSTRUCTION, INPUT, OUTPUT))
        instruction = max(1, instruction - longer)
        rows.append(
            Instruction(
                id=content_id(number),
                instruction=text(instruction),
                input=text(given),
                output=text(answer),
                task_type="simulated",
                input_data="simulated",
                output_format="plain_text",
                difficulty_level="low",
                rejected_output=text(answer) if pairs else "",
                error_type="simulated" if pairs else "",
            )
        )
    return rows


def _corpus(folder: Path, draw: random.Random, words: Sequence[str], count: int) -> Path:
    from experts import corpora

    rows: list[dict[str, Any]] = [
        {
            "id": f"d{number}",
            "title": "",
            "text": " ".join(draw.choices(words, k=max(8, words_of(draw, DOCUMENT, 1)))),
            "source": "simulated",
            "license": "CC0-1.0",
        }
        for number in range(count)
    ]
    write_jsonl(folder / "documents.jsonl", rows)
    settings = {"out": folder / "documents", "corpus": folder / "documents.jsonl", "heldout_share": 0.05}
    return corpora.main(medsmith.config.load(corpora.Config, settings))


def _summaries(folder: Path, draw: random.Random, words: Sequence[str], documents: Path) -> None:
    with run.start(Rows(out=folder / "rows", documents=documents), "rows") as this:
        found = [
            {
                "id": row["id"],
                "document_id": row["id"],
                "task": "summary",
                "output": " ".join(draw.choices(words, k=words_of(draw, SUMMARY, 1))),
            }
            for row in read_jsonl(documents / "train.jsonl")
        ]
        write_jsonl(this.folder / "rows.jsonl", found)
        this.finish(rows=len(found))
