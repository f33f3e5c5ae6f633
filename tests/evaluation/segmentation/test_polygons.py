"""Instances of COCO files as class maps, against pycocotools and shapes known by hand."""

from __future__ import annotations

import json
import math
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from contextae.errors import UserError
from contextae.evaluation.detection.coco import shape_of
from contextae.evaluation.detection.objects import Runs
from contextae.evaluation.detection.shapes import from_runs
from contextae.evaluation.segmentation.classes import VOID
from contextae.evaluation.segmentation.data import open_segmentation
from contextae.evaluation.segmentation.polygons import CROWD, Polygons, inside, read_polygons

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
            text = mask.frPyObjects(found, height, width)["counts"].decode()
            for counts in (found["counts"], text):
                runs = shape_of({"counts": counts, "size": found["size"]}, height, width, "this")
                assert isinstance(runs, Runs) and np.array_equal(from_runs(runs), expected)
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
        ({"category_id": 4, "segmentation": [SQUARE]}, "of category 4, which .* does not hold. It has 2: 3 cat, 9 dog"),
        ({"category_id": 3, "segmentation": [[1.0, 2.0, 3.0, 4.0]]}, r"a polygon with 2 point\(s\)"),
        ({"category_id": 3, "segmentation": []}, "has no segmentation"),
        ({"category_id": 3, "segmentation": [[20.0, 1.0, 29.0, 1.0, 29.0, 5.0]]}, "outside of its image of 10 x 8"),
        ({"category_id": 3, "segmentation": [[math.nan, 1.0, 9.0, 1.0, 9.0, 5.0]]}, "outside of its image of 10 x 8"),
        ({"category_id": 3, "segmentation": [["a", 1.0, 9.0, 1.0, 9.0, 5.0]]}, "no list of x, y, x, y"),
        ({"category_id": 3, "segmentation": [[[1.0, 1.0], [9.0, 1.0], [9.0, 5.0]]]}, "no list of x, y, x, y"),
        ({"category_id": 3, "segmentation": [{"x": 1}]}, "no list of x, y, x, y"),
        ({"category_id": 3, "segmentation": {"counts": [1, 2], "size": [8, 10]}}, "add up to 3 pixels.*has 80"),
        ({"category_id": 3, "segmentation": {"counts": [-1, 81], "size": [8, 10]}}, "counts is -1, and no count is"),
        ({"category_id": 3, "segmentation": {"counts": None, "size": [8, 10]}}, "it has no counts"),
        ({"category_id": 3, "segmentation": {"counts": ["a"], "size": [8, 10]}}, "it has no counts"),
        ({"category_id": 3, "segmentation": {"counts": [80], "size": None}}, "its size is None"),
        ({"category_id": 3, "image_id": 8, "segmentation": [SQUARE]}, "of image 8, which is not among its 1 images"),
        ({"category_id": 3, "image_id": [7], "segmentation": [SQUARE]}, "which is not among its 1 images"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path: Path, annotation: dict[str, Any], match: str) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    Image.new("RGB", (10, 8)).save(tmp_path / "images/train/a.jpg")
    written(tmp_path, coco([annotation]))
    with pytest.raises(UserError, match=match):
        open_segmentation(tmp_path, channels=3)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda file: file["images"][0].pop("height"), "needs a file_name, and a height and a width"),
        (lambda file: file["images"][0].update(width="ten"), "needs a file_name, and a height and a width"),
        (lambda file: file["images"][0].update(height=-8), "needs a file_name, and a height and a width"),
        (lambda file: file["images"][0].update(file_name=5), "needs a file_name, and a height and a width"),
        (lambda file: file["images"].append(dict(file["images"][0])), "image 7 twice"),
        (lambda file: file["images"].append({**file["images"][0], "id": 8}), "the file a.jpg under two ids"),
        (
            lambda file: file["images"].append({**file["images"][0], "id": 8, "file_name": "a.png"}),
            "two images of the name a, but for the ending",
        ),
        (lambda file: file.update(annotations=None), "has no list annotations"),
        (lambda file: file["annotations"].append([1]), "Every entry of annotations in"),
        (lambda file: file["categories"].append({"id": 3, "name": "cow"}), "category 3 twice"),
        (lambda file: file["categories"].append({"id": 4, "name": "cat"}), "two categories named 'cat'"),
        (lambda file: file["categories"].append({"id": 4, "name": "background"}), "'background'.*no object covers"),
        (lambda file: file["categories"].append({"id": 4, "name": "crowd"}), "'crowd'.*what crowds cover"),
        (lambda file: file["categories"].append({"id": "b", "name": "cow"}), "a category of id 'b'"),
        (lambda file: file["categories"].append({"id": 65_535, "name": "cow"}), "numbers from 1 to 65,534"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], match: str) -> None:
    content = coco([{"category_id": 3, "segmentation": [SQUARE]}])
    spoil(content)
    with pytest.raises(UserError, match=match):
        read_polygons(written(tmp_path, content))


