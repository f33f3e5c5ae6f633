"""Windows over an image of any size, and the mean of what is said of each pixel in all windows that hold it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from contextae.errors import UserError

STRIDE_SHARE = 341 / 512
"""Stride over window of the published protocol."""


def stride_of(window: tuple[int, int]) -> tuple[int, int]:
    """In the published proportion."""
    return max(1, round(window[0] * STRIDE_SHARE)), max(1, round(window[1] * STRIDE_SHARE))


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: every stride, the last one moved back to the end; 0 alone where one covers."""
    if not 1 <= stride <= window:
        raise UserError(
            f"The stride of sliding windows is at least 1 and at most the window, or pixels would be left out. Got a "
            f"stride of {stride} and a window of {window}."
        )
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def slide(
    logits_of: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k h w"]],
    image: Float[Tensor, "c y x"],
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int = 8,
) -> Float[Tensor, "k y x"]:
    """Logits of every pixel of a normalised image, averaged over the windows that hold it.

    An image that is smaller than a window is filled up at the right and the bottom with zeros, the mean colour; what is
    said of them is cut off.
    """
    height, width = image.shape[1:]
    padded = F.pad(image, (0, max(0, window[1] - width), 0, max(0, window[0] - height)))
    corners = [
        (top, left) for top in starts(height, window[0], stride[0]) for left in starts(width, window[1], stride[1])
    ]
    total: Tensor | None = None
    times = torch.zeros(padded.shape[1:], device=image.device)
    for first in range(0, len(corners), batch_size):
        some = corners[first : first + batch_size]
        cut = torch.stack([padded[:, top : top + window[0], left : left + window[1]] for top, left in some])
        for logits, (top, left) in zip(logits_of(cut).float(), some, strict=True):
            if total is None:
                total = logits.new_zeros(len(logits), *padded.shape[1:])
            total[:, top : top + window[0], left : left + window[1]] += logits
            times[top : top + window[0], left : left + window[1]] += 1
    assert total is not None
    return (total / times)[:, :height, :width]
