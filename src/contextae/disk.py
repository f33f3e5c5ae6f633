"""Files that are whole or absent after a kill or a power cut: written, flushed to the disk, and only then named."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path


def write_file(path: Path, data: bytes) -> str:
    """Writes a new file through to the disk and returns the sha256 of `data`, so of what was meant to be written."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def replace_file(path: Path, data: bytes) -> None:
    """The file holds either what it held or all of `data`, at every moment and after a power cut."""
    temporary = path.with_name(f".writing-{path.name}-{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        write_file(temporary, data)
        os.replace(temporary, path)  # noqa: PTH105 beside os.fsync, and in that order
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Makes the bytes of a file that others wrote survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut. Some network file systems cannot, and say so with EINVAL."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def reason(error: OSError) -> str:
    """What the system says, without the number and the path: "No space left on device"."""
    return error.strerror or str(error)
