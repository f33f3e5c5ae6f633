"""From the rows of surveys to kinds of images, and to what is to be said of some of them, by position."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from contextae.audit.duplicates import Group, alike, exact_groups, near_groups
from contextae.audit.record import Kind
from contextae.audit.survey import Sums, Survey
from contextae.data.index import chunks
from contextae.data.sources.kinds import Group as KindGroup
from contextae.data.sources.kinds import decided, grouped

EXTREME_RATIO = 4.0
"Longer side over shorter one, beyond which a crop of usual shape sees a small part of the image."
UNREADABLE, LEFT_OUT = "unreadable", "left-out"
"What cannot be read; what is no image, was never looked at, or is of another kind than most."
CONSTANT, EXTREME, TINY, SMALL, MISNAMED = "constant", "extreme-ratio", "too-small", "small", "wrong-extension"
EXACT, NEAR, EXACT_OVERLAP, NEAR_OVERLAP = "exact-duplicates", "near-duplicates", "exact-overlap", "near-overlap"
WORDS = {
    CONSTANT: "constant, or nearly so",
    EXTREME: f"with one side more than {EXTREME_RATIO:g} times the other",
    TINY: "smaller than a patch, so that pretrain leaves them out",
    SMALL: "smaller than the network's input, enlarged for it",
    MISNAMED: "of another format than their extension says",
    EXACT: "equal to an earlier one, pixel for pixel",
    NEAR: "nearly the same as an earlier one",
    EXACT_OVERLAP: "equal to an image of the other set",
    NEAR_OVERLAP: "nearly the same as an image of the other set",
}
"""What each finding says of images, in the order in which they are told."""


class Overlap(NamedTuple):
    """An image, one of the other set, and in how many of 255 bits they differ."""

    position: int
    other: int
    bits: int


@dataclass(kw_only=True)
class Found:
    """Of the images that are used, at positions `used` of the survey: `marked` are positions by finding, ascending.

    `kinds` are all that the set holds, the first of them the one that is used. Duplicates other than the one kept of
    each of `groups` are marked, and so are the images of `overlap`.
    """

    survey: Survey
    kinds: list[Kind]
    used: np.ndarray
    marked: dict[str, np.ndarray]
    groups: dict[str, list[Group]]
    near_complete: bool
    other: Survey | None = None
    overlap: dict[str, list[Overlap]] = field(default_factory=dict)
    others_met: dict[str, int] = field(default_factory=dict)
    "How many images of the other set are equal to, or look like, one of this set."

    def mark_sizes(self, patch_size: tuple[int, int], image_size: tuple[int, int]) -> None:
        """Those that a training with these would leave out, and those that it would enlarge."""
        rows = self.survey.rows[self.used]
        tiny = (rows["height"] < patch_size[0]) | (rows["width"] < patch_size[1])
        small = (rows["height"] < image_size[0]) | (rows["width"] < image_size[1])
        self.marked[TINY], self.marked[SMALL] = self.used[tiny], self.used[small & ~tiny]


def find(seen: Survey, other: Survey | None = None) -> Found:
    """What the pixels of one set, and of another one beside it, say."""
    kinds = kinds_of(seen)
    used = kinds[0][1] if kinds else np.zeros(0, np.int64)
    rows = seen.rows[used]
    exact = [_moved(group, used) for group in exact_groups(rows["exact"])]
    repeated = others_of(exact)
    longer, shorter = (side(rows["height"], rows["width"]).astype(np.int64) for side in (np.maximum, np.minimum))
    found = Found(
        survey=seen,
        kinds=[kind for kind, _ in kinds],
        used=used,
        marked={
            CONSTANT: used[rows["constant"]],
            EXTREME: used[longer > EXTREME_RATIO * shorter],
            MISNAMED: used[rows["misnamed"]],
            EXACT: repeated,
        },
        groups={EXACT: exact},
        near_complete=True,
        other=other,
    )
    _find_alike(found, repeated)
    return found


def _find_alike(found: Found, repeated: np.ndarray) -> None:
    """Of equal images the first alone is compared, and none in which there is too little to be seen."""
    rows = found.survey.rows
    mine = np.setdiff1d(found.used, repeated)
    mine = mine[~rows["plain"][mine]]
    low, detail, theirs, side = rows["low"][mine], rows["detail"][mine], None, None
    if found.other is not None:
        others = found.other.rows
        theirs = np.flatnonzero(others["decoded"] & ~others["plain"])
        low = np.concatenate([low, others["low"][theirs]])
        detail = np.concatenate([detail, others["detail"][theirs]])
        side = np.arange(len(low)) >= len(mine)
    pairs = alike(low, detail, side)
    found.near_complete = pairs.complete
    across = pairs.second >= len(mine)
    within = pairs._replace(first=pairs.first[~across], second=pairs.second[~across], distance=pairs.distance[~across])
    found.groups[NEAR] = [_moved(group, mine) for group in near_groups(within)]
    found.marked[NEAR] = others_of(found.groups[NEAR])
    if theirs is not None and found.other is not None:
        near = [
            Overlap(int(mine[first]), int(theirs[second - len(mine)]), int(bits))
            for first, second, bits in zip(*(column[across].tolist() for column in pairs[:3]), strict=True)
        ]
        _overlap(found, found.other, near)


def _overlap(found: Found, other: Survey, near: list[Overlap]) -> None:
    """Each image once, with the nearest of the other set; what is near to an image is near to its equals."""
    exact = _equal(found, other)
    nearest: dict[int, Overlap] = {}
    for each in near:
        if each.position not in nearest or each.bits < nearest[each.position].bits:
            nearest[each.position] = each
    for kept, others, _ in found.groups[EXACT]:
        if kept in nearest:
            nearest |= {position: nearest[kept]._replace(position=position) for position in others}
    equal = {each.position for each in exact}
    theirs = np.flatnonzero(other.rows["decoded"])
    equal_others = set(theirs[np.isin(other.rows["exact"][theirs], found.survey.rows["exact"][found.used])].tolist())
    found.others_met = {
        EXACT_OVERLAP: len(equal_others),
        NEAR_OVERLAP: len({each.other for each in near} - equal_others),
    }
    found.overlap = {
        EXACT_OVERLAP: exact,
        NEAR_OVERLAP: [nearest[position] for position in sorted(nearest) if position not in equal],
    }
    for name, overlap in found.overlap.items():
        found.marked[name] = np.array([each.position for each in overlap], np.int64)


def _equal(found: Found, other: Survey) -> list[Overlap]:
    theirs = np.flatnonzero(other.rows["decoded"])
    if not len(theirs):
        return []
    hashes, first = np.unique(other.rows["exact"][theirs], return_index=True)
    mine = found.survey.rows["exact"][found.used]
    place = np.searchsorted(hashes, mine).clip(0, len(hashes) - 1)
    same = hashes[place] == mine
    return [
        Overlap(position, other_position, 0)
        for position, other_position in zip(found.used[same].tolist(), theirs[first[place[same]]].tolist(), strict=True)
    ]


def _moved(group: Group, positions: np.ndarray) -> Group:
    """From places in `positions` to these."""
    return group._replace(kept=int(positions[group.kept]), others=tuple(positions[list(group.others)].tolist()))


def others_of(groups: Iterable[Group]) -> np.ndarray:
    """All but the one kept of each, ascending."""
    return np.array(sorted(position for group in groups for position in group.others), np.int64)


def kinds_of(seen: Survey) -> list[tuple[Kind, np.ndarray]]:
    """As `open_index` groups them, with the positions of those that decode; the most frequent first."""
    rows = seen.rows
    kinds = []
    for group in grouped(rows, np.flatnonzero(rows["headed"])):
        positions = group.places[rows["decoded"][group.places]]
        if len(positions):
            kinds.append((_kind(seen, group, positions), positions))
    return sorted(kinds, key=lambda item: -item[0].count)


def _kind(seen: Survey, group: KindGroup, positions: np.ndarray) -> Kind:
    photograph = bool(seen.rows["photograph"][group.places[0]])
    channels = decided(seen.rows[group.places], "auto", group)
    sums = Sums()
    for each in group.channels:
        if (part := seen.sums.get((photograph, each, group.dtype))) is not None:
            sums = sums.joined(part)
    statistics = sums.statistics(channels, group.dtype)
    names = (seen.ids[i] for part in chunks(positions) for i in part.tolist())
    return Kind(
        photograph=photograph,
        channels=channels,
        dtype=group.dtype,
        count=len(positions),
        value_range=statistics.value_range,
        mean=[_short(value) for value in statistics.mean],
        deviation=[_short(value) for value in statistics.deviation],
        names_sha256=names_hash(names),
        sizes_sha256=sizes_hash(seen.rows["num_bytes"][positions]),
    )


def names_hash(names: Iterable[str]) -> str:
    """Of a list of names in its order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def sizes_hash(num_bytes: np.ndarray) -> str:
    """Of a list of sizes in bytes in its order."""
    digest = hashlib.sha256()
    for part in chunks(num_bytes):
        digest.update(part.astype("<u8").tobytes())
    return digest.hexdigest()


def _short(value: float) -> float:
    """With six digits, as `experiment.yaml` has it."""
    return float(f"{value:.6g}")
