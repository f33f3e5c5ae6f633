"""Opens whatever the user names as an index of images, and says which channels they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contextae.data.index import Index, LeftOut, Source, left_out_lines, printable, remaining, taken
from contextae.data.names import Names
from contextae.data.probing import probe_all
from contextae.data.sources.arrays import list_arrays
from contextae.data.sources.find import exists, list_source
from contextae.data.sources.folder import Files
from contextae.data.sources.kinds import Channels, Dtype, check_wanted, choose_kind
from contextae.data.sources.listing import Listing
from contextae.data.sources.mixed import Mixed, list_mixed, names_of, weighted
from contextae.data.sources.packed import Packed, list_packed
from contextae.data.stored_index import Stored
from contextae.errors import UserError
from contextae.randomness import Shuffle

Progress = Callable[[int, int], None]

MOST_LOOKED_FOR = 10_000


def open_index(
    source: str | Sequence[str] | np.ndarray | Sequence[np.ndarray],
    *,
    channels: Channels = "auto",
    dtype: Dtype = "auto",
    progress: Progress | None = None,
) -> Index:
    """The images of a folder, a text file of paths, rows of Parquet or Arrow files, archives, a NumPy array, a built-in
    set; of several of these, each with `=WEIGHT` behind it or not, together; or arrays in memory, as one or as a list.

    Reads every header: `progress(done, total)` is called now and then. UserError where nothing can be used.
    """
    check_wanted(channels, dtype)
    return index_of(_listed(source), channels, progress, dtype)


def _listed(source: Any) -> Listing:
    if isinstance(source, str):
        return list_source(source)
    if all(isinstance(each, str) for each in source):
        return list_mixed(source, list_source) if len(source) > 1 else list_source(source[0])
    return list_arrays(source)


def source_again(source: str, kind: str) -> Source:
    """The source of that class, of a folder and of a list without a look at all there is."""
    path = Path(source)
    if kind == Files.__name__ and exists(path):
        return Files(str((path if path.is_dir() else path.parent).absolute()))
    if kind == Packed.__name__ and exists(path):
        return list_packed(path.absolute(), printable(source), accept_stale=True).source  # a run goes on as it began
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
            f"{printable(', '.join(plain))} no longer holds {len(missing):,} of the {len(looked_for):,} images that "
            f"were looked for, first {printable(missing[0])}. Put them back, or start a new run with what is there."
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


def index_of(listing: Listing, channels: Channels, progress: Progress | None, dtype: Dtype = "auto") -> Index:
    """Reads the headers; images that cannot be used join what was left out. See `choose_kind` for sets of several."""
    facts, bad = probe_all(listing.source, listing.ids, progress)
    left_out = [*listing.left_out, *(LeftOut(listing.ids[i], refusal.reason) for i, refusal in bad.items())]
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
