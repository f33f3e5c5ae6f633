"""Which images are equal and which look alike, within one set and between two: by fingerprints, not by pixels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

MOST_LOW, MOST_DETAIL = 8, 48
"""Bits in which two images that look alike may differ, of 63 coarse and of 255 finer ones. Measured on four sets of
photographs: saved again at JPEG quality 20, halved, or made brighter by a fifth, 95 of 100 differ by at most 6 and 45,
most by 2 and 10; cut by 1.5 % at each side by at most 8 and 45; unrelated ones by 32 and 127. Of 160 pairs so found in
CIFAR-10 and looked at, all were of one picture, of photographs of clothes four of five."""
BANDS, AGREEING = 11, 3
"At most 8 of 64 bits differ, so that at least 3 of 11 bands of bits are equal: what is looked for by sorting."
MOST_COMPARED, MOST_PAIRS = 2_000_000_000, 20_000_000
"Comparisons and pairs at which the search ends unfinished, after some 40 s and 320 MB: a set of one film's frames."


class Pairs(NamedTuple):
    """`first[i]` < `second[i]` look alike, `distance[i]` of the finer bits; sorted. `complete`: all were compared."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    complete: bool


class Group(NamedTuple):
    """Positions: the one to keep, and those that are its duplicates, ascending; how far these are from it."""

    kept: int
    others: tuple[int, ...]
    distances: tuple[int, ...] = ()


def exact_groups(hashes: np.ndarray) -> list[Group]:
    """Of n hashes (16 bytes each, S16): all that occur more than once, by the first that has it."""
    order, bounds = _runs(hashes)
    groups = [np.sort(order[start:end]).tolist() for start, end in bounds if end - start > 1]
    return sorted(Group(first, tuple(rest)) for first, *rest in groups)


def _runs(values: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """An order in which equal ones are neighbours, and where each stretch of equals begins and ends."""
    _, codes = np.unique(values, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    edges = np.flatnonzero(np.diff(codes[order])) + 1
    ends = [0, *edges.tolist(), len(values)]
    return order, list(pairwise(ends)) if len(values) else []


def alike(low: np.ndarray, detail: np.ndarray, side: np.ndarray | None = None) -> Pairs:
    """All pairs that differ by at most MOST_LOW and MOST_DETAIL bits. `low` is uint64 n, `detail` uint64 n 4.

    With `side`, false for one set and true for another, pairs within the other are not looked for. Memory grows with n
    and with the pairs found; time with n and with the images that share three bands: 100,000 take seconds.
    """
    found: list[np.ndarray] = []
    compared = pairs = 0
    for bands in combinations(range(BANDS), AGREEING):
        for first, second in _neighbours(low & _mask(bands)):
            compared += len(first)
            if side is not None:
                wanted = ~(side[first] & side[second])
                first, second = first[wanted], second[wanted]
            hits = _checked(low, detail, first, second, bands)
            pairs += len(hits)
            found.append(hits)
            if compared > MOST_COMPARED or pairs > MOST_PAIRS:
                return _sorted(found, complete=False)
    return _sorted(found, complete=True)


def _neighbours(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of positions with equal keys, those at one distance in the sorted order at a time."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    at = np.arange(len(keys))
    for distance in range(1, len(keys)):
        at = at[: np.searchsorted(at, len(keys) - distance)]
        at = at[sorted_keys[at] == sorted_keys[at + distance]]
        if not len(at):
            return
        yield order[at], order[at + distance]


def _checked(
    low: np.ndarray, detail: np.ndarray, first: np.ndarray, second: np.ndarray, bands: tuple[int, ...]
) -> np.ndarray:
    """Those that look alike, as rows (smaller, larger, distance); a pair counts at the first bands it agrees in."""
    differing = low[first] ^ low[second]
    near = _ones(differing) <= MOST_LOW
    first, second, differing = first[near], second[near], differing[near]
    for band in range(bands[-1]):
        if band not in bands:
            earlier = (differing & _mask((band,))) == 0
            first, second, differing = first[~earlier], second[~earlier], differing[~earlier]
    distance = _ones(detail[first] ^ detail[second]).sum(axis=1)
    near = distance <= MOST_DETAIL
    rows = np.stack([np.minimum(first, second), np.maximum(first, second), distance], axis=1)
    return rows[near].astype(np.uint32)


def _mask(bands: tuple[int, ...]) -> np.uint64:
    """The bits of these of 11 bands, of which the last has four and the others six."""
    bits = 0
    for band in bands:
        bits |= ((1 << 6) - 1) << (6 * band)
    return np.uint64(bits & (2**64 - 1))


def _ones(words: np.ndarray) -> np.ndarray:
    """Bits that are set in each."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.asarray(np.bitwise_count(words), np.uint16)
    return np.unpackbits(np.ascontiguousarray(words)[..., None].view(np.uint8), axis=-1).sum(-1, dtype=np.uint16)


def _sorted(found: list[np.ndarray], *, complete: bool) -> Pairs:
    rows = np.concatenate([np.zeros((0, 3), np.uint32), *found]).astype(np.int64)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    return Pairs(rows[:, 0], rows[:, 1], rows[:, 2], complete)


def near_groups(pairs: Pairs) -> list[Group]:
    """Each image in at most one group, and near to the one that is kept, which comes first: of a film's frames those
    that differ enough from each other stay, where joining neighbours would leave a single one."""
    claimed: set[int] = set()
    groups = []
    firsts, starts = np.unique(pairs.first, return_index=True)
    ends = [*starts.tolist(), len(pairs.first)][1:]
    for kept, start, end in zip(firsts.tolist(), starts.tolist(), ends, strict=True):
        if kept in claimed:
            continue
        rows = zip(pairs.second[start:end].tolist(), pairs.distance[start:end].tolist(), strict=True)
        free = [(other, distance) for other, distance in rows if other not in claimed]
        if free:
            claimed.update(other for other, _ in free)
            groups.append(Group(kept, tuple(other for other, _ in free), tuple(distance for _, distance in free)))
    return groups
