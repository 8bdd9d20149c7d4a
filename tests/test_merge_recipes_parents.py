"""Models that do not fit, are torn or have no room are refused in one line, and to look at them costs nothing much."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medsmith import licences as licences_of
from medsmith import run
from medsmith.errors import UserError
from medsmith.licences import read_licence
from merge_recipes import build, parents
from merge_recipes.licences import find_licences
from merge_recipes.parents import check_parents, check_room, first_broken_tensor, prepare
from merge_recipes.vocabulary import differences, reads_alike
from merge_recipes.weights import Entry, Weights, create

ROOT = Path(__file__).parents[1]
RECIPE = {
    "merge_method": "slerp",
    "base_model": "base",
    "models": [{"model": "base"}, {"model": "expert"}],
    "parameters": {"t": 0.5},
    "tokenizer": {"source": "base"},
}
Spoil = Callable[[Path], object]

TENSOR = "model.layers.1.mlp.down_proj.weight"


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_config(**changes: Any) -> Spoil:
    return lambda folder: edit(folder / "config.json", **changes)


def edit_weights(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def write_bytes(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def shard(folder: Path) -> None:
    """Two files and their index, as the hub has large models."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, half in halves.items() for name in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def lose_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def lose_from_shard(folder: Path) -> None:
    shard(folder)
    path = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def tear_index(folder: Path) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head')


def prune(folder: Path) -> None:
    """Leave out the last of two layers, in weights and configuration."""
    edit(folder / "config.json", num_hidden_layers=1)
    edit_weights(lambda tensors: [tensors.pop(name) for name in list(tensors) if ".layers.1." in name])(folder)


def add_tokens(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=448)

    def grow(tensors: dict[str, Any]) -> None:
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            tensors[name] = np.concatenate([tensors[name], tensors[name][:64]])

    edit_weights(grow)(folder)


def rename_token(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("<|system|>", "<|sistem|>"))


def split_otherwise(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"add_prefix_space":false', '"add_prefix_space":true', 1))
    text = json.loads(path.read_text())
    text["pre_tokenizer"]["pretokenizers"][-1]["add_prefix_space"] = True
    path.write_text(json.dumps(text))


def plant(value: float) -> Spoil:
    def change(tensors: dict[str, Any]) -> None:
        tensors[TENSOR][3, 5] = value

    return edit_weights(change)


def cut_columns(tensors: dict[str, Any]) -> None:
    tensors[TENSOR] = np.ascontiguousarray(tensors[TENSOR][:, :60])


BAD_INPUT: dict[str, tuple[Spoil, str]] = {
    "other architecture": (
        edit_config(model_type="llama", architectures=["LlamaForCausalLM"]),
        "'expert' cannot be merged with 'base': model_type is llama, not phi3; only models of one architecture",
    ),
    "other head": (
        edit_config(architectures=["Phi3ForSequenceClassification"]),
        "architectures is ['Phi3ForSequenceClassification'], not ['Phi3ForCausalLM']",
    ),
    "other attention heads": (
        edit_config(num_attention_heads=4, num_key_value_heads=4),
        "'expert' cannot be merged with 'base': num_attention_heads is 4, not 2",
    ),
    "other rotary base": (
        edit_config(rope_parameters={"rope_theta": 5e5, "rope_type": "default", "partial_rotary_factor": 1.0}),
        "rope_parameters is {'rope_theta': 500000.0",
    ),
    "a key left out, whose default is another": (edit_config(hidden_size=None), "hidden_size is 3072, not 32"),
    "pruned depth": (prune, "num_hidden_layers is 1, not 2; their depths differ; only a recipe with slices can"),
    "other vocabulary size": (add_tokens, "vocab_size is 448, not 384; their vocabularies differ"),
    "other vocabulary": (rename_token, "'expert' has another vocabulary than 'base': '<|sistem|>' is 1, not None"),
    "other splitting": (split_otherwise, "'expert' splits text otherwise than 'base'"),
    "other chat template": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}"),
        "'expert' has another chat template than 'base'",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "'expert' has no tokenizer (no tokenizer.json in ",
    ),
    "torn tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0", "added'),
        "tokenizer.json is not whole JSON; fetch or make the model again",
    ),
    "torn configuration": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "ph'),
        "config.json is not a whole configuration",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "models.expert: "),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "is not a model folder (needs config.json"),
    "cut data": (write_bytes(lambda whole: whole[:-50]), "is not a whole safetensors file (50 bytes are gone)"),
    "cut header": (write_bytes(lambda whole: whole[:100]), "is not a whole safetensors file (its header is cut off)"),
    "zero bytes": (write_bytes(lambda whole: b""), "is not a whole safetensors file (its header is cut off)"),
    "nothing but zeros": (write_bytes(lambda whole: bytes(len(whole))), "is not a safetensors file (its header cannot"),
    "garbage": (write_bytes(lambda whole: b"version https://git-lfs" * 9), "is not a whole safetensors file (its head"),
    "garbage header": (
        write_bytes(lambda whole: (16).to_bytes(8, "little") + b"not json at all!" + whole),
        "is not a safetensors file (its header cannot be read)",
    ),
    "missing shard": (
        lose_shard,
        "the file model-00002-of-00002.safetensors is missing; fetch or make the model again",
    ),
    "index that names a missing tensor": (
        lose_from_shard,
        "model.safetensors.index.json names 'lm_head.weight', which no file holds",
    ),
    "torn index": (tear_index, "model.safetensors.index.json is not a whole index of weights"),
    "missing tensor": (
        edit_weights(lambda tensors: tensors.pop(TENSOR)),
        f"'expert' has no tensor '{TENSOR}', 'base' has; save both with the same settings",
    ),
    "other shape": (edit_weights(cut_columns), f"'expert' has '{TENSOR}' of shape (32, 60), 'base' of (32, 64)"),
    "not a number": (plant(math.nan), f"'expert': the weights '{TENSOR}' are not all finite"),
    "minus infinity": (plant(-math.inf), f"'expert': the weights '{TENSOR}' are not all finite"),
    "an adapter and a model": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "holds an adapter and a model (model.safetensors); keep each in a folder of its own",
    ),
}
"""What a user may give as an expert, and how the one line that refuses it begins or goes on."""


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_refused_in_one_line(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    """Each mistake has one line that names the model or file, what was met and what to do; nothing is left in out."""
    spoil, message = BAD_INPUT[kind]
    expert = shutil.copytree(tiny_model, tmp_path / "expert")
    spoil(expert)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError) as caught:
        prepare(RECIPE, {"base": tiny_model, "expert": expert}, None, tmp_path / "out")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"expert": "expert"}, "the recipe names a model 'base'; set models.base=FOLDER"),
        ({"base": "nowhere", "expert": "expert"}, "nowhere is not a model folder (needs config.json and *.safetensors"),
        ({"base": "expert"}, "the recipe names a model 'expert'; set models.expert=FOLDER"),
    ],
)
def test_missing_models_are_named(tiny_model: Path, tmp_path: Path, models: dict[str, str], message: str) -> None:
    """A base that is not given, or whose folder is not there, is told by the name that the recipe has for it."""
    shutil.copytree(tiny_model, tmp_path / "expert")
    with pytest.raises(UserError) as caught:
        prepare(RECIPE, {name: tmp_path / folder for name, folder in models.items()}, None, tmp_path)
    assert message in str(caught.value)


