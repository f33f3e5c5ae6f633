from __future__ import annotations

import math
import random

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image, ImageEnhance
from torchvision.transforms.v2 import functional as torchvision

from contextae.data.augment import Crop, Part, central, fit, jittered, jitters, resize
from contextae.errors import UserError
from contextae.randomness import stream

SIZE = (32, 20)  # h w: an upright network's


def image(height: int = 61, width: int = 47, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def quiet_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Of middle values, so that nothing overshoots and is clipped."""
    return 80 + image(height, width, channels) % 96


def like_pillow(found: np.ndarray, expected: np.ndarray) -> bool:
    """Within what the order of the two axes and the rounding between them may change (data/resize.py)."""
    return found.shape == expected.shape and int(np.abs(found.astype(int) - expected).max()) <= 2


def boxes(crop: Crop, height: int, width: int, count: int = 400) -> np.ndarray:
    rng = stream("boxes")
    return np.array([crop.box(height, width, rng) for _ in range(count)])


def pillow(
    plane: np.ndarray,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    kernel: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), kernel, box=box))


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.sampled_from([1, 2, 3, 5]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 10),
)
@settings(max_examples=150, deadline=None)
def test_any_image_becomes_exactly_what_the_network_wants(
    height: int, width: int, channels: int, size: tuple[int, int], seed: int
) -> None:
    for out in (
        Crop(size=size)(image(height, width, channels), random.Random(seed)),
        fit(image(height, width, channels), size),
    ):
        assert out.shape == (channels, *size)
        assert out.dtype == np.uint8


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_a_box_lies_in_the_image_and_is_not_empty(height: int, width: int, seed: int) -> None:
    left, top, right, bottom = Crop(size=SIZE).box(height, width, random.Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (2, 300), (300, 2)])
def test_images_too_thin_for_any_part_give_their_central_one(shape: tuple[int, int]) -> None:
    crop = Crop(size=SIZE, scale=(1, 1), ratio=(1, 1), flip=0)
    expected = central(*shape, SIZE[1] / SIZE[0])
    assert crop.box(*shape, random.Random(0)) == expected
    picture = image(*shape)
    assert np.array_equal(crop(picture, random.Random(0)), fit(picture, SIZE))


@pytest.mark.parametrize("shape", [(400, 300), (300, 400)])
def test_a_part_is_as_large_and_as_wide_as_its_bounds_allow(shape: tuple[int, int]) -> None:
    height, width = shape
    own = SIZE[1] / SIZE[0]
    found = boxes(Crop(size=SIZE, scale=(0.2, 0.5), ratio=(0.75, 1.5)), height, width)
    w, h = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    share, aspect = w * h / (height * width), w / h / own
    assert share.min() > 0.2 * 0.98 and share.max() < 0.5 * 1.02  # in whole pixels
    assert aspect.min() > 0.75 * 0.98 and aspect.max() < 1.5 * 1.02
    assert share.min() < 0.22 and share.max() > 0.45  # and all of it is used
    assert aspect.min() < 0.79 and aspect.max() > 1.4
    assert abs(share.mean() - 0.35) < 0.02
    assert abs(np.log(aspect).mean() - (math.log(0.75) + math.log(1.5)) / 2) < 0.03


def test_the_aspect_is_relative_to_the_networks_own() -> None:
    for size in ((40, 20), (20, 40), (30, 30)):
        found = boxes(Crop(size=size, scale=(0.1, 0.2), ratio=(1, 1)), 400, 400)
        aspect = (found[:, 2] - found[:, 0]) / (found[:, 3] - found[:, 1])
        assert np.abs(np.log(aspect / (size[1] / size[0]))).max() < 0.02


def test_parts_lie_everywhere_and_in_whole_pixels() -> None:
    found = boxes(Crop(size=(9, 9), scale=(0.25, 0.25), ratio=(1, 1)), 20, 20, 3000)
    assert np.array_equal(found, found.round())
    for start in (0, 1):
        places, counts = np.unique(found[:, start], return_counts=True)
        assert places.tolist() == list(range(11))
        assert counts.min() > 3000 / 11 * 0.75


def test_the_whole_image_is_drawn_only_where_it_has_the_right_aspect() -> None:
    whole = Crop(size=(30, 20), scale=(1, 1), ratio=(1, 1)).box(300, 200, random.Random(0))
    assert whole == (0, 0, 200, 300)


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_flips_are_as_frequent_as_wanted_and_never_upside_down(flip: float) -> None:
    picture = image(3, 5)
    upright = fit(picture, (3, 5))
    crop = Crop(size=(3, 5), scale=(1, 1), ratio=(1, 1), flip=flip)
    outs = [crop(picture, stream("flip", i)) for i in range(6000)]
    flipped = [np.array_equal(out, upright[:, :, ::-1]) for out in outs]
    assert all(turned or np.array_equal(out, upright) for turned, out in zip(flipped, outs, strict=True))
    assert abs(np.mean(flipped) - flip) < 0.025  # four deviations


def test_a_crop_is_pillows_bicubic_resize_of_its_box() -> None:
    picture, crop = quiet_image(90, 70), Crop(size=SIZE, flip=0)
    for seed in range(5):
        box = crop.box(90, 70, random.Random(seed))
        expected = pillow(picture, SIZE, box).transpose(2, 0, 1)
        assert like_pillow(crop(picture, random.Random(seed)), expected)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_every_channel_is_resized_alone(channels: int) -> None:
    picture, box = quiet_image(50, 40, channels), (3.0, 5.0, 31.0, 44.0)
    expected = np.stack([pillow(np.ascontiguousarray(picture[:, :, c]), SIZE, box) for c in range(channels)])
    assert like_pillow(resize(picture, SIZE, box), expected)


def test_three_channels_are_what_each_of_them_would_be_alone() -> None:
    picture, box = image(50, 40), (3.0, 5.0, 31.0, 44.0)
    alone = [resize(np.ascontiguousarray(picture[:, :, c : c + 1]), SIZE, box)[0] for c in range(3)]
    assert np.array_equal(resize(picture, SIZE, box), np.stack(alone))


def test_a_crop_is_a_function_of_its_draws_and_leaves_the_image_alone() -> None:
    picture, crop = image(), Crop(size=SIZE)
    picture.setflags(write=False)
    before = picture.copy()
    one, again, other = (crop(picture, stream("crop", key)) for key in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(picture, before)


def test_a_flip_is_drawn_after_the_box_so_that_it_does_not_move_it() -> None:
    picture = image()
    still, turned = (Crop(size=SIZE, flip=flip)(picture, stream("same")) for flip in (0.0, 1.0))
    assert np.array_equal(still, turned[:, :, ::-1])


def test_fit_takes_the_largest_central_part_of_the_right_aspect() -> None:
    wide, high = image(32, 60), image(80, 20)
    assert np.array_equal(fit(wide, SIZE), resize(wide, SIZE, (20, 0, 40, 32)))
    assert np.array_equal(fit(high, SIZE), resize(high, SIZE, (0, 24, 20, 56)))
    assert central(32, 60, 20 / 32) == (20, 0, 40, 32)
    assert central(80, 20, 20 / 32) == (0, 24, 20, 56)
    assert central(3, 2, 1) == (0, 0.5, 2, 2.5)


def test_fit_leaves_an_image_of_the_right_size_as_it_is() -> None:
    picture = image(*SIZE)
    fitted = fit(picture, SIZE)
    assert np.array_equal(fitted, picture.transpose(2, 0, 1))
    assert fitted.flags.c_contiguous


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scale": (0.5, 0.2)}, r"scale must be two shares.*Got \(0.5, 0.2\)"),
        ({"scale": (0.0, 1.0)}, r"scale must be two shares"),
        ({"scale": (0.2, 1.1)}, r"scale must be two shares"),
        ({"ratio": (2.0, 1.0)}, r"ratio must be two positive numbers.*Got \(2.0, 1.0\)"),
        ({"ratio": (0.0, 1.0)}, r"ratio must be two positive numbers"),
        ({"flip": 1.5}, r"flip must be a probability.*Got 1.5"),
        ({"flip": -0.5}, r"flip must be a probability"),
        ({"colour_jitter": 1.0}, r"colour_jitter must be at least 0 and below 1. Got 1.0"),
        ({"colour_jitter": -0.1}, r"colour_jitter must be at least 0 and below 1. Got -0.1"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(given: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Crop(size=SIZE, **given)


# --- the second kernel


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_lanczos_is_pillows_and_not_bicubic(channels: int) -> None:
    picture, box = quiet_image(50, 40, channels), (3.0, 5.0, 31.0, 44.0)
    planes = [np.ascontiguousarray(picture[:, :, c]) for c in range(channels)]
    expected = np.stack([pillow(plane, SIZE, box, Image.Resampling.LANCZOS) for plane in planes])
    found = resize(picture, SIZE, box, lanczos=True)
    assert like_pillow(found, expected)
    assert np.array_equal(Crop.render(picture, Part(box, flipped=False), SIZE, lanczos=True), found)
    assert np.array_equal(Crop.render(picture, Part(box, flipped=True), SIZE, lanczos=True), found[:, :, ::-1])
    assert np.abs(found.astype(int) - resize(picture, SIZE, box)).max() > 4


# --- colours

NAMES = {"brightness", "contrast", "saturation"}
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}
FACTORS = pytest.mark.parametrize("factor", [0.6, 0.93, 1.0, 1.4])


@pytest.mark.parametrize("strength", [0.1, 0.4, 0.99])
def test_factors_are_uniform_around_one_in_every_order(strength: float) -> None:
    drawn = [jitters(strength, stream("jitter", i)) for i in range(3000)]
    assert all({name for name, _ in each} == NAMES and len(each) == 3 for each in drawn)
    orders, counts = np.unique([",".join(name for name, _ in each) for each in drawn], return_counts=True)
    assert len(orders) == 6 and counts.min() > 500 * 0.8
    for name in NAMES:
        factors = np.array([dict(each)[name] for each in drawn])
        assert factors.min() >= 1 - strength and factors.max() <= 1 + strength
        assert factors.min() < 1 - 0.98 * strength and factors.max() > 1 + 0.98 * strength
        assert abs(factors.mean() - 1) < 0.05 * strength
        assert factors.std() == pytest.approx(strength / math.sqrt(3), rel=0.05)
    by_name = np.array([[dict(each)[name] for name in sorted(NAMES)] for each in drawn])
    assert np.abs(np.corrcoef(by_name.T) - np.eye(3)).max() < 0.07, "each has a draw of its own"


def test_without_jitter_a_crop_is_drawn_as_if_there_were_none() -> None:
    """Box and flip and nothing else: what is drawn after them, such as the mask, stays where it was."""
    picture = image()
    for seed in range(20):
        rng, again = random.Random(seed), random.Random(seed)
        part = Crop(size=SIZE).draw(picture, rng)
        box, flipped = Crop(size=SIZE).box(*picture.shape[:2], again), again.random() < 0.5
        assert part == Part(box, flipped) and part.jitters == ()
        assert rng.getstate() == again.getstate()
        coloured = Crop(size=SIZE, colour_jitter=0.4).draw(picture, random.Random(seed))
        assert coloured[:2] == part[:2] and len(coloured.jitters) == 3


def test_a_jittered_crop_is_the_crop_with_other_colours() -> None:
    picture, crop = image(), Crop(size=SIZE, colour_jitter=0.4)
    plain = Crop(size=SIZE)
    for seed in range(5):
        part = crop.draw(picture, random.Random(seed))
        expected = jittered(resize(picture, SIZE, part.box), part.jitters)
        expected = expected[:, :, ::-1] if part.flipped else expected
        out = crop(picture, random.Random(seed))
        assert np.array_equal(out, expected)
        assert not np.array_equal(out, plain(picture, random.Random(seed)))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_factors_of_one_and_no_factors_change_nothing(channels: int) -> None:
    picture = image(20, 30, channels).transpose(2, 0, 1)
    assert jittered(picture, ()) is picture
    assert np.array_equal(jittered(picture, tuple((name, 1.0) for name in sorted(NAMES))), picture)


@FACTORS
@pytest.mark.parametrize("name", sorted(NAMES))
def test_colours_change_as_pillow_and_torchvision_change_them(name: str, factor: float) -> None:
    """To one level of 256: both round on their way, Pillow its mean gray as well."""
    picture = image(40, 30)
    ours = jittered(picture.transpose(2, 0, 1), ((name, factor),)).astype(int)
    pillows = np.asarray(ENHANCERS[name](Image.fromarray(picture)).enhance(factor)).transpose(2, 0, 1)
    change = getattr(torchvision, f"adjust_{name}")
    torchvisions = change(torch.from_numpy(picture).permute(2, 0, 1), factor).numpy()
    for theirs in (pillows, torchvisions):
        assert np.abs(ours - theirs).max() <= 1
    if factor != 1:
        assert np.abs(ours - picture.transpose(2, 0, 1).astype(int)).mean() > 2


@FACTORS
@pytest.mark.parametrize("name", sorted(NAMES))
def test_gray_images_keep_their_saturation(name: str, factor: float) -> None:
    picture = image(40, 30, 1)
    ours = jittered(picture.transpose(2, 0, 1), ((name, factor),))
    if name == "saturation":
        assert np.array_equal(ours[0], picture[:, :, 0])
    else:
        theirs = np.asarray(ENHANCERS[name](Image.fromarray(picture[:, :, 0])).enhance(factor))
        assert np.abs(ours[0].astype(int) - theirs).max() <= 1


@FACTORS
def test_images_of_five_channels_are_changed_all_channels_alike(factor: float) -> None:
    picture = image(40, 30, 5).transpose(2, 0, 1)
    values = picture.astype(np.float64)
    expected = {
        "brightness": factor * values,
        "contrast": factor * values + (1 - factor) * values.mean(),
        "saturation": values,
    }
    for name, each in expected.items():
        out = jittered(picture, ((name, factor),))
        assert out.dtype == np.uint8 and out.shape == picture.shape
        assert np.abs(out - each.clip(0, 255)).max() <= 0.51, name


def test_changes_apply_in_their_order() -> None:
    picture = image(40, 30).transpose(2, 0, 1)
    changes = (("brightness", 1.6), ("contrast", 0.6))
    one, other = jittered(picture, changes), jittered(picture, changes[::-1])
    assert np.abs(one.astype(int) - other).max() > 5, "brightness cuts at white before or after"
    step_by_step = jittered(jittered(picture, changes[:1]), changes[1:])
    assert np.abs(one.astype(int) - step_by_step).max() <= 1


@given(channels=st.sampled_from([1, 2, 3, 4, 5]), strength=st.sampled_from([0.0, 0.4, 0.99]), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_any_image_survives_any_jitter(channels: int, strength: float, seed: int) -> None:
    picture = image(13, 17, channels, seed)
    picture.setflags(write=False)
    out = Crop(size=SIZE, colour_jitter=strength)(picture, random.Random(seed))
    assert out.shape == (channels, *SIZE) and out.dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_deep_images_are_resized_like_those_of_8_bits(channels: int) -> None:
    """uint16 and float32 are what uint8 is, without its rounding, at every value range."""
    small = np.random.default_rng(0).integers(90, 166, (23, 31, channels)).astype(np.uint8)  # no clipping
    box = (2.0, 3.0, 27.0, 21.0)
    eight = resize(small, (9, 14), box)
    for dtype, factor in (("uint16", 257), ("uint16", 1), ("float32", 0.001)):
        deep = resize((small.astype(float) * factor).astype(dtype), (9, 14), box)
        assert deep.dtype == dtype and deep.shape == (channels, 9, 14)
        kept = deep / factor
        assert np.abs(kept - eight).max() <= 1.01
    flat = np.full((23, 31, channels), 65535, np.uint16)
    assert (resize(flat, (9, 14), box) == 65535).all()


def test_deep_colours_are_changed_within_their_type() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (3, 5, 4)).astype(np.uint16)
    brighter = jittered(image, (("brightness", 1.5),))
    np.testing.assert_array_equal(brighter, np.minimum(np.rint(image.astype(np.float32) * 1.5), 65535))
    assert brighter.dtype == np.uint16
    cold = image.astype(np.float32) - 40_000
    np.testing.assert_allclose(jittered(cold, (("brightness", 2.0),)), 2 * cold)
    two = image[:2]
    np.testing.assert_array_equal(jittered(two, (("saturation", 0.3),)), two)
