"""A batch of samples: read, decoded, viewed, stacked. This is what loader processes run; it must not import torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from contextae.data.decode import decode
from contextae.data.facts import BadImage
from contextae.data.index import Index
from contextae.randomness import stream

Views = Callable[[np.ndarray, random.Random], Any]
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
    channels: int

    def make(
        self,
        wanted: list[tuple[int, int]],
        known_bad: Collection[int],
        begun: Callable[[int, int], None] = lambda epoch, position: None,
    ) -> Made:
        """A sample that is bad, known or found so, is replaced by keyed draws among all samples until one is good.

        The replacement is viewed with the draws of the sample it stands for, so that it is not the very view under
        which it comes itself in that epoch. `begun(epoch, position)` is told every sample before it is read.
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
                    image = self._image(used)
                    if isinstance(image, np.ndarray):
                        views.append(self.views(image, stream(self.seed, "view", epoch, sample_id)))
                        made.positions.append(used)
                        break
                    bad.add(used)
                    made.bad.append(Bad(used, image, epoch))
                draws = draws or stream(self.seed, "replacement", epoch, sample_id)
                used = int(draws.random() * len(self.index))
            else:
                return made._replace(failure=f"none of {ATTEMPTS} replacements of {sample_id} could be read")
        return made._replace(batch=stack(views))

    def _image(self, position: int) -> np.ndarray | str:
        """h w c, or why it cannot be had."""
        try:
            return decode(self.index.read(position), channels=self.channels, dtype=self.index.dtype)
        except BadImage as error:
            return error.reason
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"


def stack(views: Sequence[Any]) -> Any:
    """Views to a batch: the same NamedTuples, each array with a leading batch axis."""
    first = views[0]
    if first is None:
        return None
    if isinstance(first, tuple):
        return type(first)(*map(stack, zip(*views, strict=True)))
    return np.stack(views)
