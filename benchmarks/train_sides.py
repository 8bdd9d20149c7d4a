"""One process of benchmarks.train: a training by our command, by plain TRL, or by a loop of bare PyTorch.

    python -m benchmarks.train_sides ours dapt FOLDER OUT

FOLDER holds the data (benchmarks/train_data.py). Leaves OUT/measured.json: CPU and seconds of the training itself, CPU
of the process until then and in all, and the tokens that were trained. `record` is our command once more, which leaves
its batches in FOLDER: they are what the bare loop trains on.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.train_cases import CASES, COMMON, DPO, Case
from benchmarks.train_data import NANO


class Watched:
    """The trainings of this process: what each cost, and the trainers, to count tokens by afterwards."""

    def __init__(self) -> None:
        self.before: list[float] = []
        self.cpu: list[float] = []
        self.seconds: list[float] = []
        self.saving: list[float] = []
        """CPU of each checkpoint; it is part of `cpu`."""
        self.trainers: list[Any] = []

    def time(self, work: Callable[[], Any]) -> Any:
        """Do the work and add what it cost."""
        began = time.monotonic()
        self.before.append(time.process_time())
        found = work()
        self.cpu.append(time.process_time() - self.before[-1])
        self.seconds.append(time.monotonic() - began)
        return found


def main(arguments: Sequence[str]) -> None:
    """Train, then write what it cost."""
    side, name, folder, out = arguments[0], arguments[1], Path(arguments[2]), Path(arguments[3])
    case, watched = CASES[name], Watched()
    sides: dict[str, Callable[[Case, Path, Path, Watched], int]] = {
        "ours": ours, "record": record, "trl": plain_trl, "loop": bare_loop,
    }  # fmt: skip
    with saving_watched(watched):
        tokens = sides[side](case, folder, out, watched)
    total = time.process_time()
    measured = {
        "before_cpu": watched.before[0],
        "train_cpu": sum(watched.cpu),
        "train_seconds": sum(watched.seconds),
        "saving_cpu": sum(watched.saving),
        "checkpoints": len(watched.saving),
        "total_cpu": total,
        # Counting is not part of what is measured.
        "tokens": tokens or sum(map(tokens_of, watched.trainers)),
    }
    (out / "measured.json").write_text(json.dumps(measured))


@contextmanager
def saving_watched(watched: Watched) -> Iterator[None]:
    """Take the CPU of every checkpoint that a trainer writes."""
    from transformers import Trainer

    inner = Trainer._save_checkpoint

    def save(self: Any, *given: Any, **named: Any) -> Any:
        began = time.process_time()
        inner(self, *given, **named)
        watched.saving.append(time.process_time() - began)

    Trainer._save_checkpoint = save
    try:
        yield
    finally:
        Trainer._save_checkpoint = inner


def tokens_of(trainer: Any) -> int:
    """The tokens of text that a trainer has read, over all epochs; padding is none."""
    epochs = round(trainer.state.epoch)
    return int(epochs * sum(map(length_of, trainer.train_dataset)))


def length_of(row: dict[str, Any]) -> int:
    """The tokens of a row as the model reads it; of a pair it reads the prompt twice."""
    if "prompt_ids" in row:
        return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
    return len(row["input_ids"])


# --- ours ------------------------------------------------------------------------------------------------------------


def ours(case: Case, folder: Path, out: Path, watched: Watched, before: Callable[[Any], None] | None = None) -> int:
    """Our command as it stands, its calls of `Trainer.train` timed."""
    from transformers import Trainer

    from medsmith.config import load

    module = importlib.import_module(case.command)
    inner = Trainer.train

    def train(self: Any, *given: Any, **named: Any) -> Any:
        if before:
            before(self)
        watched.trainers.append(self)
        return watched.time(lambda: inner(self, *given, **named))

    Trainer.train = train
    try:
        module.main(load(module.Config, case.ours(folder, out / "run")))
    finally:
        Trainer.train = inner
    return 0


def record(case: Case, folder: Path, out: Path, watched: Watched) -> int:
    """Our command, and the batches of each training into a file."""
    import torch

    phases: list[dict[str, Any]] = []

    def keep(trainer: Any) -> None:
        phases.append(
            {
                "batches": [dict(batch) for batch in trainer.get_train_dataloader()],
                "epochs": round(trainer.args.num_train_epochs),
                "accumulation": trainer.args.gradient_accumulation_steps,
                "attention": trainer.model.config._attn_implementation,
                "tokens": sum(map(length_of, trainer.train_dataset)),
            }
        )

    ours(case, folder, out, watched, keep)
    torch.save(phases, batches_file(folder, case))
    return 0


def batches_file(folder: Path, case: Case) -> Path:
    """Where the recorded batches of a case lie."""
    return folder / f"batches-{case.name.replace(' ', '-')}.pt"


# --- plain TRL -------------------------------------------------------------------------------------------------------


def plain_trl(case: Case, folder: Path, out: Path, watched: Watched) -> int:
    """The same training as whoever knows TRL alone would write it."""
    import torch

    torch.set_num_threads(1)
    build = {"experts.train": trl_experts, "align.sft": trl_sft, "align.dpo": trl_dpo}[case.command]
    model: Any = str(NANO)
    for make in build(case, folder, out):
        trainer = make(model)
        watched.trainers.append(trainer)
        watched.time(trainer.train)
        model = trainer.model
    trainer.save_model(str(out / "model"))
    return 0


def trl_experts(case: Case, folder: Path, out: Path) -> list[Callable[[Any], Any]]:
    """Texts, ended and packed by TRL."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from medsmith.records import read_jsonl

    tokenizer = AutoTokenizer.from_pretrained(NANO)
    documents = {row["id"]: row["text"] for row in read_jsonl(folder / "documents" / "train.jsonl")}
    phases = [list(documents.values())]
    if "rows" in case.data:
        rows = [(row["document_id"], row["output"]) for row in read_jsonl(folder / "rows" / "rows.jsonl")]
        phases = [
            [output for _, output in rows],
            [f"{text}{tokenizer.eos_token}{documents[key]}" for key, text in rows],
        ]

    def maker(number: int, texts: list[str]) -> Callable[[Any], Any]:
        settings = {"packing": True, "max_length": case.settings["max_tokens"]}
        arguments = SFTConfig(**case.plain(out / f"phase{number}", **settings))
        data = Dataset.from_dict({"text": texts})
        return lambda model: SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)

    return [maker(number, texts) for number, texts in enumerate(phases, 1)]


