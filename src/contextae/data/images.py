"""All images of an index in one array, for an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from contextae.data.augment import fit
from contextae.data.each import look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import Index, Source, picture_of

CHUNK, PER_PROCESS = 32, 64


class Unreadable(NamedTuple):
    position: int
    reason: str


class Loaded(NamedTuple):
    """`images` is n c h w, uint8 or, of other types, float32; row i is the image at `positions[i]` of the index."""

    images: np.ndarray
    positions: np.ndarray
    left_out: list[Unreadable]


@dataclass(frozen=True)
class Fitted:
    """The image of an id as c h w of `size`, decoded to these channels and this type."""

    size: tuple[int, int]
    channels: int
    dtype: str
    value_range: tuple[float, float]

    def __call__(self, source: Source, sample_id: str) -> np.ndarray:
        image = fit(picture_of(source, sample_id, self.channels, self.dtype), self.size)
        if self.dtype == "uint8":
            return image
        low, high = self.value_range
        return (image.astype(np.float32) - low) * (255 / (high - low))


def load_images(
    index: Index,
    size: tuple[int, int],
    channels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    value_range: tuple[float, float] | None = None,
) -> Loaded:
    """Every image that can be decoded, as an evaluation sees it: the largest central part of `size`'s aspect, resized.

    `size` is height and width; `channels` are the index's unless given. Images of other types than uint8 come as
    float32, `value_range` scaled to 0 to 255, so that whoever uses them need not know of types. They are decoded in
    processes that may die. `progress(done, total)` is called now and then.
    """
    planes = channels or index.channels
    deep = index.dtype != "uint8"
    low, high = value_range or (0.0, 255.0)
    if deep and value_range is None:
        raise ValueError(f"Images of {index.dtype} need their value_range.")
    images = np.empty((len(index), planes, *size), np.float32 if deep else np.uint8)

    left_out: list[Unreadable] = []
    look = Fitted(size, planes, index.dtype, (low, high))
    done = 0
    for results in look_at_each(look, index.source, index.ids, chunk=CHUNK, per_process=PER_PROCESS):
        for i, result in enumerate(results, start=done):
            if isinstance(result, Refusal):
                left_out.append(Unreadable(i, result.reason))
            else:
                images[i] = result
        done += len(results)
        if progress:
            progress(done, len(index))
    positions = np.setdiff1d(np.arange(len(index)), [position for position, _ in left_out])
    return Loaded(images[positions] if left_out else images, positions, left_out)
