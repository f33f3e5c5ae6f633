"""From the maps of a plain Vision Transformer, all at the stride of a patch, to maps at many strides."""

from __future__ import annotations

from collections import OrderedDict

import torch
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from contextae.evaluation.trunk import MAP_SHARES, Trunk
from contextae.grid import Grid, patchify
from contextae.positions import sine_cosine


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
        self.to_sizes = nn.ModuleList(
            [
                nn.Sequential(_twice(width, width), ChannelNorm(width), nn.GELU(), _twice(width, width)),
                _twice(width, width),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self.network = FeaturePyramidNetwork([width] * 4, channels, extra_blocks=LastLevelMaxPool())

    def forward(self, maps: list[Float[Tensor, "b d i j"]]) -> dict[str, Tensor]:
        sized = [to_size(each) for to_size, each in zip(self.to_sizes, maps, strict=True)]
        return self.network(OrderedDict((str(i), each) for i, each in enumerate(sized)))


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

    Images may have any size that is a multiple of 4 patches. At another than the trunk's own, sine-cosine positions
    are computed for it, and learned ones interpolated.
    """

    def __init__(self, *, trunk: Trunk, pyramid: nn.Module, channels: int) -> None:
        super().__init__()
        self.trunk, self.pyramid, self.out_channels = trunk, pyramid, channels

    def forward(self, images: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        return self.pyramid(self.maps(images))

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d i j"]]:
        """The trunk's, at the size of the images."""
        size, own = tuple(images.shape[2:]), self.trunk.grid
        if size == own.image_size:
            return self.trunk.maps(images)
        grid, encoder = Grid(image_size=size, patch_size=own.patch_size, channels=own.channels), self.trunk.encoder
        if encoder.learned_positions:
            table = resample_abs_pos_embed(
                encoder.positions[None], list(grid.size), list(encoder.grid.size), num_prefix_tokens=0
            )[0]
        else:
            table = sine_cosine(grid.size, encoder.width).to(images.device)
        x = encoder.patch_embed(patchify(images, grid)) + table
        x = torch.cat([encoder.class_token.expand(len(x), 1, -1), x], dim=1)
        layers = []
        for block in encoder.blocks:
            x = block(x)
            layers.append(x)
        wanted = (layers[max(1, round(self.trunk.depth * share)) - 1] for share in MAP_SHARES)
        return [layer[:, 1:].mT.unflatten(2, grid.size) for layer in wanted]
