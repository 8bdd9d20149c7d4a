"""Turn a published model into a plain model folder: a GGUF file, a folder of transformers, or a hub id.

    python -m experts.import_model out=out/base model=SmolLM2-135M-Instruct.Q4_1.gguf
    python -m experts.import_model out=out/base model=HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f license=apache-2.0

Weights of a GGUF file are dequantised; what its quantisation lost does not come back. Its tokenizer is made whole: a
GGUF names the pre-tokenizer and does not hold it, and one that is not known here is refused, since a guess would cut
texts otherwise than the model has learned. The generation config stops at the end of a turn, of a text and of a
document. The chat template stays as it is. Licence and origin are written into run.json and onto a card: those that the
file names, and where it names none, those that `license` and `origin` say.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

import medsmith.config
from medsmith import run
from medsmith.command import run_command
from medsmith.config import ModelRef
from medsmith.errors import UserError
from medsmith.machine import install_hint
from medsmith.records import write_json


class Config(medsmith.config.Config):
    """Which model, and what is known of it."""

    libraries: ClassVar = ("torch", "transformers", "tokenizers", "gguf")

    model: ModelRef = Field(description="a .gguf file, a model folder, or a hub id with revision")
    license: str | None = Field(None, description="its licence, where the file or folder does not name one")
    origin: str | None = Field(None, description="where it is from, e.g. a page, or a package with its version")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="the type to save the weights in")


def main(config: Config) -> Path:
    """Write the model folder."""
    gguf = isinstance(config.model, Path) and config.model.suffix.lower() == ".gguf"
    if isinstance(config.model, Path) and not gguf and not (config.model / "config.json").is_file():
        raise UserError(f"model={config.model} is neither a .gguf file nor a model folder (no config.json)")
    with run.start(config, "experts.import_model") as this:
        from medsmith.models import load_model, load_tokenizer
        from medsmith.training import save_model

        if gguf:
            assert isinstance(config.model, Path)
            facts, model, tokenizer = _read_gguf(config.model, config.dtype)
        else:
            facts = _told_by_card(config.model)
            model, tokenizer = load_model(config.model, config.dtype, "cpu"), load_tokenizer(config.model)
        licence = _licence(config, facts.pop("license", None), this.facts["licences"])
        _check_vocabulary(model, tokenizer)
        save_model(model, tokenizer, this.folder, config.dtype)
        _drop_traces(this.folder / "tokenizer_config.json")
        this.facts["licences"] |= licence
        this.facts |= facts | {
            "origin": config.origin or facts.get("origin") or str(config.model),
            "parameters": model.num_parameters(),
            "tied_embeddings": bool(model.config.get_text_config().tie_word_embeddings),
        }
        stated = ", ".join(sorted({one.lower() for one in this.facts["licences"].values()}))
        card = f"---\nlicense: {stated}\n---\nImported from {this.facts['origin']} by experts.import_model.\n"
        (this.folder / "README.md").write_text(card, encoding="utf-8")
        return this.finish(tensors=len(model.state_dict()))


def _licence(config: Config, told: str | None, inherited: dict[str, str]) -> dict[str, str]:
    """The licence of the file, folder or hub id by its name; of a run folder its run.json has told it.

    Raises:
        UserError: nobody names one, or the file names another than the setting.
    """
    licence = told or config.license
    if not licence and not inherited:
        raise UserError(f"model={config.model} names no licence; find it, and give it as license=")
    if told and config.license and told.lower() != config.license.lower():
        raise UserError(f"model={config.model} says that its licence is {told}, not license={config.license}")
    source = config.model.name if isinstance(config.model, Path) else config.model.partition("@")[0]
    return {source: licence} if licence else {}


def pre_tokenizer(name: str) -> Any:
    """What `tokenizer.ggml.pre` names, for byte-level vocabularies; None where the reader itself knows it.

    Raises:
        UserError: neither the reader nor this function knows it.
    """
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    # The reader leaves GPT-2's where it does not know a name, and says nothing.
    if name == "gpt-2" or name in GGUF_PRE_TOKENIZER_SPLITS:
        return None
    if name in ("smollm", "starcoder", "refact"):  # each digit by itself, then as GPT-2
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    raise UserError(
        f"its pre-tokenizer '{name}' (tokenizer.ggml.pre) is not known, and a guess would cut texts otherwise than the "
        "model has learned; import the original model folder or hub id in place of the GGUF file"
    )


def _read_gguf(file: Path, dtype: str) -> tuple[dict[str, Any], Any, Any]:
    """What the file says of itself, its model with plain weights, and its tokenizer."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"model={file}: reading a GGUF file needs the package gguf; {install_hint('gguf')}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.integrations.gguf import read_gguf_metadata
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        told, _ = read_gguf_metadata(str(file))
        fixed = pre_tokenizer(told.get("tokenizer.ggml.pre", "default")) if _is_byte_level(told) else None
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        if fixed is not None:
            tokenizer.backend_tokenizer.pre_tokenizer = fixed
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=getattr(torch, dtype))
    except UserError as error:
        raise UserError(f"model={file}: {error}") from None
    except (OSError, ValueError, KeyError, NotImplementedError, struct.error) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"model={file} cannot be read ({reason}); import the original model folder instead") from error
    if not tokenizer.chat_template:
        raise UserError(f"model={file} has no chat template; use the file of an instruct model")
    settings = loaded.config
    # A model that was read from a GGUF cannot be saved; one that is built anew from its weights can.
    settings.__dict__.pop("quantization_config", None)
    settings._name_or_path = ""
    tokenizer.model_max_length = settings.get_text_config().max_position_embeddings
    model = type(loaded)(settings)
    model.load_state_dict(loaded.state_dict(), strict=True, assign=True)
    model.tie_weights()
    settings.architectures = [type(model).__name__]
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id)
    fields = {"name": "general.name", "license": "general.license", "origin": "general.source.url"}
    facts: dict[str, Any] = {key: told[field] for key, field in fields.items() if told.get(field)}
    facts["pre_tokenizer"] = told.get("tokenizer.ggml.pre")
    facts["quantisation"] = _types(file)
    return facts, model, tokenizer


def _is_byte_level(told: dict[str, Any]) -> bool:
    return bool(told.get("tokenizer.ggml.model") == "gpt2")


def _types(file: Path) -> dict[str, int]:
    """How many tensors are stored in each of GGUF's types."""
    from collections import Counter

    from gguf import GGUFReader

    return dict(Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors).most_common())


def _told_by_card(ref: str | Path) -> dict[str, Any]:
    """Of a folder, what its card names; a hub's card is not asked for."""
    from medsmith.licences import read_licence

    return {"license": read_licence(ref)} if isinstance(ref, Path) else {}


def _check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that has more tokens than the model has embeddings: an id would lie outside."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings; they do not fit")


def _drop_traces(file: Path) -> None:
    """Take out what the tokenizer was read from, which is nothing of the model's."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "gguf_file"):
        settings.pop(key, None)
    write_json(file, settings)


if __name__ == "__main__":
    run_command(main, Config)
