"""The ledger of training and inference: the published break-even again, and every number from where it belongs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.cost import Config, account, main
from eval.cost_ledger import Ledger, all_pairs, break_even
from eval.cost_models import count_parameters, count_tokens, find_trainings, read_notes
from eval.cost_tables import amount, verdict
from medsmith.config import load
from medsmith.digests import output_digests
from medsmith.errors import UserError
from medsmith.records import read_json, write_json, write_jsonl

NANO = Path(__file__).parent.parent / "experts" / "nano"
# Clinical-T5-Large: 780,000 steps of 49,152 tokens. T5-XL's pretraining is paid by others.
CLINICAL_TOKENS = 780_000 * 49_152
CLINICAL = Ledger("Clinical-T5-Large", 0.77e9, 38.34e9)


def general(ratio: float, trained: float = 0.0, parameters: float = 3.0e9) -> Ledger:
    return Ledger("T5-XL", parameters, trained, ratio)


def test_the_published_break_even_is_that_of_equal_tokenizers() -> None:
    """39.72 B tokens at w = 1, 34.20 B at w = 1.12, 42.58 B for 2.85 B parameters; training takes 1.771e20 FLOPs."""
    assert round(CLINICAL_TOKENS / 1e9, 2) == 38.34
    assert CLINICAL.training_flops == pytest.approx(1.771e20, rel=5e-4)
    for other, billions in (
        (general(1.0), 39.72),
        (general(1.12), 34.20),
        (general(1.0, parameters=2.85e9), 42.58),
        (general(1.12, parameters=2.85e9), 36.57),
    ):
        found = break_even(CLINICAL, other)
        assert (found.trained, found.other) == ("Clinical-T5-Large", "T5-XL")
        assert found.tokens is not None
        assert found.tokens / 1e9 == pytest.approx(billions, abs=0.01)
        assert break_even(other, CLINICAL) == found
        assert CLINICAL.total_flops(found.tokens) == pytest.approx(other.total_flops(found.tokens))


def test_fine_tuning_of_both_counts_in_their_own_tokens() -> None:
    """[6·Pc·(Tpt + Tft) − 6·w·Pg·Tft] / [2·(w·Pg − Pc)], with the general model's own w·Tft tokens."""
    w, finetune = 1.12, 2.0e9
    specialised = Ledger("clinical", 0.77e9, 38.34e9 + finetune)
    found = break_even(specialised, general(w, trained=w * finetune))
    by_hand = (6 * 0.77e9 * (38.34e9 + finetune) - 6 * w * 3.0e9 * finetune) / (2 * (w * 3.0e9 - 0.77e9))
    assert found.tokens == pytest.approx(by_hand)


def test_what_is_no_cheaper_to_run_never_breaks_even() -> None:
    """w·Pg ≤ Pc: no negative number but never; no dearer to train and cheaper to run: from the first token."""
    for ratio in (1.0, 0.5):
        found = break_even(Ledger("large", 3.0e9, 1e9), general(ratio, parameters=3.0e9))
        assert found.tokens is None
        assert verdict(found, None) == "large never breaks even with T5-XL: it is no cheaper to run"
    found = break_even(Ledger("small", 1e9, 0.0), Ledger("large", 2e9, 0.0))
    assert (found.trained, found.tokens) == ("small", 0.0)
    assert verdict(found, None) == "small is cheaper than large from the first token"
    assert len(list(all_pairs([CLINICAL, general(1.0), Ledger("third", 1e9, 1e9)]))) == 3


