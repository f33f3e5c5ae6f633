"""Images that are looked at one by one, and what becomes of those that end the process that looks."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import looks
import numpy as np
import pytest
from endings import gone
from small_index import Troubled, name, small_index

from contextae.data import each, process
from contextae.data.each import STANDBY, look_at_each
from contextae.data.facts import Refusal
from contextae.data.pool import LoaderDefectError
from contextae.errors import UserError

COUNT = 23
ENDED = "the process that read it ended with signal 11"


@pytest.fixture(autouse=True)
def _no_process_from_before() -> Iterator[None]:
    STANDBY.close()
    yield
    STANDBY.close()


def looked(look: Any, trouble: dict[int, str] | None = None, folder: Path | None = None, **others: Any) -> list[Any]:
    index = small_index(COUNT, trouble, folder)
    given = {"chunk": 5, "per_process": 100} | others
    return list(itertools.chain.from_iterable(look_at_each(look, index.source, index.ids, **given)))


@pytest.mark.parametrize(("chunk", "per_process"), [(1, 5), (5, 100), (4, 6), (100, 1)])
def test_results_come_in_their_order_whatever_the_processes(chunk: int, per_process: int) -> None:
    source = Troubled()
    found = looked(looks.pixels, chunk=chunk, per_process=per_process)
    assert all(np.array_equal(image, source.read(name(i))) for i, image in enumerate(found)) and len(found) == COUNT


def test_they_come_by_pieces() -> None:
    index = small_index(COUNT)
    parts = look_at_each(looks.shape, index.source, index.ids, chunk=5, per_process=100)
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    assert list(look_at_each(looks.shape, index.source, [], chunk=5, per_process=100)) == []


@pytest.mark.parametrize("per_process", [100, 4])
def test_what_cannot_be_used_has_its_reason_and_the_others_their_result(per_process: int) -> None:
    trouble = {2: "bad", 3: "segfault", 4: "exit", 9: "missing", 22: "segfault"}
    found = looked(looks.shape, trouble, per_process=per_process)
    assert {i: result for i, result in enumerate(found) if isinstance(result, Refusal)} == {
        2: Refusal("damaged pixels"),
        3: Refusal(ENDED),
        4: Refusal("the process that read it ended with exit code 3"),
        9: Refusal("cannot be read (No such file or directory)"),
        22: Refusal(ENDED),
    }
    assert sum(isinstance(result, tuple) and len(result) == 3 for result in found) == COUNT - 5


def test_a_piece_of_which_every_image_ends_the_process_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each, "MOST_DEATHS", 1)
    found = looked(looks.shape, dict.fromkeys(range(10, 15), "segfault"))
    assert [i for i, result in enumerate(found) if result == Refusal(ENDED)] == list(range(10, 15))


def test_an_image_at_which_it_hangs_is_given_up() -> None:
    found = looked(looks.shape, {6: "hang"}, timeout=0.5)
    assert found[6] == Refusal("the process that read it gave no answer for 0.5 s")
    assert not any(isinstance(result, Refusal) for i, result in enumerate(found) if i != 6)


def test_one_that_is_bad_only_once_is_not_blamed(tmp_path: Path) -> None:
    assert looked(looks.shape, {6: "hang at first"}, tmp_path, timeout=0.5)[6] == (11 + len(name(6)), 17, 3)


def test_a_sound_image_that_is_not_read_is_told_from_a_bad_one() -> None:
    assert looked(looks.unsupported) == [Refusal("LAB pixels, not supported", sound=True)] * COUNT


def test_an_image_that_would_take_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MEMORY", 50_000_000)
    found = looked(looks.greedy)
    greedy = [name(i).startswith("a") for i in range(COUNT)]
    assert 0 < sum(greedy) < COUNT
    assert found == [Refusal("not enough memory to decode it") if is_so else 1000 for is_so in greedy]
    assert looked(looks.mapped) == [100_000_000] * COUNT, "maps of files are not the process's own"
    monkeypatch.undo()
    STANDBY.close()
    assert set(looked(looks.greedy)) == {100_000_000, 1000}


def test_what_the_user_has_to_mend_is_raised_and_so_are_defects() -> None:
    with pytest.raises(UserError, match=r"^The file has changed\. Start again\.$"):
        looked(looks.shape, {7: "user"})
    with pytest.raises(LoaderDefectError, match=f"a defect at {name(7)}"):
        looked(looks.shape, {7: "defect"})
    assert STANDBY.pool is None


def test_where_all_processes_are_ended_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each, "MOST_DEATHS", 2)
    monkeypatch.setattr(each, "DEATHS_AT_ONE", 0)
    with pytest.raises(UserError) as caught:
        looked(looks.shape, {1: "segfault"})
    assert str(caught.value) == (
        f"Loader processes were ended 2 times over one batch, the last time so: {ENDED}, at {name(1)}. Free memory, or "
        "look at that image and its disk."
    )


def test_arrays_are_looked_at_by_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.getpid() not in looked(looks.process)
    monkeypatch.setattr(Troubled, "arrays", True, raising=False)
    assert looked(looks.process) == [os.getpid()] * COUNT
    assert looked(looks.shape, {2: "bad", 3: "missing"})[2:4] == [
        Refusal("damaged pixels"),
        Refusal("cannot be read (No such file or directory)"),
    ]


def test_small_sets_have_one_process_and_large_ones_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(looked(looks.process))) == 1
    assert len(set(looked(looks.process, per_process=8))) <= 3
    asked = ((0, 8, 64), (64, 8, 64), (65, 8, 64), (65, 100, 64), (10_000, 8, 64))
    for cores, expected in ((1, [1, 1, 2, 1, 4]), (6, [1, 1, 2, 1, 6]), (64, [1, 1, 2, 1, 8])):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert [each.processes_for(*sizes) for sizes in asked] == expected


def test_the_next_small_set_has_the_same_process_until_it_was_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each, "IDLE", 0.3)
    (first,) = set(looked(looks.process))
    assert len(looked(looks.shape)) == COUNT
    assert set(looked(looks.process)) == {first}
    time.sleep(0.8)
    assert not Path(f"/proc/{first}").exists()
    (second,) = set(looked(looks.process))
    assert second != first and STANDBY.pool and STANDBY.pool.restarts == 0


def test_it_is_not_used_again_after_a_failure_or_an_early_end_or_in_other_surroundings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CONTEXTAE_CACHE")
    assert looked(looks.environment) == [None] * COUNT
    (first,) = set(looked(looks.process))
    monkeypatch.setenv("CONTEXTAE_CACHE", "/elsewhere")
    assert looked(looks.environment) == ["/elsewhere"] * COUNT and not Path(f"/proc/{first}").exists()
    index = small_index(COUNT)
    parts = look_at_each(looks.process, index.source, index.ids, chunk=5, per_process=100)
    (second,) = set(next(parts))
    parts.close()
    assert STANDBY.pool is None and not Path(f"/proc/{second}").exists()


def test_two_at_a_time_have_a_process_each() -> None:
    index = small_index(COUNT)
    one, other = (look_at_each(looks.process, index.source, index.ids, chunk=5, per_process=100) for _ in range(2))
    assert set(next(one)).isdisjoint(next(other))
    assert len(list(one)) == len(list(other)) == 4
    assert STANDBY.pool and len({p.popen.pid for p in STANDBY.pool.processes if p}) == 1


def test_after_a_fork_it_is_left_to_the_process_it_belongs_to() -> None:
    (first,) = set(looked(looks.process))
    owner = STANDBY.owner
    STANDBY.owner = owner._replace(pid=owner.pid + 1)
    pool = STANDBY.pool
    (second,) = set(looked(looks.process))
    assert second != first and Path(f"/proc/{first}").exists()
    assert pool
    pool.close()


LOOKING = """
import sys, threading, time
sys.path.insert(0, {here!r})
import looks
from small_index import small_index
from contextae.data.each import look_at_each

