"""Fingerprints of pixels: one that is equal for equal images, and one that is near for images that look alike."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE, LOW, DETAIL = 32, 8, 16
FEWEST_LEVELS = 3.0
"Standard deviation of the small gray image, of 255, below which there is too little in it to be compared."
NO_OUTLIERS = (0.5, 99.5)  # percentiles of what an instrument recorded, between which it is looked at


class Likeness(NamedTuple):
    """Of one image. `low` has 63 bits of its coarse structure, `detail` 255 more in four words, most significant first.

    Both are signs of a cosine transform of a gray image of 32 x 32, the coarse ones against their median (pHash;
    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). `plain`: too little in it.
    """

    low: int
    detail: tuple[int, ...]
    plain: bool


def exact_hash(image: np.ndarray) -> bytes:
    """16 bytes of size, type and values of h w c; colour whose channels are all equal counts as the gray it is."""
    gray = image[:, :, :1] if is_gray(image) else image
    digest = hashlib.sha256(f"{gray.shape}{gray.dtype}".encode())
    digest.update(np.ascontiguousarray(gray).data)
    return digest.digest()[:16]


def is_gray(image: np.ndarray) -> bool:
    """All channels of h w c are equal; asked of one row first, which settles it for nearly every colour image."""
    row = image[image.shape[0] // 2]
    return bool((row == row[:, :1]).all()) and bool((image == image[:, :, :1]).all())


def likeness(image: np.ndarray) -> Likeness:
    """Of h w c of any type and number of channels; their mean stands for colours unless these are three of 8 bits."""
    small = _small_gray(image)
    wave = _COSINES @ small @ _COSINES.T
    coarse = wave[:LOW, :LOW].ravel()[1:]
    median = np.sort(coarse)[len(coarse) // 2]
    (low,), detail = _words(coarse > median), _words(wave.ravel()[1:] > 0)
    return Likeness(
        low=low,
        detail=detail,
        plain=bool(small.std() < FEWEST_LEVELS),
    )


def _small_gray(image: np.ndarray) -> np.ndarray:
    """32 x 32 of 0 to 255."""
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        gray = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("L")
        return _resized(gray).astype(np.float32)
    return levels(_resized(Image.fromarray(image.mean(axis=2, dtype=np.float32))))


def _resized(gray: Image.Image) -> np.ndarray:
    kernel = Image.Resampling.BOX if min(gray.size) >= SIDE else Image.Resampling.BILINEAR
    return np.asarray(gray.resize((SIDE, SIDE), kernel))


def levels(values: np.ndarray) -> np.ndarray:
    """Of any range, 0 to 255: what lies between the 0.5th and the 99.5th percentile; constant ones become 0."""
    low, high = np.percentile(values, NO_OUTLIERS)
    return (values.astype(np.float32) - low).clip(0, high - low) * (255 / (high - low) if high > low else 0.0)


def _words(bits: np.ndarray) -> tuple[int, ...]:
    """Of 64 bits each, the first of them 0."""
    packed = np.packbits(np.append(False, bits))
    return tuple(int(word) for word in packed.view(">u8"))


def _cosines() -> np.ndarray:
    """The lowest of DCT-II, orthonormal: rows are frequencies."""
    place, frequency = np.arange(SIDE), np.arange(DETAIL)[:, None]
    table = np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE)) * np.sqrt(2 / SIDE)
    table[0] /= np.sqrt(2)
    return table.astype(np.float32)


_COSINES = _cosines()
