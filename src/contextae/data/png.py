"""Whether a PNG file holds all the rows that its header promises. Pillow asks for no more than its data have, and
leaves the others black."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a colour type [PNG, 11.2.1]
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"Of an interlaced file: the first column and row, and the steps across and down [PNG, 8.2]."
PIECE = 1 << 20


def lacks_rows(image: Image.Image, data: bytes) -> bool:
    """Of a file that Pillow has loaded. Its data are looked at only where one of the last two rows is all zero, as one
    that was never written is: of an interlaced file the last pass fills every other row."""
    last = (image.crop((0, y, image.width, y + 1)) for y in range(max(0, image.height - 2), image.height))
    return any(row.getbbox(alpha_only=False) is None for row in last) and not holds_all(data)


def holds_all(data: bytes) -> bool:
    """Whether the compressed data give as many bytes as the header promises; zlib.error where they are damaged."""
    left, inflated, at = promised(data), zlib.decompressobj(), 8
    while left > 0 and at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        piece = data[at + 8 : at + 8 + length] if data[at + 4 : at + 8] == b"IDAT" else b""
        while piece and left > 0:
            left -= len(inflated.decompress(piece, PIECE))
            piece = inflated.unconsumed_tail
        at += 12 + length
    return left <= 0


def promised(data: bytes) -> int:
    """Bytes of all rows, each with that of its filter, by a header (IHDR)."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    total = 0
    for x, y, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-max(0, width - x) // across), -(-max(0, height - y) // down)
        total += rows * (1 + -(-columns * depth * SAMPLES[colour] // 8)) if columns else 0
    return total
