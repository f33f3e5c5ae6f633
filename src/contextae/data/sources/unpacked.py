"""A column of encoded images as one block of bytes with the end of each row, so that any row is one slice away."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contextae.data.index import printable, readable_bytes
from contextae.data.names import cache_folder
from contextae.data.sources.arrow import blocks, open_parquet
from contextae.errors import UserError

VERSION = b"ctxae-u1"
HEAD = 16  # the version and the number of rows, before the ends and the bytes


@dataclass(frozen=True)
class Unpacked:
    """Row i is data[ends[i - 1] : ends[i]], counted from `start`; a row of no bytes holds no image."""

    data: bytes | bytearray | mmap.mmap
    ends: np.ndarray
    start: int

    def __getitem__(self, row: int) -> bytes:
        first = int(self.ends[row - 1]) if row else 0
        return bytes(self.data[self.start + first : self.start + int(self.ends[row])])


def in_memory(path: Path, column: str) -> Unpacked:
    data, ends = bytearray(), [np.zeros(0, np.int64)]
    for block, lengths in blocks(path, column):
        ends.append(len(data) + np.cumsum(lengths, dtype=np.int64))
        data += block
    return Unpacked(data, np.concatenate(ends), 0)


def on_disk(path: Path, column: str) -> Unpacked:
    """Memory-mapped from the cache, where it is written first unless an earlier process has done so."""
    copy = cache_folder() / f"{cache_key(path, column)}.images"
    if not copy.is_file():
        write_copy(path, column, copy)
    with copy.open("rb") as stream:
        head = stream.read(HEAD)
        if head[:8] != VERSION:
            raise UserError(f"{copy} was not written by this version of contextae. Delete it.")
        count = int.from_bytes(head[8:], "little")
        ends = np.frombuffer(stream.read(8 * count), "<i8")
        return Unpacked(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), ends, HEAD + 8 * count)


def cache_key(path: Path, column: str) -> str:
    """Of one state of one file: a changed file gets another copy."""
    status = path.stat()
    parts = (os.fsencode(path.resolve()), column.encode(), b"%d" % status.st_size, b"%d" % status.st_mtime_ns)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def write_copy(path: Path, column: str, copy: Path) -> None:
    """Under another name until it is complete, so that a process that is killed leaves no half of it behind."""
    temporary = None
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=copy.parent, suffix=".part", delete=False) as stream:
            temporary = Path(stream.name)
            write_rows(path, column, stream)
        temporary.replace(copy)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        size = f"; it takes about {readable_bytes(path.stat().st_size)}" if error.errno == errno.ENOSPC else ""
        raise UserError(
            f"The images of {printable(str(path))} cannot be unpacked to {printable(str(copy.parent))}: "
            f"{error.strerror}{size}. Make room there, or name another folder in CONTEXTAE_CACHE."
        ) from error


def write_rows(path: Path, column: str, stream: Any) -> None:
    """The ends are known last and stand first."""
    with open_parquet(path) as file:
        count = file.metadata.num_rows
    stream.write(VERSION + count.to_bytes(8, "little") + bytes(8 * count))
    lengths = [np.zeros(0, np.int64)]
    for block, of_block in blocks(path, column):
        stream.write(block)
        lengths.append(of_block)
    stream.seek(HEAD)
    stream.write(np.cumsum(np.concatenate(lengths), dtype="<i8").tobytes())
