"""JSON that may be larger than memory: the members of a list or an object, one after the other."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

BLANKS = re.compile(r"\s*")


class JsonPieces:
    """JSON text that comes in pieces; its values are taken off the front."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces: Iterator[bytes] | None = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._json = json.JSONDecoder()

    def members(self, opening: str) -> Iterator[tuple[str | None, Any]]:
        """The values of a list (key None) or an object; in place of a list under `data` its values."""
        closing = "]" if opening == "[" else "}"
        if (sign := self.next_sign()) == closing:
            return
        while True:
            self._back(sign)
            key: str | None = None
            if opening == "{":
                key = str(self.value())
                if self.next_sign() != ":":
                    raise ValueError("no ':' after a key")
                self._back(sign := self.next_sign())
            if key == "data" and sign == "[":
                yield from self.members(self.next_sign())
            else:
                yield key, self.value()
            sign = self.next_sign()
            if sign == closing:
                return
            if sign != ",":
                raise ValueError("a comma is missing" if sign else "it ends before its last bracket")
            sign = self.next_sign()

    def next_sign(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text):
                self._at += 1
                if not self._text[self._at - 1].isspace():
                    return self._text[self._at - 1]
            if not self._more():
                return ""

    def _back(self, sign: str) -> None:
        self._at -= len(sign)

    def value(self) -> Any:
        """The next JSON value; ValueError where there is none."""
        while True:
            try:
                after_blanks = BLANKS.match(self._text, self._at)
                found, end = self._json.raw_decode(self._text, after_blanks.end() if after_blanks else self._at)
                # A number may go on in the next piece.
                if end < len(self._text) or not self._more():
                    self._at = end
                    return found
            except ValueError:
                if not self._more():
                    raise

    def _more(self) -> bool:
        if self._pieces is None:
            return False
        piece = next(self._pieces, None)
        if piece is None:
            self._pieces = None
        # A character may be cut off at the very end of the file.
        self._text, self._at = self._text[self._at :] + self._decoder.decode(piece or b"", final=piece is None), 0
        return piece is not None
