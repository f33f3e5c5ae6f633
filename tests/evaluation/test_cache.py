"""Features are made once per content, damaged ones again, and there is an end to what is kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contextae.encoder import Encoder
from contextae.evaluation.cache import FeatureCache
from contextae.evaluation.features import Features, extract
from contextae.grid import Grid
from evaluation.stand_in import DEVIATION, MEAN, StandIn, separable


class Counting(StandIn):
    """Counts how often it is asked."""

    asked = 0

    def summary_and_latents(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += 1
        return super().summary_and_latents(images)


def features_of(encoder: StandIn, images: np.ndarray, cache: FeatureCache, **changed: object) -> Features:
    return extract(encoder, images, **{"mean": MEAN, "deviation": DEVIATION, "cache": cache, **changed})


def test_made_once_and_equal(tmp_path: Path) -> None:
    cache, encoder, (images, _) = FeatureCache(tmp_path / "made"), Counting(), separable(9)
    first = features_of(encoder, images, cache, with_tokens=True)
    again = features_of(encoder, images, cache, with_tokens=True)
    without = features_of(encoder, images, cache)
    assert encoder.asked == 1, "an entry with tokens answers for both"
    assert torch.equal(first.summary, again.summary) and torch.equal(first.mean_latents, without.mean_latents)
    assert again.tokens is not None and torch.equal(first.tokens, again.tokens) and without.tokens is None


def test_everything_that_features_depend_on_makes_them_anew(tmp_path: Path) -> None:
    cache, encoder, (images, _) = FeatureCache(tmp_path), Counting(), separable(9)
    features_of(encoder, images, cache)
    other = images.copy()
    other[8, 2, 7, 11] ^= 1
    for count, changed in enumerate(
        (
            {"images": other},
            {"images": images.astype(np.float32)},
            {"mean": (0.5, 0.4, 0.5)},
            {"deviation": (0.25, 0.2, 0.2)},
            {"precision": "bfloat16"},
            {"with_tokens": True},
        ),
        start=2,
    ):
        features_of(encoder, changed.pop("images", images), cache, **changed)
        assert encoder.asked == count, changed
    with torch.no_grad():
        encoder.class_token[3] += 1e-6
    features_of(encoder, images, cache)
    assert encoder.asked == 8


def test_heads_and_positions_are_in_no_tensor_and_count(tmp_path: Path) -> None:
    grid = Grid(image_size=(8, 12), patch_size=(4, 4), channels=3)
    cache, (images, _) = FeatureCache(tmp_path), separable(4)
    found = []
    for heads in (2, 3, 3):
        torch.manual_seed(0)
        encoder = Encoder(grid=grid, width=12, depth=1, num_heads=heads)
        if len(found) == 2:
            encoder.positions.mul_(2)
        found.append(extract(encoder, images, mean=MEAN, deviation=DEVIATION, cache=cache).summary)
    assert len(list(tmp_path.iterdir())) == 3
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


@pytest.mark.parametrize("harm", ["a bit", "cut off", "another's", "empty"])
def test_damage_is_said_and_mended(tmp_path: Path, harm: str) -> None:
    said: list[str] = []
    cache, encoder, (images, _) = FeatureCache(tmp_path, say=said.append), Counting(), separable(9)
    whole = features_of(encoder, images, cache)
    (entry,) = tmp_path.iterdir()
    data = entry.read_bytes()
    if harm == "another's":
        features_of(encoder, images[:5], cache)
        data = next(path for path in tmp_path.iterdir() if path != entry).read_bytes()
    harmed = {"a bit": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], "cut off": data[:-1], "empty": b""}
    entry.write_bytes(harmed.get(harm, data))
    before = encoder.asked
    assert torch.equal(features_of(encoder, images, cache).summary, whole.summary)
    assert encoder.asked == before + 1 and len(said) == 1 and "damaged and made again" in said[0]
    features_of(encoder, images, cache)
    assert encoder.asked == before + 1 and len(said) == 1


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit=3_000)
    for age, name in enumerate("abc"):
        cache.put(name, {"x": torch.full((200,), float(age))})
        os.utime(tmp_path / f"{name}.safetensors", (age, age))
    assert cache.get("a") is not None, "and is now the newest"
    cache.put("d", {"x": torch.zeros(200)})
    assert {path.stem for path in tmp_path.iterdir()} == {"c", "a", "d"} or cache.get("b") is None
    assert cache.get("b") is None and cache.get("a") is not None and cache.get("d") is not None
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3_000
    cache.put("e", {"x": torch.zeros(3_001, dtype=torch.uint8)})
    assert cache.get("e") is None, "larger than everything"
    left = tmp_path / ".writing-f-1"
    left.touch()
    os.utime(left, (1, 1))
    cache.put("g", {"x": torch.zeros(2)})
    assert not left.exists(), "what a killed process left is removed"


def test_a_folder_that_cannot_be_written_is_said_and_done_without(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    cache, encoder, (images, _) = FeatureCache(tmp_path / "file", say=said.append), Counting(), separable(5)
    features_of(encoder, images, cache)
    features_of(encoder, images, cache)
    assert encoder.asked == 2 and "Features cannot be kept in" in said[0]


def test_a_cache_that_may_only_be_read_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    cache, encoder, (images, _) = FeatureCache(tmp_path, say=said.append), Counting(), separable(5)
    features_of(encoder, images, cache)

    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    features_of(encoder, images, cache)
    assert encoder.asked == 1 and not said and len(list(tmp_path.iterdir())) == 1


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEXTAE_CACHE", str(tmp_path))
    assert FeatureCache().folder == tmp_path / "features"
