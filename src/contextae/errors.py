"""Errors that are the user's to mend: the command shows their one paragraph and exits with 2, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message says what, the rule, what was given, and what to do."""


def nearest(given: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known name nearest to what was given, or an empty string."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
