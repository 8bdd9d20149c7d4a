"""Packed sequences cost no room, keep their order where it matters, and do not see one another."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from medsmith.packing import IGNORED, Blocks, Labelled, pack, pack_in_order, pack_rows


def drawn(count: int, capacity: int = 64) -> list[int]:
    lengths = random.Random(0)
    return [lengths.randint(2, capacity) for _ in range(count)]


def test_every_piece_is_packed_once_and_no_block_overflows() -> None:
    """All numbers once, no block above its capacity, and less than 3 % of the room is left empty."""
    lengths = drawn(2000)
    blocks = pack(lengths, 64)
    assert sorted(number for block in blocks for number in block) == list(range(2000))
    filled = [sum(lengths[number] for number in block) for block in blocks]
    assert max(filled) <= 64 and sum(filled) / (64 * len(blocks)) > 0.97


def test_packing_in_order_moves_a_piece_by_less_than_its_window() -> None:
    """Blocks go up window by window, begin with rising numbers, and lose little room to that."""
    lengths = drawn(2000)
    blocks = pack_in_order(lengths, 64, 200)
    assert sorted(number for block in blocks for number in block) == list(range(2000))
    assert all(len({number // 200 for number in block}) == 1 for block in blocks)
    firsts = [block[0] for block in blocks]
    assert firsts == sorted(firsts) and all(block == sorted(block) for block in blocks)
    assert sum(lengths) / (64 * len(blocks)) > 0.94
    assert pack_in_order(lengths[:200], 64, 200) == blocks[: len(pack(lengths[:200], 64))]


def test_the_first_token_of_a_sequence_is_no_label() -> None:
    """It would be predicted from the last token of the sequence before; all other labels stay."""
    rows = pack_rows([Labelled([5, 6, 7], [5, IGNORED, 7]), Labelled([8, 9], [8, 9])], 8)
    assert rows == [{"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, IGNORED, 9], "seq_lengths": [3, 2]}]


def test_positions_begin_anew_and_padding_is_not_trained() -> None:
    """A batch of two blocks: positions by sequence, padding with the pad token and no label."""
    pytest.importorskip("torch")
    rows = pack_rows([Labelled([5, 6, 7], [5, 6, 7]), Labelled([8, 9], [8, 9]), Labelled([4, 4], [4, 4])], 5)
    batch = {name: tensor.tolist() for name, tensor in Blocks(pad=1)(rows).items()}
    assert batch["position_ids"] == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]
    assert batch["input_ids"][1] == [4, 4, 1, 1, 1] and batch["labels"][1] == [IGNORED, 4, *[IGNORED] * 3]


def train_on_twins(model: Any, torn_down: bool) -> float:
    """The last losses of a model trained on blocks of twins: a random word, and the same word again next door."""
    import torch

    words, draw = 32, random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        said = [draw.randrange(10, 10 + words) for _ in range(32)]
        rows = [row for word in said for row in pack_rows([Labelled([3, word], [3, word])] * 2, 4)]
        if torn_down:
            rows = [row | {"seq_lengths": [4]} for row in rows]
        loss = model(**Blocks(pad=1)(rows), use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return sum(losses[-20:]) / 20


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_cannot_copy_from_the_sequence_next_door(tiny_model: Path, attention: str) -> None:
    """A word that nothing tells costs log 32 nats, though its twin stands in the block; without borders it is copied.

    The control is what a leak would look like: the second twin costs next to nothing, so the mean falls to about half.
    """
    from medsmith.models import load_model

    def fresh() -> Any:
        model = load_model(tiny_model, device="cpu")
        model.set_attn_implementation(attention)
        return model.train()

    assert train_on_twins(fresh(), torn_down=False) > math.log(32) - 0.05
    assert train_on_twins(fresh(), torn_down=True) < 0.7 * math.log(32)
