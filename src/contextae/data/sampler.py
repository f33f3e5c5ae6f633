"""Which images a step sees: keyed permutations, one an epoch, laid end to end; of several sources by their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from contextae.errors import UserError
from contextae.randomness import Shuffle

MOST_KEPT = 64
"Permutations of parts: a part of weight w needs about w + 1 of them at a time."


class Share(NamedTuple):
    """A part of the images that stands in a row, and how many images of an epoch come from it."""

    num_images: int
    slots: int


@dataclass(kw_only=True)
class Sampler:
    """Batches of `batch_size` images over all processes; this one takes every `world_size`-th from `rank` on.

    Image number p of a training (p counts from 0 over all epochs) is entry p % length of the permutation of epoch
    p // length. So no image is left out at the end of an epoch, a batch may cross it, and a batch may be larger than
    the set. Nothing is kept that a resume would have to restore.

    With `shares` an epoch has as many images of each part as its slots say. A part goes through its own images in
    permutations of its own, laid end to end: it has its own epochs, in which each of its images comes once.
    """

    length: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    shares: tuple[Share, ...] = ()
    _orders: dict[int, Shuffle] = field(default_factory=dict, repr=False)
    _own: dict[tuple[int, int], Shuffle] = field(default_factory=dict, repr=False)

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
        assert not self.shares or sum(share.num_images for share in self.shares) == self.length

    @property
    def epoch_length(self) -> int:
        """Images of an epoch."""
        return sum(share.slots for share in self.shares) if self.shares else self.length

    def steps(self, epochs: int) -> int:
        """Steps after which so many epochs were seen, the last batch filled from the next epoch."""
        return math.ceil(epochs * self.epoch_length / self.batch_size)

    def epoch(self, step: int) -> int:
        """That of this process's first image of a step."""
        return (step * self.batch_size + self.rank) // self.epoch_length

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Epoch and position in the index of each image of this process; with shares, the epoch of its part."""
        number, end = step * self.batch_size + self.rank, (step + 1) * self.batch_size
        images: list[tuple[int, int]] = []
        while number < end:
            epoch, place = divmod(number, self.epoch_length)
            last = min(place + end - number, self.epoch_length)
            slots = self._order(epoch)(np.arange(place, last, self.world_size))
            images += self._shared_out(epoch, slots) if self.shares else [(epoch, slot) for slot in slots.tolist()]
            number += len(slots) * self.world_size
        return images

    def _shared_out(self, epoch: int, slots: np.ndarray) -> list[tuple[int, int]]:
        """Slot s of a part's in this epoch is image number epoch x slots + s of that part, counted over all epochs."""
        images = []
        ends = np.cumsum([share.slots for share in self.shares])
        starts = np.cumsum([0, *(share.num_images for share in self.shares)])
        for slot, part in zip(slots.tolist(), np.searchsorted(ends, slots, side="right").tolist(), strict=True):
            share = self.shares[part]
            own_epoch, place = divmod(epoch * share.slots + slot - (int(ends[part]) - share.slots), share.num_images)
            images.append((own_epoch, int(starts[part]) + int(self._own_order(part, own_epoch)(np.array([place]))[0])))
        return images

    def _order(self, epoch: int) -> Shuffle:
        """The epoch's permutation, kept until another epoch's is asked for."""
        if epoch not in self._orders:
            self._orders = {epoch: Shuffle(self.epoch_length, self.seed, "order", epoch)}
        return self._orders[epoch]

    def _own_order(self, part: int, epoch: int) -> Shuffle:
        """A part's, of which few are in use at a time."""
        if (part, epoch) not in self._own:
            if len(self._own) >= MOST_KEPT:
                self._own.pop(next(iter(self._own)))
            self._own[part, epoch] = Shuffle(self.shares[part].num_images, self.seed, "order of a part", part, epoch)
        return self._own[part, epoch]
