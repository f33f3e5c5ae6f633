"""All images of an index in one array, for an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from contextae.data.augment import fit
from contextae.data.decode import decode, quiet
from contextae.data.facts import BadImage
from contextae.data.index import Index

CHUNK = 32


class Unreadable(NamedTuple):
    position: int
    reason: str


class Loaded(NamedTuple):
    """`images` is n c h w, uint8 or, of other types, float32; row i is the image at `positions[i]` of the index."""

    images: np.ndarray
    positions: np.ndarray
    left_out: list[Unreadable]


def load_images(
    index: Index,
    size: tuple[int, int],
    channels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    value_range: tuple[float, float] | None = None,
    threads: int = 4,
) -> Loaded:
    """Every image that can be decoded, as an evaluation sees it: the largest central part of `size`'s aspect, resized.

    `size` is height and width; `channels` are the index's unless given. Images of other types than uint8 come as
    float32, `value_range` scaled to 0 to 255, so that whoever uses them need not know of types. Decoding and resizing
    happen outside Python's lock, so threads help; their number changes nothing but the time. `progress(done, total)` is
    called now and then.
    """
    planes = channels or index.channels
    deep = index.dtype != "uint8"
    low, high = value_range or (0.0, 255.0)
    if deep and value_range is None:
        raise ValueError(f"Images of {index.dtype} need their value_range.")
    images = np.empty((len(index), planes, *size), np.float32 if deep else np.uint8)

    def part(start: int) -> list[Unreadable]:
        bad = []
        for i in range(start, min(start + CHUNK, len(index))):
            try:
                image = fit(decode(index.read(i), channels=planes, dtype=index.dtype), size)
                images[i] = (image.astype(np.float32) - low) * (255 / (high - low)) if deep else image
            except BadImage as error:
                bad.append(Unreadable(i, error.reason))
        return bad

    left_out: list[Unreadable] = []
    with quiet(), ThreadPoolExecutor(threads) as pool:
        for done, bad in enumerate(pool.map(part, range(0, len(index), CHUNK)), start=1):
            left_out += bad
            if progress:
                progress(min(done * CHUNK, len(index)), len(index))
    positions = np.setdiff1d(np.arange(len(index)), [position for position, _ in left_out])
    return Loaded(images[positions] if left_out else images, positions, left_out)
