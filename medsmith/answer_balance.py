"""Short answers of preference pairs: how often each is chosen and rejected, and how to make the two equal.

DPO learns which answers are rejected before it learns why: where "no" or "-1" is rejected more often than chosen, it
goes. So in each task every short answer is to be rejected as often as it is chosen, within one. Pure.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from medsmith.records import Instruction, content_id

SHORT_WORDS = 5
"""An answer of so few words is counted as a whole; of longer ones only lengths can be balanced."""
SWAPPED = "other_answer"
"""The error type of a pair whose rejected answer is another row's right one."""

Path = tuple[str, ...]
Key = tuple[str, str, str]
"""Task type, field and answer: what is counted."""


class Difference(NamedTuple):
    """The one short value in which the answers of a pair differ."""

    task: str
    path: Path
    """Keys that lead to the value in a JSON answer; () where the whole text is the value."""
    only: bool
    """Whether the value is all that the answer says: `{"label": "NO"}` and `NO` are then one answer."""
    chosen: Any
    rejected: Any

    def key(self, value: Any) -> Key:
        """What counts a value of this field, in folded case and single spaces."""
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else str(value)
        return self.task, "" if self.only else "/".join(self.path), " ".join(text.casefold().split()).strip(" .")


class Balanced(NamedTuple):
    """Pairs that stay, in order; `even` are ids of those among them that short answers were swapped or kept for."""

    kept: Sequence[Instruction]
    even: Set[str] = frozenset()
    swapped: int = 0
    dropped: Sequence[tuple[Instruction, str]] = ()


def find_difference(pair: Instruction) -> Difference | None:
    """In which short value the answers differ; None where the chosen one is long, or several values differ."""
    good, bad = _parsed(pair.output), _parsed(pair.rejected_output)
    if isinstance(good, dict):
        ours, theirs = dict(_leaves(good)), dict(_leaves(bad)) if isinstance(bad, dict) else {}
        changed = [path for path, value in ours.items() if theirs.get(path) != value]
        if ours.keys() != theirs.keys() or len(changed) != 1:
            return None
        (path,) = changed
        found = Difference(pair.task_type, path, len(ours) == 1, ours[path], theirs[path])
    else:
        found = Difference(pair.task_type, (), True, pair.output.strip(), pair.rejected_output.strip())
    return found if len(found.key(found.chosen)[2].split()) <= SHORT_WORDS else None


def count_answers(pairs: Iterable[Instruction]) -> dict[tuple[str, str], dict[str, tuple[int, int]]]:
    """How often each short answer is (chosen, rejected), by task and field, the most frequent first."""
    chosen: Counter[Key] = Counter()
    rejected: Counter[Key] = Counter()
    for one in filter(None, map(find_difference, pairs)):
        chosen[one.key(one.chosen)] += 1
        rejected[one.key(one.rejected)] += 1
    counts: dict[tuple[str, str], dict[str, tuple[int, int]]] = defaultdict(dict)
    for key in sorted(chosen | rejected, key=lambda key: (key[:2], -chosen[key] - rejected[key], key[2])):
        counts[key[:2]][key[2]] = chosen[key], rejected[key]
    return dict(counts)


def largest_difference(counts: Mapping[Any, Mapping[str, tuple[int, int]]]) -> int:
    """By how much the two numbers of an answer differ at most; 0 without short answers."""
    return max((abs(a - b) for answers in counts.values() for a, b in answers.values()), default=0)


def balance_answers(pairs: Sequence[Instruction], seed: int, *, swap: bool) -> Balanced:
    """Give pairs the right answers of other rows to reject (`swap`), then drop what is still uneven.

    Answers are swapped within a kind: values that flaws have turned into one another, so that a wrong side stays a
    side and a wrong drug a drug. A flaw that keeps the balance stays, and so does the order. With swap=False pairs
    are only dropped: a model's own wrong answers must stay its own.
    """
    made = list(pairs)
    found = {number: one for number, pair in enumerate(made) if (one := find_difference(pair))}
    groups = _kinds(found)
    gone: set[int] = set()
    swapped = 0
    for group in groups if swap else []:
        kind = _Kind(made, found, group)
        kind.assign(random.Random(f"answers {seed} {made[group[0]].id}"))
        gone |= set(group) - kind.given.keys()
        for number, key in kind.given.items():
            if key != found[number].key(found[number].rejected):
                made[number] = _with_rejected(made[number], found[number], kind.spoken[key])
                found[number] = found[number]._replace(rejected=kind.spoken[key])
                swapped += 1
    gone |= _uneven(made, {number: one for number, one in found.items() if number not in gone})
    return Balanced(
        [pair for number, pair in enumerate(made) if number not in gone],
        {made[number].id for group in groups for number in group if number not in gone},
        swapped,
        [(made[number], f"{found[number].chosen} over {found[number].rejected}") for number in sorted(gone)],
    )


def _kinds(found: Mapping[int, Difference]) -> list[list[int]]:
    """Pairs by the kind of their chosen answer, of kinds with at least two answers that are chosen somewhere."""
    parent = {key: key for one in found.values() for key in [one.key(one.chosen)]}

    def root(key: Key) -> Key:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for one in found.values():
        if one.key(one.rejected) in parent:
            parent[root(one.key(one.chosen))] = root(one.key(one.rejected))
    members: dict[Key, list[int]] = defaultdict(list)
    for number, one in found.items():
        members[root(one.key(one.chosen))].append(number)
    return [group for group in members.values() if len({found[n].key(found[n].chosen) for n in group}) > 1]