def test_run_lengths_take_no_more_memory_than_in_the_file(tmp_path: Path) -> None:
    side = 3_000
    runs = {"counts": [5, side * side - 5], "size": [side, side]}
    annotations = [{"category_id": 3, "segmentation": runs}] * 20
    path = written(tmp_path, coco(annotations, height=side, width=side))
    tracemalloc.start()
    found, _ = read_polygons(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found["a"].shapes) == 20 and peak < side * side


def test_images_are_told_by_more_than_the_last_part_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    Image.new("RGB", (10, 8)).save(tmp_path / "images/train/a.jpg")
    content = coco([{"category_id": 3, "segmentation": [SQUARE]}])
    content["images"] = [
        {**content["images"][0], "id": 7 + i, "file_name": f"{part}/a.jpg"} for i, part in enumerate("xy")
    ]
    written(tmp_path, content)
    with pytest.raises(UserError, match="two images of one name, x/a and y/a"):
        open_segmentation(tmp_path, channels=3)
    written(tmp_path, coco([]), "train2017")
    with pytest.raises(
        UserError, match=r"two files of instances for train: instances_train.json and instances_train20"
    ):
        open_segmentation(tmp_path, channels=3)


def test_images_that_the_file_names_and_nobody_has(tmp_path: Path) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    Image.new("RGB", (10, 8)).save(tmp_path / "images/train/b.jpg")
    written(tmp_path, coco([{"category_id": 3, "segmentation": [SQUARE]}]))
    with pytest.raises(UserError, match=r"have no mask in .*: b\. Of 1 there, such as a, there is no image"):
        open_segmentation(tmp_path, channels=3)
    Image.new("RGB", (10, 8)).save(tmp_path / "images/train/a.jpg")
    (tmp_path / "images/train/b.jpg").unlink()
    content = coco([{"category_id": 3, "segmentation": [SQUARE]}])
    content["images"].append({**content["images"][0], "id": 8, "file_name": "c.jpg"})
    written(tmp_path, content)
    with pytest.raises(UserError, match=r"1 of 2 masks of .*instances_train.json have no image in .*: c\."):
        open_segmentation(tmp_path, channels=3)


def test_files_that_are_not_coco(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no list images"):
        read_polygons(written(tmp_path, [1, 2]))
    with pytest.raises(UserError, match="a category of id 0"):
        content = coco([])
        content["categories"][0]["id"] = 0
        read_polygons(written(tmp_path, content))
    for part in ("train", "val"):
        (tmp_path / "images" / part).mkdir(parents=True)
        Image.new("RGB", (10, 8)).save(tmp_path / "images" / part / "a.jpg")
        content = coco([{"category_id": 3, "segmentation": [SQUARE]}])
        content["categories"].append({"id": 11, "name": part})
        written(tmp_path, content, part)
    with pytest.raises(UserError, match="list different categories"):
        open_segmentation(tmp_path, channels=3)
