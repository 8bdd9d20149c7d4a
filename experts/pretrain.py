"""Make the embedded base model from nothing: a tokenizer and a small Phi-3 model, taught on documents and lessons.

    python -m experts.pretrain experts/recipes/nano.yml out=out/nano/base stages='[…]' held_out=…

A curriculum of stages, each with rows of its own: chats in the chat template, texts, and texts of which only the end
is learnt. Copying comes first: a model that was given everything mixed from the start learnt to copy late or never. A
plain loop: at this size a trainer's overhead is a sixth of the time.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from medsmith import run
from medsmith.command import run_command
from medsmith.config import Block, execution
from medsmith.config import Config as BaseConfig
from medsmith.errors import UserError
from medsmith.machine import keep_freed_memory
from medsmith.progress import Bar
from medsmith.records import read_jsonl


class Size(Block):
    """The architecture; vocabulary counts the special tokens."""

    vocabulary: int = 3072
    hidden: int = 256
    layers: int = 5
    heads: int = 4
    feed_forward: int = 704
    context: int = 512


class Stage(Block):
    """A part of the curriculum: rows that are repeated, in another order each time, until `tokens` are read."""

    name: str
    rows: list[Path] = Field(description="JSON Lines with messages, text, or prompt and completion")
    tokens: int = Field(ge=1, description="tokens to train on")
    prompt_weight: float = Field(0.05, ge=0, le=1, description="loss weight of all that is not an answer in a chat")
    text_weight: float = Field(1.0, ge=0, le=1, description="loss weight of plain texts, beside answers at 1")
    rate: float = Field(1.0, gt=0, le=1, description="of the peak learning rate")
    decay: float = Field(
        0.0, ge=0, le=1, description="share of its steps, the last ones, in which the rate falls to a twentieth"
    )
    require: dict[str, float] = Field(
        default_factory=dict,
        description="exact answers (0 to 1) to held-out rows that the stage must reach, by kind; else the run ends",
    )


class Config(BaseConfig):
    """How the embedded base is made."""

    libraries: ClassVar = ("torch", "transformers", "tokenizers")

    stages: list[Stage] = Field(description="the curriculum, in order")
    held_out: Path | None = Field(None, description="JSON Lines that are asked and never learnt, by `kind` or `task`")
    held_out_rows: int = Field(40, ge=1, description="at most so many of each kind")
    licence: str = Field("CC0-1.0 (simulated)", description="of the rows")
    size: Size = Size()
    batch_tokens: int = Field(1024, description="tokens a step, padding included")
    learning_rate: float = Field(1.5e-3, description="peak; 40 steps of warm-up at the start of each stage")
    weight_decay: float = 0.1
    threads: int | None = execution(None, "torch threads (default: OMP_NUM_THREADS, else all cores)")
    save_every: int = execution(500, "steps between checkpoints")


class Row(NamedTuple):
    """One training row: token ids and, for each, the weight of predicting it."""

    ids: list[int]
    weights: list[float]


class Batch(NamedTuple):
    """The rows of one step, and the stage that they are of."""

    rows: list[Row]
    stage: int


def main(config: Config) -> Path:
    """Train and write the model folder."""
    from experts.architecture import build_model, build_tokenizer, untie
    from medsmith.models import set_threads
    from medsmith.resumption import note_maker
    from medsmith.training import save_model

    with run.start(config, "experts.pretrain") as this:
        note_maker(this)
        this.facts["threads"] = set_threads(config.threads)
        keep_freed_memory()
        this.state_licences("stages", {"lessons": config.licence})
        read = [[row for path in stage.rows for row in read_jsonl(path)] for stage in config.stages]
        if not read or not all(read):
            raise UserError("the base needs rows in every stage of its curriculum; give stages")
        tokenizer = build_tokenizer(
            (text for rows in read for row in rows for text in _texts(row)), config.size.vocabulary
        )
        size = config.size.model_dump()
        size.pop("vocabulary")
        model = build_model(tokenizer, **size, seed=config.seed)
        model.set_attn_implementation("eager")  # a fifth faster than sdpa on rows this short (measured, CPU)
        encoded = [
            [
                row
                for row in (_encode(tokenizer, r, stage.prompt_weight, stage.text_weight) for r in rows)
                if len(row.ids) <= size["context"]
            ]
            for stage, rows in zip(config.stages, read, strict=True)
        ]
        asked = read_jsonl(config.held_out) if config.held_out else ()
        exam = Exam(tokenizer, asked, config.held_out_rows)
        steps, tokens, scores = _train(model, encoded, config, this.folder, tokenizer.pad_token_id, exam)
        untie(model)
        save_model(model, tokenizer, this.folder, dtype="bfloat16")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        this.facts["held_out"] = scores
        return this.finish(parameters=parameters, rows=sum(map(len, encoded)), steps=steps, tokens=tokens)


def _texts(row: dict[str, Any]) -> list[str]:
    if "messages" in row:
        return [turn["content"] for turn in row["messages"]]
    return [row["text"]] if "text" in row else [row["prompt"], row["completion"]]


def _encode(tokenizer: Any, row: dict[str, Any], prompt_weight: float, text_weight: float = 1.0) -> Row:
    """Chats begin at position 0, as in use; a text stands between two end-of-text tokens, as experts read it."""
    if "messages" in row:
        encoded = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        return Row(encoded["input_ids"], [1.0 if m else prompt_weight for m in encoded["assistant_masks"]])
    end, parts = tokenizer.pad_token_id, [tokenizer(text)["input_ids"] for text in _texts(row)]
    learnt = parts[-1]
    given = [token for part in parts[:-1] for token in part]
    weight = 1.0 if given else text_weight
    return Row([end, *given, *learnt, end], [0.0] * (1 + len(given)) + [weight] * (len(learnt) + 1))


def _asked(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], str]:
    """What is put to the model, and the answer that it should give."""
    if "messages" in row:
        ids = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True)["input_ids"]
        return ids, row["messages"][-1]["content"]
    return [tokenizer.pad_token_id, *tokenizer(row["prompt"])["input_ids"]], row["completion"]


class Exam:
    """Held-out rows by kind, and how many are answered word for word (greedy)."""

    def __init__(self, tokenizer: Any, rows: Iterable[dict[str, Any]], most: int) -> None:
        self.tokenizer = tokenizer
        self.asked: dict[str, list[tuple[list[int], str]]] = {}
        for row in rows:
            of_kind = self.asked.setdefault(row.get("kind", row["task"]), [])
            if len(of_kind) < most:
                of_kind.append(_asked(tokenizer, row))

    def take(self, model: Any) -> dict[str, float]:
        """The share of exact answers by kind."""
        import torch

        model.eval()
        scores = {}
        for kind, asked in self.asked.items():
            batch = self.tokenizer.pad(
                {"input_ids": [ids for ids, _ in asked]}, return_tensors="pt", padding_side="left"
            )
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                made = model.generate(**batch, max_new_tokens=64, do_sample=False)
            said = self.tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            right = [text.strip() == gold for text, (_, gold) in zip(said, asked, strict=True)]
            scores[kind] = round(sum(right) / len(right), 3)
        model.train()
        return scores


def _batches(rows: list[Row], tokens: int, batch_tokens: int, seed: str) -> list[list[Row]]:
    """Batches of mixed kinds up to so many tokens: rows are sorted by length only within eight batches' worth."""
    batches: list[list[Row]] = []
    left, number = tokens, 0
    while left > 0:
        rng = random.Random(f"{seed} {number}")
        order = rng.sample(rows, len(rows))
        epoch: list[list[Row]] = []
        at = 0
        while at < len(order) and left > 0:
            chunk, read = [], 0
            while at < len(order) and read < 8 * batch_tokens:
                chunk.append(order[at])
                read += len(order[at].ids)
                at += 1
            epoch += _by_length(chunk, batch_tokens)
            left -= read
        rng.shuffle(epoch)
        batches += epoch
        number += 1
    return batches


def _by_length(rows: list[Row], batch_tokens: int) -> list[list[Row]]:
    batches: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batches[-1] and (len(batches[-1]) + 1) * len(row.ids) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _train(
    model: Any, rows: list[list[Row]], config: Config, folder: Path, pad: int, exam: Exam
) -> tuple[int, int, dict[str, dict[str, float]]]:
    import torch

    plan = [
        Batch(batch, number)
        for number, (stage, of_stage) in enumerate(zip(config.stages, rows, strict=True))
        for batch in _batches(of_stage, stage.tokens, config.batch_tokens, f"{config.seed} {stage.name}")
    ]
    torch.manual_seed(config.seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    ends = [0]
    for batch in plan:
        ends.append(ends[-1] + sum(len(row.ids) for row in batch.rows))
    rates = [
        rate for stage in range(len(rows)) for rate in _rates(config.stages[stage], sum(b.stage == stage for b in plan))
    ]
    step, scores = _resume(model, optimiser, folder)
    model.train()
    (folder / "log").mkdir(exist_ok=True)
    with Bar("pretraining", total=ends[-1], unit="tokens") as bar, (folder / "log" / "metrics.jsonl").open("a") as log:
        bar.advance(ends[step])
        while step < len(plan):
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * rates[step]
            loss, answers = _step(model, plan[step].rows, optimiser, pad)
            step += 1
            bar.advance(ends[step] - ends[step - 1], note=f"loss {loss:.3f}")
            if step % 20 == 0 or step == len(plan):
                row = {"step": step, "loss": round(loss, 4), "answer_loss": round(answers, 4), "tokens": ends[step]}
                log.write(json.dumps(row) + "\n")
                log.flush()
            number = plan[step - 1].stage
            over = step == len(plan) or plan[step].stage != number
            if over and exam.asked:
                stage = config.stages[number]
                scores[stage.name] = exam.take(model)
                log.write(json.dumps({"step": step, "stage": stage.name, "held_out": scores[stage.name]}) + "\n")
                log.flush()
            if step % config.save_every == 0 or over:
                _save(model, optimiser, step, scores, folder)
            if over and exam.asked:
                _check(config.stages[number], scores[config.stages[number].name])
    return step, ends[-1], scores


def _check(stage: Stage, scores: dict[str, float]) -> None:
    """End where a stage has not taught what the next one builds on."""
    for kind, least in stage.require.items():
        if scores.get(kind, 0.0) < least:
            raise UserError(
                f"stage {stage.name}: {scores.get(kind, 0.0):.0%} of the held-out '{kind}' are exact, {least:.0%} are "
                "required; give the stage more tokens"
            )


def _step(model: Any, batch: list[Row], optimiser: Any, pad: int) -> tuple[float, float]:
    """One update; returns the weighted loss and the plain loss of the tokens at full weight, in nats."""
    import torch
    from torch.nn.functional import cross_entropy

    longest = max(len(row.ids) for row in batch)
    # Right padding needs no attention mask: what is padded comes after everything that is learnt, at weight 0.
    ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in batch])
    weights = torch.tensor([row.weights + [0.0] * (longest - len(row.ids)) for row in batch])[:, 1:]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(weights)
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    if not math.isfinite(loss.item()):
        raise UserError("the loss is not finite; lower learning_rate")
    full = weights == 1.0
    return loss.item(), losses[full].mean().item() if full.any() else 0.0


def _rates(stage: Stage, steps: int) -> list[float]:
    """The learning rate of each step of a stage, as a share of the peak."""
    warm = min(40, max(1, steps // 10))
    falling = stage.decay * steps
    return [
        stage.rate * min((step + 1) / warm, max(0.05, (steps - step) / falling) if step > steps - falling else 1.0)
        for step in range(steps)
    ]


def _save(model: Any, optimiser: Any, step: int, scores: dict[str, dict[str, float]], folder: Path) -> None:
    import torch

    target = folder / "checkpoints" / "state.pt"
    target.parent.mkdir(exist_ok=True)
    partial = target.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "scores": scores}
    torch.save(state, partial)
    partial.replace(target)


def _resume(model: Any, optimiser: Any, folder: Path) -> tuple[int, dict[str, dict[str, float]]]:
    import torch

    saved = folder / "checkpoints" / "state.pt"
    if not saved.is_file():
        return 0, {}
    state = torch.load(saved, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), dict(state["scores"])


if __name__ == "__main__":
    run_command(main, Config)