@dataclass
class _Kind:
    """Pairs of one kind of answer, and what each is given to reject: every answer as often as it is chosen."""

    pairs: Sequence[Instruction]
    found: Mapping[int, Difference]
    group: Sequence[int]
    given: dict[int, Key] = field(default_factory=dict)
    spoken: dict[Key, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing is given yet, and each answer is there as often as it is chosen."""
        right = {number: self.found[number].key(self.found[number].chosen) for number in self.group}
        self._right = right
        self._left = Counter(right.values())
        self._rows = {number: _row(self.pairs[number]) for number in self.group}
        self._taken: dict[str, set[Key]] = defaultdict(set)  # by row, what is rejected already: no pair twice
        for number in self.group:
            self.spoken.setdefault(right[number], self.found[number].chosen)

    def assign(self, rng: random.Random) -> None:
        """Keep flaws as far as the numbers allow; then give what is left most to those who are hardest to serve."""
        order = rng.sample(list(self.group), len(self.group))
        for number in order:
            own = self.found[number].key(self.found[number].rejected)
            if self._left[own] > 0 and self._fits(number, own):
                self._give(number, own)
        waiting = [number for number in order if number not in self.given]
        for number in sorted(waiting, key=lambda n: -self._left[self._right[n]]):
            left = [key for key in sorted(self._left) if self._left[key] > 0]
            fitting = [key for key in left if self._fits(number, key)]
            if fitting:
                most = max(self._left[key] for key in fitting)
                self._give(number, rng.choice([key for key in fitting if self._left[key] == most]))
            else:
                self._trade(number, left)

    def _trade(self, number: int, left: Sequence[Key]) -> None:
        """Take over what another pair was given, where that one can do with an answer that is left."""
        for other, key in list(self.given.items()):
            if not self._fits(number, key):
                continue
            self._take_back(other)
            self._give(number, key)
            for spare in left:
                if self._left[spare] > 0 and self._fits(other, spare):
                    self._give(other, spare)
                    return
            self._take_back(number)
            self._give(other, key)

    def _fits(self, number: int, key: Key) -> bool:
        """Whether the pair can reject the answer: not its own, not twice for a row, a number where numbers stand."""
        if key == self._right[number] or key in self._taken[self._rows[number]]:
            return False
        return key in self.spoken and _alike(self.found[number].chosen, self.spoken[key]) is not None

    def _give(self, number: int, key: Key) -> None:
        self.given[number] = key
        self._taken[self._rows[number]].add(key)
        self._left[key] -= 1

    def _take_back(self, number: int) -> None:
        key = self.given.pop(number)
        self._taken[self._rows[number]].discard(key)
        self._left[key] += 1


def _uneven(pairs: Sequence[Instruction], found: Mapping[int, Difference]) -> set[int]:
    """Pairs to drop until every answer is rejected as often as it is chosen, within one."""
    surplus: Counter[Key] = Counter()
    # By answer and side (chosen first), the pairs that it stands in.
    sides: tuple[dict[Key, set[int]], dict[Key, set[int]]] = (defaultdict(set), defaultdict(set))
    keys = {number: (one.key(one.chosen), one.key(one.rejected)) for number, one in found.items()}
    for number, both in keys.items():
        for side, key in enumerate(both):
            surplus[key] += 1 - 2 * side
            sides[side][key].add(number)
    gone: set[int] = set()
    queue = sorted(surplus)
    while queue:
        key = queue.pop(0)
        while abs(surplus[key]) > 1:
            side = 0 if surplus[key] > 0 else 1

            def cost(number: int, side: int = side) -> tuple[int, float, str]:
                # Best a pair whose other answer is uneven the other way; then the worse row.
                other = surplus[keys[number][1 - side]] * (1 - 2 * side)
                return other, pairs[number].quality or 0.0, pairs[number].id

            worst = min(sides[side][key], key=cost)
            gone.add(worst)
            for place, answer in enumerate(keys[worst]):
                sides[place][answer].discard(worst)
                surplus[answer] -= 1 - 2 * place
                queue.append(answer)
    return gone


def _with_rejected(pair: Instruction, one: Difference, value: Any) -> Instruction:
    """The pair with its right answer, but for the one value, as its rejected one; JSON keeps its layout."""
    text = str(value)
    if one.path:
        answer = inner = json.loads(pair.output)
        for key in one.path[:-1]:
            inner = inner[key]
        inner[one.path[-1]] = _alike(one.chosen, value)
        indent = re.search(r"\n( +)", pair.output)
        text = json.dumps(answer, ensure_ascii=False, indent=len(indent[1]) if indent else None)
    made = replace(pair, rejected_output=text, error_type=SWAPPED)
    return replace(made, id=content_id(pair.id, SWAPPED, text))


def _alike(model: Any, value: Any) -> Any:
    """The value in the type of `model` (JSON's), None where it cannot be: "4" is 4 where numbers stand."""
    if isinstance(model, str) and isinstance(value, str | int | float):
        return str(value)
    if type(model) is int and isinstance(value, str) and re.fullmatch(r"-?\d{1,9}", value):
        return int(value)
    return value if type(model) is type(value) else None


def _row(pair: Instruction) -> str:
    return content_id(pair.instruction, pair.input, pair.output)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Path and value of every leaf of nested objects; a list is one leaf, for its items have no place."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value
