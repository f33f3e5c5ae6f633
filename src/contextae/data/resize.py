"""Antialiased resizing of a box of an image: bicubic, or Lanczos, as Pillow does it, in a third of its time.

A kernel is as wide as four (six) pixels of the coarser of the two grids [Keys 1981, a = -0.5; Pillow's BICUBIC and
LANCZOS]. The axis that shrinks more is resampled first, and between the axes values of 8 and 16 bits are rounded and
clipped. Where nothing is clipped, a result is within 2 of 255 levels of Pillow's. Pillow 13 chooses the order of the
axes by rules of its own, which shows where overshoots are clipped: next to hard black and white edges.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]
"Left, top, right and bottom, in pixels."

TYPES = {"uint8": "U8", "uint16": "U16", "float32": "F32"}
RADIUS = {False: 2, True: 3}  # of the kernels, in pixels of the coarser grid: bicubic, Lanczos
WIDEST = 4  # channels that the fast library takes at once


class Region(NamedTuple):
    """Upright pixels h w c, and where among them a box lies that was asked for, in their own pixels."""

    image: np.ndarray
    box: Box


class Span(NamedTuple):
    """Where a box begins along one axis, how long it is, and how many pixels it becomes."""

    begin: float
    length: float
    out: int


def resize(image: np.ndarray, size: tuple[int, int], box: Box, *, lanczos: bool = False) -> np.ndarray:
    """The part of an image h w c in `box` as c h w of `size` (height, width), of the same type.

    A view in another order where there are few channels: whoever stacks it copies it once.

    uint8, uint16 or float32 and any number of channels, each on its own. Pixels beside the box, but inside the image,
    count at its edges, as in Pillow. Values of float32 are not clipped.
    """
    if image.dtype.name not in TYPES:
        raise ValueError(f"An image is resized as one of {', '.join(TYPES)}. Got {image.dtype.name}.")
    image, box = near(image, box, size, RADIUS[lanczos])
    across, down = Span(box[0], box[2] - box[0], size[1]), Span(box[1], box[3] - box[1], size[0])
    library = fast_library()
    groups = [image[:, :, first : first + WIDEST] for first in range(0, image.shape[2], WIDEST)]
    if library is None:
        made = [by_pillow(group, across, down, lanczos) for group in groups]
    else:
        made = [by_library(library, group, across, down, lanczos) for group in groups]
    return made[0] if len(made) == 1 else np.concatenate(made)


def near(image: np.ndarray, box: Box, size: tuple[int, int], radius: int) -> tuple[np.ndarray, Box]:
    """The pixels that have a part in the result, and the box among them; nothing else is copied or looked at."""
    (top, bottom), (left, right) = (
        reach(begin, end, out, length, radius)
        for begin, end, out, length in zip(box[1::-1], box[:1:-1], size, image.shape[:2], strict=True)
    )
    return image[top:bottom, left:right], (box[0] - left, box[1] - top, box[2] - left, box[3] - top)


def reach(begin: float, end: float, out: int, length: int, radius: int) -> tuple[int, int]:
    """First and last pixel of one axis that a kernel touches."""
    margin = radius * max((end - begin) / out, 1.0)
    return max(math.floor(begin - margin), 0), min(math.ceil(end + margin), length)


@cache
def fast_library() -> ModuleType | None:
    """Rust's fast_image_resize; None on machines for which it has no wheel, where Pillow resizes."""
    try:
        import cykooz_resizer
    except ImportError:
        return None
    return cykooz_resizer


def by_library(library: ModuleType, image: np.ndarray, across: Span, down: Span, lanczos: bool) -> np.ndarray:
    """One axis after the other, each on its own, so that the order is ours and not the library's."""
    height, width, channels = image.shape
    pixel = library.PixelType[TYPES[image.dtype.name] + (f"x{channels}" if channels > 1 else "")]
    kernel = library.FilterType.lanczos3 if lanczos else library.FilterType.catmull_rom
    algorithm = library.ResizeAlg.convolution(kernel)
    resizer = library.Resizer()  # one of its own for each call: threads must not share one
    data = library.ImageData(width, height, pixel, image.tobytes())
    down_first = height > down.out and height * across.out > width * down.out
    for horizontal in (False, True) if down_first else (True, False):
        span, long = (across, width) if horizontal else (down, height)
        length = min(span.length, long - span.begin)  # after rounding errors of the box
        if horizontal:
            width, part = span.out, library.CropBox(span.begin, 0, length, height)
        else:
            height, part = span.out, library.CropBox(0, span.begin, width, length)
        result = library.ImageData(width, height, pixel)
        resizer.resize(data, result, library.ResizeOptions(algorithm, use_alpha=False, crop_box=part))
        data = result
    values = np.frombuffer(data.get_buffer(), image.dtype).reshape(height, width, channels)
    return values.transpose(2, 0, 1)


def by_pillow(image: np.ndarray, across: Span, down: Span, lanczos: bool) -> np.ndarray:
    """The same by Pillow, which knows colour of 8 bits; what is deeper goes through its float images, by planes."""
    size, kernel = (across.out, down.out), Image.Resampling.LANCZOS if lanczos else Image.Resampling.BICUBIC
    box = (across.begin, down.begin, across.begin + across.length, down.begin + down.length)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size, kernel, box)).transpose(2, 0, 1)
    planes = (np.ascontiguousarray(image[:, :, c]) for c in range(image.shape[2]))
    if image.dtype == np.uint8:
        return np.stack([np.asarray(Image.fromarray(plane).resize(size, kernel, box)) for plane in planes])
    values = np.stack([np.asarray(Image.fromarray(p.astype(np.float32)).resize(size, kernel, box)) for p in planes])
    return values if image.dtype == np.float32 else values.round().clip(0, 65535).astype(np.uint16)
