"""Named arrays in one file, opened by memory map, so that all processes share them and none waits for them.

The file is a head (MAGIC, the length and the CRC-32 of the table of contents), that table as JSON, and the arrays, each
from a multiple of ALIGN on. The table holds each array's name, type, length, place and CRC-32, and the file's size.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MAGIC = b"ctxae-m1"
HEAD = struct.Struct("<8sQI")
ALIGN = 64
MOST_TABLE = 1 << 20


def write_mapped(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays of one dimension, under another name until all is written. OSError where there is no room."""
    listed = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    table: list[list[str | int]] = []
    offset = 0
    for name, array in listed.items():
        table.append([name, array.dtype.str, len(array), offset, zlib.crc32(array.view(np.uint8).data)])
        offset += aligned(array.nbytes)
    text = json.dumps({"arrays": table, "size": offset}).encode()
    start = aligned(HEAD.size + len(text))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as stream:
            temporary = Path(stream.name)
            stream.write((HEAD.pack(MAGIC, len(text), zlib.crc32(text)) + text).ljust(start, b"\0"))
            for array in listed.values():
                stream.write(array.data)
                stream.write(bytes(aligned(array.nbytes) - array.nbytes))
        temporary.replace(path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def open_mapped(path: Path, *, whole: bool) -> dict[str, np.ndarray] | None:
    """The arrays, read-only; None where the file is absent, of another version, or damaged.

    With `whole` every byte is compared with its checksum, at some 1 GB a second; without, the head and the size alone,
    in less than a millisecond.
    """
    try:
        with path.open("rb") as stream:
            magic, length, crc = HEAD.unpack(stream.read(HEAD.size))
            text = stream.read(min(length, MOST_TABLE))
            if magic != MAGIC or zlib.crc32(text) != crc:
                return None
            table = json.loads(text)
            start = aligned(HEAD.size + length)
            if os.fstat(stream.fileno()).st_size != start + table["size"]:
                return None
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, struct.error):
        return None
    arrays = {}
    for name, kind, count, offset, crc in table["arrays"]:
        array = np.frombuffer(data, kind, count, start + offset) if count else np.zeros(0, kind)
        if whole and zlib.crc32(array.view(np.uint8).data) != crc:
            return None
        arrays[name] = array
    return arrays


def aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
