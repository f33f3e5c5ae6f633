"""A folder of a detection data set to its parts: which labels are of train and of test, and where the images lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from contextae.data.index import printable
from contextae.data.sources.splits import SPLITS
from contextae.errors import UserError
from contextae.evaluation.detection.coco import read_coco
from contextae.evaluation.detection.matching import box_iou
from contextae.evaluation.detection.objects import AnnotatedImage, DetectionData, Objects
from contextae.evaluation.detection.shapes import instances_in, instances_of
from contextae.evaluation.detection.voc import read_voc

NAMES = "|".join(SPLITS)
LABELS = re.compile(
    rf"(?:(?P<kind>instances|detection|annotations|coco)[_-])?(?P<part>{NAMES})(?P<year>\d{{4}})?", re.I
)
BESIDE = ("_annotations.coco.json", "annotations.json", "labels.json", "coco.json")
"""Labels in the folder of their images."""

SAME = 0.5
"""Overlap of the boxes of an annotation and of an object that are taken for the same."""
LONELY = 0.1

Masks = Literal["labels", "instances"]


@dataclass(frozen=True)
class DetectionSplits:
    """Both parts, of the same classes, and in words what the reader should know."""

    train: DetectionData
    test: DetectionData
    notes: tuple[str, ...] = ()


def open_detection(folder: Path, *, masks: Masks = "labels") -> DetectionSplits:
    """Finds COCO's JSON (`annotations/instances_train.json` with `images/train` or `train`, or JSON beside the images)
    or Pascal VOC's XML (`Annotations`, `JPEGImages`, `ImageSets/Main`, or `annotations/train/*.xml`).

    Test is the part of that name, or else val; val beside a test is not used. With `masks` instances the shapes come
    from `masks/PART/NAME.png`, in which every object has a value of its own and 0 is nothing.
    """
    if not folder.is_dir():
        raise UserError(
            f"{printable(str(folder))} is no folder. Give that of a detection data set, in COCO's or VOC's way."
        )
    parts = _coco_parts(folder) or _voc_parts(folder)
    if "train" not in parts or not {"val", "test"} & set(parts):
        raise UserError(
            f"A detection data set needs labels of train and of test (or val): annotations/instances_train.json and "
            f"annotations/instances_test.json as COCO has them, or Annotations/*.xml with ImageSets/Main/train.txt as "
            f"Pascal VOC. In {printable(str(folder))} there are labels of: {', '.join(sorted(parts)) or 'none'}."
        )
    chosen = "test" if "test" in parts else "val"
    train, test = parts["train"], parts[chosen]
    if masks == "instances":
        train, test = (
            with_instances(part, folder / "masks" / name) for part, name in ((train, "train"), (test, chosen))
        )
    notes = (f"{chosen} is the test part",) if chosen == "val" else ()
    return checked(train, test, notes)


def checked(train: DetectionData, test: DetectionData, notes: Sequence[str] = ()) -> DetectionSplits:
    """UserError unless both have the same classes and train an object."""
    if train.classes != test.classes:
        raise UserError(
            f"Train and test need the same classes in the same order. {train.title} has {_listed(train.classes)}; "
            f"{test.title} has {_listed(test.classes)}. Give both the same list of categories."
        )
    if not train.num_objects:
        raise UserError(
            f"There is no box to train on: none of the {len(train.images):,} images of {train.title} has an object "
            "that is no crowd. Label some, or give the right file."
        )
    if not test.num_objects:
        raise UserError(
            f"There is no box to test on: none of the {len(test.images):,} images of {test.title} has an object "
            "that is no crowd. Label some, or give the right file."
        )
    twice = sorted({image.path for image in train.images} & {image.path for image in test.images})
    if twice:
        raise UserError(
            f"Images of test are not trained on. Of the {len(test.images):,} images of {test.title} {len(twice):,} are "
            f"also in {train.title}, first {printable(str(twice[0]))}. Take them out of one of the two."
        )
    unseen = [
        name
        for name, ours, theirs in zip(train.classes, train.counts(), test.counts(), strict=True)
        if theirs > ours == 0
    ]
    said = (f"{len(unseen)} class(es) of test without an object in train: {_listed(unseen)}",) if unseen else ()
    return DetectionSplits(train, test, (*notes, *said, *_maskless(train, test)))


def _maskless(train: DetectionData, test: DetectionData) -> tuple[str, ...]:
    """A sentence on masks that are not used because some objects have none; nothing where there are none at all."""
    parts = [(part, sum(len(image.objects) for image in part.images)) for part in (train, test)]
    if all(part.with_masks for part, _ in parts) or not any(
        part.with_masks or part.unshaped < total for part, total in parts
    ):
        return ()
    lacking = " and ".join(f"{part.unshaped:,} of {total:,} in {part.title}" for part, total in parts if part.unshaped)
    return (
        "masks are neither trained nor measured, for they need a segmentation of every annotation, which is missing "
        f"from {lacking}",
    )


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def _coco_parts(folder: Path) -> dict[str, DetectionData]:
    found: dict[str, tuple[int, Path, list[Path]]] = {}
    for path in sorted([*folder.glob("annotations/*.json"), *folder.glob("*.json")]):
        named = LABELS.fullmatch(path.stem)
        if not named:
            continue
        part, full = named["part"], f"{named['part']}{named['year'] or ''}"
        places = [
            folder / "images" / full,
            folder / "images" / part,
            folder / full,
            folder / part,
            folder / "images",
            folder,
        ]
        rank = 0 if (named["kind"] or "").lower() == "instances" else 1
        split = SPLITS[part.lower()]
        if split in found and rank == found[split][0]:
            raise UserError(
                f"{printable(str(folder))} has two files of labels for {split}: {printable(found[split][1].name)} and "
                f"{printable(path.name)}. Keep one of them."
            )
        if split not in found or rank < found[split][0]:
            found[split] = rank, path, places
    for place in sorted(each for each in folder.iterdir() if each.is_dir() and each.name.lower() in SPLITS):
        for path in (place / name for name in BESIDE if (place / name).is_file()):
            found.setdefault(SPLITS[place.name.lower()], (2, path, [place, place / "images"]))
    return {part: _with_images(path, places) for part, (_, path, places) in found.items()}


def _with_images(labels: Path, places: Sequence[Path]) -> DetectionData:
    """In the first of the places that holds the first image."""
    read = read_coco(labels, places[0])
    first = read.images[0].name
    place = next((each for each in places if (each / first).is_file()), None)
    if place is None:
        wanted = ", ".join(printable(str(each)) for each in dict.fromkeys(places[:4]))
        raise UserError(
            f"The images of {read.title} are not there: {printable(first)} lies in none of {wanted}. Put them there, "
            "or mend the file names."
        )
    moved = tuple(replace(image, path=place / image.name) for image in read.images)
    return replace(read, images=moved)


def _voc_parts(folder: Path) -> dict[str, DetectionData]:
    files: dict[str, tuple[list[Path], Path]] = {}
    if (folder / "ImageSets" / "Main").is_dir():
        for part in dict.fromkeys(SPLITS.values()):
            listed = folder / "ImageSets" / "Main" / f"{part}.txt"
            if listed.is_file():
                names = [line.split()[0] for line in _text_of(listed).splitlines() if line.strip()]
                files[part] = [folder / "Annotations" / f"{name}.xml" for name in names], folder / "JPEGImages"
    else:
        for above, images in ((folder / "annotations", folder / "images"), (folder, folder)):
            for place in sorted(above.iterdir()) if above.is_dir() else []:
                labels = sorted(place.glob("*.xml")) if place.name.lower() in SPLITS else []
                if labels:
                    files.setdefault(SPLITS[place.name.lower()], (labels, images / place.name))
    if not files:
        return {}
    # the classes are those of all parts together
    alone = {part: read_voc(labels, images, title=_voc_title(folder, part)) for part, (labels, images) in files.items()}
    classes = sorted({name for part in alone.values() for name in part.classes})
    return {
        part: read_voc(labels, images, title=_voc_title(folder, part), classes=classes)
        for part, (labels, images) in files.items()
    }


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{printable(str(path))} cannot be read as text: {error}. It has the name of an image in each line."
        ) from None


def _voc_title(folder: Path, part: str) -> str:
    return f"{printable(str(folder))} ({part})"


def with_instances(data: DetectionData, folder: Path) -> DetectionData:
    """The objects of `folder/NAME.png`, in which each has a value of its own; of the annotations only the classes stay.

    An object has the class of the annotation whose box is nearest to its own, or the only class there is. UserError
    where images of instances and annotations do not show the same: more than a tenth of the annotations without an
    object whose box overlaps theirs by half, or, of several classes, an object without an annotation.
    """
    lonely = 0
    images = []
    for image in data.images:
        with_shapes, missed = _with_instances(image, folder, data)
        lonely += missed
        images.append(with_shapes)
    total = sum(len(image.objects) for image in data.images)
    if lonely > LONELY * total:
        raise UserError(
            f"Images of instances show the objects of the annotations. Of the {total:,} annotations of {data.title} "
            f"{lonely:,} have no object in {printable(str(folder))} whose box overlaps theirs by half; those may be "
            'masks of classes rather than of objects. Use the shapes of the labels: masks="labels".'
        )
    return replace(data, images=tuple(images))


def _with_instances(image: AnnotatedImage, folder: Path, data: DetectionData) -> tuple[AnnotatedImage, int]:
    """The image with the objects of its PNG, and how many annotations have none of them."""
    path = (folder / image.name).with_suffix(".png")
    found, numbers = instances_in(path), instances_of(path)
    if numbers.shape != (image.height, image.width):
        raise UserError(
            f"Instances have the size of their image. {printable(str(path))} is {numbers.shape[1]} x "
            f"{numbers.shape[0]}, {image.name} of {data.title} is {image.width} x {image.height} (width x height)."
        )
    boxes = np.array([each.box for each in found], np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    overlap = box_iou(boxes, image.objects.boxes)
    near = overlap.max(axis=1, initial=0) >= SAME
    if len(data.classes) > 1 and not near.all():
        lost = found[int(np.flatnonzero(~near)[0])]
        raise UserError(
            f"Of several classes every object needs an annotation that says which it is. The object {lost.value} in "
            f"{printable(str(path))}, at {lost.box} (left, top, right, bottom), has none of a similar box in "
            f'{data.title}. Add it, or use the shapes of the labels: masks="labels".'
        )
    classes = image.objects.classes[overlap.argmax(axis=1)] if near.any() else np.zeros(len(found), np.int64)
    areas = [
        np.count_nonzero(numbers[top:bottom, left:right] == value) for _, value, (left, top, right, bottom) in found
    ]
    objects = Objects(
        boxes=boxes,
        classes=classes if len(data.classes) > 1 else np.zeros(len(found), np.int64),
        crowd=np.zeros(len(found), bool),
        area=np.array(areas, np.float64),
        shapes=found,
    )
    return replace(image, objects=objects), int((overlap.max(axis=0, initial=0) < SAME).sum())
