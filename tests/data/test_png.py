"""PNG files whose data end before their last row, which Pillow takes for whole."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from contextae.data.decode import decode
from contextae.data.facts import BadImage
from contextae.data.png import PASSES, holds_all, lacks_rows, promised

BITS = {"1": (1, 0), "2": (2, 0), "gray": (8, 0), "palette": (4, 3), "gray with alpha": (8, 4), "RGB": (8, 2)}
HEIGHT, WIDTH = 21, 13


def png(depth: int, colour: int, *, interlaced: bool = False, lines: int | None = None, black: int = 0) -> bytes:
    """Of ones in all bits, the last `black` rows zero; of all its lines, which a pass has of its own, the first."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2}[colour]
    data = []
    for x, y, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        row = -(-len(range(x, WIDTH, across)) * samples * depth // 8)
        rows = range(y, HEIGHT, down)
        data += [b"\0" + (bytes(row) if at >= HEIGHT - black else b"\xff" * row) for at in rows] if row else []

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, int(interlaced)))
    palette = chunk(b"PLTE", bytes(range(48))) if colour == 3 else b""
    packed = zlib.compress(b"".join(data[:lines]))
    half = len(packed) // 2
    parts = chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", b"") + chunk(b"IDAT", packed[half:])
    return b"\x89PNG\r\n\x1a\n" + head + palette + parts + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", BITS)
def test_a_file_without_its_last_rows_is_truncated(kind: str, interlaced: bool) -> None:
    whole = png(*BITS[kind], interlaced=interlaced)
    assert decode(whole, channels=3).shape == (HEIGHT, WIDTH, 3)
    for missing in (1, 2, 9):
        data = png(*BITS[kind], interlaced=interlaced, lines=-missing)
        assert np.asarray(Image.open(io.BytesIO(data))).shape[:2] == (HEIGHT, WIDTH), "by Pillow it is whole"
        with pytest.raises(BadImage, match=r"^truncated file$"):
            decode(data, channels=3)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", BITS)
def test_black_rows_are_rows(kind: str, interlaced: bool) -> None:
    for black in (1, 2, HEIGHT):
        data = png(*BITS[kind], interlaced=interlaced, black=black)
        image = decode(data, channels=3)
        if kind in ("1", "2", "gray", "RGB"):
            assert not image[-black:].any() and image[: HEIGHT - black].all()
        assert holds_all(data)


def test_what_is_promised_is_what_is_written() -> None:
    for interlaced in (False, True):
        for depth, colour in BITS.values():
            data = png(depth, colour, interlaced=interlaced)
            at, packed = data.index(b"IDAT") - 4, b""
            while data[at + 4 : at + 8] == b"IDAT":
                length = int.from_bytes(data[at : at + 4])
                packed += data[at + 8 : at + 8 + length]
                at += 12 + length
            assert promised(data) == len(zlib.decompress(packed))


def test_data_are_looked_at_only_below_a_row_of_zeros() -> None:
    broken = png(8, 0)[:-60]
    assert not lacks_rows(Image.new("L", (WIDTH, HEIGHT), 1), broken)
    assert lacks_rows(Image.new("L", (WIDTH, HEIGHT)), broken[:60])
    assert lacks_rows(Image.new("RGBA", (WIDTH, 1)), broken[:60])
    assert not lacks_rows(Image.new("RGBA", (WIDTH, HEIGHT), (1, 0, 0, 0)), broken[:60]), "transparent is not zero"
