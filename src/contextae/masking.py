"""Which patches are hidden: `Mask`, index pairs with exact counts, and the maskers that draw them.

Only the standard library and numpy are used here, because masks are drawn in loader workers.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from contextae.errors import UserError
from contextae.randomness import permutation


class Mask(NamedTuple):
    """Indices of visible `b v` and masked `b m` patches, ascending from every masker; together each patch once.

    Arrays of numpy in a worker (without the batch axis), tensors in a method. The class token is never counted.
    """

    visible: Any
    masked: Any


@runtime_checkable
class Masker(Protocol):
    """Draws one mask with exactly `num_masked` masked patches out of `num_patches`."""

    @property
    def num_patches(self) -> int: ...

    @property
    def num_masked(self) -> int: ...

    def __call__(self, rng: random.Random) -> Mask: ...


def count_masked(num_patches: int, mask_ratio: float) -> int:
    """Masked patches for a ratio, at least one and leaving at least one visible."""
    if not 0 < mask_ratio < 1:
        hint = "; it is a share, not a percentage" if mask_ratio > 1 else ""
        raise UserError(f"mask_ratio must be between 0 and 1, both excluded. Got {mask_ratio}{hint}.")
    if num_patches < 2:
        raise UserError(f"A mask needs at least two patches, one visible and one masked. Got {num_patches}.")
    return min(num_patches - 1, max(1, round(num_patches * mask_ratio)))


def _mask(masked: np.ndarray) -> Mask:
    """From a flat boolean lattice to index pairs."""
    return Mask(visible=np.flatnonzero(~masked), masked=np.flatnonzero(masked))


def _check(num_patches: int, num_masked: int) -> None:
    if not 1 <= num_masked < num_patches:
        raise UserError(
            f"num_masked must leave at least one patch on either side: between 1 and {num_patches - 1} of "
            f"{num_patches} patches. Got {num_masked}."
        )


@dataclass(frozen=True, kw_only=True)
class RandomMasker:
    """Uniformly random patches, on a grid of any number of axes."""

    size: tuple[int, ...]
    num_masked: int

    def __post_init__(self) -> None:
        _check(self.num_patches, self.num_masked)

    @property
    def num_patches(self) -> int:
        return math.prod(self.size)

    def __call__(self, rng: random.Random) -> Mask:
        masked = np.zeros(self.num_patches, dtype=bool)
        masked[permutation(self.num_patches, rng)[: self.num_masked]] = True
        return _mask(masked)


@dataclass(frozen=True, kw_only=True)
class BlockMasker:
    """BEiT's block-wise masking (arXiv 2106.08254, algorithm 1), with the constants of the published CAE.

    Rectangles of an area drawn from U(min_block, what is left) and a log-uniform aspect are laid at uniform places
    until exactly `num_masked` patches are masked; a rectangle counts only if it adds at least one patch and not too
    many. A block stays strictly smaller than the grid, which favours the centre: on 14 x 14 with 98 masked, a centre
    patch is masked with probability 0.86 and a corner with 0.06.
    Differs from the published code: grids of any two lengths (or one: 1 x n) are drawn for, and after `patience` calls
    without progress the rest is filled with uniformly random patches, so it always ends; there it can loop for ever.
    A grid of three axes masks the same blocks in all frames (a tube).
    """

    size: tuple[int, ...]
    num_masked: int
    min_block: int = 16
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    patience: int = 10

    def __post_init__(self) -> None:
        _check(self.num_patches, self.num_masked)
        if self.min_block < 1 or self.patience < 1:
            raise UserError(
                f"min_block and patience must be at least 1. Got min_block={self.min_block}, patience={self.patience}."
            )
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(f"aspect must be two positive numbers, the smaller first. Got {self.aspect}.")
        if len(self.size) > 2 and self.num_masked % math.prod(self.size[:-2]):
            raise UserError(
                f"A tube masks the same patches in every frame, so num_masked must be a multiple of the number of "
                f"frames, {math.prod(self.size[:-2])}. Got {self.num_masked}."
            )

    @property
    def num_patches(self) -> int:
        return math.prod(self.size)

    def __call__(self, rng: random.Random) -> Mask:
        frames = math.prod(self.size[:-2])
        height, width = (1, *self.size)[-2:]
        masked = np.zeros((height, width), dtype=bool)
        left = self.num_masked // frames
        idle = 0
        while left and idle < self.patience:
            added = self._lay_block(masked, left, rng)
            left -= added
            idle = 0 if added else idle + 1
        if left:
            free = np.flatnonzero(~masked.ravel())
            masked.ravel()[free[permutation(len(free), rng)[:left]]] = True
        return _mask(np.tile(masked.ravel(), frames))

    def _lay_block(self, masked: np.ndarray, left: int, rng: random.Random) -> int:
        """Up to ten attempts at one rectangle; the number of patches it newly masked, 0 if none fitted."""
        height, width = masked.shape
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        for _ in range(10):
            area = self.min_block + (left - self.min_block) * rng.random()
            aspect = math.exp(low + (high - low) * rng.random())
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            # strictly smaller, as published; a lattice one patch high keeps its only row
            if not (0 < rows and 0 < columns and rows < max(height, 2) and columns < max(width, 2)):
                continue
            top = int(rng.random() * (height - rows + 1))
            start = int(rng.random() * (width - columns + 1))
            block = masked[top : top + rows, start : start + columns]
            new = rows * columns - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                return new
        return 0
