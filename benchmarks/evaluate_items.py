"""The items and the model of benchmarks.evaluate: made here, the same for both sides.

200 questions with four options and 200 that are answered by writing. The texts are descriptions of the public ICD-10-CM
table in random order, labelled simulated: they are no benchmark, only as long as one. The model is a small Llama with
random weights whose tokenizer was trained on the same table, so that every id is real text; its chat template writes
the turns one after the other, so that both sides can be given the very same prompt.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from eval.benchmark import Item, load_benchmark
from medsmith.records import write_jsonl

ITEMS = 200
NEW_TOKENS = 64
HIDDEN, LAYERS, HEADS, VOCABULARY, CONTEXT = 256, 4, 4, 8192, 1024
ANSWER = "Answer:"
"""What opens the assistant's turn. The peer counts white space at a prompt's end as part of the option."""

TEMPLATE = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}" + ANSWER
TASKS = {"icd10cm": "choices", "rrs_qa": "texts"}
"""Which of our benchmark modules reads which of the peer's tasks."""

COMMON = """\
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
target_delimiter: ""
metadata: {{version: 1}}
"""
CHOICES = """\
output_type: multiple_choice
doc_to_choice: "{{options}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
TEXTS = f"""\
output_type: generate_until
doc_to_target: "{{{{gold}}}}"
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: {NEW_TOKENS}}}
process_results: !function scoring.score
metric_list:
  - {{metric: rouge1, aggregation: mean, higher_is_better: true}}
  - {{metric: rougeL, aggregation: mean, higher_is_better: true}}
"""
SCORING = '''\
"""ROUGE as ours: no stemmer, F1, 0..1."""

from rouge_score.rouge_scorer import RougeScorer

SCORER = RougeScorer(["rouge1", "rouge2", "rougeL"])


def score(doc, results):
    """The scores of one text."""
    found = SCORER.score(doc["gold"], results[0])
    return {name: found[name].fmeasure for name in ("rouge1", "rougeL")}
'''


def make(folder: Path) -> None:
    """Write model, items, suite and the peer's tasks into `folder`, where they are not there."""
    if (folder / "made").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    descriptions = _descriptions()
    write_items(folder / "data", descriptions, random.Random(0))
    _write_model(folder / "model", descriptions)
    for name, entry in {"both": dict.fromkeys(TASKS), **{task: {task: None} for task in TASKS}}.items():
        settings = {task: {"max_new_tokens": NEW_TOKENS} if task == "rrs_qa" else {} for task in entry}
        (folder / f"{name}.yml").write_text(json.dumps({"benchmarks": settings}))
    write_tasks(folder)
    (folder / "made").touch()


def _descriptions() -> list[str]:
    import simple_icd_10_cm as table

    return [table.get_description(code) for code in table.get_all_codes() if "." in code]


def write_items(folder: Path, descriptions: list[str], draw: random.Random) -> None:
    """Write 200 questions as icd10cm reads them, and 200 as rrs_qa does."""
    import polars

    folder.mkdir(parents=True)
    # One that begins with a letter is a token of its own behind the colon, for whoever splits prompt and option after.
    short = sorted({text for text in descriptions if 1 <= len(text.split()) <= 3 and text[0].isalpha()})
    questions = []
    for number in range(ITEMS):
        options = draw.sample(short, 4)
        note = "; ".join(draw.sample(descriptions, draw.randint(4, 24)))
        questions.append(
            {
                "question_id": number, "question": f"History: {note}. Which finding is new?", "level": "simulated",
                "answer_id": draw.choice("ABCD"), **{f"option{place}": text for place, text in enumerate(options, 1)},
            }
        )  # fmt: skip
    polars.DataFrame(questions).write_parquet(folder / "test.parquet")
    rows = [
        {
            "id": str(number), "findings": "; ".join(draw.sample(descriptions, draw.randint(4, 24))),
            "question": "What is the impression?", "answer": draw.choice(descriptions),
        }
        for number in range(ITEMS)
    ]  # fmt: skip
    write_jsonl(folder / "test.jsonl", rows)


def _write_model(folder: Path, descriptions: list[str]) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        descriptions,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    assert core.get_vocab_size() == VOCABULARY, "every id that the model may write is a token"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>", chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=CONTEXT,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=4 * HIDDEN, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT,
            bos_token_id=None, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_tasks(folder: Path) -> None:
    """The same items for the peer, from our own modules: its prompt is what our chat template makes of the turns."""
    place = folder / "tasks"
    place.mkdir()
    (place / "scoring.py").write_text(SCORING)
    for name, task in TASKS.items():
        items = load_benchmark(name).load(folder / "data", "test").items
        data = folder / "data" / f"{task}-peer.jsonl"
        write_jsonl(data, map(_as_the_peer_reads_it, items))
        body = CHOICES if task == "choices" else TEXTS
        (place / f"{task}.yaml").write_text(COMMON.format(task=task, data=data) + body)


def _as_the_peer_reads_it(item: Item) -> dict[str, Any]:
    prompt = "".join(f"{turn['content']}\n" for turn in item.messages) + ANSWER
    if not item.options:
        return {"id": item.id, "prompt": prompt, "gold": item.gold}
    return {"id": item.id, "prompt": prompt, "options": item.options, "gold": item.options.index(item.gold)}
