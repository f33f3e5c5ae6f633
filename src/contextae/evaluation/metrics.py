"""How good predictions are, and how sure that is: accuracies and their 95 % bootstrap intervals."""

from __future__ import annotations

import numpy as np

from contextae.errors import UserError
from contextae.randomness import key

RESAMPLES = 2_000


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose class is predicted."""
    return float(np.mean(predicted == labels))


def mean_per_class_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur in `labels` of each one's accuracy, so that frequent classes do not rule."""
    return float(np.mean([np.mean(predicted[labels == each] == each) for each in np.unique(labels)]))


def interval(correct: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the accuracy; `correct` is bool [n], or [s n] for s seeds."""
    seeds = _seeds(correct)
    return _percentiles(_resampled(seeds, [len(seeds)], seed)[0])


def paired_interval(correct_a: np.ndarray, correct_b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of accuracy a - b over the same images; each is bool [n] or [s n], with their own number of seeds.

    Every resample draws the same images for both, and each side's seeds on their own.
    """
    a, b = _seeds(correct_a), _seeds(correct_b)
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"A paired interval needs both sides on the same images. Got {a.shape[1]} and {b.shape[1]} images; "
            f"evaluate both on one test set."
        )
    mean_a, mean_b = _resampled(np.concatenate([a, b]), [len(a), len(b)], seed)
    return _percentiles(mean_a - mean_b)


def _seeds(correct: np.ndarray) -> np.ndarray:
    seeds = np.atleast_2d(np.asarray(correct, dtype=bool))
    if seeds.ndim != 2 or not seeds.size:
        raise UserError(
            f"An interval needs at least one image, as an array [n] or [seeds n]. Got shape {np.shape(correct)}."
        )
    return seeds


def _resampled(seeds: np.ndarray, groups: list[int], seed: int) -> list[np.ndarray]:
    """Accuracy of each group of rows under `RESAMPLES` draws of images, shared by all rows, and of rows per group.

    Images with the same column of right and wrong answers are exchangeable, so drawing images with replacement is one
    multinomial draw over the distinct columns: exact, and thousands of times cheaper than drawing indices.
    """
    rng = np.random.default_rng(key("bootstrap", seed))
    columns, counts = np.unique(seeds, axis=1, return_counts=True)
    n = seeds.shape[1]
    drawn = rng.multinomial(n, counts / n, size=RESAMPLES)  # [resamples columns]
    rates = drawn @ columns.T.astype(np.float64) / n  # [resamples rows]
    means, first = [], 0
    for size in groups:
        rows = first + rng.integers(size, size=(RESAMPLES, size))
        means.append(np.take_along_axis(rates, rows, axis=1).mean(axis=1))
        first += size
    return means


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
