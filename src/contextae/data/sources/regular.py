"""A user's file, opened without waiting for anybody: a pipe that nobody writes to would keep its reader for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

NOT_A_FILE = "neither a file nor a folder"


class NotAFileError(OSError):
    """A pipe, a socket or a device, which `strerror` says."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, NOT_A_FILE, str(path))


def descriptor(path: Path) -> int:
    """A number that the caller closes. OSError where the path leads to no file, of a folder too."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device without a driver
            raise NotAFileError(path) from error
        raise
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):
        return number
    os.close(number)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise NotAFileError(path)


def open_regular(path: Path) -> BinaryIO:
    """To be read from its beginning. OSError as of `descriptor`."""
    return os.fdopen(descriptor(path), "rb")


def read_regular(path: Path) -> bytes:
    """All of it. OSError as of `descriptor`."""
    with open_regular(path) as stream:
        return stream.read()


def check_regular(path: Path) -> None:
    """For whoever opens it by a library of its own. OSError as of `descriptor`."""
    os.close(descriptor(path))
