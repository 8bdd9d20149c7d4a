"""A published model becomes a plain folder: the same weights, the same tokens, a licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experts import import_model
from medsmith import run
from medsmith.errors import UserError

gguf = pytest.importorskip("gguf")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = "Patient 123 takes 50 mg.\n\n1. It's E11.9"
HIDDEN, HEADS, LAYERS, FEED = 64, 2, 1, 64


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as SmolLM2 is made: Llama, tied embeddings, each digit a token, a chat template without marks."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # Learned without digits apart, so that merges of digits are there to be taken by mistake.
    core.train_from_iterator(
        [TEXT] * 4 + ["123 50 11 2024"] * 8,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=[AddedToken(token, special=True) for token in special],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=FEED,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    folder = tmp_path_factory.mktemp("original")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_gguf(folder: Path, target: Path, pre: str = "smollm", **changes: Any) -> Path:
    """The model of a folder as a GGUF file, its matrices in 8 bits, the rest in float32."""
    import numpy as np
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("toy")
    if changes.get("license", True):
        writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    state = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer.add_token_list(sorted(state["vocab"], key=state["vocab"].get))
    writer.add_token_types([3 if number < 3 else 1 for number in range(len(tokenizer))])
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp's order of the rotated halves
            rows, columns = values.shape
            values = values.reshape(HEADS, 2, rows // HEADS // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        stem, _, kind = name.rpartition(".")
        target_name = f"{names.get_name(stem)}.{kind}"
        if values.ndim == 2:
            eight = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target_name, gguf.quantize(np.ascontiguousarray(values), eight), raw_dtype=eight)
        else:
            writer.add_tensor(target_name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def imported(model: Path, out: Path, **changes: Any) -> Path:
    return import_model.main(import_model.Config(out=out, model=model, **changes))


@pytest.fixture(scope="module")
def from_gguf(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return imported(write_gguf(original, folder / "toy.Q8_0.gguf"), folder / "out")


def test_weights_are_those_of_the_original_to_the_rounding(original: Path, from_gguf: Path) -> None:
    """Every tensor within half a step of 8 bits (a 254th of the largest of 32 neighbours); embeddings stay tied."""
    from transformers import AutoModelForCausalLM

    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (original, from_gguf))
    theirs = before.state_dict()
    assert theirs.keys() == after.state_dict().keys()
    for name, tensor in after.state_dict().items():
        assert (tensor - theirs[name]).abs().max() <= theirs[name].abs().max() / 250, name
    assert after.get_input_embeddings().weight is after.get_output_embeddings().weight


def test_tokens_are_those_of_the_original(original: Path, from_gguf: Path) -> None:
    """Digits are single tokens, behind line breaks too, and the chat template renders the same."""
    from medsmith.models import load_tokenizer

    before, after = load_tokenizer(original), load_tokenizer(from_gguf)
    assert after(TEXT)["input_ids"] == before(TEXT)["input_ids"]
    assert "1" in after.tokenize(TEXT) and not any(len(token) > 1 and token.isdigit() for token in after.tokenize(TEXT))
    chat = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "Yes."}]
    rendered = [each.apply_chat_template(chat, tokenize=False) for each in (before, after)]
    assert rendered[0] == rendered[1]
    assert after.special_tokens_map == before.special_tokens_map
    assert after.model_max_length == 256


def test_without_the_pre_tokenizer_tokens_are_others(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what the reader makes of the file by itself cuts the same text otherwise."""
    from medsmith.models import load_tokenizer

    monkeypatch.setattr(import_model, "pre_tokenizer", lambda name: None)
    out = imported(write_gguf(original, tmp_path / "toy.gguf"), tmp_path / "out")
    assert load_tokenizer(out)(TEXT)["input_ids"] != load_tokenizer(original)(TEXT)["input_ids"]


def test_what_the_folder_says_of_itself(from_gguf: Path) -> None:
    """Licence, origin and types stand in run.json; generation stops at a turn's and a document's end."""
    facts = run.require_finished(from_gguf)["facts"]
    assert facts["licences"] == {"toy.Q8_0.gguf": "apache-2.0"}
    assert facts["origin"].endswith("toy.Q8_0.gguf") and facts["pre_tokenizer"] == "smollm"
    assert facts["quantisation"] == {"Q8_0": 8, "F32": 3} and facts["tied_embeddings"] is True
    generation = json.loads((from_gguf / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 0] and generation["pad_token_id"] == 2
    assert "local_files_only" not in (from_gguf / "tokenizer_config.json").read_text()


def test_a_pre_tokenizer_that_is_not_known_is_refused(original: Path, tmp_path: Path) -> None:
    """By its name, with what to do instead."""
    file = write_gguf(original, tmp_path / "toy.gguf", pre="hunyuan")
    with pytest.raises(UserError, match=r"toy.gguf: its pre-tokenizer 'hunyuan' .* import the original model folder"):
        imported(file, tmp_path / "out")


def test_a_model_without_a_licence_wants_one(original: Path, tmp_path: Path) -> None:
    """Of a file that names none, and of a folder without a card; a licence that contradicts the file is refused."""
    silent = write_gguf(original, tmp_path / "silent.gguf", license=False)
    for model in (silent, original):
        with pytest.raises(UserError, match="names no licence; find it, and give it as license="):
            imported(model, tmp_path / "none")
        out = imported(model, tmp_path / f"of-{model.stem}", license="MIT", origin="a page")
        facts = run.require_finished(out)["facts"]
        assert facts["licences"] == {model.name: "MIT"} and facts["origin"] == "a page"
    with pytest.raises(UserError, match="says that its licence is apache-2.0, not license=MIT"):
        imported(write_gguf(original, tmp_path / "toy.gguf"), tmp_path / "other", license="MIT")


def test_a_folder_is_imported_as_it_is(original: Path, tmp_path: Path) -> None:
    """A model folder keeps its weights bit for bit, or in bfloat16 where that is asked for."""
    from safetensors.torch import load_file

    out = imported(original, tmp_path / "out", license="MIT")
    before, after = (load_file(path / "model.safetensors") for path in (original, out))
    assert all((before[name] == after[name]).all() for name in before)
    half = imported(original, tmp_path / "half", license="MIT", dtype="bfloat16")
    assert str(next(iter(load_file(half / "model.safetensors").values())).dtype) == "torch.bfloat16"


def test_a_path_that_is_no_model_is_named(tmp_path: Path) -> None:
    """A folder without config.json, and a file that only calls itself GGUF."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is neither a .gguf file nor a model folder"):
        imported(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "torn.gguf").write_bytes(b"GGUF" + bytes(8))
    with pytest.raises(UserError, match=r"torn.gguf cannot be read \(.*\); import the original"):
        imported(tmp_path / "torn.gguf", tmp_path / "out", license="MIT")


def test_gguf_is_named_where_it_is_missing(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says how to install it."""
    file = write_gguf(original, tmp_path / "toy.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package gguf; install it: pip install"):
        imported(file, tmp_path / "out")
