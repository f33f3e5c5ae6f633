"""How good class maps are: intersection over union, pixel and class accuracies, and their bootstrap over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Integer

from contextae.errors import UserError
from contextae.evaluation.metrics import RESAMPLES
from contextae.evaluation.segmentation.classes import VOID
from contextae.randomness import key

CHUNK = 50_000_000
"""Numbers of a product that are held at once."""


def confusion(
    truth: Integer[np.ndarray, "h w"], predicted: Integer[np.ndarray, "y x"], num_classes: int
) -> Int64[np.ndarray, "k k"]:
    """Pixels by true class, down, and predicted class, across; VOID pixels of the truth are not counted."""
    if truth.shape != predicted.shape:
        raise UserError(
            f"A prediction has the size of its mask. Got {predicted.shape} and {truth.shape} (height, width); predict "
            "at the size of the mask."
        )
    counted = truth != VOID
    joint = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(joint, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Tallies:
    """Per image and class the pixels that are of the class, that are predicted as it, and that are both.

    What every metric is made of; `n` images, `k` classes.
    """

    true: Int64[np.ndarray, "n k"]
    predicted: Int64[np.ndarray, "n k"]
    both: Int64[np.ndarray, "n k"]

    @classmethod
    def of(cls, confusions: Sequence[Int64[np.ndarray, "k k"]] | Int64[np.ndarray, "n k k"]) -> Tallies:
        """Of the confusion matrix of each image."""
        matrices = np.asarray(confusions)
        return cls(matrices.sum(axis=2), matrices.sum(axis=1), matrices.diagonal(axis1=1, axis2=2).copy())

    @classmethod
    def joined(cls, parts: Sequence[Tallies]) -> Tallies:
        """Of the images of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(each, name) for each in parts]) for name in ("true", "predicted", "both")))

    def __len__(self) -> int:
        return len(self.true)

    def values(self) -> dict[str, float]:
        """Every metric of the images together."""
        total = self.sums(np.ones((1, len(self))))
        return {name: float(metric(*total)[0]) for name, metric in METRICS.items()}

    def class_iou(self) -> Float[np.ndarray, " k"]:
        """Per class, NaN of those that do not occur in the truth."""
        true, predicted, both = (part[0] for part in self.sums(np.ones((1, len(self)))))
        return np.where(true > 0, both / np.maximum(true + predicted - both, 1), np.nan)

    def sums(self, weights: Float[np.ndarray, "r n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the images, each counted as often as a row of weights says: three arrays r k."""
        true, predicted, both = (weights @ part.astype(np.float64) for part in (self.true, self.predicted, self.both))
        return true, predicted, both


def mean_iou(true: np.ndarray, predicted: np.ndarray, both: np.ndarray) -> Float[np.ndarray, " r"]:
    """Mean over the classes that occur in the truth of the intersection over the union of truth and prediction.

    Differs from implementations that also count classes which only the prediction has, each as 0.
    """
    return _mean_where(true > 0, both / np.maximum(true + predicted - both, 1))


def pixel_accuracy(true: np.ndarray, predicted: np.ndarray, both: np.ndarray) -> Float[np.ndarray, " r"]:
    """Share of pixels whose class is predicted."""
    return both.sum(axis=1) / np.maximum(true.sum(axis=1), 1)


def class_accuracy(true: np.ndarray, predicted: np.ndarray, both: np.ndarray) -> Float[np.ndarray, " r"]:
    """Mean over the classes that occur in the truth of the share of their pixels that are predicted as such."""
    return _mean_where(true > 0, both / np.maximum(true, 1))


def _mean_where(occurs: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(occurs, values, 0).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)


METRICS = {"mIoU": mean_iou, "pixel accuracy": pixel_accuracy, "mean class accuracy": class_accuracy}


def interval(seeds: Sequence[Tallies], metric: str, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval over images of the mean over seeds, which are drawn as well."""
    return _percentiles(_resampled([seeds], metric, seed)[0])


def paired_interval(a: Sequence[Tallies], b: Sequence[Tallies], metric: str, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the metric of a minus that of b: each draw takes the same images for both, and own seeds."""
    ours, theirs = _resampled([a, b], metric, seed)
    return _percentiles(ours - theirs)


def mean_value(seeds: Sequence[Tallies], metric: str) -> float:
    """Mean over seeds of a metric over all images."""
    return float(np.mean([each.values()[metric] for each in seeds]))


def _resampled(groups: Sequence[Sequence[Tallies]], metric: str, seed: int) -> list[np.ndarray]:
    """The metric under RESAMPLES draws of images, shared by all, and of seeds for each group.

    An image drawn twice counts twice; what is drawn is how often each one counts, which is the same and cheaper.
    """
    sizes = {len(each) for group in groups for each in group}
    if len(sizes) != 1 or 0 in sizes or not all(groups):
        raise UserError(
            f"An interval needs images, and the same ones on both sides. Got {sorted(sizes) or 'none'}; evaluate both "
            "on one test set."
        )
    n = sizes.pop()
    rng = np.random.default_rng(key("segmentation bootstrap", seed))
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    rows = max(1, CHUNK // (3 * groups[0][0].true.shape[1]))
    drawn = []
    for group in groups:
        values = np.stack(
            [
                np.concatenate([METRICS[metric](*each.sums(weights[i : i + rows])) for i in range(0, RESAMPLES, rows)])
                for each in group
            ]
        )
        chosen = rng.integers(len(group), size=(len(group), RESAMPLES))
        drawn.append(np.take_along_axis(values, chosen, axis=0).mean(axis=0))
    return drawn


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
