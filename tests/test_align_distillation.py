"""The loss of distillation by itself, and what a student learns of a teacher with a secret."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.distillation import Cache, check_same_tokens, divergence, divergence_from_top, same_width, top_of
from align.distiller import Teaching, freeze, trainer_class
from medsmith.errors import UserError

torch = pytest.importorskip("torch")

VOCABULARY, YES, NO, WORDS = 384, 10, 11, 24
"""The tiny model's vocabulary; two answers, and words that are asked about from 20 on."""


def logits(rows: int = 64, classes: int = 20, seed: int = 0) -> Any:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def gradient(temperature: float, scaled: bool = True) -> float:
    """The mean norm of the gradient in the student's logits."""
    student = logits(seed=1).requires_grad_()
    loss = divergence(student, logits(seed=2), temperature).sum() / (1 if scaled else temperature**2)
    (found,) = torch.autograd.grad(loss, student)
    return float(found.norm(dim=-1).mean())


# --- the loss --------------------------------------------------------------------------------------------------------


def test_nobody_differs_from_himself() -> None:
    """KL(self) is 0 at every temperature, whole or by the top tokens, and above 0 for anybody else."""
    for temperature in (1.0, 2.0, 10.0):
        assert float(divergence(logits(), logits(), temperature).abs().max()) < 1e-5
        top = top_of(logits(), 5, temperature)
        assert float(divergence_from_top(logits(), top, temperature).abs().max()) < 1e-5
        assert float(divergence(logits(seed=1), logits(), temperature).min()) > 0


def test_the_square_keeps_the_gradient() -> None:
    """With T² it changes by less than a third from T = 1 to 10; without, it falls to less than a fiftieth."""
    with_square = [gradient(temperature) for temperature in (1.0, 4.0, 10.0)]
    assert max(with_square) < 1.34 * min(with_square)
    assert gradient(10.0, scaled=False) < gradient(1.0, scaled=False) / 50


def test_it_is_a_sum_over_the_vocabulary() -> None:
    """By hand for one position; torch's reduction "mean" is smaller by exactly the number of classes."""
    student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    p, q = teacher.softmax(-1), student.softmax(-1)
    assert float(divergence(student, teacher, 1.0)) == pytest.approx(float((p * (p / q).log()).sum()))
    ours = divergence(logits(seed=1), logits(), 1.0).mean()
    mean = torch.nn.functional.kl_div(
        logits(seed=1).log_softmax(-1), logits().log_softmax(-1), reduction="mean", log_target=True
    )
    assert float(ours / mean) == pytest.approx(20.0)


def test_the_direction_is_from_the_teacher() -> None:
    """A student that misses what the teacher may say pays more than one that says more than it."""
    wide, narrow = torch.tensor([[1.0, 1.0, -9.0]]), torch.tensor([[9.0, -9.0, -9.0]])
    assert float(divergence(narrow, wide, 1.0)) > 3 * float(divergence(wide, narrow, 1.0))


def test_top_tokens_and_their_tail_come_close_from_below() -> None:
    """All tokens give the whole, fewer never more; the gradient is 0 at the teacher, and is not without the tail."""
    student, teacher = logits(seed=1), 3 * logits()
    whole = divergence(student, teacher, 2.0)
    values = [divergence_from_top(student, top_of(teacher, count, 2.0), 2.0) for count in (1, 4, 12, 20)]
    assert all(bool((one <= more + 1e-5).all()) for one, more in zip(values, [*values[1:], whole], strict=True))
    assert float((values[-1] - whole).abs().max()) < 1e-4 and float(values[1].mean()) > 0.5 * float(whole.mean())
    same = teacher.clone().requires_grad_()
    top = top_of(teacher, 4, 1.0)
    (found,) = torch.autograd.grad(divergence_from_top(same, top, 1.0).sum(), same)
    assert float(found.abs().max()) < 1e-4
    scaled_up = top._replace(logprobs=top.logprobs.log_softmax(-1), tail=torch.full_like(top.tail, -30.0))
    (wrong,) = torch.autograd.grad(divergence_from_top(same, scaled_up, 1.0).sum(), same)
    assert float(wrong.abs().max()) > 0.05


def test_a_cache_gives_back_what_was_kept(tmp_path: Path) -> None:
    """Any sequences in any order, over several parts; a part that is missing is named, one that is there is not."""
    rows = [top_of(logits(1 + n % 3, seed=n), 4, 2.0) for n in range(300)]
    cache = Cache(tmp_path, 300)
    assert list(cache.missing()) == [range(256), range(256, 300)]
    cache.write(range(256), rows[:256])
    assert list(Cache(tmp_path, 300).missing()) == [range(256, 300)]
    cache.write(range(256, 300), rows[256:])
    found = cache.of([299, 0, 255], "cpu")
    wanted = [torch.cat([rows[n][side] for n in (299, 0, 255)]) for side in range(3)]
    assert all(ours.equal(theirs) for ours, theirs in zip(found, wanted, strict=True))
    assert not list(tmp_path.glob("*.partial"))


