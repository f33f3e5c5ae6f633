"""What predictions are compared with and how they are scored. `Pixels` here; codes and features have the same seam."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from contextae.grid import Grid

# MAE adds 1e-6 to the variance of a patch [facebookresearch/mae, models_mae.py], so that flat patches stay finite.
VARIANCE_FLOOR = 1e-6


@runtime_checkable
class Target(Protocol):
    """`width` outputs per patch, their wanted values from whole images as patches, and the loss of a prediction."""

    @property
    def width(self) -> int: ...

    def value(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n k"]: ...

    def loss(self, prediction: Float[Tensor, "b m k"], wanted: Float[Tensor, "b m k"]) -> Float[Tensor, ""]: ...

    def to_patches(
        self, prediction: Float[Tensor, "b m k"], like: Float[Tensor, "b m p"]
    ) -> Float[Tensor, "b m p"]: ...


class Pixels:
    """The pixels of a patch, by default with its own mean and deviation taken out, as MAE's best target.

    The paper predicts d-VAE codes by default and pixels in an ablation; no released code of CAE has a pixel target.
    """

    def __init__(self, *, grid: Grid, normalise: bool = True) -> None:
        self.width = grid.patch_values
        self.normalise = normalise

    def value(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n p"]:
        """Wanted values of every patch; statistics over all channels of a patch together, variance unbiased."""
        if not self.normalise:
            return patches
        mean, deviation = self._statistics(patches)
        return (patches - mean) / deviation

    def loss(self, prediction: Float[Tensor, "b m p"], wanted: Float[Tensor, "b m p"]) -> Float[Tensor, ""]:
        """Mean squared error over all elements, in float32."""
        return F.mse_loss(prediction.float(), wanted.float())

    def to_patches(self, prediction: Float[Tensor, "b m p"], like: Float[Tensor, "b m p"]) -> Float[Tensor, "b m p"]:
        """The prediction as patches to look at; the mean and deviation a patch of it lacks are those of `like`."""
        if not self.normalise:
            return prediction
        mean, deviation = self._statistics(like)
        return prediction * deviation + mean

    @staticmethod
    def _statistics(patches: Float[Tensor, "b n p"]) -> tuple[Tensor, Tensor]:
        variance = patches.var(dim=-1, keepdim=True, correction=min(1, patches.shape[-1] - 1))
        return patches.mean(dim=-1, keepdim=True), (variance + VARIANCE_FLOOR).sqrt()
