"""The embedded architecture loads with plain transformers and ends its turns."""

from pathlib import Path


def test_model_loads_with_transformers_and_template_marks_the_answer(tiny_model: Path) -> None:
    """Tokens trained by assistant_only_loss are exactly the answer and the end of its turn."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    AutoModelForCausalLM.from_pretrained(tiny_model)
    chat = [{"role": "user", "content": "No fever."}, {"role": "assistant", "content": "Pain 500 mg"}]
    encoded = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)

    trained = [t for t, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(trained) == "Pain 500 mg<|end|>"
    assert tokenizer.decode(encoded["input_ids"]) == "<|user|>\nNo fever.<|end|>\n<|assistant|>\nPain 500 mg<|end|>\n"
