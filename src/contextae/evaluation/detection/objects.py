"""Images with their objects, as every source of labels gives them: boxes, classes, areas, crowds, shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from contextae.errors import UserError

ROUNDING = 1.0
"""Pixels that a box may reach beyond its image: labels are rounded, and counted from 0 or from 1. It is clipped."""


class Mask(NamedTuple):
    """Pixels of an object within a box of the image whose first row and column are `top` and `left`."""

    top: int
    left: int
    pixels: np.ndarray

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.pixels))

    @property
    def bottom(self) -> int:
        return self.top + self.pixels.shape[0]

    @property
    def right(self) -> int:
        return self.left + self.pixels.shape[1]

    def part(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """The same in a box that lies anywhere, h w; what is beyond the own box is empty."""
        found = np.zeros((max(0, bottom - top), max(0, right - left)), bool)
        first, last = max(top, self.top), min(bottom, self.bottom)
        begin, end = max(left, self.left), min(right, self.right)
        if first < last and begin < end:
            own = self.pixels[first - self.top : last - self.top, begin - self.left : end - self.left]
            found[first - top : last - top, begin - left : end - left] = own
        return found


class PackedMasks(Sequence[Mask]):
    """Masks of which every pixel takes a bit, for those of thousands of images; each is made anew when asked for.

    `places` are top, left, height and width of each; `bits` are theirs one after the other, each begun with a new byte;
    what follows them is another's.
    """

    def __init__(self, places: Int[np.ndarray, "n 4"], bits: UInt8[np.ndarray, " b"]) -> None:
        self.places, self.ends = places, np.cumsum(-(-places[:, 2] * places[:, 3] // 8))
        self.bits = bits[: self.ends[-1] if len(places) else 0]

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> PackedMasks:
        places = [(mask.top, mask.left, *mask.pixels.shape) for mask in masks]
        bits = [np.packbits(mask.pixels) for mask in masks]
        return cls(
            np.array(places, np.int64).reshape(-1, 4),
            np.concatenate([np.zeros(0, np.uint8), *bits]),
        )

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Mask: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Mask, ...]: ...
    def __getitem__(self, index: int | slice) -> Mask | tuple[Mask, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        at = range(len(self))[index]  # IndexError beyond the end, and from the end where it is negative
        top, left, height, width = self.places[at].tolist()
        own = self.bits[self.ends[at - 1] if at else 0 : self.ends[at]]
        pixels = np.unpackbits(own, count=height * width).astype(bool)
        return Mask(top, left, pixels.reshape(height, width))


class Polygons(NamedTuple):
    """Outlines, each k 2 as x, y in pixels of the image; the object is what lies in any of them."""

    outlines: tuple[np.ndarray, ...]


class Runs(NamedTuple):
    """COCO's run lengths: pixels column by column, first those that are not of the object."""

    height: int
    width: int
    counts: np.ndarray


class Instance(NamedTuple):
    """The pixels of one value in an image of instances, and the box in which they lie (left, top, right, bottom)."""

    path: Path
    value: int
    box: tuple[int, int, int, int]


Shape = Polygons | Runs | Instance | Mask


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Of one image. `boxes` are left, top, width and height in its pixels; `classes` count from 0.

    A `crowd` is a region of many objects: it is not trained on, and who finds something in it is neither right nor
    wrong. `area` decides which objects are small, medium or large. `shapes` are there if masks are.
    """

    boxes: Float[np.ndarray, "n 4"]
    classes: Int[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]
    area: Float[np.ndarray, " n"]
    shapes: tuple[Shape, ...] | None = None

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one image; boxes and classes as of `Objects`, in any order."""

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    masks: Sequence[Mask] | None = None

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """`name` as the labels give it, the file that it leads to, and the size of the upright image."""

    name: str
    path: Path
    height: int
    width: int
    objects: Objects


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """One part, train or test. `with_masks`: every object has a shape; `unshaped` annotations have none."""

    title: str
    classes: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    unshaped: int = 0

    @property
    def with_masks(self) -> bool:
        return all(image.objects.shapes is not None for image in self.images)

    @property
    def num_objects(self) -> int:
        """Those that are no crowds."""
        return sum(int((~image.objects.crowd).sum()) for image in self.images)

    def counts(self) -> list[int]:
        """Objects of each class that are no crowds."""
        found = np.zeros(len(self.classes), np.int64)
        for image in self.images:
            np.add.at(found, image.objects.classes[~image.objects.crowd], 1)
        return [int(count) for count in found]


def no_objects(shapes: bool) -> Objects:
    """Of an image in which there are none."""
    return Objects(
        boxes=np.zeros((0, 4)),
        classes=np.zeros(0, np.int64),
        crowd=np.zeros(0, bool),
        area=np.zeros(0),
        shapes=() if shapes else None,
    )


def checked_box(box: Sequence[int | float], height: int, width: int, whose: str) -> tuple[float, float, float, float]:
    """Left, top, width and height, clipped; UserError, beginning with `whose`, unless it lies in the image."""
    left, top, wide, high = (float(value) for value in box)
    if not np.isfinite([left, top, wide, high]).all() or wide <= 0 or high <= 0:
        raise UserError(
            f"{whose} has a box of no area: a box needs a width and a height above 0. Got left {left:g}, top {top:g}, "
            f"width {wide:g}, height {high:g}; mend or remove it."
        )
    right, bottom = left + wide, top + high
    if min(left, top) < -ROUNDING or right > width + ROUNDING or bottom > height + ROUNDING:
        raise UserError(
            f"{whose} has a box outside of its image: boxes lie within 0 to {width} and 0 to {height} (width and "
            f"height), a pixel of rounding aside. Got left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}; "
            "mend it, or give the image that the labels were made for."
        )
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if right <= left or bottom <= top:
        raise UserError(
            f"{whose} has a box of no area: of left {box[0]:g}, top {box[1]:g}, width {box[2]:g}, height {box[3]:g} "
            f"nothing lies within the image of {width} x {height} (width x height). Mend or remove it."
        )
    return left, top, right - left, bottom - top
