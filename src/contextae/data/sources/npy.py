"""Where the numbers of a NumPy file lie and what they are, from its header alone; objects are never loaded."""

from __future__ import annotations

import math
import tokenize
import warnings
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from contextae.data.index import printable, readable_bytes
from contextae.data.sources.regular import open_regular
from contextae.errors import UserError

MOST_FORTRAN = 512_000_000
"Bytes of a stack in Fortran's order, whose images are strewn over all of it, so that each process holds the whole."
HEADER = (ValueError, TypeError, EOFError, OSError, MemoryError, RecursionError, SyntaxError, tokenize.TokenError)
"What NumPy raises over a damaged header."


class Header(NamedTuple):
    """Of an array that lies in a file from `begin` on, without gaps, and must end by `end`."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    begin: int
    end: int = 0

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def header_of(path: Path) -> Header:
    """Of a .npy file."""
    try:
        with open_regular(path) as stream:
            return parsed(stream, path)._replace(end=path.stat().st_size)
    except OSError as error:
        raise UserError(
            f"{printable(str(path))} cannot be read: {error.strerror}. Give a file this user may read."
        ) from error


def parsed(stream: IO[bytes], path: Path) -> Header:
    """From where the stream stands. UserError where it is no array, or one of Python objects."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers written by Python 2, and of types that go out of use
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version[0]}.{version[1]}")
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(stream)
    except HEADER as error:
        raise UserError(
            f"{printable(str(path))} cannot be read as a NumPy array: its header is damaged or of another version. "
            "Mend it, or take it out of the set."
        ) from error
    if dtype.hasobject:
        raise UserError(
            f"{printable(str(path))} holds Python objects, which are never loaded, as that could run what they say. "
            "Save an array of numbers."
        )
    return Header(tuple(int(size) for size in shape), fortran, dtype, stream.tell())


def check_whole(header: Header, where: str) -> None:
    """Refuses a file that is shorter than its header says, and a large one in Fortran's order."""
    there = header.end - header.begin
    if min(header.shape, default=0) < 0 or there < header.num_bytes:
        raise UserError(
            f"{where} is cut off or damaged: by its header it has the axes {' x '.join(map(str, header.shape))} of "
            f"{header.dtype}, and {readable_bytes(max(there, 0))} are there. Write it again."
        )
    if header.fortran and header.num_bytes > MOST_FORTRAN:
        raise UserError(
            f"{where} is in Fortran's order, in which each image is strewn over the whole file, "
            f"{readable_bytes(header.num_bytes)}. Save numpy.ascontiguousarray(array)."
        )
