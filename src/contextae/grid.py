"""Grid: the lattice of patches of an image, a clip or a spectrogram, and the way there and back."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from jaxtyping import Shaped
from torch import Tensor

from contextae.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Patches of `patch_size` tile an array of `channels` and `image_size`; both sizes have one number per axis.

    Values of a patch are in (channel, axis 1, axis 2, ...) order and patches in row-major order, so a linear embedding
    of `patchify(images)` has the weight of a convolutional one, reshaped. An image is (height, width), never (w, h).
    """

    image_size: tuple[int, ...]
    patch_size: tuple[int, ...]
    channels: int = 3

    def __post_init__(self) -> None:
        if len(self.image_size) != len(self.patch_size):
            raise UserError(
                f"image_size and patch_size must have the same number of axes. Got {self.image_size} and "
                f"{self.patch_size}; give one patch length per axis, (height, width) for images."
            )
        if self.channels < 1 or min(self.image_size) < 1 or min(self.patch_size) < 1:
            raise UserError(
                f"image_size, patch_size and channels must be positive. Got image_size={self.image_size}, "
                f"patch_size={self.patch_size}, channels={self.channels}."
            )
        for length, patch in zip(self.image_size, self.patch_size, strict=True):
            if length % patch:
                near = max(patch, patch * round(length / patch))
                raise UserError(
                    f"patch_size must divide image_size on every axis. Got image_size={self.image_size} and "
                    f"patch_size={self.patch_size}: {length} is not a multiple of {patch}. Use {near} instead of "
                    f"{length}, or another patch_size."
                )

    @property
    def size(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return tuple(length // patch for length, patch in zip(self.image_size, self.patch_size, strict=True))

    @property
    def num_patches(self) -> int:
        """n, patches of one image."""
        return prod(self.size)

    @property
    def patch_values(self) -> int:
        """p, values of one patch over all channels."""
        return self.channels * prod(self.patch_size)


def patchify(images: Shaped[Tensor, "b c *size"], grid: Grid) -> Shaped[Tensor, "b n p"]:
    """Cuts images into patches, row-major; values of a patch in (channel, row, column) order."""
    if tuple(images.shape[1:]) != (grid.channels, *grid.image_size):
        raise UserError(
            f"Images must have {grid.channels} channel(s) and size {grid.image_size}. Got a batch of shape "
            f"{tuple(images.shape)}; resize the images or build the network for this size."
        )
    axes = len(grid.size)
    split = images.reshape(
        len(images), grid.channels, *(s for pair in zip(grid.size, grid.patch_size, strict=True) for s in pair)
    )
    outer, inner = [2 + 2 * a for a in range(axes)], [3 + 2 * a for a in range(axes)]
    return split.permute(0, *outer, 1, *inner).reshape(len(images), grid.num_patches, grid.patch_values)


def unpatchify(patches: Shaped[Tensor, "b n p"], grid: Grid) -> Shaped[Tensor, "b c *size"]:
    """The inverse of `patchify`, exactly."""
    axes = len(grid.size)
    split = patches.reshape(len(patches), *grid.size, grid.channels, *grid.patch_size)
    pairs = (axis for a in range(axes) for axis in (1 + a, 2 + axes + a))
    return split.permute(0, 1 + axes, *pairs).reshape(len(patches), grid.channels, *grid.image_size)
