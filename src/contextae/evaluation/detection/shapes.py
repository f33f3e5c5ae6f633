"""From outlines, run lengths and images of instances to masks."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from contextae.data.decode import judged
from contextae.data.facts import BadImage
from contextae.data.sources.regular import read_regular
from contextae.errors import UserError
from contextae.evaluation.detection.objects import Instance, Mask, Polygons, Runs, Shape

PLAIN = ("1", "L", "P", "I;16", "I;16B", "I")
"""Pillow's modes of which the numbers are the instances."""


def mask_of(shape: Shape, height: int, width: int) -> Mask:
    """Of an image of this size."""
    if isinstance(shape, Mask):
        return shape
    if isinstance(shape, Polygons):
        return _filled(shape, height, width)
    if isinstance(shape, Runs):
        return tight(from_runs(shape))
    left, top, right, bottom = shape.box
    return Mask(top, left, instances_of(shape.path)[top:bottom, left:right] == shape.value)


def tight(pixels: Bool[np.ndarray, "h w"], top: int = 0, left: int = 0) -> Mask:
    """Of pixels of which the first is at `top` and `left`, only the box in which there are any."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return Mask(top, left, np.zeros((0, 0), bool))
    first, begin = int(rows[0]), int(columns[0])
    return Mask(top + first, left + begin, pixels[first : rows[-1] + 1, begin : columns[-1] + 1])


def _filled(polygons: Polygons, height: int, width: int) -> Mask:
    """A pixel belongs to an outline if its middle does, by the rule of even and odd; several outlines are united.

    Differs from pycocotools, which draws on a five times finer grid, by pixels on the outline alone.
    """
    points = np.concatenate(polygons.outlines)
    left, top = (max(0, math.floor(value)) for value in points.min(axis=0))
    right, bottom = min(width, math.ceil(points[:, 0].max())), min(height, math.ceil(points[:, 1].max()))
    pixels = np.zeros((max(0, bottom - top), max(0, right - left)), bool)
    if pixels.size:
        for outline in polygons.outlines:
            pixels |= _inside(outline - (left, top), *pixels.shape)
    return Mask(top, left, pixels)


def _inside(outline: Float[np.ndarray, "k 2"], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Pixels whose middle has an odd number of edges to its left."""
    (x0, y0), (x1, y1) = outline.T, np.roll(outline, -1, axis=0).T
    middles = np.arange(height)[:, None] + 0.5
    crossed = (y0 <= middles) != (y1 <= middles)  # h k
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x0 + (middles - y0) * (x1 - x0) / (y1 - y0)
    # of an edge that is crossed at x, pixels from the first whose middle is at x or beyond change sides
    first = np.ceil(np.where(crossed, at, 0.0) - 0.5).clip(0, width).astype(np.int64)
    changes = np.zeros((height, width + 1), np.int64)
    rows, edges = np.nonzero(crossed)
    np.add.at(changes, (rows, first[rows, edges]), 1)
    return np.cumsum(changes[:, :width], axis=1) % 2 == 1


def from_runs(runs: Runs) -> Bool[np.ndarray, "h w"]:
    values = np.arange(len(runs.counts)) % 2 == 1
    return np.repeat(values, runs.counts).reshape(runs.width, runs.height).T


def decoded_counts(text: str) -> Int[np.ndarray, " r"]:
    """COCO's compressed run lengths: groups of 5 bits in characters from 48 on, the sixth says that more follow.

    From the fourth run on it is the difference to the run before the last. ValueError where the text ends early.
    """
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            if place == len(text):
                raise ValueError("it ends within a number")
            code = ord(text[place]) - 48
            if not 0 <= code < 64:
                raise ValueError(f"{text[place]!r} is none of its characters")
            value |= (code & 31) << shift
            more = bool(code & 32)
            place, shift = place + 1, shift + 5
            if not more and code & 16:
                value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return np.array(counts, np.int64)


def instances_of(path: Path) -> Int[np.ndarray, "h w"]:
    """The numbers of an image in which every object has a value of its own and 0 is nothing; UserError for others."""
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return _instances_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _instances_of(path: Path, changed: int, num_bytes: int) -> Int[np.ndarray, "h w"]:
    """Kept for the next object of the same image, unless its file has changed."""
    try:
        data = read_regular(path)
        with judged("damaged pixels"):
            return _numbers(data)
    except OSError as error:
        raise _unreadable(path, error) from None
    except BadImage as error:
        raise UserError(f"The instances {path} cannot be used: {error.reason}. Give a PNG of numbers.") from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"The instances {path} cannot be read: {error.strerror}. Give one for every image.")


def _numbers(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        if image.mode not in PLAIN:
            raise BadImage(f"{image.mode} pixels, where one number a pixel is used, 0 for nothing")
        return np.asarray(image).astype(np.int64)


def instances_in(path: Path) -> tuple[Instance, ...]:
    """All of them, by ascending value."""
    numbers = instances_of(path)
    rows, columns = np.nonzero(numbers)
    values, which = np.unique(numbers[rows, columns], return_inverse=True)
    first = np.full((len(values), 2), np.iinfo(np.int64).max)
    last = np.full((len(values), 2), -1)
    places = np.stack([columns, rows], axis=1)
    np.minimum.at(first, which, places)
    np.maximum.at(last, which, places)
    return tuple(
        Instance(path, int(value), (int(low[0]), int(low[1]), int(high[0]) + 1, int(high[1]) + 1))
        for value, low, high in zip(values, first, last, strict=True)
    )
