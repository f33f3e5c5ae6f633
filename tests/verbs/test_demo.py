"""What the demo's exit code says about the encoder that it trained."""

from __future__ import annotations

import pytest

from contextae.evaluation.record import RANDOM
from contextae.verbs.demo import judged
from evaluation.known_record import record


@pytest.mark.parametrize(
    ("ours", "random", "outside", "code"),
    [
        (0.6, (0.5, 0.5), True, 0),
        (0.4, (0.5, 0.5), True, 1),
        (0.5, (0.48, 0.51), False, 1),
        (0.5, (0.49, 0.52), False, 1),
    ],
    ids=["better", "worse", "better, but 0 is inside", "worse, but 0 is inside"],
)
def test_the_demo_fails_where_the_encoder_does_not_beat_random_weights(
    ours: float, random: tuple[float, ...], outside: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record(ours, random, free=0.7)
    difference = found.difference("attentive", RANDOM)
    assert difference and difference.outside == outside
    assert judged(found) == code
    assert ("does not beat random initialisation" in capsys.readouterr().err) == bool(code)
