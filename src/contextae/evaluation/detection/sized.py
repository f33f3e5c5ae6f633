"""The size of an image, asked in processes that may die of it. Imports no torch: those processes load it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contextae.data.decode import decode


@dataclass(frozen=True)
class Sized:
    """Height and width of the image of an id, or a BadImage, by decoding all of it."""

    channels: int
    dtype: str

    def __call__(self, source: Any, sample_id: str) -> tuple[int, int]:
        data = source.read(sample_id)
        height, width = decode(data, channels=self.channels, dtype=self.dtype).shape[:2]
        return height, width
