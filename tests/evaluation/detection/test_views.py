"""What training and tests see: places of boxes and masks in views, sizes, tiles, batches."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contextae.errors import UserError
from contextae.evaluation.detection.objects import AnnotatedImage, DetectionData, Mask, Objects
from contextae.evaluation.detection.settings import DetectionSettings, small
from contextae.evaluation.detection.views import (
    Normalisation,
    View,
    drawn_view,
    factor_of,
    objects_in,
    pixels_of,
    scale_of,
    stacked,
    tiles_of,
)
from contextae.randomness import stream

HEIGHT, WIDTH = 60, 90


def things(*boxes: tuple[int, int, int, int], crowd: tuple[int, ...] = ()) -> Objects:
    """Solid rectangles left, top, width, height, each of a class of its own."""
    return Objects(
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        classes=np.arange(len(boxes)),
        crowd=np.array([i in crowd for i in range(len(boxes))], bool),
        area=np.array([float(b[2] * b[3]) for b in boxes]),
        shapes=tuple(Mask(b[1], b[0], np.ones((b[3], b[2]), bool)) for b in boxes),
    )


def painted(objects: Objects) -> np.ndarray:
    """h w c of which the first channel is 255 in the first object, and so on."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for channel, (left, top, wide, high) in enumerate(objects.boxes.astype(int).tolist()):
        image[top : top + high, left : left + wide, channel] = 255
    return image


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5])
def test_boxes_and_masks_lie_where_the_pixels_do(flipped: bool, scale: float) -> None:
    objects = things((20, 12, 16, 20), (44, 30, 24, 16), (10, 40, 12, 8))
    view = View((8.0, 8.0, 72.0, 56.0), (round(48 * scale), round(64 * scale)), flipped)
    pixels = pixels_of(painted(objects), view)
    seen = objects_in(objects, (HEIGHT, WIDTH), view, least_visible=0.25, masks=True)
    assert seen.labels.tolist() == [1, 2, 3] and seen.masks is not None
    for channel, (box, mask) in enumerate(zip(seen.boxes.tolist(), seen.masks, strict=True)):
        rows, columns = np.nonzero(pixels[channel] > 127)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (mask.numpy().astype(bool) == (pixels[channel] > 127)).all()


def test_cut_objects_are_clipped_and_slivers_and_crowds_left_out() -> None:
    objects = things((0, 0, 20, 20), (0, 30, 11, 10), (30, 5, 10, 10), (60, 5, 20, 20), crowd=(2,))
    view = View((10.0, 0.0, 74.0, 60.0), (60, 64))
    seen = objects_in(objects, (HEIGHT, WIDTH), view, least_visible=0.25, masks=True)
    # half of the first is left, of the second a tenth, the third is a crowd, of the last 70 %
    assert seen.labels.tolist() == [1, 4]
    assert seen.boxes.tolist() == [[0, 0, 10, 20], [50, 5, 64, 25]]
    assert seen.masks is not None and seen.masks.sum(dim=(1, 2)).tolist() == [200, 280]
    all_of_them = objects_in(objects, (HEIGHT, WIDTH), view, least_visible=0.0, masks=False)
    assert all_of_them.labels.tolist() == [1, 4] and all_of_them.masks is None  # 1 pixel is too narrow
    empty = objects_in(things(), (HEIGHT, WIDTH), view, least_visible=0.25, masks=True)
    assert empty.boxes.shape == (0, 4) and empty.masks is not None and empty.masks.shape == (0, 60, 64)


def test_published_views_have_the_published_sizes() -> None:
    settings = DetectionSettings()
    sizes = []
    for i in range(60):
        view = drawn_view(480, 640, 1.0, settings, stream("views", i))
        left, top, right, bottom = view.box
        assert 0 <= left < right <= 640 and 0 <= top < bottom <= 480
        short, long = sorted(view.size)
        assert short in settings.short_sides or long == 1333
        assert long <= 1333
        sizes.append(view.size)
        assert view.size[0] / (bottom - top) == pytest.approx(view.size[1] / (right - left), rel=0.01)
    assert len(set(sizes)) > 20
    assert scale_of(480, 640, 1.0, settings) == 800 / 480 and scale_of(480, 4800, 1.0, settings) == 1333 / 4800


def test_small_views_are_tiles_and_their_objects_of_the_wanted_size() -> None:
    objects = things((0, 0, 10, 10), (20, 0, 20, 20), (40, 0, 40, 40), (0, 0, 60, 60), crowd=(3,))
    image = AnnotatedImage(name="a", path=Path("a"), height=HEIGHT, width=WIDTH, objects=objects)
    data = DetectionData(title="these", classes=("a", "b", "c", "d"), images=(image,))
    settings = small()
    assert factor_of(data, settings) == 2 == scale_of(HEIGHT, WIDTH, 2.0, settings)
    assert factor_of(data, replace(settings, object_side=1.0)) == 1 / 8
    assert factor_of(data, replace(settings, object_side=None)) == 1
    for i in range(30):
        view = drawn_view(900, 300, 2.0, settings, stream("tiles", i))
        assert view.size == (256, 256)
        assert 1.6 <= 256 / (view.box[2] - view.box[0]) <= 2.5
    assert drawn_view(900, 40, 1.0, settings, stream("narrow")).size[1] <= 50


def test_tiles_cover_an_image_and_overlap() -> None:
    settings = replace(small(), tile=64, overlap=16)
    for height, width, scale in ((200, 130, 1.0), (64, 65, 1.0), (301, 77, 0.5), (40, 40, 2.0)):
        views = tiles_of(height, width, scale, settings)
        covered = np.zeros((height, width), int)
        for view in views:
            left, top, right, bottom = (round(edge) for edge in view.box)
            covered[top:bottom, left:right] += 1
            assert max(view.size) <= 64
        assert covered.min() >= 1
        columns = sorted({view.box[0] * scale for view in views})
        assert all(later - first <= 64 - 16 + 1 for first, later in itertools.pairwise(columns))
    assert len(tiles_of(64, 64, 1.0, settings)) == 1
    assert [view.size for view in tiles_of(500, 300, 1.0, replace(settings, tile=None))] == [(500, 300)]


def test_normalisation_is_the_encoders_own_and_padding_is_the_mean() -> None:
    normalise = Normalisation(mean=(0.5, 0.25), deviation=(0.5, 0.25), value_range=(100.0, 300.0))
    pixels = np.stack([np.full((3, 5), 300), np.full((3, 5), 150)]).astype(np.uint16)
    values = normalise(pixels)
    assert values[:, 0, 0].tolist() == [1, 0]
    batch = stacked([values, values[:, :2]], 4)
    assert batch.shape == (2, 2, 4, 8) and batch[0, 0].sum() == 15 and batch[1, 0].sum() == 10
    assert stacked([values], 32, (64, 64)).shape == (1, 2, 64, 64)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"Tiles overlap by less than their side.*overlap=64 and tile=64"):
        replace(small(), tile=64)
    with pytest.raises(UserError, match="needs a size for images and for anchors"):
        DetectionSettings(short_sides=())
    with pytest.raises(UserError, match="needs detections and batch_size of at least 1"):
        DetectionSettings(batch_size=0)


def test_the_batch_is_of_float32() -> None:
    assert stacked([torch.zeros(1, 2, 2)], 2).dtype == torch.float32
