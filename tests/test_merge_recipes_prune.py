"""Pruning leaves out the layers that it was told to, says what that cost, and keeps adapters from other layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsmith import run
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.layers import kept_layers, note_layers, require_same_layers
from medsmith.records import read_json, write_jsonl, write_parquet
from merge_recipes import build, cost, prune
from merge_recipes.passthrough import layers_of, recipe_for
from tests.toy_training import instruction

IDENTITY = (2, 4)
TEXTS = [
    "Patient admitted with chest pain and shortness of breath.",
    "Started on metformin 500 mg daily for diabetes.",
    "No pleural effusion. Left lower lobe pneumonia.",
    "The patient denies fever. Blood pressure 150/90.",
]


@pytest.fixture(scope="module")
def planted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers, of which 2 and 4 pass on what they are given: nothing is added to the residual stream."""
    import torch
    from transformers import AutoTokenizer

    from experts.architecture import build_model, untie

    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("planted") / "six")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = build_model(tokenizer, hidden=32, layers=6, heads=2, feed_forward=64, context=256, seed=0)
    untie(model)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            for weight in layer.parameters():
                weight.mul_(5.0 if weight.ndim > 1 else 1.0)  # so that a layer does something
            if number in IDENTITY:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    write_jsonl(path, ({"text": text} for text in TEXTS))
    return path


def settings(out: Path, model: Path, **changes: Any) -> prune.Config:
    return load(prune.Config, {"out": str(out), "model": str(model), "measure": None, "threads": 1, **changes})


@pytest.fixture(scope="module")
def pruned(planted: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted model without the two layers that influence least."""
    out = tmp_path_factory.mktemp("pruned") / "run"
    return prune.main(settings(out, planted, drop=2, calibration=str(texts), heldout=str(texts)))


def logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    with torch.no_grad():
        return model(torch.arange(5, 45).reshape(2, 20)).logits


# --- which layers ----------------------------------------------------------------------------------------------------


def test_layers_without_influence_go_and_nothing_else_changes(planted: Path, pruned: Path) -> None:
    """Influence ranks the planted identity layers first; without them, reloaded, the logits are the same, error 0."""
    report = read_json(pruned / "prune.json")
    assert report["dropped"] == list(IDENTITY) and report["kept"] == [0, 1, 3, 5]
    assert all(report["influence"][layer] == 0 for layer in IDENTITY)
    assert all(report["influence"][layer] > 0.01 for layer in report["kept"])
    assert float((logits(pruned) - logits(planted)).abs().max()) == 0.0


@pytest.mark.parametrize("dropped", [[2, 3], [1, 4], [0, 5]])
def test_wrong_layers_are_seen_in_the_logits(dropped: list[int], planted: Path, tmp_path: Path) -> None:
    """Leaving out any layer that does something moves the logits by more than 0.1."""
    kept = [layer for layer in range(6) if layer not in dropped]
    folder = prune.main(settings(tmp_path / "run", planted, keep=kept))
    assert float((logits(folder) - logits(planted)).abs().max()) > 0.1


def test_configuration_has_the_new_depth(pruned: Path) -> None:
    """A config that still said six would load two layers of random weights without a word."""
    config = json.loads((pruned / "config.json").read_text())
    assert config["num_hidden_layers"] == 4
    assert config["kept_layers"] == {"layers": [0, 1, 3, 5], "of": 6}


def test_what_is_trained_from_it_still_names_the_layers(pruned: Path, tmp_path: Path) -> None:
    """transformers carries the entry from the config that it reads to the one that it writes."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(pruned).save_pretrained(tmp_path / "child")
    assert kept_layers(tmp_path / "child") == {"layers": [0, 1, 3, 5], "of": 6}


def test_cached_and_uncached_answers_agree(pruned: Path) -> None:
    """The layers were numbered anew: their places in the cache are those that they are read from."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pruned)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]
    prompt = torch.arange(5, 17).reshape(1, 12)
    said = [
        model.generate(prompt, attention_mask=prompt.new_ones(prompt.shape), max_new_tokens=12, do_sample=False, **use)
        for use in ({"use_cache": True}, {"use_cache": False})
    ]
    assert said[0].equal(said[1])


def test_each_layer_keeps_its_kind_of_attention(tiny_model: Path, tmp_path: Path) -> None:
    """Of a model whose layers attend in two ways, each that stays attends as before; mergekit alone fails on it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = shutil.copytree(tiny_model, tmp_path / "qwen")
    sizes = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 0, "tie_word_embeddings": False}
    Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, **sliding, **tokens)).save_pretrained(folder)
    made = prune.main(settings(tmp_path / "run", folder, keep=[0, 3, 4]))
    config = json.loads((made / "config.json").read_text())
    assert config["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    assert logits(made).shape == (2, 20, 384)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (12, [0, 1, 2, 4, 6, 8, 10, 11]),
        (24, [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 23]),
    ],
)
def test_pattern_gives_the_published_lists(depth: int, expected: list[int]) -> None:
    """First three, every second, last two: what was kept of BART-large and of T5-large."""
    assert prune.Pattern().layers(depth) == expected


