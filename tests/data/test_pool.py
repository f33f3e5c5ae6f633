"""What happens to loader processes, and that nothing of it can be seen in the batches."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_index import VIEWS, Troubled, name, same, small_index

from contextae.data.each import STANDBY
from contextae.data.loader import LoadedBatch, Loader, Quarantined
from contextae.data.pool import LoaderDefectError, Pool
from contextae.data.sampler import Sampler
from contextae.data.samples import Samples
from contextae.data.worker import Work
from contextae.errors import UserError

COUNT, BATCH = 23, 5
SAMPLES = Samples(index=small_index(), views=VIEWS, seed=0)


def loader(
    num_workers: int, trouble: dict[int, str] | None = None, folder: Path | None = None, **others: Any
) -> Loader:
    settings: dict[str, Any] = {
        "index": small_index(COUNT, trouble, folder),
        "sampler": Sampler(length=COUNT, batch_size=BATCH, seed=2),
        "views": VIEWS,
        "seed": 2,
        "num_workers": num_workers,
    }
    return Loader(**settings | others)


def content(batches: Iterator[LoadedBatch]) -> list[tuple[int, list[str], Any]]:
    return [(batch.step, batch.sample_ids, batch.batch) for batch in batches]


def equal(one: list[tuple[int, list[str], Any]], other: list[tuple[int, list[str], Any]]) -> bool:
    return [each[:2] for each in one] == [each[:2] for each in other] and all(
        same(a[2], b[2]) for a, b in zip(one, other, strict=True)
    )


def pids(each: Loader) -> list[int]:
    assert each.pool
    return [process.popen.pid for process in each.pool.processes if process]


def children() -> list[str]:
    """Of all threads, zombies included."""
    return " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()


def descriptors() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    STANDBY.close()  # of a test before this one
    before = len(descriptors()), len(children()), threading.active_count()
    yield
    assert (len(descriptors()), len(children()), threading.active_count()) == before


def slowly(image: np.ndarray, rng: random.Random) -> Any:
    time.sleep(0.01)
    return VIEWS(image, rng)


def kill_one(each: Loader) -> None:
    """One that lives, and waits until it does no more."""
    assert each.pool
    while not (living := [p for p in each.pool.processes if p and p.popen.poll() is None]):
        time.sleep(0.01)
    os.kill(living[0].popen.pid, signal.SIGKILL)
    living[0].popen.wait()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_that_are_killed_are_restarted_and_nothing_else_changes(num_workers: int) -> None:
    with loader(0, {7: "bad"}) as plain:
        expected = content(plain.batches(0, 16))
    found = []
    with loader(num_workers, {7: "bad"}, views=slowly) as each:
        for batch in each.batches(0, 16):
            found.append((batch.step, batch.sample_ids, batch.batch))
            if batch.step in (0, 2, 4, 6, 8):
                kill_one(each)
        assert each.pool
        # of two, one may have been out of work when it was killed
        assert each.pool.restarts == 5 if num_workers == 1 else 3 <= each.pool.restarts <= 5
    assert equal(found, expected)
    assert each.quarantine == {name(7): "damaged pixels"}


def test_all_workers_killed_at_once_while_idle_come_back() -> None:
    with loader(0) as plain:
        expected = content(plain.batches(0, 16))
    with loader(2) as each:
        found = []
        for batch in each.batches(0, 16):
            found.append((batch.step, batch.sample_ids, batch.batch))
            if batch.step == 2:
                time.sleep(0.8)  # both have made what they may, and wait
                kill_one(each)
                kill_one(each)
        assert each.pool and each.pool.restarts == 2
    assert equal(found, expected) and each.quarantine == {}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("segfault", "the process that read it ended with signal 11"),
        ("exit", "the process that read it ended with exit code 3"),
    ],
)
def test_an_image_that_ends_its_process_each_time_is_found_and_set_aside(trouble: str, reason: str) -> None:
    with loader(0, {9: "bad"}) as plain:
        expected = content(plain.batches(0, 7))
    told: list[Quarantined] = []
    with loader(2, {9: trouble}, on_quarantine=told.append) as each:
        assert equal(content(each.batches(0, 7)), expected)
    assert [(bad.sample_id, bad.reason) for bad in told] == [(name(9), reason)]


def test_the_epoch_of_such_an_image_is_the_one_it_was_met_in() -> None:
    late = Sampler(length=COUNT, batch_size=BATCH, seed=2).batch(4)[4][1]
    told: list[Quarantined] = []
    with loader(1, {late: "segfault"}, on_quarantine=told.append) as each:
        list(each.batches(4, 5))
    assert [bad.epoch for bad in told] == [1]


def test_a_decoder_that_never_returns_is_ended_and_its_image_set_aside() -> None:
    with loader(0, {9: "bad"}) as plain:
        expected = content(plain.batches(0, 6))
    with loader(2, {9: "hang"}, timeout=1.0) as each:
        assert equal(content(each.batches(0, 6)), expected)
    assert each.quarantine == {name(9): "the process that read it gave no answer for 1 s"}


def test_an_image_that_hung_once_is_not_blamed(tmp_path: Path) -> None:
    with loader(1, {9: "hang at first"}, tmp_path, timeout=1.0) as each:
        found = content(each.batches(0, 5))
        assert each.pool and each.pool.restarts == 1
    with loader(0) as plain:
        assert equal(found, content(plain.batches(0, 5)))
    assert each.quarantine == {}


def test_a_worker_that_is_stopped_is_replaced() -> None:
    with loader(1, timeout=1.0, prefetch=1) as each:
        batches = each.batches(0, 6)
        found = [next(batches)]
        time.sleep(0.3)
        os.kill(pids(each)[0], signal.SIGSTOP)
        found += list(batches)
        assert each.pool and each.pool.restarts == 1
    assert [batch.step for batch in found] == list(range(6)) and each.quarantine == {}


def test_a_slow_batch_is_no_hang_as_long_as_its_images_come() -> None:
    with loader(1, dict.fromkeys(range(COUNT), "slow"), timeout=0.8) as each:
        start = time.monotonic()
        list(each.batches(0, 1))
        assert time.monotonic() - start > 0.25 * BATCH > 0.8
        assert each.pool and each.pool.restarts == 0


def test_a_defect_is_raised_with_the_workers_traceback_when_its_batch_is_due() -> None:
    step = next(
        step for step in range(9) if 9 in [p for _, p in Sampler(length=COUNT, batch_size=5, seed=2).batch(step)]
    )
    assert step > 0
    delivered = []
    with loader(2, {9: "defect"}) as each, pytest.raises(LoaderDefectError) as caught:
        for batch in each.batches(0, 9):
            delivered.append(batch.step)
            time.sleep(0.1)
    assert delivered == list(range(step))
    said = str(caught.value)
    assert said.startswith("A loader process met a defect:\nTraceback (most recent call last):\n")
    assert "small_index.py" in said and said.rstrip().endswith(f"ZeroDivisionError: a defect at {name(9)}")


def test_words_of_a_library_do_not_get_among_the_batches(capfd: pytest.CaptureFixture[str]) -> None:
    with loader(0) as plain, loader(1, dict.fromkeys(range(COUNT), "loud")) as each:
        assert equal(content(each.batches(0, 3)), content(plain.batches(0, 3)))
    heard = capfd.readouterr()
    assert heard.out == "" and "words of its C code" in heard.err and "words of a library" in heard.err


def test_views_that_cannot_be_sent_fail_at_once() -> None:
    with loader(1, views=lambda image, rng: None) as each, pytest.raises((AttributeError, TypeError), match="pickle"):
        next(each.batches(0, 1))


class Deadly(Troubled):
    """Ends the process that so much as receives it."""

    def __setstate__(self, state: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_processes_that_always_end_are_given_up_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contextae.data.pool.MOST_DEATHS", 3)
    index = small_index(COUNT)
    object.__setattr__(index, "source", Deadly())
    with loader(1, index=index) as each, pytest.raises(UserError) as caught:
        list(each.batches(0, 1))
    assert "were ended 3 times over one batch, the last time so: the process that read it ended with signal 9. If " in (
        str(caught.value)
    )
    assert "training.workers=N" in str(caught.value)


def test_images_that_end_their_processes_one_after_the_other_are_given_up_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("contextae.data.pool.MOST_DEATHS", 4)
    with loader(1, dict.fromkeys(range(COUNT), "exit")) as each, pytest.raises(UserError, match=r"exit code 3, at ./"):
        list(each.batches(0, 1))


def test_a_process_that_cannot_start_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        loader(1) as each,
        pytest.raises(LoaderDefectError, match=r"cannot start: .* exit code 1\. Its words are above"),
    ):
        list(each.batches(0, 1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_a_defect_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with loader(1) as each, pytest.raises(LoaderDefectError, match="A thread that feeds a loader process ended"):
        list(each.batches(0, 1))


@pytest.mark.parametrize(("trouble", "pause"), [("hang", 0.6), ("hang", 0.0), ("slow", 0.4)])
def test_closing_is_prompt_and_final_whatever_the_workers_are_doing(trouble: str, pause: float) -> None:
    each = loader(2, dict.fromkeys(range(COUNT), trouble))
    batches = each.batches(0, 9)
    heard: list[str] = []

    def consume() -> None:
        try:
            next(batches)
        except RuntimeError as error:
            heard.append(str(error))

    thread = threading.Thread(target=consume)
    thread.start()
    while not each.pool:
        time.sleep(0.01)
    time.sleep(pause)
    started = time.monotonic()
    each.close()
    each.close()
    assert time.monotonic() - started < 2
    thread.join(5)
    assert heard == ["The loader was closed while batches were still asked for."]


def answer(pool: Pool, number: int, wanted: list[tuple[int, int]]) -> Any:
    pool.work.put(Work(number, wanted, frozenset()))
    answered, made = pool.answers.get(timeout=30)
    assert answered == number
    return made


def test_a_process_that_has_nothing_to_do_is_ended_where_that_is_wished_and_another_started() -> None:
    pool = Pool(SAMPLES, 1, idle=0.3)
    first = answer(pool, 0, [(0, 3)])
    (process,) = pool.processes
    assert process
    time.sleep(0.1)
    assert same(answer(pool, 1, [(0, 3)]).batch, first.batch) and pool.processes == [process]
    time.sleep(0.8)
    assert pool.processes == [None] and process.popen.returncode is not None
    assert same(answer(pool, 2, [(0, 3)]).batch, first.batch) and pool.restarts == 0
    pool.close()


def test_another_task_is_done_by_the_same_process() -> None:
    pool, other = Pool(SAMPLES, 1), Samples(index=small_index(), views=VIEWS, seed=1)
    first = answer(pool, 0, [(0, 3)])
    (process,) = pool.processes
    pool.give(other)
    second = answer(pool, 1, [(0, 3)])
    assert pool.processes == [process]
    assert same(first.batch, SAMPLES.make([(0, 3)], ()).batch) and same(second.batch, other.make([(0, 3)], ()).batch)
    assert not same(first.batch, second.batch)
    assert process
    process.kill()
    assert same(answer(pool, 2, [(0, 3)]).batch, second.batch) and pool.restarts == 1  # also by the one after it
    pool.close()


def test_a_pool_that_was_asked_for_nothing_starts_no_process() -> None:
    pool = Pool(SAMPLES, 2)
    assert children() == []
    pool.close()
