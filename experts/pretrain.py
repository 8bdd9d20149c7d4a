"""Make the embedded base model from nothing: a tokenizer and a small Phi-3 model, taught on documents and lessons.

    python -m experts.pretrain experts/nano/recipe.yml out=out/nano/base documents='[…]' lessons=…

Documents (JSON Lines of Document rows) are packed into blocks; lessons (JSON Lines with `messages`) are rows of their
own, in the chat template, so that every chat begins at position 0 as it does in use. All tokens are learnt, the answers
at full weight, the rest at `prompt_weight`. A plain loop: at this size a trainer's overhead is a sixth of the time.
"""

from __future__ import annotations

import math
import random
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
from medsmith.records import read_documents, read_jsonl


class Size(Block):
    """The architecture; vocabulary counts the special tokens."""

    vocabulary: int = 3072
    hidden: int = 256
    layers: int = 5
    heads: int = 4
    feed_forward: int = 704
    context: int = 512


class Config(BaseConfig):
    """How the embedded base is made."""

    libraries: ClassVar = ("torch", "transformers", "tokenizers")

    documents: list[Path] = Field(description="JSON Lines of documents")
    lessons: Path = Field(description="JSON Lines with messages")
    tokenizer_texts: list[Path] = Field([], description="further documents that only the tokenizer is trained on")
    size: Size = Size()
    tokens: int = Field(description="tokens to train on; the data are repeated as needed")
    batch_tokens: int = Field(4096, description="tokens a step, padding included")
    block: int = Field(320, description="length of the blocks that documents are packed into, in tokens")
    learning_rate: float = Field(1.5e-3, description="peak; 2 % linear warm-up, then cosine to a tenth")
    weight_decay: float = 0.1
    prompt_weight: float = Field(0.3, ge=0, le=1, description="loss weight of everything but answers")
    threads: int | None = execution(None, "torch threads (default: OMP_NUM_THREADS, else all cores)")
    save_every: int = execution(200, "steps between checkpoints")


class Row(NamedTuple):
    """One training row: token ids and, for each, the weight of predicting it."""

    ids: list[int]
    weights: list[float]


def main(config: Config) -> Path:
    """Train and write the model folder."""
    import torch

    from experts.architecture import build_model, build_tokenizer, untie
    from medsmith.models import set_threads
    from medsmith.resumption import note_maker
    from medsmith.training import save_model

    with run.start(config, "experts.pretrain") as this:
        note_maker(this)
        this.facts["threads"] = set_threads(config.threads)
        keep_freed_memory()
        texts = [d.text for path in config.documents for d in read_documents(path)]
        chats = [row["messages"] for row in read_jsonl(config.lessons)]
        if not texts or not chats:
            raise UserError("the base needs documents and lessons; give at least one of each")
        for path in config.documents:
            this.facts["licences"] |= {d.source: d.license for d in read_documents(path)}
        extra = [d.text for path in config.tokenizer_texts for d in read_documents(path)]
        tokenizer = build_tokenizer(
            [*texts, *extra, *(turn["content"] for chat in chats for turn in chat)], config.size.vocabulary
        )
        size = config.size.model_dump()
        size.pop("vocabulary")
        model = build_model(tokenizer, **size, seed=config.seed)
        model.set_attn_implementation("eager")  # a fifth faster than sdpa on rows this short (measured, CPU)
        rows = _blocks(tokenizer, texts, config) + [_chat(tokenizer, chat, config.prompt_weight) for chat in chats]
        rows = [row for row in rows if len(row.ids) <= config.size.context]
        torch.manual_seed(config.seed)
        steps, tokens = _train(model, rows, config, this.folder, tokenizer.pad_token_id)
        untie(model)
        save_model(model, tokenizer, this.folder, dtype="bfloat16")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return this.finish(parameters=parameters, rows=len(rows), steps=steps, tokens=tokens)


def _blocks(tokenizer: Any, texts: list[str], config: Config) -> list[Row]:
    """Documents, each closed by the end-of-text token, cut into blocks of equal length."""
    order = sorted(texts)
    random.Random(config.seed).shuffle(order)
    stream = [t for ids in tokenizer(order)["input_ids"] for t in (*ids, tokenizer.pad_token_id)]
    parts = [stream[at : at + config.block] for at in range(0, len(stream), config.block)]
    return [Row(part, [1.0] * len(part)) for part in parts]


def _chat(tokenizer: Any, messages: list[dict[str, str]], prompt_weight: float) -> Row:
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return Row(encoded["input_ids"], [1.0 if m else prompt_weight for m in encoded["assistant_masks"]])


def _batches(rows: list[Row], config: Config, epoch: int) -> list[list[Row]]:
    """Rows of like length together, so that little is padding; the order of batches is drawn anew each epoch."""
    rng = random.Random(f"{config.seed} {epoch}")
    order = sorted(rows, key=lambda row: (len(row.ids), rng.random()))
    batches: list[list[Row]] = [[]]
    for row in order:
        if batches[-1] and (len(batches[-1]) + 1) * len(row.ids) > config.batch_tokens:
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches


def _train(model: Any, rows: list[Row], config: Config, folder: Path, pad: int) -> tuple[int, int]:
    import json

    import torch

    per_epoch = sum(len(row.ids) for row in rows)
    epochs = math.ceil(config.tokens / per_epoch)
    plan = [batch for epoch in range(epochs) for batch in _batches(rows, config, epoch)]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    ends = _token_ends(plan, config.tokens)
    plan = plan[: len(ends)]
    step = _resume(model, optimiser, folder)
    model.train()
    (folder / "log").mkdir(exist_ok=True)
    with Bar("pretraining", total=ends[-1], unit="tokens") as bar, (folder / "log" / "metrics.jsonl").open("a") as log:
        bar.advance(ends[step - 1] if step else 0)
        while step < len(plan):
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * _schedule(step, len(plan))
            loss, answers = _step(model, plan[step], optimiser, pad)
            step += 1
            bar.advance(ends[step - 1] - (ends[step - 2] if step > 1 else 0), note=f"loss {loss:.3f}")
            if step % 20 == 0 or step == len(plan):
                row = {"step": step, "loss": round(loss, 4), "answer_loss": round(answers, 4), "tokens": ends[step - 1],
                       "epoch": round(ends[step - 1] / per_epoch, 3)}  # fmt: skip
                log.write(json.dumps(row) + "\n")
                log.flush()
            if step % config.save_every == 0:
                _save(model, optimiser, step, folder)
    return step, ends[-1]


def _token_ends(plan: list[list[Row]], tokens: int) -> list[int]:
    ends: list[int] = []
    for batch in plan:
        ends.append((ends[-1] if ends else 0) + sum(len(row.ids) for row in batch))
        if ends[-1] >= tokens:
            break
    return ends


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


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 50)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _save(model: Any, optimiser: Any, step: int, folder: Path) -> None:
    import torch

    target = folder / "checkpoints" / "state.pt"
    target.parent.mkdir(exist_ok=True)
    partial = target.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, partial)
    partial.replace(target)


def _resume(model: Any, optimiser: Any, folder: Path) -> int:
    import torch

    saved = folder / "checkpoints" / "state.pt"
    if not saved.is_file():
        return 0
    state = torch.load(saved, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


if __name__ == "__main__":
    run_command(main, Config)
