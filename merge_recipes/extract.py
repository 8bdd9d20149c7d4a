"""Extract a LoRA from a full expert: the low-rank adapter that brings its base nearest to it.

    python -m merge_recipes.extract out=out/lora base=experts/nano model=out/embedded/train-pubmed rank=16

Writes a PEFT adapter folder with the tokenizer's files, `table.json` and `table.md` (for each weight the rank and the
share of the change's squared length that it keeps; what is not covered), and checks it: loaded by peft, how far its
answers are from the expert's, beside how far the base's are. Linear layers get factors, the output layer among them;
embeddings and norms are lost unless `save_rest=true` saves them whole. The adapter names its base as `base=` does.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError

LOG = logging.getLogger(__name__)

QUESTIONS = (
    "Is a temperature of 39 degrees a fever?",
    "The patient denies chest pain. Does the patient have chest pain?",
    "What is metformin given for?",
    "Summarize: the patient was admitted with pneumonia, received antibiotics, and went home after five days.",
)
"""What expert, base and adapter are asked, to see how far apart their next words are."""

LARGE = 1024
"""From this size on, in both directions, only the leading directions of a matrix are computed."""


class Config(config.Config):
    """An expert, its base, and how much of the difference to keep."""

    libraries: ClassVar[tuple[str, ...]] = ("peft", "torch", "transformers")

    base: ModelRef = Field(description="the model that the expert was trained from: a folder or a hub id")
    model: ModelRef = Field(description="the expert: a folder or a hub id")
    rank: int = Field(
        16, ge=1, description="the rank of every weight's adapter; with `energy` the largest that is tried"
    )
    energy: float | None = Field(
        None, gt=0, le=1, description="for each weight the smallest rank that keeps this share of the squared change"
    )
    targets: list[str] | None = Field(
        None,
        min_length=1,
        description="parts of the names of weights to take, e.g. [q_proj, mlp]; default: every linear layer",
    )
    save_rest: bool = Field(
        False, description="save whole what has no factors, embeddings and norms: a larger adapter that loses less"
    )
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")


class Part(NamedTuple):
    """A weight's adapter: up (rows x rank) and down (rank x columns) make its change; what they keep of it."""

    up: Any
    down: Any
    squared: float
    kept: float


class Extracted(NamedTuple):
    """What is written: parts by the names of weights and modules that are saved whole; what table.json says of them."""

    parts: dict[str, Part]
    whole: list[str]
    table: dict[str, Any]


def main(settings: Config) -> Path:
    """Extract, write, and look at the result through peft."""
    from medsmith.models import set_threads
    from medsmith.records import write_json
    from merge_recipes.licences import find_licences
    from merge_recipes.parents import check_parents, find_folders

    with run.start(settings, "merge_recipes.extract") as this:
        set_threads(settings.threads)
        models = {"base": settings.base, "expert": settings.model}
        folders = find_folders(models)
        check_parents(folders, "base")
        this.facts["licences"] |= find_licences(models, folders)
        extracted = extract(folders, settings)
        parts, table = extracted.parts, extracted.table
        write_adapter(settings.out, str(settings.base), folders, extracted)
        table["check"] = check_adapter(settings.out, folders)
        write_json(settings.out / "table.json", table)
        (settings.out / "table.md").write_text(to_markdown(table), encoding="utf-8")
        this.facts |= {"extracted": {key: table[key] for key in ("kept", "weights", "check")}}
        LOG.info("kept %.1f %% of the change in %d weights; %s", 100 * table["kept"], len(parts), _said(table["check"]))
        if short := [row for row in table["weights"] if settings.energy and row["kept"] < settings.energy - 1e-5]:
            LOG.info("%d weights keep less than energy=%g at rank=%d", len(short), settings.energy, settings.rank)
        return this.finish(weights=len(parts))


def extract(folders: Mapping[str, Path], settings: Config) -> Extracted:
    """The adapter of every weight, and what it keeps.

    Raises:
        UserError: no weight is a linear layer's that the targets name, or the two models are the same.
    """
    import torch

    from medsmith.progress import track
    from merge_recipes.weights import Weights

    base, expert = (Weights(folders[name]) for name in ("base", "expert"))
    linear, tied = _look_at_modules(folders["base"])
    parts: dict[str, Part] = {}
    rows, left, whole, total, saved = [], [], [], 0.0, 0.0
    for name in track(list(base), "extracting", unit="tensors"):
        change = torch.tensor(expert[name].float32() - base[name].float32()).view(base[name].shape)
        squared = float(change.double().square().sum())
        total += squared
        module, _, last = name.rpartition(".")
        if squared == 0.0:
            continue
        if module in linear and last == "weight" and any(part in name for part in settings.targets or [""]):
            parts[name] = decompose(change, settings.rank, settings.energy)
            rows.append({"weight": name, "rank": parts[name].up.shape[1], "kept": round(parts[name].kept / squared, 6)})
        elif settings.save_rest and module not in linear and module not in tied:
            whole.append({"weight": name, "length": round(squared**0.5, 6)})
            saved += squared
        else:
            left.append({"weight": name, "length": round(squared**0.5, 6)})
    if total == 0.0:
        raise UserError(f"{settings.model} is {settings.base} to the bit; there is nothing to extract")
    if not parts:
        changed = ", ".join(row["weight"] for row in [*left, *whole][:4])
        fault = (
            f"targets={settings.targets}: no changed matrix has such a name"
            if settings.targets
            else "no matrix changed"
        )
        raise UserError(f"{fault}; what changed begins with {changed}")
    modules = sorted({row["weight"].rpartition(".")[0] for row in whole})
    size = sum(part.up.numel() + part.down.numel() for part in parts.values())
    size += sum(tensor.data.size for tensor in expert.values() if tensor.name.rpartition(".")[0] in modules)
    kept = (sum(part.kept for part in parts.values()) + saved) / total
    table = {"kept": round(kept, 6), "parameters": size, "weights": rows, "saved_whole": whole, "not_covered": left}
    return Extracted(parts, modules, table)


