"""Concepts found in texts by hand, and scores of texts that are not run, never 0, where their model is missing."""

from __future__ import annotations

import sys
import types
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval import text_scorers
from eval.asking import Task, sample_of
from eval.benchmark import Item, ask, load_benchmark, names
from eval.concepts import concept_f1, load_dictionary, names_of
from eval.metrics import find_metric
from eval.results import summarise
from eval.suite import BenchmarkSettings
from eval.text_scorers import SCORERS, LearnedSettings, NotRun, Pair, Scores, add_learned_scores, learned_scores
from medsmith.errors import UserError

LINES = "D1\tdiabetes mellitus\nD2\tType 2 diabetes mellitus\nD2\tadult-onset diabetes\nG\tgout\n\nK\tkidney stones\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.tsv"
    path.write_text(LINES)
    return path


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("Gout and type 2 DIABETES\nmellitus.", {"G", "D2"}),  # the longest name alone, across a line
        ("diabetes mellitus, type 2", {"D1"}),  # in another order it is the shorter name
        ("Adult-onset diabetes; gout, gout", {"D2", "G"}),  # two names of one concept; a set
        ("a kidney stone", {"K"}),
        ("gouty, agout", set()),  # whole words
        ("type 2 diabetes", set()),
        ("", set()),
    ],
)
def test_names_are_found_as_they_are_written(text: str, concepts: set[str], own: Path) -> None:
    """The longest match of whole words, without case and plural s."""
    assert load_dictionary(own).find(text) == concepts


def test_a_word_begins_where_no_longer_name_does(own: Path) -> None:
    """A name that only begins in the text does not swallow the one inside: type 2 diabetes … is no D2 here."""
    assert load_dictionary(own).find("type 2 gout") == {"G"}


def test_concept_f1_by_hand(own: Path) -> None:
    """One of two said, one of three true: 2/5; no score where the gold names nothing, 0 where only the answer does."""
    find = load_dictionary(own).find
    assert concept_f1("gout, kidney stone", "gout, diabetes mellitus, adult-onset diabetes", find) == pytest.approx(0.4)
    assert concept_f1("nothing", "gout", find) == 0.0
    assert concept_f1("gout", "nothing", find) is None


@pytest.mark.parametrize(
    ("description", "found"),
    [
        ("Hypertension (arterial) (benign) (essential)", ["hypertension"]),
        ("Essential (primary) hypertension", ["essential hypertension"]),
        ("Pneumonia, unspecified organism", ["pneumonia"]),
        ("Unspecified atrial fibrillation", ["atrial fibrillation"]),
        ("Acute respiratory distress syndrome [ARDS]", ["acute respiratory distress syndrome"]),
        ("Gout NOS", ["gout"]),
        ("Other specified diabetes mellitus", []),
        ("A name of more than eight words that no one writes out", []),
    ],
)
def test_names_of_the_table_lose_what_is_not_said(description: str, found: list[str]) -> None:
    """Modifiers in brackets, "unspecified" and NOS go; "other" is no name."""
    assert [" ".join(name.lower().split()) for name in names_of(description)] == found


def test_the_icd_10_cm_dictionary_finds_what_notes_name() -> None:
    """Synonyms are one concept, general names are the general code's, everyday words of external causes are none."""
    found = load_dictionary()
    assert 20_000 < len(found.names) < 60_000
    assert "sha256" in found.source
    assert found.find("High blood pressure") == found.find("hypertension") == {"I10"}
    note = "Patient with type 2 diabetes mellitus, atrial fibrillation and headaches. Stable; plan as before."
    assert found.find(note) == {"E11", "I48.91", "R51"}
    assert found.find("He fell in the kitchen and walked to the bus.") == set()


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.tsv", "D1 gout\n", "line 1: 'D1 gout' is not a concept id, a tab and a name"),
        ("a.tsv", "\n", "holds no name of a concept"),
        ("a.csv", "x", "cannot read '.csv'"),
        ("b.tsv", None, "does not exist"),
    ],
)
def test_a_dictionary_that_cannot_be_read_is_named(name: str, text: str | None, error: str, tmp_path: Path) -> None:
    """The file, the line, and what to write."""
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=error):
        load_dictionary(tmp_path / name)


