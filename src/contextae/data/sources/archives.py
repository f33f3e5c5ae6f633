"""Images in tar and zip archives, read at random: a table of where each member lies is made once and kept in the cache.

Ids are the archive's path, relative to the root, and the member's name: `shards-000.tar/000123.jpg`. A WebDataset shard
is a tar archive as any other; its `.cls` members are the classes.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from contextae.data.decode import probe
from contextae.data.facts import ImageFacts
from contextae.data.index import LeftOut, left_out_lines, printable
from contextae.data.names import Names, cache_folder
from contextae.data.sources.handles import Handles
from contextae.data.sources.listing import Listing
from contextae.data.sources.mapped import MAGIC, open_mapped, write_mapped
from contextae.data.sources.members import DEFLATED, PLAIN
from contextae.data.sources.opening import Alive, open_apart
from contextae.data.sources.reopened import Reopened
from contextae.data.sources.table import VERSION, Table, hash_of, made_table, unwritable
from contextae.data.sources.unpacked import cache_key
from contextae.data.sources.window import Window
from contextae.data.sources.zip import data_place, unpacked
from contextae.errors import UserError

ARCHIVE_SUFFIXES = (".tar", ".zip")
HEADER = 1 << 14
"Bytes read of a member to see what image it is; a longer one is then read further, as far as is needed."


class Place(NamedTuple):
    """Where a member lies: as `Member`, and the number of its archive."""

    archive: int
    at: int
    stored: int
    size: int
    crc: int
    method: int


class Archived(Reopened):
    """The images in the archives `names`, below `root`. The table is opened by memory map, in each process.

    `position` is that of an image in the listing, before any is refused for its content.
    """

    def __init__(self, root: str, names: tuple[str, ...], table: str) -> None:
        self.root, self.names, self.table = root, names, table
        self._start()

    def _start(self) -> None:
        super()._start()
        self._opened: tuple[Table, Handles] | None = None

    def read(self, sample_id: str) -> bytes:
        return self.read_at(self.position(sample_id))

    def probe(self, sample_id: str) -> ImageFacts:
        return self.probe_at(self.position(sample_id))

    def has(self, sample_id: str) -> bool:
        return self._found(sample_id) is not None

    def position(self, sample_id: str) -> int:
        """KeyError where the archives hold no such image."""
        found = self._found(sample_id)
        if found is None:
            raise KeyError(sample_id)
        return found

    def _found(self, sample_id: str) -> int | None:
        """By binary search among hashes, as a dictionary of the names would cost each process 100 bytes for each."""
        table, _ = self._open()
        name = sample_id.encode("utf-8", "surrogateescape")
        wanted = np.uint64(hash_of(name))
        for rank in range(int(np.searchsorted(table.hashes, wanted)), len(table.hashes)):
            if table.hashes[rank] != wanted:
                break
            position = int(table.order[rank])
            if table.name(position) == name:
                return position
        return None

    def read_at(self, position: int) -> bytes:
        """All bytes of a member; BadImage where they cannot be had, or differ from a zip's checksum."""
        _, handles = self._open()
        place = self._place(position)
        data = handles.read(place.archive, self._begin(place), place.stored)
        if place.method == PLAIN:
            return data
        return unpacked(data, size=place.size, crc=place.crc, deflated=place.method == DEFLATED)

    def probe_at(self, position: int) -> ImageFacts:
        """Reads no more of a long member than its header needs, unless it is deflated."""
        place = self._place(position)
        if place.method == DEFLATED or place.size <= HEADER:
            return probe(self.read_at(position))
        _, handles = self._open()
        begin = self._begin(place)

        def part(offset: int, size: int) -> bytes:
            return handles.read(place.archive, begin + offset, size)

        return probe(cast(Any, io.BufferedReader(Window(part, place.size), HEADER)))

    def _place(self, position: int) -> Place:
        table, _ = self._open()
        columns = (table.archive, table.at, table.stored, table.size, table.crc, table.method)
        return Place(*(int(column[position]) for column in columns))

    def _begin(self, place: Place) -> int:
        if place.method == PLAIN:
            return place.at
        _, handles = self._open()
        return data_place(lambda at, size: handles.read(place.archive, at, size), place.at)

    def _open(self) -> tuple[Table, Handles]:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    table = open_table(Path(self.root), self.names, Path(self.table), whole=False)
                    looks = list(zip(table.archive_bytes.tolist(), table.archive_changed.tolist(), strict=True))
                    self._opened = table, Handles(self.root, self.names, looks)
        return self._opened


