"""Least squares with an L2 penalty, and what it would predict for each image had that image been left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from contextae.evaluation.span import Span


class Solved:
    """Least squares of one-hot classes on features of zero mean, for every penalty by one eigendecomposition."""

    def __init__(self, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, num_classes: int) -> None:
        self.span = Span.of(features)
        coordinates = self.span.coordinates.double()
        self.n = len(features)
        self.wanted = F.one_hot(labels, num_classes).double()
        self.share = self.wanted.mean(dim=0)
        values, self.basis = torch.linalg.eigh(coordinates.T @ coordinates / self.n)
        self.spectrum = values.clamp(min=0)  # rounding can leave that of an empty direction slightly below zero
        self.rotated = coordinates @ self.basis
        self.products = self.rotated.T @ (self.wanted - self.share) / self.n

    def weight_and_bias(self, l2: float) -> tuple[Float[Tensor, "d k"], Float[Tensor, " k"]]:
        """(X'X / n + l2) W = X'Y / n; the bias is the mean of the one-hot classes and bears no penalty."""
        weight = self.basis @ (self.products / (self.spectrum + l2)[:, None])
        return self.span.weight(weight.float()), self.share.float()

    def left_out(self, l2: float) -> Float[Tensor, "n k"]:
        """What is predicted for each image by weights and bias fitted on all others, with the same penalty n l2.

        With H = 11'/n + X (X'X + n l2)^-1 X' and fitted values F = H Y it is (F - h Y) / (1 - h), h the diagonal of H
        (Allen's PRESS, Technometrics 1974).
        """
        shrunk = 1 / (self.spectrum + l2)
        fitted = self.share + self.rotated @ (self.products * shrunk[:, None])
        lever = (1 / self.n + (self.rotated.square() * shrunk).sum(dim=1) / self.n).clamp(max=1 - 1e-9)[:, None]
        return ((fitted - lever * self.wanted) / (1 - lever)).float()