def trl_sft(case: Case, folder: Path, out: Path) -> list[Callable[[Any], Any]]:
    """Conversations, of which the assistant's turns are trained."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from align.rows import messages
    from medsmith.records import read_parquet

    arguments = SFTConfig(**case.plain(out / "sft", assistant_only_loss=True, max_length=case.settings["max_tokens"]))
    data = Dataset.from_list([{"messages": messages(row)} for row in read_parquet(folder / "sft" / "data")])
    return [lambda model: SFTTrainer(model=model, args=arguments, train_dataset=data)]


def trl_dpo(case: Case, folder: Path, out: Path) -> list[Callable[[Any], Any]]:
    """Pairs; the model is its own reference."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from align.rows import preference
    from medsmith.records import read_parquet

    arguments = DPOConfig(**case.plain(out / "dpo", max_length=case.settings["max_tokens"]))
    data = Dataset.from_list([preference(row) for row in read_parquet(folder / "pairs" / "data")])
    return [lambda model: DPOTrainer(model=model, args=arguments, train_dataset=data)]


# --- a bare loop -----------------------------------------------------------------------------------------------------


def bare_loop(case: Case, folder: Path, out: Path, watched: Watched) -> int:
    """Recorded batches through the model, a loss, AdamW, and nothing else; the model is saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    phases = torch.load(batches_file(folder, case))
    model: Any = AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32)
    model.set_attn_implementation(phases[0]["attention"])
    loss_of = preference_loss if case.command == "align.dpo" else next_token_loss
    for phase in phases:
        watched.time(partial(loop, model.train(), phase, loss_of, (COMMON | case.trainer)["learning_rate"]))
    model.save_pretrained(out / "model")
    AutoTokenizer.from_pretrained(NANO).save_pretrained(out / "model")
    return sum(int(phase["tokens"]) * int(phase["epochs"]) for phase in phases)


def loop(model: Any, phase: dict[str, Any], loss_of: Callable[[Any, Any], Any], rate: float) -> None:
    """AdamW, a cosine, gradients of norm 1 at most, bfloat16 by autocast: what the trainers do."""
    import torch

    size = phase["accumulation"]
    batches = phase["batches"]
    groups = [batches[start : start + size] for start in range(0, len(batches), size)]
    steps = len(groups) * phase["epochs"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    for _ in range(phase["epochs"]):
        for group in groups:
            for batch in group:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_of(model, batch) / len(group)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            cosine.step()
            optimizer.zero_grad()


def next_token_loss(model: Any, batch: dict[str, Any]) -> Any:
    """The model's own loss."""
    return model(**batch, use_cache=False).loss


def preference_loss(model: Any, batch: dict[str, Any], beta: float = DPO["beta"]) -> Any:
    """The sigmoid loss of a batch of chosen and rejected answers, whose reference is in the batch."""
    import torch

    ids, mask = batch["input_ids"], batch["completion_mask"][:, 1:]
    logits = model(input_ids=ids, attention_mask=batch["attention_mask"], use_cache=False).logits[:, :-1]
    found = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None])[..., 0]
    chosen, rejected = (found * mask).sum(-1).chunk(2)
    gained = (chosen - batch["ref_chosen_logps"]) - (rejected - batch["ref_rejected_logps"])
    return -torch.nn.functional.logsigmoid(beta * gained).mean()


if __name__ == "__main__":
    main(sys.argv[1:])
