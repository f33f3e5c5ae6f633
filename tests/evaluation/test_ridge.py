"""Ridge against least squares with the penalty written as further rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contextae.evaluation.ridge import RidgeSettings, fit, solve
from contextae.evaluation.standardise import Standardisation
from evaluation.test_linear import problem


@pytest.mark.parametrize(("n", "d"), [(200, 12), (30, 50)])
def test_equals_augmented_least_squares(n: int, d: int) -> None:
    features, labels = problem(n, d)
    others, _ = problem(20, d, seed=1)
    l2 = 0.05
    fitted = fit({"a": features}, labels, num_classes=4, settings=RidgeSettings(l2=(l2,)))
    x = Standardisation.of(features)(features).double()
    rows = torch.cat([x, (n * l2) ** 0.5 * torch.eye(d, dtype=torch.float64)])
    wanted = F.one_hot(labels, 4).double()
    target = torch.cat([wanted - wanted.mean(0), torch.zeros(d, 4, dtype=torch.float64)])
    weight = torch.linalg.lstsq(rows, target).solution
    scores = torch.addmm(fitted.bias, fitted.standardise(others), fitted.weight)
    assert torch.allclose(scores.double(), fitted.standardise(others).double() @ weight + wanted.mean(0), atol=1e-4)


def test_every_penalty_at_once_is_each_alone() -> None:
    features, labels = problem(100, 7)
    features = Standardisation.of(features)(features)
    many = solve(features, labels, num_classes=4, l2=(1.0, 1e-3))
    for l2, (weight, bias) in many.items():
        (alone, alone_bias) = solve(features, labels, num_classes=4, l2=[l2])[l2]
        assert torch.equal(weight, alone) and torch.equal(bias, alone_bias)
    assert many[1.0][0].norm() < many[1e-3][0].norm()


def test_what_is_chosen() -> None:
    features, labels = problem(600, 15)
    fitted = fit(
        {"noise": torch.randn(600, 3), "telling": features},
        labels,
        num_classes=4,
        settings=RidgeSettings(l2=(1e5, 0.1)),
    )
    assert fitted.chosen == {"features": "telling", "l2": 0.1} or fitted.features == "telling"
    assert fitted.held_out > 0.5
