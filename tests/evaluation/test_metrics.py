"""Bootstrap intervals against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from contextae.errors import UserError
from contextae.evaluation.metrics import accuracy, interval, mean_per_class_accuracy, paired_interval


def correct(share: float, n: int, seed: int = 0) -> np.ndarray:
    answers = np.zeros(n, dtype=bool)
    answers[: round(share * n)] = True
    return np.random.default_rng(seed).permutation(answers)


def test_accuracies_of_an_unbalanced_set() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2])
    predicted = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    assert accuracy(predicted, labels) == 7 / 8
    assert mean_per_class_accuracy(predicted, labels) == (1 + 0.5) / 2


@pytest.mark.parametrize(("share", "n"), [(0.5, 1_000), (0.9, 2_000), (0.1, 10_000)])
def test_interval_of_one_seed_is_binomial(share: float, n: int) -> None:
    low, high = interval(correct(share, n))
    half = 1.96 * math.sqrt(share * (1 - share) / n)
    assert low == pytest.approx(share - half, abs=0.15 * half)
    assert high == pytest.approx(share + half, abs=0.15 * half)


def test_interval_is_a_function_of_its_seed() -> None:
    answers = correct(0.6, 500)
    assert interval(answers, 3) == interval(answers, 3)
    assert interval(answers, 3) != interval(answers, 4)


def test_interval_equals_drawing_indices() -> None:
    """The multinomial over distinct columns against the plain bootstrap over images and seeds."""
    rng = np.random.default_rng(1)
    answers = rng.random((3, 200)) < np.array([[0.5], [0.6], [0.7]])
    plain = [answers[rng.integers(3, size=3)][:, rng.integers(200, size=200)].mean() for _ in range(4_000)]
    assert interval(answers) == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])), abs=0.012)


def test_seeds_that_differ_widen_the_interval() -> None:
    same = np.stack([correct(0.5, 2_000)] * 3)
    apart = np.stack([correct(share, 2_000, seed) for seed, share in enumerate((0.4, 0.5, 0.6))])
    width = [high - low for low, high in (interval(same), interval(apart))]
    assert width[1] > 2 * width[0]


def test_paired_interval_knows_the_closed_form() -> None:
    n, only_a, only_b = 4_000, 300, 200
    a, b = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    a[:only_a] = True
    b[only_a : only_a + only_b] = True
    a[1_000:3_000] = b[1_000:3_000] = True
    difference = (only_a - only_b) / n
    deviation = math.sqrt(((only_a + only_b) / n - difference**2) / n)
    low, high = paired_interval(a, b)
    assert low == pytest.approx(difference - 1.96 * deviation, abs=0.2 * deviation)
    assert high == pytest.approx(difference + 1.96 * deviation, abs=0.2 * deviation)
    assert low > 0, "pairing resolves what two separate intervals would not"


def test_paired_interval_of_itself_is_zero_and_takes_unequal_seeds() -> None:
    a = correct(0.7, 300)
    assert paired_interval(a, a) == (0.0, 0.0)
    low, high = paired_interval(a, np.stack([correct(0.2, 300, seed) for seed in range(3)]))
    assert 0.3 < low < 0.5 < high < 0.7


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"same images\. Got 3 and 4"):
        paired_interval(np.ones(3, dtype=bool), np.ones(4, dtype=bool))
    with pytest.raises(UserError, match="at least one image"):
        interval(np.zeros(0, dtype=bool))
