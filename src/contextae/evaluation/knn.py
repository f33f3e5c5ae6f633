"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., arXiv 1805.01978).

Differs from the paper: features are standardised by train before their length is taken out. Without, one shared
direction rules the similarities of random weights, pixels and gradients alike, and beating them would mean less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contextae.evaluation.heldout import split
from contextae.evaluation.progress import Progress
from contextae.evaluation.record import Chosen
from contextae.evaluation.standardise import Standardisation


@dataclass(frozen=True, kw_only=True)
class KnnSettings:
    """Neighbours vote with exp(cosine similarity / temperature); the most common choice is k = 20 at 0.07."""

    version: int = 1
    neighbours: tuple[int, ...] = (5, 10, 20, 50)
    temperature: float = 0.07
    chunk: int = 256


@dataclass(frozen=True)
class Knn:
    """All of train as the bank, with what was chosen on its held-out part."""

    standardise: Standardisation
    bank: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    num_classes: int
    features: str
    k: int
    held_out: float
    settings: KnnSettings

    @property
    def chosen(self) -> Chosen:
        return {"features": self.features, "k": self.k}

    def predict(self, vectors: Mapping[str, Tensor]) -> Int[Tensor, " n"]:
        votes = classify(
            self.standardise(vectors[self.features]),
            self.bank,
            self.labels,
            ks=[self.k],
            classes=self.num_classes,
            settings=self.settings,
        )
        return votes[self.k]


def fit(
    vectors: Mapping[str, Tensor],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    seed: int = 0,
    settings: KnnSettings | None = None,
    progress: Progress | None = None,
) -> Knn:
    """Chooses k and which of the vectors to use on a held-out part of train; of equals, the first.

    Sees train alone: the test images are met in `predict`.
    """
    settings = settings or KnnSettings()
    parts = split(labels, seed=seed)
    scores: dict[tuple[str, int], float] = {}
    for done, (name, values) in enumerate(vectors.items()):
        standardise = Standardisation.of(values[parts.fit])
        predicted = classify(
            standardise(values[parts.held_out]),
            unit(standardise(values[parts.fit])),
            labels[parts.fit],
            ks=settings.neighbours,
            classes=num_classes,
            settings=settings,
        )
        for k, classes in predicted.items():
            scores[name, k] = (classes == labels[parts.held_out]).float().mean().item()
        if progress:
            progress("kNN", (done + 1) / len(vectors))
    name, k = max(scores, key=scores.__getitem__)
    standardise = Standardisation.of(vectors[name])
    return Knn(standardise, unit(standardise(vectors[name])), labels, num_classes, name, k, scores[name, k], settings)


def classify(
    queries: Float[Tensor, "m d"],
    bank: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    ks: Sequence[int],
    classes: int,
    settings: KnnSettings,
) -> dict[int, Int[Tensor, " m"]]:
    """Classes predicted for each k from a bank of unit vectors; a k larger than the bank uses all of it."""
    largest = min(max(ks), len(bank))
    predicted: dict[int, list[Tensor]] = {k: [] for k in ks}
    for chunk in queries.split(settings.chunk):
        similarity, nearest = (unit(chunk.clone()) @ bank.T).topk(largest, dim=1)
        weights = ((similarity - 1) / settings.temperature).exp()  # at most 1; a common factor changes no vote
        for k, found in predicted.items():
            votes = torch.zeros(len(chunk), classes)
            found.append(votes.scatter_add_(1, labels[nearest[:, :k]], weights[:, :k]).argmax(dim=1))
    return {k: torch.cat(found) for k, found in predicted.items()}


def unit(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Vectors of length one, in place; a zero vector stays one and is as near to all others."""
    return features.div_(torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=1e-12))
