"""Copies in the cache: of several processes one writes, and what a killed one has left is not taken for a copy."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextae.data.sources import copies, unpacked
from contextae.data.sources.copies import check_room, copied_once
from contextae.data.sources.unpacked import check_rows, on_disk
from contextae.errors import UserError
from data.pictures import encoded

PNG = [encoded(seed) for seed in range(6)] * 400


def nothing() -> None:
    """Of a process that need not be told from a hanging one."""


def several(count: int, code: str, *arguments: Path | str) -> list[subprocess.Popen[bytes]]:
    """Processes that run this, all started before the first may begin."""
    shown = ", ".join(f"Path({str(a)!r})" if isinstance(a, Path) else repr(a) for a in arguments)
    whole = f"import openings; from pathlib import Path; {code}({shown})"
    command = [sys.executable, "-c", whole]
    folders = [str(Path(__file__).parent), *filter(None, sys.path)]
    return [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)}) for _ in range(count)]


def reader(copy: Path) -> Callable[[], bytes | None]:
    return lambda: copy.read_bytes() if copy.exists() else None


def writer(data: bytes) -> Callable[[BinaryIO], None]:
    def write(stream: BinaryIO) -> None:
        stream.write(data)

    return write


def test_of_several_processes_one_writes_and_the_others_wait_for_it(tmp_path) -> None:
    copy, notes, gate = tmp_path / "cache/a.copy", tmp_path / "notes", tmp_path / "gate"
    processes = several(4, "openings.unpack", copy, notes, gate)
    gate.touch()
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    assert len(notes.read_text().split()) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a.copy"]


def test_two_processes_that_unpack_the_same_rows_get_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))
    path, gate = tmp_path / "a.parquet", tmp_path / "gate"
    pq.write_table(pa.table({"image": PNG}), path)
    processes = several(2, f"assert {sum(map(len, PNG))} == openings.rows", path, "image", gate)
    gate.touch()
    assert [process.wait(120) for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert [on_disk(path, "image")[i] for i in (0, 5, 2399)] == [PNG[0], PNG[5], PNG[2399]]


def test_one_that_is_killed_amid_it_leaves_the_next_to_begin_anew(tmp_path) -> None:
    copy, part = tmp_path / "a.copy", tmp_path / "a.copy.part"
    (process,) = several(1, "openings.unpack", copy, tmp_path / "notes", tmp_path)
    while not part.exists() or not part.stat().st_size:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not copy.exists() and part.exists()
    assert copied_once(copy, reader(copy), writer(b"whole"), nothing) == b"whole"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("a.")] == ["a.copy"]


def test_a_failure_leaves_nothing_behind(tmp_path) -> None:
    copy = tmp_path / "a.copy"

    def full(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        copied_once(copy, reader(copy), full, nothing)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"a\.copy was written and cannot be read\. Look at the disk, or name another"):
        copied_once(copy, lambda: None, writer(b""), nothing)


def test_one_that_waits_gives_signs_of_life(tmp_path, monkeypatch) -> None:
    """The other process is this one, by another opening of the file; it ends when it has seen three of them."""
    monkeypatch.setattr(copies, "POLL", 0)
    copy, told = tmp_path / "a.copy", list[int]()
    with copies.locked(tmp_path / "a.copy.part", nothing) as held:

        def alive() -> None:
            told.append(1)
            if len(told) == 3:
                held.write(b"theirs")
                held.flush()
                (tmp_path / "a.copy.part").rename(copy)
                held.close()

        assert copied_once(copy, reader(copy), writer(b"ours"), alive) == b"theirs"
    assert len(told) == 3 and list(tmp_path.iterdir()) == [copy]


def test_a_copy_that_appears_meanwhile_is_taken_and_the_own_name_given_back(tmp_path) -> None:
    copy, answers = tmp_path / "a.copy", iter([None, b"theirs"])
    assert copied_once(copy, lambda: next(answers), writer(b"ours"), nothing) == b"theirs"
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_room_before_anything_is_written(tmp_path) -> None:
    check_room(tmp_path, 1)
    with pytest.raises(OSError, match="No space left on device"):
        check_room(tmp_path, 1 << 60)


@pytest.mark.parametrize("keep", [0, 7, 16, 1000, -1])
def test_a_copy_that_is_cut_off_is_written_again(tmp_path, monkeypatch, keep: int) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))
    pq.write_table(pa.table({"image": PNG}), tmp_path / "a.parquet")
    on_disk(tmp_path / "a.parquet", "image")
    (copy,) = (tmp_path / "cache").iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(whole[:keep])
    assert unpacked.opened_copy(copy) is None
    assert on_disk(tmp_path / "a.parquet", "image")[2399] == PNG[2399] and copy.read_bytes() == whole


def test_unpacking_and_going_through_rows_give_signs_of_life(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path / "cache"))
    pq.write_table(pa.table({"image": PNG}), tmp_path / "a.parquet")
    for work in (on_disk, check_rows):
        told: list[int] = []
        work(tmp_path / "a.parquet", "image", lambda told=told: told.append(1))
        assert len(told) == 3, "one for each 1,024 rows of 2,400"
