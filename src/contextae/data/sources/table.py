"""The table of the images in archives: columns that are built in one pass over their headers and then memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contextae.data.facts import BadImage
from contextae.data.index import LeftOut, printable
from contextae.data.names import CHUNK, Column, as_array, cache_folder
from contextae.data.sources.folder import unreadable
from contextae.data.sources.handles import look_of
from contextae.data.sources.members import DEFLATED, PLAIN, Group, Member, NotAnArchiveError, groups, key_and_kind
from contextae.data.sources.regular import open_regular
from contextae.data.sources.tar import members_of_tar
from contextae.data.sources.zip import data_place, members_of_zip, unpacked
from contextae.errors import UserError

VERSION = b"table-1"
MOST_CLASS = 256  # bytes of the name or number of a class
EVERY = 1000  # groups between two signs of life
UNLABELLED = -1
KINDS_NAMED = 8  # of what stands beside the images, in a note


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """One entry per image, in order: of `archive`, where it lies (see Member), and the end of its id in `text`.

    `hashes` are sorted, and those of the ids at `order`. `labels`, if any, are positions in the report's classes, -1
    where there is none. `archive_bytes` and `archive_changed` (nanoseconds) are what each archive looked like.
    """

    archive: np.ndarray
    at: np.ndarray
    stored: np.ndarray
    size: np.ndarray
    crc: np.ndarray
    method: np.ndarray
    ends: np.ndarray
    text: np.ndarray
    hashes: np.ndarray
    order: np.ndarray
    labels: np.ndarray
    archive_bytes: np.ndarray
    archive_changed: np.ndarray
    about: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, position: int) -> bytes:
        return _part(self.text, self.ends, position).tobytes()

    def ids(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), CHUNK):
            ends = self.ends[first : first + CHUNK].tolist()
            text, offset = self.text[start : ends[-1]].tobytes(), start
            for end in ends:
                yield text[start - offset : end - offset].decode("utf-8", "surrogateescape")
                start = end

    def report(self) -> Report:
        left_out, notes, classes = json.loads(self.about.tobytes())
        return Report([LeftOut(*entry) for entry in left_out], notes, classes)


class Report(NamedTuple):
    """What was found beside the images."""

    left_out: list[LeftOut]
    notes: list[str]
    classes: list[str] | None


class Scan:
    """What has been found so far, in columns: an object for each of millions of members would not fit in memory."""

    def __init__(self) -> None:
        self.rows = {name: array(kind) for name, kind in COLUMNS.items()}
        self.columns = {name: Column() for name in COLUMNS}
        self.text = Column()
        self.left_out: list[LeftOut] = []
        self.beside: Counter[str] = Counter()
        self.classes: dict[str, int] = {}

    def add(self, number: int, archive: str, group: Group, fetch: Callable[[Member], bytes]) -> None:
        """The images of a group with their class, and what is left out."""
        for member in group.others:
            self.left_out.append(LeftOut(f"{archive}/{member.name}", member.reason))
        self.beside.update(key_and_kind(member.name)[1] for member in group.beside)
        label = self._label(group, fetch)
        try:
            for member in group.images:
                self._keep(number, f"{archive}/{member.name}".encode("utf-8", "surrogateescape"), member, label)
            if len(self.rows["at"]) >= CHUNK:
                self._flush()
        except OSError as error:
            raise UserError(unwritable(error)) from error

    def _keep(self, number: int, name: bytes, member: Member, label: int) -> None:
        self.text.append(name)
        row = (number, member.at, member.stored, member.size, member.crc, member.method, self.text.size)
        for values, value in zip(self.rows.values(), (*row, hash_of(name), label), strict=True):
            values.append(value)

    def _flush(self) -> None:
        """From memory to the columns, which go to a file once they are long."""
        for name, values in self.rows.items():
            self.columns[name].append(values.tobytes())
            del values[:]

    def _label(self, group: Group, fetch: Callable[[Member], bytes]) -> int:
        """Of the member `key.cls`, a number or a name."""
        for member in group.beside:
            if key_and_kind(member.name)[1] == "cls" and member.size <= MOST_CLASS:
                try:
                    name = fetch(member).decode("utf-8", "surrogateescape").strip()
                except BadImage:  # a zip's, which differs from its checksum
                    return UNLABELLED
                return self.classes.setdefault(name, len(self.classes)) if name else UNLABELLED
        return UNLABELLED

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns of a Table, without those of its archives; of several members of one name the last counts."""
        self._flush()
        columns = {name: as_array(column.whole(), self.rows[name].typecode) for name, column in self.columns.items()}
        text = as_array(self.text.whole(), np.uint8)
        order = np.argsort(columns["hashes"], kind="stable")
        if len(replaced := self._replaced(columns["hashes"], columns["ends"], text, order)):
            kept = np.setdiff1d(np.arange(len(order)), replaced)
            text = np.concatenate([_part(text, columns["ends"], i) for i in kept.tolist()])
            ends = np.cumsum(np.diff(columns["ends"], prepend=0)[kept])
            columns = {name: values[kept] for name, values in columns.items()} | {"ends": ends}
            order = np.argsort(columns["hashes"], kind="stable")
        labels, classes, notes = self._labels(columns["labels"])
        about = json.dumps([self.left_out, [*self._notes(), *notes], classes]).encode()
        return {
            **columns,
            "text": text,
            "hashes": columns["hashes"][order],
            "order": order,
            "labels": labels,
            "about": np.frombuffer(about, np.uint8),
        }

    def _replaced(self, hashes: np.ndarray, ends: np.ndarray, text: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The positions of members that a later one replaces, which join what is left out."""
        ranks = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        same = []
        for earlier, later in zip(order[ranks].tolist(), order[ranks + 1].tolist(), strict=True):
            name = _part(text, ends, earlier).tobytes()
            if name == _part(text, ends, later).tobytes():
                same.append(earlier)
                shown = name.decode("utf-8", "surrogateescape")
                self.left_out.append(LeftOut(shown, "replaced by a later member of the same name"))
        return np.array(same, dtype=np.int64)

    def _notes(self) -> list[str]:
        if not self.beside:
            return []
        kinds = [f"{count:,} .{kind}" for kind, count in self.beside.most_common()]
        more = ", ..." if len(kinds) > KINDS_NAMED else ""
        return [
            f"members that go with an image and are not images of their own: {', '.join(kinds[:KINDS_NAMED])}{more}"
        ]

    def _labels(self, labels: np.ndarray) -> tuple[np.ndarray, list[str] | None, list[str]]:
        """Numbered anew in the order of the classes, which are numbers where all are that, else names."""
        if not (labels >= 0).any():
            return np.zeros(0, np.int64), None, []
        numeric = all(name.isdecimal() and name.isascii() for name in self.classes)
        names = sorted(self.classes, key=lambda name: (int(name) if numeric else 0, name))
        places = np.array([names.index(name) for name in self.classes] + [UNLABELLED], dtype=np.int64)
        without = int((labels < 0).sum())
        notes = (
            [f"{without:,} of {len(labels):,} images have no .cls member that can be read, and so no class"]
            if without
            else []
        )
        return places[labels], names, notes


def _part(text: np.ndarray, ends: np.ndarray, position: int) -> np.ndarray:
    return text[ends[position - 1] if position else 0 : ends[position]]


COLUMNS = {
    "archive": "I",
    "at": "Q",
    "stored": "Q",
    "size": "Q",
    "crc": "I",
    "method": "B",
    "ends": "q",
    "hashes": "Q",
    "labels": "q",
}


def made_table(
    root: Path, names: Sequence[str], alive: Callable[[int], None] = lambda number: None
) -> dict[str, np.ndarray]:
    """Reads the headers of all archives. One that cannot be read is left out as a whole, from where it breaks on.

    `alive(number)` is called when an archive is begun, and now and then while its headers are read.
    """
    scan = Scan()
    looks = []
    for number, name in enumerate(names):
        alive(number)
        looks.append(look_of(Path(root, name).stat()))
        try:
            for count, _ in enumerate(_scanned(scan, number, Path(root, name), name), start=1):
                if count % EVERY == 0:
                    alive(number)
        except NotAnArchiveError as error:
            scan.left_out.append(LeftOut(name, error.reason))
        except OSError as error:
            scan.left_out.append(LeftOut(name, unreadable(error)))
    bounds = np.array(looks, dtype=np.int64).reshape(-1, 2)
    return {**scan.arrays(), "archive_bytes": bounds[:, 0], "archive_changed": bounds[:, 1]}


def _scanned(scan: Scan, number: int, path: Path, name: str) -> Iterator[None]:
    """Adds an archive to the scan, group by group."""
    with open_regular(path) as stream:
        num_bytes = os.fstat(stream.fileno()).st_size

        def read(offset: int, size: int) -> bytes:
            return os.pread(stream.fileno(), size, offset)

        def fetch(member: Member) -> bytes:
            begin = member.at if member.method == PLAIN else data_place(read, member.at)
            data = read(begin, member.stored)
            if member.method == PLAIN:
                return data
            return unpacked(data, size=member.size, crc=member.crc, deflated=member.method == DEFLATED)

        is_zip = path.suffix.lower() == ".zip"
        members = members_of_zip(stream, num_bytes) if is_zip else members_of_tar(read, num_bytes)
        for group in groups(members):
            scan.add(number, name, group, fetch)
            yield


def unwritable(error: OSError) -> str:
    """The paragraph for a cache folder that takes no table."""
    return (
        f"The table of what the archives hold cannot be written to {printable(str(cache_folder()))}: {error.strerror}. "
        "Make room there, or name another folder in CONTEXTAE_CACHE."
    )


def hash_of(name: bytes) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
