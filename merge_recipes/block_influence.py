"""Block influence: how much a layer changes what goes through it (Men et al. 2024, ShortGPT, arXiv 2403.03853).

One less the mean cosine, over all tokens of some texts, between what goes into a layer and what comes out. A layer that
passes everything on has 0. It looks at one layer at a time: that two layers can each go does not say that both can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medsmith.errors import UserError


def block_influence(model: Any, tokenizer: Any, texts: Sequence[str], window: int) -> list[float]:
    """The influence of each layer, on texts read in pieces of at most `window` tokens.

    Raises:
        UserError: the model's layers are not found, or the texts hold no token.
    """
    import torch

    from medsmith.borders import begin_of_document

    layers = layers_of(model)
    totals, tokens = [0.0] * len(layers), 0

    def watch(number: int) -> Any:
        def look(module: Any, given: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
            before = given[0] if given else named["hidden_states"]
            after = made[0] if isinstance(made, tuple) else made
            # Without the token that only opens the piece: it is none of the text's, and may be embedded as zero.
            cosine = torch.nn.functional.cosine_similarity(before[:, 1:].double(), after[:, 1:].double(), dim=-1)
            totals[number] += float(cosine.sum())

        return look

    begin = begin_of_document(tokenizer)
    hooks = [layer.register_forward_hook(watch(number), with_kwargs=True) for number, layer in enumerate(layers)]
    try:
        with torch.inference_mode():
            for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
                for start in range(0, len(ids), window - 1):
                    piece = torch.tensor([[begin, *ids[start : start + window - 1]]], device=model.device)
                    model(input_ids=piece, use_cache=False, logits_to_keep=1)
                    tokens += piece.shape[1] - 1
    finally:
        for hook in hooks:
            hook.remove()
    if not tokens:
        raise UserError("the calibration texts hold no token; give texts of the kind that the model is for")
    # Rounding can leave a cosine a hair above one.
    return [max(0.0, 1 - total / tokens) for total in totals]


def layers_of(model: Any) -> Any:
    """The decoder's layers, in order."""
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None or len(layers) != model.config.get_text_config().num_hidden_layers:
        raise UserError(f"the layers of a {model.config.model_type} are not found; give keep=[…] instead of drop=")
    return layers
