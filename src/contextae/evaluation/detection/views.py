"""What the network sees of an image: a part of it at some size, perhaps flipped, with what is left of its objects."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from contextae.data.resize import Box, resize
from contextae.evaluation.detection.objects import DetectionData, Objects
from contextae.evaluation.detection.settings import DetectionSettings
from contextae.evaluation.detection.shapes import mask_of

NARROWEST = 2.0
"""Pixels along each axis that must be left of a box."""
FACTORS = (1 / 8, 2.0)
"""By which images are reduced or enlarged at most for the sake of `object_side`."""


class View(NamedTuple):
    """A box (left, top, right, bottom) of an image, shown at a size (height, width), and whether it is flipped."""

    box: Box
    size: tuple[int, int]
    flipped: bool = False


def factor_of(data: DetectionData, settings: DetectionSettings) -> float:
    """By which images are resized so that the median object of train has `object_side`, without it 1."""
    if settings.object_side is None:
        return 1.0
    sides = np.concatenate([np.sqrt(im.objects.boxes[~im.objects.crowd, 2:].prod(axis=1)) for im in data.images])
    return float(np.clip(settings.object_side / np.median(sides), *FACTORS))


def scale_of(height: int, width: int, factor: float, settings: DetectionSettings) -> float:
    """By which an image is resized for a test."""
    return factor if settings.object_side else _fitting(height, width, settings.short_sides[-1], settings.long_side)


def _one_of(values: tuple[int, ...], rng: random.Random) -> int:
    return values[int(rng.random() * len(values))]


def _fitting(height: int | float, width: int | float, short: int, long: int) -> float:
    """With which the shorter side becomes `short`, unless the longer one would be more than `long`."""
    return min(short / min(height, width), long / max(height, width))


def drawn_view(height: int, width: int, factor: float, settings: DetectionSettings, rng: random.Random) -> View:
    """A training view of an image of this size."""
    box = (0.0, 0.0, float(width), float(height))
    if settings.object_side:
        low, high = np.log(settings.jitter)
        scale = factor * float(np.exp(low + (high - low) * rng.random()))
    else:
        if rng.random() < settings.crop_share:
            first = _one_of(settings.crop_short_sides, rng) / min(height, width)
            box = _part(box, first, (_side(settings, rng), _side(settings, rng)), rng)
        short = _one_of(settings.short_sides, rng)
        scale = _fitting(box[3] - box[1], box[2] - box[0], short, settings.long_side)
    if settings.tile:
        box = _part(box, scale, (settings.tile, settings.tile), rng)
    size = (max(1, round(scale * (box[3] - box[1]))), max(1, round(scale * (box[2] - box[0]))))
    return View(box, size, rng.random() < settings.flip)


def _side(settings: DetectionSettings, rng: random.Random) -> int:
    low, high = settings.crop_sides
    return low + int(rng.random() * (high - low + 1))


def _part(box: Box, scale: float, size: tuple[int, int], rng: random.Random) -> Box:
    """A random part of a box that has at most `size` (height, width) when it is resized."""
    left, top, right, bottom = box
    wide, high = min(right - left, size[1] / scale), min(bottom - top, size[0] / scale)
    left, top = left + rng.random() * (right - left - wide), top + rng.random() * (bottom - top - high)
    return left, top, left + wide, top + high


def pixels_of(image: np.ndarray, view: View) -> np.ndarray:
    """c h w of the image's type; `image` is h w c."""
    shown = resize(image, view.size, view.box)
    return shown[:, :, ::-1] if view.flipped else shown


class Seen(NamedTuple):
    """Objects in a view: left, top, right, bottom in its pixels, classes from 1 on, and masks if there are any."""

    boxes: Float[Tensor, "n 4"]
    labels: Tensor
    masks: UInt8[Tensor, "n h w"] | None

    def to_target(self, device: torch.device) -> dict[str, Tensor]:
        """As torchvision's detection takes it."""
        target = {"boxes": self.boxes.to(device), "labels": self.labels.to(device)}
        return target if self.masks is None else {**target, "masks": self.masks.to(device)}


