"""COCO's JSON: images, annotations with boxes and, where they are there, outlines or run lengths, and categories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contextae.data.index import printable
from contextae.data.sources.regular import read_regular
from contextae.errors import UserError, nearest
from contextae.evaluation.detection.objects import (
    AnnotatedImage,
    DetectionData,
    Objects,
    Polygons,
    Runs,
    checked_box,
)
from contextae.evaluation.detection.shapes import decoded_counts, mask_of

Entry = Mapping[str, Any]
PARTS = ("images", "annotations", "categories")


def read_coco(labels: Path, images: Path, *, title: str | None = None) -> DetectionData:
    """The images of a JSON file in its order, those without a box too; their files lie in the folder `images`.

    Classes are the categories by ascending id. Shapes are read where every annotation has one, and are made of their
    polygons or run lengths only when they are asked for. UserError, before any image is opened, over what is wrong.
    """
    name = title or printable(str(labels))
    held = lists_of(labels, name)
    classes = categories_of(held["categories"], name)
    sizes = images_of(held["images"], name)
    grouped = annotations_of(held["annotations"], classes, sizes, name)
    unshaped = sum(not entry.get("segmentation") for entry in held["annotations"])
    with_masks = bool(held["annotations"]) and not unshaped
    found = [
        AnnotatedImage(
            name=file_name,
            path=images / file_name,
            height=height,
            width=width,
            objects=_objects(grouped[number], classes, height, width, name, with_masks),
        )
        for number, (file_name, height, width) in sizes.items()
    ]
    return DetectionData(
        title=name, classes=tuple(each for each, _ in classes.values()), images=tuple(found), unshaped=unshaped
    )


def lists_of(labels: Path, name: str) -> Mapping[str, list[Any]]:
    """The three lists of a JSON file, whose entries are objects; `name` is that of the file in messages."""
    try:
        held = json.loads(read_regular(labels))
    except OSError as error:
        raise UserError(
            f"The labels {name} cannot be read: {error.strerror}. Give a JSON file as COCO has it."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"The labels {name} are not sound JSON: {error}. Give a whole file as COCO has it, with images, "
            "annotations and categories."
        ) from None
    for part in PARTS:
        if not isinstance(held, dict) or not isinstance(held.get(part), list):
            raise UserError(
                f"COCO's labels hold three lists, images, annotations and categories. {name} has no list {part}; give "
                "the instances file of a detection data set."
            )
        if wrong := next((entry for entry in held[part] if not isinstance(entry, dict)), None):
            raise UserError(f"Every entry of {part} in {name} must be an object with names. Got {wrong!r}.")
    return {part: held[part] for part in PARTS}


def _id(entry: Entry, what: str, name: str) -> Any:
    number = entry.get("id")
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise UserError(f"Every {what} in {name} needs an id, a number or a name. Got {number!r} in {_short(entry)}.")
    return number


def _twice(what: str, number: object, name: str) -> UserError:
    return UserError(
        f"Every {what} needs an id of its own, or nobody can tell which is meant. {name} has {what} {number!r} twice; "
        "number them anew."
    )


def categories_of(categories: Sequence[Entry], name: str) -> dict[Any, tuple[str, int]]:
    """Name and position of each category, by its id."""
    named: dict[Any, str] = {}
    for entry in categories:
        number = _id(entry, "category", name)
        if number in named:
            raise _twice("category", number, name)
        if not isinstance(entry.get("name"), str):
            raise UserError(f"Every category in {name} needs a name. Category {number!r} has none.")
        if entry["name"] in named.values():
            raise UserError(
                f"{name} has two categories named {printable(entry['name'])!r}, and figures are told by names. Join "
                "them under one id, or rename one."
            )
        named[number] = entry["name"]
    if not named:
        raise UserError(f"{name} names no category, so there is nothing to look for. Add its list of categories.")
    order = sorted(named, key=lambda number: (isinstance(number, str), number))
    return {number: (named[number], position) for position, number in enumerate(order)}


def images_of(entries: Sequence[Entry], name: str) -> dict[Any, tuple[str, int, int]]:
    """File name, height and width of each image, by its id."""
    found: dict[Any, tuple[str, int, int]] = {}
    files: set[str] = set()
    for entry in entries:
        number = _id(entry, "image", name)
        if number in found:
            raise _twice("image", number, name)
        file_name, height, width = (entry.get(key) for key in ("file_name", "height", "width"))
        if not isinstance(file_name, str) or not _is_length(height) or not _is_length(width):
            raise UserError(
                f"Every image in {name} needs a file_name, and a height and a width in whole pixels. Got "
                f"{_short(entry)} for image {number!r}."
            )
        if Path(file_name).is_absolute() or ".." in Path(file_name).parts or "\0" in file_name:
            raise UserError(
                f"File names in {name} are relative to the folder of its images, and stay in it. Got "
                f"{printable(file_name)!r} for image {number!r}; write them without folders above."
            )
        if file_name in files:
            raise UserError(
                f"{name} has the file {printable(file_name)} under two ids. Join its annotations under one."
            )
        files.add(file_name)
        found[number] = file_name, int(height), int(width)  # type: ignore[arg-type]
    if not found:
        raise UserError(f"{name} names no image. Give labels with images.")
    return found


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 2**31 and value == int(value)


def annotations_of(
    entries: Sequence[Entry], classes: Mapping[Any, Any], images: Mapping[Any, Any], name: str
) -> dict[Any, list[Entry]]:
    """Those of each image, by the image's id; all have ids of their own, and images and categories that there are."""
    grouped: dict[Any, list[Entry]] = {number: [] for number in images}
    ids: set[Any] = set()
    for entry in entries:
        number = _id(entry, "annotation", name)
        if number in ids:
            raise _twice("annotation", number, name)
        ids.add(number)
        _check_ids(entry, number, classes, images, name)
        grouped[entry["image_id"]].append(entry)
    return grouped


