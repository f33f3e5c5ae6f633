"""Pascal VOC's labels, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextae.errors import UserError
from contextae.evaluation.detection.layouts import open_detection
from contextae.evaluation.detection.voc import read_voc

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def document(name: str, *objects: str, size: str = "<width>40</width><height>30</height>") -> str:
    inside = "".join(objects)
    return f"<annotation><filename>{name}.png</filename><size>{size}<depth>3</depth></size>{inside}</annotation>"


def thing(*box: float, name: str = "cell", difficult: int = 0) -> str:
    return OBJECT.format(*box, name=name, difficult=difficult)


def read(tmp_path: Path, *texts: str, classes: list[str] | None = None) -> object:
    paths = []
    for i, text in enumerate(texts):
        paths.append(tmp_path / f"{i}.xml")
        paths[-1].write_text(text, encoding="utf-8")
    return read_voc(paths, tmp_path / "images", title="these", classes=classes)


def test_boxes_are_from_the_first_to_the_last_pixel_counted_from_one(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        document("a", thing(1, 1, 40, 30), thing(5, 7, 10, 9, name="a cell", difficult=1)),
        document("b"),
    )
    assert data.classes == ("a cell", "cell")  # type: ignore[attr-defined]
    first, second = data.images  # type: ignore[attr-defined]
    assert first.objects.boxes.tolist() == [[0, 0, 40, 30], [4, 6, 6, 3]]
    assert first.objects.classes.tolist() == [1, 0] and first.objects.crowd.tolist() == [False, True]
    assert first.objects.area.tolist() == [1200, 18] and first.objects.shapes is None
    assert (second.height, second.width, len(second.objects)) == (30, 40, 0)
    assert first.path == tmp_path / "images" / "a.png"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>", "are not sound XML"),
        (document("a", size="<width>inf</width><height>30</height>"), "needs a number at size/width. Got 'inf'"),
        (document("a", size="<width>40</width><height>nan</height>"), "needs a number at size/height. Got 'nan'"),
        ("", "are not sound XML"),
        ("<html></html>", "begins with 'html'"),
        ('<!DOCTYPE a [<!ENTITY b "bbbb">]><annotation>&b;</annotation>', "declares a document type, which may hold"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declares a document type"),
        (document("a", thing(5, 7, 60, 9)), "box outside of its image"),
        (document("a", thing(5, 7, 4, 9)), "box of no area"),
        (document("a", "<object><name>cell</name></object>"), "needs a number at bndbox/xmin"),
        (document("a", thing(5, 7, 9, 9, name=" ")), "Every object needs a name"),
        (document("a", size="<width>40</width>"), "needs a number at size/height"),
        (document("a", size="<width>40</width><height>0.5</height>"), "needs a size of whole pixels above 0"),
        (document("../a", thing(1, 1, 9, 9)), "needs the filename of its image, without folders"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, text, document("b", thing(1, 1, 9, 9)))


def test_unknown_names_no_objects_no_files_and_doubles_are_refused(tmp_path: Path) -> None:
    labelled = document("a", thing(1, 1, 9, 9))
    with pytest.raises(
        UserError, match=r"an object 'cell', which is none of the 1 classes: cells. Did you mean 'cells'"
    ):
        read(tmp_path, labelled, classes=["cells"])
    with pytest.raises(UserError, match="None of the 1 files of these holds an object"):
        read(tmp_path, document("a"))
    with pytest.raises(UserError, match="these holds no XML files"):
        read_voc([], tmp_path, title="these")
    with pytest.raises(UserError, match=r"are both of a.png; join them"):
        read(tmp_path, labelled, labelled)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_voc([tmp_path / "missing.xml"], tmp_path, title="these")


def test_both_layouts_are_found(tmp_path: Path) -> None:
    labels = {
        "train": [("a", [thing(1, 1, 9, 9)]), ("b", [])],
        "val": [("c", [thing(2, 2, 9, 9, name="cross")])],
        "test": [("d", [thing(2, 2, 9, 9)])],
    }
    devkit, folders = tmp_path / "VOC2007", tmp_path / "folders"
    for part, files in labels.items():
        for name, objects in files:
            for labels_at, images_at in (
                (devkit / "Annotations", devkit / "JPEGImages"),
                (folders / part, folders / part),
            ):
                labels_at.mkdir(parents=True, exist_ok=True)
                images_at.mkdir(parents=True, exist_ok=True)
                (labels_at / f"{name}.xml").write_text(document(name, *objects), encoding="utf-8")
                Image.fromarray(np.zeros((30, 40), np.uint8)).save(images_at / f"{name}.png")
        listed = devkit / "ImageSets" / "Main"
        listed.mkdir(parents=True, exist_ok=True)
        (listed / f"{part}.txt").write_text("".join(f"{name}\n" for name, _ in files), encoding="utf-8")
    for root in (devkit, folders):
        found = open_detection(root)
        assert found.train.classes == found.test.classes == ("cell", "cross")
        assert [image.name for image in found.train.images] == ["a.png", "b.png"]
        assert [image.name for image in found.test.images] == ["d.png"]
        assert all(image.path.exists() for image in (*found.train.images, *found.test.images))
    (devkit / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xffa\n")
    with pytest.raises(UserError, match=r"train.txt cannot be read as text.*name of an image in each line"):
        open_detection(devkit)
