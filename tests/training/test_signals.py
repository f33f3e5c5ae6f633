"""Which signals a training notes, and which it leaves to whoever handles them already."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from contextae.training.loop import Ending, caught_signals


@pytest.fixture
def usual() -> Iterator[None]:
    """The handlers that Python begins with; afterwards those that there were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual")
def test_each_is_noted_and_a_second_ctrl_c_ends_at_once() -> None:
    with caught_signals() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught == ["SIGTERM"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("usual")
def test_what_is_ignored_stays_so_and_sigterm_is_noted_all_the_same() -> None:
    """As behind `nohup ... &` in a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with caught_signals() as caught:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert caught == ["SIGTERM"] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("usual")
def test_a_handler_of_somebody_else_and_other_threads_are_left_alone() -> None:
    def theirs(number: int, _: object) -> None:
        raise AssertionError(number)

    signal.signal(signal.SIGINT, theirs)
    with caught_signals():
        assert signal.getsignal(signal.SIGINT) is theirs

    def elsewhere() -> list[Ending]:
        with caught_signals() as caught:
            return caught

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == []
