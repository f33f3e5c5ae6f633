"""One loader process without a pool: what is known of it when it has died."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from small_index import VIEWS, same, small_index

from contextae.data.pipes import frame
from contextae.data.process import Died, Process
from contextae.data.samples import Bad, Made, Samples
from contextae.data.worker import Work

SAMPLES = Samples(index=small_index(trouble={5: "segfault", 6: "hang"}), views=VIEWS, seed=0)
FINE, DEADLY, ENDLESS = (Work(0, [(0, 1), (2, other)], frozenset()) for other in (3, 5, 6))


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process(frame(SAMPLES), timeout=0.6)
    yield process
    process.close()
    assert process.board.memory.closed and process.sink.closed and process.source.closed
    assert process.popen.returncode is not None


def test_it_answers_one_piece_of_work_after_the_other(process: Process) -> None:
    for known in (frozenset[int](), frozenset({1})):
        answer = process.do(FINE._replace(known_bad=known))
        assert isinstance(answer, Made)
        assert same(answer.batch, SAMPLES.make(FINE.wanted, known).batch)


def test_the_sample_it_died_at_is_known_with_its_epoch(process: Process) -> None:
    died = process.do(DEADLY)
    assert isinstance(died, Died)
    assert died.sample == Bad(5, "the process that read it ended with signal 11", 2)
    assert not died.timed_out and not died.exited


def test_the_sample_it_hung_at_is_known_within_little_more_than_the_time_allowed(process: Process) -> None:
    process.do(FINE)
    start = time.monotonic()
    died = process.do(ENDLESS)
    assert 0.6 < time.monotonic() - start < 3
    assert isinstance(died, Died) and died.timed_out
    assert died.sample == Bad(6, "the process that read it gave no answer for 0.6 s", 2)


def test_no_sample_is_to_blame_for_a_death_between_two_pieces_of_work(process: Process) -> None:
    process.do(FINE)
    os.kill(process.popen.pid, signal.SIGKILL)
    process.popen.wait()
    died = process.do(FINE)
    assert isinstance(died, Died) and died.sample is None
    assert died.reason == "the process that read it ended with signal 9"


def test_no_sample_is_to_blame_for_a_death_before_python_runs(process: Process) -> None:
    os.kill(process.popen.pid, signal.SIGKILL)
    died = process.do(FINE)
    assert isinstance(died, Died) and died.sample is None


def test_a_process_that_reads_nothing_does_not_block_the_training() -> None:
    large = Samples(index=small_index(400_000), views=VIEWS, seed=0)
    stopped = Process(frame(large), timeout=0.6)
    try:
        answer = stopped.do(Work(0, [(0, 399_999)], frozenset()))  # more than the pipe holds
        assert isinstance(answer, Made) and answer.positions == [399_999]
        os.kill(stopped.popen.pid, signal.SIGSTOP)
        died = stopped.do(Work(1, [(0, 1)] * 500_000, frozenset()))
        assert isinstance(died, Died) and died.timed_out and died.sample is None
    finally:
        stopped.close()
