"""Zero mean and unit variance per dimension, by the statistics of train: batch normalisation without an affine part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Standardisation:
    """Statistics of the features it was made `of`; calling it applies them to any others.

    A dimension that never varied in train becomes zero everywhere: divided by its deviation of about nothing, it would
    drown all others on the first test image in which it does vary.
    """

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    @classmethod
    def of(cls, train: Float[Tensor, "n d"], *, eps: float = 1e-6) -> Standardisation:
        """`eps` is a share of the mean variance, so a representation and a multiple of it are the same."""
        variance, mean = torch.var_mean(train, dim=0, correction=0)
        constant = train.amax(dim=0) == train.amin(dim=0)
        floor = eps * variance[~constant].mean() if not constant.all() else torch.zeros(())
        return cls(mean=mean, scale=torch.where(constant, 0.0, (variance + floor).rsqrt()))

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (features - self.mean).mul_(self.scale)
