"""UPerNet (Xiao et al., ECCV 2018, arXiv 1807.10221): a decoder of feature pyramids for semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

POOLS = (1, 2, 3, 6)
"""Sides of the grids that pyramid pooling averages over (Zhao et al., CVPR 2017)."""


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; He initialisation (normal, fan out) [mmcv's ConvModule]."""

    def __init__(self, inputs: int, outputs: int, *, side: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Classifier(nn.Sequential):
    """Dropout of whole channels and a 1 x 1 convolution, N(0, 0.01) with zero bias [mmsegmentation]."""

    def __init__(self, width: int, num_classes: int, *, dropout: float) -> None:
        convolution = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(convolution.weight, std=0.01)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        super().__init__(nn.Dropout2d(dropout), convolution)


class PyramidPooling(nn.Module):
    """The map beside its averages over grids of `POOLS`, each projected and resized back; then one convolution."""

    def __init__(self, *, width: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvNorm(width, channels, side=1)) for side in POOLS
        )
        self.fuse = ConvNorm(width + len(POOLS) * channels, channels, side=3)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c h w"]:
        pooled = [_resized(branch(x), x) for branch in self.branches]
        return self.fuse(torch.cat([x, *pooled], dim=1))


class UPerHead(nn.Module):
    """From four maps, finest first, to class logits at the size of the finest; `channels` wide [published CAE: 768].

    The coarsest goes through pyramid pooling, the others through 1 x 1 lateral convolutions; from the coarsest on each
    is resized and added to the next finer one; all are smoothed, resized to the finest and fused by 3 x 3 convolutions.
    """

    def __init__(self, *, width: int, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.pooling = PyramidPooling(width=width, channels=channels)
        self.laterals = nn.ModuleList(ConvNorm(width, channels, side=1) for _ in range(3))
        self.smooth = nn.ModuleList(ConvNorm(channels, channels, side=3) for _ in range(3))
        self.fuse = ConvNorm(4 * channels, channels, side=3)
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b k h w"]:
        summed = [self.pooling(maps[3])]
        for lateral, x in zip(list(self.laterals)[::-1], list(maps[:3])[::-1], strict=True):
            own = lateral(x)
            summed.insert(0, own + _resized(summed[0], own))
        smoothed = [smooth(x) for smooth, x in zip(self.smooth, summed[:3], strict=True)] + [summed[3]]
        return self.classifier(self.fuse(torch.cat([_resized(x, smoothed[0]) for x in smoothed], dim=1)))


class FCNHead(nn.Module):
    """The auxiliary head: one 3 x 3 convolution and a classifier, on the map at x1 [published CAE: 256 channels]."""

    def __init__(self, *, width: int, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.convolution = ConvNorm(width, channels, side=3)
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b k h w"]:
        return self.classifier(self.convolution(x))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of another map."""
    return x if x.shape[2:] == like.shape[2:] else F.interpolate(x, like.shape[2:], mode="bilinear")
