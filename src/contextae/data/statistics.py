"""Range, mean and deviation of the values, from a sample of the user's own images; ImageNet's are never assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from contextae.data.each import look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import Index, Source, chunks, picture_of, printable
from contextae.errors import UserError
from contextae.randomness import Shuffle

DEPTHS = (8, 10, 12, 14, 16)
"Bits that instruments give, in files of 16."
SMALLEST_FLOAT_STEP = 1e-6
"Of the range of floats: their counterpart of one gray level."
PIXELS, AT_LEAST = 1_000_000_000, 64
"Of large images fewer are read, so that the sample takes seconds: at least 64, and no more than 10^9 pixels beyond."
CHUNK, PER_PROCESS = 8, 64
STRIP = 1 << 20
"Pixels whose values are copied at once."
TILE = 1024
"Pixels of the side of the part that is looked at where some images are too large to be decoded."


class Statistics(NamedTuple):
    """`value_range` are the values that become 0 and 1; mean and deviation, per channel, are of values so scaled."""

    value_range: tuple[float, float]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Moments(NamedTuple):
    """Of one image: its least and greatest value, and per channel the means of values and squares."""

    low: float
    high: float
    mean: np.ndarray
    square: np.ndarray


@dataclass(frozen=True)
class MomentsOf:
    """The Moments of the image of an id, decoded to these channels and this type; with `tiles` of its middle."""

    channels: int
    dtype: str
    tiles: bool = False

    def __call__(self, source: Source, sample_id: str) -> Moments:
        whole = picture_of(source, sample_id, self.channels, self.dtype, tiles=self.tiles)
        height, width = whole.shape[:2]
        h, w = (min(height, TILE), min(width, TILE)) if self.tiles else (height, width)
        left, top = (width - w) // 2, (height - h) // 2
        image, (x, y, *_) = whole.part((left, top, left + w, top + h), (h, w))
        return moments_of(image[round(y) :][:h, round(x) :][:, :w])


def pixel_statistics(
    index: Index,
    *,
    value_range: tuple[float, float] | None = None,
    limit: int = 2000,
    seed: int = 0,
) -> Statistics:
    """Over at most `limit` images drawn by `seed`, which are read as they are used.

    Each image counts the same, whatever its size, as each is seen at one size in training. A channel that is constant
    gets a deviation of one gray level: dividing by less would turn its noise into signal. Images that cannot be decoded
    are passed over here and met again, by name, in training; UserError where none can.
    """
    ids = [index.ids[position] for position in sample(index, limit, seed)]
    look = MomentsOf(index.channels, index.dtype, tiles=any(rows["parts"].any() for rows in chunks(index.facts)))
    parts = look_at_each(look, index.source, ids, chunk=CHUNK, per_process=PER_PROCESS)
    results = [result for part in parts for result in part]
    found = [result for result in results if not isinstance(result, Refusal)]
    if not found:
        raise UserError(
            f"None of {len(ids):,} images drawn from {index.title} can be decoded, the first of them, "
            f"{printable(ids[0])}, for this reason: {results[0].reason}. Replace them."
        )
    low, high = value_range or range_of(
        index.dtype, min(result.low for result in found), max(result.high for result in found)
    )
    mean = np.mean([result.mean for result in found], axis=0)
    square = np.mean([result.square for result in found], axis=0)
    step = SMALLEST_FLOAT_STEP * (high - low) if index.dtype == "float32" else 1.0
    deviation = np.sqrt(np.maximum(square - mean**2, step**2))
    scaled = (mean - low) / (high - low), deviation / (high - low)
    return Statistics((low, high), tuple(scaled[0].tolist()), tuple(scaled[1].tolist()))


def moments_of(image: np.ndarray) -> Moments:
    """Of h w c. Whole numbers are counted, which is exact and fast; by strips, whose copies take little memory."""
    height, width, channels = image.shape
    rows = max(1, STRIP // width)
    strips = [image[top : top + rows] for top in range(0, height, rows)]
    low, high = float(image.min()), float(image.max())
    if image.dtype == np.float32:
        total, squares = np.zeros(channels), np.zeros(channels)
        for strip in strips:
            values = strip.astype(np.float64)
            total += values.sum((0, 1))
            squares += (values**2).sum((0, 1))
        return Moments(low, high, total / (height * width), squares / (height * width))
    most = np.iinfo(image.dtype).max + 1
    counts = np.zeros((channels, most), np.int64)
    for strip in strips:
        for channel in range(channels):
            counts[channel] += np.bincount(strip[:, :, channel].ravel(), minlength=most)
    levels = np.arange(most, dtype=np.float64)
    return Moments(low, high, counts @ levels / (height * width), counts @ levels**2 / (height * width))


def range_of(dtype: str, low: float, high: float) -> tuple[float, float]:
    """Of 8 bits 0 to 255; of 16 from 0 to the top of the depth that holds what was seen; of floats what was seen."""
    if dtype == "uint8":
        return 0.0, 255.0
    if dtype == "uint16":
        return 0.0, float(next(2**bits - 1 for bits in DEPTHS if high < 2**bits))
    return low, high if high > low else low + 1.0


def sample(index: Index, limit: int, seed: int) -> list[int]:
    """Positions drawn by `seed`, fewer where their pixels, by the headers, are very many."""
    drawn = Shuffle(len(index), seed, "statistics").first(limit)
    pixels = np.cumsum(index.facts["width"][drawn].astype(np.int64) * index.facts["height"][drawn])
    return [int(i) for i in drawn[: max(AT_LEAST, int((pixels <= PIXELS).sum()))]]
