"""The streaming engine writes what mergekit writes, whatever the files, threads and types, and nothing half done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medsmith.errors import UserError
from merge_recipes import build, plan, stream
from merge_recipes.merge import merge
from merge_recipes.recipe import load_recipe, names_of
from merge_recipes.result import Engine
from merge_recipes.weights import Entry, Weights, create

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "merge_recipes"
EXPERTS = ("pubmed", "clinical", "medwiki", "guidelines", "medcode")
SHIPPED = [path for path in sorted(RECIPES.glob("*.yml")) if yaml.safe_load(path.read_text()).get("models")]


@pytest.fixture(scope="module")
def family(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in bfloat16 as base, and five neighbours of it in sharded files."""
    folder = tmp_path_factory.mktemp("family")
    source = Weights(tiny_model)
    folders = {}
    for number, name in enumerate(("base", *EXPERTS)):
        draw = np.random.default_rng(number)
        folders[name] = folder / name
        folders[name].mkdir()
        entries = [Entry(one, "BF16", tensor.shape) for one, tensor in source.items()]
        with create(folders[name], entries, shard_bytes=40_000 if number else 10**9) as views:
            for one, tensor in source.items():
                values = tensor.float32() + (draw.standard_normal(tensor.data.size) * 0.02 if number else 0)
                views[one][:] = torch.tensor(values).bfloat16().view(torch.uint16).numpy()
        stream.copy_small_files(tiny_model, folders[name], "BF16")
    assert len(list(folders["pubmed"].glob("*.safetensors"))) > 2
    folders["expert"] = folders["clinical"]
    return folders


def written(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump({"base_model": "base", "tokenizer": {"source": "base"}, **content}))
    return path


def load(folder: Path) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(tensor.float32()) for name, tensor in Weights(folder).items()}


