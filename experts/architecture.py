"""The embedded base model's tokenizer and architecture: Phi-3, only small."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPECIAL = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = Path(__file__).parent / "nano" / "chat_template.jinja"


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer (no text is unknown) with Phi-3's chat tokens and template.

    The end-of-text token closes documents and pads; `<|end|>` closes a chat turn and is the tokenizer's eos, so that
    TRL's and transformers' defaults train and stop on the end of a turn. Digits are single tokens: doses and codes
    are read digit by digit.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL if token not in {"<|end|>", "<|endoftext|>"}],
        chat_template=TEMPLATE.read_text(),
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )


def build_model(
    tokenizer: Any, hidden: int, layers: int, heads: int, feed_forward: int, context: int, seed: int
) -> Any:
    """A randomly initialised Phi-3 model in float32 for this tokenizer; input and output embeddings are one."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(seed)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = Phi3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        original_max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=pad,
        eos_token_id=end,
        pad_token_id=pad,
        sliding_window=None,
    )
    model = Phi3ForCausalLM(config)
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    return model


def untie(model: Any) -> None:
    """Give the output its own copy of the embeddings, as Phi-3 has; what the model computes stays the same.

    One matrix learns faster from few tokens, so training begins with it. Merging needs two: mergekit's Phi-3 has a
    head of its own.
    """
    import torch

    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.detach().clone())
