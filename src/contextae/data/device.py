"""Crop and flip of a batch on the device: as loader processes do them, from the same draws.

Resizing is two products with matrices of kernel weights, one per axis, so that images of any number of channels and
cuts of any size are done in one batch: 0.4 GFLOP an image of 224 x 224 x 3. The axis that shrinks more comes first, and
whole numbers are rounded and clipped between the axes, as in `resize`. Differs from it in the arithmetic, float32 here
and fixed point there: of 8 and of 16 bits at most 2 levels, more than 1 in fewer than one of 10,000 values, any in
fewer than one of 100; of floats 1e-6 of their range. Where Pillow resizes, for want of the fast library, hard black and
white edges differ by more, as `resize` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from contextae.data.cuts import Cuts

SHARPNESS = -0.5  # Keys' a [1981], as Pillow's bicubic
AT_ONCE = 64
"Images resized at a time: each takes some 3 MB meanwhile."


class Axis(NamedTuple):
    """Along one axis of each image: where its box begins, how long it is, of how many pixels there are."""

    begin: Tensor
    length: Tensor
    pixels: Tensor


def cropped(cuts: Cuts, size: tuple[int, int], device: torch.device) -> Tensor:
    """The crops b c h w of `size`, of the type that the cuts have, on the device; only the cuts travel there."""
    pixels, sizes, boxes, flipped = (
        torch.from_numpy(array).pin_memory() if device.type == "cuda" else torch.from_numpy(array) for array in cuts
    )
    pixels, sizes, boxes, flipped = (part.to(device, non_blocking=True) for part in (pixels, sizes, boxes, flipped))
    across = Axis(boxes[:, 0], boxes[:, 2] - boxes[:, 0], sizes[:, 1])
    down = Axis(boxes[:, 1], boxes[:, 3] - boxes[:, 1], sizes[:, 0])
    height, width = cuts.sizes[:, 0], cuts.sizes[:, 1]
    down_first = torch.from_numpy((height > size[0]) & (height * size[1] > width * size[0]))
    result = torch.empty((len(pixels), pixels.shape[3], *size), device=device)
    with exact_products():
        for first in (False, True):
            for which in torch.nonzero(down_first == first).flatten().split(AT_ONCE):
                chosen = which.to(device)
                to_columns = weights(Axis(*(part[chosen] for part in across)), size[1], pixels.shape[2])
                to_columns = torch.where(flipped[chosen, None, None], to_columns.flip(1), to_columns)
                to_rows = weights(Axis(*(part[chosen] for part in down)), size[0], pixels.shape[1])
                values = picked(pixels, chosen).permute(0, 3, 1, 2).float()
                result[chosen] = resampled(values, to_rows, to_columns, pixels.dtype, down_first=first)
    return result.to(pixels.dtype)


def picked(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Some of a batch; torch picks no entries of uint16 by number, but of what lies there."""
    return pixels.view(torch.int16)[chosen].view(torch.uint16) if pixels.dtype == torch.uint16 else pixels[chosen]


def resampled(values: Tensor, to_rows: Tensor, to_columns: Tensor, dtype: torch.dtype, *, down_first: bool) -> Tensor:
    """Values b c y x to b c h w by weights b h y and b w x, one axis after the other."""
    to_rows = to_rows.unsqueeze(1)
    to_columns = to_columns.transpose(1, 2).unsqueeze(1)
    if down_first:
        return rounded(rounded(to_rows @ values, dtype) @ to_columns, dtype)
    return rounded(to_rows @ rounded(values @ to_columns, dtype), dtype)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """In float32, to the nearest number that the type holds."""
    if dtype == torch.float32:
        return values
    return (values + 0.5).floor().clamp(0, torch.iinfo(dtype).max)


def weights(axis: Axis, out: int, pixels: int) -> Tensor:
    """b out pixels: what each pixel gives to each result; each row is 1 in sum, and 0 beyond an image's own pixels."""
    device = axis.begin.device
    scale = (axis.length / out)[:, None, None]
    centre = axis.begin[:, None, None] + (torch.arange(out, device=device)[:, None] + 0.5) * scale
    place = torch.arange(pixels, device=device)
    kernel = bicubic((place + 0.5 - centre) / scale.clamp(min=1.0))
    kernel = torch.where(place < axis.pixels[:, None, None], kernel, 0.0)
    return (kernel / kernel.sum(-1, keepdim=True)).float()


def bicubic(distance: Tensor) -> Tensor:
    """Keys' kernel at a distance in pixels."""
    x, a = distance.abs(), SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


@contextmanager
def exact_products() -> Iterator[None]:
    """Products in float32 as they are, where a training has allowed a GPU to shorten their factors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
