"""On a CPU, the output layer scores the tokens that have a label and no others.

    trainer = SFTTrainer(…)
    score_labelled(trainer)

TRL 1.16 scores every position on a CPU, prompts and padding too, in float32 and a second time in the backward pass; on
a GPU its kernel skips them. At 5.6M parameters (4 blocks of 256, one thread) a step took 311 ms of CPU as TRL has it,
226 to 248 here with every token labelled, and 204 to 212 with a quarter.
"""

from __future__ import annotations

import functools
import types
from typing import Any

MOST_LOGITS = 2**26
"""Logits held at once (float32: 256 MiB); where there would be more, TRL's tiles are the better way."""


def score_labelled(trainer: Any) -> bool:
    """Change how the model of an SFTTrainer computes its loss, its value being the same; whether it was changed.

    Not on a GPU, and not for models whose output layer does more than multiply (soft caps, scales, routers).
    """
    from trl.trainer.utils import FusedCausalLMOutput

    model = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
    settings = model.config.get_text_config()
    more = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_router_logits")
    if model.device.type != "cpu" or any(getattr(settings, name, None) for name in more):
        return False
    of_trl = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **rest: Any) -> Any:
        asked = fused_lm_head and labels is not None and rest.get("shift_labels") is None
        mask = labels[:, 1:] != -100 if asked else None
        if mask is None or int(mask.sum()) * settings.vocab_size > MOST_LOGITS:
            return of_trl(*args, fused_lm_head=fused_lm_head, labels=labels, **rest)
        rest.pop("shift_labels", None)
        count = rest.pop("num_items_in_batch", None)
        hidden = self.base_model(*args, **(rest | {"use_cache": False})).last_hidden_state[:, :-1]
        logits = self.get_output_embeddings()(hidden[mask]).float()
        aim = labels[:, 1:][mask]
        all_probs = logits.log_softmax(-1)
        log_probs = all_probs.gather(1, aim[:, None])[:, 0]
        seen = all_probs.detach()
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / (mask.sum().clamp(min=1) if count is None else count),
            log_probs=log_probs,
            entropy=-(seen.exp() * seen).sum(-1),
            is_top1=seen.argmax(-1) == aim,
            label_mask=mask,
        )

    model.forward = types.MethodType(forward, model)
    return True
