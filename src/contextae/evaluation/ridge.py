"""Closed-form read-out: one-against-all least squares with an L2 penalty, on standardised frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from contextae.evaluation.heldout import split
from contextae.evaluation.progress import Progress
from contextae.evaluation.record import Chosen
from contextae.evaluation.span import Span
from contextae.evaluation.standardise import Standardisation


@dataclass(frozen=True, kw_only=True)
class RidgeSettings:
    """`l2` are the penalties beside the mean squared error, strongest first."""

    version: int = 1
    l2: tuple[float, ...] = (10.0, 3.0, 1.0, 0.3, 0.1, 3e-2, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Ridge:
    """A solution on all of train, with what was chosen on its held-out part."""

    standardise: Standardisation
    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, " k"]
    features: str
    l2: float
    held_out: float

    @property
    def chosen(self) -> Chosen:
        return {"features": self.features, "l2": self.l2}

    def predict(self, vectors: Mapping[str, Tensor]) -> Int[Tensor, " n"]:
        return torch.addmm(self.bias, self.standardise(vectors[self.features]), self.weight).argmax(dim=1)


def fit(
    vectors: Mapping[str, Tensor],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    seed: int = 0,
    settings: RidgeSettings | None = None,
    progress: Progress | None = None,
) -> Ridge:
    """Chooses penalty and vectors on a held-out part of train and solves again on all of train.

    Sees train alone: the test images are met in `predict`.
    """
    settings = settings or RidgeSettings()
    parts = split(labels, seed=seed)
    scores: dict[tuple[str, float], float] = {}
    for done, (name, values) in enumerate(vectors.items()):
        standardise = Standardisation.of(values[parts.fit])
        span = Span.of(standardise(values[parts.fit]))
        held_out = standardise(values[parts.held_out])
        for l2, (weight, bias) in solve(
            span.coordinates, labels[parts.fit], num_classes=num_classes, l2=settings.l2
        ).items():
            predicted = torch.addmm(bias, held_out, span.weight(weight)).argmax(dim=1)
            scores[name, l2] = (predicted == labels[parts.held_out]).float().mean().item()
        if progress:
            progress("ridge", (done + 1) / (len(vectors) + 1))
    name, l2 = max(scores, key=scores.__getitem__)
    standardise = Standardisation.of(vectors[name])
    whole = Span.of(standardise(vectors[name]))
    weight, bias = solve(whole.coordinates, labels, num_classes=num_classes, l2=[l2])[l2]
    if progress:
        progress("ridge", 1.0)
    return Ridge(standardise, whole.weight(weight), bias, name, l2, scores[name, l2])


def solve(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, num_classes: int, l2: tuple[float, ...] | list[float]
) -> dict[float, tuple[Float[Tensor, "d k"], Float[Tensor, " k"]]]:
    """Weight and bias for every penalty: (X'X / n + l2) W = X'Y / n by one eigendecomposition, in float64.

    Features have zero mean, so the bias is the mean of the one-hot classes and bears no penalty.
    """
    wanted = F.one_hot(labels, num_classes).to(features.dtype)
    share = wanted.mean(dim=0)
    values, basis = torch.linalg.eigh((features.T @ features / len(features)).double())
    rotated = basis.T @ (features.T @ (wanted - share) / len(features)).double()
    # rounding can leave an eigenvalue of an empty direction slightly below zero
    spectrum = values.clamp(min=0)[:, None]
    return {each: ((basis @ (rotated / (spectrum + each))).to(features.dtype), share) for each in l2}
