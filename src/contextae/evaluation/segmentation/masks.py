"""Index masks: an image file whose values, not colours, are classes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer
from PIL import Image, UnidentifiedImageError

from contextae.data.decode import DAMAGE
from contextae.data.index import printable
from contextae.data.png import lacks_rows
from contextae.data.sources.regular import read_regular
from contextae.errors import UserError

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
FORMATS = ("PNG", "TIFF", "BMP", "GIF")
MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
SCALED = {1: 1, 2: 85, 4: 17}
"""What Pillow multiplies the values of a gray PNG of so many bits by, so that the largest becomes 255; 1 of one bit."""


@runtime_checkable
class Masks(Protocol):
    """The masks of a set of images, by the id of the image."""

    def name(self, sample_id: str) -> str:
        """Where the mask comes from, for a message."""

    def read(self, sample_id: str) -> Integer[np.ndarray, "h w"]:
        """Its values as they are stored; UserError where it cannot be read."""


@dataclass(frozen=True)
class MaskFiles:
    """One file per image; `files` has its path below `root`."""

    root: Path
    files: Mapping[str, str]

    def name(self, sample_id: str) -> str:
        return printable(str(self.root / self.files[sample_id]))

    def read(self, sample_id: str) -> Integer[np.ndarray, "h w"]:
        name = self.name(sample_id)
        try:
            data = read_regular(self.root / self.files[sample_id])
        except (OSError, ValueError) as error:
            raise UserError(
                f"The mask {name} cannot be read: {getattr(error, 'strerror', None) or error}. Give it, or take its "
                "image out."
            ) from None
        return decode_mask(data, name)


def decode_mask(data: bytes, name: str) -> Integer[np.ndarray, "h w"]:
    """Gray of 1 to 16 bits or a palette, whose entries are looked at as numbers. UserError of colours and damage."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.mode not in MODES:
                raise UserError(
                    f"A mask holds one number per pixel, that of its class: a gray or a palette image of at most 16 "
                    f"bits. {name} holds {image.mode} colours; write the number of each colour's class instead, for "
                    f"example with PIL's Image.fromarray(numbers.astype('uint8')).save('mask.png')."
                )
            image.load()
            if image.format == "PNG" and lacks_rows(image, data):
                raise OSError("truncated file")
            values = np.asarray(image)
            scale = SCALED.get(data[24], 1) if image.format == "PNG" and image.mode == "L" else 1  # [PNG, 11.2.2]
    except UserError:
        raise
    except DAMAGE as error:
        what = "is no PNG, TIFF, BMP or GIF file" if isinstance(error, UnidentifiedImageError) else "is damaged"
        raise UserError(f"The mask {name} {what}. Replace it, or take its image out.") from None
    if values.dtype == bool:
        values = values.astype(np.uint8)
    return values // scale if scale > 1 else values.astype(values.dtype.newbyteorder("="), copy=False)
