"""Weights of an encoder brought to other channels, patch sizes and grids: functions of tensors alone.

What is kept is the response to gray input. Gray means the same *normalised* value in all channels: sources and runs
normalise by means and deviations of their own, so a gray pixel of a file is gray here only where these are equal.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from jaxtyping import Float
from timm.layers import resample_patch_embed
from torch import Tensor

from contextae.positions import sine_cosine

TABLE_TOLERANCE = (
    1e-4  # other libraries' rounding is within; a table saved in half precision is kept like a learned one
)


def adapt_channels(weight: Float[Tensor, "d c h w"], channels: int) -> Float[Tensor, "d k h w"]:
    """The patch embedding for another number of channels, with the same response to gray input.

    More channels: the source's in turn, each divided by the number of its copies. Fewer: the source's in turn, added
    up, so that one channel gets the sum. timm's `adapt_input_conv` does the same for 1 channel and for multiples of
    the source's; for other numbers it scales all copies by c / k (4 channels from red, green, blue: 3/4 of each, red
    twice) and drops what is left over (2 channels: no blue), which changes the response to gray.
    """
    source, exact = weight.shape[1], weight.double()
    if channels == source:
        return weight
    if channels > source:
        origin = torch.arange(channels) % source
        copies = torch.bincount(origin)[origin]
        adapted = exact[:, origin] / copies.reshape(1, -1, 1, 1)
    else:
        goal = torch.arange(source) % channels
        adapted = torch.zeros_like(exact[:, :channels]).index_add_(1, goal, exact)
    return adapted.to(weight.dtype)


def adapt_patch(weight: Float[Tensor, "d c h w"], patch_size: tuple[int, ...]) -> Float[Tensor, "d c i j"]:
    """The patch embedding for another patch size: FlexiViT's pseudo-inverse resize (arXiv 2212.08013), by timm.

    For larger patches the response to any patch, resized with it (bicubic, antialiased), stays as it was. For smaller
    ones no weight can do that; the pseudo-inverse comes nearest in squares over white noise, and misses even a patch
    of one value (by 8 % of the largest response from 16 x 16 to 8 x 8). Differs from FlexiViT: that miss is put right
    by the same amount on each pixel, so the response to a patch of one value is kept for every size.
    """
    if tuple(weight.shape[2:]) == tuple(patch_size):
        return weight
    resized = resample_patch_embed(weight.float(), list(patch_size)).double()
    missed = weight.double().sum((2, 3), keepdim=True) - resized.sum((2, 3), keepdim=True)
    return (resized + missed / prod(patch_size)).to(weight.dtype)


def fixed_layout(table: Float[Tensor, "n d"], size: tuple[int, ...]) -> Literal["rows first", "columns first"] | None:
    """Which fixed sine-cosine table this is: ours (and MoCo v3's), MAE's with its halves swapped, or neither."""
    ours = sine_cosine(size, table.shape[1])
    if torch.allclose(table, ours, rtol=0, atol=TABLE_TOLERANCE):
        return "rows first"
    if torch.allclose(table, ours.roll(table.shape[1] // 2, dims=1), rtol=0, atol=TABLE_TOLERANCE):
        return "columns first"
    return None


def without_key_bias(bias: Float[Tensor, " e"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Biases of queries and values out of one of queries, keys and values.

    Nothing is lost: a key bias adds the same number to all products of a query, which softmax does not see.
    """
    queries, _, values = bias.chunk(3)
    return queries.clone(), values.clone()
