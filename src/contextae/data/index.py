"""The images of a source: which there are, what their headers say, and how to read any of them from any process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np

from contextae.data.facts import ImageFacts
from contextae.data.names import CHUNK, Column, Names, as_array
from contextae.data.picture import Picture, picture

EXAMPLES = 3
MOST_SHOWN = 300  # characters of a name
MOST_SORTED = 1_000_000
FACTS = np.dtype(
    [
        ("width", "<u4"),
        ("height", "<u4"),
        ("num_bytes", "<u8"),
        ("format", "S8"),
        ("kind", "S18"),
        ("frames", "?"),
        ("channels", "<u2"),
        ("dtype", "S7"),
        ("photograph", "?"),
        ("parts", "?"),
    ]
)
"""One image's ImageFacts."""


class LeftOut(NamedTuple):
    """Something found that is not used. `path` is relative to the source like an id; equal troubles, equal reasons."""

    path: str
    reason: str


class Part(NamedTuple):
    """One of several sources: the images that stand in a row, and how often each comes in an epoch."""

    name: str
    num_images: int
    weight: float

    @property
    def slots(self) -> int:
        """Images of it in an epoch, one at least."""
        return max(1, round(self.weight * self.num_images))


class Source(Protocol):
    """Where images come from. Small to pickle: whatever is large is opened again, lazily, in each process."""

    def read(self, sample_id: str) -> bytes | np.ndarray:
        """Encoded bytes, or an array h w c; BadImage where that is not possible."""

    def probe(self, sample_id: str) -> ImageFacts:
        """What the header says; BadImage where it cannot be used."""

    def has(self, sample_id: str) -> bool:
        """Whether there is still such an image, which is not read for that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """The images that can be used, in a fixed order, and what was left out. Cheap to pickle; opens nothing until read.

    `found` is how many the source listed, counted before any header was read.

    `facts` has one row of FACTS per image. All are decoded to `channels` of `dtype`, uint8, uint16 or float32. `notes`
    are sentences about the whole, for the user. Labels, where known, are int64 positions in `classes`. `parts` are
    those of several sources, one after the other.
    """

    source: Source
    title: str
    ids: Names
    facts: np.ndarray
    channels: int
    found: int
    left_out: list[LeftOut] = field(default_factory=list)
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    dtype: str = "uint8"
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, position: int) -> bytes | np.ndarray:
        """Encoded bytes or an array h w c, for `decode`; BadImage where the file cannot be read any more."""
        return self.source.read(self.ids[position])

    def picture(self, position: int, *, tiles: bool = False) -> Picture:
        """What `read` gives, not yet decoded, see `picture_of`."""
        return picture_of(self.source, self.ids[position], self.channels, self.dtype, tiles=tiles)

    def subset(self, positions: Sequence[int] | np.ndarray) -> Index:
        """The images at `positions`, in that order. What was left out belongs to the whole, and is not in it."""
        chosen = np.asarray(positions, dtype=np.int64)
        return replace(
            self,
            ids=Names(self.ids[i] for i in chosen.tolist()),
            facts=taken(self.facts, chosen),
            labels=None if self.labels is None else self.labels[chosen],
            found=len(chosen),
            left_out=[],
            parts=(),
        )

    def without(self, unusable: np.ndarray, reason: str) -> Index:
        """The images of which `unusable` is false; the others join what was left out."""
        positions = np.flatnonzero(~unusable)
        kept = self.subset(positions)
        left_out = [*self.left_out, *(LeftOut(self.ids[i], reason) for i in np.flatnonzero(unusable).tolist())]
        return replace(kept, found=self.found, left_out=sorted(left_out), parts=remaining(self.parts, positions))

    def describe(self) -> list[str]:
        """What was found, in lines for the user."""
        size = sum(int(rows["num_bytes"].sum()) for rows in chunks(self.facts))
        lines = [f"{len(self):,} images of {self.title}, {readable_bytes(size)}"]
        if len(self):
            lines += [f"formats: {counted(self.facts['format'])}", sizes(self.facts), f"channels: {self._channels()}"]
            if several := sum(int(rows["frames"].sum()) for rows in chunks(self.facts)):
                lines.append(f"{several:,} hold several frames or pages; the first of each is used")
        lines += [
            f"  {part.name}: {part.num_images:,} images of weight {part.weight:g}, {part.slots:,} in an epoch"
            for part in self.parts
        ]
        return [*lines, *self.notes, *left_out_lines(self.left_out, self.found)]

    def _channels(self) -> str:
        kinds = list(tally(self.facts["kind"]))
        if not all(rows["photograph"].all() for rows in chunks(self.facts)):
            return f"{self.channels}, {counted(self.facts['kind'])}, kept as {self.dtype}"
        made = "gray" if self.channels == 1 else "RGB"
        if len(kinds) == 1 and kinds[0] == made:
            return f"{self.channels}, {made}"
        return f"{self.channels}; {counted(self.facts['kind'])}: all are made {made}"


def picture_of(source: Source, sample_id: str, channels: int, dtype: str, *, tiles: bool = False) -> Picture:
    """An image of a source, not yet decoded; with `tiles` very large files are not even read. BadImage as of `read`."""
    open_parts = getattr(source, "open_parts", None) if tiles else None
    stream = open_parts(sample_id) if open_parts else None
    data = source.read(sample_id) if stream is None else stream
    return picture(data, channels=channels, dtype=dtype, tiles=tiles)


def remaining(parts: Sequence[Part], positions: np.ndarray) -> tuple[Part, ...]:
    """The parts of the images at these positions, which ascend; one without any is gone."""
    ends = np.cumsum([part.num_images for part in parts], dtype=np.int64)
    counts = np.diff(np.searchsorted(positions, ends), prepend=0).tolist()
    return tuple(part._replace(num_images=count) for part, count in zip(parts, counts, strict=True) if count)


def chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of a column that may be too long to be copied as a whole."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def taken(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The rows at `positions`, of which many go to a file."""
    column = Column()
    for part in chunks(positions):
        column.append(values[part].tobytes())
    return as_array(column.whole(), values.dtype)


