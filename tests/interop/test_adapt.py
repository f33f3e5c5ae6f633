"""What adapting keeps: the response to gray, to patches resized along, and the look of a table of positions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from foreign_vit import columns_first
from timm.layers import resample_patch_embed
from timm.models._manipulate import adapt_input_conv
from torch import Tensor

from contextae.interop.adapt import adapt_channels, adapt_patch, fixed_layout, without_key_bias
from contextae.positions import adapt_positions, sine_cosine

SIZES = [(4, 6), (2, 3), (8, 12), (5, 4), (3, 9), (1, 1), (16, 16), (7, 6)]


def weight_of(channels: int, *patch: int) -> Tensor:
    return torch.randn(7, channels, *patch)


@pytest.mark.parametrize(("old", "new"), [(3, 1), (1, 3), (3, 2), (3, 4), (3, 5), (3, 9), (5, 3), (2, 1), (1, 6)])
def test_the_response_to_gray_is_kept_for_any_channels(old: int, new: int) -> None:
    weight, gray = weight_of(old, 4, 6).double(), torch.randn(5, 1, 4, 6).double()
    adapted = adapt_channels(weight, new)
    assert adapted.shape == (7, new, 4, 6)
    before, after = F.conv2d(gray.expand(-1, old, -1, -1), weight), F.conv2d(gray.expand(-1, new, -1, -1), adapted)
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0)
    rounded = adapt_channels(weight.float(), new)
    torch.testing.assert_close(rounded, adapted.float(), atol=1e-6, rtol=0)


def test_channels_come_in_turn_and_the_same_number_changes_nothing() -> None:
    weight = weight_of(3, 4, 6)
    red, green, blue = weight.unbind(1)
    torch.testing.assert_close(adapt_channels(weight, 4), torch.stack([red / 2, green, blue, red / 2], 1))
    torch.testing.assert_close(adapt_channels(weight, 2), torch.stack([red + blue, green], 1))
    assert torch.equal(adapt_channels(weight, 3), weight)


@pytest.mark.parametrize("new", [1, 3, 6, 9])
def test_timm_agrees_on_one_channel_and_on_multiples(new: int) -> None:
    weight = weight_of(3, 4, 6)
    torch.testing.assert_close(adapt_channels(weight, new), adapt_input_conv(new, weight), atol=1e-6, rtol=0)


@pytest.mark.parametrize("new", [2, 4])
def test_timm_changes_the_response_to_gray_elsewhere(new: int) -> None:
    weight = weight_of(3, 4, 6)
    assert (adapt_input_conv(new, weight).sum(1) - weight.sum(1)).abs().max() > 0.1


@pytest.mark.parametrize("old", [(4, 6), (16, 16)])
@pytest.mark.parametrize("new", SIZES)
def test_the_response_to_one_gray_is_kept_for_any_patch_size(old: tuple[int, int], new: tuple[int, int]) -> None:
    weight = weight_of(3, *old).double()
    adapted = adapt_patch(weight, new)
    assert adapted.shape == (7, 3, *new) and adapted.dtype == torch.float64
    torch.testing.assert_close(adapted.sum((2, 3)), weight.sum((2, 3)), atol=1e-12, rtol=0)
    rounded = adapt_patch(weight.float(), new).double().sum((2, 3))
    torch.testing.assert_close(rounded, weight.sum((2, 3)), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), [((4, 6), (5, 9)), ((4, 6), (8, 6)), ((6, 4), (13, 8)), ((16, 16), (32, 20))])
def test_larger_patches_keep_the_response_to_any_pattern(old: tuple[int, int], new: tuple[int, int]) -> None:
    weight, patches = weight_of(2, *old), torch.randn(5, 2, *old)
    resized = F.interpolate(patches, size=new, mode="bicubic", antialias=True)
    after = F.conv2d(resized, adapt_patch(weight, new))
    torch.testing.assert_close(after, F.conv2d(patches, weight), atol=1e-3, rtol=0)


def test_smaller_patches_differ_from_the_library_by_one_number_a_channel() -> None:
    weight = weight_of(3, 16, 16)
    adapted, plain = adapt_patch(weight, (8, 6)), resample_patch_embed(weight, [8, 6])
    added = adapted - plain
    torch.testing.assert_close(added, added.mean((2, 3), keepdim=True).expand_as(added), atol=1e-5, rtol=0)
    missed = (plain.sum((2, 3)) - weight.sum((2, 3))).abs().max() / weight.sum((2, 3)).abs().max()
    assert 0.01 < missed < 0.3, "which the library alone misses"
    assert torch.equal(adapt_patch(weight, (16, 16)), weight)


def test_smooth_patches_keep_their_response_roughly_when_they_shrink() -> None:
    weight = F.interpolate(weight_of(3, 4, 4), size=(16, 16), mode="bicubic")
    smooth = F.interpolate(torch.randn(50, 3, 3, 3), size=(16, 16), mode="bicubic")
    half = F.interpolate(smooth, size=(8, 8), mode="bicubic", antialias=True)
    before, after = F.conv2d(smooth, weight).flatten(), F.conv2d(half, adapt_patch(weight, (8, 8))).flatten()
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.999
    assert (after.std() / before.std() - 1).abs() < 0.05


def test_a_table_moves_to_another_grid_with_its_axes() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 5), torch.linspace(0, 1, 7), indexing="ij")
    table = torch.stack([rows, columns, torch.ones(5, 7)], -1).flatten(0, 1)
    moved = adapt_positions(table, (5, 7), (9, 4)).reshape(9, 4, 3)
    assert torch.equal(adapt_positions(table, (5, 7), (5, 7)), table)
    assert (moved[1:, :, 0] > moved[:-1, :, 0]).all() and (moved[:, 1:, 1] > moved[:, :-1, 1]).all()
    torch.testing.assert_close(moved[:, :, 0], moved[:, :1, 0].expand(-1, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[:, :, 2], torch.ones(9, 4), atol=1e-6, rtol=0)


def test_fixed_tables_are_recognised_on_their_grid_alone() -> None:
    assert fixed_layout(sine_cosine((5, 7), 24), (5, 7)) == "rows first"
    assert fixed_layout(sine_cosine((5, 7), 22) + 5e-5, (5, 7)) == "rows first"
    assert fixed_layout(columns_first(5, 7, 24), (5, 7)) == "columns first"
    assert fixed_layout(sine_cosine((5, 7), 24), (7, 5)) is None
    assert fixed_layout(sine_cosine((5, 7), 24) + 1e-3, (5, 7)) is None
    assert fixed_layout(torch.randn(35, 24), (5, 7)) is None


def test_the_key_bias_is_the_middle_third() -> None:
    queries, values = without_key_bias(torch.arange(12.0))
    assert queries.tolist() == [0, 1, 2, 3] and values.tolist() == [8, 9, 10, 11]
