"""Every metric by its id, with its definition. An id means one thing for every model, and stands in every result.

A metric is either the mean over items of a score 0..1, or (`value`) a function of counts that are summed over items:
the F1 of pooled counts is no mean of items' F1s. All are computed from samples alone, so scoring again needs no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.statistics import Table, ratio
from medsmith.errors import UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """A definition in words and, where the metric is no mean of items, its value from summed counts.

    `value` takes an array (..., k) of sums and gives an array (...): a whole bootstrap in one call.
    """

    definition: str
    value: Callable[[Array], Array] | None = None
    loss: bool = False
    """Lower is better."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """Between which it lies."""


def f1_micro(sums: Array) -> Array:
    """(…, 3) sums of true positives, predicted, true."""
    both = sums[..., 1] + sums[..., 2]
    return _divided(2 * sums[..., 0], both)


def f1_macro(sums: Array) -> Array:
    """(…, 3·labels) sums of true positives, predicted, true, label by label; the mean over labels that are true once.

    A label that is never true in the whole set has no F1 and is left out; one that is true and never found counts 0.
    """
    parts = sums.reshape(*sums.shape[:-1], -1, 3)
    present = parts[..., 2] > 0
    number = present.sum(-1)
    total = np.where(present, f1_micro(parts), 0.0).sum(-1)
    return _divided(total, number)


def mean_of_slices(sums: Array) -> Array:
    """(…, 2·slices) sums of scores and of items, slice by slice; the plain mean of the slices' means."""
    parts = sums.reshape(*sums.shape[:-1], -1, 2)
    present = parts[..., 1] > 0
    return _divided(np.where(present, ratio(parts), 0.0).sum(-1), present.sum(-1))


def mean_of_rounded(sums: Array) -> Array:
    """(…, k+1) sums of k scores and of items; the mean of the k means, each first rounded to 0.01 as by "%.2f"."""
    means = _divided(sums[..., :-1], sums[..., -1:])
    # Python's round is that of "%.2f", to the last binary digit; numpy's is not.
    rounded: Array = np.vectorize(lambda value: round(float(value), 2), otypes=[float])(means).mean(-1)
    return rounded


def bleu(sums: Array) -> Array:
    """(…, 10) sums of the answers' and golds' lengths, 4 n-gram matches, 4 n-gram totals; corpus BLEU, 0..1.

    An order without a match counts half a match, the next one a quarter (smooth:exp); without any match at all, or
    where no answer is four tokens long, the value is 0.
    """
    hits, totals = sums[..., 2:6], sums[..., 6:10]
    missed = (hits == 0) & (totals > 0)
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, -1), hits)
    defined: Array = np.asarray((totals > 0).all(-1) & (hits > 0).any(-1))
    precision = np.where(defined[..., None], _divided(smoothed, totals), 1.0)
    brevity = np.exp(np.minimum(0.0, 1 - _divided(sums[..., 1], sums[..., 0])))
    return np.where(defined, brevity * np.exp(np.log(precision).mean(-1)), 0.0)


def quadratic_kappa(sums: Array) -> Array:
    """(…, L·L) a summed confusion matrix, rows true, columns predicted; Cohen's kappa with quadratic weights.

    Where every item is of one level, true and predicted alike, agreement is no surprise and the value is 0.
    """
    size = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], size, size)
    levels = np.arange(size)
    weight = (levels[:, None] - levels[None, :]) ** 2 / max(1, (size - 1) ** 2)
    total = table.sum((-1, -2))
    expected = table.sum(-1)[..., :, None] * table.sum(-2)[..., None, :] / np.maximum(total, 1)[..., None, None]
    seen, chance = (weight * table).sum((-1, -2)), (weight * expected).sum((-1, -2))
    return np.where(chance > 0, 1 - np.divide(seen, chance, out=np.ones(seen.shape), where=chance > 0), 0.0)


def _divided(above: Array, below: Array) -> Array:
    """above / below, 0 where below is 0."""
    below = np.broadcast_to(below, np.shape(above))
    found: Array = np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
    return found


