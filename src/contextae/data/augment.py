"""From a decoded image to what the network sees: a random crop while training, the whole image in an evaluation."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from contextae.errors import UserError

ATTEMPTS = 10  # torchvision's RandomResizedCrop


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A random part of the image, resized to `size` (bicubic, antialiased), and possibly flipped left to right.

    `scale` bounds the part's share of the image's area and `ratio` its aspect relative to that of `size`, so that a
    network for upright images gets upright parts [the published recipe's 3/4 to 4/3, for square ones]. Where no part of
    the drawn area and aspect fits after ten attempts, the largest central one of the right aspect is taken.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(
                f"scale must be two shares of the image's area in 0..1, the smaller first. Got {self.scale}."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"ratio must be two positive numbers, the smaller first. Got {self.ratio}.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip must be a probability in 0..1. Got {self.flip}.")

    def __call__(self, image: np.ndarray, rng: random.Random) -> np.ndarray:
        """uint8 h w c of any size to uint8 c h w of `size`."""
        box = self.box(image.shape[0], image.shape[1], rng)
        cropped = resize(image, self.size, box)
        if rng.random() < self.flip:
            cropped = cropped[:, :, ::-1]
        return np.ascontiguousarray(cropped)

    def box(self, height: int, width: int, rng: random.Random) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part, in whole pixels of the image."""
        own = self.size[1] / self.size[0]  # width over height of what the network sees
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(ATTEMPTS):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * rng.random())
            aspect = own * math.exp(low + (high - low) * rng.random())
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
                return left, top, left + w, top + h
        return central(height, width, own)


def central(height: int, width: int, aspect: float) -> tuple[float, float, float, float]:
    """The largest central box of `aspect`, width over height."""
    w, h = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 h w c to uint8 c h w of `size`: the largest central part of the right aspect, resized, not flipped."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    return resize(image, size, central(height, width, size[1] / size[0]))


def resize(image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a uint8 h w c image in `box`, as uint8 c h w of `size`; bicubic with antialiasing, by Pillow."""
    to = (size[1], size[0])
    if image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(to, Image.Resampling.BICUBIC, box=box)).transpose(2, 0, 1)
    planes = (Image.fromarray(np.ascontiguousarray(image[:, :, c])) for c in range(image.shape[2]))
    return np.stack([np.asarray(plane.resize(to, Image.Resampling.BICUBIC, box=box)) for plane in planes])
