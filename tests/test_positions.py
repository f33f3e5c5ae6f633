"""Sine-cosine tables against timm, an explicit loop and MAE's layout; rows picked by index."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

from contextae.positions import at, select, sine_cosine


@pytest.mark.parametrize(("side", "width"), [(1, 4), (5, 12), (14, 384)])
def test_square_grids_equal_timm(side: int, width: int) -> None:
    theirs = build_sincos2d_pos_embed([side, side], dim=width, interleave_sin_cos=True)
    torch.testing.assert_close(sine_cosine((side, side), width), theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("size", "width"), [((3, 7), 20), ((7, 3), 20), ((11,), 6), ((2, 3, 5), 18)])
def test_any_grid_equals_an_explicit_loop(size: tuple[int, ...], width: int) -> None:
    table, share = sine_cosine(size, width), width // len(size)
    for n in range(math.prod(size)):
        place, rest = [], n
        for length in reversed(size):  # row-major: the last axis runs fastest
            place.insert(0, rest % length)
            rest //= length
        row = []
        for coordinate in place:
            angles = [coordinate / 10_000 ** (2 * k / share) for k in range(share // 2)]
            row += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        torch.testing.assert_close(table[n], torch.tensor(row), atol=1e-6, rtol=0)


def test_mae_has_the_halves_swapped() -> None:
    """MAE puts the column first; its table of a transposed grid is ours with the halves exchanged."""
    rows, columns, width = 3, 5, 16
    ours = sine_cosine((rows, columns), width)
    mae = torch.cat([ours[:, width // 2 :], ours[:, : width // 2]], dim=1)
    transposed = sine_cosine((columns, rows), width).reshape(columns, rows, width).transpose(0, 1).reshape(-1, width)
    torch.testing.assert_close(mae, transposed)


def test_every_patch_has_a_position_of_its_own_and_the_rest_of_the_width_is_zero() -> None:
    table = sine_cosine((5, 7), 22)
    assert table.shape == (35, 22) and table.dtype == torch.float32
    assert float(torch.cdist(table, table).fill_diagonal_(1).min()) > 0.1
    assert (table[:, 20:] == 0).all() and (table[:, :20].abs().amax(0) > 0).all()


def test_a_width_without_room_for_one_frequency_is_refused() -> None:
    with pytest.raises(ValueError, match=r"width must be at least 6 for 3 axes. Got 5"):
        sine_cosine((2, 2, 2), 5)


def test_at_and_select_pick_the_named_rows() -> None:
    indices = torch.tensor([[4, 0, 2], [1, 1, 3]])
    table, values = torch.randn(5, 7), torch.randn(2, 5, 7, requires_grad=True)
    for sample in range(2):
        for place in range(3):
            assert torch.equal(at(table, indices)[sample, place], table[indices[sample, place]])
            assert torch.equal(select(values, indices)[sample, place], values[sample, indices[sample, place]])
    select(values, indices).sum().backward()
    assert values.grad is not None
    assert values.grad[..., 0].tolist() == [[1, 0, 1, 0, 1], [0, 2, 0, 1, 0]]