METRICS: dict[str, Metric] = {
    "accuracy": Metric("share of items whose parsed answer is the gold; unreadable counts as wrong"),
    "accuracy_written": Metric("share of items whose written letter is the gold's; unreadable counts as wrong"),
    "readable_written": Metric("share of items where the written text names exactly one letter"),
    "agreement_written": Metric("share of items where the likeliest option is also the written one"),
    "flag_accuracy": Metric("share of texts of which it was rightly said that they hold an error, or none"),
    "rouge1": Metric("rouge-score, ROUGE-1 F1, use_stemmer=False, mean over items"),
    "rouge2": Metric("rouge-score, ROUGE-2 F1, use_stemmer=False, mean over items whose gold has two words"),
    "rougeL": Metric("rouge-score, ROUGE-L F1 (not Lsum), use_stemmer=False, mean over items"),
    "bertscore_f1": Metric("bert-score F1, model and layer as the result's notes say; mean over items"),
    "concept_f1_umls": Metric(
        "F1 of sets of top-1 UMLS concepts (scispacy linker, version in the notes); mean over items"
    ),
    "concept_f1_dictionary": Metric(
        "F1 of the sets of concepts that the names of a dictionary find in answer and gold (longest match of words; "
        "the notes say which dictionary; no UMLS); mean over items whose gold holds one"
    ),
    "bleu4": Metric(
        "sacreBLEU, corpus level, /100 (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp); counts summed over items", bleu
    ),
    "rouge2_all": Metric("as rouge2, but the mean over all items: 0 where the gold has one word (protocol clue)"),
    "label_named_once": Metric(
        "share of items whose output holds the gold label exactly once; other labels are not looked at (protocol clue)"
    ),
    "exact": Metric("answer equals gold but for case, surrounding space and a full stop"),
    "list_f1": Metric("F1 of two lists as sets, parts compared without case and bullets, mean over items"),
    "code_f1": Metric("F1 of an item's ICD-10 codes as sets, equal to their last sign; mean over items"),
    "code_f1_listed": Metric(
        "F1 of an item's ICD-10 codes as lists: precision over the written codes, recall over the true ones, every "
        "repeat counted; mean over items (protocol clue)"
    ),
    "code_f1_category": Metric("F1 of the sets of the codes' first three characters; mean over items"),
    "valid_codes_listed": Metric("as valid_codes, but a repeated code counts again (protocol clue)"),
    "valid_codes": Metric(
        "share of an answer's codes, each once, that the ICD-10-CM table of simple_icd_10_cm holds; 0 for an answer "
        "without a code; mean over items"
    ),
    "entity_f1_type": Metric(
        "F1 of an item's entities where a pair is right if its types are equal and its spans overlap (the type mode of "
        "MUC and eval4ner), each used once; 1 where there is none and none was given; mean over items"
    ),
    "f1_micro": Metric(
        "F1 of true positives, false positives and false negatives pooled over items and labels", f1_micro
    ),
    "f1_macro": Metric(
        "mean of the labels' F1s from pooled counts (not the F1 of mean precision and mean recall); a label that is "
        "never true is left out, one that is never found counts 0",
        f1_macro,
    ),
    "f1_micro_adverse": Metric("f1_micro of the labels that are adverse", f1_micro),
    "f1_macro_adverse": Metric("f1_macro of the labels that are adverse", f1_macro),
    "labels_exact": Metric("share of items whose set of labels is the true one"),
    "squad2_f1": Metric(
        "SQuAD 2.0 F1 of words after its normalisation (case, punctuation, articles), best over golds; where there is "
        "no answer, 1 for saying so and 0 else; mean over items"
    ),
    "squad2_em": Metric("SQuAD 2.0 exact match after its normalisation, best over golds; mean over items"),
    "squad2_f1_answerable": Metric("squad2_f1 of the answerable questions alone", ratio),
    "no_answer_recall": Metric("share of the unanswerable questions of which that was said", ratio),
    "ner_f1_strict": Metric(
        "F1 of entities pooled over items: multisets of (text, type), equal but for spaces; the true ones are "
        "read as strict IOB2, where an I- that continues nothing opens nothing",
        f1_micro,
    ),
    "qwk": Metric(
        "Cohen's kappa with quadratic weights; an unreadable answer counts as the level farthest from the true one",
        quadratic_kappa,
        bounds=(-1.0, 1.0),
    ),
    "under_triage": Metric(
        "share of all patients for whom a less urgent level than the true one was answered; unreadable is neither",
        loss=True,
    ),
    "over_triage": Metric(
        "share of all patients for whom a more urgent level than the true one was answered; unreadable is neither",
        loss=True,
    ),
}


def find_metric(name: str) -> Metric:
    """The metric of an id, or of `mean(a, b)`: the mean over items of the mean of an item's scores.

    `mean_of_rounded(a, b)` is that of a published protocol, which rounds each metric to 0.01 before it averages them.
    """
    if name in METRICS:
        return METRICS[name]
    form, parts = composite(name)
    if form not in ("mean", "mean_of_rounded"):
        raise UserError(f"no metric is called '{name}'; define it in eval/metrics.py")
    for part in parts:
        find_metric(part)
    if form == "mean":
        return Metric(f"for each item the mean of {', '.join(parts)}; mean over items")
    return Metric(f"mean of {', '.join(parts)}, each a mean over items that is rounded to 0.01", mean_of_rounded)


def composite(name: str) -> tuple[str, list[str]]:
    """The form and the parts of `form(a, b)`; no form where the id is not such."""
    form, opened, inner = name.partition("(")
    if not opened or not inner.endswith(")"):
        return "", [name]
    return form, [part.strip() for part in inner[:-1].split(",")]


def table_of(samples: Sequence[dict[str, Any]], metric: str, slice_mean: bool = False) -> Table:
    """The counts of one metric over the samples of one benchmark (rows of samples.jsonl).

    An unreadable item counts 0; one for which a metric is not defined (ROUGE-2 of one word) is left out of it.
    """
    found = find_metric(metric)
    parts = composite(metric)[1]
    slices = sorted({row["slice"] for row in samples}) if slice_mean else [""]
    kept, counts = [], []
    for row in samples:
        weight = row.get("weight", 1)
        if found.value is mean_of_rounded:
            kept.append(row)
            counts.append([weight * number for number in (*(row["scores"].get(part, 0.0) for part in parts), 1)])
            continue
        if found.value is not None:
            kept.append(row)
            counts.append([weight * number for number in row["counts"][metric]])
            continue
        values = [row["scores"][part] for part in parts if part in row["scores"]]
        if not values and not row["unreadable"]:
            continue
        cells = [0.0] * (2 * len(slices))
        at = 2 * slices.index(row["slice"]) if slice_mean else 0
        cells[at : at + 2] = [weight * sum(values) / max(1, len(values)), weight]
        kept.append(row)
        counts.append(cells)
    value = found.value or (mean_of_slices if slice_mean else ratio)
    return Table(
        [row["id"] for row in kept],
        [row["group"] or row["id"] for row in kept],
        np.array(counts, dtype=float),
        value,
        found.bounds,
    )
