"""What heads that say something of every pixel have in common: logits at the size of the image, and their loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class LinearDenseHead(nn.Module):
    """One linear layer per patch on whitened latents, N(0, 0.01) with zero bias as in linear probing (MAE, 2111.06377).

    Differs from batch norm and a linear layer in how latents are standardised, not in what the two can express:
    latents of an encoder that was trained for minutes differ by factors of a million in how much they vary in different
    directions, batch norm levels single dimensions alone, and hundreds of steps then end far from the optimum.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(
        self, *, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"], num_classes: int, eps: float = 1e-4
    ) -> None:
        """Moments are of the latents that are trained on; `eps`, a share of the mean variance, is added to all."""
        super().__init__()
        values, basis = torch.linalg.eigh(covariance.double())
        scale = (values.clamp(min=0) + eps * values.mean().clamp(min=1e-12)).rsqrt()
        self.register_buffer("mean", mean.float())
        self.register_buffer("whitening", ((basis * scale) @ basis.T).float())
        self.classifier = nn.Conv2d(len(mean), num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, latents: Float[Tensor, "b d h w"]) -> Float[Tensor, "b k h w"]:
        centred = latents - self.mean.reshape(-1, 1, 1)
        return self.classifier(torch.einsum("bdhw,de->behw", centred, self.whitening))


def at_size(logits: Float[Tensor, "b k h w"], size: tuple[int, int]) -> Float[Tensor, "b k y x"]:
    """Bilinear, pixel centres kept in place (align_corners=False), in float32."""
    return F.interpolate(logits.float(), size, mode="bilinear")


def pixel_loss(logits: Float[Tensor, "b k h w"], labels: Int[Tensor, "b y x"], void: int) -> Float[Tensor, ""]:
    """Cross-entropy at the size of the labels, mean over the pixels of the batch that are not void; 0 where all are."""
    height, width = labels.shape[1:]
    total = F.cross_entropy(at_size(logits, (height, width)), labels, ignore_index=void, reduction="sum")
    return total / (labels != void).sum().clamp(min=1)
