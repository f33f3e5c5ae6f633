"""What stands under the name that a user gives: a folder, a list, rows of files, archives, arrays, the built-in set."""

from __future__ import annotations

import os
from pathlib import Path

from contextae.data.builtin import PREFIX
from contextae.data.index import LeftOut, printable
from contextae.data.packed_manifest import is_packed
from contextae.data.sources.archives import ARCHIVE_SUFFIXES, list_archives
from contextae.data.sources.embedded import list_embedded
from contextae.data.sources.file_list import LIST_SUFFIXES, list_paths
from contextae.data.sources.folder import DOUBLE, Walk, list_folder, other_kind
from contextae.data.sources.listing import SUFFIXES, Listing, suffix_of
from contextae.data.sources.numpy_files import list_numpy
from contextae.data.sources.packed import list_packed
from contextae.data.sources.parquet import list_parquet
from contextae.data.sources.regular import NOT_A_FILE
from contextae.data.sources.saved_dataset import is_saved_dataset, list_saved_dataset
from contextae.data.sources.shards import is_pattern, shards_of
from contextae.data.sources.splits import split_of
from contextae.errors import UserError, nearest

KINDS = (
    "Give a folder of images, a text file (.txt) with one path in a line, Parquet or Arrow files, tar or zip archives, "
    f"a NumPy array (.npy, .npz), or {PREFIX}fashion-mnist."
)
ROW_SUFFIXES, ARRAY_SUFFIXES = (".parquet", ".arrow"), (".npy", ".npz")
UNPACK = {  # what unpacks an archive that cannot be read at random, by how its name ends
    ".tar.gz": "tar -xzf",
    ".tgz": "tar -xzf",
    ".tar.bz2": "tar -xjf",
    ".tar.xz": "tar -xJf",
    ".tar.zst": "tar --zstd -xf",
    ".7z": "7z x",
}


def list_source(source: str) -> Listing:
    """What there is under a name, before any header is read."""
    if source.startswith(PREFIX):
        return list_embedded(source.removeprefix(PREFIX))
    if not source:
        raise UserError(f"The name of the images is empty. {KINDS}")
    title = printable(source)
    if not exists(Path(source)) and is_pattern(source):
        root, names = shards_of(source)
        return list_several(root, names, title)
    path, wanted = Path(source), None
    if not exists(path) and "::" in source:
        before, _, wanted = source.partition("::")
        path = Path(before)
    if not exists(path):
        raise UserError(missing(path))
    path = path.absolute()
    if path.is_dir() and is_packed(path):
        return list_packed(path, title)
    if path.is_dir():
        saved = is_saved_dataset(path)
        return list_saved_dataset(path, title, column=wanted) if saved else list_any_folder(path, title, wanted)
    return list_file(path, title, wanted)


def list_file(path: Path, title: str, wanted: str | None) -> Listing:
    """By the ending of its name; `wanted` is a column, or an array of several."""
    if not path.is_file():
        raise UserError(f"{title} is {NOT_A_FILE}: a pipe, a socket or a device. {KINDS}")
    name, suffix = path.name.lower(), path.suffix.lower()
    if ending := next((end for end in UNPACK if name.endswith(end)), None):
        raise UserError(
            f"{title} is compressed as a whole, so that no image in it can be read without all before it. Unpack it "
            f"with `{UNPACK[ending]} {title}` and give the folder that appears."
        )
    if suffix in ROW_SUFFIXES:
        return list_parquet(path.parent, [path.name], title, column=wanted)
    if suffix in ARCHIVE_SUFFIXES:
        return list_archives(path.parent, [path.name], title)
    if suffix in ARRAY_SUFFIXES:
        return list_numpy(path, title, wanted=wanted)
    if suffix in LIST_SUFFIXES:
        return list_paths(path, title)
    what = "one image" if suffix in SUFFIXES else "a file of unknown kind"
    raise UserError(f"{title} is {what}. {KINDS}")


def list_several(root: Path, names: list[str], title: str) -> Listing:
    """The files that a pattern stands for, all of one kind."""
    suffixes = {suffix_of(name) for name in names}
    if suffixes <= set(ARCHIVE_SUFFIXES):
        return list_archives(root, names, title)
    if suffixes <= set(ROW_SUFFIXES):
        return list_parquet(root, names, title)
    raise UserError(
        f"{title} stands for files ending in {', '.join(sorted(suffixes))}. A pattern with braces is for tar and zip "
        "archives, or for Parquet and Arrow files."
    )


def list_any_folder(path: Path, title: str, column: str | None) -> Listing:
    """Images if there are any, else the rows of Parquet and Arrow files, else what is in archives; rows at once if a
    column of theirs is named."""
    walk = Walk(path)
    ids, left_out = walk.files()

    def ending(*suffixes: str) -> list[str]:
        files = [(entry, suffix_of(entry.path)) for entry in left_out]
        return [entry.path for entry, kind in files if kind in suffixes and entry.reason == other_kind(kind)]

    rows, archives = ending(*ROW_SUFFIXES), ending(*ARCHIVE_SUFFIXES)
    for names in (rows, archives):
        again = walk.doubles(names, [name for name in names if (path / name).is_symlink()])
        names[:] = [name for name in names if name not in again]
        left_out = [LeftOut(entry.path, DOUBLE) if entry.path in again else entry for entry in left_out]
    if rows and (column or not ids):
        listing = list_parquet(path, rows, title, column=column, left_out=_others(left_out, rows, list(ids), "rows"))
    elif archives and not ids:
        listing = list_archives(path, archives, title, left_out=_others(left_out, archives, [], "archives"))
    else:
        listing = list_folder(path, title, ids, left_out)
        for names, what in ((rows, "Parquet or Arrow files"), (archives, "archives")):
            if names:
                listing.notes.append(f"the {len(names):,} {what} beside the images are not read; name one to read it")
    parts = {part: None for name in listing.ids if (part := split_of(name))}
    if len(parts) > 1:
        listing.notes.append(f"all of {', '.join(parts)} are used; name one of them to keep the others unseen")
    return listing


def _others(left_out: list[LeftOut], read: list[str], ids: list[str], what: str) -> list[LeftOut]:
    """What is left out where these files are read: all but them, and the images beside them."""
    kept = set(read)
    return [entry for entry in left_out if entry.path not in kept] + [
        LeftOut(name, f"image beside the {what} that are read") for name in ids
    ]


def exists(path: Path) -> bool:
    """Unlike `Path.exists` also of a name that is too long, or below a folder this user may not enter."""
    return os.path.exists(path)  # noqa: PTH110


def missing(path: Path) -> str:
    """The paragraph for a path that does not exist: how far it does, and what is named nearly like the rest there."""
    there = next((parent for parent in path.parents if os.path.isdir(parent)), Path())  # noqa: PTH112
    rest = path.relative_to(there).parts[0] if path.is_relative_to(there) else path.name
    try:
        close = nearest(rest, (entry.name for entry in there.iterdir()))
    except OSError:
        close = ""
    return (
        f"There is nothing at {printable(str(path))}: {printable(str(there.absolute()))} holds no {printable(rest)}."
        f"{printable(close) or ' Check the name.'}"
    )
