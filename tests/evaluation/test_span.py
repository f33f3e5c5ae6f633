"""Coordinates in the space of a few images."""

from __future__ import annotations

import torch

from contextae.evaluation.span import Span


def test_few_images_keep_their_products_and_weights_come_back() -> None:
    features = torch.randn(20, 70)
    features -= features.mean(0)  # as standardised features are, so that their products have no inverse
    span = Span.of(features)
    assert span.coordinates.shape == (20, 20)
    assert torch.allclose(span.coordinates @ span.coordinates.T, features @ features.T, atol=1e-3)
    weight = torch.randn(20, 3)
    weight -= span.coordinates.T @ torch.linalg.lstsq(span.coordinates @ span.coordinates.T, torch.ones(20, 3)).solution
    images = features @ span.weight(span.coordinates.T @ torch.randn(20, 3))
    assert images.isfinite().all()


def test_scores_are_the_same_in_either_space() -> None:
    features = torch.randn(20, 70)
    features -= features.mean(0)
    span = Span.of(features)
    solved = span.coordinates.T @ torch.randn(20, 3)  # a combination of images, as every solution is
    assert torch.allclose(features @ span.weight(solved), span.coordinates @ solved, atol=0.05)


def test_many_images_stay_as_they_are() -> None:
    features, weight = torch.randn(70, 20), torch.randn(20, 3)
    span = Span.of(features)
    assert span.coordinates is features and span.weight(weight) is weight
