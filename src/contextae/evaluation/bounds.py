"""Rules that numbers among a protocol's settings keep, said before anything is read or trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from contextae.errors import UserError

RULES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda value: value >= 1,
    "above 0": lambda value: 0 < value < math.inf,
    "above 0 and at most 1": lambda value: 0 < value <= 1,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "at least 0 and below 1": lambda value: 0 <= value < 1,
    "at least 0": lambda value: 0 <= value < math.inf,
}
"""A number that is none is within no bounds."""


def check(settings: Any, rule: str, names: Sequence[str], *, empty: bool = False) -> None:
    """UserError where a number of these settings, or one of a tuple, breaks its rule; or where an `empty` tuple may not
    be. None stands for a setting that is off."""
    for name in names:
        given = getattr(settings, name)
        values = given if isinstance(given, tuple) else () if given is None else (given,)
        if (given == () and not empty) or not all(map(RULES[rule], values)):
            several = "one number or more, each " if isinstance(given, tuple) else ""
            raise UserError(f"{name} must be {several}{rule}. Got {given}. Choose another value, or leave it out.")
