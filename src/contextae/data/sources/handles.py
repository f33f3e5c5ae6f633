"""Parts of files by number: opened when first read from, in each process, and read from any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from contextae.data.facts import BadImage
from contextae.data.index import printable
from contextae.data.sources.folder import unreadable
from contextae.data.sources.regular import descriptor
from contextae.errors import UserError

OPEN = 128
"Files kept open at a time by one process; systems allow 1,024 and more."
MOST_AT_ONCE = 1 << 30  # Linux reads at most 2 GiB in one call


def look_of(status: os.stat_result) -> tuple[int, int]:
    """What a file looks like: size in bytes and time of the last change in nanoseconds."""
    return status.st_size, status.st_mtime_ns


class Descriptor:
    """An open file that closes itself when the last thread that reads from it lets go."""

    def __init__(self, path: Path) -> None:
        self.number = descriptor(path)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)


class Handles:
    """`looks` are sizes and times as of when the files were listed; one that differs by now is a UserError."""

    def __init__(self, root: str, names: Sequence[str], looks: Sequence[tuple[int, int]]) -> None:
        self.root, self.names, self.looks = root, names, looks
        self._opened: dict[int, Descriptor] = {}
        self._lock = threading.Lock()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of a file; BadImage where the system does not give them."""
        try:
            descriptor = self._opened.get(number) or self._open(number)
            self._check(number, os.fstat(descriptor.number))
            data = os.pread(descriptor.number, min(size, MOST_AT_ONCE), offset)
            while len(data) < size:
                part = os.pread(descriptor.number, min(size - len(data), MOST_AT_ONCE), offset + len(data))
                if not part:
                    raise BadImage("truncated file")
                data += part
        except OSError as error:
            raise BadImage(unreadable(error)) from error
        return data

    def _open(self, number: int) -> Descriptor:
        with self._lock:
            if number not in self._opened:
                while len(self._opened) >= OPEN:
                    del self._opened[next(iter(self._opened))]
                self._opened[number] = Descriptor(Path(self.root, self.names[number]))
            return self._opened[number]

    def _check(self, number: int, status: os.stat_result) -> None:
        if look_of(status) != tuple(self.looks[number]):
            raise UserError(changed(Path(self.root, self.names[number])))


def changed(path: Path) -> str:
    return f"{printable(str(path))} has changed since it was opened. Start again with it."
