"""Instances of a COCO JSON file as one class per pixel: polygons and run lengths, painted large to small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from contextae.data.index import printable
from contextae.errors import UserError
from contextae.evaluation.detection.coco import Entry, annotations_of, categories_of, images_of, lists_of, shape_of
from contextae.evaluation.detection.objects import Polygons as Outlines
from contextae.evaluation.detection.objects import Runs
from contextae.evaluation.detection.shapes import from_runs
from contextae.evaluation.segmentation.classes import Line

BACKGROUND, CROWD = 0, 65_535
"""Values of pixels that nothing covers, which are a class, and of crowds, which are void."""
NAMES = {BACKGROUND: "background", CROWD: "crowd"}


class Shape(NamedTuple):
    """One instance: its class, its polygons or run lengths, and whether it stands for a crowd."""

    value: int
    outline: Outlines | Runs
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
    """Instances by the file name of their image without its ending, and the categories, after a class `background`."""
    title = printable(str(path))
    held = lists_of(path, title)
    categories, images = categories_of(held["categories"], title), images_of(held["images"], title)
    for number, (name, _) in categories.items():
        if not isinstance(number, int) or not BACKGROUND < number < CROWD:
            raise UserError(
                f"{title} has a category of id {number!r}. Ids of categories are numbers from 1 to {CROWD - 1:,} here, "
                f"as {BACKGROUND} is what no object covers; number them anew, in the annotations as well."
            )
        if name in NAMES.values():
            raise UserError(
                f"{title} names a category {name!r}, which is here the name of what "
                f"{'no object covers' if name == NAMES[BACKGROUND] else 'crowds cover'}. Rename it, or take it out "
                "with its annotations."
            )
    pictured: dict[str, Pictured] = {}
    grouped = annotations_of(held["annotations"], categories, images, title)
    for number, (file_name, height, width) in images.items():
        stem = str(PurePosixPath(file_name).with_suffix(""))
        if stem in pictured:
            raise UserError(
                f"{title} has two images of the name {printable(stem)}, but for the ending, and by it an image is "
                "found. Rename one."
            )
        pictured[stem] = Pictured(height, width, tuple(_shape(each, height, width, title) for each in grouped[number]))
    lines = [Line(number, name, False) for number, (name, _) in categories.items()]
    return pictured, [
        Line(BACKGROUND, NAMES[BACKGROUND], False),
        *lines,
        Line(CROWD, NAMES[CROWD], True),
    ]


def _shape(annotation: Entry, height: int, width: int, title: str) -> Shape:
    whose, found = f"Annotation {annotation['id']!r} in {title}", annotation.get("segmentation")
    if not found:
        raise UserError(
            f"{whose} has no segmentation, and its box does not say which pixels are of it. Add its polygons or take "
            "it out, or use index masks."
        )
    crowd = bool(annotation.get("iscrowd"))
    return Shape(annotation["category_id"], shape_of(found, height, width, whose), crowd)


def _covered(shape: Shape, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    if isinstance(shape.outline, Runs):
        return from_runs(shape.outline)
    covered = np.zeros((height, width), bool)
    for polygon in shape.outline.outlines:
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
