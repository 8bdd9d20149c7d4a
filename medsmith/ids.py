"""Millions of ids in little memory: a set of them, and a map from them to numbers."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from hashlib import blake2b

PARTS = 256
"""Tables that grow one by one, so that no growth takes more than some milliseconds in the middle of a run."""


class IdSet:
    """A set of ids that cannot be listed: 8 bytes of each are kept, at most three places in four are taken.

    Of an id of 16 hexadecimal digits, as `content_id` makes them, nothing is lost; of others a hash is kept.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.count = 0
        self._used = array("L", bytes(PARTS * array("L").itemsize))
        self._keys = [_zeros(4) for _ in range(PARTS)]

    def __len__(self) -> int:
        """How many ids there are."""
        return self.count

    def __contains__(self, key: str) -> bool:
        """Is the id there?"""
        number = _number(key)
        return self._keys[number % PARTS][self._place(number)] != 0

    def add(self, key: str) -> bool:
        """Put an id in; False where it was there."""
        number = _number(key)
        part, place = number % PARTS, self._place(number)
        if self._keys[part][place]:
            return False
        self._take(number, part, place)
        return True

    def _place(self, number: int) -> int:
        """Where the number stands in its part, or the free place where it would."""
        keys = self._keys[number % PARTS]
        size = len(keys)
        place = (number // PARTS) % size
        while keys[place] not in (0, number):
            place = (place + 1) % size
        return place

    def _take(self, number: int, part: int, place: int) -> int:
        """Put a number at its free place; the place, which is another where the part had to grow."""
        keys = self._keys[part]
        if 4 * (self._used[part] + 1) > 3 * len(keys):
            self._grow(part)
            place = self._place(number)
            keys = self._keys[part]
        keys[place] = number
        self._used[part] += 1
        self.count += 1
        return place

    def _grow(self, part: int) -> None:
        old = self._keys[part]
        self._keys[part] = _zeros(len(old) * 3 // 2)
        for number in old:
            if number:
                self._keys[part][self._place(number)] = number


class IdMap(IdSet):
    """Ids with a number from 0 to 2^64 - 1 each."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self._values = [_zeros(4) for _ in range(PARTS)]

    def get(self, key: str) -> int | None:
        """The number of an id, None where it is not there."""
        number = _number(key)
        part, place = number % PARTS, self._place(number)
        return self._values[part][place] if self._keys[part][place] else None

    def set(self, key: str, value: int) -> int | None:
        """Give an id a number; the one that it had, or None."""
        number = _number(key)
        part, place = number % PARTS, self._place(number)
        before = None
        if self._keys[part][place]:
            before = self._values[part][place]
        else:
            place = self._take(number, part, place)
        self._values[part][place] = value
        return before

    def values_in(self, ids: IdSet) -> Iterator[int]:
        """The numbers of those ids that are in `ids` too."""
        for part in range(PARTS):
            for number, value in zip(self._keys[part], self._values[part], strict=True):
                if number and ids._keys[part][ids._place(number)]:
                    yield value

    def _grow(self, part: int) -> None:
        old = list(zip(self._keys[part], self._values[part], strict=True))
        self._keys[part] = _zeros(len(old) * 3 // 2)
        self._values[part] = _zeros(len(old) * 3 // 2)
        for number, value in old:
            if number:
                place = self._place(number)
                self._keys[part][place] = number
                self._values[part][place] = value


def _zeros(size: int) -> array[int]:
    return array("Q", bytes(8 * size))


def _number(key: str) -> int:
    """64 bits that stand for an id; never 0, which stands for a free place."""
    try:
        number = int(key, 16)
        if number and len(key) == 16 and f"{number:016x}" == key:
            return number
    except ValueError:
        pass
    return int.from_bytes(blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest(), "little") or 1
