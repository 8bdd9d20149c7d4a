"""Leave layers of a model out: by a list, by a pattern, or those that change least what goes through them.

    python -m merge_recipes.prune out=out/pruned model=… keep=[0,1,3,5] heldout=texts.jsonl
    python -m merge_recipes.prune out=out/pruned model=… keep='{first: 3, every: 2, last: 2}'
    python -m merge_recipes.prune out=out/pruned model=… drop=8 by=block_influence calibration=texts.jsonl

Writes a model folder, built by mergekit from `recipe.yml` (passthrough), and `prune.json` and `prune.md` with what was
kept: layers, parameters, quality. `log/cost.json` has time and memory before and after. config.json names the layers
that were kept, so that an adapter trained on this model is refused on another. What was pruned has another depth than
its parent: merge before pruning. To win quality back train it, or LoRA on it, with align.sft or experts.train.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import Block, ModelRef, execution
from medsmith.errors import UserError
from medsmith.records import content_id, write_json

LOG = logging.getLogger(__name__)

RESAMPLES = 2000


class Pattern(Block):
    """The first layers, every n-th, and the last; as Zhu et al. 2023 (arXiv 2305.08285) prune BART and T5."""

    first: int = Field(3, ge=0)
    every: int = Field(2, ge=1)
    last: int = Field(2, ge=0)

    def layers(self, depth: int) -> list[int]:
        """The layers of a model of this depth that are kept."""
        ends = {*range(min(self.first, depth)), *range(max(0, depth - self.last), depth)}
        return sorted(ends | set(range(0, depth, self.every)))


class Measure(Block):
    """The work by which time and memory are measured; see merge_recipes/cost.py."""

    rows: int = Field(2, ge=1, description="rows of a training batch")
    tokens: int = Field(256, ge=8, description="tokens of a row")
    steps: int = Field(5, ge=1, description="timed steps")
    answer_tokens: int = Field(32, ge=1, description="tokens to answer with")


class Config(config.Config):
    """A model and the layers that it is to keep."""

    libraries: ClassVar[tuple[str, ...]] = ("mergekit", "torch", "transformers")

    model: ModelRef = Field(description="the model to prune: a folder or a hub id")
    keep: list[int] | Pattern | None = Field(
        None, description="layers to keep, from 0: a list, or {first, every, last}"
    )
    drop: int | None = Field(None, ge=1, description="or how many layers to leave out")
    by: Literal["block_influence"] = Field("block_influence", description="which ones: those of least influence")
    calibration: Path | None = Field(None, description="JSON Lines with `text`, by which `drop` chooses")
    heldout: Path | None = Field(None, description="other texts, on which the loss of quality is measured")
    texts: int = Field(128, ge=1, description="use at most so many texts of each file, drawn by `seed`")
    max_tokens: int = Field(512, ge=8, description="read texts in pieces of so many tokens")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="save in this type; default: as is"
    )
    compute: Literal["float32", "bfloat16"] = Field("float32", description="the type to measure quality in")
    measure: Measure | None = execution(Measure(), "measure time and memory before and after; null: do not")
    device: str = execution("cpu", "where influence, quality and cost are measured: cpu or cuda")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")

    @model_validator(mode="after")
    def _one_choice(self) -> Config:
        if (self.keep is None) == (self.drop is None):
            raise ValueError("give either keep, the layers to keep, or drop, how many to leave out")
        if self.drop is not None and self.calibration is None:
            raise ValueError("drop needs calibration, a file of texts by which layers are chosen")
        if isinstance(self.keep, list) and sorted(set(self.keep)) != self.keep:
            raise ValueError(f"keep={self.keep} must rise, each layer once; layers stay in their order")
        return self


def main(settings: Config) -> Path:
    """Choose the layers, build the model, measure what it lost and saved."""
    from medsmith.models import load_model, load_tokenizer, set_threads
    from merge_recipes.licences import find_licences
    from merge_recipes.parents import prepare
    from merge_recipes.passthrough import recipe_for
    from merge_recipes.result import Engine, build

    with run.start(settings, "merge_recipes.prune") as this:
        set_threads(settings.threads)
        texts = {name: _read_texts(settings, path) for name, path in _files(settings).items()}
        depth = _depth(settings.model)
        model, tokenizer = load_model(settings.model, settings.compute, settings.device), load_tokenizer(settings.model)
        influence = _influence(settings, model, tokenizer, texts)
        kept = choose(settings, depth, influence)
        dropped = [layer for layer in range(depth) if layer not in kept]
        before = {name: _losses(model, tokenizer, some, settings) for name, some in texts.items()}
        parameters = {"before": _count(model)}
        del model
        recipe = recipe_for(kept, settings.dtype)
        folders = prepare(recipe, {"base": settings.model}, settings.dtype, settings.out)
        this.facts["licences"] |= find_licences({"base": settings.model}, folders)
        LOG.info("keeping %d of %d layers, without %s", len(kept), depth, ", ".join(map(str, dropped)))
        this.facts |= build(recipe, folders, settings.out, settings.dtype, settings.seed, Engine("mergekit"))
        pruned = load_model(settings.out, settings.compute, settings.device)
        parameters["after"] = _count(pruned)
        report = {
            "kept": kept,
            "dropped": dropped,
            "layers": {"before": depth, "after": len(kept)},
            "chosen": "by block influence" if settings.drop else "by hand",
            "parameters": parameters | {"share": round(parameters["after"] / parameters["before"], 4)},
            "lora": _lora(pruned, parameters),
            "influence": influence,
            "quality": {
                name: compare(losses, _losses(pruned, tokenizer, texts[name], settings), settings.seed)
                for name, losses in before.items()
            },
        }
        del pruned
        cost = _cost(settings, folders["base"])
        write_json(this.folder / "prune.json", report)
        (this.folder / "prune.md").write_text(to_markdown(report), encoding="utf-8")
        if cost:
            write_json(this.folder / "log" / "cost.json", cost)
            (this.folder / "log" / "cost.md").write_text(cost_table(cost), encoding="utf-8")
        this.facts["prune"] = report | {"cost": cost}
        return this.finish(layers=depth, kept=len(kept), dropped=len(dropped))


def choose(settings: Config, depth: int, influence: Sequence[float] | None) -> list[int]:
    """The layers to keep, rising.

    Raises:
        UserError: a layer that the model has not, or nothing would be left or left out.
    """
    if settings.drop is not None:
        assert influence is not None, "drop comes with calibration"
        if settings.drop >= depth:
            raise UserError(f"drop={settings.drop}: the model has {depth} layers; leave at least one")
        least = sorted(range(depth), key=lambda layer: (influence[layer], layer))[: settings.drop]
        return [layer for layer in range(depth) if layer not in least]
    kept = settings.keep.layers(depth) if isinstance(settings.keep, Pattern) else list(settings.keep or [])
    if not kept or kept[0] < 0 or kept[-1] >= depth:
        raise UserError(f"keep={kept}: the model has layers 0 to {depth - 1}; name at least one of them")
    if len(kept) == depth:
        raise UserError(f"keep={kept}: that is every layer of the model; leave one out")
    return kept


def compare(before: Sequence[tuple[float, int]], after: Sequence[tuple[float, int]], seed: int) -> dict[str, Any]:
    """Perplexity before and after on the same texts, (loss, tokens) each, and the quality kept.

    Quality kept is the ratio of perplexities, before to after: 1 where nothing was lost. Its 95 % interval is of a
    bootstrap over texts, both models' losses on a text drawn together; None for a single text.
    """
    first, second = np.array(before, dtype=float), np.array(after, dtype=float)
    tokens = first[:, 1]

    def ratio(drawn: Any) -> Any:
        change = (second[:, 0] - first[:, 0])[drawn].sum(-1) / tokens[drawn].sum(-1)
        return np.exp(-change)

    found: dict[str, Any] = {
        "texts": len(first),
        "tokens": int(tokens.sum()),
        "perplexity_before": round(float(np.exp(first[:, 0].sum() / tokens.sum())), 4),
        "perplexity_after": round(float(np.exp(second[:, 0].sum() / tokens.sum())), 4),
        "quality_kept": round(float(ratio(np.arange(len(first)))), 4),
        "interval": None,
    }
    if len(first) > 1:
        draws = np.random.default_rng(seed).integers(len(first), size=(RESAMPLES, len(first)))
        found["interval"] = [round(float(end), 4) for end in np.quantile(ratio(draws), (0.025, 0.975))]
    return found


def to_markdown(report: dict[str, Any]) -> str:
    """prune.md: what a reader wants to know first."""
    layers, parameters, lora = report["layers"], report["parameters"], report["lora"]
    lines = [
        f"# {layers['after']} of {layers['before']} layers",
        "",
        f"Kept {report['chosen']}: {_listed(report['kept'])}. Left out: {_listed(report['dropped'])}.",
        "",
        f"Parameters: {parameters['after']:,} of {parameters['before']:,} ({parameters['share']:.1%}).",
        f"LoRA of rank {lora['rank']} on the feed-forward matrices would train {lora['parameters']:,}: "
        f"{lora['share_of_original']:.3%} of the original, {lora['share_of_pruned']:.3%} of what is left.",
    ]
    if report["quality"]:
        lines += [
            "",
            "| texts | n | perplexity before | after | quality kept (95 % interval) |",
            "| --- | ---: | ---: | ---: | --- |",
        ]
    for name, found in report["quality"].items():
        ends = found["interval"]
        interval = f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
        note = ", by which layers were chosen" if name == "calibration" and report["influence"] else ""
        lines.append(
            f"| {name}{note} | {found['texts']} | {found['perplexity_before']} | {found['perplexity_after']} | "
            f"{found['quality_kept']:.3f}{interval} |"
        )
    if report["influence"]:
        lines += ["", "| layer | block influence | kept |", "| ---: | ---: | --- |"]
        kept = set(report["kept"])
        lines += [
            f"| {layer} | {value:.6f} | {'yes' if layer in kept else 'no'} |"
            for layer, value in enumerate(report["influence"])
        ]
    return "\n".join(lines) + "\n"


def _listed(layers: list[int]) -> str:
    return ", ".join(map(str, layers))


def cost_table(cost: dict[str, Any]) -> str:
    """log/cost.md: what was measured before and after; it differs from run to run."""
    before, after = cost["before"], cost["after"]
    names = {
        "step_ms": "a training step (LoRA), ms",
        "trained_tokens_per_second": "trained tokens a second",
        "answer_tokens_per_second": "answered tokens a second",
        "peak_memory_bytes": f"peak memory of the {before['peak_memory_of']}, bytes",
    }
    lines = ["| | before | after | after / before |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {text} | {before[name]:,} | {after[name]:,} | {after[name] / before[name]:.2f} |"
        for name, text in names.items()
    ]
    return "\n".join(lines) + "\n"


def _files(settings: Config) -> dict[str, Path]:
    named = {"calibration": settings.calibration, "heldout": settings.heldout}
    return {name: path for name, path in named.items() if path is not None}


def _read_texts(settings: Config, path: Path) -> list[str]:
    """So many texts of a file, the same ones whatever their order in it."""
    from merge_recipes.validation import read_texts

    drawn = sorted(read_texts([path]), key=lambda text: content_id(settings.seed, text))[: settings.texts]
    if not drawn:
        raise UserError(f"{path} holds no text; give JSON Lines with `text`")
    return drawn


def _depth(model: str | Path) -> int:
    from transformers import AutoConfig

    name, _, revision = str(model).partition("@") if isinstance(model, str) else (str(model), "", "")
    found = AutoConfig.from_pretrained(name, revision=revision or None)
    if found.is_encoder_decoder:
        raise UserError(
            f"{model} is an encoder-decoder ({found.model_type}); only causal language models are pruned here"
        )
    return int(found.get_text_config().num_hidden_layers)


def _influence(settings: Config, model: Any, tokenizer: Any, texts: dict[str, list[str]]) -> list[float] | None:
    from merge_recipes.block_influence import block_influence

    if settings.drop is None:
        return None
    return [round(value, 6) for value in block_influence(model, tokenizer, texts["calibration"], settings.max_tokens)]


def _losses(model: Any, tokenizer: Any, texts: list[str], settings: Config) -> list[tuple[float, int]]:
    from medsmith.likelihood import context_of, document_nll

    window = min(settings.max_tokens, context_of(model))
    return [(score.nll, score.tokens) for score in document_nll(model, tokenizer, texts, window)]


def _count(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _lora(pruned: Any, parameters: dict[str, int]) -> dict[str, Any]:
    """What LoRA on the feed-forward matrices would train, against both denominators."""
    from merge_recipes.cost import RANK, feed_forward_of, lora_parameters

    trained = lora_parameters(pruned, feed_forward_of(pruned), RANK)
    return {
        "rank": RANK,
        "parameters": trained,
        "share_of_original": round(trained / parameters["before"], 6),
        "share_of_pruned": round(trained / parameters["after"], 6),
    }


def _cost(settings: Config, base: Path) -> dict[str, Any] | None:
    from merge_recipes.cost import Load, measure_apart

    if settings.measure is None:
        return None
    load = Load(
        **settings.measure.model_dump(), threads=settings.threads, device=settings.device, dtype=settings.compute
    )
    return {"load": load.__dict__, "before": measure_apart(base, load), "after": measure_apart(settings.out, load)}


if __name__ == "__main__":
    run_command(main, Config)
