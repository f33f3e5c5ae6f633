"""What one image becomes before a method sees it. Free of torch, because loader workers run it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from contextae.data.augment import Crop
from contextae.masking import Mask, Masker


class MaskedView(NamedTuple):
    """An image `c h w` with its mask, and the key of its stochastic depth; in a batch each has a leading axis b."""

    images: Any
    mask: Mask
    key: Any


@dataclass(frozen=True, kw_only=True)
class MaskedViews:
    """One random crop, possibly flipped, and one mask; all draws come from the sample's own stream."""

    crop: Crop
    masker: Masker

    def __call__(self, image: np.ndarray, rng: random.Random) -> MaskedView:
        cropped = self.crop(image, rng)
        mask = self.masker(rng)
        return MaskedView(cropped, mask, np.int64(rng.getrandbits(62)))
