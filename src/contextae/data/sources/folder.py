"""A folder of images, at any depth; no classes, no names, no metadata needed."""

from __future__ import annotations

import heapq
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from contextae.data.decode import probe
from contextae.data.facts import BadImage, ImageFacts
from contextae.data.index import LeftOut, printable
from contextae.data.names import Names
from contextae.data.sources.listing import SUFFIXES, Listing, suffix_of
from contextae.data.sources.regular import NOT_A_FILE, NotAFileError, open_regular, read_regular
from contextae.data.sources.window import Window
from contextae.errors import UserError

HIDDEN = "hidden file"
DOUBLE = "link to a file that is there anyway"
LARGE = 1 << 26
"Bytes of a file beyond which only the parts of it are read that are needed."


@dataclass(frozen=True)
class Files:
    """Image files by their path relative to `root`, with / between the parts; absolute ones as they are."""

    root: str

    def read(self, sample_id: str) -> bytes:
        try:
            return read_regular(Path(self.root, sample_id))
        except (OSError, ValueError) as error:
            raise BadImage(unreadable(error)) from error

    def probe(self, sample_id: str) -> ImageFacts:
        try:
            with open_regular(Path(self.root, sample_id)) as stream:
                return probe(stream)
        except (OSError, ValueError) as error:
            raise BadImage(unreadable(error)) from error

    def open_parts(self, sample_id: str) -> BinaryIO | None:
        """A file that is too large to be read as a whole for each tile of it; None of others. BadImage as of `read`.

        It is open only while it is read, so that nobody has to close it.
        """
        path = Path(self.root, sample_id)
        try:
            size = path.stat().st_size
        except (OSError, ValueError) as error:
            raise BadImage(unreadable(error)) from error
        if size <= LARGE:
            return None

        def part(offset: int, count: int) -> bytes:
            with open_regular(path) as stream:
                stream.seek(offset)
                return stream.read(count)

        return cast(BinaryIO, io.BufferedReader(Window(part, size)))

    def has(self, sample_id: str) -> bool:
        return os.path.exists(Path(self.root, sample_id))  # noqa: PTH110  Path.exists() raises on some names


def unreadable(error: OSError | ValueError) -> str:
    """The system's words without the path, so that equal troubles have equal reasons."""
    if isinstance(error, NotAFileError):
        return NOT_A_FILE
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def list_folder(root: Path, title: str, ids: Sequence[str], left_out: list[LeftOut]) -> Listing:
    """What a Walk found; UserError where none of it may be an image."""
    if not ids:
        raise UserError(nothing_in(title, left_out))
    return Listing(source=Files(str(root)), title=title, ids=ids, left_out=left_out)


def nothing_in(where: str, left_out: list[LeftOut]) -> str:
    """The paragraph for a folder without images: what it holds instead, by extension."""
    if not left_out:
        return f"{where} is an empty folder. Give one that holds images, at any depth."
    kinds = Counter(suffix_of(entry.path) or "without extension" for entry in left_out)
    held = ", ".join(f"{count:,} {printable(kind)}" for kind, count in kinds.most_common(8))
    return (
        f"{where} holds no images that can be read: {len(left_out):,} files or folders, of which {held}. "
        f"Known extensions are {', '.join(sorted(SUFFIXES))}."
    )


class Walk:
    """Goes through a folder once, folders before the links that lead to folders, so that no image is met twice.

    A folder that was met already, or that holds the root, is left out where a link leads to it, and so is a link to a
    file that is there anyway. Hidden files and folders are left out, and what cannot be opened is left out by name.

    Names come in the order of their whole paths without being kept: as entries of a folder are taken in the order of
    their names, those of folders with a / at their end, the walk itself is in that order.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.met: set[tuple[int, int]] = set()
        self.folder_links: list[str] = []
        self.file_links: set[str] = set()
        self.left_out: list[LeftOut] = []
        self.above = {inode(parent) for parent in root.resolve().parents}

    def files(self) -> tuple[Names, list[LeftOut]]:
        """Ids and what was left out, both sorted."""
        ids = Names(self._folder(""))
        behind: list[str] = []
        while self.folder_links:
            waiting, self.folder_links = sorted(self.folder_links), []
            for link in waiting:
                behind += self._folder(link)
        if behind:
            ids = Names(heapq.merge(ids, sorted(behind)))
        if self.file_links:
            doubles = self.doubles(ids, self.file_links)
            ids = Names(name for name in ids if name not in doubles)
        return ids, sorted(self.left_out)

    def _folder(self, relative: str) -> Iterator[str]:
        """Every file below that may be an image, except behind links, which wait until all folders have been seen."""
        stack = [iter([(relative, True)])]
        while stack:
            name, is_folder = next(stack[-1], (None, False))
            if name is None:
                stack.pop()
            elif is_folder:
                stack.append(iter(self._entries(name)))
            else:
                yield name

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        """The sub-folders and image files of a folder in their order; links to folders and the rest are noted."""
        path = Path(self.root, folder)
        try:
            place = inode(path)
            if place in self.met or place in self.above:
                self._leave(folder, "link to a folder that is there anyway")
                return []
            with os.scandir(path) as entries:
                listed = list(entries)
        except OSError as error:
            if not folder:
                raise UserError(
                    f"{printable(self.root)} cannot be opened: {error.strerror}. Give a folder this user may read."
                ) from error
            self._leave(folder, f"folder that cannot be opened ({error.strerror}), with all it holds")
            return []
        self.met.add(place)
        found = [found for entry in listed if (found := self._entry(folder, entry))]
        return sorted(found, key=lambda item: f"{item[0]}/" if item[1] else item[0])

    def _entry(self, folder: str, entry: os.DirEntry[str]) -> tuple[str, bool] | None:
        """A sub-folder, True, or a file, False; nothing of what is left out or waits."""
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:  # a link to itself
            self._leave(name, f"cannot be looked at ({error.strerror})")
            return None
        if entry.name.startswith("."):
            self._leave(name, "hidden folder" if is_folder else HIDDEN)
        elif is_folder and entry.is_symlink():
            self.folder_links.append(name)
        elif is_folder:
            return name, True
        elif not is_file:
            self._leave(name, "broken link" if broken(entry) else NOT_A_FILE)
        elif (suffix := suffix_of(name)) and suffix not in SUFFIXES:
            self._leave(name, other_kind(suffix))
        else:
            if entry.is_symlink():
                self.file_links.add(name)
            return name, False
        return None

    def doubles(self, ids: Sequence[str], links: Iterable[str]) -> set[str]:
        """Those of the links that lead to a file which is met otherwise, or by an earlier link; they are left out.

        Other links to files are followed.
        """
        targets = {name: inode(Path(self.root, name)) for name in sorted(links)}
        wanted = set(targets.values())
        met = {place for name in ids if name not in targets and (place := inode(Path(self.root, name))) in wanted}
        doubles = set()
        for name, place in targets.items():
            if place in met:
                self._leave(name, DOUBLE)
                doubles.add(name)
            met.add(place)
        return doubles

    def _leave(self, name: str, reason: str) -> None:
        self.left_out.append(LeftOut(name, reason))


def other_kind(suffix: str) -> str:
    """The reason of a file that is there and may be opened, and is no image by its name."""
    return f"not an image by its extension, {printable(suffix)}"


def broken(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link that leads to nothing, rather than to a pipe, a socket or a device."""
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110  Path.exists() raises on some names


def inode(path: Path) -> tuple[int, int]:
    """What a path leads to, links followed: device and number."""
    status = path.stat()
    return status.st_dev, status.st_ino
