"""What a loader worker makes of an image."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from contextae.data.augment import Crop, resize
from contextae.masking import BlockMasker
from contextae.methods.cae import CAEConfig
from contextae.methods.cae_v2 import CAEv2Config
from contextae.methods.views import MaskedViews, PlainView, PlainViews, Second
from contextae.randomness import stream

IMAGE = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
VIEWS = MaskedViews(
    crop=Crop(size=(14, 22), scale=(0.3, 1.0)), masker=BlockMasker(size=(7, 11), num_masked=29, min_block=4)
)


def test_a_view_is_a_crop_with_its_mask_and_key() -> None:
    view = VIEWS(IMAGE, stream(0, "view", 0, "a.png"))
    assert view.images.shape == (3, 14, 22) and view.images.dtype == np.uint8
    assert sorted([*view.mask.visible, *view.mask.masked]) == list(range(77)) and len(view.mask.masked) == 29
    assert view.key.dtype == np.int64 and 0 <= view.key < 2**62


def test_a_view_is_a_function_of_its_stream() -> None:
    one, again = (VIEWS(IMAGE, stream(0, "view", 3, "a.png")) for _ in range(2))
    assert np.array_equal(one.images, again.images) and np.array_equal(one.mask.masked, again.mask.masked)
    assert one.key == again.key
    others = [VIEWS(IMAGE, stream(0, "view", epoch, name)) for epoch, name in ((4, "a.png"), (3, "b.png"))]
    for other in others:
        assert not np.array_equal(one.images, other.images)
        assert not np.array_equal(one.mask.masked, other.mask.masked)
        assert one.key != other.key


def test_mask_and_key_do_not_depend_on_what_the_image_shows() -> None:
    one, other = VIEWS(IMAGE, stream(1)), VIEWS(255 - IMAGE, stream(1))
    assert np.array_equal(one.mask.masked, other.mask.masked) and one.key == other.key


# --- the same crop once more

SMOOTH = resize(IMAGE, (124, 188), (0, 0, 47, 31)).transpose(1, 2, 0)  # details of several pixels survive halving
HALF, WHOLE = (16, 20), (32, 40)
TWICE = MaskedViews(
    crop=Crop(size=WHOLE, scale=(0.2, 0.6)),
    masker=BlockMasker(size=(8, 10), num_masked=29, min_block=4),
    second=Second(HALF, lanczos=True),
)


def alike(second: np.ndarray, images: np.ndarray) -> float:
    """Correlation of the second view with the first one downsized to its size."""
    small = resize(images.transpose(1, 2, 0), HALF, (0, 0, WHOLE[1], WHOLE[0]))
    return float(np.corrcoef(small.ravel(), second.ravel())[0, 1])


@pytest.mark.parametrize("colour_jitter", [0.0, 0.4])
def test_the_second_view_is_the_same_part_flip_and_colours_at_another_size(colour_jitter: float) -> None:
    views = replace(TWICE, crop=replace(TWICE.crop, colour_jitter=colour_jitter))
    turned = 0
    for i in range(12):
        view = views(SMOOTH, stream(2, i))
        assert view.images.shape == (3, *WHOLE)
        assert view.second.shape == (3, *HALF) and view.second.dtype == np.uint8
        assert alike(view.second, view.images) > 0.98
        small = resize(view.images.transpose(1, 2, 0), HALF, (0, 0, WHOLE[1], WHOLE[0])).astype(float)
        further = np.abs(small.mean((1, 2)) - view.second.mean((1, 2))).max()
        assert further < 6, "in colours, channel by channel; strong ones are cut at white, pixel by pixel"
        turned += views.crop.draw(SMOOTH, stream(2, i)).flipped
    assert 0 < turned < 12, "flipped ones are among them"


def test_another_part_or_flip_would_be_noticed() -> None:
    for i in range(12):
        view, rng = TWICE(SMOOTH, stream(2, i)), stream(2, i)
        part = TWICE.crop.draw(SMOOTH, rng)
        other_flip = TWICE.crop.render(SMOOTH, part._replace(flipped=not part.flipped), HALF, lanczos=True)
        other_part = TWICE.crop.render(SMOOTH, TWICE.crop.draw(SMOOTH, rng), HALF, lanczos=True)
        assert max(alike(other, view.images) for other in (other_flip, other_part)) < 0.2
        left, top, right, bottom = part.box
        by = 4 if right + 4 <= SMOOTH.shape[1] else -4
        moved = part._replace(box=(left + by, top, right + by, bottom))
        assert alike(TWICE.crop.render(SMOOTH, moved, HALF, lanczos=True), view.images) < 0.6


@pytest.mark.parametrize("lanczos", [True, False])
def test_the_second_view_is_rendered_from_the_image_and_not_from_the_first(lanczos: bool) -> None:
    views = replace(TWICE, second=Second(HALF, lanczos=lanczos))
    view, part = views(SMOOTH, stream(5)), views.crop.draw(SMOOTH, stream(5))
    assert np.array_equal(view.second, Crop.render(SMOOTH, part, HALF, lanczos=lanczos))
    assert not np.array_equal(view.second, Crop.render(SMOOTH, part, HALF, lanczos=not lanczos))


def test_a_second_view_changes_nothing_about_the_first() -> None:
    one, other = TWICE(SMOOTH, stream(3)), replace(TWICE, second=None)(SMOOTH, stream(3))
    assert other.second is None
    assert np.array_equal(one.images, other.images) and np.array_equal(one.mask.masked, other.mask.masked)
    assert one.key == other.key


def test_what_the_target_is_shown() -> None:
    """Nothing of its own where sizes agree; Lanczos for codes and bicubic for features, as the released code has it."""
    crop = Crop(size=(224, 224))
    for target, size, second in (
        ("pixels", None, None),
        ("codes:tokenizer", (112, 112), Second((112, 112), lanczos=True)),
        ("codes:tokenizer", (224, 224), None),
        ("features:timm:test_vit", (196, 196), Second((196, 196), lanczos=False)),
        ("features:timm:test_vit", (224, 224), None),
        ("features:timm:test_vit", None, None),
    ):
        views = CAEConfig(target=target, target_size=size).build_views(crop, (14, 14))
        assert views == MaskedViews(crop=crop, masker=CAEConfig().build_masker((14, 14)), second=second)
    assert CAEv2Config(target_size=(224, 224)).build_views(crop, (14, 14)).second is None
    assert CAEv2Config(target_size=(196, 196)).build_views(crop, (14, 14)).second == Second((196, 196), lanczos=False)


def test_a_plain_view_is_a_crop_with_its_key() -> None:
    crop = Crop(size=(14, 22), scale=(0.3, 1.0), colour_jitter=0.3)
    views = PlainViews(crop=crop)
    one, again, other = (views(IMAGE, stream(0, "view", epoch, "a.png")) for epoch in (3, 3, 4))
    assert isinstance(one, PlainView) and one.images.shape == (3, 14, 22) and one.images.dtype == np.uint8
    assert np.array_equal(one.images, crop(IMAGE, stream(0, "view", 3, "a.png")))
    assert np.array_equal(one.images, again.images) and one.key == again.key
    assert not np.array_equal(one.images, other.images) and one.key != other.key
    assert one.key.dtype == np.int64 and 0 <= one.key < 2**62


@pytest.mark.parametrize("method", [CAEConfig, CAEv2Config])
@pytest.mark.parametrize(
    ("given", "close"),
    [
        ("pixel", " Did you mean 'pixels'?"),
        ("HOG", " Did you mean 'hog'?"),
        ("code:tok", " Did you mean 'codes'?"),
        ("features:", " Did you mean 'features'?"),
        ("hog:2", " Did you mean 'hog'?"),
        ("", ""),
        (None, ""),
        ({"codes": "tok"}, ""),
    ],
    ids=str,
)
def test_what_is_no_target_is_told_from_what_is(method: Any, given: Any, close: str) -> None:
    wanted = f"a target is written pixels, hog, codes:NAME, features:NAME, without a blank.{close} ["
    with pytest.raises(ValidationError, match=re.escape(wanted)):
        method(target=given)
