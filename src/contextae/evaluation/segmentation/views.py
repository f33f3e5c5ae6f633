"""From an image and its class map to what the network sees: random crops while training, windows afterwards."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int16, Shaped
from torch import Tensor

from contextae.data.resize import resize
from contextae.errors import UserError
from contextae.evaluation.bounds import check
from contextae.evaluation.segmentation.classes import VOID

ATTEMPTS = 10
"""Crops drawn before one that is mostly of one class is taken [mmsegmentation's RandomCrop]."""


@dataclass(frozen=True)
class Normalisation:
    """What the encoder was trained with: `value_range` becomes 0 to 1, then mean and deviation per channel apply."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    value_range: tuple[float, float] = (0.0, 255.0)

    def __call__(self, pixels: Shaped[np.ndarray, "c h w"]) -> Float[Tensor, "c h w"]:
        low, high = self.value_range
        values = torch.from_numpy((pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low))
        mean, deviation = (torch.tensor(each).reshape(-1, 1, 1) for each in (self.mean, self.deviation))
        return (values - mean) / deviation


class Place(NamedTuple):
    """A window in a resized image: the image's new size, height and width, and the window's first row and column."""

    height: int
    width: int
    top: int
    left: int


class Seen(NamedTuple):
    """Normalised pixels of the window's size, and the class position of each, VOID where there is none."""

    pixels: Float[Tensor, "c h w"]
    labels: Int16[np.ndarray, "h w"]


def covering(size: tuple[int, int], window: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
    """The size of an image, in its own aspect, of which a window just covers one axis; times a factor.

    For square windows this is the short side at the window's length [published: 512 and 512].
    """
    scale = factor * max(window[0] / size[0], window[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized_image(image: Shaped[np.ndarray, "h w c"], size: tuple[int, int]) -> Shaped[np.ndarray, "c y x"]:
    """The whole image at another size: bicubic, antialiased."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    return resize(image, size, (0.0, 0.0, float(width), float(height)))


def cut_out(
    image: Shaped[np.ndarray, "h w c"],
    mask: Int16[np.ndarray, "h w"],
    place: Place,
    window: tuple[int, int],
    normalise: Normalisation,
    *,
    flipped: bool = False,
) -> Seen:
    """What stands in the window, resized from the image itself; the mask by the nearest pixel.

    Where the window is larger than the resized image it is filled up, to the right and below, with the mean colour and
    VOID.
    """
    rows, columns = min(window[0], place.height), min(window[1], place.width)
    down, across = image.shape[0] / place.height, image.shape[1] / place.width
    box = (place.left * across, place.top * down, (place.left + columns) * across, (place.top + rows) * down)
    pixels = torch.zeros(image.shape[2], *window)
    labels = np.full(window, VOID, np.int16)
    pixels[:, :rows, :columns] = normalise(resize(image, (rows, columns), box))
    labels[:rows, :columns] = _nearest(mask, place, rows, columns)
    return Seen(pixels.flip(2), labels[:, ::-1].copy()) if flipped else Seen(pixels, labels)


def _nearest(mask: np.ndarray, place: Place, rows: int, columns: int) -> np.ndarray:
    """The class under the centre of each pixel of the window."""
    down = ((place.top + np.arange(rows) + 0.5) * mask.shape[0] / place.height).astype(np.int64)
    across = ((place.left + np.arange(columns) + 0.5) * mask.shape[1] / place.width).astype(np.int64)
    return mask[np.ix_(down.clip(0, mask.shape[0] - 1), across.clip(0, mask.shape[1] - 1))]


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """`scale` bounds the factor by which a crop's image is larger than the one it just covers, `flip` is a probability,
    and another crop is drawn where one class has `most_of_one_class` of the labelled pixels [mmsegmentation's ADE20K
    recipe: 0.5 to 2, 0.5, 0.75]."""

    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    most_of_one_class: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"scale must be two factors above 0, the smaller first. Got {self.scale}.")
        check(self, "above 0", ("scale", "most_of_one_class"))
        check(self, "from 0 to 1", ("flip",))

    def __call__(
        self,
        image: Shaped[np.ndarray, "h w c"],
        mask: Int16[np.ndarray, "h w"],
        window: tuple[int, int],
        normalise: Normalisation,
        rng: random.Random,
    ) -> Seen:
        """A random crop of an image."""
        size = covering(mask.shape, window, self.scale[0] + (self.scale[1] - self.scale[0]) * rng.random())
        for _ in range(ATTEMPTS):
            top, left = (int(rng.random() * (max(0, size[i] - window[i]) + 1)) for i in (0, 1))
            place = Place(*size, top, left)
            if self._is_mixed(_nearest(mask, place, min(window[0], size[0]), min(window[1], size[1]))):
                break
        return cut_out(image, mask, place, window, normalise, flipped=rng.random() < self.flip)

    def _is_mixed(self, labels: np.ndarray) -> bool:
        counts = np.bincount(labels[labels != VOID].astype(np.int64))
        return bool(counts.max(initial=0) < self.most_of_one_class * counts.sum())


def stacked(seen: Sequence[Seen]) -> tuple[Float[Tensor, "b c h w"], Shaped[Tensor, "b h w"]]:
    """A batch: pixels, and classes as int64 for a loss."""
    labels = torch.from_numpy(np.stack([each.labels for each in seen])).long()
    return torch.stack([each.pixels for each in seen]), labels
