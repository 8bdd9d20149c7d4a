"""Make multiple-choice questions on the meaning of ICD-10-CM codes, in the columns of MedConceptsQA.

    python -m eval.make_icd10cm out=out/benchmarks/icd10cm 'prefixes=[E1, I1, J4]' per_level=100

The questions are made here, from the public code table of the package simple_icd_10_cm; they are not the published
MedConceptsQA set, and scores on the two are not comparable. Unlike that set's generator, every answer stands equally
often in each of the four places. Wrong options come from the codes that were chosen by `prefixes`: if they came from
elsewhere, a model that has read the chosen codes only could tell them by their strangeness.

easy: wrong options from other chapters. medium: from the same chapter, another category. hard: the same category, or
where it is small its nearest neighbours in the same block.

levels_by=distance takes the published set's definition, steps in the tree of codes: easy any other code, medium three
to five steps away, hard two (codes under the same parent). Unlike there, a code above or below the asked one is never a
wrong option: its description is often true as well.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field

import medsmith.config
from medsmith import run
from medsmith.command import run_command
from medsmith.errors import UserError
from medsmith.records import write_jsonl

LETTERS = "ABCD"
Level = Literal["easy", "medium", "hard"]
LEVELS: tuple[Level, ...] = get_args(Level)
STEPS = {"medium": (3, 4, 5), "hard": (2,)}
LICENCES = {
    "ICD-10-CM table": "public domain (US government, CDC/NCHS), by the package simple_icd_10_cm (MIT)",
    "questions made by eval.make_icd10cm": "Apache-2.0",
}


class Config(medsmith.config.Config):
    """Which codes, and how many questions."""

    libraries: ClassVar = ("simple_icd_10_cm",)

    prefixes: list[str] = Field([], description="beginnings of the codes to ask about, e.g. [E11, I10]; none: all")
    max_characters: int | None = Field(None, ge=3, description="longest code, without its dot; none: all")
    max_words: int = Field(20, ge=1, description="longest description that is asked about or offered")
    levels_by: Literal["table", "distance"] = Field(
        "table", description="what a level is: chapters and categories, or steps in the tree as in the published set"
    )
    levels: list[Literal["easy", "medium", "hard"]] = Field(
        list(LEVELS), min_length=1, description="kinds of questions"
    )
    per_level: int = Field(250, ge=4, description="test questions of each level")
    dev_per_level: int = Field(4, ge=0, description="questions of each level for examples (dev.parquet)")
    validation: int = Field(0, ge=0, description="questions for choosing merges (validation.jsonl), all levels mixed")


@dataclass(frozen=True)
class Code:
    """A code with its place in the table."""

    code: str
    description: str
    category: str
    block: str
    chapter: str
    place: int
    path: tuple[str, ...]
    """The code and all that it lies under, up to its chapter."""


def main(config: Config) -> Path:
    """Write test.parquet, dev.parquet and validation.jsonl."""
    with run.start(config, "eval.make_icd10cm") as this:
        codes = list(read_codes(config))
        if not codes:
            raise UserError(
                f"no code of the table is chosen by prefixes={list(config.prefixes)}, max_characters="
                f"{config.max_characters} and max_words={config.max_words}; loosen one"
            )
        pools = _Pools(codes, config.levels_by)
        rows: list[dict[str, Any]] = []
        used: set[str] = set()
        level_share = -(-config.validation // len(config.levels))
        sizes = {"test": config.per_level, "dev": config.dev_per_level, "validation": level_share}
        # Hard questions have the fewest codes to choose from: they choose first.
        for level in sorted(set(config.levels), key=LEVELS.index, reverse=True):
            made = _questions(codes, pools, level, sum(sizes.values()), used, config.seed)
            for split, size in sizes.items():
                rows += [{"split": split, **row} for row in _numbered(made[:size])]
                made = made[size:]
        for split in ("test", "dev"):
            part = [row for row in rows if row["split"] == split]
            if part:
                _write_parquet(this.folder / f"{split}.parquet", part)
        validation = [row for row in rows if row["split"] == "validation"][: config.validation]
        if validation:
            write_jsonl(this.folder / "validation.jsonl", map(_validation_row, validation))
        kept = [row for row in rows if row["split"] != "validation"] + validation
        this.facts["licences"] |= LICENCES
        this.facts["answer_letters"] = {
            split: dict(sorted(Counter(r["answer_id"] for r in kept if r["split"] == split).items())) for split in sizes
        }
        this.facts["note"] = "made from the public code table; not the published MedConceptsQA questions"
        return this.finish(codes=len(codes), **Counter(row["split"] for row in kept))


def read_codes(config: Config) -> Iterator[Code]:
    """The codes of the table that are wanted, each description once (the first code has it)."""
    import simple_icd_10_cm as table

    seen: set[str] = set()
    wanted = tuple(prefix.replace(".", "").upper() for prefix in config.prefixes)
    for place, code in enumerate(table.get_all_codes(True)):
        if table.is_chapter_or_block(code):
            continue
        bare = code.replace(".", "")
        description = table.get_description(code, True)
        too_long = config.max_characters is not None and len(bare) > config.max_characters
        if (wanted and not bare.startswith(wanted)) or too_long or len(description.split()) > config.max_words:
            continue
        if description.casefold() not in seen:
            seen.add(description.casefold())
            ancestors = [code, *table.get_ancestors(code)]
            yield Code(code, description, bare[:3], ancestors[-2], ancestors[-1], place, tuple(ancestors))


def _questions(
    codes: list[Code], pools: _Pools, level: str, count: int, used: set[str], seed: int
) -> list[dict[str, Any]]:
    """`count` questions of a level about codes not asked about before."""
    rng = random.Random(f"icd10cm {seed} {level}")
    order = [code for code in codes if code.code not in used]
    rng.shuffle(order)
    made: list[dict[str, Any]] = []
    for code in order:
        if len(made) == count:
            break
        pool = pools.of(code, level)
        if len(pool) < 3:
            continue
        used.add(code.code)
        made.append(_question(code, rng.sample(pool, 3), level, rng))
    if len(made) < count:
        raise UserError(
            f"{count} {level} questions are wanted (per_level, dev_per_level, a share of validation), "
            f"the chosen codes give {len(made)}; "
            "choose more codes (prefixes, max_characters, max_words) or fewer questions"
        )
    return made


class _Pools:
    """Codes whose descriptions are wrong answers of a level: never an ancestor or a descendant of the asked one."""

    def __init__(self, codes: list[Code], levels_by: str) -> None:
        self.codes, self.levels_by = codes, levels_by
        self.chapters: dict[str, list[Code]] = defaultdict(list)
        self.blocks: dict[str, list[Code]] = defaultdict(list)
        for code in codes:
            self.chapters[code.chapter].append(code)
            self.blocks[code.block].append(code)
        self.elsewhere: dict[str, list[Code]] = {
            chapter: [code for code in codes if code.chapter != chapter] for chapter in self.chapters
        }

    def of(self, asked: Code, level: str) -> list[Code]:
        """The pool of one code; fewer than three where there is no question of this level about it."""
        if self.levels_by == "distance":
            near = self.codes if level == "easy" else self.chapters[asked.chapter]
            apart = [c for c in near if c.code not in asked.path and asked.code not in c.path]
            return apart if level == "easy" else [c for c in apart if steps(asked, c) in STEPS[level]]
        if level == "easy":
            return self.elsewhere[asked.chapter]
        if level == "medium":
            return [c for c in self.chapters[asked.chapter] if c.category != asked.category]
        others = [
            c for c in self.blocks[asked.block] if not (c.code.startswith(asked.code) or asked.code.startswith(c.code))
        ]
        same = [c for c in others if c.category == asked.category]
        return same if len(same) >= 3 else sorted(others, key=lambda c: (abs(c.place - asked.place), c.place))[:3]


def steps(one: Code, other: Code) -> int:
    """How many steps up and down the tree lie between two codes of one chapter."""
    shared = len({*one.path} & {*other.path})
    return len(one.path) + len(other.path) - 2 * shared


def _question(asked: Code, wrong: list[Code], level: str, rng: random.Random) -> dict[str, Any]:
    """A question whose options are still to be put in order."""
    return {
        "code": asked.code,
        "stem": f"What is the description of the medical code {asked.code} in ICD10CM?",
        "right": asked.description,
        "wrong": [c.description for c in sorted(wrong, key=lambda c: rng.random())],
        "level": level,
    }


def _numbered(made: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The published columns. The right answer goes through the four places in turn: the order of codes is random."""
    for number, question in enumerate(made):
        options = list(question["wrong"])
        options.insert(number % 4, question["right"])
        lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
        yield {
            "question_id": number,
            "question": f"{question['stem']}\n{lines}",
            **{f"option{place}": option for place, option in enumerate(options, 1)},
            "answer": question["right"],
            "answer_id": LETTERS[number % 4],
            "vocab": "ICD10CM",
            "level": question["level"],
            "stem": question["stem"],
            "code": question["code"],
        }


def _validation_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"icd10cm-{row['code']}",
        "topic": "icd10cm",
        "context": "",
        "question": row["stem"],
        "options": [row[f"option{place}"] for place in range(1, 5)],
        "answer_index": LETTERS.index(row["answer_id"]),
    }


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import polars

    columns = [
        "question_id",
        "question",
        "option1",
        "option2",
        "option3",
        "option4",
        "answer",
        "answer_id",
        "vocab",
        "level",
    ]
    polars.DataFrame([{name: row[name] for name in columns} for row in rows]).write_parquet(path)


if __name__ == "__main__":
    run_command(main, Config)
