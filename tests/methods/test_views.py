"""What a loader worker makes of an image."""

from __future__ import annotations

import numpy as np

from contextae.data.augment import Crop
from contextae.masking import BlockMasker
from contextae.methods.views import MaskedViews
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
