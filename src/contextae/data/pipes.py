"""Messages between a training and its loader processes: pickles, with the arrays in them sent as they lie in memory.

Both ends are processes of ours and the pipes between them are private; nothing that comes from a file is unpickled.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Wait = Callable[[], None]
"Called before every read or write, which then does not block; it raises where waiting has become hopeless."


def frame(message: Any) -> list[memoryview]:
    """What `write` sends: sizes, a pickle, and the arrays of the message, not copied."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(data), *(buffer.raw() for buffer in buffers)]
    sizes = [part.nbytes for part in parts]
    return [memoryview(struct.pack(f"<{1 + len(sizes)}Q", len(sizes), *sizes)), *parts]


def write(pipe: int, parts: list[memoryview], wait: Wait | None = None) -> None:
    """BrokenPipeError where the other side is gone."""
    for part in parts:
        rest = part
        while rest.nbytes:
            if wait:
                wait()
            rest = rest[os.write(pipe, rest) :]


def receive(pipe: int, wait: Wait | None = None) -> Any:
    """The next message, its arrays writable; EOFError where the other side is gone."""
    (count,) = struct.unpack("<Q", _read(pipe, 8, wait))
    data, *buffers = [_read(pipe, size, wait) for size in struct.unpack(f"<{count}Q", _read(pipe, 8 * count, wait))]
    return pickle.loads(data, buffers=buffers)  # noqa: S301  (of our own process, see above)


def _read(pipe: int, size: int, wait: Wait | None) -> memoryview:
    buffer = np.empty(size, np.uint8).data  # unlike a bytearray, not filled with zeros first
    rest = buffer
    while rest.nbytes:
        if wait:
            wait()
        got = os.readv(pipe, [rest])
        if not got:
            raise EOFError
        rest = rest[got:]
    return buffer