def list_archives(
    root: Path,
    names: Sequence[str],
    title: str,
    *,
    left_out: Sequence[LeftOut] = (),
) -> Listing:
    """The images in the archives `names`, relative to `root`, in the order of these and of their members.

    UserError where none is found. An archive whose listing ends the process that reads it is left out.
    """
    table, path, gone = table_of(root, names)
    names = [name for name in names if name not in gone]
    report = table.report()
    left = [*left_out, *(LeftOut(name, reason) for name, reason in gone.items()), *report.left_out]
    if not len(table):
        reasons = "; ".join(line.strip() for line in left_out_lines(left, len(left))) or "it has no members"
        raise UserError(
            f"{title} holds no images that can be read. {reasons[0].upper()}{reasons[1:]}. Give tar or zip archives "
            "with image files in them."
        )
    notes = [
        *report.notes,
        f"where each image stands in the archives is kept in {printable(str(cache_folder()))}, which may be deleted "
        "when nothing runs; CONTEXTAE_CACHE names another folder",
    ]
    return Listing(
        source=Archived(str(root.absolute()), tuple(names), str(path)),
        title=title,
        ids=Names(table.ids()),
        left_out=left,
        notes=notes,
        labels=np.array(table.labels) if len(table.labels) else None,
        classes=report.classes,
    )


def table_of(root: Path, names: Sequence[str]) -> tuple[Table, Path, dict[str, str]]:
    """The table, where it lies, and why archives are not in it; made in a process that may die of one of them."""
    path = table_path(root, names)
    if found := open_mapped(path, whole=True):
        return Table(**found), path, {}
    opened = open_apart(partial(write_table, root, tuple(names)), names)
    gone = {names[number]: reason for number, reason in opened.bad.items()}
    path = table_path(root, [name for name in names if name not in gone])
    found = open_mapped(path, whole=False)
    if found is None:
        raise UserError(lost(path))
    return Table(**found), path, gone


def write_table(root: Path, names: Sequence[str], bad: Collection[int], alive: Alive) -> None:
    """Of all archives but those of the numbers in `bad`."""
    kept = [number for number in range(len(names)) if number not in bad]
    left = [names[number] for number in kept]
    open_table(root, left, table_path(root, left), whole=True, alive=lambda number: alive(kept[number]))


def table_path(root: Path, names: Sequence[str]) -> Path:
    return cache_folder() / f"{table_key(root, names)}.members"


def table_key(root: Path, names: Sequence[str]) -> str:
    """Of one state of all the archives, their names, and the versions of what is written."""
    parts = [MAGIC, VERSION]
    for name in names:
        path = Path(root, name)
        try:
            parts += [os.fsencode(name), cache_key(path, "members").encode()]
        except OSError as error:
            raise UserError(f"{printable(str(path))} is not there any more. Start again with what is.") from error
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def open_table(
    root: Path,
    names: Sequence[str],
    path: Path,
    *,
    whole: bool,
    alive: Alive = lambda number: None,
) -> Table:
    """From the cache, where it is written first if it is not there or is damaged (`whole`: wherever it is).

    UserError where an archive has changed since the table's name was made, or the cache cannot be written.
    """
    found = open_mapped(path, whole=whole)
    if found is None:
        arrays = made_table(root, names, alive)
        if path.stem != table_key(root, names):
            raise UserError(
                f"The archives below {printable(str(root))} have changed since they were opened. Start again with them."
            )
        try:
            write_mapped(path, arrays)
        except OSError as error:
            raise UserError(unwritable(error)) from error
        found = open_mapped(path, whole=whole)
    if found is None:
        raise UserError(lost(path))
    return Table(**found)


def lost(path: Path) -> str:
    return (
        f"{printable(str(path))} was written and cannot be read. Look at the disk, or name another folder in "
        "CONTEXTAE_CACHE."
    )
