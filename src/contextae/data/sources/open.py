"""Opens whatever the user names as an index of images, and says which channels they have."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from contextae.data.builtin import PREFIX
from contextae.data.decode import quiet
from contextae.data.facts import BadImage, ImageFacts, Unsupported
from contextae.data.index import FACTS, Index, LeftOut, Source, left_out_lines, printable, remaining, taken
from contextae.data.names import Column, Names, as_array
from contextae.data.sources.embedded import list_embedded
from contextae.data.sources.file_list import LIST_SUFFIXES, list_paths
from contextae.data.sources.folder import HIDDEN, Files, Walk, list_folder
from contextae.data.sources.kinds import Channels, Dtype, Refused, check_wanted, choose_kind
from contextae.data.sources.listing import SUFFIXES, Listing, suffix_of
from contextae.data.sources.mixed import Mixed, list_mixed, names_of, weighted
from contextae.data.sources.parquet import list_parquet
from contextae.data.sources.splits import split_of
from contextae.data.stored_index import Stored
from contextae.errors import UserError, nearest
from contextae.randomness import Shuffle

Progress = Callable[[int, int], None]

KINDS = (
    "Give a folder of images, a text file (.txt) with one path in a line, a Parquet file or folder, or "
    f"{PREFIX}fashion-mnist."
)
THREADS = 4  # local files: 35 us each, for 55 us with one and 55 us with sixteen; they hide a network disk's latency
CHUNK = 128
MOST_LOOKED_FOR = 10_000
MANY = 1024 * CHUNK
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


def open_index(
    source: str | Sequence[str], *, channels: Channels = "auto", dtype: Dtype = "auto", progress: Progress | None = None
) -> Index:
    """The images of a folder, a text file of paths, a Parquet file or folder, or `builtin:fashion-mnist` (its train).

    Of several of these, each with `=WEIGHT` behind it or not, together.

    Reads every header: `progress(done, total)` is called now and then. UserError where nothing can be used.
    """
    check_wanted(channels, dtype)
    several = not isinstance(source, str) and len(source) > 1
    listing = (
        list_mixed(source, list_source) if several else list_source(source if isinstance(source, str) else source[0])
    )
    return index_of(listing, channels, progress, dtype)


def source_again(source: str, kind: str) -> Source:
    """The source of that class, of a folder and of a list without a look at all there is."""
    path = Path(source)
    if kind == Files.__name__ and exists(path):
        return Files(str((path if path.is_dir() else path.parent).absolute()))
    return list_source(source).source


def continued_index(source: str | Sequence[str], stored: Stored, *, channels: int, dtype: str) -> Index:
    """The images that a run has begun with, without a walk through all there is by now.

    UserError where some are gone: of very many MOST_LOOKED_FOR are looked for, always the same ones; the rest is met
    while training.
    """
    texts = [source] if isinstance(source, str) else source
    plain = [weighted(text).source for text in texts] if len(texts) > 1 else list(texts)
    kinds = stored.kind.split(",") if stored.kind else [""] * len(plain)
    sources = [source_again(one, kind) for one, kind in zip(plain, kinds, strict=True)]
    opened = sources[0] if len(sources) == 1 else Mixed(dict(zip(names_of(plain), sources, strict=True)))
    looked_for = np.sort(Shuffle(len(stored.ids), "looked for").first(MOST_LOOKED_FOR)).tolist()
    missing = [name for name in map(stored.ids.__getitem__, looked_for) if not opened.has(name)]
    if missing:
        raise UserError(
            f"{printable(', '.join(plain))} no longer holds {len(missing):,} of the {len(looked_for):,} images that were "
            f"looked for, first {printable(missing[0])}. Put them back, or start a new run with what is there."
        )
    return Index(
        source=opened,
        title=printable(", ".join(plain)),
        parts=stored.parts,
        ids=stored.ids,
        facts=stored.facts,
        channels=channels,
        dtype=dtype,
        found=len(stored.ids),
    )


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


def index_of(listing: Listing, channels: Channels, progress: Progress | None, dtype: Dtype = "auto") -> Index:
    """Reads the headers; images that cannot be used join what was left out. See `choose_kind` for sets of several."""
    facts, bad = probe_all(listing.source, listing.ids, progress)
    left_out = [*listing.left_out, *(LeftOut(listing.ids[i], refused.reason) for i, refused in bad.items())]
    if len(bad) == len(listing.ids):
        reasons = "; ".join(line.strip() for line in left_out_lines(left_out, len(left_out)))
        raise UserError(f"{listing.title} holds no image that can be used. {reasons[0].upper()}{reasons[1:]}.")
    chosen = choose_kind(listing, facts, bad, channels=channels, dtype=dtype)
    used, left_out = chosen.used, left_out + chosen.left_out
    if len(used) == len(listing.ids):
        ids = listing.ids if isinstance(listing.ids, Names) else Names(listing.ids)
    else:
        ids = Names(listing.ids[i] for i in used.tolist())
    return Index(
        source=listing.source,
        title=listing.title,
        ids=ids,
        facts=facts if len(used) == len(facts) else taken(facts, used),
        channels=chosen.channels,
        dtype=chosen.dtype,
        found=len(listing.ids) + len(listing.left_out),
        left_out=sorted(left_out),
        labels=None if listing.labels is None else listing.labels[used],
        classes=listing.classes,
        notes=listing.notes,
        parts=remaining(listing.parts, used) if listing.parts else (),
    )


def probe_all(source: Source, ids: Sequence[str], progress: Progress | None) -> tuple[np.ndarray, dict[int, Refused]]:
    """Rows of FACTS, and why others cannot be used, by position."""
    column = Column()
    bad: dict[int, Refused] = {}

    def part(start: int) -> tuple[np.ndarray, list[tuple[int, Refused]]]:
        end = min(start + CHUNK, len(ids))
        facts, refused = np.zeros(end - start, FACTS), []
        for i in range(start, end):
            try:
                facts[i - start] = row(source.probe(ids[i]))
            except BadImage as error:
                refused.append((i, Refused(error.reason, isinstance(error, Unsupported))))
        return facts, refused

    with quiet(), ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(ids), MANY):  # an executor notes all that it is given at once
            for facts, refused in pool.map(part, range(first, min(first + MANY, len(ids)), CHUNK)):
                column.append(facts.tobytes())
                bad.update(refused)
                if progress:
                    progress(column.size // FACTS.itemsize, len(ids))
    return as_array(column.whole(), FACTS), bad


def row(fact: ImageFacts) -> tuple[Any, ...]:
    """In the order of FACTS."""
    return tuple(getattr(fact, name) for name in FACTS.names or ())