def _check_ids(entry: Entry, number: object, classes: Mapping[Any, Any], images: Mapping[Any, Any], name: str) -> None:
    image, category = entry.get("image_id"), entry.get("category_id")
    if not isinstance(image, int | str) or image not in images:
        raise UserError(
            f"Annotation {number!r} in {name} is of image {image!r}, which is not among its {len(images):,} images. "
            f"Add the image or remove the annotation.{nearest(str(image), map(str, images))}"
        )
    if not isinstance(category, int | str) or category not in classes:
        known = ", ".join(f"{each!r} {of[0]}" for each, of in list(classes.items())[:5])
        raise UserError(
            f"Annotation {number!r} in {name} is of category {category!r}, which its list of categories does not hold. "
            f"It has {len(classes):,}: {known}{', ...' if len(classes) > 5 else ''}. Add it, or mend the annotation."
        )


def _objects(
    entries: Sequence[Entry],
    classes: Mapping[Any, tuple[str, int]],
    height: int,
    width: int,
    name: str,
    with_masks: bool,
) -> Objects:
    boxes, areas, shapes = [], [], []
    for entry in entries:
        whose = f"Annotation {entry['id']!r} in {name}"
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise UserError(
                f"{whose} needs a bbox of four numbers: left, top, width, height in pixels. Got {_short(box)}; mend it."
            )
        boxes.append(checked_box(box, height, width, whose))
        # a shape is checked wherever there is one, though it is used only where all have one
        shape = shape_of(entry["segmentation"], height, width, whose) if entry.get("segmentation") else None
        area = entry.get("area")
        if area is None:
            area = mask_of(shape, height, width).area if shape and with_masks else boxes[-1][2] * boxes[-1][3]
        if not _is_number(area) or not 0 <= area < float("inf"):
            raise UserError(f"{whose} has an area of {_short(area)}. Give the pixels of the object, or leave it out.")
        areas.append(float(area))
        shapes.append(shape)
    return Objects(
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        classes=np.array([classes[entry["category_id"]][1] for entry in entries], np.int64),
        crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool),
        area=np.array(areas, np.float64),
        shapes=tuple(shape for shape in shapes if shape is not None) if with_masks else None,
    )


def shape_of(given: Any, height: int, width: int, whose: str) -> Polygons | Runs:
    """Polygons or run lengths; UserError, beginning with `whose`, of those that are not of an image of this size."""
    if isinstance(given, dict):
        return _runs(given, height, width, whose)
    outlines = []
    for outline in given if isinstance(given, list) else [given]:
        if not isinstance(outline, list) or not all(map(_is_number, outline)) or len(outline) % 2:
            raise UserError(
                f"{whose} has a polygon that is no list of x, y, x, y, ... in pixels. Got {_short(outline)}; mend it."
            )
        if len(outline) < 6:
            raise UserError(
                f"{whose} has a polygon with {len(outline) // 2} point(s), which encloses nothing: it needs three or "
                f"more. Got {_short(outline)}; mend it, or remove the segmentation."
            )
        points = np.array(outline, np.float64).reshape(-1, 2)
        if not np.isfinite(points).all() or (points < -1).any() or (points > (width + 1, height + 1)).any():
            raise UserError(
                f"{whose} has a polygon outside of its image of {width} x {height} (width x height). Got x from "
                f"{points[:, 0].min():g} to {points[:, 0].max():g} and y from {points[:, 1].min():g} to "
                f"{points[:, 1].max():g}; mend it, or give the image that the labels were made for."
            )
        outlines.append(points)
    return Polygons(tuple(outlines))


def _runs(given: Mapping[str, Any], height: int, width: int, whose: str) -> Runs:
    counts, problem = _counts(given.get("counts"))
    if not problem and given.get("size") != [height, width]:
        problem = f"its size is {given.get('size')!r}, where the image is {[height, width]} (height, width)"
    if not problem and (counts < 0).any():
        problem = f"one of its counts is {int(counts.min()):,}, and no count is below 0"
    if not problem and counts.sum() != height * width:
        problem = f"its counts add up to {int(counts.sum()):,} pixels, where the image has {height * width:,}"
    if problem:
        raise UserError(f"{whose} has run lengths that cannot be used: {problem}. Mend or remove the segmentation.")
    return Runs(height, width, counts)


def _counts(given: Any) -> tuple[np.ndarray, str]:
    """The run lengths, and what is wrong with them."""
    none = np.zeros(0, np.int64)
    if isinstance(given, str):
        try:
            return decoded_counts(given), ""
        except (ValueError, OverflowError) as error:
            return none, str(error)
    if isinstance(given, list) and all(isinstance(each, int) and _is_number(each) for each in given):
        return np.array(given, np.int64), ""
    return none, "it has no counts"


def _is_number(value: object) -> bool:
    """Of a size that NumPy holds; infinite and undefined ones are judged where they are used."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**53


def _short(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= 100 else text[:97] + "..."
