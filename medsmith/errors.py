"""The one error that a person can cause, and what it says of a name that is not known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: shown as one line, without traceback.

    The message names the value that was met and the remedy. Everything else is a bug and shows all.
    """


def quoted(value: object) -> str:
    """A value for a message: one word as it is, of anything longer its length. A row may be under an agreement."""
    text = str(value)
    return f"'{text}'" if re.fullmatch(r"[\w.,:/<>+-]{0,30}", text) else f"a text of {len(text):,} characters"


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The second half of an error about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{prefix}{near[0]}'?" if near else f"known here: {', '.join(names) or 'none'}"
