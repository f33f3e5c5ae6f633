"""JPEG files, decoded strictly and as coarsely as a crop allows.

A crop is drawn from the height and width in the header; then the file is decoded at 1/2, 1/4 or 1/8 by its own cosine
transform where the crop still has at least the pixels that are wanted. The whole file is read all the same, at any
scale, and strictly: what libjpeg only warns of, and then fills with gray or noise, is a BadImage here.

What is neither gray nor three colours of 8 bits is left to `decode`.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from contextae.data.decode import DAMAGE, FORMATS, ORIENTATION, SIDEWAYS, decode
from contextae.data.facts import BadImage, most_pixels
from contextae.data.resize import Box, Region

SCALES = (8, 4, 2)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ITU-T T.81, table B.1: SOF0 to SOF15
HUFFMAN = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
SCAN, APP1 = 0xDA, 0xE1
ALONE = (0x00, 0x01, *range(0xD0, 0xDA))  # markers that no length follows; none belongs before the first scan
FLIPS = {2: "x", 3: "xy", 4: "y", 6: "x", 7: "xy", 8: "y"}
"EXIF orientation: what is flipped after the sideways ones were transposed [Exif 2.32, 4.6.4]."

TRUNCATED = re.compile("Premature end of JPEG file")
DAMAGED = re.compile("Corrupt JPEG data|Inconsistent progression")
"libjpeg's warnings [jerror.h] of lost pixels. Its others, of odd but harmless headers, are left to Pillow."
LEFT_OVER = re.compile("Corrupt JPEG data: ([0-9]+) extraneous bytes before marker 0xd9")


class Head(NamedTuple):
    """Of a JPEG file as stored: `tagged` where an orientation may follow in EXIF or XMP."""

    height: int
    width: int
    channels: int
    usual: bool
    tagged: bool


class Jpeg:
    """A JPEG file of one or three colours; `shape` is h w c of the upright image, as of an array."""

    def __init__(self, data: bytes, head: Head, orientation: int, channels: int) -> None:
        self.data, self.head, self.orientation, self.channels = data, head, orientation, channels
        sideways = orientation in SIDEWAYS
        self.height, self.width = (head.width, head.height) if sideways else (head.height, head.width)
        self.shape = (self.height, self.width, channels)
        self._decoded: tuple[int, np.ndarray] | None = None

    def part(self, box: Box, size: tuple[int, int]) -> Region:
        """Decoded as coarsely as leaves the box the pixels of `size` (height, width), the largest it will be shown in.

        Raises BadImage where any part of the file is damaged, wanted or not.
        """
        scale = next((s for s in SCALES if box[2] - box[0] >= s * size[1] and box[3] - box[1] >= s * size[0]), 1)
        if self._decoded is None or self._decoded[0] != scale:
            self._decoded = self._decode(scale)
        scale, image = self._decoded
        return Region(image, scaled(box, scale, (self.height, self.width), FLIPS.get(self.orientation, "")))

    def _decode(self, scale: int) -> tuple[int, np.ndarray]:
        """The upright image and its scale, which is 1 where Pillow had to decode it."""
        gray = self.head.channels == 1
        height, width = -(-self.head.height // scale), -(-self.head.width // scale)
        pixels = strictly(self.data, "GRAY" if gray else "RGB", height, width)
        if pixels is None:
            return 1, decode(self.data, channels=self.channels)
        if self.channels == 1 and not gray:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
        elif self.channels == 3 and gray:
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        return scale, upright(pixels, self.orientation)


def jpeg_of(data: bytes, channels: int) -> Jpeg | None:
    """A JPEG that is read here, as `channels`, 1 or 3; None of any other file. BadImage here, or of `part`."""
    head = head_of(data)
    if head is None:
        return None
    orientation = orientation_of(data) if head.tagged else 1
    if head.usual and orientation and head.height * head.width <= most_pixels():
        return Jpeg(data, head, orientation, channels)
    if head.channels == 4:
        strictly(data, "CMYK", 1, 1)  # for the damage alone
    return None


def head_of(data: bytes) -> Head | None:
    """From the segments before the first scan; None where it is no JPEG, or they cannot be followed."""
    if data[:2] != b"\xff\xd8":
        return None
    at, tagged, frame = 2, False, None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == SCAN:
            return frame and frame._replace(tagged=tagged)
        if marker in ALONE:
            return None
        if marker in FRAMES:
            if frame or at + 10 > len(data):
                return None
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            usual = marker in HUFFMAN and data[at + 4] == 8 and data[at + 9] in (1, 3)
            frame = Head(height, width, data[at + 9], usual, tagged)
            if not height or not width:  # the height may follow the scan
                return None
        tagged |= marker == APP1
        at += 2 + length
    return None


def orientation_of(data: bytes) -> int | None:
    """As Pillow reads it, which `decode` turns by; None where Pillow cannot."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            found = image.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return None
    return found if found in range(1, 9) else 1


def strictly(data: bytes, colours: str, height: int, width: int) -> np.ndarray | None:
    """Pixels h w c of the smallest scale that is not below height and width; None where Pillow is to judge the file."""
    try:
        return simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width)
    except ValueError as error:
        words = str(error)
        if TRUNCATED.match(words):
            raise BadImage("truncated file") from error
        if DAMAGED.match(words) and not only_padded(data, words):
            raise BadImage("damaged pixels") from error
        return None
    except MemoryError as error:
        raise BadImage("not enough memory to decode it") from error


def only_padded(data: bytes, words: str) -> bool:
    """Whether what libjpeg found left over at the end is zeros, which some cameras write, and not lost pixels."""
    found, end = LEFT_OVER.match(words), data.rfind(b"\xff\xd9")
    return found is not None and not data[end - int(found[1]) : end].strip(b"\0")


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of the same memory."""
    turned = pixels.swapaxes(0, 1) if orientation in SIDEWAYS else pixels
    flips = FLIPS.get(orientation, "")
    return turned[:: -1 if "y" in flips else 1, :: -1 if "x" in flips else 1]


def scaled(box: Box, scale: int, shape: tuple[int, int], flips: str) -> Box:
    """The box in an image `scale` times smaller, whose last stored pixel may stand for fewer and may come first."""
    height, width = shape
    x = -(-width // scale) - width / scale if "x" in flips else 0.0
    y = -(-height // scale) - height / scale if "y" in flips else 0.0
    return box[0] / scale + x, box[1] / scale + y, box[2] / scale + x, box[3] / scale + y
