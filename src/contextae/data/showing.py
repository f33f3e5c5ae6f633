"""Some images of a source, to be drawn: decoded one by one in processes that may die of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contextae.data.augment import fit
from contextae.data.decode import decode
from contextae.data.each import Look, look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import Source, picture_of

PER_PROCESS = 64


@dataclass(frozen=True)
class Whole:
    """The image of an id as h w c, decoded to these channels and this type."""

    channels: int
    dtype: str

    def __call__(self, source: Source, sample_id: str) -> np.ndarray:
        return decode(source.read(sample_id), channels=self.channels, dtype=self.dtype)


@dataclass(frozen=True)
class Small:
    """The same, its longer side at most `side`."""

    side: int
    channels: int
    dtype: str

    def __call__(self, source: Source, sample_id: str) -> np.ndarray:
        image = picture_of(source, sample_id, self.channels, self.dtype)
        height, width = image.shape[:2]
        scale = min(1.0, self.side / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return fit(image, size).transpose(1, 2, 0)


def show_each(look: Look, source: Source, ids: Sequence[str]) -> list[np.ndarray | Refusal]:
    """What `look` makes of each id, in their order; of what cannot be read the Refusal with its reason."""
    parts = look_at_each(look, source, ids, chunk=1, per_process=PER_PROCESS)
    return [each for part in parts for each in part]
