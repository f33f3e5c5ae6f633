"""Opens whatever the user names as an index of images, and says which channels they have."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from contextae.data.builtin import PREFIX
from contextae.data.decode import BadImage, Unsupported, quiet
from contextae.data.index import EXAMPLES, FACTS, Index, LeftOut, Names, Source, left_out_lines, printable
from contextae.data.sources.embedded import list_embedded
from contextae.data.sources.file_list import LIST_SUFFIXES, list_paths
from contextae.data.sources.folder import HIDDEN, Walk, list_folder
from contextae.data.sources.listing import SUFFIXES, Listing, suffix_of
from contextae.data.sources.parquet import list_parquet
from contextae.data.sources.splits import split_of
from contextae.errors import UserError, nearest

Channels = int | Literal["auto"]
Progress = Callable[[int, int], None]

KINDS = (
    "Give a folder of images, a text file (.txt) with one path in a line, a Parquet file or folder, or "
    f"{PREFIX}fashion-mnist."
)
THREADS = 4  # local files: 35 us each, for 55 us with one and 55 us with sixteen; they hide a network disk's latency
CHUNK = 128
UNPACK = {  # what unpacks an archive, by how its name ends
    ".tar.gz": "tar -xzf",
    ".tgz": "tar -xzf",
    ".tar.bz2": "tar -xjf",
    ".tar.xz": "tar -xJf",
    ".tar.zst": "tar --zstd -xf",
    ".tar": "tar -xf",
    ".zip": "unzip",
    ".7z": "7z x",
}


def open_index(source: str, *, channels: Channels = "auto", progress: Progress | None = None) -> Index:
    """The images of a folder, a text file of paths, a Parquet file or folder, or `builtin:fashion-mnist` (its train).

    Reads every header: `progress(done, total)` is called now and then. UserError where nothing can be used.
    """
    check_channels(channels)
    return index_of(list_source(source), channels, progress)


def check_channels(channels: Channels) -> None:
    if channels not in ("auto", 1, 3):
        raise UserError(f"channels must be 1 (gray), 3 (RGB) or auto. Got {channels}.")


def list_source(source: str) -> Listing:
    """What there is under a name, before any header is read."""
    if source.startswith(PREFIX):
        return list_embedded(source.removeprefix(PREFIX))
    if not source:
        raise UserError(f"The name of the images is empty. {KINDS}")
    path, column = Path(source), None
    if not exists(path) and "::" in source:
        before, _, column = source.rpartition("::")
        path = Path(before)
    if not exists(path):
        raise UserError(missing(path))
    path, title = path.absolute(), printable(source)
    if path.is_dir():
        return list_any_folder(path, title, column)
    name = path.name.lower()
    if ending := next((end for end in UNPACK if name.endswith(end)), None):
        raise UserError(
            f"{title} is an archive, and images are read from files. Unpack it with `{UNPACK[ending]} {title}` and "
            "give the folder that appears."
        )
    if path.suffix.lower() == ".parquet":
        return list_parquet(path.parent, [path.name], title, column=column)
    if path.suffix.lower() in LIST_SUFFIXES:
        return list_paths(path, title)
    what = "one image" if path.suffix.lower() in SUFFIXES else "a file of unknown kind"
    raise UserError(f"{title} is {what}. {KINDS}")


def list_any_folder(path: Path, title: str, column: str | None) -> Listing:
    """Images if there are any, else the rows of its Parquet files; these at once if a column of theirs is named."""
    ids, left_out = Walk(path).files()
    rows = [entry.path for entry in left_out if suffix_of(entry.path) == ".parquet" and entry.reason != HIDDEN]
    if rows and (column or not ids):
        others = [LeftOut(name, "image beside the Parquet files") for name in ids]
        listing = list_parquet(
            path, rows, title, column=column, left_out=[e for e in left_out if e.path not in set(rows)] + others
        )
    else:
        listing = list_folder(path, title, ids, left_out)
        if rows:
            listing.notes.append(f"the {len(rows):,} Parquet files beside the images are not read; name one to read it")
    parts = {part: None for name in listing.ids if (part := split_of(name))}
    if len(parts) > 1:
        listing.notes.append(f"all of {', '.join(parts)} are used; name one of them to keep the others unseen")
    return listing


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


def index_of(listing: Listing, channels: Channels, progress: Progress | None) -> Index:
    """Reads the headers; images that cannot be used join what was left out.

    With channels auto, sound images of a kind that is not read yet must not stand among others: see `refuse_mix`.
    """
    facts, bad = probe_all(listing.source, listing.ids, progress)
    used = np.array([i for i in range(len(listing.ids)) if i not in bad], dtype=np.int64)
    left_out = [*listing.left_out, *(LeftOut(listing.ids[i], refused.reason) for i, refused in bad.items())]
    if not len(used):
        reasons = "; ".join(line.strip() for line in left_out_lines(left_out, len(left_out)))
        raise UserError(f"{listing.title} holds no image that can be used. {reasons[0].upper()}{reasons[1:]}.")
    if channels == "auto":
        refuse_mix(listing, facts["kind"], bad)
    return Index(
        source=listing.source,
        title=listing.title,
        ids=Names(listing.ids[i] for i in used.tolist()),
        facts=facts[used],
        channels=decided(facts[used], channels),
        found=len(listing.ids) + len(listing.left_out),
        left_out=sorted(left_out),
        labels=None if listing.labels is None else listing.labels[used],
        classes=listing.classes,
        notes=listing.notes,
    )


def refuse_mix(listing: Listing, kinds: np.ndarray, bad: dict[int, Refused]) -> None:
    """Sound images of a kind that is not read yet may be what the set is about, so none is left out unasked."""
    if not any(refused.sound for refused in bad.values()):
        return
    by_kind: dict[str, list[int]] = {}
    for i, name in enumerate(kinds.tolist()):
        if i not in bad:
            by_kind.setdefault(name.decode(), []).append(i)
        elif bad[i].sound:
            by_kind.setdefault(bad[i].reason, []).append(i)
    lines = []
    for kind, places in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        named = ", ".join(printable(listing.ids[i]) for i in places[:EXAMPLES])
        lines.append(f"  {len(places):,} {kind}: {named}{', ...' if len(places) > EXAMPLES else ''}")
    counts = "\n".join(lines)
    raise UserError(
        f"{listing.title} mixes kinds of images that cannot become one. Gray, palette, RGB and CMYK of 8 bits, with or "
        f"without alpha, become RGB together; other depths and numbers of channels are not read yet. There are\n"
        f"{counts}\nMove those that are not supported yet to another folder, or leave them out with --set "
        "data.channels=3."
    )


def decided(facts: np.ndarray, channels: Channels) -> int:
    """One channel where every image is gray, else three."""
    if channels != "auto":
        return channels
    return 1 if all(kind.startswith(b"gray") for kind in np.unique(facts["kind"])) else 3


class Refused(NamedTuple):
    """Why an image cannot be used, and whether it is sound and merely of a kind that is not supported."""

    reason: str
    sound: bool


def probe_all(source: Source, ids: list[str], progress: Progress | None) -> tuple[np.ndarray, dict[int, Refused]]:
    """Rows of FACTS, and why others cannot be used, by position."""
    facts = np.zeros(len(ids), FACTS)
    bad: dict[int, Refused] = {}

    def part(start: int) -> list[tuple[int, Refused]]:
        refused = []
        for i in range(start, min(start + CHUNK, len(ids))):
            try:
                fact = source.probe(ids[i])
            except BadImage as error:
                refused.append((i, Refused(error.reason, isinstance(error, Unsupported))))
                continue
            facts[i] = (fact.width, fact.height, fact.num_bytes, fact.format, fact.kind, fact.frames)
        return refused

    starts = range(0, len(ids), CHUNK)
    with quiet(), ThreadPoolExecutor(THREADS) as pool:
        for done, refused in enumerate(pool.map(part, starts), start=1):
            bad.update(refused)
            if progress:
                progress(min(done * CHUNK, len(ids)), len(ids))
    return facts, bad
