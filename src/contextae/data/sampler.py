"""Which images a step sees: keyed permutations, one an epoch, laid end to end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from contextae.errors import UserError
from contextae.randomness import Shuffle


@dataclass(kw_only=True)
class Sampler:
    """Batches of `batch_size` images over all processes; this one takes every `world_size`-th from `rank` on.

    Image number p of a training (p counts from 0 over all epochs) is entry p % length of the permutation of epoch
    p // length. So no image is left out at the end of an epoch, a batch may cross it, and a batch may be larger than
    the set. Nothing is kept that a resume would have to restore.
    """

    length: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    _orders: dict[int, Shuffle] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.length < 1 or self.batch_size < 1:
            raise UserError(
                f"There must be at least one image, and one image a step. Got {self.length} images and "
                f"batch_size={self.batch_size}."
            )
        if self.batch_size % self.world_size:
            raise UserError(
                f"training.batch_size counts the images of all processes, so their number must divide it. Got "
                f"{self.batch_size} images for {self.world_size} processes."
            )

    def steps(self, epochs: int) -> int:
        """Steps after which every image was seen `epochs` times, the last batch filled from the next epoch."""
        return math.ceil(epochs * self.length / self.batch_size)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Epoch and position in the index of each image of this process."""
        first = step * self.batch_size
        number, end = first + self.rank, first + self.batch_size
        images: list[tuple[int, int]] = []
        while number < end:
            epoch, place = divmod(number, self.length)
            last = min(place + end - number, self.length)
            entries = self._order(epoch)(np.arange(place, last, self.world_size)).tolist()
            images += [(epoch, position) for position in entries]
            number += len(entries) * self.world_size
        return images

    def _order(self, epoch: int) -> Shuffle:
        """The epoch's permutation, kept until another epoch's is asked for."""
        if epoch not in self._orders:
            self._orders = {epoch: Shuffle(self.length, self.seed, "order", epoch)}
        return self._orders[epoch]
