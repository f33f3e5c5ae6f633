"""Tiles are merged, masks are drawn where their boxes lie, detections are kept on the disk, pictures are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.detection.made import (
    FACTS,
    HEIGHT,
    TINY,
    WIDTH,
    random_detections,
    random_objects,
    tiny_encoder,
)

from contextae.errors import UserError
from contextae.evaluation.detection.network import build_detector
from contextae.evaluation.detection.objects import AnnotatedImage, Detections, Mask, PackedMasks
from contextae.evaluation.detection.overlay import displayed, overlay_sheet
from contextae.evaluation.detection.predict import _pasted, _whole, detect
from contextae.evaluation.detection.stored import read_detections, write_detections
from contextae.evaluation.detection.views import Normalisation, View

NORMALISE = Normalisation(mean=tuple(FACTS["mean"]), deviation=tuple(FACTS["deviation"]))


def test_what_a_tile_cuts_is_left_to_the_tile_that_shows_it_whole() -> None:
    boxes = torch.tensor(
        [
            [0.0, 20, 10, 30],  # at the left edge, beyond which the image goes on
            [20, 0, 30, 10],  # at the top, where the image ends
            [20, 50, 30, 64],  # at the bottom, beyond which it goes on
            [20, 20, 30, 30],
            [0, 20, 40, 30],  # longer than tiles overlap
            [50, 20, 64, 30],  # at the right, where the image ends
        ]
    )
    view = View((36.0, 0.0, 100.0, 64.0), (64, 64))
    assert _whole(boxes, view, (120, 100), overlap=24).tolist() == [False, True, False, True, True, True]
    assert _whole(boxes, View((0.0, 0.0, 64.0, 64.0), (64, 64)), (64, 64), overlap=24).all()
    first = View((0.0, 0.0, 64.0, 64.0), (64, 64))  # beyond which the image goes on at the right and at the bottom
    assert _whole(boxes, first, (120, 100), overlap=24).tolist() == [True, True, False, True, True, False]


def test_masks_lie_in_their_boxes() -> None:
    probabilities = torch.zeros(4, 28, 28)
    probabilities[:, :14] = 1  # the upper half
    boxes = np.array([[10.0, 20, 38, 48], [-5, 3, 9, 11], [100.2, 7.4, 130.6, 16.6], [3, 3, 3.2, 3.3]])
    masks = _pasted(probabilities, boxes, 60, 120)
    assert (masks[0].top, masks[0].left, masks[0].pixels.shape) == (20, 10, (28, 28))
    assert masks[0].pixels[:14].all() and not masks[0].pixels[15:].any()
    assert (masks[1].top, masks[1].left, masks[1].pixels.shape) == (3, 0, (8, 9))
    assert masks[1].pixels[:4].all() and not masks[1].pixels[5:].any()
    assert masks[2].right == 120 and masks[2].pixels.shape == (10, 20)
    assert masks[3].area == 0


def test_tiles_and_the_whole_image_agree_about_small_images() -> None:
    settings = replace(TINY, least_score=0.01)
    detector = build_detector(tiny_encoder(), num_classes=2, masks=True, settings=settings, seed=0).eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    found = detect(detector, image, normalise=NORMALISE, factor=1.0, settings=settings)
    (direct,) = detector.find(NORMALISE(image.transpose(2, 0, 1))[None], [(64, 64)])
    assert len(found) == len(direct["boxes"]) > 0
    corners = np.concatenate([found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]], axis=1)
    assert np.allclose(corners, direct["boxes"], atol=1e-4) and np.allclose(found.scores, direct["scores"])
    assert found.classes.tolist() == (direct["labels"] - 1).tolist()


def test_what_is_found_is_computed_in_the_format_of_the_settings() -> None:
    found = {}
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for precision in ("float32", "bfloat16"):
        settings = replace(TINY, least_score=0.0, precision=precision)  # type: ignore[arg-type]
        detector = build_detector(tiny_encoder(), num_classes=2, masks=False, settings=settings, seed=0).eval()
        found[precision] = detect(detector, image, normalise=NORMALISE, factor=1.0, settings=settings).scores
    assert len(found["float32"]) and not np.array_equal(found["float32"], found["bfloat16"])


@pytest.mark.parametrize("size", [(150, 100), (20, 130)])
def test_detections_in_tiles_lie_in_the_image(size: tuple[int, int]) -> None:
    settings = replace(TINY, least_score=0.01)
    detector = build_detector(tiny_encoder(channels=1), num_classes=2, masks=True, settings=settings, seed=0).eval()
    image = np.random.default_rng(0).integers(0, 65536, (*size, 1)).astype(np.uint16)
    normalise = Normalisation(mean=(0.5,), deviation=(0.3,), value_range=(0.0, 65535.0))
    found = detect(detector, image, normalise=normalise, factor=1.0, settings=settings)
    assert 0 < len(found) <= settings.detections and (np.diff(found.scores) <= 0).all()
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, :2] + found.boxes[:, 2:] <= np.array(size[::-1]) + 1e-6).all()
    assert found.masks is not None and all(m.bottom <= size[0] and m.right <= size[1] for m in found.masks)


def test_detections_come_back_from_the_disk_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = [random_detections(rng, random_objects(rng, 3), 3) for _ in range(4)]
    path = tmp_path / "state" / "detections.safetensors"
    assert read_detections(path, identity="a") == []
    for each in (found, [replace(one, masks=None) for one in found], []):
        write_detections(path, each, identity="a")
        again = read_detections(path, identity="a")
        assert len(again) == len(each)
        for one, other in zip(each, again, strict=True):
            assert (one.boxes == other.boxes).all() and (one.scores == other.scores).all()
            assert (one.classes == other.classes).all() and (one.masks is None) == (other.masks is None)
            for mask, same in zip(one.masks or (), other.masks or (), strict=True):
                assert mask[:2] == same[:2] and (mask.pixels == same.pixels).all()
    write_detections(path, found[:2], identity="a")
    write_detections(path, [*read_detections(path, identity="a"), *found[2:]], identity="a")
    for one, other in zip(found, read_detections(path, identity="a"), strict=True):
        masks = zip(one.masks or (), other.masks or (), strict=True)
        assert all(np.array_equal(mask.pixels, same.pixels) for mask, same in masks)
    assert read_detections(path, identity="b") == []
    path.write_bytes(path.read_bytes()[:-3])
    assert read_detections(path, identity="a") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="The detections cannot be written to"):
        write_detections(tmp_path / "file" / "b.safetensors", found, identity="a")


def test_a_sheet_is_drawn_of_any_type_and_number_of_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    objects = random_objects(rng, 2)
    image = AnnotatedImage(name="$a$<b>\n.png", path=tmp_path, height=HEIGHT, width=WIDTH, objects=objects)
    bare = replace(image, objects=replace(objects, shapes=None))
    found = random_detections(rng, objects, 2)
    none = Detections(boxes=np.zeros((0, 4)), scores=np.zeros(0), classes=np.zeros(0, np.int64))
    pixels = [
        rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8),
        rng.integers(0, 4000, (HEIGHT, WIDTH, 1)).astype(np.uint16),
        rng.normal(size=(HEIGHT, WIDTH, 2)).astype(np.float32),
    ]
    for classes in (("one", "other"), ("only",)):
        out = tmp_path / "sheet.png"
        shown = [found, replace(found, masks=None), none]
        if len(classes) == 1:
            image, bare = (replace(e, objects=replace(e.objects, classes=0 * objects.classes)) for e in (image, bare))
            shown = [replace(each, classes=0 * each.classes) for each in shown]
        overlay_sheet([image, bare, bare], pixels, shown, classes=classes, out=out, least_score=0.2, note="these")
        with Image.open(out) as sheet:
            assert sheet.size[0] > 1000
    assert displayed(pixels[1]).min() == 0 and displayed(pixels[1]).max() == 1
    assert (displayed(pixels[2])[..., 0] == displayed(pixels[2])[..., 2]).all()
    mask = Mask(0, 0, np.ones((2, 2), bool))
    assert mask.area == 4
    shown = [found, found, none]
    overlay_sheet([image, bare, bare], pixels, shown, classes=("a", "b"), out=tmp_path / "new" / "sheet.of")
    with Image.open(tmp_path / "new" / "sheet.of") as sheet:
        assert sheet.format == "PNG"
    with pytest.raises(UserError, match=r"sheet.png cannot be written: .*Name another place"):
        overlay_sheet([image], pixels[:1], [found], classes=("a", "b"), out=tmp_path / "sheet.png" / "sheet.png")


def test_packed_masks_are_the_masks_in_an_eighth_of_the_bytes() -> None:
    rng = np.random.default_rng(3)
    masks = [Mask(i, 2 * i, rng.random((7 * i, 5)) < 0.5) for i in range(4)]
    packed = PackedMasks.of(masks)
    assert len(packed) == 4 and packed.bits.nbytes == 5 + 9 + 14
    for one, other in zip(masks, packed, strict=True):
        assert one[:2] == other[:2] and np.array_equal(one.pixels, other.pixels)
    assert np.array_equal(packed[-1].pixels, masks[3].pixels) and [m.top for m in packed[1:3]] == [1, 2]
    assert len(PackedMasks.of([])) == 0
    with pytest.raises(IndexError):
        packed[4]
