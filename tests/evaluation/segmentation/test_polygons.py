"""Instances of COCO files as class maps, against pycocotools and shapes known by hand."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from contextae.errors import UserError
from contextae.evaluation.segmentation.classes import VOID
from contextae.evaluation.segmentation.data import open_segmentation
from contextae.evaluation.segmentation.polygons import CROWD, Polygons, decode_runs, inside, read_polygons

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]


def coco(annotations: list[dict[str, Any]], height: int = 8, width: int = 10) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": height, "width": width}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [{"id": i, "image_id": 7, "iscrowd": 0, **each} for i, each in enumerate(annotations)],
    }


def written(root: Path, content: object, part: str = "train") -> Path:
    path = root / "annotations" / f"instances_{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def class_map(tmp_path: Path, annotations: list[dict[str, Any]]) -> np.ndarray:
    path = written(tmp_path, coco(annotations))
    return Polygons(path, read_polygons(path)[0]).read("a")


def test_a_polygon_covers_the_pixels_whose_centres_it_holds() -> None:
    covered = inside(np.array(SQUARE).reshape(-1, 2), 8, 10)
    expected = np.zeros((8, 10), bool)
    expected[1:5, 2:6] = True
    assert np.array_equal(covered, expected)
    star = inside(np.array([[0, 0], [9, 0], [0, 9], [9, 9]], float), 9, 9)
    assert star[1, 4] and star[7, 4] and not star[4, 0] and not star[4, 8]
    assert not inside(np.array([[-9, -9], [-1, -9], [-1, -1]], float), 9, 9).any()
    assert inside(np.array([[-5, -5], [50, -5], [50, 50], [-5, 50]], float), 6, 4).all()


def test_polygons_and_runs_are_pycocotools_up_to_a_seam(shared_data: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    path = shared_data / "coco256_small" / "annotations" / "instances_val.json"
    content = json.loads(path.read_bytes())
    sizes = {each["id"]: (each["height"], each["width"]) for each in content["images"]}
    compared = 0
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of pycocotools, with numpy 2
    for each in content["annotations"]:
        height, width = sizes[each["image_id"]]
        found = each["segmentation"]
        if isinstance(found, dict):
            expected = mask.decode(mask.frPyObjects(found, height, width)).astype(bool)
            ours = decode_runs(found["counts"], found["size"])
            text = mask.frPyObjects(found, height, width)["counts"].decode()
            assert np.array_equal(ours, expected) and np.array_equal(decode_runs(text, found["size"]), expected)
        elif each["area"] > 400:
            expected = mask.decode(mask.merge(mask.frPyObjects(found, height, width))).astype(bool)
            parts = [inside(np.array(polygon).reshape(-1, 2), height, width) for polygon in found]
            ours = np.any(parts, axis=0)
            assert (ours & expected).sum() / (ours | expected).sum() > 0.8, each["id"]
            around = np.ones((3, 3), bool)
            beyond = (ours & ~binary_dilation(expected, around)) | (binary_erosion(expected, around) & ~ours)
            assert beyond.sum() <= 1, each["id"]
            compared += 1
    assert compared > 50


def test_smaller_instances_lie_on_larger_ones_and_crowds_below_all(tmp_path: Path) -> None:
    whole = [0.0, 0.0, 10.0, 0.0, 10.0, 8.0, 0.0, 8.0]
    crowd = {"counts": [0, 40, 40], "size": [8, 10]}
    found = class_map(
        tmp_path,
        [
            {"category_id": 3, "segmentation": [SQUARE]},
            {"category_id": 9, "segmentation": [[1.0, 0.0, 8.0, 0.0, 8.0, 7.0, 1.0, 7.0]]},
            {"category_id": 9, "iscrowd": 1, "segmentation": crowd},
        ],
    )
    assert (found[1:5, 2:6] == 3).all() and found[0, 1] == 9 and found[6, 7] == 9
    assert (found[:, 0] == CROWD).all() and (found[:, 8:] == 0).all()
    assert (class_map(tmp_path, [{"category_id": 3, "segmentation": [whole]}]) == 3).all()


def test_a_set_with_polygons(shared_data: Path) -> None:
    data = open_segmentation(shared_data / "coco256_small", channels=3, labels="polygons")
    assert len(data.classes) == 81 and data.classes.names[:2] == ("background", "person")
    assert (len(data.train), len(data.test)) == (70, 68) and data.majority == 0
    semantic = open_segmentation(shared_data / "coco256_small", channels=3)
    agreeing = counted = 0
    for i in range(0, len(data.test), 4):  # things of the semantic masks are the instances
        ours, theirs = data.test.mask(i), semantic.test.mask(i)
        table = np.zeros(len(semantic.classes), np.int64)
        for position, name in enumerate(semantic.classes.names):
            table[position] = data.classes.names.index(name) if name in data.classes.names else 0
        things = (theirs != VOID) & (table[theirs] > 0) & (ours != VOID)
        wanted = table[theirs[things]]
        agreeing += int((ours[things] == wanted).sum())
        counted += int(things.sum())
    assert agreeing / counted > 0.9


@pytest.mark.parametrize(
    ("annotation", "match"),
    [
        ({"category_id": 4, "segmentation": [SQUARE]}, "has category 4, and the categories are 3, 9"),
        ({"category_id": 3, "segmentation": [[1.0, 2.0, 3.0, 4.0]]}, "a polygon of 4 numbers"),
        ({"category_id": 3, "segmentation": []}, "has no segmentation"),
        ({"category_id": 3, "segmentation": {"counts": [1, 2], "size": [8, 10]}}, "do not fill its image, 8 x 10"),
        ({"category_id": 3, "image_id": 8, "segmentation": [SQUARE]}, "of image 8, which its list of images lacks"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path: Path, annotation: dict[str, Any], match: str) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    Image.new("RGB", (10, 8)).save(tmp_path / "images/train/a.jpg")
    written(tmp_path, coco([annotation]))
    with pytest.raises(UserError, match=match):
        open_segmentation(tmp_path, channels=3)


def test_files_that_are_not_coco(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a COCO file of instances"):
        read_polygons(written(tmp_path, [1, 2]))
    with pytest.raises(UserError, match="a category of id 0"):
        read_polygons(written(tmp_path, {"images": [], "annotations": [], "categories": [{"id": 0, "name": "x"}]}))
    for part in ("train", "val"):
        (tmp_path / "images" / part).mkdir(parents=True)
        Image.new("RGB", (10, 8)).save(tmp_path / "images" / part / "a.jpg")
        content = coco([{"category_id": 3, "segmentation": [SQUARE]}])
        content["categories"].append({"id": 11, "name": part})
        written(tmp_path, content, part)
    with pytest.raises(UserError, match="list different categories"):
        open_segmentation(tmp_path, channels=3)
