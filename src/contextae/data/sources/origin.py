"""What the source of a packed cache looked like, and whether it still does: names, sizes and times of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np

from contextae.data.builtin import PREFIX
from contextae.data.index import printable
from contextae.data.names import Column, Names, as_array, chunked
from contextae.data.sources.file_list import list_paths
from contextae.data.sources.folder import Files, Walk
from contextae.data.sources.listing import Listing
from contextae.data.sources.shards import expanded, is_pattern
from contextae.errors import UserError

LOOK = np.dtype([("num_bytes", "<i8"), ("changed", "<i8")])
"""Of one file: its size, and the time of its last change in nanoseconds; -1 both where it cannot be looked at."""
How = Literal["folder", "list", "files", "pattern", "nothing"]
"""What is looked at: the images of a folder or of a list; all files of a folder of Parquet or archives, or one such
file; the files of a pattern with braces; or nothing, for arrays of a program."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """`path` is absolute. `names` is a hash of the `listed` names in their order, `looks` one of their LOOKs."""

    path: str
    title: str
    how: How
    listed: int
    names: str
    looks: str

    def values(self) -> dict[str, Any]:
        """For a manifest, and from there as Origin(**values)."""
        return asdict(self)


def origin_of(source: str, listing: Listing) -> tuple[Origin, np.ndarray]:
    """Of what the user named, absolute, and the LOOK of each of its files."""
    path = place_of(source)
    how: How = "nothing"
    names: Sequence[str] = []
    root = str(path)
    if path is not None and isinstance(listing.source, Files):
        how, names, root = "folder" if path.is_dir() else "list", listing.ids, listing.source.root
    elif path is not None:
        how, names = "files", Names(files_of(path))
    elif is_pattern(source) and not source.startswith(PREFIX):
        how, names, root = "pattern", expanded(source), ""
    looks = looked_at(root, names)
    return Origin(
        path=source if path is None else str(path),
        title=listing.title,
        how=how,
        listed=len(names),
        names=names_hash(names),
        looks=hashlib.sha256(looks.tobytes()).hexdigest(),
    ), looks


def place_of(source: str) -> Path | None:
    """The file or folder behind a name such as `train.parquet::image`; None of what is none."""
    if source.startswith(PREFIX):
        return None
    while not os.path.exists(source):  # noqa: PTH110  Path.exists() raises on some names
        source, behind, _ = source.rpartition("::")
        if not behind:
            return None
    return Path(source).absolute()


def changed_since(origin: Origin, looks: np.ndarray) -> str:
    """In what the source differs by now, as a part of a sentence; empty where it does not, or is not there at all."""
    if not is_there(origin):
        return ""
    path = Path(origin.path)
    names, root = names_now(path, origin.how)
    if len(names) != origin.listed:
        return f"it lists {len(names):,} files by now, and {origin.listed:,} then"
    if names_hash(names) != origin.names:
        return "it lists files of other names by now"
    now = looked_at(root, names)
    differing = np.flatnonzero(now != looks)
    if len(differing):
        first = printable(names[int(differing[0])] or path.name)
        return f"{len(differing):,} of its {len(names):,} files have another size or time by now, first {first}"
    return ""


def is_there(origin: Origin) -> bool:
    """Whether there is anything to compare with, at least one file of a pattern."""
    places = expanded(origin.path) if origin.how == "pattern" else [origin.path]
    return origin.how != "nothing" and any(map(os.path.exists, places))


def names_now(path: Path, how: How) -> tuple[Sequence[str], str]:
    """Listed as at the time, and below which folder. A list that cannot be read any more lists nothing."""
    if how == "files":
        return Names(files_of(path)), str(path)
    if how == "pattern":
        return expanded(str(path)), ""
    if path.is_dir():
        return Walk(path).files()[0], str(path)
    try:
        return list_paths(path, printable(str(path))).ids, str(path.parent)
    except UserError:
        return [], str(path.parent)


def files_of(path: Path) -> Iterator[str]:
    """Names of all files of a folder that are not hidden, in order; of a file the empty name."""
    if not path.is_dir():
        yield ""
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(folder, path)
        for name in sorted(files):
            if not name.startswith("."):
                yield name if relative == "." else f"{relative}/{name}"


def looked_at(root: str, names: Iterable[str]) -> np.ndarray:
    """Their LOOKs, at some 3 us a file."""
    column = Column()
    for part in chunked(names):
        looks = np.fromiter(map(look, repeat(root), part), LOOK, len(part))
        column.append(looks.tobytes())
    return as_array(column.whole(), LOOK)


def look(root: str, name: str) -> tuple[int, int]:
    try:
        status = os.stat(os.path.join(root, name) if name else root)  # noqa: PTH116, PTH118  half the time of Path
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def names_hash(names: Sequence[str]) -> str:
    """Of names in their order; no name holds a zero byte."""
    digest = hashlib.sha256()
    for part in chunked(names):
        digest.update(b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in part))
    return digest.hexdigest()
