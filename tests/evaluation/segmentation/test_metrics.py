"""Metrics of class maps against brute force and scikit-learn, and intervals against plain resampling."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from contextae.errors import UserError
from contextae.evaluation.segmentation.classes import VOID
from contextae.evaluation.segmentation.metrics import (
    METRICS,
    Tallies,
    confusion,
    interval,
    mean_value,
    paired_interval,
)
from contextae.evaluation.segmentation.predict import tallied_constant

K = 5


def maps(n: int = 7, seed: int = 0, right: float = 0.6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Truths with void and without class 3, and predictions that are right with a probability; class 4 is predicted
    rarely."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for i in range(n):
        size = (4 + i, 9)
        truth = rng.choice([VOID, 0, 1, 2, 4], size=size, p=[0.1, 0.3, 0.3, 0.2, 0.1]).astype(np.int16)
        other = rng.integers(K, size=size).astype(np.int16)
        truths.append(truth)
        predictions.append(np.where((rng.random(size) < right) & (truth != VOID), truth, other).astype(np.int16))
    return truths, predictions


def tallies(n: int = 7, seed: int = 0, right: float = 0.6) -> Tallies:
    return Tallies.of([confusion(t, p, K) for t, p in zip(*maps(n, seed, right), strict=True)])


def flat(truths: list[np.ndarray], predictions: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = (np.concatenate([each.ravel() for each in maps]) for maps in (truths, predictions))
    return truth[truth != VOID], predicted[truth != VOID]


def test_a_confusion_matrix_is_scikit_learns_and_ignores_void() -> None:
    truths, predictions = maps()
    for truth, predicted in zip(truths, predictions, strict=True):
        counted = truth != VOID
        expected = confusion_matrix(truth[counted], predicted[counted], labels=range(K))
        assert np.array_equal(confusion(truth, predicted, K), expected)
    changed = [np.where(t == VOID, (p + 1) % K, p) for t, p in zip(truths, predictions, strict=True)]
    assert all(
        np.array_equal(confusion(t, p, K), confusion(t, c, K))
        for t, p, c in zip(truths, predictions, changed, strict=True)
    )


def test_metrics_are_scikit_learns_over_the_classes_that_occur() -> None:
    truth, predicted = flat(*maps())
    present = sorted(set(truth.tolist()))
    assert present == [0, 1, 2, 4] and 3 in predicted
    found = tallies().values()
    assert found["mIoU"] == pytest.approx(jaccard_score(truth, predicted, labels=present, average="macro"))
    assert found["pixel accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["mean class accuracy"] == pytest.approx(
        recall_score(truth, predicted, labels=present, average="macro")
    )
    per_class = tallies().class_iou()
    assert per_class[present] == pytest.approx(jaccard_score(truth, predicted, labels=present, average=None))
    assert np.isnan(per_class[3])


def test_metrics_are_what_counting_pixel_by_pixel_gives() -> None:
    truths, predictions = maps(3, seed=4)
    ious, recalls, right, total = [], [], 0, 0
    for each in range(K):
        true = predicted = both = 0
        for truth, found in zip(truths, predictions, strict=True):
            for t, p in zip(truth.flat, found.flat, strict=True):
                if t != VOID:
                    true += t == each
                    predicted += p == each
                    both += t == p == each
        right, total = right + both, total + true
        if true:
            ious.append(both / (true + predicted - both))
            recalls.append(both / true)
    values = tallies(3, seed=4).values()
    assert values == pytest.approx(
        {"mIoU": np.mean(ious), "pixel accuracy": right / total, "mean class accuracy": np.mean(recalls)}
    )


@pytest.mark.parametrize("metric", METRICS)
def test_an_interval_is_that_of_drawing_images_with_replacement(metric: str) -> None:
    whole = tallies(30, right=0.5)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(1500):
        chosen = rng.integers(30, size=30)
        drawn.append(Tallies(whole.true[chosen], whole.predicted[chosen], whole.both[chosen]).values()[metric])
    assert interval([whole], metric) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.006)
    assert interval([whole], metric)[0] < whole.values()[metric] < interval([whole], metric)[1]


def test_a_paired_interval_draws_the_same_images_for_both() -> None:
    a = tallies(20, right=0.6)
    assert paired_interval([a], [a], "mIoU") == (0.0, 0.0)
    better = tallies(20, right=0.8)
    low, high = paired_interval([better], [a], "mIoU")
    assert 0 < low < better.values()["mIoU"] - a.values()["mIoU"] < high
    assert paired_interval([better], [a], "mIoU", seed=3) == paired_interval([better], [a], "mIoU", seed=3)


def test_seeds_are_drawn_as_well() -> None:
    good, bad = tallies(20, right=0.9), tallies(20, right=0.2)
    assert mean_value([good, bad], "mIoU") == pytest.approx((good.values()["mIoU"] + bad.values()["mIoU"]) / 2)
    low, high = interval([good, bad], "mIoU")
    assert low < bad.values()["mIoU"] + 0.1 and high > good.values()["mIoU"] - 0.1


def test_bad_comparisons_are_refused() -> None:
    with pytest.raises(UserError, match="the same ones on both sides"):
        paired_interval([tallies(4)], [tallies(5)], "mIoU")
    with pytest.raises(UserError, match="the same ones on both sides"):
        interval([], "mIoU")
    truths, predictions = maps()
    with pytest.raises(UserError, match="has the size of its mask"):
        confusion(truths[0], predictions[1], K)


def test_joined_tallies_are_those_of_all_images() -> None:
    truths, predictions = maps()
    parts = [Tallies.of([confusion(t, p, K)]) for t, p in zip(truths, predictions, strict=True)]
    assert Tallies.joined(parts).values() == tallies().values()


def test_always_naming_one_class() -> None:
    found = tallied_constant(np.array([[4, 2, 0], [1, 3, 0]]), 0).values()
    assert found["pixel accuracy"] == 0.5 and found["mIoU"] == pytest.approx((5 / 10 + 0) / 2)
