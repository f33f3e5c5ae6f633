"""All images of an index in one array, for an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from contextae.data.augment import fit
from contextae.data.decode import BadImage, decode, quiet
from contextae.data.index import Index

CHUNK = 32


class Unreadable(NamedTuple):
    position: int
    reason: str


class Loaded(NamedTuple):
    """`images` is uint8 n c h w; its row i is the image at `positions[i]` of the index, in the index's order."""

    images: np.ndarray
    positions: np.ndarray
    left_out: list[Unreadable]


def load_images(
    index: Index,
    size: tuple[int, int],
    channels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    threads: int = 4,
) -> Loaded:
    """Every image that can be decoded, as an evaluation sees it: the largest central part of `size`'s aspect, resized.

    `size` is height and width; `channels` are the index's unless given. Pillow decodes and resizes outside Python's
    lock, so threads help; their number changes nothing but the time. `progress(done, total)` is called now and then.
    """
    planes = channels or index.channels
    images = np.empty((len(index), planes, *size), np.uint8)

    def part(start: int) -> list[Unreadable]:
        bad = []
        for i in range(start, min(start + CHUNK, len(index))):
            try:
                images[i] = fit(decode(index.read(i), channels=planes), size)
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
