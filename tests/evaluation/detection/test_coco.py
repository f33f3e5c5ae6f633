"""COCO's labels are read as they are meant, and every kind of bad ones is refused before an image is opened."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.detection.made import coco_labels

from contextae.errors import UserError
from contextae.evaluation.detection.coco import read_coco
from contextae.evaluation.detection.shapes import mask_of

Labels = dict[str, Any]


def read(tmp_path: Path, labels: Labels) -> Any:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(labels), encoding="utf-8")
    return read_coco(path, tmp_path / "images", title="labels.json")


def test_images_boxes_classes_crowds_areas_and_shapes(tmp_path: Path) -> None:
    labels = coco_labels()
    labels["annotations"][1].update(iscrowd=1, area=99.5)
    del labels["annotations"][4]["area"], labels["annotations"][5]
    labels["images"].append({"id": 9, "file_name": "a/none.png", "height": 30, "width": 40})
    data = read(tmp_path, labels)
    assert data.classes == ("small", "large")  # by ascending id, not in the order of the file
    assert [image.name for image in data.images] == ["1.png", "2.png", "3.png", "a/none.png"]
    first, third, last = (data.images[i] for i in (0, 2, 3))
    assert (first.path, first.height, first.width) == (tmp_path / "images" / "1.png", 30, 40)
    assert first.objects.boxes.tolist() == [[4, 6, 12, 12], [20, 10, 15, 15]]
    assert first.objects.classes.tolist() == [0, 1] and first.objects.crowd.tolist() == [False, True]
    assert first.objects.area.tolist() == [144, 99.5]
    assert third.objects.area.tolist() == [144]  # of its polygon
    assert data.with_masks and last.objects.shapes == () and len(last.objects) == 0
    assert first.objects.shapes is not None
    mask = mask_of(first.objects.shapes[1], 30, 40)
    assert (mask.top, mask.left, mask.area) == (10, 20, 225)
    assert (data.num_objects, data.counts()) == (4, [3, 1])


def test_shapes_count_only_where_every_annotation_has_one_and_ids_may_be_names(tmp_path: Path) -> None:
    labels = coco_labels()
    del labels["annotations"][3]["segmentation"]
    for image in labels["images"]:
        image["id"] = f"image {image['id']}"
    for entry in labels["annotations"]:
        entry["image_id"] = f"image {entry['image_id']}"
    data = read(tmp_path, labels)
    assert not data.with_masks and data.num_objects == 6


def test_a_pixel_of_rounding_is_clipped(tmp_path: Path) -> None:
    labels = coco_labels()
    labels["annotations"][0]["bbox"] = [-0.6, 18.0, 12.0, 12.01]
    box = read(tmp_path, labels).images[0].objects.boxes[0].tolist()
    assert box == pytest.approx([0, 18, 11.4, 12])


def annotation(**changes: Any) -> Callable[[Labels], None]:
    return lambda labels: labels["annotations"][2].update(changes)


def run_lengths(**changes: Any) -> Callable[[Labels], None]:
    return annotation(segmentation={"size": [30, 40], "counts": [0, 1200], **changes})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (annotation(bbox=[30, 5, 20, 10]), "Annotation 3 in labels.json has a box outside of its image.*right 50"),
        (annotation(bbox=[-9, 5, 20, 10]), "box outside of its image: boxes lie within 0 to 40 and 0 to 30"),
        (annotation(bbox=[5, 5, 0, 10]), "box of no area.*Got left 5, top 5, width 0, height 10"),
        (annotation(bbox=[5, 5, 10, -1]), "box of no area"),
        (annotation(bbox=[5, 5, math.nan, 4]), "box of no area"),
        (annotation(bbox=[40.2, 5, 0.5, 4]), "nothing lies within the image of 40 x 30"),
        (annotation(bbox=[5, 5, 10]), "needs a bbox of four numbers"),
        (annotation(bbox=[5, 5, 10, 10**400]), "needs a bbox of four numbers"),
        (annotation(bbox=None), "needs a bbox of four numbers"),
        (annotation(segmentation=[[1, 1, 9, 9]]), r"polygon with 2 point\(s\), which encloses nothing"),
        (annotation(segmentation=[[1, 1, 9, 9, 4]]), "polygon that is no list of x, y"),
        (annotation(segmentation="runs"), "polygon that is no list of x, y"),
        (annotation(segmentation=[[1, 1, 90, 9, 4, 8]]), "polygon outside of its image of 40 x 30.*x from 1 to 90"),
        (run_lengths(size=[40, 30]), r"its size is \[40, 30\], where the image is \[30, 40\]"),
        (run_lengths(counts=[0, 1199]), "add up to 1,199 pixels, where the image has 1,200"),
        (run_lengths(counts=[-1, 1201]), "one of its counts is -1, and no count is below 0"),
        (run_lengths(counts="k0\x01"), "is none of its characters"),
        (run_lengths(counts="X"), "ends within a number"),
        (run_lengths(counts=None), "it has no counts"),
        (annotation(area=-2), "has an area of -2"),
        (
            annotation(category_id=7),
            r"of category 7, which its list of categories does not hold. It has 2: 3 small, 4 large",
        ),
        (annotation(category_id=[3]), "of category"),
        (annotation(image_id=12), "is of image 12, which is not among its 3 images"),
        (annotation(id=1), "Every annotation needs an id of its own.*annotation 1 twice"),
        (annotation(id=None), "Every annotation in labels.json needs an id"),
        (lambda labels: labels["images"][1].update(id=1), "Every image needs an id of its own.*image 1 twice"),
        (lambda labels: labels["categories"][1].update(id=4), "Every category needs an id of its own"),
        (lambda labels: labels["categories"][1].pop("name"), "Every category in labels.json needs a name"),
        (lambda labels: labels["categories"][1].update(name="large"), "two categories named 'large', and figures"),
        (lambda labels: labels["categories"].clear() or labels["annotations"].clear(), "names no category"),
        (lambda labels: labels["images"].clear() or labels["annotations"].clear(), "names no image"),
        (lambda labels: labels["images"][1].update(file_name="1.png"), "has the file 1.png under two ids"),
        (lambda labels: labels["images"][1].update(file_name="../1.png"), "and stay in it. Got '../1.png' for image 2"),
        (lambda labels: labels["images"][1].update(file_name="/1.png"), "are relative to the folder of its images"),
        (lambda labels: labels["images"][1].update(height=0), "needs a file_name, and a height and a width"),
        (lambda labels: labels["images"][1].pop("width"), "needs a file_name, and a height and a width"),
        (lambda labels: labels.pop("annotations"), "labels.json has no list annotations"),
        (lambda labels: labels.update(images=[3]), "Every entry of images in labels.json must be an object"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, spoil: Callable[[Labels], None], words: str) -> None:
    labels = coco_labels()
    spoil(labels)
    with pytest.raises(UserError, match=f"(?s){words}"):
        read(tmp_path, labels)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"images": [', "\xff"])
def test_broken_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="are not sound JSON"):
        read_coco(path, tmp_path)


def test_labels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_coco(tmp_path / "labels.json", tmp_path)
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="has no list images"):
        read_coco(tmp_path / "other.json", tmp_path)


def test_run_lengths_are_those_of_pycocotools(tmp_path: Path) -> None:
    mask_module = pytest.importorskip("pycocotools.mask")
    labels = coco_labels()
    rng = np.random.default_rng(0)
    grids = [rng.random((30, 40)) < share for share in (0.5, 0.02, 0.97)] + [np.zeros((30, 40), bool)] * 3
    grids[3][4:20, 9:33] = True
    for grid, entry in zip(grids, labels["annotations"], strict=True):
        runs = mask_module.encode(np.asfortranarray(grid.astype(np.uint8)))
        counts = runs["counts"].decode()
        if entry["id"] % 2:
            changes = np.flatnonzero(np.diff(grid.T.ravel(), prepend=~grid[0, 0])).tolist()
            counts = np.diff([*changes, grid.size]).tolist()
            counts = [0, *counts] if grid[0, 0] else counts
        entry["segmentation"] = {"size": [30, 40], "counts": counts}
    images = read(tmp_path, labels).images
    found = [mask_of(shape, 30, 40).part(0, 0, 30, 40) for image in images for shape in image.objects.shapes]
    assert all((ours == grid).all() for ours, grid in zip(found, grids, strict=True))
