"""Codes without a network: the nearest of k mean patches. The quick variant of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contextae.grid import Grid, patchify, unpatchify


class PatchCodebook(nn.Module):
    """A codebook of whole patches in 0..1, values in (channel, row, column) order; nearest by squared distance."""

    patches: Tensor

    def __init__(self, *, channels: int, patch_size: tuple[int, int], num_codes: int) -> None:
        super().__init__()
        self.channels, self.patch_size, self.num_codes = channels, patch_size, num_codes
        self.register_buffer("patches", torch.zeros(num_codes, channels * patch_size[0] * patch_size[1]))

    def input_size(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Pixels that give a grid of codes."""
        return grid[0] * self.patch_size[0], grid[1] * self.patch_size[1]

    def codes(self, images: Float[Tensor, "b c h w"]) -> Int[Tensor, "b n"]:
        """The nearest patch of the codebook, row-major."""
        patches = patchify(images.float(), self._grid((images.shape[2], images.shape[3])))
        return nearest(patches.flatten(0, 1), self.patches).unflatten(0, patches.shape[:2])

    def decode(self, codes: Int[Tensor, "b n"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """The patches themselves, each at its place."""
        return unpatchify(self.patches[codes], self._grid(self.input_size(size)))

    def _grid(self, image_size: tuple[int, int]) -> Grid:
        return Grid(image_size=image_size, patch_size=self.patch_size, channels=self.channels)


def nearest(points: Float[Tensor, "n p"], centroids: Float[Tensor, "k p"]) -> Int[Tensor, "n"]:
    """The centroid nearest to each point; 4,096 points at a time, for memory."""
    with torch.autocast(points.device.type, enabled=False):
        squares = centroids.square().sum(1)
        return torch.cat([(part @ centroids.T).mul_(-2).add_(squares).argmin(1) for part in points.split(4_096)])


def k_means(
    points: Float[Tensor, "n p"],
    num_centroids: int,
    *,
    iterations: int,
    generator: torch.Generator,
    after_each: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "k p"]:
    """Lloyd's iterations from random points; a centroid that nothing is nearest to moves to a random point."""
    centroids = points[torch.randperm(len(points), generator=generator)[:num_centroids]].clone()
    for done in range(iterations):
        which = nearest(points, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, which, points)
        counts = torch.bincount(which, minlength=len(centroids)).unsqueeze(1)
        spare = points[torch.randint(len(points), (len(centroids),), generator=generator)]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), spare)
        after_each(done + 1)
    return centroids
