"""What one image becomes before a method sees it. Free of torch, because loader workers run it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from contextae.data.augment import Crop
from contextae.data.picture import Picture, region
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

    def __call__(self, image: np.ndarray | Picture, rng: random.Random) -> MaskedView:
        part = self.crop.draw(image, rng)
        mask = self.masker(rng)
        key = np.int64(rng.getrandbits(62))
        if self.second is None:
            return MaskedView(self.crop.rendered(image, part), mask, key)
        size, lanczos = self.second
        # decoded once, finely enough for both
        finer = (max(self.crop.size[0], size[0]), max(self.crop.size[1], size[1]))
        pixels, box = region(image, part.box, finer)
        part = part._replace(box=box)
        cropped = self.crop.render(pixels, part, self.crop.size)
        return MaskedView(cropped, mask, key, self.crop.render(pixels, part, size, lanczos=lanczos))

    @property
    def tiles(self) -> bool:
        """Whether parts of images are wanted as they are."""
        return self.crop.kind == "tile"


class PlainView(NamedTuple):
    """An image `c h w`, and the key of whatever is random about it; in a batch each has a leading axis b."""

    images: Any
    key: Any


@dataclass(frozen=True, kw_only=True)
class PlainViews:
    """One random crop, possibly flipped."""

    crop: Crop

    def __call__(self, image: np.ndarray | Picture, rng: random.Random) -> PlainView:
        return PlainView(self.crop(image, rng), np.int64(rng.getrandbits(62)))

    @property
    def tiles(self) -> bool:
        """Whether parts of images are wanted as they are."""
        return self.crop.kind == "tile"
