"""The optimum of logistic regression, by its own gradient, and what is chosen on the way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contextae.evaluation.linear import LinearSettings, fit
from contextae.evaluation.logistic import covariance, solve
from contextae.evaluation.standardise import Standardisation


def problem(n: int, d: int, *, num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features [n d] of very different lengths and labels that depend on some of them."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) * torch.logspace(0, -2, d)
    hidden = torch.randn(n, d, generator=generator)
    labels = (hidden[:, :num_classes] + 0.7 * torch.randn(n, num_classes, generator=generator)).argmax(1)
    return hidden @ mixing + 3, labels


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_gradient_vanishes_at_the_solution(l2: float) -> None:
    features, labels = problem(400, 15)
    features = Standardisation.of(features)(features)
    solution = solve(features, labels, covariance(features), num_classes=4, l2=l2, tolerance=1e-5)
    weight, bias = (part.double().requires_grad_() for part in (solution.weight, solution.bias))
    loss = F.cross_entropy(features.double() @ weight + bias, labels) + l2 / 2 * weight.square().sum()
    slopes = torch.autograd.grad(loss, (weight, bias))
    assert max(slope.abs().max().item() for slope in slopes) < 2e-5
    assert solution.converged and solution.loss == pytest.approx(loss.item(), abs=1e-6)
    assert solution.iterations < 100


def test_correlated_directions_take_no_more_steps_and_a_start_saves_some() -> None:
    features, labels = problem(400, 15)
    features = Standardisation.of(features)(features)
    moment = covariance(features)
    fresh = solve(features, labels, moment, num_classes=4, l2=1e-2)
    again = solve(features, labels, moment, num_classes=4, l2=1e-2, start=fresh)
    assert again.iterations <= 1 < fresh.iterations < 40


def test_more_dimensions_than_images_have_the_same_optimum() -> None:
    (features, labels), (others, _) = problem(40, 90), problem(30, 90, seed=1)
    settings = LinearSettings(l2=(1e-2,), tolerance=1e-6)
    fitted = fit({"wide": features}, labels, num_classes=4, settings=settings)
    standard = fitted.standardise(features)
    direct = solve(standard, labels, covariance(standard), num_classes=4, l2=1e-2, tolerance=1e-6)
    ours, wanted = (
        torch.addmm(solution.bias, fitted.standardise(others), solution.weight)
        for solution in (fitted.solution, direct)
    )
    assert torch.allclose(ours, wanted, atol=5e-3)


def test_strength_and_vectors_are_chosen_on_held_out_images_and_the_end_is_solved_on_all() -> None:
    features, labels = problem(600, 15)
    noise = torch.randn(600, 15)
    fitted = fit({"noise": noise, "telling": features}, labels, num_classes=4, settings=LinearSettings(l2=(1e4, 1e-2)))
    assert (fitted.features, fitted.l2) == ("telling", 1e-2)
    standard = Standardisation.of(features)(features)
    whole = solve(standard, labels, covariance(standard), num_classes=4, l2=1e-2)
    assert torch.allclose(fitted.solution.weight, whole.weight, atol=1e-3)
    assert 0.5 < fitted.held_out < 0.95


def test_weaker_penalties_are_left_out_once_they_no_longer_help() -> None:
    features, labels = problem(300, 4)
    settings = LinearSettings(l2=(0.1, 1e3, 1e4, -1.0), patience=2)  # the last one would fail
    assert fit({"a": features}, labels, num_classes=4, settings=settings).l2 == 0.1


def test_scale_of_features_does_not_matter() -> None:
    features, labels = problem(400, 6)
    scaled = 1e-4 * features
    one, other = (fit({"a": each}, labels, num_classes=4) for each in (features, scaled))
    assert (one.predict({"a": features}) == other.predict({"a": scaled})).float().mean() > 0.99