def test_recipe_is_plain_mergekit(pruned: Path, planted: Path, tmp_path: Path) -> None:
    """The recipe beside the model names ranges of layers, and merge_recipes.build makes the same model of it."""
    recipe = yaml.safe_load((pruned / "recipe.yml").read_text())
    ranges = [output["sources"][0]["layer_range"] for output in recipe["slices"]]
    assert recipe["merge_method"] == "passthrough" and ranges == [[0, 2], [3, 4], [5, 6]]
    assert layers_of(recipe) == [0, 1, 3, 5] and layers_of(recipe_for([7, 2])) == [7, 2]
    again = build.main(build.Config(out=tmp_path / "m", recipe=pruned / "recipe.yml", models={"base": planted}))
    assert (again / "model.safetensors").read_bytes() == (pruned / "model.safetensors").read_bytes()
    assert kept_layers(again) == kept_layers(pruned)


def test_pruned_twice_names_the_first_parents_layers(pruned: Path, tmp_path: Path) -> None:
    """Of layers 0, 1, 3, 5 the last three: 1, 3, 5 of six, not 1, 2, 3 of four."""
    twice = prune.main(settings(tmp_path / "run", pruned, keep=[1, 2, 3]))
    assert kept_layers(twice) == {"layers": [1, 3, 5], "of": 6}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": [0, 6]}, "the model has layers 0 to 5"),
        ({"keep": [1, 0]}, "must rise, each layer once"),
        ({"keep": [0, 1, 2, 3, 4, 5]}, "that is every layer"),
        ({"keep": {"first": 2, "each": 2}}, "unknown key 'keep.each'"),
        ({}, "give either keep"),
        ({"drop": 2}, "drop needs calibration"),
        ({"drop": 6, "calibration": "TEXTS"}, "the model has 6 layers; leave at least one"),
    ],
)
def test_choices_that_are_none_are_refused(
    changes: dict[str, Any], message: str, planted: Path, texts: Path, tmp_path: Path
) -> None:
    """The message names the value and what to give."""
    filled = {key: str(texts) if value == "TEXTS" else value for key, value in changes.items()}
    with pytest.raises(UserError, match=message):
        prune.main(settings(tmp_path / "run", planted, **filled))


def test_encoder_decoders_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    """A T5 whose first block went would lose its positions and still run."""
    folder = shutil.copytree(tiny_model, tmp_path / "t5")
    (folder / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true, "num_layers": 6}')
    with pytest.raises(UserError, match=r"encoder-decoder \(t5\)"):
        prune.main(settings(tmp_path / "run", folder, keep=[0, 1]))


# --- what was kept ---------------------------------------------------------------------------------------------------


def test_report_counts_parameters_and_quality(pruned: Path) -> None:
    """Parameters by hand; nothing was lost, so quality is 1 and its interval is a point."""
    report = read_json(pruned / "prune.json")
    layer = 32 * 96 + 32 * 32 + 32 * 128 + 64 * 32 + 2 * 32
    rest = 2 * 384 * 32 + 32
    assert report["parameters"] == {
        "before": 6 * layer + rest,
        "after": 4 * layer + rest,
        "share": round((4 * layer + rest) / (6 * layer + rest), 4),
    }
    trained = 4 * 16 * ((32 + 128) + (64 + 32))
    assert report["lora"]["parameters"] == trained
    assert report["lora"]["share_of_original"] == pytest.approx(trained / (6 * layer + rest), abs=1e-6)
    for name in ("calibration", "heldout"):
        found = report["quality"][name]
        assert found["texts"] == 4 and found["quality_kept"] == 1.0 and found["interval"] == [1.0, 1.0]
        assert found["perplexity_before"] == found["perplexity_after"] > 1
    page = (pruned / "prune.md").read_text()
    assert "# 4 of 6 layers" in page and "| 2 | 0.000000 | no |" in page
    assert run.require_finished(pruned)["facts"]["prune"]["kept"] == [0, 1, 3, 5]


