"""Full fine-tuning of 3.8 billion parameters on one GPU by `align.sft` and `align.dpo`: tokens/s, memory, FLOPs used.

    python -m benchmarks.train_gpu                       # needs a CUDA device of 80 GB or more
    python -m benchmarks.train_gpu --tiny                # the same on a CPU with a model of nano's size: does it run?

The model has Phi-3.5-mini's architecture and random weights, made on the device. The commands run as they stand until
the last step; they are stopped before anything is saved, and nothing is saved in between. Texts are drawn words, in
rows as long as MediFlow's (benchmarks/train_data.py), packed into blocks of 4,096 tokens; pairs are padded.

Model FLOPs utilisation (MFU): what the mathematics of the model needs, over the time and the device's dense peak in
bfloat16. A token of text needs 6 for each parameter of a matrix multiplication (the output layer among them, the
embedding not) and 12 × layers × hidden for each token of its own document that it sees. Padding, what gradient
checkpointing computes again, the optimizer, and DPO's reference, which is computed before the first step, are not
counted as useful.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, table
from benchmarks.train_data import NANO, SHRINK, instructions, vocabulary

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOP/s, by a part of the device's name."""

PHI: dict[str, Any] = {
    "vocab_size": 32_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
}
TINY = PHI | {
    "vocab_size": 3072,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "original_max_position_embeddings": 512,
}
WARM_UP = 3
"""First steps that are not counted: kernels are chosen and memory is taken."""


@dataclass(frozen=True)
class Variant:
    """One line of the table."""

    name: str
    command: str
    weights: str
    """Their type; the computation is in bfloat16 in any case."""
    trainer: dict[str, Any] = field(default_factory=dict)
    needs: str = ""
    """A package."""


PACKED = {"packing": True, "optim": "adamw_torch_fused", "per_device_train_batch_size": 2}
VARIANTS = (
    Variant("sft, as the command is", "align.sft", "float32", PACKED),
    Variant("sft, checkpointing", "align.sft", "bfloat16", PACKED | {"per_device_train_batch_size": 4}),
    Variant("sft, no checkpointing", "align.sft", "bfloat16", PACKED | {"gradient_checkpointing": False}),
    Variant(
        "sft, 8-bit optimizer",
        "align.sft",
        "bfloat16",
        PACKED | {"gradient_checkpointing": False, "optim": "adamw_8bit"},
        "bitsandbytes",
    ),
    Variant(
        "dpo, checkpointing",
        "align.dpo",
        "bfloat16",
        {"optim": "adamw_torch_fused", "per_device_train_batch_size": 8},
    ),
)


class Stopped(Exception):
    """The steps are done; nothing is to be saved."""


@dataclass
class Seen:
    """What the steps of one variant were."""

    kernel: str = ""
    seconds: list[float] = field(default_factory=list)
    documents: list[list[int]] = field(default_factory=list)
    """Of each step the lengths of the documents in its batch."""
    parameters: int = 0
    layers: int = 0
    hidden: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Of text, over the steps after the first few."""
        return sum(map(sum, self.documents[WARM_UP:])) / sum(self.seconds[WARM_UP:])

    @property
    def flops_per_second(self) -> float:
        """That the model's mathematics needs."""
        lengths = [length for step in self.documents[WARM_UP:] for length in step]
        needed = sum(model_flops(length, self.parameters, self.layers, self.hidden) for length in lengths)
        return needed / sum(self.seconds[WARM_UP:])


def model_flops(length: int, parameters: int, layers: int, hidden: int) -> float:
    """Of one document, forward and backward; `parameters` are those of matrix multiplications."""
    # Scores and weighted sums are 2 × 2 × hidden each way for each pair of tokens; three times with the backward pass;
    # a causal model needs half of the pairs.
    return 6.0 * parameters * length + 12.0 * layers * hidden * length**2 / 2


