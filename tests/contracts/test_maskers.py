"""What every masker must do that a setting can name."""

from __future__ import annotations

import time
from typing import get_args

import numpy as np
import pytest

from contextae import masking
from contextae.masking import BlockMasker, Masker, RandomMasker
from contextae.methods.cae import CAEConfig
from contextae.randomness import stream

MASKERS = {"block": BlockMasker, "random": RandomMasker}
EVERY_MASKER = pytest.mark.parametrize("kind", MASKERS.values(), ids=MASKERS)
GRIDS = [(13,), (1, 11), (11, 1), (2, 2), (5, 7), (14, 14), (2, 3, 5)]


def test_the_contract_covers_every_masker() -> None:
    assert set(MASKERS) == set(get_args(CAEConfig.model_fields["masker"].annotation))
    assert set(MASKERS.values()) == {
        thing for name, thing in vars(masking).items() if name.endswith("Masker") and thing is not Masker
    }


@pytest.mark.parametrize("name", MASKERS)
def test_the_setting_builds_it(name: str) -> None:
    masker = CAEConfig(masker=name, mask_ratio=0.4).build_masker((5, 7))
    assert type(masker) is MASKERS[name] and isinstance(masker, Masker)
    assert (masker.num_patches, masker.num_masked) == (35, 14)


@EVERY_MASKER
@pytest.mark.parametrize("size", GRIDS, ids=str)
def test_exact_counts_each_patch_once_ascending_int64(kind: type, size: tuple[int, ...]) -> None:
    num_patches = int(np.prod(size))
    frames = int(np.prod(size[:-2]))
    for num_masked in range(frames, num_patches, frames):
        masker = kind(size=size, num_masked=num_masked)
        started = time.perf_counter()
        mask = masker(stream(num_masked))
        assert time.perf_counter() - started < 1
        assert masker.num_patches == num_patches and len(mask.masked) == num_masked
        assert np.array_equal(np.sort(np.concatenate(mask)), np.arange(num_patches))
        for part in mask:
            assert part.dtype == np.int64 and (np.diff(part) > 0).all()


@EVERY_MASKER
def test_a_mask_is_a_function_of_its_stream_alone(kind: type) -> None:
    masker = kind(size=(5, 7), num_masked=13)
    first = masker(stream("a"))
    others = [masker(stream(i)) for i in range(20)]
    assert np.array_equal(masker(stream("a")).masked, first.masked)
    assert len({tuple(mask.masked) for mask in others}) > 15


@EVERY_MASKER
def test_every_patch_is_masked_at_times_and_visible_at_times(kind: type) -> None:
    masker = kind(size=(5, 7), num_masked=13)
    counts = np.bincount(np.concatenate([masker(stream(i)).masked for i in range(500)]), minlength=35)
    assert 0 < counts.min() and counts.max() < 500
