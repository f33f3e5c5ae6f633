"""When one representation is shown to be better than another."""

from __future__ import annotations

import pytest

from contextae.evaluation.record import RANDOM, THIS_ENCODER
from contextae.evaluation.results import Compared


@pytest.mark.parametrize(
    ("difference", "interval", "outside", "beats"),
    [
        (0.03, (0.01, 0.05), True, True),
        (-0.03, (-0.05, -0.01), True, False),
        (0.03, (-0.01, 0.07), False, False),
        (-0.03, (-0.07, 0.01), False, False),
        (0.03, (0.0, 0.06), False, False),
    ],
    ids=["better", "worse", "better, but 0 is inside", "worse, but 0 is inside", "0 is its edge"],
)
def test_better_is_better_with_an_interval_that_excludes_0(
    difference: float, interval: tuple[float, float], outside: bool, beats: bool
) -> None:
    found = Compared(
        protocol="knn",
        row=THIS_ENCODER,
        baseline=RANDOM,
        metric="accuracy",
        difference=difference,
        interval=interval,
    )
    assert (found.outside, found.beats) == (outside, beats)
