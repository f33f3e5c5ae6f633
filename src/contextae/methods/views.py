"""What one image becomes before a method sees it. Free of torch, because loader workers run it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from contextae.data.augment import Crop
from contextae.masking import Mask, Masker


class MaskedView(NamedTuple):
    """An image `c h w` with its mask, and the key of its stochastic depth; in a batch each has a leading axis b.

    `second` is the same crop in another size, for a tokenizer or teacher that wants it, or None.
    """

    images: Any
    mask: Mask
    key: Any
    second: Any = None


class Second(NamedTuple):
    """How a crop is rendered a second time."""

    size: tuple[int, int]
    lanczos: bool


@dataclass(frozen=True, kw_only=True)
class MaskedViews:
    """One random crop, possibly flipped, and one mask; all draws come from the sample's own stream."""

    crop: Crop
    masker: Masker
    second: Second | None = None

    def __call__(self, image: np.ndarray, rng: random.Random) -> MaskedView:
        part = self.crop.draw(image, rng)
        cropped = self.crop.render(image, part, self.crop.size)
        mask = self.masker(rng)
        key = np.int64(rng.getrandbits(62))
        if self.second is None:
            return MaskedView(cropped, mask, key)
        size, lanczos = self.second
        return MaskedView(cropped, mask, key, self.crop.render(image, part, size, lanczos=lanczos))


class PlainView(NamedTuple):
    """An image `c h w`, and the key of whatever is random about it; in a batch each has a leading axis b."""

    images: Any
    key: Any


@dataclass(frozen=True, kw_only=True)
class PlainViews:
    """One random crop, possibly flipped."""

    crop: Crop

    def __call__(self, image: np.ndarray, rng: random.Random) -> PlainView:
        return PlainView(self.crop(image, rng), np.int64(rng.getrandbits(62)))
