"""From checked parents to a finished model: choose the engine, merge aside, look at the result, move it into place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from medsmith.errors import UserError
from medsmith.progress import Bar
from medsmith.records import write_json
from merge_recipes.arithmetic import METHODS
from merge_recipes.parents import FOLDED, first_broken_tensor, tensor_shapes, weights_digest
from merge_recipes.passthrough import note_kept
from merge_recipes.recipe import names_of, resolve, stacks_layers
from merge_recipes.stream import Merger

BUILDING = ".building"
"""Where a merge is written before it is moved into place; hidden, so that it never counts as a result."""

EngineName = Literal["auto", "stream", "mergekit"]


@dataclass(frozen=True)
class Engine:
    """How a merge is made. `auto`: stream where its method is proven equal to mergekit's, else mergekit."""

    name: EngineName = "auto"
    device: str = "cpu"
    threads: int | None = None
    verify: bool = True
    """Whether the finished model is loaded and made to speak; its files are looked at in any case."""


def looks_itself(recipe: Mapping[str, Any], engine: EngineName) -> bool:
    """Whether the engine will look at every weight of the parents while it merges."""
    return engine != "mergekit" and recipe["merge_method"] in METHODS and bool(recipe.get("models"))


def choose_engine(recipe: Mapping[str, Any], folders: Mapping[str, Path], engine: Engine) -> tuple[Merger | None, str]:
    """(the streaming engine or None for mergekit, why).

    Raises:
        UserError: `stream` is wanted and does not know this recipe.
    """
    if engine.name == "mergekit":
        return None, "asked for"
    merger = Merger(
        {name: folders[name] for name in names_of(recipe)}, recipe["base_model"], engine.device, engine.threads
    )
    reason = merger.refuses(recipe)
    if reason is None:
        return merger, f"{recipe['merge_method']} is proven equal to mergekit's"
    if engine.name == "stream":
        raise UserError(f"engine=stream: {reason}; use engine=auto or engine=mergekit")
    return None, reason


def build(
    recipe: Mapping[str, Any],
    folders: Mapping[str, Path],
    out: Path,
    dtype: str | None,
    seed: int,
    engine: Engine = Engine(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Merge, check, and only then move the result into `out`; return the facts for run.json.

    Beside the model: `recipe.yml` (what was merged, by names; the same bytes wherever it runs) and `log/mergekit.yml`
    (the file that mergekit's own command would take, with absolute folders).
    """
    building = out / BUILDING
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    base = folders[recipe["base_model"]]
    merger, reason = choose_engine(recipe, folders, engine)
    if merger:
        total = len(merger.weights[recipe["base_model"]])
        with Bar("merge", total=total, unit="tensors") as bar:
            merger.write(recipe, building, seed, dtype, lambda name: bar.advance())
    else:
        from merge_recipes.merge import merge

        merge(recipe, folders, building, dtype, seed)
    complete(base, building)
    note_kept(recipe, base, building)
    facts = check_result(
        building, tensor_shapes(base), stacks_layers(recipe), finite_known=merger is not None, load=engine.verify
    )
    written = {**recipe, **({"dtype": dtype} if dtype else {})}
    (building / "recipe.yml").write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    (out / "log").mkdir(exist_ok=True)
    (out / "log" / "mergekit.yml").write_text(yaml.safe_dump(resolve(recipe, folders, dtype), sort_keys=False))
    for path in sorted(building.iterdir()):
        path.replace(out / path.name)
    building.rmdir()
    parents = {name: {"weights": weights_digest(folders[name])} for name in names_of(recipe)}
    shutil.rmtree(out / FOLDED, ignore_errors=True)
    return {
        "merge_method": recipe["merge_method"],
        "engine": "stream" if merger else "mergekit",
        "engine_reason": reason,
        "base": recipe["base_model"],
        "parents": parents,
        "weights": weights_digest(out),
        **facts,
    }


def check_result(
    folder: Path,
    expected: Mapping[str, tuple[int, ...]],
    stacked: bool,
    finite_known: bool = False,
    load: bool = True,
) -> dict[str, Any]:
    """Check a merged model: every tensor, each finite, loads with plain transformers, speaks, knows where a turn ends.

    `finite_known`: the engine has looked at every number that it wrote. `load`: load it and have it say a few tokens.

    Raises:
        UserError: something is missing or broken; a merge with these parameters is no model.
    """
    shapes = tensor_shapes(folder)
    if not stacked and shapes != dict(expected):
        differ = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise UserError(f"the merge wrote '{differ[0]}' as {shapes.get(differ[0])}, not {expected.get(differ[0])}")
    broken = None if finite_known else first_broken_tensor(folder)
    if broken:
        raise UserError(f"the merged weights '{broken}' are not all finite; use smaller weights or dtype float32")
    if not load:
        return {"verified": "files"}
    return {"verified": "loaded and spoken to", **_load_and_speak(folder)}


def _load_and_speak(folder: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medsmith.borders import end_of_turn

    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    lacking = sorted(loading["missing_keys"]) or sorted(loading["unexpected_keys"])
    if lacking:
        raise UserError(f"the merged model does not load whole: {lacking[0]} is missing or not expected")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stops = model.generation_config.eos_token_id
    assert end_of_turn(tokenizer) in (stops if isinstance(stops, list) else [stops]), "the turn's end is known"
    chat = [{"role": "user", "content": "Is a temperature of 39 degrees a fever?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**prompt, max_new_tokens=8, do_sample=False, return_dict_in_generate=True, output_scores=True)
    if not all(torch.isfinite(scores).any() and not torch.isnan(scores).any() for scores in said.scores):
        raise UserError("the merged model answers with probabilities that are no numbers; use smaller weights")
    return {"parameters": model.num_parameters(), "dtype": str(model.dtype).removeprefix("torch.")}


def complete(base: Path, target: Path) -> None:
    """Give the merge the base's generation config and make sure that it ends at the end of a turn.

    Phi-3.5's chat ends in <|end|>, its tokenizer's own end is another token; a model that knows only that one never
    stops talking.
    """
    from transformers import AutoTokenizer

    from medsmith.borders import end_of_turn

    path = target / "generation_config.json"
    source = path if path.is_file() else base / "generation_config.json"
    settings: dict[str, Any] = json.loads(source.read_text()) if source.is_file() else {}
    stops = settings.get("eos_token_id")
    known = [] if stops is None else stops if isinstance(stops, list) else [stops]
    end = end_of_turn(AutoTokenizer.from_pretrained(target))
    if end not in known or source != path:
        write_json(path, settings | {"eos_token_id": list(dict.fromkeys([end, *known]))})