def _look_at_modules(base: Path) -> tuple[set[str], set[str]]:
    """The names of a model's linear layers, and of its embeddings where they are the output layer too.

    Tied embeddings have no place of their own in an adapter: saved whole they would be untied. An output layer that is
    tied is not among the linear layers for the same reason.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):  # the modules alone, without numbers
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    tied = set()
    if outside is not None and outside.weight is inside.weight:
        tied = {name for name, module in model.named_modules() if module in (inside, outside)}
    return linear - tied, tied


def decompose(change: Any, rank: int, energy: float | None, large: int = LARGE) -> Part:
    """The best approximation of a change by so many directions, or by as few as keep `energy` of its squares.

    Of a matrix larger than `large` both ways only the leading directions are computed, by random projections and four
    rounds of refinement (Halko et al. 2011): minutes become a second.
    """
    import torch

    squared = float(change.double().square().sum())
    if min(change.shape) > max(large, 2 * rank):
        torch.manual_seed(0)
        left, sizes, right = torch.svd_lowrank(change, q=rank + 16, niter=4)
        right = right.T
    else:
        left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    squares = sizes.double().square()
    count = min(rank, len(sizes))
    if energy is not None:
        wanted = energy * squared * (1 - 1e-6)
        count = min(count, 1 + int((squares.cumsum(0) < wanted).sum()))
    roots = sizes[:count].sqrt()
    return Part(left[:, :count] * roots, roots[:, None] * right[:count], squared, float(squares[:count].sum()))


def write_adapter(out: Path, base: str, folders: Mapping[str, Path], extracted: Extracted) -> None:
    """The adapter as peft saves it, and the base's tokenizer beside it."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from merge_recipes.stream import SMALL_FILES
    from merge_recipes.weights import Weights

    ranks = {name.removesuffix(".weight"): part.up.shape[1] for name, part in extracted.parts.items()}
    most = max(ranks.values())
    other = {name: rank for name, rank in ranks.items() if rank != most}
    # Scaled by alpha / rank, so by one: the change is in the factors.
    LoraConfig(
        r=most, lora_alpha=most, rank_pattern=other, alpha_pattern=dict(other), target_modules=sorted(ranks),
        modules_to_save=extracted.whole or None, task_type="CAUSAL_LM", base_model_name_or_path=base,
        inference_mode=True, lora_dropout=0.0,
    ).save_pretrained(str(out))  # fmt: skip
    tensors = {}
    for name, part in extracted.parts.items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{place}.lora_A.weight"] = part.down.contiguous().to(torch.float32)
        tensors[f"{place}.lora_B.weight"] = part.up.contiguous().to(torch.float32)
    for tensor in Weights(folders["expert"]).values():
        if tensor.name.rpartition(".")[0] in extracted.whole:
            tensors[f"base_model.model.{tensor.name}"] = torch.tensor(tensor.float32()).view(tensor.shape)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    for name in SMALL_FILES:
        if (folders["base"] / name).is_file():
            shutil.copyfile(folders["base"] / name, out / name)


def check_adapter(out: Path, folders: Mapping[str, Path]) -> dict[str, float]:
    """How far the next words of base and adapter are from the expert's: the mean divergence over questions, in nats."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from medsmith.models import load_tokenizer

    tokenizer = load_tokenizer(folders["base"])
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        for text in QUESTIONS
    ]

    def words(model: Any) -> list[Any]:
        with torch.inference_mode():
            return [model(**prompt).logits[0].float().log_softmax(-1) for prompt in prompts]

    def load(name: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32)

    # One after the other: one model is in memory at a time.
    of_expert, of_base = words(load("expert")), words(load("base"))
    of_adapter = words(PeftModel.from_pretrained(load("base"), str(out)))

    def apart(others: list[Any]) -> float:
        each = [(e.exp() * (e - o)).sum(-1).mean() for e, o in zip(of_expert, others, strict=True)]
        return round(float(sum(each) / len(each)), 6)

    return {"base_to_expert": apart(of_base), "adapter_to_expert": apart(of_adapter)}


def _said(check: Mapping[str, float]) -> str:
    return (
        f"next words are {check['adapter_to_expert']:.4f} nats from the expert's, the base's "
        f"{check['base_to_expert']:.4f}"
    )


def to_markdown(table: Mapping[str, Any]) -> str:
    """The page table.md."""
    lines = [
        f"Kept: {100 * table['kept']:.1f} % of the squared change, in {table['parameters']:,} numbers. Over fixed "
        f"questions the {_said(table['check'])}.",
        "",
        "| weight | rank | kept |",
        "| --- | ---: | ---: |",
        *(f"| {row['weight']} | {row['rank']} | {100 * row['kept']:.1f} % |" for row in table["weights"]),
    ]
    for key, title in (
        ("saved_whole", "Saved whole"),
        ("not_covered", "Not covered, and so left as the base has them"),
    ):
        if table[key]:
            lines += ["", f"{title}:", "", "| weight | length of its change |", "| --- | ---: |"]
            lines += [f"| {row['weight']} | {row['length']} |" for row in table[key]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main, Config)
