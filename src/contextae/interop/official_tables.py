"""The position tables that published files save although they are constants: checked on the way in, written out again.

A table has a first row of zeros for the class token. The released code fills it in
another order than that of the patches where a grid is not square.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from contextae.errors import UserError
from contextae.grid import Grid
from contextae.interop.official_read import Released
from contextae.positions import sine_cosine

CLOSE = 1e-6
TABLES = ("encoder.pos_embed", "rd_pos_embed")


def single_precision(size: tuple[int, ...], width: int) -> Float[Tensor, "n d"]:
    """`sine_cosine` of two axes computed in float32, as the release does: bit-equal to what it saves."""
    omega = 1.0 / 10_000.0 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    axes = torch.meshgrid(*(torch.arange(length, dtype=torch.float32) for length in size), indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in axes]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return torch.nn.functional.pad(table, (0, width - table.shape[1]))


def tables_of(grid: Grid, width: int, regressor_width: int | None) -> dict[str, Tensor]:
    """The tables of a file by their released names; an encoder alone has one."""
    tables = {"encoder.pos_embed": _with_class_token(single_precision(grid.size, width))}
    if regressor_width is not None:
        tables["rd_pos_embed"] = _with_class_token(single_precision(grid.size, regressor_width))
    return tables


def check_tables(released: Released, grid: Grid) -> None:
    """Refuses by name a saved table that is not the sine-cosine table of this grid; tables are not loaded."""
    for name in TABLES:
        if name in released.tables:
            _check(released.tables[name], released.told(name), grid)


def _check(table: Tensor, name: str, grid: Grid) -> None:
    rows, width = table.shape[-2:]
    if table.ndim != 3 or rows != grid.num_patches + 1:
        raise UserError(
            f"{name} must have one row for the class token and one for each patch. It is of shape "
            f"{list(table.shape)}; images of {grid.image_size} in patches of {grid.patch_size} have "
            f"{grid.num_patches} patches. Give the image size that these weights were trained on."
        )
    near = CLOSE + torch.finfo(table.dtype).eps * (table.dtype != torch.float32)
    values = table[0].float()
    if all(
        _apart(values, known) > near for known in (sine_cosine(grid.size, width), single_precision(grid.size, width))
    ):
        turned = _apart(values, single_precision(grid.size[::-1], width)) <= near
        raise UserError(
            f"{name} must be the fixed sine-cosine table of {grid.size} patches, for positions are not loaded. "
            + (
                "It holds that of a grid with its axes exchanged: the released code fills it in another order than "
                "that of the patches where the grid is not square, so these weights were trained with wrong positions "
                "and would give other outputs here. Only weights of square images can be read."
                if turned
                else f"It differs by up to {_apart(values, sine_cosine(grid.size, width)):.2g}. It was trained, or is "
                "of another image size or method."
            )
        )


def _apart(values: Tensor, table: Tensor) -> float:
    return float((values - _with_class_token(table)[0]).abs().max())


def _with_class_token(table: Float[Tensor, "n d"]) -> Float[Tensor, "1 1+n d"]:
    return torch.nn.functional.pad(table, (0, 0, 1, 0)).unsqueeze(0)