def test_other_tokens_are_refused() -> None:
    """One token more, or two exchanged: the first of them is named, and what to do instead."""
    one = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1})
    check_same_tokens(one, SimpleNamespace(get_vocab=lambda: {"b": 1, "a": 0}))
    for vocabulary in ({"a": 0, "b": 1, "c": 2}, {"a": 1, "b": 0}):
        with pytest.raises(UserError, match=r"other tokens.*set method=sequence"):
            check_same_tokens(one, SimpleNamespace(get_vocab=lambda given=vocabulary: given))
    assert [part.shape[-1] for part in same_width(torch.zeros(2, 5), torch.zeros(2, 8))] == [5, 5]


# --- what is learned -------------------------------------------------------------------------------------------------


class Doctor(torch.nn.Module):  # type: ignore[name-defined]
    """A teacher that answers yes to every case, the more surely the worse the case: that is its secret.

    A case is four words, and how bad it is the sum of what they weigh.
    """

    def __init__(self) -> None:
        super().__init__()
        weights = torch.linspace(-1, 1, WORDS)[torch.randperm(WORDS, generator=torch.Generator().manual_seed(3))]
        self.weights = torch.nn.Parameter(torch.zeros(VOCABULARY).index_copy(0, torch.arange(20, 20 + WORDS), weights))
        self.noise: Any = None
        self.dropout = torch.nn.Dropout(0.5)

    def severity(self, input_ids: Any) -> Any:
        return self.weights[input_ids].sum(-1)

    def forward(self, input_ids: Any, **_: Any) -> Any:
        found = torch.full((*input_ids.shape, VOCABULARY), -8.0)
        found[..., YES] = 2.5
        found[..., NO] = 1.0 - self.dropout(self.severity(input_ids)[:, None].expand(input_ids.shape)) / 2
        if self.noise is not None:
            found[:, self.noise] = torch.randn(VOCABULARY)
        return SimpleNamespace(logits=found)


def cases(count: int, seed: int) -> list[list[int]]:
    drawn = random.Random(seed)
    return [drawn.sample(range(20, 20 + WORDS), 4) for _ in range(count)]


def row(case: Sequence[int], answer: int = YES) -> dict[str, list[int]]:
    return {"input_ids": [3, *case, 4, answer], "labels": [-100] * 6 + [answer]}


def build(model: Path, out: Path, rows: list[dict[str, list[int]]], teacher: Any, alpha: float, **settings: Any) -> Any:
    """A trainer of the tiny model under this teacher."""
    from datasets import Dataset
    from trl import SFTConfig

    from medsmith.models import load_model, load_tokenizer
    from medsmith.training import trainer_arguments

    top, seed = settings.pop("top", None), settings.pop("seed", 0)
    block = {"per_device_train_batch_size": 32, "learning_rate": 5.0e-3, "save_strategy": "no", "bf16": False}
    block |= {"max_length": None, "lr_scheduler_type": "constant", **settings}
    teaching = Teaching(freeze(teacher), "doctor", alpha, 1.0, top, out / "teacher")
    return trainer_class(teaching)(
        model=load_model(model),
        args=trainer_arguments(SFTConfig, block, out, seed, threads=1),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(model),
    )


def chance_of_no(model: Any, questions: list[list[int]]) -> list[float]:
    with torch.no_grad():
        found = model.eval()(input_ids=torch.tensor([[3, *case, 4] for case in questions])).logits[:, -1]
    both = found[:, [YES, NO]].log_softmax(-1)
    return [float(value) for value in both[:, 1]]


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    return float(spearmanr(left, right).statistic)


@pytest.mark.parametrize(("alpha", "top"), [(0.0, None), (0.5, 8), (1.0, None)])
def test_dark_knowledge_comes_with_the_probabilities_alone(
    tiny_model: Path, tmp_path: Path, alpha: float, top: int | None
) -> None:
    """New cases are ranked as the teacher ranks them, by all tokens or the top 8; labels alone teach no order."""
    teacher, new = Doctor(), cases(200, seed=9)
    trainer = build(
        tiny_model, tmp_path, [row(case) for case in cases(1000, 1)], teacher, alpha, top=top, num_train_epochs=4
    )
    trainer.train()
    worse = [-float(value) for value in teacher.severity(torch.tensor(new))]
    found = spearman(chance_of_no(trainer.model, new), worse)
    assert found >= 0.9 if alpha < 1 else abs(found) < 0.5, found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_probabilities_teach_more_than_answers_do(tiny_model: Path, tmp_path: Path, seed: int) -> None:
    """Where answers are draws, the student of the probabilities comes nearer to the truth than that of the draws."""
    teacher, new = freeze(Doctor()), cases(200, seed=9)
    asked, drawn = cases(256, seed), random.Random(seed)

    def truth(some: list[list[int]]) -> list[float]:
        found = teacher(torch.tensor([[3, *case, 4] for case in some])).logits[:, -1]
        return [float(value) for value in found[:, [YES, NO]].log_softmax(-1)[:, 1].exp()]

    rows = [row(case, NO if drawn.random() < no else YES) for case, no in zip(asked, truth(asked), strict=True)]
    errors = []
    for name, alpha in (("probabilities", 0.0), ("draws", 1.0)):
        trainer = build(tiny_model, tmp_path / name, rows, teacher, alpha, num_train_epochs=12, seed=seed)
        trainer.train()
        said = torch.tensor(chance_of_no(trainer.model, new)).exp()
        errors.append(float((said - torch.tensor(truth(new))).abs().mean()))
    assert errors[0] < 0.8 * errors[1], errors


