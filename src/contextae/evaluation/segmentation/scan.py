"""One look at every mask before anything is trained: its size and the values that it holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from contextae.data.index import Index, printable
from contextae.errors import UserError
from contextae.evaluation.progress import Progress
from contextae.evaluation.segmentation.masks import Masks

THREADS, AHEAD = 4, 64


class Scanned(NamedTuple):
    """The values of a mask, ascending, and the pixels of each."""

    values: np.ndarray
    counts: np.ndarray


def scan(masks: Masks, index: Index, part: str, progress: Progress | None) -> list[Scanned]:
    """Of every image's mask, in the order of the index; UserError at the first one whose size is not its image's."""

    def look(position: int) -> Scanned:
        name = index.ids[position]
        mask = masks.read(name)
        facts = index.facts[position]
        size = int(facts["height"]), int(facts["width"])
        if mask.shape != size:
            turned = (
                " It lies on its side, as where a camera's orientation was dropped." if mask.shape == size[::-1] else ""
            )
            raise UserError(
                f"A mask has the size of its image. {masks.name(name)} is {mask.shape[0]} x {mask.shape[1]} (height x "
                f"width) and its image, {printable(name)}, is {size[0]} x {size[1]}.{turned} Make the mask for this "
                "image again, or resize it without mixing neighbours (nearest)."
            )
        return Scanned(*np.unique(mask, return_counts=True))

    found: list[Scanned] = []
    with ThreadPoolExecutor(THREADS) as threads:
        positions = iter(range(len(index)))
        while piece := list(islice(positions, AHEAD)):
            found += threads.map(look, piece)
            if progress:
                progress(f"checking masks of {part}", len(found) / len(index))
    return found
