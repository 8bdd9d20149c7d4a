"""Ways to teach a small model documents: continued pre-training, tuning on summaries first, training on rewrites.

    python -m benchmarks.experts --corpus medwiki.jsonl

The documents are real, the base is experts/nano (5.6 million parameters), and the teacher is the simulated one, which
writes by extraction: its summary is a document's beginning, its rewrite all of it in running sentences. So what is
trained on is compared, not how well a teacher writes. Each model is measured as trained and merged back by a half, and
by likelihood alone: perplexity on documents of the corpus that nobody trained on, and questions about those that were
(a sentence of a document with a word that no other document has, beside three such words of others). Intervals are over
documents, by bootstrap.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medsmith.records import write_jsonl

BASE = Path("experts/nano")
RESAMPLES = 4000
OPTIONS = 4
PER_DOCUMENT = 5
TRAINER: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "per_device_train_batch_size": 4,
    "logging_steps": 50,
    "save_strategy": "no",
}
METHODS: dict[str, dict[str, Any]] = {
    "dapt": {"method": "dapt", "trainer": TRAINER | {"num_train_epochs": 3, "learning_rate": 3.0e-4}},
    "explainer": {"method": "explainer", "trainer": TRAINER | {"num_train_epochs": 3, "learning_rate": 3.0e-4}},
    # The paper's two phases; with its rows it is trained on nearly as many tokens as the others.
    "pit": {
        "method": "pit",
        "trainer": TRAINER,
        "phase1": {"num_train_epochs": 1, "learning_rate": 1.0e-4},
        "phase2": {"num_train_epochs": 2, "learning_rate": 3.0e-4},
    },
}
ROWS = {"pit": "summary", "explainer": "explainer"}


class Question(NamedTuple):
    """A sentence with a place for each option; the first option is right."""

    document: str
    texts: list[str]


@dataclass(frozen=True)
class Measured:
    """Of one model, by document: losses and tokens of the held out, right answers and questions of the others."""

    losses: np.ndarray
    tokens: np.ndarray
    right: np.ndarray
    asked: np.ndarray

    @property
    def perplexity(self) -> float:
        """Of the held-out documents together."""
        return math.exp(self.losses.sum() / self.tokens.sum())

    @property
    def accuracy(self) -> float:
        """Share of questions."""
        return float(self.right.sum() / self.asked.sum())


def write_questions(documents: Sequence[dict[str, str]], per_document: int, seed: int) -> list[Question]:
    """Cloze questions: of each document sentences with a long word that no other document has."""
    words = {one["id"]: set(re.findall(r"\b[a-z]{7,}\b", one["text"])) for one in documents}
    known = Counter(word for found in words.values() for word in found)
    own = {key: sorted(word for word in found if known[word] == 1) for key, found in words.items()}
    everywhere = sorted({word for found in own.values() for word in found})
    questions = []
    for one in documents:
        drawn = random.Random(f"cloze {seed} {one['id']}")
        sentences = [
            s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", one["text"]) if 8 <= len(s.split()) <= 40 and "?" not in s
        ]
        found = 0
        for word in drawn.sample(own[one["id"]], len(own[one["id"]])):
            sentence = next((s for s in sentences if re.search(rf"\b{word}\b", s)), None)
            others = [w for w in everywhere if w not in words[one["id"]] and abs(len(w) - len(word)) <= 1]
            if sentence is None or len(others) < OPTIONS - 1 or found == per_document:
                continue
            options = [word, *drawn.sample(others, OPTIONS - 1)]
            context = f"{one['title']}. " if one["title"] else ""
            filled = [context + re.sub(rf"\b{word}\b", option, sentence, count=1) for option in options]
            questions.append(Question(one["id"], filled))
            found += 1
    return questions


def measure(folder: Path, heldout: Sequence[dict[str, str]], questions: Sequence[Question], window: int) -> Measured:
    """Read a model and score both."""
    from medsmith.likelihood import document_nll
    from medsmith.models import load_model, load_tokenizer

    model, tokenizer = load_model(folder, device="cpu"), load_tokenizer(folder)
    scores = document_nll(model, tokenizer, [one["text"] for one in heldout], window)
    filled = document_nll(model, tokenizer, [text for one in questions for text in one.texts], window)
    keys = sorted({one.document for one in questions})
    right, asked = np.zeros(len(keys)), np.zeros(len(keys))
    for number, one in enumerate(questions):
        options = [score.nll for score in filled[number * OPTIONS : (number + 1) * OPTIONS]]
        right[keys.index(one.document)] += options[0] < min(options[1:])
        asked[keys.index(one.document)] += 1
    return Measured(np.array([s.nll for s in scores]), np.array([float(s.tokens) for s in scores]), right, asked)


def interval(documents: int, value: Callable[[np.ndarray], float], seed: int = 0) -> tuple[float, float]:
    """95 % of a value over documents drawn anew."""
    drawn = np.random.default_rng(seed)
    values = [value(drawn.integers(documents, size=documents)) for _ in range(RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def row(name: str, passes: float, runs: Sequence[Measured], base: Measured) -> str:
    """One line of the table: means over seeds, intervals over documents, gains over the base on the same documents."""
    losses, right = np.mean([one.losses for one in runs], axis=0), np.mean([one.right for one in runs], axis=0)
    held, asked = len(base.losses), len(base.right)

    def ratio(at: np.ndarray) -> float:
        return math.exp((losses[at].sum() - base.losses[at].sum()) / base.tokens[at].sum())

    def gain(at: np.ndarray) -> float:
        return 100 * float((right[at] - base.right[at]).sum() / base.asked[at].sum())

    all_held, all_asked = np.arange(held), np.arange(asked)
    perplexity = math.exp(losses.sum() / base.tokens.sum())
    accuracy = 100 * float(right.sum() / base.asked.sum())
    seeds = " – ".join(f"{100 * value(one.accuracy for one in runs):.1f}" for value in (min, max))
    cells = [name, f"{passes / 1e3:,.0f}k" if passes else "", f"{perplexity:.1f}"]
    cells += [_with(ratio(all_held), interval(held, ratio), "{:.3f}")] if passes or name != "base" else [""]
    cells += [f"{accuracy:.1f} %"]
    cells += [_with(gain(all_asked), interval(asked, gain), "{:+.1f}"), seeds] if name != "base" else ["", ""]
    return "| " + " | ".join(cells) + " |"


def _with(value: float, ends: tuple[float, float], form: str) -> str:
    return f"{form.format(value)} ({form.format(ends[0])} – {form.format(ends[1])})"


def longer(method: dict[str, Any], times: int) -> dict[str, Any]:
    """The same method with so many times the epochs."""
    return {
        key: value | {"num_train_epochs": value["num_train_epochs"] * times}
        if isinstance(value, dict) and "num_train_epochs" in value
        else value
        for key, value in method.items()
    }


def train(
    name: str, seed: int, out: Path, documents: Path, rows: dict[str, Path], window: int, times: int
) -> tuple[Path, float]:
    """Train one expert; its folder and the tokens it was trained on, epochs and all."""
    from experts import train as command
    from medsmith.config import load

    given: dict[str, Any] = {"out": out, "base": str(BASE), "documents": documents, "seed": seed, "threads": 1}
    if name in ROWS:
        given["rows"] = rows[ROWS[name]]
    made = command.main(
        load(command.Config, given | longer(METHODS[name], times) | {"max_tokens": window, "heldout_documents": 0})
    )
    phases = json.loads((made / "data.json").read_text())["phases"].values()
    return made, sum(phase["tokens"] * phase["trainer"]["num_train_epochs"] for phase in phases)


def merge(expert: Path, out: Path) -> Path:
    """Half of the expert and half of its base, by SLERP."""
    from medsmith.config import load
    from merge_recipes import build

    models = {"base": str(BASE.resolve()), "expert": str(expert.resolve())}
    return build.main(load(build.Config, {"recipe": "merge_recipes/slerp.yml", "models": models, "out": out}))


def prepare(corpus: Path, out: Path, limit: int, longest: int) -> tuple[Path, dict[str, Path]]:
    """Short documents of the corpus, a part of them held out, and what the simulated teacher made of the rest."""
    from experts import corpora
    from experts import prepare as command
    from medsmith.config import load

    short = out / "documents.jsonl"
    write_jsonl(short, (one for one in read(corpus) if len(one["text"].split()) <= longest))
    given = {"out": out / "corpus", "corpus": str(short), "limit_documents": limit, "heldout_share": 1 / 3}
    documents = corpora.main(load(corpora.Config, given))
    recipe = Path("experts/recipes/prepare_embedded.yml")
    rows = {}
    for task in ROWS.values():
        settings = [f"out={out / task}", f"documents={documents}", f"task={task}", "max_answer_tokens=8192"]
        rows[task] = command.main(load(command.Config, recipe, settings))
    return documents, rows


def read(path: Path) -> list[dict[str, str]]:
    """Rows of JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Train, merge, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="JSON Lines with id, title, text, source, license")
    parser.add_argument("--out", type=Path, default=Path("out/benchmark-experts"), help="where everything goes")
    parser.add_argument("--documents", type=int, default=90, help="of the corpus; a third is held out")
    parser.add_argument("--longest", type=int, default=280, help="words of a document, at most")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each method")
    parser.add_argument("--times", type=int, default=1, help="so many times the epochs")
    parser.add_argument("--window", type=int, default=256, help="tokens of a block and of a window")
    given = parser.parse_args()
    began = time.process_time()
    documents, rows = prepare(given.corpus, given.out, given.documents, given.longest)
    train_texts, heldout = read(documents / "train.jsonl"), read(documents / "heldout.jsonl")
    questions = write_questions(train_texts, PER_DOCUMENT, seed=0)
    base = measure(BASE, heldout, questions, given.window)
    found: dict[str, list[Measured]] = {}
    passes: dict[str, float] = {}
    for seed in range(given.seeds):
        for name in METHODS:
            folder = given.out / f"{name}-{seed}"
            made, passes[name] = train(name, seed, folder, documents, rows, given.window, given.times)
            found.setdefault(name, []).append(measure(made, heldout, questions, given.window))
            half = merge(made, given.out / f"{name}-{seed}-half")
            found.setdefault(f"{name}, merged", []).append(measure(half, heldout, questions, given.window))
    about = f"{len(train_texts)} documents, {len(questions)} questions, {len(heldout)} held out, {given.seeds} seeds"
    print(f"\n{about}; {time.process_time() - began:,.0f} s of CPU\n")
    print("| model | tokens trained | held-out perplexity | of the base's | questions right | gain | seeds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(row("base", 0, [base], base))
    for name in METHODS:
        print(row(name, passes[name], found[name], base))
        print(row(f"{name}, merged", 0, found[f"{name}, merged"], base))


if __name__ == "__main__":
    main()
