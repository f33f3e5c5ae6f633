"""One sample: read, decode, view. This is what loader processes run; it must not import torch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from contextae.data.decode import BadImage, decode
from contextae.data.index import Index
from contextae.randomness import stream

Views = Callable[[np.ndarray, random.Random], Any]
ATTEMPTS = 20  # replacements drawn for one unusable sample before giving up


class Bad(NamedTuple):
    """A sample that could not be used."""

    position: int
    reason: str


class Made(NamedTuple):
    """Views of the samples of one piece of work, the positions they came from, and the unusable ones met on the way."""

    views: list[Any]
    positions: list[int]
    bad: list[Bad]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Makes views of (epoch, position) pairs. Every draw is keyed by (seed, epoch, sample id)."""

    index: Index
    views: Views
    seed: int
    channels: int

    def make(
        self,
        wanted: list[tuple[int, int]],
        known_bad: dict[int, str],
        begun: Callable[[int], None] | None = None,
    ) -> Made:
        """A sample that is bad, known or found so, is replaced by keyed draws among all samples until one is good.

        `begun` is told every position before it is read.
        """
        made = Made([], [], [])
        bad = dict(known_bad)
        for epoch, position in wanted:
            for attempt in range(ATTEMPTS + 1):
                used = position if attempt == 0 else self._replacement(epoch, position, attempt)
                if used in bad:
                    continue
                if begun:
                    begun(used)
                try:
                    image = decode(self.index.read(used), channels=self.channels)
                except (BadImage, OSError) as error:
                    bad[used] = getattr(error, "reason", None) or f"cannot be read: {error}"
                    made.bad.append(Bad(used, bad[used]))
                    continue
                made.views.append(
                    self.views(image, stream(self.seed, "view", epoch, self.index.ids[position], attempt))
                )
                made.positions.append(used)
                break
            else:
                raise TooManyBadError(f"{ATTEMPTS} replacements of {self.index.ids[position]} could not be read either")
        return made

    def _replacement(self, epoch: int, position: int, attempt: int) -> int:
        rng = stream(self.seed, "replacement", epoch, self.index.ids[position], attempt)
        return int(rng.random() * len(self.index))


class TooManyBadError(RuntimeError):
    """Replacements keep failing: most of the data is unreadable."""


def stack(views: list[Any]) -> Any:
    """Views to a batch: the same NamedTuples, each array with a leading batch axis."""
    first = views[0]
    if isinstance(first, tuple):
        return type(first)(*(stack([view[i] for view in views]) for i in range(len(first))))
    return np.stack(views)