def test_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    """A misspelt folder looks like a hub id; offline, the message says that neither gives it."""
    with pytest.raises(UserError) as caught:
        parents.locate({"expert": "out/embeded"})
    assert "models.expert: there is no folder 'out/embeded', and the hub does not give it (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depths_may_differ_where_slices_are_stacked(tiny_model: Path, tmp_path: Path) -> None:
    """What is refused of a merge of whole models is allowed of one that takes layers."""
    pruned = shutil.copytree(tiny_model, tmp_path / "pruned")
    prune(pruned)
    check_parents({"base": tiny_model, "expert": pruned}, "base", stacked=True)


def test_same_settings_in_other_words_are_no_difference(tiny_model: Path, tmp_path: Path) -> None:
    """Where one file leaves out a default or keeps an older version's words, what transformers reads of both counts."""
    expert = shutil.copytree(tiny_model, tmp_path / "expert")
    edit(
        expert / "config.json", rope_parameters=None, rope_theta=10000.0, rope_scaling=None, hidden_act=None,
        architectures=None, dtype="bfloat16", use_cache=False,
    )  # fmt: skip
    assert "rope_parameters" not in json.loads((expert / "config.json").read_text())
    check_parents({"base": tiny_model, "expert": expert}, "base")


def test_five_parents_are_checked_without_torch_in_a_blink(tiny_model: Path, tmp_path: Path) -> None:
    """Looking at five experts loads neither torch nor transformers and takes 0.01 s of CPU, here at most 0.3."""
    for number in range(5):
        expert = shutil.copytree(tiny_model, tmp_path / f"expert{number}")
        edit(expert / "tokenizer_config.json", is_local=True, padding_side="right", model_max_length=512)
        text = json.loads((expert / "tokenizer.json").read_text())
        (expert / "tokenizer.json").write_text(json.dumps(text | {"padding": {"pad_id": 0}}, indent=1))
    code = (
        "import sys, time; from pathlib import Path; from merge_recipes import parents\n"
        "base, top = map(Path, sys.argv[1:]); begin = time.process_time()\n"
        "folders = {'base': base, **{path.name: path for path in top.iterdir()}}\n"
        "parents.check_parents(folders, 'base'); parents.widest_type(folders.values())\n"
        "print(len(folders), time.process_time() - begin, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    count, seconds, *loaded = done.stdout.split()
    assert (count, loaded) == ("6", ["False", "False"]), done.stderr
    assert float(seconds) < 0.3


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_every_number_is_looked_at(tmp_path: Path, dtype: str) -> None:
    """One NaN or infinity of either sign, at either end of a chunk, is found; the largest finite numbers are not."""
    size = 2 * parents.CHUNK + 7
    one, largest, infinity, nan = {
        "F32": (0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000),
        "BF16": (0x3F80, 0x7F7F, 0x7F80, 0x7FC0),
        "F16": (0x3C00, 0x7BFF, 0x7C00, 0x7E00),
    }[dtype]
    kind: Any = np.uint32 if dtype == "F32" else np.uint16
    sign = 1 << (8 * np.dtype(kind).itemsize - 1)
    with create(tmp_path, [Entry("a", dtype, (3,)), Entry("w", dtype, (size,)), Entry("n", "I64", (2,))]) as views:
        views["n"][:] = -1
        bits = views["w"].view(kind)
        bits[:] = one
        bits[::2] = largest
        bits[1::3] = largest | sign
        assert first_broken_tensor(tmp_path) is None
        for place in (0, parents.CHUNK - 1, parents.CHUNK, size - 1):
            for broken in (infinity, nan, infinity | sign, nan | sign, largest + 1):
                kept, bits[place] = bits[place], broken
                assert first_broken_tensor(tmp_path) == "w"
                bits[place] = kept
    assert parents.weights_digest(tmp_path) == parents.weights_digest(shutil.copytree(tmp_path, tmp_path / "copy"))


def test_engine_that_looks_itself_can_leave_out_the_pass(tiny_model: Path, tmp_path: Path) -> None:
    """finite=False leaves the weights unread: a NaN passes, everything else is checked as before."""
    expert = shutil.copytree(tiny_model, tmp_path / "expert")
    plant(math.nan)(expert)
    models = {"base": tiny_model, "expert": expert}
    assert prepare(RECIPE, models, None, tmp_path, finite=False) == {"base": tiny_model, "expert": expert}
    with pytest.raises(UserError, match="not all finite"):
        prepare(RECIPE, models, None, tmp_path)


def test_numbers_are_checked_for_the_tensors_that_there_are(tiny_model: Path, tmp_path: Path) -> None:
    """A filter that leaves a tensor without a value is told by that tensor's name before anything is merged."""
    recipe = RECIPE | {"parameters": {"t": [{"filter": "mlp", "value": 0.5}]}}
    with pytest.raises(UserError, match="lm_head.weight: no value of 't' reaches this tensor"):
        prepare(recipe, {"base": tiny_model, "expert": tiny_model}, None, tmp_path)


def test_special_tokens_and_ends_that_differ_are_told(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They do not keep models from being merged; the log says whose the merge takes."""
    expert = shutil.copytree(tiny_model, tmp_path / "expert")
    edit(expert / "tokenizer_config.json", pad_token={"content": "<|end|>", "special": True}, bos_token="<|user|>")
    edit(expert / "generation_config.json", eos_token_id=4)
    said = [
        "bos_token '<|user|>', not None",
        "pad_token '<|end|>', not '<|endoftext|>'",
        "generation end at the tokens [4], not [0, 4]",
    ]
    assert reads_alike(expert, tiny_model) and differences(expert, tiny_model) == said
    with caplog.at_level(logging.INFO):
        check_parents({"base": tiny_model, "expert": expert}, "base")
    assert caplog.messages == [f"'expert' has {one}; the merge has those of 'base'" for one in said]
    # A role given to a token that was plain changes how texts are split: files alone do not settle that.
    edit(expert / "tokenizer_config.json", pad_token="metformin")
    assert not reads_alike(expert, tiny_model)


def card(folder: Path, metadata: str) -> Path:
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n# A model\nlicense: gpl\n")
    return folder


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("license: mit\ntags: [a]", "mit"),
        ("license: other\nlicense_name: llama3.1\nlicense_link: LICENSE", "llama3.1"),
        ("license: [apache-2.0, cc-by-4.0]", "apache-2.0, cc-by-4.0"),
        ("license: other", None),
        ("license: unknown", None),
        ("tags: [a]", None),
        ("license: [mit", None),
    ],
)
def test_a_cards_licence_is_read(tmp_path: Path, metadata: str, licence: str | None) -> None:
    """What the hub's metadata says, and nothing from the text below it."""
    assert read_licence(card(tmp_path, metadata)) == licence


def finished(out: Path, recipe: Path, models: dict[str, Path], licences: dict[str, str]) -> Path:
    """A run folder that names licences."""
    settings = build.Config(out=out, recipe=recipe, models=models)
    with run.start(settings, "merge_recipes.build") as this:
        this.facts["licences"] |= licences
        this.finish()
    return out


def test_licences_of_all_parents_are_collected(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From run.json with its ancestry, else from the card; the log has one line of the unknown, one of the limited."""
    (tmp_path / "r.yml").write_text("a: 1\n")
    recipe = tmp_path / "r.yml"
    base = card(shutil.copytree(tiny_model, tmp_path / "base"), "license: mit")
    trained = finished(tmp_path / "trained", recipe, {"base": base}, {"notes": "CC-BY-NC-4.0", "base": "mit"})
    tuned = finished(tmp_path / "tuned", recipe, {"base": trained}, {"web": ""})
    plain = shutil.copytree(tiny_model, tmp_path / "plain")
    shutil.copytree(base, tmp_path / "hub")
    (tmp_path / "hub" / "README.md").unlink()
    models: dict[str, str | Path] = {
        "base": base, "trained": trained, "tuned": tuned, "plain": plain, "far": "owner/name@v1",
    }  # fmt: skip
    folders = {name: tmp_path / ("hub" if name == "far" else name) for name in models}
    with caplog.at_level(logging.WARNING):
        found = find_licences(models, folders)
    assert found == {"base": "mit", "notes": "CC-BY-NC-4.0", "web": "", "owner/name": "unknown"}
    assert caplog.messages == [
        "licence not known: tuned, plain, far; find it before you publish this merge",
        "not for commercial use: trained (CC-BY-NC-4.0), tuned (CC-BY-NC-4.0); neither is this merge",
    ]


def test_plain_folder_with_a_card_is_licensed_and_one_without_is_not(tiny_model: Path, tmp_path: Path) -> None:
    """Publishing knows a plain parent's licence by its name in the facts; two of one name count as neither."""
    (tmp_path / "r.yml").write_text("a: 1\n")
    named = card(shutil.copytree(tiny_model, tmp_path / "a" / "model"), "license: mit")
    silent = shutil.copytree(tiny_model, tmp_path / "b" / "model")
    plant(0.5)(silent)
    for expert, unlicensed in ((named, []), (silent, ["model", "model"])):
        models: dict[str, Any] = {"base": named, "expert": expert}
        licences = find_licences(models, models)
        assert licences == ({} if unlicensed else {"model": "mit"})
        out = finished(tmp_path / expert.parent.name / "out", tmp_path / "r.yml", models, licences)
        assert licences_of.unlicensed_bases(run.require_finished(out)) == unlicensed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk can only be made by root, and where mount is allowed")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def settings(out: Path, tiny_model: Path) -> build.Config:
    recipe = ROOT / "merge_recipes" / "slerp.yml"
    return build.Config(out=out, recipe=recipe, models={"base": tiny_model, "expert": tiny_model})


def test_full_disk_in_the_middle_of_a_merge_is_one_line(tiny_model: Path, small_disk: Path) -> None:
    """Files are laid out before they are written, so that the disk that fills up is an error and no dead process."""
    with pytest.raises(UserError) as caught, run.start(settings(small_disk / "m", tiny_model), "merge_recipes.build"):
        with create(small_disk / "m", [Entry("w", "F32", (2**22,))]) as views:
            views["w"][:] = 1.0  # 16 MiB: there is room
        (small_disk / "m" / "more").mkdir()
        with create(small_disk / "m" / "more", [Entry("v", "F32", (2**22,))]):
            raise AssertionError("a second one does not fit")
    assert str(caught.value) == (
        f"the disk that holds {small_disk / 'm'} is full; free some space and run the same again to continue"
    )
    with pytest.raises(UserError, match="was started and not finished"):
        run.require_finished(small_disk / "m")


def test_disk_without_room_is_refused_before_merging(tiny_model: Path, small_disk: Path) -> None:
    """The merge of a small model wants 16 MiB to spare and says how many there are; with room it is made."""
    (small_disk / "filler").write_bytes(bytes(10 * 2**20))
    with pytest.raises(UserError, match=r"the merge needs 16\.\d MiB, 14\.0 MiB are free; make room"):
        build.main(settings(small_disk / "m", tiny_model))
    (small_disk / "filler").unlink()
    assert run.require_finished(build.main(settings(small_disk / "m", tiny_model)))
    shapes = Weights(tiny_model).shapes
    check_room(small_disk, shapes, "bfloat16", copies=60)
    with pytest.raises(UserError, match="needs 2[0-9].. MiB"):
        check_room(small_disk, shapes, "float32", copies=60)


def test_disk_that_cannot_be_written_is_one_line(tiny_model: Path, small_disk: Path) -> None:
    """A read-only place is told before anything is read."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match="Read-only file system; mend the permissions or choose another out="):
        build.main(settings(small_disk / "m", tiny_model))