def objects_in(objects: Objects, image_size: tuple[int, int], view: View, *, least_visible: float, masks: bool) -> Seen:
    """Clipped to the view; without crowds, and without those of which too little is left."""
    left, top, right, bottom = view.box
    down, across = view.size[0] / (bottom - top), view.size[1] / (right - left)
    boxes = objects.boxes.copy()
    boxes[:, 2:] += boxes[:, :2]
    boxes = (boxes - (left, top, left, top)) * (across, down, across, down)
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    clipped = boxes.clip(0, (view.size[1], view.size[0]) * 2)
    sides = clipped[:, 2:] - clipped[:, :2]
    kept = ~objects.crowd & (sides >= NARROWEST).all(axis=1) & (sides.prod(axis=1) >= least_visible * whole)
    grids = None
    if masks:
        assert objects.shapes is not None
        rows = np.floor(top + (np.arange(view.size[0]) + 0.5) / down).astype(np.int64)
        columns = np.floor(left + (np.arange(view.size[1]) + 0.5) / across).astype(np.int64)
        found = np.zeros((int(kept.sum()), *view.size), np.uint8)
        for grid, i in zip(found, np.flatnonzero(kept).tolist(), strict=True):
            mask = mask_of(objects.shapes[i], *image_size)
            in_rows = np.flatnonzero((rows >= mask.top) & (rows < mask.bottom))
            in_columns = np.flatnonzero((columns >= mask.left) & (columns < mask.right))
            if len(in_rows) and len(in_columns):
                part = mask.pixels[np.ix_(rows[in_rows] - mask.top, columns[in_columns] - mask.left)]
                grid[in_rows[0] : in_rows[-1] + 1, in_columns[0] : in_columns[-1] + 1] = part
        grids = torch.from_numpy(found[:, :, ::-1].copy() if view.flipped else found)
    clipped = clipped[kept]
    if view.flipped:
        clipped[:, [0, 2]] = view.size[1] - clipped[:, [2, 0]]
    return Seen(torch.from_numpy(clipped).float(), torch.from_numpy(objects.classes[kept] + 1), grids)


def tiles_of(height: int, width: int, scale: float, settings: DetectionSettings) -> list[View]:
    """Views of a test image that cover it: all of it in one, or squares that overlap by `overlap` pixels or more."""
    high, wide = max(1, round(scale * height)), max(1, round(scale * width))
    rows, columns = [_spread(length, settings) for length in (high, wide)]
    across, down = width / wide, height / high
    return [
        View((left * across, top * down, right * across, bottom * down), (bottom - top, right - left))
        for top, bottom in rows
        for left, right in columns
    ]


def _spread(length: int, settings: DetectionSettings) -> list[tuple[int, int]]:
    """First and last pixels of the tiles along one axis, evenly spread."""
    tile = settings.tile
    if tile is None or length <= tile:
        return [(0, length)]
    count = -(-(length - settings.overlap) // (tile - settings.overlap))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """The encoder's own: `value_range` becomes 0 to 1 before mean and deviation of each channel apply."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    value_range: tuple[float, float] = (0.0, 255.0)

    def __call__(self, pixels: np.ndarray) -> Float[Tensor, "c h w"]:
        low, high = self.value_range
        values = (torch.from_numpy(np.array(pixels, np.float32)) - low) / (high - low)
        mean, deviation = (torch.tensor(each).reshape(-1, 1, 1) for each in (self.mean, self.deviation))
        return (values - mean) / deviation


def stacked(views: list[Tensor], multiple: int, size: tuple[int, int] | None = None) -> Float[Tensor, "b c h w"]:
    """Of one size: that of the largest, or `size`, rounded up to `multiple`; the rest is 0, the mean of the data."""
    high, wide = size or (max(view.shape[1] for view in views), max(view.shape[2] for view in views))
    high, wide = (-(-length // multiple) * multiple for length in (high, wide))
    batch = torch.zeros(len(views), views[0].shape[0], high, wide)
    for row, view in zip(batch, views, strict=True):
        row[:, : view.shape[1], : view.shape[2]] = view
    return batch
