"""Scores of one answer against its gold, each 0..1. Pinned: a number means the same for every model."""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from eval.parsing import split_list
from medsmith.rouge import rouge_l, rouge_n, words_of


def rouge(answer: str, gold: str) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L.

    A gold of one word has no pair of words, and ROUGE-2 is 0 even for a right answer: it is left out.
    """
    true, said = words_of(gold), words_of(answer)
    scores = {"rouge1": rouge_n(true, said, 1), "rouge2": rouge_n(true, said, 2), "rougeL": rouge_l(true, said)}
    return scores if len(true) > 1 else {name: scores[name] for name in ("rouge1", "rougeL")}


def exact(answer: str, gold: str) -> float:
    """1.0 where the answer equals the gold but for case, surrounding space and a full stop."""
    return float(answer.strip(" .\n").casefold() == gold.strip(" .\n").casefold())


def list_f1(answer: str, gold: str) -> float:
    """F1 of two lists as sets: a repeated part counts once."""
    return set_f1(split_list(answer), split_list(gold))


def set_f1(said: Iterable[Hashable], true: Iterable[Hashable]) -> float:
    """F1 of two sets: what is repeated counts once; two empty sets agree."""
    hits, predicted, positive = counts_f1(said, true)
    return 2 * hits / (predicted + positive) if predicted + positive else 1.0


def counts_f1(said: Iterable[Hashable], true: Iterable[Hashable]) -> list[float]:
    """[true positives, predicted, true] of two sets, to be summed over items: eval.metrics.f1_micro."""
    a, b = set(said), set(true)
    return [len(a & b), len(a), len(b)]


def counts_multiset(said: Iterable[Hashable], true: Iterable[Hashable]) -> list[float]:
    """The same of multisets: two true mentions are two, and a third one that is said is wrong."""
    a, b = Counter(said), Counter(true)
    return [(a & b).total(), a.total(), b.total()]


def counts_by_label(said: Iterable[Hashable], true: Iterable[Hashable], labels: Sequence[Hashable]) -> list[float]:
    """[true positives, predicted, true] label by label, to be summed over items: eval.metrics.f1_macro, f1_micro.

    What is said beyond `labels` has no place here: a benchmark that lets it pass must count it elsewhere.
    """
    a, b = set(said), set(true)
    return [number for label in labels for number in (label in a and label in b, label in a, label in b)]


def squad_exact(answer: str, golds: Sequence[str]) -> float:
    """1.0 where the answer is one of the golds after SQuAD's normalisation. No gold, or an empty one: unanswerable."""
    return _squad_best(answer, golds, lambda said, true: float(said == true))


def squad_f1(answer: str, golds: Sequence[str]) -> float:
    """F1 of words after SQuAD's normalisation, best over golds.

    An empty answer says that there is none; the caller maps "N/A" to it. An answer of articles and signs alone is not
    empty, though the published script takes it for right where there is no answer.
    """
    return _squad_best(answer, golds, _bag_f1)


class Span(NamedTuple):
    """A labelled stretch of a text, [start, end); one that is not in the text is empty and overlaps nothing."""

    label: str
    start: int
    end: int


class Overlap(NamedTuple):
    """Of two lists of spans: agreeing pairs, pairs of different labels, and what of either list is in no pair."""

    correct: int
    incorrect: int
    missed: int
    spurious: int

    @property
    def f1(self) -> float:
        """The F1 of the agreeing pairs; two empty lists agree."""
        both = 2 * self.correct + 2 * self.incorrect + self.missed + self.spurious
        return 2 * self.correct / both if both else 1.0


def type_overlap(said: Sequence[Span], true: Sequence[Span]) -> Overlap:
    """Pair spans that overlap, each once: as many of one label as can be, then of what is left those of different ones.

    This is "type" agreement of SemEval-2013 task 9: the label counts, of the borders only that they overlap.
    """
    same = _paired(said, true, lambda a, b: a.label == b.label)
    rest_said = [span for index, span in enumerate(said) if index not in same]
    rest_true = [span for index, span in enumerate(true) if index not in same.values()]
    other = _paired(rest_said, rest_true, lambda a, b: True)
    return Overlap(len(same), len(other), len(rest_true) - len(other), len(rest_said) - len(other))


def type_overlap_f1(said: Sequence[Span], true: Sequence[Span]) -> float:
    """The F1 of one document by label and overlap; two empty lists agree."""
    return type_overlap(said, true).f1


def entities_iob2(tags: Sequence[str]) -> list[Span]:
    """The entities of strict IOB2 tags, by token: one begins with B-, and an I- that continues nothing is none."""
    found: list[Span] = []
    for place, tag in enumerate(tags):
        prefix, _, label = tag.partition("-")
        if prefix == "B":
            found.append(Span(label, place, place + 1))
        elif prefix == "I" and found and found[-1].label == label and found[-1].end == place:
            found[-1] = found[-1]._replace(end=place + 1)
    return found


def bleu_counts(answer: str, gold: str) -> list[float]:
    """[answer's length, gold's length, 4 n-gram matches, 4 n-gram totals], to be summed: eval.metrics.bleu.

    Tokens are sacreBLEU's 13a, case is kept: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp.
    """
    found = _bleu().corpus_score([answer], [[gold]])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


@functools.cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(lowercase=False, tokenize="13a", smooth_method="exp", max_ngram_order=4, effective_order=False)


def _squad(text: str) -> list[str]:
    """Small letters, no punctuation, no articles."""
    plain = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", plain).split()


def _squad_best(answer: str, golds: Sequence[str], score: Callable[[list[str], list[str]], float]) -> float:
    """The best score over the golds that have words; where none has, whether the answer is empty too."""
    true = [words for words in map(_squad, golds) if words]
    said = _squad(answer)
    return max(score(said, words) for words in true) if true else float(not answer.strip())


def _bag_f1(said: list[str], true: list[str]) -> float:
    hits, predicted, positive = counts_multiset(said, true)
    return 2 * hits / (predicted + positive)


def _paired(said: Sequence[Span], true: Sequence[Span], fits: Callable[[Span, Span], bool]) -> dict[int, int]:
    """The most pairs {index of said: index of true} of overlapping spans that fit, each in one pair at most."""
    fitting = [
        [j for j, b in enumerate(true) if max(a.start, b.start) < min(a.end, b.end) and fits(a, b)] for a in said
    ]
    taken: dict[int, int] = {}  # index of true: index of said

    def place(i: int, seen: set[int]) -> bool:
        for j in fitting[i]:
            if j not in seen:
                seen.add(j)
                if j not in taken or place(taken[j], seen):
                    taken[j] = i
                    return True
        return False

    for i in range(len(said)):
        place(i, set())
    return {i: j for j, i in taken.items()}