def main() -> None:
    """Measure every variant that this machine can run, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a CPU: only to see that it runs")
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--only", nargs="+", help="variants by a part of their name")
    given = parser.parse_args()
    variants = [one for one in VARIANTS if not given.only or any(part in one.name for part in given.only)]
    print(run_all(variants, given.tiny, given.steps))


def run_all(variants: Sequence[Variant], tiny: bool, steps: int) -> str:
    """The table, and what it was made with."""
    import torch

    if not tiny and not torch.cuda.is_available():
        return plan(variants)
    lines = []
    for variant in variants:
        if variant.needs and importlib.util.find_spec(variant.needs) is None:
            lines.append([variant.name, variant.weights, variant.trainer["optim"], f"not run: no {variant.needs} here"])
            continue
        lines.append(line(variant, measure(variant, tiny, steps)))
    head = ["what", "weights", "optimizer", "attention", "tokens/s", "TFLOP/s", "MFU", "peak GB", "a step, s"]
    where = "tiny, CPU: no figure of a GPU" if tiny else torch.cuda.get_device_name()
    return "\n".join([table(head, [one + [""] * (len(head) - len(one)) for one in lines]), "", f"{where}; {machine()}"])


def plan(variants: Sequence[Variant]) -> str:
    """What would be measured, where there is no GPU to measure it on."""
    head = ["what", "command", "weights", "settings"]
    rows = [
        [one.name, one.command, one.weights, ", ".join(f"{k}={v}" for k, v in one.trainer.items())] for one in variants
    ]
    return "no CUDA device here: nothing was measured. On one this would run:\n\n" + table(head, rows)


def line(variant: Variant, seen: Seen) -> list[str]:
    """One line of the table."""
    import torch

    cuda = torch.cuda.is_available()
    peak = next((value for part, value in PEAKS.items() if cuda and part in torch.cuda.get_device_name()), None)
    return [
        variant.name,
        variant.weights,
        variant.trainer["optim"],
        seen.kernel,
        f"{seen.tokens_per_second:,.0f}",
        f"{seen.flops_per_second / 1e12:.3g}",
        f"{seen.flops_per_second / peak:.1%}" if peak else "",
        f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if cuda else "",
        f"{statistics.median(seen.seconds[WARM_UP:]):.3f}",
    ]


def measure(variant: Variant, tiny: bool, steps: int) -> Seen:
    """Run the command on a model made here, up to its last step."""
    import torch

    from medsmith.config import load

    seen = Seen()
    module = importlib.import_module(variant.command)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder, tiny, steps, variant)
        context = (TINY if tiny else PHI)["max_position_embeddings"]
        settings: dict[str, Any] = {
            "out": folder / "run",
            "model": NANO,
            "data": folder,
            "max_tokens": context,
            "heldout_share": 0,
            "trainer": {"max_steps": steps, "save_strategy": "no", "logging_steps": steps, "learning_rate": 1e-6}
            | variant.trainer,
        }
        if variant.command == "align.dpo":
            settings["measured_pairs"] = 1
        if torch.cuda.is_available():
            gc.collect()  # the model of the variant before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with in_place(variant, TINY if tiny else PHI, context, seen):
            try:
                module.main(load(module.Config, settings))
            except Stopped:
                return seen
    raise AssertionError("the command ended without a training")


def write_rows(folder: Path, tiny: bool, steps: int, variant: Variant) -> None:
    """Rows enough for all steps, as long as MediFlow's; of the tiny model over eight, as in benchmarks.train."""
    from medsmith.records import write_parquet

    shrink = SHRINK if tiny else 1
    batch = variant.trainer["per_device_train_batch_size"] * (steps + 1)
    pairs = variant.command == "align.dpo"
    # A block of 4,096 tokens holds about nine rows.
    count = batch if pairs else 11 * batch
    write_parquet(folder / "data" / "rows.parquet", instructions(random.Random(0), vocabulary(), count, pairs, shrink))


@contextmanager
def in_place(variant: Variant, shape: dict[str, Any], context: int, seen: Seen) -> Iterator[None]:
    """Give commands a model of random weights, and watch the steps of their trainer."""
    from transformers import Trainer

    from medsmith import lora

    loaded, trained = lora.load_to_train, Trainer.train

    def build(*given: Any, **named: Any) -> Any:
        model = random_model(shape, variant.weights, context)
        seen.kernel = model.config._attn_implementation
        seen.layers, seen.hidden = model.config.num_hidden_layers, model.config.hidden_size
        seen.parameters = model.num_parameters() - model.get_input_embeddings().weight.numel()
        return model

    def train(self: Any, *given: Any, **named: Any) -> None:
        watch(self, seen)
        trained(self, *given, **named)
        raise Stopped

    lora.load_to_train, Trainer.train = build, train
    try:
        yield
    finally:
        lora.load_to_train, Trainer.train = loaded, trained


def random_model(shape: dict[str, Any], weights: str, context: int) -> Any:
    """A Phi-3 model of random weights on the device, with the attention kernel that a training would choose."""
    import torch
    from transformers import AutoModelForCausalLM, Phi3Config

    from medsmith.attention import set_attention
    from medsmith.models import choose_device

    config = Phi3Config(**shape, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.device(choose_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, weights))
    set_attention(model, context)
    return model


def watch(trainer: Any, seen: Seen) -> None:
    """Take the time and the documents of every step."""
    import torch

    inner = trainer.training_step

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        seen.documents.append(lengths_of(inputs))
        return inner(model, inputs, *given, **named)

    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *given: Any, **named: Any) -> None:
            self.began = now()

        def on_step_end(self, *given: Any, **named: Any) -> None:
            seen.seconds.append(now() - self.began)

    trainer.training_step = step
    trainer.add_callback(Clock())


def lengths_of(batch: dict[str, Any]) -> list[int]:
    """The lengths of the documents in a batch, without padding."""
    if "attention_mask" in batch:
        lengths: list[int] = batch["attention_mask"].sum(1).tolist()
        return lengths
    found = []
    for row in batch["position_ids"].tolist():
        starts = [place for place, position in enumerate(row) if position == 0] + [len(row)]
        # Padding has position 0, one after another; no document is one token long.
        found += [end - start for start, end in zip(starts, starts[1:], strict=False) if end - start > 1]
    return found


if __name__ == "__main__":
    main()
