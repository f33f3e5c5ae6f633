"""A discrete VAE for the user's own images: an image becomes a grid of codes, and codes become an image again.

After the d-VAE of DALL-E (Ramesh et al., arXiv 2102.12092, section 2.1 and appendix A), which CAE and BEiT take their
targets from: convolutions, a codebook, the Gumbel-softmax relaxation. Ours is small, because it is trained on
thousands of images and not on hundreds of millions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from contextae.errors import UserError


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity; normalised over groups of channels, so batches do not matter."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        groups = math.gcd(8, width)
        self.norm1, self.conv1 = nn.GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class DVAE(nn.Module):
    """Logits over `num_codes` codes for each `stride` x `stride` pixels, a codebook, and a decoder of its vectors.

    Works on images in 0..1 of any size that the stride divides. `decode` is given vectors of the codebook, or weighted
    means of them while the choice is relaxed in training.
    """

    def __init__(self, *, channels: int, num_codes: int, stride: int, width: int) -> None:
        super().__init__()
        halvings = int(math.log2(stride)) if stride > 0 else 0
        if stride < 2 or 2**halvings != stride:
            raise UserError(f"The stride of a d-VAE must be a power of two, 2 at least. Got {stride}.")
        self.channels, self.num_codes, self.stride, self.width = channels, num_codes, stride, width
        down: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
        up: list[nn.Module] = []
        for _ in range(halvings - 1):
            down += [ResidualBlock(width=width), nn.Conv2d(width, width, 4, stride=2, padding=1)]
            up += [nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), ResidualBlock(width=width)]
        self.encoder = nn.Sequential(*down, ResidualBlock(width=width), nn.ReLU(), nn.Conv2d(width, num_codes, 1))
        self.codebook = nn.Parameter(torch.randn(num_codes, width))
        self.decoder = nn.Sequential(
            ResidualBlock(width=width), *up, nn.ReLU(), nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)
        )

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        """Unnormalised log-probabilities of the codes."""
        return self.encoder(images - 0.5)

    def images(self, weights: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        """From weights of the codes, one-hot or relaxed; not clipped to 0..1."""
        return self.decoder(torch.einsum("bkij,kd->bdij", weights, self.codebook)) + 0.5

    def input_size(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Pixels that give a grid of codes."""
        return grid[0] * self.stride, grid[1] * self.stride

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "b c h w"]) -> Int[Tensor, "b n"]:
        """The likeliest code of each place, row-major."""
        with torch.autocast(images.device.type, enabled=False):
            return self.logits(images.float()).argmax(1).flatten(1)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b n"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Images in 0..1 of a grid of codes."""
        weights = F.one_hot(codes.unflatten(1, size), self.num_codes).permute(0, 3, 1, 2)
        return self.images(weights.to(self.codebook.dtype)).clamp(0, 1)
