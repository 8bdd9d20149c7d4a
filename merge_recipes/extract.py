"""Extract a LoRA from a full expert: the low-rank adapter that brings its base nearest to it.

    python -m merge_recipes.extract out=out/lora base=experts/nano model=out/embedded/train-pubmed rank=16

Writes a PEFT adapter folder with the tokenizer's files, `table.json` and `table.md` (for each weight the rank and the
share of the change's squared length that it keeps; what no adapter covers), and checks it: loaded by peft, how far its
answers are from the expert's, beside how far the base's are.
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
        description="parts of the names of weights to take, e.g. [q_proj, mlp]; default: every matrix",
    )
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")


class Part(NamedTuple):
    """A weight's adapter: up (rows x rank) and down (rank x columns) make its change; what they keep of it."""

    up: Any
    down: Any
    squared: float
    kept: float


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
        parts, table = extract(folders, settings)
        write_adapter(settings.out, str(settings.base), folders["base"], parts)
        table["check"] = check_adapter(settings.out, folders)
        write_json(settings.out / "table.json", table)
        (settings.out / "table.md").write_text(to_markdown(table), encoding="utf-8")
        this.facts |= {"extracted": {key: table[key] for key in ("kept", "weights", "check")}}
        LOG.info("kept %.1f %% of the change in %d weights; %s", 100 * table["kept"], len(parts), _said(table["check"]))
        return this.finish(weights=len(parts))


def extract(folders: Mapping[str, Path], settings: Config) -> tuple[dict[str, Part], dict[str, Any]]:
    """The adapter of every weight, and what it keeps.

    Raises:
        UserError: no weight is a matrix that the targets name, or the two models are the same.
    """
    import torch

    from medsmith.progress import track
    from merge_recipes.weights import Weights

    base, expert = (Weights(folders[name]) for name in ("base", "expert"))
    parts: dict[str, Part] = {}
    rows, left, total = [], [], 0.0
    for name in track(list(base), "extracting", unit="tensors"):
        shape = base[name].shape
        change = torch.tensor(expert[name].float32() - base[name].float32()).view(shape)
        squared = float(change.double().square().sum())
        total += squared
        if squared == 0.0:
            continue
        if not _is_target(name, shape, settings.targets):
            left.append({"weight": name, "length": round(squared**0.5, 6)})
            continue
        parts[name] = decompose(change, settings.rank, settings.energy)
        rank = parts[name].up.shape[1]
        rows.append({"weight": name, "rank": rank, "kept": round(parts[name].kept / squared, 6)})
    if total == 0.0:
        raise UserError(f"{settings.model} is {settings.base} to the bit; there is nothing to extract")
    if not parts:
        raise UserError(
            f"targets={settings.targets}: no changed matrix has such a name; give parts of {left[0]['weight']}"
        )
    kept = sum(part.kept for part in parts.values()) / total
    size = sum(part.up.numel() + part.down.numel() for part in parts.values())
    return parts, {"kept": round(kept, 6), "parameters": size, "weights": rows, "not_covered": left}


def decompose(change: Any, rank: int, energy: float | None, large: int = LARGE) -> Part:
    """The best approximation of a change by so many directions, or by as few as keep `energy` of its squares.

    Of a matrix larger than `large` both ways, without `energy`, only the leading directions are computed, by random
    projections and four rounds of refinement (Halko et al. 2011): minutes become a second.
    """
    import torch

    squared = float(change.double().square().sum())
    if energy is None and min(change.shape) > max(large, 2 * rank):
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


def _is_target(name: str, shape: tuple[int, ...], targets: list[str] | None) -> bool:
    """Matrices of linear layers: an embedding or the output layer needs another kind of adapter."""
    if len(shape) != 2 or not name.endswith(".weight") or "embed" in name or name.startswith("lm_head"):
        return False
    return targets is None or any(target in name for target in targets)


def write_adapter(out: Path, base: str, folder: Path, parts: Mapping[str, Part]) -> None:
    """The adapter as peft saves it, and the base's tokenizer beside it."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from merge_recipes.stream import SMALL_FILES

    ranks = {name.removesuffix(".weight"): part.up.shape[1] for name, part in parts.items()}
    most = max(ranks.values())
    other = {name: rank for name, rank in ranks.items() if rank != most}
    # Scaled by alpha / rank, so by one: the change is in the factors.
    LoraConfig(
        r=most, lora_alpha=most, rank_pattern=other, alpha_pattern=dict(other), target_modules=sorted(ranks),
        task_type="CAUSAL_LM", base_model_name_or_path=base, inference_mode=True, lora_dropout=0.0,
    ).save_pretrained(str(out))  # fmt: skip
    tensors = {}
    for name, part in parts.items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{place}.lora_A.weight"] = part.down.contiguous().to(torch.float32)
        tensors[f"{place}.lora_B.weight"] = part.up.contiguous().to(torch.float32)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    for name in SMALL_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def check_adapter(out: Path, folders: Mapping[str, Path]) -> dict[str, float]:
    """How far the next words of base and adapter are from the expert's: the mean divergence over questions, in nats."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders["base"])
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        for text in QUESTIONS
    ]

    def words(model: Any) -> list[Any]:
        with torch.inference_mode():
            return [model(**prompt).logits[0].float().log_softmax(-1) for prompt in prompts]

    base = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.float32)
    of_base = words(base)
    of_adapter = words(PeftModel.from_pretrained(base, str(out)))
    of_expert = words(AutoModelForCausalLM.from_pretrained(folders["expert"], dtype=torch.float32))

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
    if table["not_covered"]:
        lines += ["", "Not covered, and so left as the base has them:", "", "| weight | length of its change |"]
        lines += ["| --- | ---: |", *(f"| {row['weight']} | {row['length']} |" for row in table["not_covered"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main, Config)
