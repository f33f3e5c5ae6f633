"""Steps of something long, as a terminal without a cursor shows them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from contextae.verbs import terminal


def test_time_left_is_that_of_all_parts_and_begins_anew_with_another_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    shown = io.StringIO()
    steps = terminal.Steps(Console(file=shown, width=200))
    said = []
    for seconds, what, share in [
        (0, "reading", 0.0),
        (20, "reading", 0.5),
        (40, "reading", 1.0),
        (60, "a: training", 0.0),
        (80, "a: training", 0.2),
        (100, "b: training", 0.4),
        (120, "b: testing", 0.9),
    ]:
        now[0] = 100.0 + seconds
        before = shown.tell()
        steps(what, share)
        said.append(shown.getvalue()[before:].strip())
    assert said == [
        "reading 0 %",
        "reading 50 %, 20s left",
        "reading 100 %, 0s left",
        "a: training 0 %",
        "a: training 20 %, 1m20s left",
        "b: training 40 %, 1m00s left",
        "b: testing 90 %, 7s left",
    ]
