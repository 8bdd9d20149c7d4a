"""Scores of texts that need a model or a dictionary of their own: BERTScore, UMLS concepts, dictionary concepts.

They are added to the samples once all answers are there. What cannot be computed here is `not run`, with the reason,
and is never 0: a composite is then the mean of what was computed, and is called so.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from eval.concepts import Extractor, concept_f1, load_dictionary
from medsmith.config import Block
from medsmith.digests import file_digest
from medsmith.errors import UserError
from medsmith.records import content_id

if TYPE_CHECKING:
    from eval.asking import Task

LONGEST_TEXT = 512  # tokens that BERTScore reads of a text; the models it is used with know no more places

# What the published protocol links with; both are fetched by hand, under the licence of UMLS.
SCISPACY_MODEL = "en_core_sci_sm"


class LearnedSettings(Block):
    """What scorers of texts need from the user; without it their metrics are not run."""

    bertscore_model: Path | None = Field(None, description="folder of the encoder for BERTScore; none: not run")
    bertscore_layers: int | None = Field(None, ge=1, description="the layer of it that is compared")
    umls: bool = Field(False, description="link UMLS concepts with scispacy, where it is installed with its linker")
    dictionary: Path | None = Field(None, description="names of concepts (.tsv or .xml); none: the ICD-10-CM table")


class Pair(NamedTuple):
    """What was said, and what should have been."""

    said: str
    true: str


class Scores(NamedTuple):
    """A score 0..1 for each pair, None where the metric is not defined, and what made them: model, layer, digest."""

    values: list[float | None]
    made_by: str


class NotRun(NamedTuple):
    """Why a metric has no value."""

    reason: str


def learned_scores(
    names: Sequence[str], pairs: Sequence[Pair], settings: LearnedSettings
) -> dict[str, Scores | NotRun]:
    """The metrics of these names (others are passed over) for pairs of texts."""
    return {name: SCORERS[name](pairs, settings) for name in names if name in SCORERS}


def add_learned_scores(tasks: Sequence[Task], samples: Sequence[dict[str, Any]], settings: LearnedSettings) -> None:
    """Put the scores that each benchmark names (COMPONENTS, BESIDE) into its samples, and how they came into its notes.

    An unreadable answer has no text to score: it stays at 0, as on every metric.
    """
    for task in tasks:
        names = (*getattr(task.benchmark, "COMPONENTS", ()), *getattr(task.benchmark, "BESIDE", ()))
        items = {item.id: item for item in task.items}
        rows = [row for row in samples if row["benchmark"] == task.name and not row["unreadable"]]
        texts = getattr(task.benchmark, "texts", lambda answer, item: (answer, item.gold))
        pairs = [Pair(*texts(row["answer"], items[row["id"]])) for row in rows]
        for name, found in learned_scores(names, pairs, settings).items():
            if isinstance(found, NotRun):
                task.notes.setdefault("not_run", {})[name] = found.reason
                continue
            task.notes.setdefault("scored_by", {})[name] = found.made_by
            for row, value in zip(rows, found.values, strict=True):
                row["scores"] |= {} if value is None else {name: value}


def _bertscore(pairs: Sequence[Pair], settings: LearnedSettings) -> Scores | NotRun:
    model, layers = settings.bertscore_model, settings.bertscore_layers
    if model is None or layers is None:
        return NotRun("no encoder is given: set learned.bertscore_model and learned.bertscore_layers")
    if importlib.util.find_spec("bert_score") is None:
        return NotRun("the library is not installed: pip install bert-score")
    if not (model / "config.json").is_file():
        return NotRun(f"{model} is no folder of a model (it holds no config.json)")
    scorer, made_by = _bert_scorer(model, layers)
    # The library does not take empty texts.
    full = [index for index, pair in enumerate(pairs) if pair.said.strip() and pair.true.strip()]
    values: list[float | None] = [0.0] * len(pairs)
    if full:
        found = scorer.score([pairs[index].said for index in full], [pairs[index].true for index in full])[2]
        for index, value in zip(full, found.tolist(), strict=True):
            values[index] = round(min(1.0, max(0.0, value)), 6)
    return Scores(values, made_by)


@functools.lru_cache(maxsize=1)
def _bert_scorer(model: Path, layers: int) -> tuple[Any, str]:
    from bert_score import BERTScorer
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    if layers > config.num_hidden_layers:
        raise UserError(
            f"learned.bertscore_layers is {layers}, {model} has {config.num_hidden_layers}; name one of those"
        )
    scorer = BERTScorer(model_type=str(model), num_layers=layers, use_fast_tokenizer=True)
    # Two places of RoBERTa's are no token's; a tokenizer without a limit would let longer texts fail.
    places = getattr(config, "max_position_embeddings", LONGEST_TEXT) - 2
    scorer._tokenizer.model_max_length = min(LONGEST_TEXT, places, scorer._tokenizer.model_max_length)
    files = sorted(path for pattern in ("*.safetensors", "*.bin", "*.json", "*.txt") for path in model.glob(pattern))
    digest = content_id({path.name: file_digest(path) for path in files})
    longest = scorer._tokenizer.model_max_length
    made_by = (
        f"bert-score {version('bert-score')}, {model.name} L{layers}, sha256 {digest[:12]}, at most {longest} tokens, "
    )
    return scorer, made_by + "no idf, no rescaling"


def _umls(pairs: Sequence[Pair], settings: LearnedSettings) -> Scores | NotRun:
    if not settings.umls:
        return NotRun("UMLS is not asked for: set learned.umls=true where scispacy and its linker are installed")
    missing = [name for name in ("scispacy", SCISPACY_MODEL) if importlib.util.find_spec(name) is None]
    if missing:
        return NotRun(f"{missing[0]} is not installed; it and the UMLS linker need an environment of their own")
    find, made_by = _linker()
    return Scores([concept_f1(pair.said, pair.true, find) for pair in pairs], made_by)


@functools.cache
def _linker() -> tuple[Extractor, str]:
    """The names of the first concept of every mention, as scispacy's linker ranks them."""
    spacy = importlib.import_module("spacy")
    importlib.import_module("scispacy.linking")  # registers the pipe
    model = spacy.load(SCISPACY_MODEL)
    model.add_pipe("scispacy_linker", config={"resolve_abbreviations": False, "linker_name": "umls"})
    entities = model.get_pipe("scispacy_linker").kb.cui_to_entity

    def find(text: str) -> set[str]:
        ranked = (mention._.kb_ents for mention in model(text).ents)
        return {entities[concepts[0][0]].canonical_name for concepts in ranked if concepts}

    return find, f"scispacy {version('scispacy')}, {SCISPACY_MODEL} {model.meta['version']}, linker umls, top 1"


def _dictionary(pairs: Sequence[Pair], settings: LearnedSettings) -> Scores | NotRun:
    try:
        names = load_dictionary(settings.dictionary)
    except UserError as error:
        return NotRun(str(error))
    return Scores([concept_f1(pair.said, pair.true, names.find) for pair in pairs], names.source)


SCORERS: dict[str, Callable[[Sequence[Pair], LearnedSettings], Scores | NotRun]] = {
    "bertscore_f1": _bertscore,
    "concept_f1_umls": _umls,
    "concept_f1_dictionary": _dictionary,
}
