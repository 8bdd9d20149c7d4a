"""What a student loses against a teacher's probabilities, and those probabilities kept on disk.

All values are in nats a token, of tokens that are trained. The vocabulary is summed over, never averaged, which would
make the term as many times too small as there are tokens in it. The divergence is KL(teacher ‖ student), both softened
by the temperature, times its square: so the gradient, and with it the right learning rate, hardly depends on it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medsmith.errors import UserError

if TYPE_CHECKING:
    import torch

PART_ROWS = 256
SMALLEST = 1e-9
"""The least mass of a tail: the logarithm of what rounding leaves of it must be finite."""


class Top(NamedTuple):
    """Of n positions the teacher's k likeliest tokens, softened, and what mass is left to all others."""

    places: torch.Tensor
    """(n, k) token ids."""
    logprobs: torch.Tensor
    """(n, k)."""
    tail: torch.Tensor
    """(n,) the logarithm of the rest."""


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² KL(teacher ‖ student) of logits (n, vocabulary), by position."""
    ours = (student.float() / temperature).log_softmax(-1)
    theirs = (teacher.float() / temperature).log_softmax(-1)
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(-1)


def top_of(teacher: torch.Tensor, count: int, temperature: float) -> Top:
    """The `count` likeliest tokens of each position of logits (n, vocabulary)."""
    logprobs, places = (teacher.float() / temperature).log_softmax(-1).topk(count)
    return Top(places, logprobs, _rest(logprobs))


def divergence_from_top(student: torch.Tensor, top: Top, temperature: float) -> torch.Tensor:
    """As `divergence`, with all tokens but the top ones taken for one: never more than the whole, and with no bias.

    Without the tail the top ones would be scaled up to make 1, and the student taught to be surer than its teacher.
    """
    ours = (student.float() / temperature).log_softmax(-1).gather(-1, top.places)
    known = (top.logprobs.exp() * (top.logprobs - ours)).sum(-1)
    return temperature**2 * (known + top.tail.exp() * (top.tail - _rest(ours)))


def _rest(logprobs: torch.Tensor) -> torch.Tensor:
    """The logarithm of the mass that these leave."""
    return (1 - logprobs.exp().sum(-1)).clamp(min=SMALLEST).log()


def check_same_tokens(student: Any, teacher: Any) -> None:
    """Refuse a teacher that means other tokens: its probabilities would be of something else.

    Raises:
        UserError: the first token of which the two do not think alike is named.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        apart = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
        raise UserError(
            f"student and teacher have other tokens ({len(ours)} and {len(theirs)}; {apart[0]!r} is "
            f"{ours.get(apart[0])} in one and {theirs.get(apart[0])} in the other); logits need one tokenizer: set "
            "method=sequence, which learns from the teacher's texts"
        )


def same_width(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of one width: some models of a family have rows behind the last token, up to a round number."""
    width = min(student.shape[-1], teacher.shape[-1])
    return student[..., :width], teacher[..., :width]


class Cache:
    """A teacher's top logits of every sequence of a data set, by its place in it, in parts of a folder."""

    def __init__(self, folder: Path, rows: int) -> None:
        """`rows` sequences are to be there; the folder's name says of which teacher and data."""
        self.folder, self.rows = folder, rows
        self._part = functools.lru_cache(maxsize=32)(self._read)

    def missing(self) -> Iterator[range]:
        """The sequences of every part that is not there yet."""
        for start in range(0, self.rows, PART_ROWS):
            if not self._file(start // PART_ROWS).is_file():
                yield range(start, min(start + PART_ROWS, self.rows))

    def write(self, rows: range, found: Sequence[Top]) -> None:
        """Keep what was found of one part's sequences: all of it or, after a kill, nothing."""
        import torch
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            "places": torch.cat([one.places for one in found]).to(torch.int32).cpu(),
            "logprobs": torch.cat([one.logprobs for one in found]).float().cpu(),
            "tail": torch.cat([one.tail for one in found]).float().cpu(),
            "counts": torch.tensor([len(one.tail) for one in found]),
        }
        file = self._file(rows.start // PART_ROWS)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file.with_suffix(".partial"))
        file.with_suffix(".partial").rename(file)

    def of(self, rows: Iterable[int], device: Any) -> Top:
        """The positions of these sequences, one after the other."""
        import torch

        found = [self._part(row // PART_ROWS)[row % PART_ROWS] for row in rows]
        places, logprobs, tail = (torch.cat([one[side] for one in found]).to(device) for side in range(3))
        return Top(places.long(), logprobs, tail)

    def _read(self, part: int) -> list[Top]:
        from safetensors.torch import load_file

        tensors = load_file(self._file(part))
        counts = tensors["counts"].tolist()
        split = [tensors[name].split(counts) for name in ("places", "logprobs", "tail")]
        return [Top(*sides) for sides in zip(*split, strict=True)]

    def _file(self, part: int) -> Path:
        return self.folder / f"part-{part:05}.safetensors"
