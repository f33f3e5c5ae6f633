"""The part of an image that a crop needs, neither resized nor flipped: what the device resizes instead of a loader
process.

A cut holds the pixels under the kernel of a bicubic resize and nothing else, so that a packed raw image is read as far
as that and copied once. The draws are those of `Crop`. A cut that is much larger than the crop is resized before it is
sent: a batch travels as large as its largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from contextae.data.picture import Picture, region
from contextae.data.resize import RADIUS, Box, near, resize

BICUBIC = RADIUS[False]
LARGEST = 4
"How often a cut's height and width may be the crop's."


class Cut(NamedTuple):
    """`pixels` h w c as decoded, the box (left, top, right, bottom) among them, and whether it is flipped."""

    pixels: np.ndarray
    box: Box
    flipped: bool


class Cuts(NamedTuple):
    """Those of a batch: `pixels` b h w c of the largest, the rest of each zero; `sizes` b 2 are each one's own height
    and width, `boxes` b 4 as of Cut, `flipped` b."""

    pixels: Any
    sizes: Any
    boxes: Any
    flipped: Any


def cut(image: np.ndarray | Picture, box: Box, size: tuple[int, int], *, flipped: bool = False) -> Cut:
    """For a crop of `size` (height, width); of an array h w c a view, not a copy. BadImage of a damaged picture."""
    pixels, inner = near(*region(image, box, size), size, BICUBIC)
    if pixels.shape[0] > LARGEST * size[0] or pixels.shape[1] > LARGEST * size[1]:
        pixels, inner = resize(pixels, size, inner).transpose(1, 2, 0), (0.0, 0.0, float(size[1]), float(size[0]))
    return Cut(pixels, inner, flipped)


def stacked(cuts: Sequence[Cut]) -> Cuts:
    """A batch; the only copy of the pixels."""
    sizes = np.array([one.pixels.shape[:2] for one in cuts], np.int32)
    height, width = sizes.max(0).tolist()
    pixels = np.zeros((len(cuts), height, width, cuts[0].pixels.shape[2]), cuts[0].pixels.dtype)
    for row, (h, w), one in zip(pixels, sizes.tolist(), cuts, strict=True):
        row[:h, :w] = one.pixels
    boxes = np.array([one.box for one in cuts], np.float64)
    return Cuts(pixels, sizes, boxes, np.array([one.flipped for one in cuts]))
