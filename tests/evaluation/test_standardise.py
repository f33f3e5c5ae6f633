"""Standardisation by train, and by train alone."""

from __future__ import annotations

import torch

from contextae.evaluation.standardise import Standardisation


def test_train_becomes_standard_and_other_features_use_trains_statistics() -> None:
    train = 3 * torch.randn(500, 7) + torch.arange(7)
    standardise = Standardisation.of(train)
    assert torch.allclose(standardise(train).mean(0), torch.zeros(7), atol=1e-5)
    assert torch.allclose(standardise(train).std(0, correction=0), torch.ones(7), atol=1e-4)
    other = torch.randn(5, 7)
    assert torch.allclose(standardise(other), (other - train.mean(0)) / train.std(0, correction=0), atol=1e-4)
    assert torch.equal(standardise(other)[:2], standardise(other[:2])), "no statistics of the other features"


def test_a_constant_dimension_is_dropped() -> None:
    train = torch.randn(50, 2)
    train[:, 1] = 0.1
    assert Standardisation.of(train)(torch.ones(1, 2))[0, 1] == 0
    assert torch.equal(Standardisation.of(torch.ones(5, 2))(torch.full((1, 2), 9.0)), torch.zeros(1, 2))


def test_a_representation_and_a_multiple_of_it_are_the_same() -> None:
    train = torch.randn(50, 3)
    assert torch.allclose(Standardisation.of(train)(train), Standardisation.of(1e-4 * train)(1e-4 * train), atol=1e-4)
