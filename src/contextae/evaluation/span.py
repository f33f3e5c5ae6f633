"""Features with more dimensions than images, in coordinates of the space that the images span."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 1_024


@dataclass(frozen=True)
class Span:
    """`coordinates` of n images with d values each: themselves where d <= n, otherwise n of them.

    The weights of an L2-penalised linear model are combinations of the images it was fitted on, so the solution in an
    orthonormal basis Q = X' R of their span is the same solution, for n^3 instead of d^3. With the factor X X' = L L',
    R is the inverse of L', the images' coordinates are L, and Q itself is never formed.
    """

    features: Float[Tensor, "n d"]
    factor: Float[Tensor, "n n"] | None

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> Span:
        """Of standardised features. Their products have no inverse, for they sum to zero: 1e-6 of the mean is added."""
        if features.shape[1] <= features.shape[0]:
            return cls(features, None)
        products = torch.zeros(len(features), len(features), dtype=torch.float64)
        for part in features.split(CHUNK, dim=1):
            products.addmm_(part.double(), part.double().T)  # float32 rounds by more than what is added below
        products.diagonal().add_(1e-6 * products.diagonal().mean())
        return cls(features, torch.linalg.cholesky(products).float())

    @property
    def coordinates(self) -> Float[Tensor, "n r"]:
        return self.features if self.factor is None else self.factor

    def weight(self, solved: Float[Tensor, "r k"]) -> Float[Tensor, "d k"]:
        """What was solved for the coordinates, for the features."""
        if self.factor is None:
            return solved
        return self.features.T @ torch.linalg.solve_triangular(self.factor.T, solved, upper=True)
