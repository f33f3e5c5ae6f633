"""A folder of images, at any depth; no classes, no names, no metadata needed."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from contextae.data.decode import BadImage, ImageFacts, probe
from contextae.data.index import LeftOut, printable
from contextae.data.sources.listing import SUFFIXES, Listing, suffix_of
from contextae.errors import UserError

HIDDEN = "hidden file"


@dataclass(frozen=True)
class Files:
    """Image files by their path relative to `root`, with / between the parts; absolute ones as they are."""

    root: str

    def read(self, sample_id: str) -> bytes:
        try:
            with Path(self.root, sample_id).open("rb") as stream:
                return stream.read()
        except (OSError, ValueError) as error:
            raise BadImage(unreadable(error)) from error

    def probe(self, sample_id: str) -> ImageFacts:
        try:
            with Path(self.root, sample_id).open("rb") as stream:
                return probe(stream)
        except (OSError, ValueError) as error:
            raise BadImage(unreadable(error)) from error


def unreadable(error: OSError | ValueError) -> str:
    """The system's words without the path, so that equal troubles have equal reasons."""
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def list_folder(root: Path, title: str, ids: list[str], left_out: list[LeftOut]) -> Listing:
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
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.met: set[tuple[int, int]] = set()
        self.found: list[tuple[str, bool]] = []
        self.links: list[str] = []
        self.left_out: list[LeftOut] = []
        self.above = {inode(parent) for parent in root.resolve().parents}

    def files(self) -> tuple[list[str], list[LeftOut]]:
        """Ids and what was left out, both sorted."""
        self._folder("")
        while self.links:
            waiting, self.links = sorted(self.links), []
            for link in waiting:
                self._folder(link)
        ids = self._without_doubles()
        return sorted(ids), sorted(self.left_out)

    def _folder(self, relative: str) -> None:
        """Everything below, except behind links, which wait until all folders have been seen."""
        stack = [relative]
        while stack:
            folder = stack.pop()
            path = Path(self.root, folder)
            try:
                place = inode(path)
                if place in self.met or place in self.above:
                    self._leave(folder, "link to a folder that is there anyway")
                    continue
                with os.scandir(path) as entries:
                    listed = list(entries)
            except OSError as error:
                if not folder:
                    raise UserError(
                        f"{printable(self.root)} cannot be opened: {error.strerror}. Give a folder this user may read."
                    ) from error
                self._leave(folder, f"folder that cannot be opened ({error.strerror}), with all it holds")
                continue
            self.met.add(place)
            stack += self._entries(folder, listed)

    def _entries(self, folder: str, listed: list[os.DirEntry[str]]) -> list[str]:
        """Sorts the entries of a folder into files, links and what is left out; returns its sub-folders."""
        inside = []
        for entry in listed:
            name = f"{folder}/{entry.name}" if folder else entry.name
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError as error:  # a link to itself
                self._leave(name, f"cannot be looked at ({error.strerror})")
                continue
            if entry.name.startswith("."):
                self._leave(name, "hidden folder" if is_folder else HIDDEN)
            elif is_folder and entry.is_symlink():
                self.links.append(name)
            elif is_folder:
                inside.append(name)
            elif not is_file:
                self._leave(name, "broken link" if entry.is_symlink() else "neither a file nor a folder")
            elif (suffix := suffix_of(name)) and suffix not in SUFFIXES:
                self._leave(name, f"not an image by its extension, {printable(suffix)}")
            else:
                self.found.append((name, entry.is_symlink()))
        return inside

    def _without_doubles(self) -> list[str]:
        """Links to image files are followed, except to a file that is met otherwise or by an earlier link."""
        if not any(is_link for _, is_link in self.found):
            return [name for name, _ in self.found]
        ids, met = [], set()
        for name, is_link in sorted(self.found, key=lambda entry: (entry[1], entry[0])):
            place = inode(Path(self.root, name))
            if is_link and place in met:
                self._leave(name, "link to a file that is there anyway")
            else:
                ids.append(name)
            met.add(place)
        return ids

    def _leave(self, name: str, reason: str) -> None:
        self.left_out.append(LeftOut(name, reason))


def inode(path: Path) -> tuple[int, int]:
    """What a path leads to, links followed: device and number."""
    status = path.stat()
    return status.st_dev, status.st_ino
