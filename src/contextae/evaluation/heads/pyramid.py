"""The feature pyramid of a plain Vision Transformer: four maps of one size become maps at 4, 2, 1 and 0.5 of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn


class ViTPyramid(nn.Module):
    """x4: transposed convolution, `norm`, GELU, transposed convolution; x2: one; x1: as it is; x0.5: max pooling.

    As released for CAE's segmentation and detection, after BEiT's. Transposed convolutions are 2 x 2 with stride 2 and
    keep the width; initialisation is torch's own, as there. An odd grid keeps its last row and column when it is
    pooled [published: drops them].
    """

    def __init__(self, *, width: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.width = width
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            norm(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, stride=2),
        )
        self.up2 = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.down2 = nn.MaxPool2d(2, stride=2, ceil_mode=True)

    def forward(self, maps: Sequence[Float[Tensor, "b d h w"]]) -> list[Tensor]:
        first, second, third, fourth = maps
        return [self.up4(first), self.up2(second), third, self.down2(fourth)]
