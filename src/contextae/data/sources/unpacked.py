"""A column of encoded images as one block of bytes with the end of each row, so that any row is one slice away."""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contextae.data.names import cache_folder
from contextae.data.sources.arrow import blocks, column_bytes, open_parquet, refusal
from contextae.data.sources.columns import leaf
from contextae.data.sources.copies import Tick, check_room, copied_once, no_room
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


def on_disk(path: Path, column: str, alive: Tick = lambda: None) -> Unpacked:
    """Memory-mapped from the cache, where it is written first unless an earlier process has done so.

    `alive` is called now and then while that takes long.
    """
    copy = cache_folder() / f"{cache_key(path, column)}.images"
    try:
        return copied_once(
            copy, lambda: opened_copy(copy), lambda stream: write_rows(path, column, stream, alive), alive
        )
    except OSError as error:
        raise UserError(no_room(path, copy.parent, error, path.stat().st_size)) from error


def opened_copy(copy: Path) -> Unpacked | None:
    """None where it is not there, or is not as long as it says; UserError where another version has written it."""
    try:
        with copy.open("rb") as stream:
            head, size = stream.read(HEAD), os.fstat(stream.fileno()).st_size
            if len(head) == HEAD and head[:8] != VERSION:
                raise UserError(f"{copy} was not written by this version of contextae. Delete it.")
            start = HEAD + 8 * int.from_bytes(head[8:], "little")
            if size < max(start, HEAD):
                return None
            ends = np.frombuffer(stream.read(start - HEAD), "<i8")
            if size != start + (int(ends[-1]) if len(ends) else 0):
                return None
            return Unpacked(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), ends, start)
    except (FileNotFoundError, NotADirectoryError):
        return None


def cache_key(path: Path, column: str) -> str:
    """Of one state of one file: a changed file gets another copy."""
    status = path.stat()
    parts = (os.fsencode(path.resolve()), column.encode(), b"%d" % status.st_size, b"%d" % status.st_mtime_ns)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def write_rows(path: Path, column: str, stream: Any, alive: Tick) -> None:
    """The ends are known last and stand first."""
    with open_parquet(path) as file:
        count = file.metadata.num_rows
        check_room(cache_folder(), column_bytes(path, str(leaf(file.schema_arrow.field(column)))))
    stream.write(VERSION + count.to_bytes(8, "little") + bytes(8 * count))
    lengths = [np.zeros(0, np.int64)]
    for block, of_block in blocks(path, column):
        alive()
        stream.write(block)
        lengths.append(of_block)
    ends = np.cumsum(np.concatenate(lengths), dtype="<i8")
    check_count(path, len(ends), count)
    stream.seek(HEAD)
    stream.write(ends.tobytes())


def check_rows(path: Path, column: str, alive: Tick) -> None:
    """Goes once through all rows, so that a file that cannot be read is met as a whole; UserError where it is one."""
    with open_parquet(path) as file:
        count = file.metadata.num_rows
    found = 0
    for _, lengths in blocks(path, column):
        alive()
        found += len(lengths)
    check_count(path, found, count)


def check_count(path: Path, found: int, stated: int) -> None:
    if found != stated:
        raise UserError(refusal(path, f"{found:,} rows are there, and {stated:,} by its footer"))
