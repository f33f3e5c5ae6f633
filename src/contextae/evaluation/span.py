"""Features with more dimensions than images, in the space that the images span."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def span(features: Float[Tensor, "n d"]) -> Float[Tensor, "d r"] | None:
    """An orthonormal basis of what n images span, or None where there are at least as many images as dimensions.

    The weights of a penalised linear model lie in that span, so a solution in its coordinates is the same solution, at
    n^3 instead of d^3.
    """
    if features.shape[1] <= len(features):
        return None
    values, vectors = torch.linalg.eigh((features @ features.T).double())
    kept = values > values[-1] * 1e-7
    return (features.T @ (vectors[:, kept] / values[kept].sqrt()).float()).contiguous()


def within(basis: Float[Tensor, "d r"] | None, features: Float[Tensor, "m d"]) -> Float[Tensor, "m r"]:
    """Features in the coordinates of `span`, or as they are without one."""
    return features if basis is None else features @ basis
