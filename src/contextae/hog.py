"""Histograms of oriented gradients (Dalal and Triggs, CVPR 2005) of batches of images, of any size and channels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from contextae.errors import UserError


def hog(
    images: Float[Tensor, "b c h w"],
    *,
    cell_size: tuple[int, int],
    block_size: tuple[int, int] = (2, 2),
    orientations: int = 9,
    interpolate: bool = True,
) -> Float[Tensor, "b k"]:
    """Cell histograms, normalised over every block of neighbouring cells (L2-Hys), flattened.

    Order is (block row, block column, cell row, cell column, orientation), as in skimage.feature.hog, which this equals
    with `interpolate=False`. Blocks overlap by all but one cell; a grid smaller than a block is one block.
    """
    cells = cell_histograms(images, cell_size=cell_size, orientations=orientations, interpolate=interpolate)
    rows, columns = min(block_size[0], cells.shape[2]), min(block_size[1], cells.shape[3])
    blocks = cells.unfold(2, rows, 1).unfold(3, columns, 1)  # [b o block-rows block-columns rows columns]
    return _l2_hys(blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)).flatten(1)


def cell_histograms(
    images: Float[Tensor, "b c h w"],
    *,
    cell_size: tuple[int, int],
    orientations: int = 9,
    interpolate: bool = True,
) -> Float[Tensor, "b o rows columns"]:
    """Mean gradient magnitude per cell and unsigned orientation, not normalised.

    Of several channels the one with the strongest gradient counts, pixel by pixel. With `interpolate` a magnitude is
    shared between the two nearest orientations in proportion to its angle, otherwise it goes to one of them. Pixels
    right of and below the last whole cell are left out of the histograms.
    """
    height, width = images.shape[2:]
    if not (1 <= cell_size[0] <= height and 1 <= cell_size[1] <= width):
        raise UserError(
            f"A cell of the gradient histogram must fit into the image of {height} x {width}. Got cells of "
            f"{cell_size[0]} x {cell_size[1]}; choose smaller cells."
        )
    rows, columns = _strongest_gradient(images)
    magnitude = torch.hypot(rows, columns)
    # turned into the upper half plane, so that an angle of 180 degrees is exactly 0 and no rounding moves it to the end
    below = (rows < 0) | ((rows == 0) & (columns < 0))
    angle = torch.atan2(torch.where(below, -rows, rows).abs(), torch.where(below, -columns, columns))
    position = angle * (orientations / math.pi)
    if interpolate:
        position = position - 0.5  # to the distance from the first orientation's centre
        first = position.floor()
        share = position - first
        parts = [(first, magnitude * (1 - share)), (first + 1, magnitude * share)]
    else:
        parts = [(position.floor(), magnitude)]
    votes = images.new_zeros(len(images), orientations, height, width)
    for index, weight in parts:
        votes.scatter_add_(1, (index.long() % orientations).unsqueeze(1), weight.unsqueeze(1))
    return F.avg_pool2d(votes, cell_size)


def _strongest_gradient(images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Central differences along rows and columns, zero on the border, of the channel where they are longest."""
    rows, columns = torch.zeros_like(images), torch.zeros_like(images)
    rows[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
    columns[..., 1:-1] = images[..., 2:] - images[..., :-2]
    strongest = torch.hypot(rows, columns).argmax(dim=1, keepdim=True)
    return rows.gather(1, strongest).squeeze(1), columns.gather(1, strongest).squeeze(1)


def _l2_hys(blocks: Float[Tensor, "b r c k"], *, eps: float = 1e-5) -> Float[Tensor, "b r c k"]:
    """Unit length, values clipped at 0.2, unit length again."""
    clipped = (blocks / (blocks.square().sum(-1, keepdim=True) + eps**2).sqrt()).clamp(max=0.2)
    return clipped / (clipped.square().sum(-1, keepdim=True) + eps**2).sqrt()
