"""Parquet or Arrow files with a column of encoded images, one or many; ids are `train.parquet#17`, rows from 0."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from contextae.data.decode import probe
from contextae.data.facts import BadImage, ImageFacts
from contextae.data.index import LeftOut, printable, readable_bytes
from contextae.data.names import Names, cache_folder
from contextae.data.sources.arrow import MappedRows, check_stream, column_bytes, footer, is_stream, refusal
from contextae.data.sources.columns import image_column, leaf
from contextae.data.sources.listing import Listing
from contextae.data.sources.opening import Alive, Reading, open_apart
from contextae.data.sources.reopened import Reopened
from contextae.data.sources.unpacked import Unpacked, check_rows, in_memory, on_disk
from contextae.errors import UserError

IN_MEMORY = 512_000_000
"Bytes of images up to which each process keeps them in memory; beyond, all share one unpacked copy on disk."


class Part(NamedTuple):
    """One file, and what it looked like when it was opened."""

    name: str
    num_bytes: int
    changed: int
    num_rows: int


class Looked(NamedTuple):
    """What files say of themselves: the column of the images, a note on it, and how many bytes these are."""

    parts: tuple[Part, ...]
    column: str
    note: str
    num_bytes: int


class Rows(Reopened):
    """The rows of one column. A single row of a Parquet file costs as much as its whole row group (10,000 rows: 30 ms),
    so that random access goes to an unpacked copy: in memory for small sets, memory-mapped from the cache for others.
    """

    def __init__(self, root: str, parts: tuple[Part, ...], column: str, copied: bool) -> None:
        self.root, self.parts, self.column, self.copied = root, parts, column, copied
        self._start()

    def _start(self) -> None:
        super()._start()
        self._known = {part.name: part for part in self.parts}
        self._opened: dict[str, Unpacked | MappedRows] = {}

    def read(self, sample_id: str) -> bytes:
        name, _, row = sample_id.rpartition("#")
        data = (self._opened.get(name) or self._open(name))[int(row)]
        if not data:
            raise BadImage("row without an image")
        return data

    def has(self, sample_id: str) -> bool:
        name, _, row = sample_id.rpartition("#")
        return name in self._known and row.isdecimal() and int(row) < self._known[name].num_rows

    def probe(self, sample_id: str) -> ImageFacts:
        return probe(self.read(sample_id))

    def _open(self, name: str) -> Unpacked | MappedRows:
        with self._lock:
            if name not in self._opened:
                path = Path(self.root, name)
                part = self._known[name]
                if look(path)[:2] != (part.num_bytes, part.changed):
                    raise UserError(f"{printable(str(path))} has changed since it was opened. Start again with it.")
                if is_stream(path):
                    self._opened[name] = MappedRows(path, self.column)
                else:
                    self._opened[name] = on_disk(path, self.column) if self.copied else in_memory(path, self.column)
            return self._opened[name]


def look(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def list_parquet(
    root: Path, names: Sequence[str], title: str, *, column: str | None = None, left_out: Sequence[LeftOut] = ()
) -> Listing:
    """The rows of the files `names`, relative to `root`, in their order."""
    looked = asked(partial(look_into, root, tuple(names), column), root, names)
    if not sum(part.num_rows for part in looked.parts):
        raise UserError(f"{title} holds no rows. Give Parquet files with images in them.")
    notes = [looked.note] if looked.note else []
    copied = looked.num_bytes > IN_MEMORY
    if copied:
        notes.append(
            f"{readable_bytes(looked.num_bytes)} of images are unpacked once to {printable(str(cache_folder()))}, for "
            "random access; that folder may be deleted when nothing runs, and CONTEXTAE_CACHE names another"
        )
    asked(partial(go_through, root, looked.parts, looked.column, copied), root, names)
    return Listing(
        source=Rows(str(root.absolute()), looked.parts, looked.column, copied),
        title=title,
        ids=Names(f"{part.name}#{row}" for part in looked.parts for row in range(part.num_rows)),
        left_out=list(left_out),
        notes=notes,
    )


def asked(reading: Reading, root: Path, names: Sequence[str]) -> Any:
    """What a reading of these files gives; UserError for the first that cannot be read, or ends the process."""
    opened = open_apart(reading, names)
    for number, reason in opened.bad.items():
        raise UserError(refusal(Path(root, names[number]), reason))
    return opened.result


def look_into(
    root: Path, names: Sequence[str], wanted: str | None, bad: Collection[int], alive: Alive
) -> Looked | None:
    """The footers of all files; those after the first have the images in a column of the same name."""
    parts: list[Part] = []
    first, total, column = "", 0, wanted
    for number, name in enumerate(names):
        if bad:
            return None
        alive(number)
        path = Path(root, name)
        schema, num_rows = footer(path)
        column, note = image_column(schema, where=printable(str(path)), wanted=column)
        first = first if parts else note
        parts.append(Part(name, *look(path), num_rows))
        total += column_bytes(path, str(leaf(schema.field(column))))
    return Looked(tuple(parts), str(column), first, total)


def go_through(
    root: Path, parts: Sequence[Part], column: str, copied: bool, bad: Collection[int], alive: Alive
) -> None:
    """Every row once, of large sets into their copies; what cannot be read ends here, not amid its images."""
    for number, part in enumerate(parts):
        if bad:
            return
        path, tick = Path(root, part.name), partial(alive, number)
        tick()
        if is_stream(path):
            check_stream(path, column)
        elif copied:
            on_disk(path, column, tick)
        else:
            check_rows(path, column, tick)
