"""Whether a packed row's token costs what it costs alone, and what it would cost if sequences saw one another.

The same instruction rows through experts/nano, in float32: padded, packed as align.sft does, and flattened as TRL does,
each with plain and with sdpa attention. Then planted twins: every conversation stands in its block beside a copy of
itself. With borders the copy is of no use; the control tears the borders down, which is what a leak would look like.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import table
from benchmarks.train_cases import CONTEXT
from benchmarks.train_data import NANO
from medsmith.packing import IGNORED, Blocks, Labelled, block_row, pack_rows

ROWS = 64
BATCH = 8


def report(folder: Path, count: int = ROWS) -> str:
    """Two tables: the loss of each shape, and of twins with and without borders."""
    from medsmith.models import load_model, load_tokenizer

    tokenizer, model = load_tokenizer(NANO), load_model(NANO, device="cpu")
    rows = conversations(folder, tokenizer, count)
    lines = []
    for kernel in ("eager", "sdpa"):
        model.set_attn_implementation(kernel)
        alone = losses(model, shaped(rows, "padded", tokenizer.pad_token_id))
        for shape in ("padded", "packed", "flattened"):
            found = losses(model, shaped(rows, shape, tokenizer.pad_token_id))
            assert len(found) == len(alone), "each trained token once"
            # Blocks hold the rows in another order: the sorted losses are compared.
            apart = max(abs(a - b) for a, b in zip(sorted(alone), sorted(found), strict=True))
            lines.append([shape, kernel, f"{len(found):,}", f"{sum(found) / len(found):.6f}", f"{apart:.1e}"])
    head = ["rows", "attention", "trained tokens", "loss a token, nats", "furthest from padded"]
    planted = twins(tokenizer, random.Random(0), count)
    torn = [row | {"seq_lengths": [len(row["input_ids"])]} for row in planted]
    second = [
        ["with borders", _of_copies(model, planted, tokenizer.pad_token_id)],
        ["borders torn down (control)", _of_copies(model, torn, tokenizer.pad_token_id)],
    ]
    return "\n".join([table(head, lines), "", table(["twins in a block", "loss a token of the copy, nats"], second)])


def conversations(folder: Path, tokenizer: Any, count: int) -> list[Labelled]:
    """Rows as align.sft trains them: the assistant's tokens under the loss."""
    from align.rows import messages
    from medsmith.records import read_parquet

    found = []
    for row in read_parquet(folder / "sft" / "data")[:count]:
        made = tokenizer.apply_chat_template(messages(row), return_dict=True, return_assistant_tokens_mask=True)
        labels = [
            token if on else IGNORED
            for token, on in zip(*(made[k] for k in ("input_ids", "assistant_masks")), strict=True)
        ]
        if len(labels) <= CONTEXT:
            found.append(Labelled(made["input_ids"], labels))
    return found


def shaped(rows: Sequence[Labelled], shape: str, pad: int) -> Iterator[dict[str, Any]]:
    """Batches of the rows: each a row of its own, in blocks, or blocks flattened into one row by TRL's collator."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    alone = [{"input_ids": row.tokens, "labels": row.labels} for row in rows]
    blocks = pack_rows(rows, CONTEXT)
    data, collate = {
        "padded": (alone, DataCollatorForLanguageModeling(pad)),
        "packed": (blocks, Blocks(pad)),
        "flattened": (blocks, DataCollatorForLanguageModeling(pad, padding_free=True)),
    }[shape]
    for start in range(0, len(data), BATCH):
        yield dict(collate(data[start : start + BATCH]))


def losses(model: Any, batches: Iterator[dict[str, Any]]) -> list[float]:
    """The loss of every trained token, in nats."""
    import torch

    found: list[float] = []
    for batch in batches:
        labels = batch.pop("labels")[:, 1:]
        with torch.inference_mode():
            logits = model(**batch, use_cache=False).logits[:, :-1].float()
        trained = labels != IGNORED
        found += torch.nn.functional.cross_entropy(logits[trained], labels[trained], reduction="none").tolist()
    return found


def twins(tokenizer: Any, draw: random.Random, count: int) -> list[dict[str, list[int]]]:
    """Blocks of a sequence of random tokens and its copy; of the copy the tokens are under the loss."""
    first = max(tokenizer.all_special_ids) + 1
    rows = []
    for _ in range(count):
        tokens = [draw.randrange(first, len(tokenizer)) for _ in range(48)]
        rows.append(block_row([Labelled(tokens, [IGNORED] * len(tokens)), Labelled(tokens, tokens)]))
    return rows


def _of_copies(model: Any, rows: Sequence[dict[str, list[int]]], pad: int) -> str:
    batches = (Blocks(pad)(list(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH))
    found = losses(model, batches)
    return f"{sum(found) / len(found):.3f}"
