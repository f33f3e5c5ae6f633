"""How long evaluations say what they are at."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Told what is being done and the share of it that is done, 0 to 1."""


def part_of(progress: Progress | None, what: str, first: float = 0.0, last: float = 1.0) -> Progress | None:
    """Progress of one of several things in a row, named, if it has a name, before what it says itself."""
    if progress is None:
        return None
    told, named = progress, f"{what}: " if what else ""
    return lambda each, share: told(f"{named}{each}", first + (last - first) * share)
