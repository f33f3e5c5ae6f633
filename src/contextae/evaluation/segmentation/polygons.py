"""Instances of a COCO JSON file as one class per pixel: polygons and run lengths, painted large to small."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from contextae.data.index import printable
from contextae.errors import UserError
from contextae.evaluation.segmentation.classes import Line

BACKGROUND, CROWD = 0, 65_535
"""Values of pixels that nothing covers, which are a class, and of crowds, which are void."""


class Shape(NamedTuple):
    """One instance: its class, its polygons as rows x, y, or its mask, and whether it stands for a crowd."""

    value: int
    polygons: tuple[np.ndarray, ...]
    mask: np.ndarray | None
    crowd: bool


class Pictured(NamedTuple):
    """Height, width and instances of an image."""

    height: int
    width: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Polygons:
    """The annotations of one file by the ids of images; rasterised when they are read."""

    path: Path
    pictured: Mapping[str, Pictured]

    def name(self, sample_id: str) -> str:
        return f"{printable(sample_id)} in {printable(str(self.path))}"

    def read(self, sample_id: str) -> Integer[np.ndarray, "h w"]:
        """Every instance has its class, smaller ones over larger ones; of a crowd what no instance covers is void."""
        height, width, shapes = self.pictured[sample_id]
        drawn = [(shape, _covered(shape, height, width)) for shape in shapes]
        drawn.sort(key=lambda pair: (not pair[0].crowd, -int(pair[1].sum())))
        mask = np.full((height, width), BACKGROUND, np.uint16)
        for shape, covered in drawn:
            mask[covered] = CROWD if shape.crowd else shape.value
        return mask


def read_polygons(path: Path) -> tuple[dict[str, Pictured], list[Line]]:
    """Instances by the stem of the file name of their image, and the categories, after a class `background`."""
    title = printable(str(path))
    try:
        content = json.loads(path.read_bytes())
        categories = {int(each["id"]): str(each["name"]) for each in content["categories"]}
        images = {each["id"]: each for each in content["images"]}
        annotations = content["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{title} is not a COCO file of instances ({type(error).__name__}: {error}). It is JSON with images, "
            "categories and annotations."
        ) from None
    if wrong := [number for number in categories if not BACKGROUND < number < CROWD]:
        raise UserError(f"{title} has a category of id {wrong[0]}. Ids of categories are numbers from 1 on.")
    shapes: dict[Any, list[Shape]] = {number: [] for number in images}
    for annotation in annotations:
        number = annotation.get("image_id")
        if number not in shapes:
            raise UserError(
                f"{title} has annotation {annotation.get('id')} of image {number}, which its list of images lacks. "
                "Add the image, or take the annotation out."
            )
        shapes[number].append(_shape(annotation, categories, images[number], title))
    pictured = {
        str(PurePosixPath(image["file_name"]).with_suffix("")): Pictured(
            int(image["height"]), int(image["width"]), tuple(shapes[number])
        )
        for number, image in images.items()
    }
    lines = [Line(BACKGROUND, "background", False), *(Line(k, name, False) for k, name in categories.items())]
    return pictured, [*lines, Line(CROWD, "crowd", True)]


def _shape(annotation: Mapping[str, Any], categories: Mapping[int, str], image: Mapping[str, Any], title: str) -> Shape:
    which, value = f"Annotation {annotation.get('id')} of {title}", annotation.get("category_id")
    if not isinstance(value, int) or value not in categories:
        raise UserError(
            f"{which} has category {value}, and the categories are {', '.join(map(str, list(categories)[:8]))}"
            f"{', ...' if len(categories) > 8 else ''}. Add the category, or take the annotation out."
        )
    crowd, found = bool(annotation.get("iscrowd")), annotation.get("segmentation")
    if isinstance(found, dict):
        mask = decode_runs(found.get("counts", ()), found.get("size", ()))
        if mask is None or mask.shape != (image["height"], image["width"]):
            raise UserError(
                f"{which} has run lengths of size {found.get('size')} that do not fill its image, "
                f"{image['height']} x {image['width']}. Write them again for this size."
            )
        return Shape(value, (), mask, crowd)
    if not isinstance(found, list) or not found:
        raise UserError(f"{which} has no segmentation. Use a file with polygons, or index masks.")
    polygons = tuple(np.asarray(each, np.float64).reshape(-1) for each in found)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise UserError(
                f"{which} has a polygon of {len(polygon)} numbers. A polygon has x and y of three points or more; "
                "mend it or take it out."
            )
    return Shape(value, tuple(polygon.reshape(-1, 2) for polygon in polygons), None, crowd)


def _covered(shape: Shape, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    if shape.mask is not None:
        return shape.mask
    covered = np.zeros((height, width), bool)
    for polygon in shape.polygons:
        covered |= inside(polygon, height, width)
    return covered


def inside(polygon: np.ndarray, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Pixels whose centre lies inside of points x, y, by the even-odd rule.

    Differs from pycocotools, which rounds outlines to pixels first, by at most one pixel along them.
    """
    covered = np.zeros((height, width), bool)
    ends = np.roll(polygon, -1, axis=0)
    top, bottom = np.floor(polygon[:, 1].min()), np.ceil(polygon[:, 1].max())
    for row in range(max(0, int(top)), min(height, int(bottom))):
        y = row + 0.5
        crosses = (polygon[:, 1] <= y) != (ends[:, 1] <= y)
        (x0, y0), (x1, y1) = polygon[crosses].T, ends[crosses].T
        edges = np.sort(x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        columns = np.clip(np.ceil(edges - 0.5), 0, width).astype(int)
        for left, right in zip(columns[::2], columns[1::2], strict=True):
            covered[row, left:right] = True
    return covered


def decode_runs(counts: str | Sequence[int], size: Sequence[int]) -> Bool[np.ndarray, "h w"] | None:
    """COCO's run lengths, of zeros and ones in turn, down the columns; None where they do not fill the size.

    As text they are base 32 in characters from "0" on, low digits first, the sixth bit saying that more follow and
    the fifth of the last giving the sign; from the fourth number on each is the difference to the one before the last.
    """
    if len(size) != 2:
        return None
    runs = list(counts) if not isinstance(counts, str) else _runs_of_text(counts)
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        return None
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(size[1], size[0]).T


def _runs_of_text(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (1 << shift) if digit & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
