"""Maskers: exact counts on any grid, block-wise masking's published frequencies, and what is refused."""

from __future__ import annotations

import pickle
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextae.errors import UserError
from contextae.masking import BlockMasker, Mask, RandomMasker, count_masked
from contextae.randomness import stream


def assert_partition(mask: Mask, num_patches: int, num_masked: int) -> None:
    """Exactly `num_masked`, each patch once, both ascending."""
    assert len(mask.masked) == num_masked
    assert np.array_equal(np.sort(np.concatenate([mask.visible, mask.masked])), np.arange(num_patches))
    assert (np.diff(mask.visible) > 0).all() and (np.diff(mask.masked) > 0).all()
    assert mask.visible.dtype == mask.masked.dtype == np.int64


THIN = st.one_of(
    st.tuples(st.integers(2, 60)),
    st.tuples(st.just(1), st.integers(2, 60)),
    st.tuples(st.integers(2, 60), st.just(1)),
    st.just((2, 2)),
)
ANY = st.one_of(THIN, st.tuples(st.integers(2, 17), st.integers(2, 17)))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(size=ANY, share=st.floats(0, 1), seed=st.integers(0, 10**6), min_block=st.sampled_from([1, 4, 16, 100]))
def test_any_grid_gets_exactly_the_masked_patches_asked_for(
    size: tuple[int, ...], share: float, seed: int, min_block: int
) -> None:
    num_patches = int(np.prod(size))
    num_masked = 1 + int(share * (num_patches - 2))
    rng = stream("masks", seed)
    for masker in (
        RandomMasker(size=size, num_masked=num_masked),
        BlockMasker(size=size, num_masked=num_masked, min_block=min_block),
    ):
        assert_partition(masker(rng), num_patches, num_masked)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(frames=st.integers(1, 5), size=st.tuples(st.integers(1, 9), st.integers(2, 9)), seed=st.integers(0, 10**6))
def test_a_tube_masks_the_same_patches_in_every_frame(frames: int, size: tuple[int, int], seed: int) -> None:
    area = size[0] * size[1]
    in_frame = 1 + seed % (area - 1)
    mask = BlockMasker(size=(frames, *size), num_masked=frames * in_frame)(stream(seed))
    assert_partition(mask, frames * area, frames * in_frame)
    by_frame = mask.masked.reshape(frames, in_frame) - area * np.arange(frames)[:, None]
    assert (by_frame == by_frame[0]).all()


@pytest.mark.parametrize(
    ("num_masked", "centre", "corner"), [(98, 0.86, 0.06), (75, 0.72, 0.04)], ids=["98 masked", "75 masked"]
)
def test_blocks_favour_the_centre_as_published(num_masked: int, centre: float, corner: float) -> None:
    """Shares of 2,000 masks of the released generator; ours are means over the four centre and corner patches."""
    masker = BlockMasker(size=(14, 14), num_masked=num_masked)
    counts = np.zeros(196)
    for i in range(2_000):
        counts[masker(stream("frequencies", i)).masked] += 1
    share = (counts / 2_000).reshape(14, 14)
    assert share.mean() == pytest.approx(num_masked / 196)
    assert share[6:8, 6:8].mean() == pytest.approx(centre, abs=0.03)
    assert share[[0, 0, -1, -1], [0, -1, 0, -1]].mean() == pytest.approx(corner, abs=0.03)
    for other in (share.T, share[::-1], share[:, ::-1]):  # nothing prefers an axis or a side
        assert np.abs(share - other).max() < 0.08


def test_blocks_are_blocks() -> None:
    """Far fewer borders between masked and visible patches than among uniformly random ones."""

    def borders(masker: BlockMasker | RandomMasker) -> float:
        total = 0
        for i in range(50):
            lattice = np.zeros(11 * 17, dtype=int)
            lattice[masker(stream(i)).masked] = 1
            lattice = lattice.reshape(11, 17)
            total += np.abs(np.diff(lattice, axis=0)).sum() + np.abs(np.diff(lattice, axis=1)).sum()
        return total / 50

    blocks, scattered = (kind(size=(11, 17), num_masked=80) for kind in (BlockMasker, RandomMasker))
    assert borders(blocks) < 0.6 * borders(scattered)


