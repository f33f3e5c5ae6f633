"""What one image tells in one pass: whether it decodes, what it holds, its fingerprints, and how long that takes."""

from __future__ import annotations

import io
import time
from typing import NamedTuple

import numpy as np
from PIL import Image

from contextae.audit.likeness import Likeness, exact_hash, likeness
from contextae.data.decode import DAMAGE, FORMATS, ORIENTATION
from contextae.data.facts import TOO_LARGE, ImageFacts, Unsupported
from contextae.data.index import Source
from contextae.data.picture import picture
from contextae.data.samples import UNUSABLE, reason_of
from contextae.data.sources.listing import DICOM, JPEG, JPEG2000, NETPBM, suffix_of
from contextae.data.sources.mixed import Mixed
from contextae.data.sources.packed import Packed
from contextae.data.statistics import Moments, moments_of

NAMED = {
    **dict.fromkeys(JPEG, "JPEG"),
    **dict.fromkeys(JPEG2000, "JPEG2000"),
    **dict.fromkeys(NETPBM, "PPM"),
    **dict.fromkeys(DICOM, "DICOM"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".npy": "NumPy",
}
"""The format that the end of a name promises. Names that end otherwise promise nothing."""
CONSTANT_SPAN = 3
"Of 8-bit values, up to which an image is constant: a plain page that was saved as JPEG."
SAMPLED = 64  # rows and columns of a first look at whether an image is constant


class Pixels(NamedTuple):
    """Of an image that decodes, at its own channels and type."""

    exact: bytes
    likeness: Likeness
    constant: bool
    moments: Moments


class Seen(NamedTuple):
    """`facts` where the header is whole, `pixels` where all is; else the `reason`. `sound`: merely of a kind not read.

    `read_seconds` are by the clock, from the first look at the header, `decode_seconds` by the processor's.
    """

    facts: ImageFacts | None
    pixels: Pixels | None
    reason: str | None = None
    sound: bool = False
    rotated: bool = False
    misnamed: bool = False
    read_seconds: float = 0.0
    decode_seconds: float = 0.0


def examine(source: Source, name: str) -> Seen:
    """The image of that id, its header first, as that says whether the rest is worth reading. BadImage and the like
    where not even the header can be read."""
    began = time.perf_counter()
    facts = source.probe(name)
    misnamed = holds_files(source, name) and NAMED.get(suffix_of(name), facts.format) != facts.format
    if facts.parts:
        return Seen(facts, None, TOO_LARGE, misnamed=misnamed)
    try:
        data = source.read(name)
        read_seconds, began = time.perf_counter() - began, time.thread_time()
        image = pixels_of(data, facts)
        decode_seconds = time.thread_time() - began
    except UNUSABLE as error:
        return Seen(facts, None, reason_of(error), isinstance(error, Unsupported), misnamed=misnamed)
    rotated = isinstance(data, bytes) and is_rotated(data)
    pixels = Pixels(exact_hash(image), likeness(image), is_constant(image), moments_of(image))
    return Seen(facts, pixels, None, False, rotated, misnamed, read_seconds, decode_seconds)


def pixels_of(data: bytes | np.ndarray, facts: ImageFacts) -> np.ndarray:
    """All of an image h w c, refused by the same damage as in a training."""
    opened = picture(data, channels=facts.channels, dtype=facts.dtype)
    height, width = opened.shape[:2]
    return opened.part((0.0, 0.0, float(width), float(height)), (height, width)).image


def holds_files(source: Source, name: str) -> bool:
    """Whether the name is that of what is read; images in a packed cache keep the names of the files it is made of."""
    if isinstance(source, Mixed):
        source = source.sources[name.partition("/")[0]]
    return not isinstance(source, Packed)


def is_rotated(data: bytes) -> bool:
    """EXIF says that it is to be turned or mirrored. Of a PNG only where that stands before the pixels."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format == "PNG" and "exif" not in image.info:
                return False
            return int(image.getexif().get(ORIENTATION, 1)) != 1
    except DAMAGE:  # of a file that others read, such as DICOM, or not at all
        return False


def is_constant(image: np.ndarray) -> bool:
    """No channel of h w c varies: not at all, or of 8 bits by no more than CONSTANT_SPAN."""
    most = CONSTANT_SPAN if image.dtype == np.uint8 else 0
    height, width, channels = image.shape
    some = image[:: max(1, height // SAMPLED), :: max(1, width // SAMPLED)]
    return all(
        bool((np.ptp(part.reshape(-1, channels).astype(np.float64), axis=0) <= most).all()) for part in (some, image)
    )
