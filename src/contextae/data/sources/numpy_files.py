"""Stacks of images in NumPy's files, read at random; ids are `stack.npy#17` and `stacks.npz::images#17`, from 0."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from contextae.data import deep
from contextae.data.facts import ImageFacts
from contextae.data.index import printable
from contextae.data.names import Names, cache_folder
from contextae.data.sources.arrays import (
    LAYOUTS,
    axes_note,
    check_values,
    facts_of_array,
    image_of,
    image_shape,
    stack_layout,
)
from contextae.data.sources.copies import Tick
from contextae.data.sources.handles import Handles, changed, look_of
from contextae.data.sources.listing import Listing
from contextae.data.sources.npy import Header, check_whole, header_of
from contextae.data.sources.npz import image_array, members, stored_header, unpacked_copy
from contextae.data.sources.opening import Alive, open_apart
from contextae.data.sources.reopened import Reopened
from contextae.errors import UserError

SMALL = 1 << 26
"Bytes of an array that this process reads by itself; the images of larger ones are shared out among several."


class Stack(Reopened):
    """The images of one array. Read rather than mapped, as a file that is cut off under its map ends the process.

    `look` is that of `path`, the user's file; the array lies in `copy`, in the cache, if there is one.
    """

    def __init__(
        self, *, path: str, name: str, look: tuple[int, int], header: Header, layout: str, copy: str | None = None
    ) -> None:
        self.path, self.name, self.look, self.header, self.layout, self.copy = path, name, look, header, layout, copy
        self._start()

    @property
    def arrays(self) -> bool:
        """Nothing is decoded, and all of a small one is read before another process has started."""
        return self.header.num_bytes <= SMALL

    def _start(self) -> None:
        super()._start()
        self._handles: Handles | None = None
        self._whole: np.ndarray | None = None

    def __len__(self) -> int:
        return self.header.shape[0]

    def __getitem__(self, position: int) -> np.ndarray:
        """One image as it lies in the file, of its own axes, type and byte order."""
        shape, fortran, dtype, begin, _ = self.header
        if fortran:
            return self._loaded()[position]
        size = math.prod(shape[1:]) * dtype.itemsize
        data = self._open().read(0, begin + position * size, size)
        return np.frombuffer(data, dtype).reshape(shape[1:])

    def read(self, sample_id: str) -> np.ndarray:
        return self.read_at(self._position(sample_id))

    def read_at(self, position: int) -> np.ndarray:
        return deep.canonical(image_of(self[position], self.layout))

    def probe(self, sample_id: str) -> ImageFacts:
        """All are alike, so none is read."""
        self._position(sample_id)
        return facts_of_array(image_shape(self.header.shape[1:], self.layout), self.header.dtype)

    def has(self, sample_id: str) -> bool:
        name, _, number = sample_id.rpartition("#")
        return name == self.name and number.isdecimal() and int(number) < len(self)

    def _position(self, sample_id: str) -> int:
        if not self.has(sample_id):
            raise KeyError(sample_id)
        return int(sample_id.rpartition("#")[2])

    def _open(self) -> Handles:
        with self._lock:
            if self._handles is None:
                path, look = Path(self.path), self.look
                if self.copy is not None:
                    path, look = self._copied(path)
                self._handles = Handles(str(path.parent), [path.name], [look])
            return self._handles

    def _copied(self, path: Path) -> tuple[Path, tuple[int, int]]:
        """The unpacked array, written again where somebody has emptied the cache."""
        if look_of(path.stat()) != self.look:
            raise UserError(changed(path))
        copy = Path(str(self.copy))
        if not copy.is_file():
            unpacked_copy(path, self.name.removeprefix(f"{path.name}::"))
        return copy, look_of(copy.stat())

    def _loaded(self) -> np.ndarray:
        """An array in Fortran's order as one in C's."""
        handles = self._open()
        with self._lock:
            if self._whole is None:
                shape, _, dtype, begin, _ = self.header
                data = handles.read(0, begin, self.header.num_bytes)
                self._whole = np.ascontiguousarray(np.frombuffer(data, dtype).reshape(shape, order="F"))
            return self._whole


def list_numpy(path: Path, title: str, *, wanted: str | None = None) -> Listing:
    """`wanted` is what stands behind `::`: the array's name, its axes (nhw, nhwc, nchw), or both: `NAME::nchw`.

    UserError where the array is no stack of images, or damaged, or where its axes or values leave a doubt.
    """
    opened = open_apart(partial(stack_in, path, wanted), [path.name])
    for reason in opened.bad.values():
        raise UserError(
            f"{printable(str(path))} cannot be read as NumPy's arrays: {reason}. Mend it, or take it out of the set."
        )
    source, notes = opened.result
    return Listing(source=source, title=title, ids=Names(f"{source.name}#{i}" for i in range(len(source))), notes=notes)


def stack_in(path: Path, wanted: str | None, bad: Collection[int], alive: Alive) -> tuple[Stack, list[str]] | None:
    """The array of images of a file, and notes on it; nothing of one that ended its process."""
    if bad:
        return None
    tick = partial(alive, 0)
    tick()
    name, _, layout = (wanted or "").rpartition("::")
    if layout not in LAYOUTS:
        name, layout = wanted or "", ""
    look = look_of(path.stat())
    notes: list[str] = []
    copy = None
    if path.suffix.lower() == ".npz":
        name, note = image_array(path, name)
        header, copy, more = header_in(path, name, tick)
        notes = [line for line in (note, more) if line]
        base = f"{path.name}::{name}"
    elif name:
        raise UserError(
            f"{printable(str(path))} has no array {name!r}: a .npy file holds one, without a name. Behind :: its axes "
            "can stand: nhw, nhwc or nchw."
        )
    else:
        header, base = header_of(path), path.name
    where = printable(str(path.parent / base))
    check_whole(header, where)
    axes = stack_layout(header.shape, layout or None, where, f"{where}::")
    source = Stack(path=str(path.absolute()), name=base, look=look, header=header, layout=axes, copy=copy)
    check_values(source, header.dtype, where, tick)
    return source, [*notes, axes_note(header.shape, axes)]


def header_in(path: Path, name: str, alive: Tick) -> tuple[Header, str | None, str]:
    """Of an array of a .npz; where it was unpacked to if that was needed, and a note that says so."""
    info = members(path)[name]
    if info.compress_type == zipfile.ZIP_STORED:
        return stored_header(path, info), None, ""
    copy = unpacked_copy(path, name, alive)
    note = (
        f"it is compressed, and unpacked once to {printable(str(cache_folder()))}, for random access; that folder may "
        "be deleted when nothing runs, and CONTEXTAE_CACHE names another"
    )
    return header_of(copy), str(copy), note