def tally(values: np.ndarray) -> Counter[str]:
    """How often each name stands in a column of bytes."""
    found: Counter[str] = Counter()
    for part in chunks(values):
        names, counts = np.unique(part, return_counts=True)
        found.update({name.decode(): int(count) for name, count in zip(names.tolist(), counts, strict=True)})
    return found


def counted(values: np.ndarray) -> str:
    """`"900 JPEG, 20 PNG"`, the most frequent first."""
    found = sorted(tally(values).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {name}" for name, count in found)


def sizes(facts: np.ndarray) -> str:
    """Of the smallest, the median and the largest image by area; of very many every n-th is looked at."""
    rows = facts[:: -(-len(facts) // MOST_SORTED)]
    order = np.argsort(rows["width"].astype(np.int64) * rows["height"], kind="stable")
    picked = [rows[order[at]] for at in (0, (len(order) - 1) // 2, -1)]
    low, middle, high = (f"{row['height']} x {row['width']}" for row in picked)
    if len(np.unique(rows[["width", "height"]])) == 1:
        return f"height x width: {low}, all"
    return f"height x width: {low} the smallest, {middle} the median, {high} the largest"


def left_out_lines(left_out: list[LeftOut], found: int) -> list[str]:
    """Counts by reason with the first examples of each; nothing where nothing was left out."""
    if not left_out:
        return []
    lines = [f"left out: {len(left_out):,} of {found:,} found"]
    for reason, count in Counter(entry.reason for entry in left_out).most_common():
        alike = (shortened(printable(entry.path)) for entry in left_out if entry.reason == reason)
        named = list(islice(alike, EXAMPLES))
        lines.append(f"  {count:,} {reason}: {', '.join(named)}{', ...' if count > len(named) else ''}")
    return lines


def shortened(name: str) -> str:
    """A line that was taken for a name may be of any length."""
    return name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}..."


def readable_bytes(count: int) -> str:
    """With the unit in which it has at most three digits: 1000 bytes are a kB."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" or size >= 10 else f"{size:.1f} {units[0]}"


def printable(name: str) -> str:
    """A file name as text that any terminal takes: bytes that are not UTF-8 and control characters as escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
