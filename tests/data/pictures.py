"""Small images that differ from each other, in any mode and format, as bytes or files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 13, 19  # prime, and never equal


def pixels(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Uint8 h w 3, smooth enough to survive JPEG."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(
    seed: int = 0, kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (HEIGHT, WIDTH), **options: Any
) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, *size)).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def write(path: Path, seed: int = 0, kind: str = "PNG", mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(seed, kind, mode, **options))
    return path


def deep_png(colour_type: int, values: int, depth: int = 16) -> bytes:
    """A PNG of 16-bit pixels, which Pillow does not write: 0 gray, 2 RGB, 4 gray with alpha, 6 RGB with alpha."""
    rows = b"".join(b"\0" + bytes(range(WIDTH * values)) * (depth // 8) for _ in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_with_extra(extra: tuple[int, ...], channels: int, photometric: int = 2, depth: int = 8) -> bytes:
    """A little-endian TIFF of whole numbers (2: RGB), of which some are extra: 0 means nothing, 1 and 2 alpha."""
    data = bytes(range(channels)) * (HEIGHT * WIDTH * depth // 8)
    entries = [
        (256, 3, (WIDTH,)),
        (257, 3, (HEIGHT,)),
        (258, 3, (depth,) * channels),
        (259, 3, (1,)),
        (262, 3, (photometric,)),
        (273, 4, (8,)),
        (277, 3, (channels,)),
        (278, 3, (HEIGHT,)),
        (279, 4, (len(data),)),
        *([(320, 3, tuple(range(768)))] if photometric == 3 else []),
        *([(338, 3, extra)] if extra else []),
    ]
    start = 8 + len(data)
    directory, overflow = struct.pack("<H", len(entries)), b""
    behind = start + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            field, overflow = struct.pack("<I", behind + len(overflow)), overflow + packed
        else:
            field = packed.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, kind, len(values)) + field
    return b"II*\0" + struct.pack("<I", start) + data + directory + struct.pack("<I", 0) + overflow
