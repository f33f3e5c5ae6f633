"""Linear probing: multinomial logistic regression on standardised frozen features, solved to its optimum.

Differs from the published protocol (LARS, 90 epochs, random crops, class token only): the features are those of the
whole images, the strength of an L2 penalty replaces the schedule, and the pooling is chosen. Both are chosen on a
held-out part of train, for every set of features alike, and the optimum does not depend on a learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from contextae.evaluation.heldout import split
from contextae.evaluation.logistic import Solution, covariance, solve
from contextae.evaluation.progress import Progress
from contextae.evaluation.record import Chosen
from contextae.evaluation.span import Span
from contextae.evaluation.standardise import Standardisation


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """`l2` are the weights of half the squared norm beside the mean cross-entropy, strongest first.

    Tolerances are of the solver's gradient: at the one to choose by, accuracies are settled to about 0.1 %.
    """

    version: int = 1
    l2: tuple[float, ...] = (10.0, 3.0, 1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)
    patience: int = 2
    tolerance: float = 1e-4
    choosing_tolerance: float = 1e-3
    max_iterations: int = 300


@dataclass(frozen=True)
class Linear:
    """A solution on all of train, with what was chosen on its held-out part."""

    standardise: Standardisation
    solution: Solution
    features: str
    l2: float
    held_out: float

    @property
    def chosen(self) -> Chosen:
        return {
            "features": self.features,
            "l2": self.l2,
            "iterations": self.solution.iterations,
            "gradient": self.solution.gradient,
            "converged": self.solution.converged,
        }

    def predict(self, vectors: Mapping[str, Tensor]) -> Int[Tensor, " n"]:
        return self.solution.predict(self.standardise(vectors[self.features]))


def fit(
    vectors: Mapping[str, Tensor],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    seed: int = 0,
    settings: LinearSettings | None = None,
    progress: Progress | None = None,
) -> Linear:
    """Chooses strength and vectors on a held-out part of train and solves again on all of train.

    Sees train alone: the test images are met in `predict`. Standardisation is fitted on the part that is fitted on.
    """
    settings = settings or LinearSettings()
    parts = split(labels, seed=seed)
    tried: list[tuple[str, float, Solution, float]] = []
    for done, (name, values) in enumerate(vectors.items()):
        standardise = Standardisation.of(values[parts.fit])
        path = _path(
            Span.of(standardise(values[parts.fit])),
            labels[parts.fit],
            standardise(values[parts.held_out]),
            labels[parts.held_out],
            num_classes=num_classes,
            settings=settings,
        )
        tried += [(name, *step) for step in path]
        if progress:
            progress("linear", (done + 1) / (len(vectors) + 1))
    name, l2, start, held_out = max(tried, key=lambda each: each[3])
    standardise = Standardisation.of(vectors[name])
    whole = Span.of(standardise(vectors[name]))
    solution = solve(
        whole.coordinates,
        labels,
        covariance(whole.coordinates),
        num_classes=num_classes,
        l2=l2,
        start=start if len(start.weight) == whole.coordinates.shape[1] else None,  # else other images span the space
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
    )
    if progress:
        progress("linear", 1.0)
    return Linear(standardise, replace(solution, weight=whole.weight(solution.weight)), name, l2, held_out)


def _path(
    span: Span,
    labels: Int[Tensor, " f"],
    held_out: Float[Tensor, "o d"],
    held_out_labels: Int[Tensor, " o"],
    *,
    num_classes: int,
    settings: LinearSettings,
) -> list[tuple[float, Solution, float]]:
    """Strength, solution and held-out accuracy from the strongest penalty on, each started from the one before.

    Ends when `patience` strengths in a row were no better than the best so far: weaker ones only fit train better.
    """
    moment = covariance(span.coordinates)
    path: list[tuple[float, Solution, float]] = []
    solution, best, idle = None, -1.0, 0
    for l2 in settings.l2:
        solution = solve(
            span.coordinates,
            labels,
            moment,
            num_classes=num_classes,
            l2=l2,
            start=solution,
            tolerance=settings.choosing_tolerance,
            max_iterations=settings.max_iterations,
        )
        accuracy = (
            (replace(solution, weight=span.weight(solution.weight)).predict(held_out) == held_out_labels)
            .float()
            .mean()
            .item()
        )
        path.append((l2, solution, accuracy))
        best, idle = max(best, accuracy), 0 if accuracy > best else idle + 1
        if idle == settings.patience:
            break
    return path
