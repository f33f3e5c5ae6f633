"""Where the network looks for objects: anchors of every level, and the level that a region is read from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align
from torchvision.ops.poolers import initLevelMapper

SHARES = (1 / 4, 1 / 2, 1.0, 2.0)
"""Strides of the levels that regions are read from, in patches; a fifth, of 4, is for proposals alone."""

SAMPLES = 2
"""Points along each axis that a value of a region is the mean of [torchvision]."""


class Anchors(nn.Module):
    """Boxes around the middle of every cell: `scales` times its level's stride, of each ratio of height to width.

    Differs from torchvision's, whose strides and boxes are whole pixels and whose boxes lie around a cell's corner: a
    patch of 14 pixels has a level of stride 3.5.
    """

    def __init__(self, *, patch: int, scales: Sequence[float], ratios: Sequence[float]) -> None:
        super().__init__()
        self.strides = [share * patch for share in (*SHARES, 2 * SHARES[-1])]
        self.per_cell = len(scales) * len(ratios)
        sides = [(scale * ratio**-0.5, scale * ratio**0.5) for scale in scales for ratio in ratios]  # width, height
        self.cell = torch.tensor([(-wide / 2, -high / 2, wide / 2, high / 2) for wide, high in sides])

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        """For each image the same n 4, level by level, row by row, as left, top, right, bottom."""
        levels = []
        for stride, values in zip(self.strides, maps, strict=True):
            rows, columns = (torch.arange(length, device=values.device) + 0.5 for length in values.shape[-2:])
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            middles = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            levels.append(((middles + self.cell.to(values.device)) * stride).reshape(-1, 4))
        return [torch.cat(levels)] * len(images.image_sizes)


class Pooling(nn.Module):
    """Regions as `size` x `size` values, of the level on which an object of 14 patches has the stride of a patch
    [arXiv 1612.03144: of 224 pixels that of 16].

    Differs from torchvision's MultiScaleRoIAlign, which rounds strides to powers of two and reads half a cell to the
    right and below of where a region lies.
    """

    def __init__(self, size: int, *, patch: int) -> None:
        super().__init__()
        self.size, self.strides = size, [share * patch for share in SHARES]
        self.level_of = initLevelMapper(2, 5, canonical_scale=14 * patch, canonical_level=4)

    def forward(
        self, maps: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Float[Tensor, "r c s s"]:
        """Of all boxes of all images, in their order; sizes of images are not needed."""
        levels = self.level_of(boxes)
        regions = torch.cat([nn.functional.pad(each, (1, 0), value=float(i)) for i, each in enumerate(boxes)])
        found = regions.new_zeros(len(regions), maps["0"].shape[1], self.size, self.size)
        for level, stride in enumerate(self.strides):
            chosen = torch.where(levels == level)[0]
            found[chosen] = roi_align(
                maps[str(level)].float(),
                regions[chosen],
                output_size=self.size,
                spatial_scale=1 / stride,
                sampling_ratio=SAMPLES,
                aligned=True,
            )
        return found
