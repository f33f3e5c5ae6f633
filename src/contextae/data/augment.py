"""From a decoded image to what the network sees: a random crop while training, the whole image in an evaluation."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from contextae.data.cuts import Cut, cut
from contextae.data.picture import Picture, region
from contextae.data.resize import Box, resize
from contextae.errors import UserError

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's and torchvision's gray
ATTEMPTS = 10  # torchvision's RandomResizedCrop


class Part(NamedTuple):
    """A box of an image, (left, top, right, bottom) in pixels, whether it is flipped left to right, and factors of
    brightness, contrast and saturation in the order in which they apply."""

    box: Box
    flipped: bool
    jitters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A random part of the image, resized to `size` (bicubic, antialiased), and possibly flipped left to right.

    `scale` bounds the part's share of the image's area and `ratio` its aspect relative to that of `size`, so that a
    network for upright images gets upright parts [the published recipe's 3/4 to 4/3, for square ones]. Where no part of
    the drawn area and aspect fits after ten attempts, the largest central one of the right aspect is taken.

    Of `kind` tile it is a part of exactly `size` pixels, wherever it falls, of images that are large enough for one; of
    others the largest central one of the right aspect.

    With `where` device the part is cut out and sent as it is, and the device resizes and flips (data/device.py).
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    colour_jitter: float = 0.0
    kind: Literal["resized", "tile"] = "resized"
    where: Literal["workers", "device"] = "workers"

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(
                f"scale must be two shares of the image's area in 0..1, the smaller first. Got {self.scale}."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"ratio must be two positive numbers, the smaller first. Got {self.ratio}.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip must be a probability in 0..1. Got {self.flip}.")
        if not 0 <= self.colour_jitter < 1:
            raise UserError(f"colour_jitter must be at least 0 and below 1. Got {self.colour_jitter}.")
        if self.where == "device" and self.colour_jitter:
            raise UserError(
                f"Colours are changed by workers, so colour_jitter={self.colour_jitter} does not go with where=device."
            )

    def __call__(self, image: np.ndarray | Picture, rng: random.Random) -> np.ndarray | Cut:
        """h w c of any size to c h w of `size`, of the same type, or what the device makes that of."""
        return self.rendered(image, self.draw(image, rng))

    def rendered(self, image: np.ndarray | Picture, part: Part) -> np.ndarray | Cut:
        """The part in `size`, of a picture decoded no further than that needs."""
        if self.where == "device":
            return cut(image, part.box, self.size, flipped=part.flipped)
        pixels, box = region(image, part.box, self.size)
        return self.render(pixels, part._replace(box=box), self.size)

    def draw(self, image: np.ndarray | Picture, rng: random.Random) -> Part:
        """Which part of the image, whether it is flipped, and what happens to its colours."""
        box, flipped = self.box(image.shape[0], image.shape[1], rng), rng.random() < self.flip
        return Part(box, flipped, jitters(self.colour_jitter, rng) if self.colour_jitter else ())

    @staticmethod
    def render(image: np.ndarray, part: Part, size: tuple[int, int], *, lanczos: bool = False) -> np.ndarray:
        """The part as c h w of `size`, its colours changed afterwards."""
        cropped = jittered(resize(image, size, part.box, lanczos=lanczos), part.jitters)
        return cropped[:, :, ::-1] if part.flipped else cropped  # stacked, and so copied, next

    def box(self, height: int, width: int, rng: random.Random) -> Box:
        """Left, top, right and bottom of the part, in whole pixels of the image."""
        own = self.size[1] / self.size[0]  # width over height of what the network sees
        if self.kind == "tile":
            h, w = self.size
            if h > height or w > width:
                return central(height, width, own)
            left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
            return left, top, left + w, top + h
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(ATTEMPTS):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * rng.random())
            aspect = own * math.exp(low + (high - low) * rng.random())
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
                return left, top, left + w, top + h
        return central(height, width, own)


def central(height: int, width: int, aspect: float) -> Box:
    """The largest central box of `aspect`, width over height."""
    w, h = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def fit(image: np.ndarray | Picture, size: tuple[int, int]) -> np.ndarray:
    """h w c to c h w of `size`: the largest central part of the right aspect, resized, not flipped."""
    height, width = image.shape[:2]
    same = (height, width) == size
    box = (0.0, 0.0, float(width), float(height)) if same else central(height, width, size[1] / size[0])
    pixels, inner = region(image, box, size)
    if same and pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return np.ascontiguousarray(resize(pixels, size, inner))


def jitters(strength: float, rng: random.Random) -> tuple[tuple[str, float], ...]:
    """Factors uniform in 1 - strength to 1 + strength, in random order [torchvision's ColorJitter, without hue]."""
    names = ["brightness", "contrast", "saturation"]
    rng.shuffle(names)
    return tuple((name, 1 + strength * (2 * rng.random() - 1)) for name in names)


def jittered(image: np.ndarray, changes: tuple[tuple[str, float], ...]) -> np.ndarray:
    """c h w with other colours; saturation is left alone where there are not three channels.

    Each is a blend: brightness with 0, contrast with the mean gray, saturation with the gray image. Whole numbers are
    rounded, and kept within what their type holds.
    """
    if not changes:
        return image
    values = image.astype(np.float32)
    most = np.iinfo(image.dtype).max if image.dtype.kind == "u" else None
    for name, factor in changes:
        gray = np.tensordot(LUMINANCE, values, 1) if len(values) == 3 else values.mean(0)
        other: np.ndarray | float
        if name == "brightness":
            other = 0.0
        elif name == "contrast":
            other = float(gray.mean())
        else:
            other = gray if len(values) == 3 else values
        values = factor * values + (1 - factor) * other
        if most is not None:
            values = values.clip(0, most)
    return values if most is None else values.round().astype(image.dtype)