def first_blocks(masker: BlockMasker, count: int) -> np.ndarray:
    """Rows and columns of the first block of `count` masks, each a full rectangle."""
    sides = []
    for i in range(count):
        lattice, rng = np.zeros(masker.size, dtype=bool), stream("first block", i)
        while not masker._lay_block(lattice, masker.num_masked, rng):
            pass
        rows, columns = (np.flatnonzero(lattice.any(axis=axis)) for axis in (1, 0))
        sides.append((len(rows), len(columns)))
        assert lattice[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return np.array(sides)


def test_area_is_uniform_and_aspect_log_uniform() -> None:
    """BEiT's algorithm 1, on a lattice that fits every block: U(100, 600) and U(log 0.3, log 1 / 0.3)."""
    sides = first_blocks(BlockMasker(size=(90, 90), num_masked=600, min_block=100), 2_000)
    aspect, area = np.log(sides[:, 0] / sides[:, 1]), sides.prod(axis=1)
    assert aspect.mean() == pytest.approx(0, abs=0.06)
    assert aspect.std() == pytest.approx(np.log(1 / 0.3) / 3**0.5, abs=0.03)
    assert np.abs(aspect).max() < np.log(1 / 0.3) + 0.15  # sides are rounded
    assert area.mean() == pytest.approx(350, abs=12) and area.std() == pytest.approx(500 / 12**0.5, abs=6)


def test_a_block_is_strictly_smaller_than_the_grid() -> None:
    sides = first_blocks(BlockMasker(size=(5, 7), num_masked=30, min_block=4), 500)
    assert sides.max(axis=0).tolist() == [4, 6]


def test_random_masks_are_uniform() -> None:
    masker, counts = RandomMasker(size=(5, 7), num_masked=13), np.zeros(35)
    for i in range(3_000):
        counts[masker(stream("uniform", i)).masked] += 1
    assert np.abs(counts / 3_000 - 13 / 35).max() < 0.04  # four standard deviations are 0.035


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 2), (60, 60)])
def test_masks_are_drawn_quickly_on_any_grid(size: tuple[int, int]) -> None:
    masker = BlockMasker(size=size, num_masked=int(np.prod(size)) - 1)
    started = time.perf_counter()
    for i in range(5):
        masker(stream(i))
    assert time.perf_counter() - started < 2


def test_patience_ends_a_search_that_cannot_succeed() -> None:
    """Blocks of at least 100 patches never fit 4 x 5, where the published generator would look for ever."""

    class Counted(random.Random):
        drawn = 0

        def random(self) -> float:
            self.drawn += 1
            return super().random()

    rng = Counted(0)
    masker = BlockMasker(size=(4, 5), num_masked=7, min_block=100, aspect=(1.0, 1.0), patience=3)
    assert_partition(masker(rng), 20, 7)
    assert rng.drawn < 3 * 10 * 4 + 20


def test_a_mask_is_a_function_of_the_generator() -> None:
    for masker in (BlockMasker(size=(6, 9), num_masked=20), RandomMasker(size=(6, 9), num_masked=20)):
        first, again, other = (masker(stream(seed)) for seed in (3, 3, 4))
        assert np.array_equal(first.masked, again.masked) and not np.array_equal(first.masked, other.masked)
        copied = pickle.loads(pickle.dumps(masker))  # noqa: S301 - as it goes to loader workers
        assert np.array_equal(copied(stream(3)).masked, first.masked)


@pytest.mark.parametrize(
    ("num_patches", "ratio", "expected"),
    [(196, 0.5, 98), (49, 0.6, 29), (10, 0.01, 1), (10, 0.99, 9), (2, 0.5, 1), (196, 75 / 196, 75)],
)
def test_count_masked_rounds_and_leaves_both_sides_something(num_patches: int, ratio: float, expected: int) -> None:
    assert count_masked(num_patches, ratio) == expected


@pytest.mark.parametrize(("ratio", "hint"), [(75.0, "; it is a share, not a percentage"), (1.0, ""), (0.0, "")])
def test_a_ratio_outside_0_and_1_is_refused(ratio: float, hint: str) -> None:
    with pytest.raises(UserError, match=rf"mask_ratio must be between 0 and 1, both excluded. Got {ratio}{hint}\.$"):
        count_masked(196, ratio)


def test_one_patch_cannot_be_masked() -> None:
    with pytest.raises(UserError, match=r"needs at least two patches, one visible and one masked. Got 1"):
        count_masked(1, 0.5)


@pytest.mark.parametrize("kind", [BlockMasker, RandomMasker])
@pytest.mark.parametrize("num_masked", [0, 12, 13, -1])
def test_a_count_that_leaves_one_side_empty_is_refused(kind: type, num_masked: int) -> None:
    with pytest.raises(UserError, match=rf"between 1 and 11 of 12 patches. Got {num_masked}\."):
        kind(size=(3, 4), num_masked=num_masked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_block": 0}, r"min_block and patience must be at least 1. Got min_block=0, patience=10"),
        ({"patience": 0}, r"min_block and patience must be at least 1. Got min_block=16, patience=0"),
        ({"aspect": (2.0, 0.5)}, r"aspect must be two positive numbers, the smaller first. Got \(2.0, 0.5\)"),
        ({"aspect": (0.0, 0.5)}, r"aspect must be two positive numbers"),
    ],
)
def test_settings_of_blocks_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BlockMasker(size=(7, 9), num_masked=20, **settings)  # type: ignore[arg-type]


def test_a_tube_with_a_rest_is_refused() -> None:
    with pytest.raises(UserError, match=r"a multiple of the number of frames, 3. Got 20"):
        BlockMasker(size=(3, 4, 5), num_masked=20)
