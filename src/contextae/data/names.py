"""Very many names, and other columns as long, in memory while they are few and memory-mapped beyond."""

from __future__ import annotations

import io
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

SPOOLED = 1 << 25
"Bytes of a column that is being made beyond which it goes to a file without a name, in the cache folder."
CHUNK = 1 << 16
Bytes = bytes | mmap.mmap


def cache_folder() -> Path:
    """$CONTEXTAE_CACHE, or contextae in the user's cache folder (XDG)."""
    if own := os.environ.get("CONTEXTAE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contextae"


class Column:
    """Bytes that are appended to and then read at random; a long column never lies in memory as a whole."""

    def __init__(self) -> None:
        self.stream: Any = io.BytesIO()
        self.size = 0

    def append(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        if isinstance(self.stream, io.BytesIO) and self.size > SPOOLED:
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            held, self.stream = self.stream, tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as this
            self.stream.write(held.getbuffer())
        self.stream.write(data)

    def whole(self) -> Bytes:
        """Everything that was appended; nothing more may be."""
        if isinstance(self.stream, io.BytesIO):
            return self.stream.getvalue()
        with self.stream:
            self.stream.flush()
            return mmap.mmap(self.stream.fileno(), 0, access=mmap.ACCESS_READ)  # which keeps the file


class Names(Sequence[str]):
    """Strings in one piece of memory or of a file: a list of a million ids would cost 100 MB, in every worker again.

    File names are bytes to the system: those that are not UTF-8 survive (PEP 383). Names from `mapped` are opened
    again, not copied, where they are unpickled.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        text, ends, size = Column(), Column(), 0
        for part in chunked(names):
            encoded = [name.encode("utf-8", "surrogateescape") for name in part]
            bounds = size + np.cumsum([len(name) for name in encoded], dtype=np.int64)
            size = int(bounds[-1])
            text.append(b"".join(encoded))
            ends.append(bounds.tobytes())
        self.text, self.ends = text.whole(), as_array(ends.whole(), np.int64)
        self.paths: tuple[Path, Path] | None = None

    @classmethod
    def mapped(cls, text: Path, ends: Path) -> Names:
        """Those that `write` wrote, opened by memory map in no time."""
        names = cls()
        names.text, names.ends = mapped_bytes(text), as_array(mapped_bytes(ends), np.dtype("<i8"))
        names.paths = (text, ends)
        return names

    def write(self, text: Path, ends: Path) -> None:
        """To two files."""
        for path, data in ((text, self.text), (ends, self.ends)):
            with path.open("wb") as stream:
                write_chunks(data, stream)

    def __getstate__(self) -> dict[str, Any]:
        if self.paths:
            return {"paths": self.paths}
        return {"text": bytes(self.text), "ends": np.array(self.ends), "paths": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(Names.mapped(*state["paths"]).__dict__ if state["paths"] else state)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Names: ...
    def __getitem__(self, position: int | slice) -> str | Names:
        if isinstance(position, slice):
            return Names(self[i] for i in range(*position.indices(len(self))))
        at = range(len(self))[position]
        start = self.ends[at - 1] if at else 0
        return self.text[start : self.ends[at]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), CHUNK):
            ends = self.ends[first : first + CHUNK].tolist()
            start = int(self.ends[first - 1]) if first else 0
            text = self.text[start : ends[-1]]
            begin = 0
            for end in ends:
                yield text[begin : end - start].decode("utf-8", "surrogateescape")
                begin = end - start

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return np.array_equal(self.ends, other.ends) and self.text[:] == other.text[:]
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} names>"


def chunked(names: Iterable[str]) -> Iterator[list[str]]:
    """Lists of at most CHUNK."""
    rest = iter(names)
    while part := list(islice(rest, CHUNK)):
        yield part


def as_array(data: Bytes, dtype: Any) -> np.ndarray:
    """The bytes as numbers, not copied."""
    return np.frombuffer(data, dtype) if len(data) else np.zeros(0, dtype)


def mapped_bytes(path: Path) -> Bytes:
    """A file by memory map; a map of nothing is refused by the system."""
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def write_chunks(data: Bytes | np.ndarray, stream: Any) -> None:
    """By pieces, so that no copy of the whole lies in memory."""
    raw = memoryview(data).cast("B") if not isinstance(data, np.ndarray) else memoryview(data.view(np.uint8).data)
    for start in range(0, len(raw), 1 << 24):
        stream.write(raw[start : start + (1 << 24)])
