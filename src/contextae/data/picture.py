"""A picture of which only the size is known until it is known which part of it is wanted, and how large.

Views draw their crop from `shape` and then ask for that `part`: a JPEG is decoded as coarsely as the crop allows, and
of a very large TIFF or NumPy file the tiles or rows under a tile are read alone.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np

from contextae.data import deep
from contextae.data.decode import decode
from contextae.data.facts import BadImage
from contextae.data.jpeg import jpeg_of
from contextae.data.regions import Tiles
from contextae.data.resize import Box, Region


@runtime_checkable
class Picture(Protocol):
    """Of `shape` h w c. `part` gives pixels that hold a box (left, top, right, bottom) of it, finely enough to be shown
    at `size` (height, width); BadImage where they cannot be had."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def part(self, box: Box, size: tuple[int, int]) -> Region: ...


class Whole:
    """A picture that is decoded already."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape = image, image.shape

    def part(self, box: Box, size: tuple[int, int]) -> Region:
        """All of it, and the box as it is."""
        return Region(self.image, box)


def picture(
    data: bytes | np.ndarray | BinaryIO, *, channels: int, dtype: str = "uint8", tiles: bool = False
) -> Picture:
    """What `decode` gives, h w c, with the pixels of a JPEG put off until it is known what for.

    With `tiles` those of TIFF and NumPy files of which parts can be read are, and then a file may be too large to be
    decoded as a whole. BadImage is raised here, or by `part`.
    """
    if not isinstance(data, bytes | np.ndarray):
        return Tiles(data, channels, dtype)
    if tiles and isinstance(data, bytes) and (deep.is_tiff(data) or deep.is_numpy(data)):
        with suppress(BadImage):  # one without parts, such as a turned one, or of a kind that Pillow alone reads
            return Tiles(io.BytesIO(data), channels, dtype)
    jpeg = jpeg_of(data, channels) if isinstance(data, bytes) and dtype == "uint8" and channels in (1, 3) else None
    return jpeg or Whole(decode(data, channels=channels, dtype=dtype))


def region(image: np.ndarray | Picture, box: Box, size: tuple[int, int]) -> Region:
    """The part of a picture, or of an array h w c, that shows the box at `size` (height, width) or smaller."""
    return Region(image, box) if isinstance(image, np.ndarray) else image.part(box, size)
