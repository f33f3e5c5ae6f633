"""The search finds exactly the pairs that comparing all with all would, at 100,000 images within seconds."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from contextae.audit import duplicates
from contextae.audit.duplicates import MOST_DETAIL, MOST_LOW, Group, Pairs, alike, exact_groups, near_groups


def random_prints(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 2**63, count).astype(np.uint64)
    return low, rng.integers(0, 2**63, (count, 4)).astype(np.uint64)


def flipped(word: int, bits: int, rng: np.random.Generator) -> int:
    for bit in rng.choice(63, bits, replace=False):
        word ^= 1 << int(bit)
    return word


def planted(count: int, copies: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random ones, and copies that differ from an earlier one by 0 to 10 coarse bits and 0 to 60 others."""
    low, detail = random_prints(count, seed)
    rng = np.random.default_rng(seed + 1)
    for place in rng.choice(np.arange(count // 2, count), copies, replace=False):
        original = rng.integers(0, count // 2)
        low[place] = flipped(int(low[original]), int(rng.integers(0, 11)), rng)
        detail[place] = detail[original]
        for word in range(4):
            detail[place, word] = flipped(int(detail[place, word]), int(rng.integers(0, 16)), rng)
    return low, detail


def compared(low: np.ndarray, detail: np.ndarray) -> dict[tuple[int, int], int]:
    """All with all."""
    found = {}
    for i in range(len(low)):
        for j in range(i + 1, len(low)):
            bits = sum((int(a) ^ int(b)).bit_count() for a, b in zip(detail[i], detail[j], strict=True))
            if (int(low[i]) ^ int(low[j])).bit_count() <= MOST_LOW and bits <= MOST_DETAIL:
                found[i, j] = bits
    return found


def as_dict(pairs: Pairs) -> dict[tuple[int, int], int]:
    keys = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(keys) == len(set(keys)) and keys == sorted(keys), "each once, in order"
    return dict(zip(keys, pairs.distance.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_comparing_all_with_all_finds(seed: int) -> None:
    low, detail = planted(400, 150, seed)
    pairs = alike(low, detail)
    expected = compared(low, detail)
    assert as_dict(pairs) == expected and pairs.complete
    assert len(expected) > 50 and max(expected.values()) == MOST_DETAIL


def test_every_way_to_differ_by_eight_bits_leaves_three_bands_equal() -> None:
    """One bit in each of eight bands is the worst."""
    low = np.zeros(1 + 40, np.uint64)
    rng = np.random.default_rng(3)
    for place in range(1, 41):
        for band in rng.choice(11, MOST_LOW, replace=False):
            low[place] |= np.uint64(1 << int(6 * band + rng.integers(0, 6 if band < 10 else 3)))
    detail = np.zeros((41, 4), np.uint64)
    assert {second for first, second in as_dict(alike(low, detail)) if first == 0} == set(range(1, 41))


def test_pairs_within_the_other_set_are_not_looked_for() -> None:
    low, detail = planted(300, 120)
    side = np.random.default_rng(0).random(300) < 0.5
    expected = {pair: bits for pair, bits in compared(low, detail).items() if not (side[pair[0]] and side[pair[1]])}
    assert as_dict(alike(low, detail, side)) == expected and expected


def test_counting_bits_without_numpy_2_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    low, detail = planted(200, 80)
    expected = as_dict(alike(low, detail))
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert as_dict(alike(low, detail)) == expected


def test_nothing_and_a_single_image_have_no_duplicates() -> None:
    for count in (0, 1):
        assert as_dict(alike(*random_prints(count))) == {}
    assert exact_groups(np.zeros(0, "S16")) == [] and near_groups(alike(*random_prints(0))) == []


@pytest.mark.parametrize("limit", ["MOST_COMPARED", "MOST_PAIRS"])
def test_a_set_of_one_image_ends_unfinished_and_says_so(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(duplicates, limit, 5_000)
    pairs = alike(np.zeros(1_000, np.uint64), np.zeros((1_000, 4), np.uint64))
    assert not pairs.complete and 5_000 < len(pairs.first) < 20_000


def test_a_hundred_thousand_take_seconds_and_little_memory() -> None:
    low, detail = planted(100_000, 2_000)
    tracemalloc.start()
    began = time.process_time()
    pairs = alike(low, detail)
    groups = near_groups(pairs)
    seconds, (_, most) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pairs.complete and len(groups) > 1_000
    assert seconds < 30, "6 s on a slow core"
    assert most < 100e6, f"{most / 1e6:.0f} MB"


def test_equal_hashes_are_grouped_by_the_first() -> None:
    hashes = np.array([b"b\0", b"a", b"b", b"c", b"a", b"b", b"b\0\0x"], "S16")
    assert exact_groups(hashes) == [Group(0, (2, 5)), Group(1, (4,))]


def test_each_image_is_near_to_the_one_that_is_kept() -> None:
    """0 - 1 - 2 - 3 in a row: 1 goes with 0; 2, which is near to 1 alone of these, is kept, and 3 goes with it."""
    pairs = Pairs(np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([5, 6, 7]), True)
    assert near_groups(pairs) == [Group(0, (1,), (5,)), Group(2, (3,), (7,))]
