"""Files of one JSON object a line, appended to while training and read back after any end, also a violent one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contextae.disk import reason
from contextae.errors import UserError


class JsonLines:
    """Appends whole lines: one system call each, and none at all when the disk takes only a part of it.

    Opening drops a last line that a kill left torn, so that the next one does not run into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._cut_to(_whole(path.read_bytes()))

    def append(self, value: dict[str, Any]) -> None:
        """ASCII only: ids with newlines, control characters or undecodable bytes stay one readable line."""
        line = json.dumps(value, allow_nan=False).encode() + b"\n"
        end = os.fstat(self.handle).st_size
        try:
            while line:  # a nearly full disk takes a part, and the call after that says why
                line = line[os.write(self.handle, line) :]
        except OSError:
            os.ftruncate(self.handle, end)
            raise

    def cut(self, too_new: Callable[[dict[str, Any]], bool]) -> None:
        """Ends the file before the first line that is too new. What cannot be read is not judged."""
        end = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            value = _parsed(line)
            if value is not None and too_new(value):
                self._cut_to(end)
                return
            end += len(line)

    def _cut_to(self, end: int) -> None:
        """In place: nothing before `end` is touched, and no room on the disk is needed."""
        if end < os.fstat(self.handle).st_size:
            os.ftruncate(self.handle, end)
            os.fsync(self.handle)

    def close(self) -> None:
        """Through to the disk; closing twice does nothing."""
        if self.handle >= 0:
            os.fsync(self.handle)
            os.close(self.handle)
            self.handle = -1


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, without a torn last line; an absent file has none. UserError where it cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}. Mend that, or give another file.") from None
    values = []
    for number, line in enumerate(data[: _whole(data)].splitlines(), start=1):
        value = _parsed(line)
        if value is None:
            raise UserError(
                f"Every line of {path} holds one JSON object. Line {number} does not: {line[:60]!r}. The file was "
                "damaged or edited; take that line out to read the rest."
            )
        values.append(value)
    return values


def _whole(data: bytes) -> int:
    """Length of the data without a torn last line: one without its newline, or that does not parse."""
    end = data.rfind(b"\n") + 1
    last = data.rfind(b"\n", 0, end - 1) + 1 if end else 0
    return end if end and _parsed(data[last:end]) is not None else last


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
