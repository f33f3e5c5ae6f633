"""Real faults: kills, full disks, damaged bytes. After each, the last complete checkpoint is there and is itself."""

from __future__ import annotations

import errno
import os
import random
import time
from pathlib import Path

import pytest
from small_checkpoint import (
    HIDDEN,
    SERVER,
    assert_of_one_step,
    content,
    save,
    save_and_die,
    save_for_ever,
    save_with_limit,
)

from contextae.errors import UserError
from contextae.training.checkpoint import Checkpoints
from contextae.training.manifest import FILES, NAME

NUMBERS = 50_000  # float32 in a checkpoint of the kill tests: 0.4 MB, so that writing takes a while


def after_kill(folder: Path, numbers: int) -> int:
    """The step a restarted run goes on at: nothing damaged, nothing mixed, nothing left over."""
    said: list[str] = []
    checkpoints = Checkpoints(folder, keep=2, say=said.append)
    saved = checkpoints.latest()
    assert said == []
    assert list(folder.glob(HIDDEN)) == []
    if saved is None:
        return 0
    assert_of_one_step(saved, saved.step, numbers)
    return saved.step


def kill_at_random_moments(folder: Path, count: int) -> list[str]:
    """Kills a process that saves in a loop, `count` times; the names it left behind at each kill."""
    rng = random.Random(0)
    left = []
    for _ in range(count):
        receive, send = SERVER.Pipe(duplex=False)
        process = SERVER.Process(target=save_for_ever, args=(folder, send, NUMBERS))
        process.start()
        send.close()
        completed = receive.recv()  # it runs; from here on any moment is as good as any other
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join()
        while receive.poll():
            try:
                completed = receive.recv()
            except EOFError:
                break
        left.append(" ".join(sorted(path.name.rpartition("-")[0] for path in folder.glob(HIDDEN))))
        found = after_kill(folder, NUMBERS)
        assert found >= completed, f"step {completed} was complete, step {found} was loaded"
    return left


def test_a_kill_at_any_time_leaves_the_last_complete_checkpoint(tmp_path: Path) -> None:
    left = kill_at_random_moments(tmp_path, 20)
    assert any(".writing-" in names for names in left)  # some kills did hit a save


@pytest.mark.slow
def test_200_kills_at_any_time_leave_the_last_complete_checkpoint(tmp_path: Path) -> None:
    left = kill_at_random_moments(tmp_path, 200)
    assert sum(".writing-" in names for names in left) > 40


@pytest.mark.parametrize("steps", [[1, 2, 3, 4], [1, 2, 2]], ids=["a new one", "the same step again"])
def test_a_kill_before_every_single_system_call_of_a_save_leaves_a_whole_checkpoint(
    tmp_path: Path, steps: list[int]
) -> None:
    found, moment, code = [], 0, -9
    while code == -9:
        moment += 1
        folder = tmp_path / str(moment)
        process = SERVER.Process(target=save_and_die, args=(folder, steps, moment))
        process.start()
        process.join()
        code = process.exitcode
        found.append(after_kill(folder, 35))
    assert code == 0
    assert moment > 20
    assert set(found) == set(steps[-2:])
    assert found == sorted(found)  # the moment it becomes the newest is one


def test_a_full_disk_costs_one_checkpoint_and_not_the_run(disk) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(disk.path / "checkpoints", keep=2, say=said.append)
    assert save(checkpoints, 1)
    filler = disk.fill()
    for step in (2, 3):
        assert save(checkpoints, step, numbers=1000) is None
        assert f"The checkpoint of step {step} could not be written" in said[-1]
        assert os.strerror(errno.ENOSPC) in said[-1]
        assert "; the last one is of step 1. The run ends after" in said[-1]
        assert list(checkpoints.folder.glob(HIDDEN)) == []
        assert_of_one_step(checkpoints.latest(), 1)
    filler.unlink()
    assert save(checkpoints, 4, numbers=1000)
    assert len(said) == 2
    filler = disk.fill()
    for step in (5, 6):  # the count began anew
        assert save(checkpoints, step, numbers=1000) is None
    with pytest.raises(UserError, match=r"step 7 could not be written .*failure 3 in a row, so the run ends; the last"):
        save(checkpoints, 7, numbers=1000)
    filler.unlink()
    assert_of_one_step(Checkpoints(checkpoints.folder, say=said.append).latest(), 4, 1000)


def test_a_disk_that_fills_while_a_file_is_written_leaves_nothing_of_it(disk) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(disk.path, keep=5, say=said.append)
    saved = [save(checkpoints, step, numbers=20_000) is not None for step in range(1, 5)]  # 160 kB each of 512
    assert saved == [True, True, True, False]
    assert "No space left" in said[0]
    assert list(disk.path.glob(HIDDEN)) == []
    assert_of_one_step(checkpoints.latest(), 3, 20_000)


def test_a_quota_on_file_size_costs_one_checkpoint(tmp_path: Path) -> None:
    receive, send = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=save_with_limit, args=(tmp_path, 50_000, send))
    process.start()
    results, said = receive.recv()
    process.join()
    assert results == [True, False, True]
    assert len(said) == 1 and "File too large" in said[0]
    assert after_kill(tmp_path, 10) == 3


def test_a_disk_that_becomes_read_only_costs_one_checkpoint(disk) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(disk.path, say=said.append)
    save(checkpoints, 1)
    disk.read_only()
    assert save(checkpoints, 2) is None
    assert "Read-only file system" in said[0]
    assert_of_one_step(checkpoints.latest(), 1)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
def test_what_cannot_be_made_here_costs_one_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, say=said.append)
    save(checkpoints, 1)

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert save(checkpoints, 2) is None
    assert os.strerror(number) in said[0]
    assert list(tmp_path.glob(HIDDEN)) == []
    assert_of_one_step(checkpoints.latest(), 1)
    assert save(checkpoints, 3)


def test_a_disk_that_does_not_answer_at_all_costs_one_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    save(Checkpoints(tmp_path, say=said.append), 1)
    checkpoints = Checkpoints(tmp_path, say=said.append)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        for name in ("mkdir", "open", "iterdir", "stat", "glob"):
            patch.setattr(Path, name, fail)
        assert save(checkpoints, 2) is None
    assert "Stale file handle; the last one is of step 1." in said[0]


def damage(path: Path, rng: random.Random) -> str:
    """Flips one bit, cuts the file, or takes it away."""
    data = path.read_bytes()
    kind = rng.choice(["flip"] * 6 + ["cut", "cut", "empty", "remove"])
    if kind == "flip":
        place = rng.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
    elif kind == "remove":
        path.unlink()
    else:
        path.write_bytes(data[: rng.randrange(1, len(data)) if kind == "cut" else 0])
    return kind


def test_500_flipped_bits_and_cuts_are_all_detected_and_the_one_before_is_used(tmp_path: Path) -> None:
    rng = random.Random(0)
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, say=said.append)
    checkpoints.save(1, **content(1), score=0.25)
    newest = checkpoints.save(2, **content(2), score=0.5)
    assert newest
    whole = {name: (newest / name).read_bytes() for name in (*FILES, NAME)}
    for turn in range(500):
        name = rng.choice(list(whole))
        kind = damage(newest / name, rng)
        saved = checkpoints.latest()
        assert saved and saved.step == 1, f"turn {turn}: {kind} of {name} was not noticed"
        assert f"{newest} is damaged" in said[-1] and name in said[-1]
        (newest / name).write_bytes(whole[name])
    assert len(said) == 500
    assert_of_one_step(checkpoints.latest(), 2)
