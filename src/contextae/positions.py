"""Fixed sine-cosine positions for any grid, and their values at chosen patches."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from timm.layers import resample_abs_pos_embed
from torch import Tensor


def sine_cosine(size: tuple[int, ...], width: int, *, temperature: float = 10_000.0) -> Float[Tensor, "n d"]:
    """The table of all patches of a grid of `size`, row-major, computed in float64 and returned in float32.

    Per axis, first axis first: the sines of all frequencies, then their cosines; each axis has an equal even share of
    `width` and what does not divide stays zero. For two axes this is [sin row, cos row, sin column, cos column], the
    layout of MoCo v3 and of the published CAE (timm: `build_sincos2d_pos_embed(..., interleave_sin_cos=True)`); MAE's
    has the halves swapped. Differs from the published code on grids that are not square: there its table does not
    match the order of the patches, here it does.
    """
    frequencies = width // (2 * len(size))
    if frequencies < 1:
        raise ValueError(f"width must be at least {2 * len(size)} for {len(size)} axes. Got {width}.")
    omega = temperature ** (-torch.arange(frequencies, dtype=torch.float64) / frequencies)
    axes = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in size), indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in axes]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return torch.nn.functional.pad(table, (0, width - table.shape[1])).float()


def adapt_positions(
    table: Float[Tensor, "n d"], size: tuple[int, ...], new_size: tuple[int, ...]
) -> Float[Tensor, "m d"]:
    """A learned table of positions for another grid: bicubic, antialiased, by timm; the same grid changes nothing."""
    resized = resample_abs_pos_embed(table.unsqueeze(0), list(new_size), list(size), num_prefix_tokens=0)
    return resized.squeeze(0)


def at(table: Float[Tensor, "n d"], indices: Int[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
    """Positions of the patches that `indices` name."""
    return table[indices]


def select(values: Shaped[Tensor, "b n d"], indices: Int[Tensor, "b s"]) -> Shaped[Tensor, "b s d"]:
    """The rows that `indices` name, per sample. Its gradient goes back to those rows alone."""
    return values.gather(1, indices.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
