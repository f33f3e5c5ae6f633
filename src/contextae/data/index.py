"""The images of a source: which there are, what their headers say, and how to read any of them from any process."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, overload

import numpy as np

from contextae.data.decode import ImageFacts
from contextae.errors import UserError

EXAMPLES = 3
FACTS = np.dtype(
    [("width", "<u4"), ("height", "<u4"), ("num_bytes", "<u8"), ("format", "S8"), ("kind", "S18"), ("frames", "?")]
)


class LeftOut(NamedTuple):
    """Something found that is not used. `path` is relative to the source like an id; equal troubles, equal reasons."""

    path: str
    reason: str


class Source(Protocol):
    """Where images come from. Small to pickle: whatever is large is opened again, lazily, in each process."""

    def read(self, sample_id: str) -> bytes | np.ndarray:
        """Encoded bytes, or uint8 h w c; BadImage where that is not possible."""

    def probe(self, sample_id: str) -> ImageFacts:
        """What the header says; BadImage where it cannot be used."""


class Names(Sequence[str]):
    """Many strings in one piece of memory: a list of a million ids would cost 100 MB, and as much in every worker.

    File names are bytes to the system: those that are not UTF-8 survive (PEP 383).
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.text = b"".join(encoded)
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Names: ...
    def __getitem__(self, position: int | slice) -> str | Names:
        if isinstance(position, slice):
            return Names(self[i] for i in range(*position.indices(len(self))))
        at = range(len(self))[position]
        start = self.ends[at - 1] if at else 0
        return self.text[start : self.ends[at]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self.text == other.text and np.array_equal(self.ends, other.ends)
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} names>"


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """The images that can be used, in a fixed order, and what was left out. Cheap to pickle; opens nothing until read.

    `found` is how many the source listed, counted before any header was read.

    `facts` has one row of FACTS per image. `channels`, 1 or 3, is what all are decoded to. `notes` are sentences about
    the whole, for the user. Labels, where known, are int64 positions in `classes`.
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

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, position: int) -> bytes | np.ndarray:
        """Encoded bytes or a uint8 h w c array, for `decode`; BadImage where the file cannot be read any more."""
        return self.source.read(self.ids[position])

    def fingerprint(self) -> str:
        """Sha256 over the ids in their order: the same images in the same order, and nothing about their content."""
        lengths = np.diff(self.ids.ends, prepend=0).astype("<i8")
        return hashlib.sha256(lengths.tobytes() + self.ids.text).hexdigest()

    def subset(self, positions: Sequence[int] | np.ndarray) -> Index:
        """The images at `positions`, in that order. What was left out belongs to the whole, and is not in it."""
        chosen = np.asarray(positions, dtype=np.int64)
        return replace(
            self,
            ids=Names(self.ids[i] for i in chosen.tolist()),
            facts=self.facts[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            found=len(chosen),
            left_out=[],
        )

    def without(self, unusable: np.ndarray, reason: str) -> Index:
        """The images of which `unusable` is false; the others join what was left out."""
        kept = self.subset(np.flatnonzero(~unusable))
        left_out = [*self.left_out, *(LeftOut(self.ids[i], reason) for i in np.flatnonzero(unusable).tolist())]
        return replace(kept, found=self.found, left_out=sorted(left_out))

    def restrict(self, ids: Iterable[str]) -> Index:
        """The images of these ids, in that order, as a run keeps those it started with; what was left out stays."""
        place = {name: i for i, name in enumerate(self.ids)}
        wanted = list(ids)
        missing = [name for name in wanted if name not in place]
        if missing:
            raise UserError(
                f"{self.title} no longer holds {len(missing):,} of the {len(wanted):,} images that are needed, first "
                f"{printable(missing[0])}. Put them back, or start anew with what is there."
            )
        kept = self.subset([place[name] for name in wanted])
        return replace(kept, found=len(kept) + len(self.left_out), left_out=self.left_out)

    def describe(self) -> list[str]:
        """What was found, in lines for the user."""
        lines = [f"{len(self):,} images of {self.title}, {readable_bytes(int(self.facts['num_bytes'].sum()))}"]
        if len(self):
            lines += [f"formats: {counted(self.facts['format'])}", sizes(self.facts), f"channels: {self._channels()}"]
            if several := int(self.facts["frames"].sum()):
                lines.append(f"{several:,} hold several frames or pages; the first of each is used")
        return [*lines, *self.notes, *left_out_lines(self.left_out, self.found)]

    def _channels(self) -> str:
        made = "gray" if self.channels == 1 else "RGB"
        kinds = np.unique(self.facts["kind"])
        if len(kinds) == 1 and kinds[0].decode() == made:
            return f"{self.channels}, {made}"
        return f"{self.channels}; {counted(self.facts['kind'])}: all are made {made}"


def counted(values: np.ndarray) -> str:
    """`"900 JPEG, 20 PNG"`, the most frequent first."""
    names, counts = np.unique(values, return_counts=True)
    order = np.lexsort((names, -counts))
    return ", ".join(f"{counts[i]:,} {names[i].decode()}" for i in order)


def sizes(facts: np.ndarray) -> str:
    """Of the smallest, the median and the largest image by area."""
    order = np.argsort(facts["width"].astype(np.int64) * facts["height"], kind="stable")
    picked = [facts[order[at]] for at in (0, (len(order) - 1) // 2, -1)]
    low, middle, high = (f"{row['height']} x {row['width']}" for row in picked)
    if len(np.unique(facts[["width", "height"]])) == 1:
        return f"height x width: {low}, all"
    return f"height x width: {low} the smallest, {middle} the median, {high} the largest"


def left_out_lines(left_out: list[LeftOut], found: int) -> list[str]:
    """Counts by reason with the first examples of each; nothing where nothing was left out."""
    if not left_out:
        return []
    lines = [f"left out: {len(left_out):,} of {found:,} found"]
    for reason, count in Counter(entry.reason for entry in left_out).most_common():
        named = [printable(entry.path) for entry in left_out if entry.reason == reason][:EXAMPLES]
        lines.append(f"  {count:,} {reason}: {', '.join(named)}{', ...' if count > len(named) else ''}")
    return lines


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
