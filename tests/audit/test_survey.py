"""A file that ends or holds up its process costs one process at a time and is named; a signal keeps what was seen."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from audit.troubled import listing
from contextae.audit import survey as survey_module
from contextae.audit.stopping import Stopping
from contextae.audit.survey import Sums, survey
from contextae.data.statistics import Moments, range_of


def test_what_ends_its_process_is_named_and_the_rest_is_seen() -> None:
    trouble = {3: "segfault", 40: "segfault", 41: "gone", 42: "changed", 66: "hang"}
    shares: list[tuple[int, int]] = []
    seen = survey(
        listing(80, trouble), stopping=Stopping(), progress=lambda *counts: shares.append(counts), timeout=1.5
    )
    assert seen.reasons == {
        3: "the process that read it ended with signal 11",
        40: "the process that read it ended with signal 11",
        41: "cannot be read (No such file or directory)",
        42: "cannot be read (No such file or directory)",
        66: "the process that read it gave no answer for 1.5 s",
    }
    assert seen.complete and np.flatnonzero(~seen.rows["decoded"]).tolist() == sorted(trouble)
    assert shares == [(32, 80), (64, 80), (80, 80)]
    assert [entry.path for entry in seen.left_out()] == ["3", "40", "41", "42", "66"]
    assert seen.found == 80 and seen.sums[True, 3, "uint8"].count == 75


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting_for_a_file_that_hangs(number: signal.Signals) -> None:
    def send_soon(done: int, total: int) -> None:
        if done == 64:  # all before the one that hangs
            threading.Timer(0.5, os.kill, (os.getpid(), number)).start()

    began = time.monotonic()
    with Stopping() as stopping:
        seen = survey(listing(80, {70: "hang"}), stopping=stopping, progress=send_soon)
    assert stopping.caught == number and time.monotonic() - began < 50  # the process is given up after 60
    assert len(seen.rows) == 64 and not seen.complete and seen.rows["decoded"].all()


def test_a_signal_between_two_parts_keeps_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "CHUNK", 5)

    def progress(done: int, total: int) -> None:
        if done == 10:
            os.kill(os.getpid(), signal.SIGINT)

    with Stopping() as stopping:
        seen = survey(listing(40), stopping=stopping, progress=progress)
    assert len(seen.rows) == 10 and stopping.caught == signal.SIGINT
    assert seen.sums[True, 3, "uint8"].count == 10


def test_a_second_ctrl_c_ends_the_program_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.caught == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_parts_are_closed_when_they_are_not_taken_to_their_end() -> None:
    closed = []

    def parts() -> object:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    stopping = Stopping()
    for part in stopping.until(parts()):  # type: ignore[arg-type]
        stopping.caught = signal.SIGINT if part == 3 else 0
    assert part == 3 and closed


def test_sums_of_gray_and_colour_are_those_of_colour() -> None:
    gray, colour = Sums(), Sums()
    gray.add(Moments(10, 20, np.array([15.0]), np.array([230.0])))
    colour.add(Moments(0, 30, np.array([1.0, 2, 3]), np.array([4.0, 9, 16])))
    found = gray.joined(colour).statistics(3, "uint8")
    assert found.value_range == (0.0, 255.0)
    np.testing.assert_allclose(np.multiply(found.mean, 255), [8, 8.5, 9])
    expected = np.sqrt(np.array([117, 119.5, 123]) - np.array([8, 8.5, 9]) ** 2)
    np.testing.assert_allclose(np.multiply(found.deviation, 255), expected)


def test_deviation_is_at_least_one_gray_level_and_floats_keep_their_range() -> None:
    flat = Sums()
    flat.add(Moments(7, 7, np.array([7.0]), np.array([49.0])))
    assert flat.statistics(1, "uint8").deviation == (1 / 255,)
    floats = Sums()
    floats.add(Moments(-1, 3, np.array([1.0]), np.array([2.0])))
    assert floats.statistics(1, "float32").value_range == range_of("float32", -1, 3) == (-1, 3)
    assert floats.statistics(1, "float32").mean == (0.5,) and floats.statistics(1, "float32").deviation == (0.25,)
    wide = Sums()
    wide.add(Moments(0, 4000, np.array([1.0]), np.array([2.0])))
    assert wide.statistics(1, "uint16").value_range == (0, 4095)
