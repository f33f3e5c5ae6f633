"""A folder of 1,000 files with every trouble in a known number, and that number."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

HEIGHT, WIDTH = 40, 48
EXIF_TURNED = 6
BOMB = 30_000


def image(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Image.Image:
    """Like no other: random colours on a coarse grid, made smooth."""
    cells = np.random.default_rng(seed).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    return Image.fromarray(cells).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it is BOMB x BOMB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", BOMB, BOMB, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def gray16(seed: int) -> bytes:
    values = np.asarray(image(seed).convert("L")).astype(np.uint16) * 257
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


class MadeSet:
    """Files written to `folder`; `truth` counts what is true of them, `out` the reasons for which some are left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.truth: Counter[str] = Counter()
        self.out: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {}
        self.made, self.seed = 0, count()
        folder.mkdir()
        for _ in range(650):
            self.add(encoded(image(next(self.seed))), ".png")
        self.copies()
        self.odd()
        self.kinds()
        self.broken()
        self.fill()

    def add(self, data: bytes, suffix: str, *truths: str) -> Path:
        path = self.folder / f"part{self.made // 100:02d}" / f"{self.made:04d}{suffix}"
        self.made += 1
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        for truth in truths:
            self.truth[truth] += 1
            self.names.setdefault(truth, []).append(str(path.relative_to(self.folder)))
        return path

    def left_out(self, data: bytes, suffix: str, reason: str) -> None:
        self.add(data, suffix, f"out: {reason}")
        self.out[reason] += 1

    def originals(self, number: int) -> Iterator[Image.Image]:
        """Each is written too; that is no trouble, a copy of it will be."""
        for _ in range(number):
            original = image(next(self.seed))
            self.add(encoded(original), ".png")
            yield original

    def copies(self) -> None:
        for original in self.originals(20):
            self.add(encoded(original), ".png", "exact-duplicates")
        for original in self.originals(6):  # three of one image: two are duplicates
            self.add(encoded(original, "BMP"), ".bmp", "exact-duplicates")
            self.add(encoded(original, "PNG", compress_level=1), ".png", "exact-duplicates")
        for gray in (each.convert("L") for each in (image(next(self.seed)) for _ in range(4))):
            self.add(encoded(gray), ".png")
            self.add(encoded(gray.convert("RGB")), ".png", "exact-duplicates")
        for original in self.originals(15):
            self.add(encoded(original, "JPEG", quality=70), ".jpg", "near-duplicates")
        for original in self.originals(9):
            self.add(encoded(ImageEnhance.Brightness(original).enhance(0.85)), ".png", "near-duplicates")

    def odd(self) -> None:
        for i in range(12):
            self.add(encoded(Image.new("RGB", (WIDTH, HEIGHT), (20 * i, 30, 200 - 10 * i))), ".png", "constant")
        for i in range(5):
            self.add(encoded(Image.new("L", (WIDTH, HEIGHT), 17 + 40 * i), "JPEG"), ".jpg", "constant")
        for _ in range(11):
            self.add(encoded(image(next(self.seed), (HEIGHT, 201))), ".png", "extreme-ratio")
        for _ in range(4):
            self.add(encoded(image(next(self.seed), (HEIGHT * 4, HEIGHT))), ".png", "small")  # four to one is not more
        for _ in range(7):
            self.add(encoded(image(next(self.seed), (3, 9))), ".png", "too-small")
        for _ in range(13):
            self.add(encoded(image(next(self.seed), (HEIGHT - 1, WIDTH))), ".png", "small")
        for _ in range(9):
            self.add(encoded(image(next(self.seed))), ".jpg", "wrong-extension")

    def kinds(self) -> None:
        for _ in range(16):
            picture = image(next(self.seed)).convert("RGBA")
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
            self.add(encoded(picture), ".png", "with alpha")
        for _ in range(8):
            self.add(encoded(image(next(self.seed)).convert("CMYK"), "JPEG"), ".jpg", "CMYK")
        for _ in range(10):
            self.add(encoded(image(next(self.seed)).quantize(64)), ".png", "palette")
        for _ in range(14):
            exif = Image.Exif()
            exif[274] = EXIF_TURNED
            self.add(encoded(image(next(self.seed), (WIDTH, HEIGHT)), "JPEG", exif=exif), ".jpg", "turned")
        for _ in range(6):
            frames = [image(next(self.seed)).convert("L") for _ in range(2)]
            data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
            self.add(data, ".tif", "frames")
        for _ in range(10):
            self.left_out(gray16(next(self.seed)), ".png", "16-bit gray, another kind than most")

    def broken(self) -> None:
        for _ in range(6):
            data = encoded(image(next(self.seed)), "JPEG")
            self.left_out(data[: len(data) // 2], ".jpg", "truncated file")
        for _ in range(5):
            data = encoded(image(next(self.seed)))
            self.left_out(data[: len(data) // 2], ".png", "truncated file")
        for _ in range(7):
            self.left_out(b"", ".png", "empty file")
        for i in range(6):
            text = f"<html>not found: {i}</html>".encode()
            self.left_out(text, ".jpg", "not an image, or its header is damaged")
        for _ in range(2):
            self.left_out(bomb(), ".png", "more than 178,956,970 pixels, the limit against decompression bombs")
        for _ in range(4):
            self.left_out(b"notes", ".txt", "not an image by its extension, .txt")

    def fill(self) -> None:
        """To 1,000 in all."""
        while self.made < 1000:
            self.add(encoded(image(next(self.seed))), ".png")