index = small_index(23, {trouble!r})
print("begins", flush=True)
try:
    parts = list(look_at_each(looks.process, index.source, index.ids, chunk=5, per_process=100))
    print(parts[0][0], flush=True)
except KeyboardInterrupt:
    print("stopped", threading.active_count(), flush=True)
time.sleep({rest})
"""


@contextmanager
def looking(trouble: dict[int, str], rest: float = 0) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A program of its own that has begun, and what it says from then on."""
    code = LOOKING.format(here=str(Path(__file__).parent), trouble=trouble, rest=rest)
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout and program.stdout.readline() == "begins\n"
        try:
            yield program, program.stdout
        finally:
            program.kill()


def test_a_program_that_ends_leaves_no_process_and_says_nothing() -> None:
    with looking({}) as (program, _):
        out, err = program.communicate(timeout=60)
        assert (program.returncode, err) == (0, "") and gone(int(out))


def test_a_program_that_is_killed_leaves_no_process() -> None:
    with looking({}, rest=60) as (program, said):
        other = int(said.readline())
        assert Path(f"/proc/{other}").exists()
        program.kill()
        assert gone(other)


def test_ctrl_c_ends_the_looking_at_once() -> None:
    with looking({3: "hang"}) as (program, _):
        time.sleep(1)
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=20) == ("stopped 1\n", "")
