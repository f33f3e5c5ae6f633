"""What a header says of an image, and what is said of one that cannot be used."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

TOO_LARGE = "too large to be decoded as a whole"
"Why an image is not used of which tiles can be read."


class BadImage(Exception):  # noqa: N818  what it is, rather than that it is an error
    """An image that cannot be used; `reason` says why, in words that are equal for images with the same trouble."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unsupported(BadImage):
    """A sound image of a colour space, type of number or number of channels that is not read."""


class Refusal(NamedTuple):
    """Why an image cannot be used, and whether it is sound and merely of a kind that is not read."""

    reason: str
    sound: bool = False


class ImageFacts(NamedTuple):
    """What a header says. `width` and `height` are those of the upright image, `channels` are without alpha."""

    width: int
    height: int
    channels: int
    format: str
    kind: str
    frames: bool = False
    "More than one frame or page; the first is the one that is decoded."
    num_bytes: int = 0
    dtype: str = "uint8"
    "Of its values once decoded: uint8, uint16 or float32."
    photograph: bool = True
    "Of 8 bits, gray or in colours: one that becomes RGB or gray with others. Of the rest, channels are data."
    parts: bool = False
    "Too large to be decoded as a whole, and of a format of which parts can be read."


def is_too_large(height: int, width: int, samples: int = 3, bytes_per_sample: int = 1) -> bool:
    """Whether it would take more memory than an RGB image of Pillow's limit."""
    return height * width * samples * bytes_per_sample > 3 * most_pixels()


def most_pixels() -> int:
    """Pillow's own limit, at which it refuses to open an image."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 2**40)


def check_size(height: int, width: int, samples: int = 3, bytes_per_sample: int = 1) -> None:
    """Refuses what is too large, before anything is decoded."""
    if is_too_large(height, width, samples, bytes_per_sample):
        raise BadImage(too_large())


def too_large() -> str:
    return f"more than {most_pixels():,} pixels, the limit against decompression bombs"
