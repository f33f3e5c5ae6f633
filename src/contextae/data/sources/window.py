"""A part of a file, or of whatever gives bytes by their place, as a file of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class Window(io.RawIOBase):
    """Read-only, to be buffered: `read(offset, size)` gives bytes counted from its beginning."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self.fetch, self.size, self.at = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise OSError("a position before the beginning")
        self.at = start + offset
        return self.at

    def readinto(self, buffer: Any) -> int:
        size = max(min(len(buffer), self.size - self.at), 0)
        buffer[:size] = self.fetch(self.at, size) if size else b""
        self.at += size
        return size