def both(recipe: dict[str, Any], family: dict[str, Path], target: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same recipe by both engines."""
    folders = {name: family[name] for name in names_of(recipe)}
    for engine in ("ours", "theirs"):
        (target / engine).mkdir(parents=True)
    stream.Merger(folders, "base", threads=1).write(recipe, target / "ours", 0)
    merge(recipe, folders, target / "theirs", None, 0)
    return load(target / "ours"), load(target / "theirs")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_give_the_same_with_both_engines(path: Path, family: dict[str, Path], tmp_path: Path) -> None:
    """Where the engine takes a recipe it agrees with mergekit within a rounding; where not, it says whose it is."""
    recipe = load_recipe(path) | {"dtype": "float32", "out_dtype": "bfloat16"}
    merger = stream.Merger({name: family[name] for name in names_of(recipe)}, "base")
    reason = merger.refuses(recipe)
    if reason:
        assert recipe["merge_method"] in {"sce", "karcher", "della", "della_linear"}
        assert reason == f"{recipe['merge_method']} is mergekit's alone"
        return
    if recipe["merge_method"].startswith("dare"):
        pytest.skip("the two draw different numbers; see test_merge_recipes_arithmetic.TestDare")
    ours, theirs = both(recipe, family, tmp_path)
    assert ours.keys() == theirs.keys()
    apart = sum(int(((ours[name] - theirs[name]).abs() > theirs[name].abs() * 2.0**-7 + 2e-7).sum()) for name in ours)
    total = sum(values.numel() for values in ours.values())
    # Changes of bfloat16 neighbours have few values: of those that stand at a cut, either may be kept.
    assert apart <= (total // 100 if recipe["merge_method"] in {"ties", "breadcrumbs", "breadcrumbs_ties"} else 0)


def test_gradients_and_filters_reach_the_same_tensors(family: dict[str, Path], tmp_path: Path) -> None:
    """A share that grows over the layers, one for a kind of module, one for the rest: as mergekit resolves them."""
    shares = [
        {"filter": "self_attn", "value": [0.1, 0.9]},
        {"filter": "mlp", "value": 0.3},
        {"value": [0.6, 0.2, 0.7]},
    ]
    recipe = load_recipe(
        written(
            tmp_path / "r.yml", merge_method="slerp", models=[{"model": "base"}, {"model": "expert"}],
            parameters={"t": shares}, dtype="float32", out_dtype="bfloat16",
        )
    )  # fmt: skip
    ours, theirs = both(recipe, family, tmp_path)
    for name in ours:
        assert ((ours[name] - theirs[name]).abs() <= theirs[name].abs() * 2.0**-7).all(), name


def test_threads_and_shards_change_no_byte(family: dict[str, Path], tmp_path: Path) -> None:
    """One thread or four: the same file; and a result in several files holds the same tensors."""
    recipe = load_recipe(RECIPES / "breadcrumbs_ties.yml")
    folders = {name: family[name] for name in names_of(recipe)}
    for threads in (1, 4):
        (tmp_path / str(threads)).mkdir()
        counts = stream.Merger(folders, "base", threads=threads).write(recipe, tmp_path / str(threads))
    assert counts["tensors"] == len(Weights(folders["base"]))
    assert counts["bytes"] == 4 * counts["parameters"]
    first, second = ((tmp_path / str(threads) / "model.safetensors").read_bytes() for threads in (1, 4))
    assert first == second


def test_files_are_what_other_readers_take(family: dict[str, Path], tmp_path: Path) -> None:
    """The safetensors library and transformers read one file or several, tensors, types and metadata."""
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    whole = Weights(family["base"])
    with safe_open(family["pubmed"] / "model-00001-of-00003.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    for name in ("base", "pubmed"):
        model = AutoModelForCausalLM.from_pretrained(family[name], dtype="auto")
        assert model.dtype == torch.bfloat16
        state = model.state_dict()
        for one, tensor in Weights(family[name]).items():
            assert torch.equal(state[one].float().view(-1), torch.tensor(tensor.float32()))
    assert whole.shapes == Weights(family["pubmed"]).shapes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", None])
def test_result_is_saved_in_the_wanted_type(family: dict[str, Path], tmp_path: Path, dtype: str | None) -> None:
    """`dtype` or `out_dtype` of the recipe, else what the parents are stored in; the configuration says the same."""
    recipe = {key: value for key, value in load_recipe(RECIPES / "linear.yml").items() if key != "dtype"}
    folders = {name: family[name] for name in names_of(recipe)}
    stream.Merger(folders, "base").write(recipe, tmp_path, 0, dtype)
    stored = {tensor.dtype for tensor in Weights(tmp_path).values()}
    assert stored == {{"float32": "F32", "bfloat16": "BF16", "float16": "F16", None: "BF16"}[dtype]}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == (dtype or "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("loaded", ["float32", "bfloat16"])
def test_merge_into_a_living_model_is_the_saved_one_loaded(
    family: dict[str, Path], tmp_path: Path, dtype: str, loaded: str
) -> None:
    """In place, twice with other numbers, a model becomes to the bit what saving and loading would have made it."""
    from medsmith.models import load_model

    recipe = load_recipe(RECIPES / "ties.yml")
    merger = stream.Merger({name: family[name] for name in names_of(recipe)}, "base", threads=1)
    model = load_model(family["base"], loaded, "cpu")
    for density in (0.5, 0.2):
        for entry in recipe["models"]:
            entry["parameters"]["density"] = density
        merger.into_model(recipe, model, 0, dtype)
        target = tmp_path / str(density)
        target.mkdir()
        merger.write(recipe, target, 0, dtype)
        again = load_model(target, loaded, "cpu").state_dict()
        assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_one_tensor_is_merged_in_memory(family: dict[str, Path], tmp_path: Path) -> None:
    """`tensor` gives in float32 what `write` rounds."""
    recipe = load_recipe(RECIPES / "breadcrumbs.yml")
    merger = stream.Merger({name: family[name] for name in names_of(recipe)}, "base")
    merger.write(recipe, tmp_path)
    name = "model.layers.1.mlp.down_proj.weight"
    assert np.array_equal(merger.tensor(recipe, name), Weights(tmp_path)[name].float32())


def test_buffers_of_whole_numbers_are_copied_where_all_agree(tmp_path: Path) -> None:
    """A buffer that holds no weights comes through unchanged, and is refused by name where models differ in it."""
    for name, value in (("base", 7), ("one", 7), ("other", 8)):
        (tmp_path / name).mkdir()
        with create(tmp_path / name, [Entry("w", "F32", (4,)), Entry("steps", "I64", (1,))]) as views:
            views["w"][:] = 1.0
            views["steps"][:] = value
        (tmp_path / name / "config.json").write_text("{}")
    for expert in ("one", "other"):
        recipe = {
            "merge_method": "task_arithmetic", "base_model": "base", "tokenizer": {"source": "base"},
            "models": [{"model": expert, "parameters": {"weight": 1.0}}],
        }  # fmt: skip
        merger = stream.Merger({name: tmp_path / name for name in ("base", expert)}, "base")
        (tmp_path / "out").mkdir(exist_ok=True)
        if expert == "one":
            merger.write(recipe, tmp_path / "out")
            assert Weights(tmp_path / "out")["steps"].data.tolist() == [7]
        else:
            with pytest.raises(UserError, match="'other' and 'base' differ in 'steps'"):
                merger.write(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"merge_method": "karcher"}, "karcher is mergekit's alone"),
        ({"slices": [{}], "models": None}, "slices and modules are mergekit's alone"),
        ({"chat_template": "auto"}, "a chat template of its own is written by mergekit"),
        ({"merge_method": "nuslerp", "parameters": {"nuslerp_row_wise": True}}, "nuslerp with nuslerp_row_wise: True"),
        ({"merge_method": "model_stock", "parameters": {"filter_wise": True}}, "model_stock with filter_wise: True"),
    ],
)
def test_what_is_not_proven_is_left_to_mergekit(family: dict[str, Path], changes: dict[str, Any], reason: str) -> None:
    """The engine names what it does not know, and knows the recipe without it."""
    recipe = load_recipe(RECIPES / "linear.yml")
    merger = stream.Merger({name: family[name] for name in names_of(recipe)}, "base")
    assert merger.refuses(recipe) is None
    assert str(merger.refuses(recipe | changes)).startswith(reason)


def test_engine_stream_refuses_what_only_mergekit_knows(family: dict[str, Path], tmp_path: Path) -> None:
    """Asked for by name it does not fall back; `auto` does, and run.json says which one it was and why."""
    models = {name: family[name] for name in ("base", *EXPERTS)}
    settings = build.Config(out=tmp_path / "a", recipe=RECIPES / "karcher.yml", models=models, engine="stream")
    with pytest.raises(UserError, match="engine=stream: karcher is mergekit's alone; use engine=auto"):
        build.main(settings)
    for engine, made, why in (("auto", "stream", "linear is proven"), ("mergekit", "mergekit", "asked for")):
        out = tmp_path / engine
        build.main(build.Config(out=out, recipe=RECIPES / "linear.yml", models=models, engine=engine))
        facts = json.loads((out / "run.json").read_text())["facts"]
        assert facts["engine"] == made and facts["engine_reason"].startswith(why)
        assert facts["verified"] == "loaded and spoken to"


def test_bad_number_is_found_while_merging_and_nothing_is_finished(family: dict[str, Path], tmp_path: Path) -> None:
    """One NaN in one expert: its name, the tensor's, and a folder that no next step takes."""
    shutil.copytree(family["medwiki"], tmp_path / "medwiki")
    tensor = Weights(tmp_path / "medwiki")["model.layers.1.mlp.down_proj.weight"]
    bits = np.memmap(tensor.file, np.uint16, "r+")
    bits[-100:] = 0x7FC0
    bits.flush()
    recipe = load_recipe(RECIPES / "linear.yml")
    folders = {name: family[name] for name in names_of(recipe)} | {"medwiki": tmp_path / "medwiki"}
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="'medwiki': the weights '.*' are not all finite"):
        stream.Merger(folders, "base", threads=2).write(recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_entry_point_merges_and_complains_in_one_line(family: dict[str, Path], tmp_path: Path) -> None:
    """`python -m merge_recipes.stream` loads no torch, prints its counts, and names a model that is not given."""
    models = [f"{name}={family[name]}" for name in ("base", *EXPERTS)]
    code = "import sys; from merge_recipes.stream import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, str(RECIPES / "linear.yml"), str(tmp_path / "out")]
    found = subprocess.run([*command, *models], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["tensors"] == len(Weights(family["base"]))
    found = subprocess.run([*command, *models[:-1]], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and found.stderr == "error: the recipe names a model 'medcode'; give medcode=FOLDER\n"


def test_full_disk_is_one_line(family: dict[str, Path], tmp_path: Path) -> None:
    """On a disk of 64 KiB the merge ends with the system's word for it, before a model's worth of work is done."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if os.geteuid() or mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        recipe = load_recipe(RECIPES / "linear.yml")
        folders = {name: family[name] for name in names_of(recipe)}
        with pytest.raises(OSError, match="No space left on device"):
            stream.Merger(folders, "base").write(recipe, disk)
        models = {name: family[name] for name in ("base", *EXPERTS)}
        with pytest.raises(UserError, match=r"the merge needs [\d.]+ MiB, [\d.]+ MiB are free"):
            build.main(build.Config(out=disk / "out", recipe=RECIPES / "linear.yml", models=models))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_plan_says_what_it_takes_and_makes_nothing(family: dict[str, Path], tmp_path: Path) -> None:
    """Engine, parameters, bytes read and written, as the files have them; no folder."""
    models = {name: family[name] for name in ("base", *EXPERTS)}
    settings = build.Config(out=tmp_path / "out", recipe=RECIPES / "ties.yml", models=models)
    said = dict(line.split(None, 1) for line in build.plan(settings).splitlines())
    parameters = sum(tensor.data.size for tensor in Weights(family["base"]).values())
    assert said["engine"] == "stream (ties is proven equal to mergekit's)"
    assert said["parameters"].startswith(f"{parameters:,} in {len(Weights(family['base']))} tensors")
    assert said["models"] == "6: base, " + ", ".join(EXPERTS)
    assert said["written"].startswith(f"{parameters * 4 / 1e9:,.2f} GB as float32")
    assert not (tmp_path / "out").exists()
    recipe = load_recipe(RECIPES / "karcher.yml")
    assert plan.describe(recipe, models, tmp_path, None, Engine()).startswith("engine          mergekit (karcher is")


def test_threads_that_begin_together_call_code_that_stays(family: dict[str, Path]) -> None:
    """Eight threads load the loops at the same moment, in a fresh process, forty times over: none of them falls."""
    code = (
        "import sys, threading\nfrom merge_recipes import native\nimport numpy as np\n"
        "def work(barrier, sums):\n"
        "    barrier.wait()\n"
        "    values = np.ones(5000, np.float32)\n"
        "    products = np.zeros(1)\n"
        "    at, kinds, flaws = np.array([values.ctypes.data]), np.zeros(1, np.int64), np.zeros(2, np.int64)\n"
        "    for _ in range(20): native.loops().gram(0, 0, 1, at, kinds, 5000, 1, products, flaws)\n"
        "    sums.append(products[0])\n"
        "for _ in range(40):\n"
        "    native._load.cache_clear()\n"
        "    barrier, sums = threading.Barrier(8), []\n"
        "    threads = [threading.Thread(target=work, args=(barrier, sums)) for _ in range(8)]\n"
        "    [thread.start() for thread in threads]\n"
        "    [thread.join() for thread in threads]\n"
        "    assert sums == [5000.0] * 8, sums\n"
        "print('whole')"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "whole\n"), found.stderr[-500:]