def test_names_that_were_kept_are_those_of_the_file(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second reading comes from the cache, torn or not; a file that was changed is read anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = load_dictionary.__wrapped__(own)
    (kept,) = (tmp_path / "cache/medsmith").glob("concepts-*.json")
    assert load_dictionary.__wrapped__(own) == first
    kept.write_text('{"gout": "OTHER"}')
    assert load_dictionary.__wrapped__(own).names == {("gout",): "OTHER"}  # it is the cache that is read
    kept.write_text('{"gout')
    assert load_dictionary.__wrapped__(own) == first
    own.write_text("X\tgout\n")
    assert load_dictionary.__wrapped__(own).find("gout") == {"X"}


def task_of(name: str, golds: list[str]) -> Task:
    items = [Item(str(number), str(number), ask("", ""), gold) for number, gold in enumerate(golds)]
    return Task(name, load_benchmark(name), BenchmarkSettings(), Path(name), items, Counter(), 8, {"file": "x"})


def samples_of(task: Task, outputs: list[str]) -> list[dict[str, Any]]:
    return [
        sample_of(task.name, task.benchmark, item, "", output) | {"truncated": False}
        for item, output in zip(task.items, outputs, strict=True)
    ]


def test_what_was_not_computed_is_not_zero(own: Path) -> None:
    """Without models the composite is of ROUGE alone and says so; the reasons stand in the notes; dictionary beside."""
    task = task_of("problem_list", ["gout; kidney stones", "gout", "nothing of note"])
    samples = samples_of(task, ["gout", " ", "gout"])
    add_learned_scores([task], samples, LearnedSettings(dictionary=own))
    entry = summarise([task], samples, [], 0)["benchmarks"]["problem_list"]
    assert entry["metric"] == "mean(rouge1, rouge2, rougeL)"
    assert entry["not_run"] == ["bertscore_f1", "concept_f1_umls"]
    assert "bertscore_f1" not in entry["metrics"]
    assert "set learned.bertscore_model" in entry["notes"]["not_run"]["bertscore_f1"]
    assert "set learned.umls=true" in entry["notes"]["not_run"]["concept_f1_umls"]
    assert entry["notes"]["scored_by"]["concept_f1_dictionary"].startswith("own.tsv, 5 names, sha256 ")
    # 2/3 for one of two, 0 for the unreadable one; the third gold names no concept.
    assert (entry["metrics"]["concept_f1_dictionary"]["value"], entry["metrics"]["concept_f1_dictionary"]["n"]) == (
        pytest.approx(1 / 3),
        2,
    )
    assert "concept_f1_dictionary" not in entry["metric"]


def test_learned_scores_enter_the_composite_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all components there the headline is their mean, item by item, and nothing is not run."""
    monkeypatch.setitem(SCORERS, "bertscore_f1", lambda pairs, settings: Scores([0.5] * len(pairs), "planted"))
    monkeypatch.setitem(SCORERS, "concept_f1_umls", lambda pairs, settings: Scores([1.0] * len(pairs), "planted"))
    task = task_of("medisumqa", ["no acute fracture", "gout is here"])
    samples = samples_of(task, ["no acute fracture", "unlike"])
    add_learned_scores([task], samples, LearnedSettings())
    entry = summarise([task], samples, [], 0)["benchmarks"]["medisumqa"]
    assert entry["metric"] == "mean(rouge1, rouge2, rougeL, bertscore_f1, concept_f1_umls)"
    assert entry["not_run"] == []
    assert entry["value"] == pytest.approx(((3 + 0.5 + 1) / 5 + (0.5 + 1) / 5) / 2)


@pytest.mark.parametrize("name", names())
def test_scores_beside_are_defined(name: str) -> None:
    """What a benchmark reports beside its headline is a metric of its own, and never a part of the composite."""
    benchmark = load_benchmark(name)
    for metric in getattr(benchmark, "BESIDE", ()):
        assert metric in SCORERS and find_metric(metric).definition
        assert metric not in getattr(benchmark, "COMPONENTS", ())
    texts = [part for part in getattr(benchmark, "COMPONENTS", ()) if part.startswith(("bertscore", "concept"))]
    assert set(texts) <= SCORERS.keys()


def test_the_dictionary_is_reported_where_the_paper_uses_umls() -> None:
    """And for the two other benchmarks of long texts."""
    beside = {name for name in names() if "concept_f1_dictionary" in getattr(load_benchmark(name), "BESIDE", ())}
    assert {"meqsum", "problem_list", "aci_bench", "medisumqa"} <= beside


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "set learned.bertscore_model and learned.bertscore_layers"),
        ({"bertscore_model": Path("x")}, "set learned.bertscore_model and learned.bertscore_layers"),
        ({"bertscore_model": Path("x"), "bertscore_layers": 9}, "x is no folder of a model"),
    ],
)
def test_bertscore_without_a_model_is_not_run(settings: dict[str, Any], reason: str) -> None:
    """The reason says what to set."""
    found = learned_scores(["bertscore_f1", "rouge1"], [Pair("a", "b")], LearnedSettings(**settings))
    assert list(found) == ["bertscore_f1"]
    assert isinstance(found["bertscore_f1"], NotRun) and reason in found["bertscore_f1"].reason


def test_libraries_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither bert-score nor scispacy need be there."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = LearnedSettings(bertscore_model=Path("x"), bertscore_layers=9, umls=True)
    found = learned_scores(["bertscore_f1", "concept_f1_umls"], [Pair("a", "b")], settings)
    assert found["bertscore_f1"] == NotRun("the library is not installed: pip install bert-score")
    assert isinstance(found["concept_f1_umls"], NotRun)
    assert found["concept_f1_umls"].reason.startswith("scispacy is not installed")


def test_umls_concepts_are_the_first_of_each_mention(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a linker planted in scispacy's place: its first candidates' names, as sets; without one there is none."""
    known = {"gout": [("C1", 0.9), ("C2", 0.8)], "podagra": [("C1", 0.7)], "cough": [("C3", 1.0)], "uhm": []}

    class Model:
        meta = {"version": "0"}

        def add_pipe(self, name: str, config: dict[str, Any]) -> None:
            assert (name, config["linker_name"]) == ("scispacy_linker", "umls")

        def get_pipe(self, name: str) -> Any:
            entities = {key: types.SimpleNamespace(canonical_name=key) for key in ("C1", "C2", "C3")}
            return types.SimpleNamespace(kb=types.SimpleNamespace(cui_to_entity=entities))

        def __call__(self, text: str) -> Any:
            mentions = [types.SimpleNamespace(_=types.SimpleNamespace(kb_ents=known[word])) for word in text.split()]
            return types.SimpleNamespace(ents=mentions)

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=lambda name: Model()))
    monkeypatch.setitem(sys.modules, "scispacy.linking", types.SimpleNamespace())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(text_scorers, "version", lambda name: "0")
    text_scorers._linker.cache_clear()
    pairs = [Pair("podagra", "gout cough"), Pair("uhm", "gout"), Pair("gout", "uhm")]
    found = learned_scores(["concept_f1_umls"], pairs, LearnedSettings(umls=True))["concept_f1_umls"]
    text_scorers._linker.cache_clear()
    assert isinstance(found, Scores)
    assert found.values == [pytest.approx(2 / 3), 0.0, None]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights, and a tokenizer that knows no longest text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "acute", "fracture", "gout")
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), words, strict=False))
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **size)).save_pretrained(folder)
    return folder


