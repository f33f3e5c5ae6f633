"""Folders to train and test: COCO's layouts, images of instances, and what makes a set useless."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.detection.made import coco_labels, write_coco

from contextae.errors import UserError
from contextae.evaluation.detection.coco import read_coco
from contextae.evaluation.detection.images import check_images
from contextae.evaluation.detection.layouts import open_detection, with_instances
from contextae.evaluation.detection.shapes import mask_of


def test_parts_by_the_names_of_files_and_folders(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_labels(3))
    write_coco(tmp_path, coco_labels(2), part="val")
    detection = coco_labels(1)
    (tmp_path / "annotations" / "detection_train.json").write_text(json.dumps(detection), encoding="utf-8")
    found = open_detection(tmp_path)
    assert (len(found.train.images), len(found.test.images)) == (3, 2)  # instances before detection
    assert found.notes == ("val is the test part",)
    assert found.train.images[1].path == tmp_path / "images" / "train" / "2.png"
    write_coco(tmp_path, coco_labels(1), part="test")
    assert len(open_detection(tmp_path).test.images) == 1 and open_detection(tmp_path).notes == ()


def test_the_layouts_of_coco_itself_and_of_labels_beside_images(tmp_path: Path) -> None:
    for root, labels_at, images_at in (
        (tmp_path / "coco", "annotations/instances_{}2017.json", "{}2017"),
        (tmp_path / "beside", "{}/_annotations.coco.json", "{}"),
    ):
        for part in ("train", "val"):
            write_coco(root, coco_labels(2), part=part)
            (root / "images" / part).rename(root / images_at.format(part))
            target = root / labels_at.format(part)
            (root / "annotations" / f"instances_{part}.json").rename(target)
        found = open_detection(root)
        assert all(image.path.exists() for image in (*found.train.images, *found.test.images))


def test_what_cannot_be_trained_or_tested_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        open_detection(tmp_path / "missing")
    with pytest.raises(UserError, match=r"needs labels of train and of test.*there are labels of: none"):
        open_detection(tmp_path)
    path = write_coco(tmp_path, coco_labels())
    with pytest.raises(UserError, match="there are labels of: train"):
        open_detection(tmp_path)
    write_coco(tmp_path, coco_labels(), part="test")
    labels = coco_labels()
    path.write_text(json.dumps({**labels, "annotations": []}), encoding="utf-8")
    with pytest.raises(UserError, match="There is no box to train on: none of the 3 images"):
        open_detection(tmp_path)
    crowds = [{**each, "iscrowd": 1} for each in labels["annotations"]]
    path.write_text(json.dumps({**labels, "annotations": crowds}), encoding="utf-8")
    with pytest.raises(UserError, match="There is no box to train on"):
        open_detection(tmp_path)
    write_coco(tmp_path, {**coco_labels(), "annotations": []}, part="test")
    write_coco(tmp_path, labels)
    with pytest.raises(UserError, match="There is no box to test on"):
        open_detection(tmp_path)
    other = coco_labels()
    other["categories"][0]["name"] = "huge"
    write_coco(tmp_path, other, part="test")
    with pytest.raises(
        UserError, match=r"need the same classes in the same order.*2 \(small, large\).*2 \(small, huge\)"
    ):
        open_detection(tmp_path)
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"are not there: 1.png lies in none of \S+/images/test, \S+/test\. Put"):
        open_detection(tmp_path)


def test_classes_of_test_without_an_object_in_train_are_named(tmp_path: Path) -> None:
    labels = coco_labels()
    labels["annotations"] = [each for each in labels["annotations"] if each["category_id"] == 3]
    write_coco(tmp_path, labels)
    write_coco(tmp_path, coco_labels(), part="test")
    assert open_detection(tmp_path).notes == ("1 class(es) of test without an object in train: 1 (large)",)


def test_masks_that_are_not_used_are_told_of(tmp_path: Path) -> None:
    labels, bare = coco_labels(), coco_labels()
    for entry in bare["annotations"]:
        del entry["segmentation"]
    del labels["annotations"][1]["segmentation"]
    train = write_coco(tmp_path, labels)
    test = write_coco(tmp_path, coco_labels(), part="test")
    note = "masks are neither trained nor measured, for they need a segmentation of every annotation, which is missing "
    assert open_detection(tmp_path).notes == (f"{note}from 1 of 6 in {train}",)
    write_coco(tmp_path, coco_labels())
    write_coco(tmp_path, bare, part="test")
    assert open_detection(tmp_path).notes == (f"{note}from 6 of 6 in {test}",)
    write_coco(tmp_path, bare)
    assert open_detection(tmp_path).notes == ()  # there are none


def test_images_in_both_parts_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_labels())
    labels = coco_labels(2)
    labels["images"][0]["file_name"] = "9.png"
    write_coco(tmp_path, labels, part="test")
    for path in (tmp_path / "images").glob("*/*.png"):
        path.rename(tmp_path / "images" / path.name)
    with pytest.raises(UserError, match=r"Of the 2 images of .*instances_test.json 1 are also in .*first \S+2.png"):
        open_detection(tmp_path)


def test_two_files_of_labels_of_one_part(tmp_path: Path) -> None:
    for part in ("train", "test", "train2017"):
        write_coco(tmp_path, coco_labels(), part=part)
    with pytest.raises(UserError, match=r"two files of labels for train: instances_train.json and \S+train2017.json"):
        open_detection(tmp_path)


def test_images_are_checked_before_a_training(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_labels())
    write_coco(tmp_path, coco_labels(), part="test")
    data = open_detection(tmp_path).train
    check_images(data, channels=3, dtype="uint8")
    images = tmp_path / "images" / "train"
    (images / "2.png").unlink()
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:200])
    with pytest.raises(UserError, match=r"Of the 3 of .* 2 cannot be used: 2.png: cannot be read .*; 3.png: "):
        check_images(data, channels=3, dtype="uint8")
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(images / "1.png")
    with pytest.raises(UserError, match=r"1.png is 30 x 40 pixels once it is upright, and .* says 40 x 30"):
        check_images(data, channels=3, dtype="uint8")
    with pytest.raises(UserError, match=r"cannot be used: 1.png: 3 channel\(s\) of uint8, where 2 of uint16 are used"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(images / "1.png")
        check_images(data, channels=2, dtype="uint16")


def write_instances(folder: Path, part: str, count: int, *, moved: int = 0) -> None:
    (folder / "masks" / part).mkdir(parents=True, exist_ok=True)
    for i in range(1, count + 1):
        numbers = np.zeros((30, 40), np.uint16)
        for of, (left, top, side) in enumerate(((4, 6, 12), (20, 10, 15))):
            numbers[top + 1 : top + side, left + moved : left + side + moved] = 300 - of
        Image.fromarray(numbers).save(folder / "masks" / part / f"{i}.png")


def test_objects_of_images_of_instances(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 1)):
        write_coco(tmp_path, coco_labels(count), part=part)
        write_instances(tmp_path, part, count)
    data = open_detection(tmp_path, masks="instances").train
    objects = data.images[1].objects
    assert objects.boxes.tolist() == [[20, 11, 15, 14], [4, 7, 12, 11]]  # by ascending value
    assert objects.classes.tolist() == [1, 0] and objects.area.tolist() == [210, 132]
    assert objects.shapes is not None and mask_of(objects.shapes[0], 30, 40).area == 210
    write_instances(tmp_path, "train", 3, moved=9)
    with pytest.raises(UserError, match=r"every object needs an annotation that says which it is. The object 299"):
        open_detection(tmp_path, masks="instances")
    Image.fromarray(np.zeros((30, 41), np.uint16)).save(tmp_path / "masks" / "train" / "1.png")
    with pytest.raises(UserError, match=r"1.png is 41 x 30, 1.png of .* is 40 x 30"):
        open_detection(tmp_path, masks="instances")
    (tmp_path / "masks" / "train" / "1.png").unlink()
    with pytest.raises(UserError, match=r"The instances .* cannot be read"):
        open_detection(tmp_path, masks="instances")


def test_masks_of_classes_are_not_taken_for_instances(tmp_path: Path) -> None:
    for part in ("train", "test"):
        labels = coco_labels(2)
        labels["categories"] = [{"id": 3, "name": "cell"}]
        for entry in labels["annotations"]:
            entry["category_id"] = 3
        write_coco(tmp_path, labels, part=part)
        write_instances(tmp_path, part, 2)
        for path in (tmp_path / "masks" / part).glob("*.png"):
            Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8)).save(path)
    with pytest.raises(UserError, match=r"Of the 4 annotations .* 4 have no object in .*masks of classes rather than"):
        open_detection(tmp_path, masks="instances")


@pytest.mark.parametrize(
    ("name", "wanted"), [("bccd", (205, 72, 2804, 945, False)), ("coco256_small", (70, 68, 577, 481, True))]
)
def test_real_sets(shared_data: Path, name: str, wanted: tuple[int, ...]) -> None:
    found = open_detection(shared_data / name)
    train, test = found.train, found.test
    assert wanted == (len(train.images), len(test.images), train.num_objects, test.num_objects, train.with_masks)


def test_real_instances(shared_data: Path) -> None:
    folder = shared_data / "dsb2018_nuclei"
    data = read_coco(folder / "annotations" / "instances_val.json", folder / "images" / "val")
    few = replace(data, images=data.images[:6])
    exact = with_instances(few, folder / "masks" / "val")
    for image, outlined in zip(exact.images, few.images, strict=True):
        ours, theirs = image.objects, outlined.objects
        assert ours.shapes is not None and len(ours) == len(theirs)
        assert (ours.boxes == theirs.boxes).all() and (ours.area == theirs.area).all()
        assert [mask_of(shape, image.height, image.width).area for shape in ours.shapes] == ours.area.tolist()