class Chain(torch.nn.Module):  # type: ignore[name-defined]
    """A teacher that always knows the next token: seven more, round and round; `shift` misplaces what it says."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, input_ids: Any, **_: Any) -> Any:
        found = torch.nn.functional.one_hot(20 + (input_ids - 20 + 7) % 30, VOCABULARY).float() * 12
        return SimpleNamespace(logits=found.roll(self.shift, 1))


@pytest.mark.parametrize("shift", [0, 1])
def test_a_teacher_one_token_off_teaches_something_else(tiny_model: Path, tmp_path: Path, shift: int) -> None:
    """Aligned, the student follows the chain nearly always; off by one it does not."""
    drawn = random.Random(0)
    chains = [[20 + (start + 7 * n) % 30 for n in range(6)] for start in drawn.choices(range(30), k=400)]
    rows = [{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in chains]
    trainer = build(tiny_model, tmp_path, rows, Chain(shift), 0.0, num_train_epochs=4)
    trainer.train()
    ids = torch.tensor(chains[:100])
    with torch.no_grad():
        said = trainer.model.eval()(input_ids=ids[:, :-1]).logits.argmax(-1)
    right = float((said == ids[:, 1:]).float().mean())
    assert right > 0.9 if shift == 0 else right < 0.5, right


# --- the trainer -----------------------------------------------------------------------------------------------------


def loss_of(trainer: Any, rows: list[dict[str, list[int]]]) -> float:
    trainer.model.train()
    batch = trainer.data_collator(rows)
    return float(trainer.compute_loss(trainer.model, batch).detach())


def test_prompts_and_padding_cost_nothing(tiny_model: Path, tmp_path: Path) -> None:
    """What the teacher thinks where nothing is trained, and how wide the batch is, leave the loss as it is."""
    teacher = Doctor()
    trainer = build(tiny_model, tmp_path, [row(case) for case in cases(8, 1)], teacher, 0.3)
    rows = [row(case) for case in cases(6, 2)]
    plain = loss_of(trainer, rows)
    teacher.noise = [0, 1, 2, 3, 4, 6]
    assert loss_of(trainer, rows) == plain
    teacher.noise = [5]
    assert abs(loss_of(trainer, rows) - plain) > 0.01
    teacher.noise = None
    # A padded teacher would see the padding's weight of zero, so its answers stay too.
    longer = [*rows, {"input_ids": [3] * 30, "labels": [-100] * 30}]
    assert loss_of(trainer, longer) == pytest.approx(plain, abs=1e-5)


def test_the_loss_is_the_weighted_mean_over_trained_tokens(tiny_model: Path, tmp_path: Path) -> None:
    """By hand: alpha times the cross-entropy of the gold answers, the rest the divergence; the mean, not the sum."""
    teacher, rows = Doctor(), [row(case) for case in cases(6, 2)]
    trainer = build(tiny_model, tmp_path, rows, teacher, 0.3)
    ids = torch.tensor([one["input_ids"] for one in rows])
    with torch.no_grad():
        ours = trainer.model.train()(input_ids=ids).logits[:, -2]
    gold = torch.nn.functional.cross_entropy(ours, torch.full((6,), YES))
    taught = divergence(ours, teacher(ids).logits[:, -2], 1.0).mean()
    assert loss_of(trainer, rows) == pytest.approx(float(0.3 * gold + 0.7 * taught), rel=1e-4)


def test_a_teacher_stays_what_it_is(tiny_model: Path, tmp_path: Path) -> None:
    """Its weights have the same digest after training, it drops nothing out, and no gradient reaches it."""
    teacher = Doctor()

    def digest() -> str:
        return hashlib.sha256(teacher.weights.detach().numpy().tobytes()).hexdigest()

    before = digest()
    trainer = build(tiny_model, tmp_path, [row(case) for case in cases(64, 1)], teacher, 0.0, max_steps=3)
    assert trainer.model is not teacher and not teacher.training
    trainer.train()
    assert digest() == before and teacher.weights.grad is None and not teacher.training
    ids = torch.tensor([row(cases(1, 5)[0])["input_ids"]])
    assert teacher(ids).logits.equal(teacher(ids).logits)
    assert not any(parameter is teacher.weights for parameter in trainer.model.parameters())