def test_quality_is_the_ratio_of_perplexities() -> None:
    """Ten tokens a text and a tenth of a nat more on each: exp(-0.1) is kept; texts that differ give an interval."""
    before = [(20.0, 10), (30.0, 10), (40.0, 10)]
    even = prune.compare(before, [(loss + 1.0, tokens) for loss, tokens in before], seed=0)
    assert even["quality_kept"] == 0.9048 and even["interval"] == [0.9048, 0.9048]
    assert even["perplexity_before"] == pytest.approx(20.0855, abs=1e-4)
    uneven = prune.compare(before, [(20.0, 10), (30.0, 10), (43.0, 10)], seed=0)
    assert uneven["quality_kept"] == 0.9048
    assert uneven["interval"] == [pytest.approx(0.7408, abs=1e-4), 1.0]
    assert prune.compare(before[:1], before[:1], seed=0)["interval"] is None


@pytest.mark.parametrize(
    ("name", "whole", "trained", "of_original"),
    [("bart", 406_291_456, 2_621_440, 0.00645), ("t5", 737_668_096, 4_587_520, 0.00622)],
)
def test_published_percentages_are_counted(name: str, whole: int, trained: int, of_original: float) -> None:
    """Zhu et al.'s 0.6 %: LoRA of rank 16 on what is left of BART-large and T5-large, against the unpruned model."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    def build_on_meta(layers: int) -> Any:
        if name == "bart":
            shape = {"encoder_layers": layers, "decoder_layers": layers, "vocab_size": 50265}
            return BartForConditionalGeneration(BartConfig(**shape))
        sizes = {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_heads": 16, "vocab_size": 32128}
        return T5ForConditionalGeneration(T5Config(num_layers=layers, num_decoder_layers=layers, **sizes))

    depth = {"bart": 12, "t5": 24}[name]
    with torch.device("meta"):
        original, pruned = build_on_meta(depth), build_on_meta(len(prune.Pattern().layers(depth)))
    assert sum(weight.numel() for weight in original.parameters()) == whole
    found = cost.lora_parameters(pruned, cost.feed_forward_of(pruned), cost.RANK)
    assert found == trained and found / whole == pytest.approx(of_original, abs=5e-6)


def test_cost_is_measured_in_a_process_of_its_own(planted: Path, tmp_path: Path) -> None:
    """Step, answer and memory are numbers above nothing, and a folder that is no model is one line."""
    found = cost.measure_apart(planted, cost.Load(rows=1, tokens=16, steps=2, answer_tokens=4, threads=1))
    assert found["step_ms_least"] <= found["step_ms"] <= found["step_ms_most"]
    assert found["answer_tokens_per_second"] > 0 and found["trained_tokens_per_second"] > 0
    assert found["peak_memory_bytes"] > 50_000_000 and found["peak_memory_of"] == "process"
    table = prune.cost_table({"before": found, "after": found | {"step_ms": found["step_ms"] / 2}})
    assert f"| {found['step_ms']:,} | {found['step_ms'] / 2:,} | 0.50 |" in table


# --- what fits a pruned model ----------------------------------------------------------------------------------------


def test_models_of_other_depth_or_other_layers_are_not_merged(planted: Path, pruned: Path, tmp_path: Path) -> None:
    """Neither a pruned model with its parent, nor two of one depth that kept other layers."""
    recipe = Path(build.__file__).parent / "slerp.yml"
    other = prune.main(settings(tmp_path / "other", planted, keep=[0, 1, 2, 5]))
    for expert, message in ((planted, "their depths differ"), (other, "they were pruned to other layers")):
        with pytest.raises(UserError, match=message):
            build.main(build.Config(out=tmp_path / "m", recipe=recipe, models={"base": pruned, "expert": expert}))


@pytest.fixture(scope="module")
def adapter(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA on the pruned model's feed-forward matrices, after one large step; the model's folder is then forgotten."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(pruned)
    targets = cost.feed_forward_of(base)
    frozen = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    ids = torch.arange(5, 45).reshape(2, 20)
    before = base(ids).logits.detach()
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    assert torch.equal(model(ids).logits, before), "LoRA at step 0 changes nothing"
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trainable) == 4 * 4 * ((32 + 128) + (64 + 32)), "sum of r * (in + out)"
    optimiser = torch.optim.AdamW(trainable, lr=0.05)
    for _ in range(3):
        model(ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    now = dict(model.named_parameters())
    for name, weight in frozen.items():
        place = f"base_model.model.{name}"
        place = place if place in now else place.replace(".weight", ".base_layer.weight")
        assert torch.equal(now[place], weight), f"{name} is frozen"
    model.save_pretrained(folder)
    note_layers(base.config, folder)
    edited = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": None}
    (folder / "adapter_config.json").write_text(json.dumps(edited))
    after = model.eval()(ids).logits.detach()
    assert float((after - before).abs().max()) > 0.1
    merged = model.merge_and_unload()
    assert float((merged(ids).logits - after).abs().max()) < 1e-5
    return folder


def test_adapter_of_a_pruned_model_is_refused_on_the_whole_one(
    adapter: Path, planted: Path, pruned: Path, tmp_path: Path
) -> None:
    """Its layers 2 and 3 are the parent's 3 and 5, and every shape fits; on the model it was trained on it merges."""
    recipe = Path(build.__file__).parent / "slerp.yml"
    with pytest.raises(UserError, match="pruned to layers 0,1,3,5 of 6, and the base was not pruned"):
        build.main(build.Config(out=tmp_path / "a", recipe=recipe, models={"base": planted, "expert": adapter}))
    made = build.main(build.Config(out=tmp_path / "b", recipe=recipe, models={"base": pruned, "expert": adapter}))
    assert kept_layers(made) == kept_layers(pruned)
    require_same_layers("expert", adapter, pruned)


