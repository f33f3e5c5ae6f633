"""A network with an encoder's interface, small enough to reason about."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from contextae.grid import Grid

MEAN, DEVIATION = (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)


class StandIn(nn.Module):
    """Patches of 4 x 4 of images of 8 x 12, one layer, with a batch normalisation that would show a wrong mode."""

    def __init__(self, *, width: int = 8, channels: int = 3) -> None:
        super().__init__()
        self.grid = Grid(image_size=(8, 12), patch_size=(4, 4), channels=channels)
        self.width, self.num_heads = width, 2
        self.embed = nn.Conv2d(channels, width, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(width))
        self.norm = nn.BatchNorm1d(width)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def summary_and_latents(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.norm(self.embed(images).flatten(2)).transpose(1, 2)
        return self.class_token * latents.amax(dim=1), latents


def separable(n: int, *, num_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of 8 x 12 whose class is their colour and a stripe's place under noise, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % num_classes)
    images = rng.normal(120, 30, (n, 3, 8, 12))
    for image, label in zip(images, labels, strict=True):
        image[label % 3] += 45
        image[:, :, 4 * (label % 3) : 4 * (label % 3) + 2] += 60
    return images.clip(0, 255).astype(np.uint8), labels
