"""The one pass over a source: a row for each image, reasons of those that cannot be used, and sums of their values."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from contextae.audit.examine import Seen, examine
from contextae.audit.stopping import Stopping
from contextae.data.each import TIMEOUT, look_at_each
from contextae.data.facts import Refusal
from contextae.data.index import FACTS, LeftOut
from contextae.data.names import Column, as_array
from contextae.data.sources.listing import Listing
from contextae.data.statistics import SMALLEST_FLOAT_STEP, Moments, Statistics, range_of

ROW = np.dtype(
    [
        *FACTS.descr,
        ("headed", "?"),
        ("decoded", "?"),
        ("sound", "?"),
        ("constant", "?"),
        ("rotated", "?"),
        ("misnamed", "?"),
        ("plain", "?"),
        ("exact", "S16"),
        ("low", "<u8"),
        ("detail", "<u8", (4,)),
        ("read_seconds", "<f4"),
        ("decode_seconds", "<f4"),
    ]
)
"""FACTS and what `examine` adds. `headed`: the header is whole and FACTS are known; `decoded`: so are the pixels."""
Kind = tuple[bool, int, str]
"A photograph or not, channels, type of its values: the images whose values may be summed."
Progress = Callable[[int, int], None]
CHUNK, PER_PROCESS = 32, 64
"Images asked for at a time, and those worth a process: small ones take a millisecond, large ones a second."


@dataclass
class Sums:
    """Of the values of images of one kind, each of which counts the same whatever its size."""

    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    mean: np.ndarray | float = 0.0
    square: np.ndarray | float = 0.0

    def add(self, moments: Moments) -> None:
        self.count += 1
        self.low, self.high = min(self.low, moments.low), max(self.high, moments.high)
        self.mean, self.square = self.mean + moments.mean, self.square + moments.square

    def joined(self, other: Sums) -> Sums:
        """Gray is repeated where the other is colour."""
        return Sums(
            self.count + other.count,
            min(self.low, other.low),
            max(self.high, other.high),
            self.mean + other.mean,
            self.square + other.square,
        )

    def statistics(self, channels: int, dtype: str) -> Statistics:
        """What `pixel_statistics` estimates from a sample, here of all images; at least one was added."""
        low, high = range_of(dtype, self.low, self.high)
        mean, square = (np.broadcast_to(np.asarray(each) / self.count, channels) for each in (self.mean, self.square))
        step = SMALLEST_FLOAT_STEP * (high - low) if dtype == "float32" else 1.0
        deviation = np.sqrt(np.maximum(square - mean**2, step**2))
        scaled = (mean - low) / (high - low), deviation / (high - low)
        return Statistics((low, high), tuple(scaled[0].tolist()), tuple(scaled[1].tolist()))


@dataclass(kw_only=True)
class Survey:
    """Of the first `len(rows)` of `ids`, all of them where nobody stopped it. `reasons` are by position."""

    listing: Listing
    ids: Sequence[str]
    rows: np.ndarray
    reasons: dict[int, str]
    sums: dict[Kind, Sums] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        return len(self.rows) == len(self.ids)

    @property
    def found(self) -> int:
        """Everything that the source lists, what is left out unseen included."""
        return len(self.ids) + len(self.listing.left_out)

    def left_out(self) -> list[LeftOut]:
        """What was out before any was looked at, and what cannot be read or decoded."""
        bad = (LeftOut(self.ids[position], reason) for position, reason in self.reasons.items())
        return [*self.listing.left_out, *bad]


def survey(listing: Listing, *, stopping: Stopping, progress: Progress, timeout: float = TIMEOUT) -> Survey:
    """Looks at every image of a listing, in processes that may die of it, until it has seen all or is stopped.

    Rows and sums do not depend on the number of processes. `timeout` is `look_at_each`'s.
    """
    column, reasons = Column(), dict[int, str]()
    sums: dict[Kind, Sums] = {}
    began = time.monotonic()
    parts = look_at_each(examine, listing.source, listing.ids, chunk=CHUNK, per_process=PER_PROCESS, timeout=timeout)
    for results in stopping.until(parts):
        rows, first = np.zeros(len(results), ROW), column.size // ROW.itemsize
        for place, result in enumerate(results):
            seen = Seen(None, None, *result) if isinstance(result, Refusal) else result
            if seen.reason:
                reasons[first + place] = seen.reason
            _fill(rows[place], seen)
            _add(sums, seen)
        column.append(rows.tobytes())
        progress(first + len(rows), len(listing.ids))
    return Survey(
        listing=listing,
        ids=listing.ids,
        rows=as_array(column.whole(), ROW),
        reasons=reasons,
        sums=sums,
        seconds=time.monotonic() - began,
    )


def _fill(row: np.void, seen: Seen) -> None:
    row["sound"], row["rotated"], row["misnamed"] = seen.sound, seen.rotated, seen.misnamed
    if seen.facts:
        row["headed"] = True
        for name in FACTS.names or ():
            row[name] = getattr(seen.facts, name)
    if seen.pixels:
        row["decoded"], row["constant"] = True, seen.pixels.constant
        row["exact"] = seen.pixels.exact
        row["low"], row["detail"], row["plain"] = seen.pixels.likeness
        row["read_seconds"], row["decode_seconds"] = seen.read_seconds, seen.decode_seconds


def _add(sums: dict[Kind, Sums], seen: Seen) -> None:
    if seen.facts and seen.pixels:
        facts = seen.facts
        sums.setdefault((facts.photograph, facts.channels, facts.dtype), Sums()).add(seen.pixels.moments)
