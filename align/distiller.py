"""SFTTrainer with a teacher beside the gold answers. Built by a function: its base class lives in TRL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.distillation import Cache, divergence, divergence_from_top, same_width, top_of
from medsmith.packing import IGNORED
from medsmith.records import content_id


@dataclass(frozen=True)
class Teaching:
    """A frozen teacher, how its word counts, and where its likeliest tokens are kept."""

    model: Any
    name: str
    """Of its content: another one's probabilities are never taken for these."""
    alpha: float
    """Of the gold answer's cross-entropy; the rest is the teacher's."""
    temperature: float
    top: int | None
    """Keep so many tokens of each position on disk; None asks the teacher at every step."""
    folder: Path


def freeze(model: Any) -> Any:
    """A teacher does not learn, and says the same whenever it is asked."""
    return model.requires_grad_(False).eval()


def trainer_class(teaching: Teaching) -> Any:
    """TRL's SFTTrainer whose loss is alpha CE(gold) + (1 - alpha) T² KL(teacher ‖ student), a mean over trained tokens.

    In evaluation the loss is that of the gold answer, so that it can be compared with a training without a teacher.
    """
    import torch
    from trl import SFTTrainer

    class Distiller(SFTTrainer):
        cache: Cache | None = None
        train_dataset: Any
        data_collator: Any

        def train(self, *arguments: Any, **settings: Any) -> Any:
            if teaching.top is not None and teaching.alpha < 1:
                self._keep(teaching.top)
            return super().train(*arguments, **settings)

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            if "number" not in self._signature_columns:
                self._signature_columns.append("number")

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if not self.model.training:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            seen = {key: value for key, value in inputs.items() if key not in ("labels", "number")}
            at = inputs["labels"][:, 1:] != IGNORED
            outputs = model(**seen, use_cache=False)
            student = outputs.logits[:, :-1][at].float()
            gold = torch.nn.functional.cross_entropy(student, inputs["labels"][:, 1:][at], reduction="none")
            taught = self._taught(student, seen, at, inputs.get("number")) if teaching.alpha < 1 else gold.detach() * 0
            total = (teaching.alpha * gold + (1 - teaching.alpha) * taught).sum()
            for name, values in (("gold_loss", gold), ("teacher_loss", taught)):
                self._metrics["train"][name].append(float(values.detach().mean()))
            loss = total / torch.as_tensor(at.sum() if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                # The count is over all processes, whose gradients are averaged.
                loss = loss * self.accelerator.num_processes
            return (loss, outputs) if return_outputs else loss

        def _taught(self, student: Any, seen: dict[str, Any], at: Any, numbers: Any) -> Any:
            if self.cache is not None:
                top = self.cache.of(numbers.tolist(), student.device)
                return divergence_from_top(student, top, teaching.temperature)
            return divergence(*same_width(student, self._ask(seen, at)), teaching.temperature)

        def _ask(self, seen: dict[str, Any], at: Any) -> Any:
            """The teacher's logits where tokens are trained."""
            teacher = teaching.model.to(at.device)
            with torch.no_grad():
                return teacher(**seen, use_cache=False).logits[:, :-1][at]

        def _keep(self, count: int) -> None:
            """Ask the teacher once about every sequence, and number them, so that their answers are found again."""
            data, collate = self.train_dataset, self.data_collator
            key = content_id(
                teaching.name,
                teaching.temperature,
                count,
                [content_id(row["input_ids"], row["labels"]) for row in data],
            )
            cache = Cache(teaching.folder / key, len(data))
            size = self.args.per_device_train_batch_size
            if self.accelerator.is_main_process:
                for rows in cache.missing():
                    found = []
                    for start in range(rows.start, rows.stop, size):
                        batch = collate([data[number] for number in range(start, min(start + size, rows.stop))])
                        batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
                        at = batch.pop("labels")[:, 1:] != IGNORED
                        parts = self._ask(batch, at).split(at.sum(1).tolist())
                        found += [top_of(part, min(count, part.shape[-1]), teaching.temperature) for part in parts]
                    cache.write(rows, found)
            self.accelerator.wait_for_everyone()
            self.cache = cache
            self.train_dataset = data.add_column("number", list(range(len(data))))
            self.data_collator = Numbered(collate)

    return Distiller


@dataclass(frozen=True)
class Numbered:
    """Any collator, with the sequences' numbers beside the batch."""

    collate: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Make one batch."""
        import torch

        batch: dict[str, Any] = self.collate([{k: v for k, v in row.items() if k != "number"} for row in rows])
        if all("number" in row for row in rows):
            batch["number"] = torch.tensor([row["number"] for row in rows])
        return batch
