"""Fingerprints: equal exactly for equal pixels, and near for images that look alike, whatever their depth."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from audit.made_set import image
from contextae.audit.duplicates import MOST_DETAIL, MOST_LOW
from contextae.audit.likeness import Likeness, exact_hash, is_gray, levels, likeness


def pixels(picture: Image.Image) -> np.ndarray:
    array = np.asarray(picture)
    return array[:, :, None] if array.ndim == 2 else array


def distance(one: Likeness, other: Likeness) -> tuple[int, int]:
    low = (one.low ^ other.low).bit_count()
    return low, sum((a ^ b).bit_count() for a, b in zip(one.detail, other.detail, strict=True))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def test_equal_pixels_have_equal_hashes_and_others_have_not() -> None:
    array = pixels(image(1))
    changed = array.copy()
    changed[7, 9, 1] ^= 1
    shorter = array.reshape(array.shape[1], array.shape[0], 3)
    others = [array, changed, shorter, array.astype(np.uint16), array[:, ::-1]]
    assert len({exact_hash(each) for each in others}) == len(others)
    assert exact_hash(array) == exact_hash(np.asfortranarray(array)) and len(exact_hash(array)) == 16


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_every_value_of_every_channel_is_in_the_hash(channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 3, channels)).astype(np.uint8)
    hashes = {exact_hash(array)}
    for at in np.ndindex(array.shape):
        changed = array.copy()
        changed[at] ^= 1
        hashes.add(exact_hash(changed))
    assert len(hashes) == array.size + 1


def test_colour_that_is_gray_counts_as_gray() -> None:
    gray = pixels(image(2).convert("L"))
    coloured = np.repeat(gray, 3, axis=2)
    assert is_gray(coloured) and exact_hash(coloured) == exact_hash(gray)
    coloured = coloured.copy()
    coloured[0, 0, 2] += 1
    assert not is_gray(coloured) and exact_hash(coloured) != exact_hash(gray)
    assert not is_gray(pixels(image(2)))


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: jpeg(picture, 50),
        lambda picture: picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC),
        lambda picture: ImageEnhance.Contrast(picture).enhance(0.8),
        lambda picture: picture.convert("L"),
    ],
    ids=["saved again", "halved", "contrast", "gray"],
)
def test_images_that_look_alike_are_near(change: Callable[[Image.Image], Image.Image]) -> None:
    for seed in range(20):
        picture = image(seed, (131, 173))
        low, detail = distance(likeness(pixels(picture)), likeness(pixels(change(picture))))
        assert low <= MOST_LOW and detail <= MOST_DETAIL, (seed, low, detail)


def test_images_of_different_things_are_far() -> None:
    all_of_them = [likeness(pixels(image(seed))) for seed in range(60)]
    distances = [distance(one, other) for i, one in enumerate(all_of_them) for other in all_of_them[:i]]
    assert min(low for low, _ in distances) > MOST_LOW and min(detail for _, detail in distances) > MOST_DETAIL
    assert 120 < np.mean([detail for _, detail in distances]) < 135


def test_depth_and_channels_do_not_matter() -> None:
    gray = pixels(image(5).convert("L")).astype(np.float64)
    alone = likeness(pixels(image(5).convert("L")))
    deep = (gray * 37).astype(np.uint16), (gray / 1e4 - 3).astype(np.float32), np.repeat(gray, 5, 2).astype(np.uint8)
    for other in deep:
        low, detail = distance(alone, likeness(other))
        assert low <= 4 and detail <= 16, (other.dtype, low, detail)


def test_little_in_it_is_plain() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (50, 60, 3)).astype(np.uint8)
    assert likeness(noise).plain and likeness(np.full((9, 9, 4), 7, np.uint16)).plain
    assert not likeness(pixels(image(3))).plain


def test_bits_keep_their_places() -> None:
    found = likeness(pixels(image(6)))
    assert 0 < found.low < 2**63 and len(found.detail) == 4 and found.detail[0] < 2**63
    assert max(found.detail) < 2**64 and any(
        word >= 2**63 for word in found.detail[1:] + likeness(pixels(image(7))).detail[1:]
    )
    assert bin(found.low).count("1") == 31  # half of 63 are above their median


def test_levels_leave_outliers_out() -> None:
    values = np.append(np.linspace(100, 200, 999), 60_000).astype(np.uint16)
    assert levels(values).max() == 255 and 120 < levels(values)[500] < 135
    assert not levels(np.full(5, 3.0)).any()
