"""What a run says of its own pace, and what of it is logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from contextae.data.loader import LoadedBatch
from contextae.training import record as module
from contextae.training.checkpoint import Checkpoints
from contextae.training.log import Log, read_lines
from contextae.training.progress import Progress
from contextae.training.record import Record
from contextae.training.run_folder import RunFolder


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def record(tmp_path: Path, clock: Clock) -> Record:
    folder = RunFolder(tmp_path)
    return Record(
        folder=folder,
        log=Log(folder.log),
        progress=Progress(total_steps=100, epochs=10, quiet=True),
        checkpoints=Checkpoints(folder.checkpoints, say=print),
        metadata={},
        images=80,
        epochs=10,
        batch_size=8,
        total_steps=100,
    )


def look(record: Record, clock: Clock, step: int, seconds: float, waited: float = 0.0, loss: float = 1.0) -> None:
    clock.now += seconds
    batch = LoadedBatch(step, 0, [], None, waited)
    record.look([batch], {"loss": loss}, 0.1, logged=(step + 1) % 4 == 0)


def test_the_slow_first_step_is_forgotten_in_rate_and_time_left(record: Record, clock: Clock) -> None:
    look(record, clock, 0, seconds=60.0, waited=59.0)
    for step in range(1, 4):
        look(record, clock, step, seconds=2.0, waited=0.5)
    (line,) = read_lines(record.folder.log)
    assert line["images_per_s"] == pytest.approx(4.0) and line["waiting"] == pytest.approx(0.25)
    assert line["seconds_left"] == pytest.approx(96 * 2.0) and line["epoch"] == pytest.approx(0.4)


def test_a_lasting_change_of_pace_is_followed(record: Record, clock: Clock) -> None:
    for step in range(60):
        look(record, clock, step, seconds=1.0)
    for step in range(60, 160):
        look(record, clock, step, seconds=3.0)
    assert read_lines(record.folder.log)[-1]["images_per_s"] == pytest.approx(8 / 3, rel=0.02)


def test_a_line_holds_the_mean_loss_since_the_line_before(record: Record, clock: Clock) -> None:
    for step, loss in enumerate((1.0, 2.0, 3.0, 6.0, 8.0, 8.0, 8.0, 8.0)):
        look(record, clock, step, seconds=1.0, loss=loss)
    assert [line["loss"] for line in read_lines(record.folder.log)] == [3.0, 8.0]