def write_weights(file: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A safetensors file's header; the weights behind it are never read."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    header |= {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(text).to_bytes(8, "little") + text)


def test_parameters_are_counted_in_the_headers(tmp_path: Path) -> None:
    """The shards of the index and nothing beside them; a buffer of positions is none; the base here as its run says."""
    folder = tmp_path / "model"
    write_weights(folder / "a.safetensors", {"w": ("BF16", [10, 3]), "positions": ("I64", [1, 512])})
    write_weights(folder / "b.safetensors", {"v": ("F32", [7]), "scale": ("F16", [])})
    write_weights(folder / "consolidated.safetensors", {"w": ("BF16", [10, 3])})
    index = {"weight_map": {"w": "a.safetensors", "positions": "a.safetensors", "v": "b.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)
    assert count_parameters(folder) == 30 + 7 + 1
    assert count_parameters(NANO) == read_json(NANO / "run.json")["counts"]["parameters"] == 2_950_848


def test_weights_that_say_nothing_of_the_size_are_refused(tmp_path: Path) -> None:
    """Quantised weights, an adapter, a torn file, none at all: one line each, with the remedy."""
    write_weights(tmp_path / "packed" / "model.safetensors", {"w": ("U8", [5])})
    write_weights(tmp_path / "adapter" / "adapter_model.safetensors", {"a": ("F32", [5])})
    write_json(tmp_path / "adapter" / "adapter_config.json", {})
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "none").mkdir()
    for name, said in (
        ("packed", "'w' is of type U8, quantised; give parameters="),
        ("adapter", "is an adapter, which runs on its base; give the merged model, or parameters="),
        ("torn", "is not a whole safetensors file; fetch or make the model again"),
        ("none", "holds no weights"),
    ):
        with pytest.raises(UserError, match=said):
            count_parameters(tmp_path / name)


def run_record(name: str, command: str, ancestry: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    record = {"command": command, "ancestry": ancestry, "facts": {}, "counts": {}, "config": {"out": f"out/{name}"}}
    return record | more


def test_tokens_of_training_are_read_from_the_ancestry() -> None:
    """Pretraining, both phases of an expert, alignment: each once; merges and corpora trained nothing."""
    ancestry = [
        {"name": "corpus", "command": "experts.corpora", "facts": {}, "counts": {"train": 5}},
        {"name": "base", "command": "experts.pretrain", "facts": {}, "counts": {"tokens": 1000}},
        {"name": "expert", "command": "experts.train", "facts": {"phases": [{"tokens": 20}, {"tokens": 30}]}},
        {"name": "merge", "command": "merge_recipes.build", "facts": {}, "counts": {}},
        {"name": "sft", "command": "align.sft", "facts": {"sft": {"tokens": 7}}, "counts": {}},
    ]
    record = run_record("dpo", "align.dpo", ancestry, facts={"dpo": {"tokens": 4}})
    assert [(one["name"], one["tokens"]) for one in find_trainings(record)] == [
        ("base", 1000),
        ("expert", 50),
        ("sft", 7),
        ("dpo", 4),
    ]
    assert find_trainings(None) == []


def test_what_run_json_tells_is_not_typed_again() -> None:
    """The base here was pretrained on 7,411,696 tokens; typing a number beside it is refused, fine-tuning may be."""
    given = {"out": "out", "models": {"nano": {"model": NANO, "finetune_tokens": 9.0}}}
    entry = account("nano", load(Config, given).models["nano"])
    assert (entry["pretrain_tokens"], entry["finetune_tokens"]) == (7_411_696, 9.0)
    given["models"] = {"nano": {"model": NANO, "pretrain_tokens": 5.0}}
    with pytest.raises(
        UserError, match=r"models\.nano\.pretrain_tokens: run\.json of .* tells 7,411,696; leave it out"
    ):
        account("nano", load(Config, given).models["nano"])


def write_tokenizer(folder: Path, pattern: str) -> Path:
    """Every match of a pattern is one token; saved while it cut to two."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    tokenizer.enable_truncation(2)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_the_token_ratio_is_measured_on_the_notes(tmp_path: Path) -> None:
    """Words against letters on two notes: 4 and 15 tokens, ratio 3.75; a saved cut of two tokens cuts nothing."""
    words, letters = write_tokenizer(tmp_path / "words", r"\w+"), write_tokenizer(tmp_path / "letters", r"\w")
    write_jsonl(tmp_path / "notes.jsonl", [{"text": "fever cough rash"}, {"text": " "}, {"text": "x"}, {"text": "y"}])
    notes = read_notes(tmp_path / "notes.jsonl", 2)
    assert notes == ["fever cough rash", "x"]
    assert (count_tokens(words, notes), count_tokens(letters, notes)) == ([3, 1], [14, 1])
    models = {
        "clinical": {"parameters": 1e9, "pretrain_tokens": 4e9, "tokenizer": words},
        "general": {"parameters": 1e9, "tokenizer": letters},
    }
    given = {"models": models, "notes": tmp_path / "notes.jsonl", "limit_notes": 2, "dollars_per_flop": 1e-15}
    out = main(load(Config, given | {"out": tmp_path / "out"}))
    found = read_json(out / "cost.json")
    other = found["models"]["general"]
    assert (other["token_ratio"], other["tokens_per_note"]) == (15 / 4, 7.5)
    assert 0.0 <= other["token_ratio_low"] < 15 / 4 < other["token_ratio_high"]
    assert other["tokens_per_byte"] == pytest.approx(15 / 17)
    assert found["models"]["clinical"]["token_ratio"] == 1.0
    # 24e18 FLOPs of training over 2·1e9·(3.75 − 1) saved a token.
    (pair,) = found["break_even"]
    assert pair["tokens"] == pytest.approx(24e18 / (2e9 * 2.75))
    assert pair["notes"] == pytest.approx(pair["tokens"] / 2)
    # A million notes are 2·P·tokens_per_note·1e6, the same as so many tokens one by one.
    assert other["flops"]["per_million_notes"] == pytest.approx(2 * 1e9 * 7.5 * 1e6)
    per_note = found["models"]["clinical"]["tokens_per_note"]
    assert other["flops"]["per_token"] * per_note * 1e6 == pytest.approx(other["flops"]["per_million_notes"])
    assert other["dollars"]["per_million_notes"] == pytest.approx(15.0)
    again = main(load(Config, given | {"out": tmp_path / "again"}))
    assert output_digests(again) == output_digests(out)
    with pytest.raises(
        UserError, match=r"models\.third: no tokenizer to measure .* set models\.third\.tokenizer=FOLDER"
    ):
        main(load(Config, given | {"out": tmp_path / "third", "models": models | {"third": {"parameters": 1e9}}}))


def test_the_page_says_what_was_not_measured(tmp_path: Path) -> None:
    """Without notes the ratio is 1 and said to be no measurement; units are natural; the break-even is in words."""
    models = {"clinical": {"parameters": 0.77e9, "pretrain_tokens": 38.34e9}, "general": {"parameters": 3.0e9}}
    out = main(load(Config, {"out": tmp_path / "out", "models": models, "tokens_per_note": 1500}))
    page = (out / "cost.md").read_text()
    assert "clinical breaks even with general after 39.72 B inference tokens, 26.48 M notes." in page
    assert "| clinical | 770.00 M | 38.34 B | 0 | 1.771e+20 | 1500.0 | 1 (not measured) | 2.310e+18 |" in page
    assert "natural logarithm" in page
    found = read_json(out / "cost.json")
    assert (found["token_ratio_measured"], len(found["totals"])) == (False, 13)
    assert found["totals"][0] == {
        "inference_tokens": 1e9,
        "clinical": pytest.approx(6 * 0.77e9 * 38.34e9 + 2 * 0.77e9 * 1e9),
        "general": pytest.approx(2 * 3.0e9 * 1e9),
    }
    assert (out / "cost.png").read_bytes()[:4] == b"\x89PNG"
    assert [amount(value) for value in (None, 0, 999, 1.5e3, 2e12)] == ["–", "0", "999", "1.50 k", "2.00 T"]


def test_one_model_alone_breaks_even_with_none(tmp_path: Path) -> None:
    """The section is not left empty."""
    out = main(load(Config, {"out": tmp_path / "out", "models": {"a": {"parameters": 1e9}}}))
    assert "## Break-even\n\nNone: one model alone; give a second one" in (out / "cost.md").read_text()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """A misspelt key, a model without a size, no range, an unknown reference, a length given and measured."""
    models = {"a": {"parameters": 1e9}}
    for given, said in (
        (
            {"models": {"a": {"paramters": 1e9}}},
            r"unknown key 'models\.a\.paramters'; did you mean 'models\.a\.parameters'",
        ),
        ({"models": {"a": {}}}, r"'models\.a': give model \(a folder\) or parameters"),
        ({"models": {}}, "'models': .* at least 1 item"),
        ({"models": models, "inference_tokens": [10, 1]}, r"10 to 1 is no range; give \[low, high\] above 0"),
        ({"models": models, "reference": "b"}, "no model is called 'b'; there are a"),
        (
            {"models": models, "notes": tmp_path, "tokens_per_note": 9},
            "tokens_per_note is measured on notes; leave one",
        ),
    ):
        with pytest.raises(UserError, match=said) as raised:
            load(Config, {"out": tmp_path / "out", **given})
        assert "\n" not in str(raised.value)
    write_jsonl(tmp_path / "empty.jsonl", [{"text": " "}])
    write_jsonl(tmp_path / "other.jsonl", [{"note": "a"}])
    for name, said in (("empty", "holds no text"), ("other", "row 1: no text in the column 'text'")):
        with pytest.raises(UserError, match=said):
            read_notes(tmp_path / f"{name}.jsonl", 5)