def test_bertscore_with_a_model(encoder: Path) -> None:
    """A text equals itself, a text longer than the model's places is cut and not an error, an empty one earns 0.

    What made the scores is said: library, folder, layer, digest of the files, longest text.
    """
    pairs = [
        Pair("no fracture", "no fracture"),
        Pair("gout", "no fracture"),
        Pair("gout " * 99, "gout"),
        Pair(" ", "gout"),
    ]
    settings = LearnedSettings(bertscore_model=encoder, bertscore_layers=1)
    found = learned_scores(["bertscore_f1"], pairs, settings)["bertscore_f1"]
    assert isinstance(found, Scores)
    same, other, long, empty = found.values
    assert same == pytest.approx(1.0, abs=1e-4)
    assert other is not None and 0 < other < 0.99
    assert long is not None and 0 < long < 1
    assert empty == 0.0
    assert f"{encoder.name} L1, sha256 " in found.made_by and "at most 62 tokens" in found.made_by
    with pytest.raises(UserError, match="bertscore_layers is 3"):
        learned_scores(["bertscore_f1"], pairs, settings.model_copy(update={"bertscore_layers": 3}))


def test_the_items_keep_their_other_notes() -> None:
    """Notes of the file stay beside the reasons; a task without such scores is left as it is."""
    task, plain = task_of("meqsum", ["What is gout?"]), replace(task_of("mednli", ["NEUTRAL"]))
    samples = samples_of(task, ["What is gout?"]) + samples_of(plain, ["NEUTRAL"])
    before = samples[1]["scores"].copy()
    add_learned_scores([task, plain], samples, LearnedSettings(dictionary=Path("none.tsv")))
    assert task.notes["file"] == "x"
    assert task.notes["not_run"]["concept_f1_dictionary"].startswith("none.tsv does not exist")
    assert (plain.notes, samples[1]["scores"]) == ({"file": "x"}, before)
