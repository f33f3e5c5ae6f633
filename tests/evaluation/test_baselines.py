"""Training-free representations of any size and number of channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contextae.evaluation import baselines
from contextae.evaluation.baselines import BASELINES, factor_for, hog_with_thumbnail, raw_pixels
from contextae.hog import hog


def images(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 9, 21), (3, 128, 96)])
def test_every_size_and_number_of_channels(name: str, shape: tuple[int, ...]) -> None:
    train, test = images(12, *shape), images(5, *shape, seed=1)
    told: list[float] = []
    computed = BASELINES[name](train, test, seed=0, progress=lambda _, share: told.append(share))
    (ours,), (theirs,) = computed.train.vectors.values(), computed.test.vectors.values()
    assert len(ours) == 12 and len(theirs) == 5 and ours.shape[1] == theirs.shape[1]
    assert ours.isfinite().all() and ours.std() > 0 and told[-1] == 1.0
    assert computed.train.tokens is None and f"{ours.shape[1]:,} values" in computed.detail
    alone = BASELINES[name](train, test[:2], seed=0, progress=None)
    assert torch.allclose(next(iter(alone.test.vectors.values())), theirs[:2], rtol=1e-4, atol=1e-3)


def test_raw_pixels_are_all_values_until_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = images(9, 3, 8, 10), images(2, 3, 8, 10)
    computed = raw_pixels(train, test, seed=0, progress=None)
    assert torch.equal(computed.train.vectors["pixels"], torch.from_numpy(train).flatten(1).float())
    assert computed.detail == "3 x 8 x 10 pixels, 240 values"
    monkeypatch.setattr(baselines, "WIDEST", 8)
    assert raw_pixels(train, test, seed=0, progress=None).detail == "3 x 1 x 2 pixels, mean over 5 x 5, 6 values"
    monkeypatch.setattr(baselines, "WIDEST", 20)
    monkeypatch.setattr(baselines, "MOST_VALUES", 9 * 60)
    small = raw_pixels(train, test, seed=0, progress=None)
    assert small.detail == "3 x 4 x 5 pixels, mean over 2 x 2, 60 values"
    assert small.train.vectors["pixels"][1, 0].item() == train[1, 0, :2, :2].mean()


def test_gradients_stand_beside_a_thumbnail() -> None:
    train = images(3, 3, 32, 32)
    vectors = hog_with_thumbnail(train, train, seed=0, progress=None).train.vectors["HOG"]
    values = torch.from_numpy(train).float()
    assert torch.allclose(vectors[:, :1764], hog(values, cell_size=(4, 4)))
    assert vectors[1, 1764].item() == pytest.approx(train[1, 0, :4, :4].mean() / 255)
    assert vectors.shape == (3, 1764 + 3 * 64)


def test_factor() -> None:
    assert factor_for((32, 32), 1024) == 1
    assert factor_for((128, 96), 48**2) == 3
