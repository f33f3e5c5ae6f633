"""Whether images can be decoded, asked in processes that may die of it. Imports no torch: those processes load it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contextae.data.each import look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import Index, picture_of

CHUNK, PER_PROCESS = 16, 128


@dataclass(frozen=True)
class Decodes:
    """True, or a BadImage, for the image of an id, decoded as a whole to these channels and this type."""

    channels: int
    dtype: str

    def __call__(self, source: Any, sample_id: str) -> bool:
        whole = picture_of(source, sample_id, self.channels, self.dtype)
        height, width = whole.shape[:2]
        whole.part((0, 0, width, height), (height, width))
        return True


def refusals(index: Index) -> Iterator[list[Refusal | None]]:
    """For every image why it cannot be decoded, or None; in the order of the index, some at a time."""
    look = Decodes(index.channels, index.dtype)
    for results in look_at_each(look, index.source, index.ids, chunk=CHUNK, per_process=PER_PROCESS):
        yield [result if isinstance(result, Refusal) else None for result in results]