@pytest.fixture(scope="module")
def tuned(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA on the feed-forward matrices of a copy of the pruned model, by align.sft."""
    from align import sft

    folder = tmp_path_factory.mktemp("tuned")
    model = shutil.copytree(pruned, folder / "base")
    rows = [instruction(n, quality=3.0) for n in range(8)]
    write_parquet(folder / "rows" / "data" / "part-0.parquet", rows)
    values = {"out": folder / "run", "model": model, "data": folder / "rows", "heldout_share": 0, "threads": 1}
    trainer = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1.0e-2}
    return sft.main(load(sft.Config, {**values, "lora": {"r": 4, "targets": "ffn"}, "trainer": trainer}))


def test_lora_on_what_is_left_names_its_layers(tuned: Path, pruned: Path, planted: Path, tmp_path: Path) -> None:
    """By the command: feed-forward matrices alone, r * (in + out) of each; the folder says whose layers they are."""
    from safetensors.torch import load_file

    changed = load_file(tuned / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in changed} == {"gate_up_proj", "down_proj"}
    assert sum(weight.numel() for weight in changed.values()) == 4 * 4 * ((32 + 128) + (64 + 32))
    assert kept_layers(tuned) == kept_layers(pruned)
    recipe = Path(build.__file__).parent / "slerp.yml"
    with pytest.raises(UserError, match="pruned to layers 0,1,3,5 of 6, and the base was not pruned"):
        build.main(build.Config(out=tmp_path / "m", recipe=recipe, models={"base": planted, "expert": tuned}))


def test_adapter_whose_base_was_exchanged_is_not_loaded(tuned: Path, pruned: Path, planted: Path) -> None:
    """Where its base lay there is now the whole model: every shape fits, and the answers would be nonsense."""
    from medsmith.models import load_model

    base = tuned.parent / "base"
    assert len(load_model(tuned, device="cpu").model.layers) == 4
    for source, message in ((planted, "the base was not pruned"), (pruned, "")):
        shutil.rmtree(base)
        shutil.copytree(source, base)
        if message:
            with pytest.raises(UserError, match=message):
                load_model(tuned, device="cpu")
    load_model(tuned, device="cpu")
