"""Copies in the cache folder: one process writes while others wait for it, and a copy is whole or not there."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from contextae.data.index import printable, readable_bytes
from contextae.errors import UserError

T = TypeVar("T")
Tick = Callable[[], None]
"Called now and then while something takes long."
POLL = 0.1  # seconds between two looks whether another process has finished


def copied_once(copy: Path, opened: Callable[[], T | None], write: Callable[[Any], None], alive: Tick) -> T:
    """What `opened` gives, written by `write` first if that is nothing, unless another process is doing so.

    A copy that was begun and left, by a process that was killed, is written from its beginning. OSError of the cache
    folder, or of `write`.
    """
    found = opened()
    while found is None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f"{copy.name}.part")
        with locked(part, alive) as stream:
            found = opened()
            if is_still(part, stream):
                if found is None:
                    write_whole(part, stream, copy, write)
                    found = written(copy, opened)
                else:
                    part.unlink()
    return found


@contextmanager
def locked(part: Path, alive: Tick) -> Iterator[Any]:
    """The file, opened and for this process alone; by then another may have given it another name."""
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                alive()
                time.sleep(POLL)
        yield stream


def is_still(part: Path, stream: Any) -> bool:
    """Whether the name leads to the file that is open, or another process has taken it away meanwhile."""
    try:
        return os.path.samestat(part.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def write_whole(part: Path, stream: Any, copy: Path, write: Callable[[Any], None]) -> None:
    """From its beginning, whatever a killed process has left; gone where that fails."""
    whole = False
    try:
        stream.truncate()
        write(stream)
        stream.flush()
        part.replace(copy)
        whole = True
    finally:
        if not whole:
            part.unlink(missing_ok=True)


def written(copy: Path, opened: Callable[[], T | None]) -> T:
    """UserError where what has just been written is not what is read."""
    found = opened()
    if found is None:
        raise UserError(
            f"{printable(str(copy))} was written and cannot be read. Look at the disk, or name another folder in "
            "CONTEXTAE_CACHE."
        )
    return found


def check_room(folder: Path, num_bytes: int) -> None:
    """OSError where the disk has not that much room, rather than when it is full."""
    folder.mkdir(parents=True, exist_ok=True)
    status = os.statvfs(folder)
    if status.f_bavail * status.f_frsize < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_room(path: Path, folder: Path, error: OSError, num_bytes: int) -> str:
    """The paragraph for a file of which no copy can be had."""
    size = f"; it takes about {readable_bytes(num_bytes)}" if error.errno == errno.ENOSPC else ""
    return (
        f"The images of {printable(str(path))} cannot be unpacked to {printable(str(folder))}: {error.strerror}{size}. "
        "Make room there, or name another folder in CONTEXTAE_CACHE."
    )
