"""From the maps of a plain Vision Transformer, all at the stride of a patch, to maps at many strides."""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from contextae.evaluation.heads.pyramid import ViTPyramid
from contextae.evaluation.trunk import Trunk


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every place of a map."""

    def forward(self, values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(values.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _twice(width: int, out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, out, 2, stride=2)


class ReleasedPyramid(nn.Module):
    """Map i at 4, 2, 1 and 1/2 times its size, then a feature pyramid network (arXiv 1612.03144) [published CAE].

    Differs from it in the norm, `ChannelNorm` for synchronised batch norm.
    """

    def __init__(self, *, width: int, channels: int) -> None:
        super().__init__()
        self.to_sizes = ViTPyramid(width=width, norm=ChannelNorm)
        self.network = FeaturePyramidNetwork([width] * 4, channels, extra_blocks=LastLevelMaxPool())

    def forward(self, maps: list[Float[Tensor, "b d i j"]]) -> dict[str, Tensor]:
        return self.network(OrderedDict((str(i), each) for i, each in enumerate(self.to_sizes(maps))))


class SimplePyramid(nn.Module):
    """All levels from the last map, without ways between them [ViTDet, arXiv 2203.16527]."""

    def __init__(self, *, width: int, channels: int) -> None:
        super().__init__()
        half, quarter = max(1, width // 2), max(1, width // 4)
        to_sizes = [
            nn.Sequential(_twice(width, half), ChannelNorm(half), nn.GELU(), _twice(half, quarter)),
            _twice(width, half),
            nn.Identity(),
            nn.MaxPool2d(2),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                to_size,
                nn.Conv2d(of, channels, 1, bias=False),
                ChannelNorm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                ChannelNorm(channels),
            )
            for to_size, of in zip(to_sizes, (quarter, half, width, width), strict=True)
        )

    def forward(self, maps: list[Float[Tensor, "b d i j"]]) -> dict[str, Tensor]:
        found = [level(maps[-1]) for level in self.levels]
        return OrderedDict((str(i), each) for i, each in enumerate([*found, found[-1][:, :, ::2, ::2]]))


PYRAMIDS: dict[str, type[ReleasedPyramid | SimplePyramid]] = {"released": ReleasedPyramid, "simple": SimplePyramid}


class Backbone(nn.Module):
    """A trunk and its pyramid: five maps by name, "0" the finest, of strides 1/4 to 4 patches.

    Images may have any size that is a multiple of 4 patches.
    """

    def __init__(self, *, trunk: Trunk, pyramid: nn.Module, channels: int) -> None:
        super().__init__()
        self.trunk, self.pyramid, self.out_channels = trunk, pyramid, channels

    def forward(self, images: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        return self.pyramid(self.trunk.maps(images))
