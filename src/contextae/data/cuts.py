"""The part of an image that a crop needs, neither resized nor flipped: what the device resizes instead of a loader
process.

A cut holds the pixels under the kernel of a bicubic resize and nothing else, so that a packed raw image is read as far
as that and copied once. The draws are those of `Crop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from contextae.data.augment import Part
from contextae.data.picture import Picture, region
from contextae.data.resize import RADIUS, near
from contextae.errors import UserError

BICUBIC = RADIUS[False]


class Cut(NamedTuple):
    """`pixels` h w c as decoded, the box (left, top, right, bottom) among them, and whether it is flipped."""

    pixels: np.ndarray
    box: tuple[float, float, float, float]
    flipped: bool


class Cuts(NamedTuple):
    """Those of a batch: `pixels` b h w c of the largest, the rest of each zero; `sizes` b 2 are each one's own height
    and width, `boxes` b 4 as of Cut, `flipped` b."""

    pixels: Any
    sizes: Any
    boxes: Any
    flipped: Any


def cut(image: np.ndarray | Picture, part: Part, size: tuple[int, int]) -> Cut:
    """For a crop of `size` (height, width); of an array h w c a view, not a copy. BadImage of a damaged picture."""
    if part.jitters:
        raise UserError(
            "Colours are changed by loader processes, which then resize as well. Set crop.colour_jitter=0, or let them "
            "crop."
        )
    pixels, box = near(*region(image, part.box, size), size, BICUBIC)
    return Cut(pixels, box, part.flipped)


def stacked(cuts: Sequence[Cut]) -> Cuts:
    """A batch; the only copy of the pixels."""
    sizes = np.array([one.pixels.shape[:2] for one in cuts], np.int32)
    height, width = sizes.max(0).tolist()
    pixels = np.zeros((len(cuts), height, width, cuts[0].pixels.shape[2]), cuts[0].pixels.dtype)
    for row, (h, w), one in zip(pixels, sizes.tolist(), cuts, strict=True):
        row[:h, :w] = one.pixels
    boxes = np.array([one.box for one in cuts], np.float64)
    return Cuts(pixels, sizes, boxes, np.array([one.flipped for one in cuts]))
