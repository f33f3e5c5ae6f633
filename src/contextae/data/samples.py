"""A batch of samples: read, decoded, viewed, stacked. This is what loader processes run; it must not import torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from contextae.data.cuts import Cut, stacked
from contextae.data.facts import BadImage
from contextae.data.index import Index
from contextae.data.picture import Picture
from contextae.randomness import stream

Views = Callable[[Picture, random.Random], Any]
Begun = Callable[[int, int], None]
"""Told the epoch and the position of every sample before it is read, and NO_SAMPLE after the last."""
NO_SAMPLE = (-1, -1)
UNUSABLE = (BadImage, OSError, MemoryError)
"What is raised over an image that cannot be used; all else is a defect."
ATTEMPTS = 100
"Replacements drawn for one unusable sample before giving up. Known ones cost nothing: half a set may be bad."


class Bad(NamedTuple):
    """A sample that cannot be used, why, and the epoch of the sample in whose place or as which it was met."""

    position: int
    reason: str
    epoch: int


class Made(NamedTuple):
    """A batch, the positions its views come from, and the unusable samples met on the way.

    Where replacements keep failing, `failure` says so and there is no batch.
    """

    batch: Any
    positions: list[int]
    bad: list[Bad]
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Makes batches of (epoch, position) pairs. Every draw is keyed by (seed, epoch, sample id)."""

    index: Index
    views: Views
    seed: int

    advice: ClassVar[str] = (
        "If memory is short, use fewer with --set training.workers=N; otherwise look at that image and its disk."
    )

    def make(
        self,
        wanted: list[tuple[int, int]],
        known_bad: Collection[int],
        begun: Begun = lambda epoch, position: None,
    ) -> Made:
        """A sample that is bad, known or found so, is replaced by keyed draws among all samples until one is good.

        The replacement is viewed with the draws of the sample it stands for, so that it is not the very view under
        which it comes itself in that epoch.
        """
        views: list[Any] = []
        made = Made(None, [], [])
        bad = set(known_bad)
        for epoch, position in wanted:
            sample_id = self.index.ids[position]
            used, draws = position, None
            for _ in range(ATTEMPTS + 1):
                if used not in bad:
                    begun(epoch, used)
                    try:
                        views.append(self._view(used, stream(self.seed, "view", epoch, sample_id)))
                        made.positions.append(used)
                        break
                    except UNUSABLE as error:
                        bad.add(used)
                        made.bad.append(Bad(used, reason_of(error), epoch))
                draws = draws or stream(self.seed, "replacement", epoch, sample_id)
                used = int(draws.random() * len(self.index))
            else:
                return made._replace(failure=f"none of {ATTEMPTS} replacements of {sample_id} could be read")
        begun(*NO_SAMPLE)
        return made._replace(batch=stack(views))

    def _view(self, position: int, rng: random.Random) -> Any:
        """One of UNUSABLE where the image cannot be had."""
        return self.views(self.index.picture(position, tiles=getattr(self.views, "tiles", False)), rng)

    def name(self, wanted: list[tuple[int, int]], position: int) -> str:
        """The id of a sample, for a message."""
        return self.index.ids[position]


def reason_of(error: BadImage | OSError | MemoryError) -> str:
    """Equal for equal troubles."""
    if isinstance(error, BadImage):
        return error.reason
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    return f"cannot be read ({error.strerror or error})"


def stack(views: Sequence[Any]) -> Any:
    """Views to a batch: the same NamedTuples, each array with a leading batch axis."""
    first = views[0]
    if first is None:
        return None
    if isinstance(first, Cut):
        return stacked(views)
    if isinstance(first, tuple):
        return type(first)(*map(stack, zip(*views, strict=True)))
    batch = np.empty((len(views), *first.shape), first.dtype)
    for row, view in enumerate(views):
        batch[row] = view  # np.stack would keep the order of their bytes, and be slow over those of flipped ones
    return batch
