"""Weighted kNN against brute force, and how it chooses."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor

from contextae.evaluation.knn import KnnSettings, classify, fit, unit


def brute_force(queries: Tensor, bank: Tensor, labels: Tensor, k: int, temperature: float) -> list[int]:
    found = []
    for query in queries:
        cosines = [float(query @ each / (query.norm() * each.norm())) for each in bank]
        nearest = sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]
        votes: dict[int, float] = defaultdict(float)
        for i in nearest:
            votes[int(labels[i])] += math.exp(cosines[i] / temperature)
        found.append(max(votes, key=votes.__getitem__))
    return found


def test_equals_brute_force_for_every_k_and_chunk() -> None:
    bank, queries, labels = torch.randn(60, 5), torch.randn(17, 5), torch.randint(4, (60,))
    for chunk in (4, 100):
        settings = KnnSettings(chunk=chunk, temperature=0.3)
        before = queries.clone()
        found = classify(queries, unit(bank.clone()), labels, ks=(1, 7, 200), classes=4, settings=settings)
        assert torch.equal(queries, before)
        for k, classes in found.items():
            assert classes.tolist() == brute_force(queries, bank, labels, k, 0.3), k


def clusters(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """One telling dimension of deviation 1 among three of deviation 100 that tell nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    features = torch.randn(n, 4, generator=generator) * torch.tensor([0.7, 100, 100, 100]) + 50
    features[:, 0] += 2 * labels
    return features, labels


def test_features_are_standardised_by_train_alone() -> None:
    (train, labels), (test, test_labels) = clusters(600), clusters(200, seed=1)
    fitted = fit({"a": train}, labels, num_classes=2)
    assert (fitted.predict({"a": test}) == test_labels).float().mean() > 0.8
    assert torch.equal(fitted.predict({"a": test})[:5], fitted.predict({"a": test[:5]}))


def test_the_better_vectors_and_k_are_chosen_and_equals_go_to_the_first() -> None:
    features, labels = clusters(400)
    vectors = {"noise": torch.randn(400, 4), "telling": features, "the same": features}
    fitted = fit(vectors, labels, num_classes=2, settings=KnnSettings(neighbours=(1, 9)))
    assert fitted.features == "telling" and fitted.k == 9
    assert fitted.chosen == {"features": "telling", "k": 9} and fitted.held_out > 0.75
    assert len(fitted.bank) == 400, "all of train votes once k is chosen"
