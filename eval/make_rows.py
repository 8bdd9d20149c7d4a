"""Make rows for supervised fine-tuning from a benchmark's training part: its own prompts, its gold answers.

    python -m eval.make_rows out=out/rows/medec benchmark=medec data=data/MEDEC
    python -m eval.make_rows out=out/rows/meqsum benchmark=meqsum data=out/meqsum/train   # a part of eval.split

Reads what examples may come from: the training part beside the tested file in a folder, a training file itself, or a
part of `eval.split` whose name begins with `train`. Anything else is refused, above all a test part under another name;
`override="a reason"` makes rows of it all the same, and the reason is recorded here and in every model trained on it.

Writes data/rows.parquet, which `align.sft`, `align.sample` and a source of `mix` read (give the folder), the same
conversations as rows.jsonl ({id, task, messages}), and dropped.jsonl. With `instructions` a model is trained in other
words than those it will be asked in.
"""

from __future__ import annotations

import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

import medsmith.config
from eval.asking import told, with_letters
from eval.benchmark import Item, Loaded, limited, load_benchmark
from eval.parts import TRAINING, find_part
from medsmith import run
from medsmith.command import run_command
from medsmith.errors import UserError
from medsmith.records import Instruction, content_id, write_jsonl, write_parquet

OWN = "{instruction}"

log = logging.getLogger("eval.make_rows")


class Config(medsmith.config.Config):
    """Which benchmark, from which part, in which words."""

    benchmark: str = Field(description="a benchmark of eval/benchmarks")
    data: Path = Field(description="the folder that holds a training part, a training file, or a part of eval.split")
    instructions: list[str] = Field(
        [],
        description="instructions in place of the benchmark's own, one drawn for each row by the hash of its id; "
        "'{instruction}' in one stands for the benchmark's own",
    )
    choice: Literal["text", "letter", "written"] = Field(
        "text",
        description="where there are options, as in a suite: the answer is an option's text, its letter, or its letter "
        "after being told to write it",
    )
    limit: int | None = Field(None, ge=1, description="at most so many rows, chosen by the hash of their ids")
    override: str = Field("", description="why rows may be made of what is not known to be a training part; recorded")


def main(config: Config) -> Path:
    """Write the rows into config.out."""
    benchmark: Any = load_benchmark(config.benchmark)
    with run.start(config, "eval.make_rows") as this:
        loaded, part = training_part(config, benchmark)
        items = limited(loaded.items, config.limit)
        rows = [row_of(config, item) for item in items]
        beyond = {item.id for item in loaded.items} - {item.id for item in items}
        dropped = [{"reason": reason, "rows": count} for reason, count in sorted(loaded.dropped.items())]
        dropped += [{"reason": "beyond the limit", "id": item.id} for item in loaded.items if item.id in beyond]
        write_parquet(this.folder / "data" / "rows.parquet", rows)
        write_jsonl(this.folder / "rows.jsonl", map(conversation, rows))
        write_jsonl(this.folder / "dropped.jsonl", dropped)
        if not this.facts["simulated"]:
            this.state_licences("data", {f"benchmark {config.benchmark}": benchmark.LICENCE})
        this.facts["benchmark_rows"] = {
            "benchmark": config.benchmark,
            "part": part,
            "override": config.override,
            **{key: loaded.notes.get(key) for key in ("file", "sha256", "as_published")},
        }
        lost = loaded.dropped.total() + len(beyond)
        log.info("%s: %d rows, %d left out; from %s", config.benchmark, len(rows), lost, part)
        return this.finish(read=len(rows) + lost, rows=len(rows), dropped=lost)


def training_part(config: Config, benchmark: Any) -> tuple[Loaded, str]:
    """The items that may be trained on, and what they are, in words.

    Raises:
        UserError: they are not known to be a training part, and there is no `override`.
    """
    data, part = config.data, find_part(config.data)
    known = getattr(benchmark, "PUBLISHED", {})
    training = getattr(benchmark, "FILES", {}).get("shots")
    if part is not None:
        if part.name.startswith(TRAINING) or config.override:
            return benchmark.load(part.file, "test"), part.describe()
        raise _refused(f"the part '{part.name}' of eval.split is not for training")
    if config.override:
        return benchmark.load(data, "test"), "a part that is not known to be for training"
    if training is None and not (data.is_dir() and not hasattr(benchmark, "FILES")):  # the file itself holds both
        raise _refused(f"{config.benchmark} is published without a training part; divide it by eval.split")
    loaded = benchmark.load(data, "shots" if data.is_dir() else "test")
    digest = loaded.notes.get("sha256")
    same = next((pattern for pattern, one in known.items() if digest and one.sha256 == digest), None)
    if training is not None and same not in (None, training):
        raise _refused(f"{data} is the published file {same} of {config.benchmark}")
    if not data.is_dir() and same is None and not fnmatch(data.name, str(training)):
        raise _refused(f"{data} is not known to be the training part of {config.benchmark}, which is {training}")
    return loaded, "the published training part" if same is not None else "a training part by its name"


def _refused(why: str) -> UserError:
    return UserError(f"{why}; give a training part, or say override=REASON, which is recorded")


def row_of(config: Config, item: Item) -> Instruction:
    """The item as one turn of a system, a user and an assistant; the id is that of benchmark and item."""
    if item.options and config.choice != "text":
        item = with_letters(item)
        item = told(item) if config.choice == "written" else item
    own, asked = item.messages[0]["content"], item.messages[-1]["content"]
    name = content_id("eval.make_rows", config.benchmark, item.id)
    if config.instructions:
        drawn = config.instructions[int(content_id(config.seed, name), 16) % len(config.instructions)]
        own = drawn.replace(OWN, own)
    # Columns of the taxonomy that a benchmark does not have say what it is instead.
    return Instruction(name, own, asked, item.gold, config.benchmark, "benchmark", "plain text", "")


def conversation(row: Instruction) -> dict[str, Any]:
    """The row as trainers elsewhere read it."""
    turns = (("system", row.instruction), ("user", row.input), ("assistant", row.output))
    return {
        "id": row.id,
        "task": row.task_type,
        "messages": [{"role": role, "content": content} for role, content in turns],
    }


if __name__ == "__main__":
    run_command(main, Config)
