"""Patches: the order of their values, the way back, and sizes that are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextae.errors import UserError
from contextae.grid import Grid, patchify, unpatchify

PATCHES_AND_LENGTH = st.tuples(st.integers(1, 5), st.integers(1, 4))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    axes=st.lists(PATCHES_AND_LENGTH, min_size=1, max_size=3),
    channels=st.sampled_from([1, 2, 3, 5]),
    batch=st.integers(1, 3),
)
def test_unpatchify_inverts_patchify(axes: list[tuple[int, int]], channels: int, batch: int) -> None:
    patch = tuple(p for _, p in axes)
    grid = Grid(image_size=tuple(n * p for n, p in axes), patch_size=patch, channels=channels)
    images = torch.arange(batch * grid.channels * torch.tensor(grid.image_size).prod()).float()
    images = images.reshape(batch, grid.channels, *grid.image_size)
    patches = patchify(images, grid)
    assert patches.shape == (batch, grid.num_patches, grid.patch_values)
    assert torch.equal(unpatchify(patches, grid), images)


def test_patches_are_row_major_and_their_values_in_channel_row_column_order() -> None:
    grid = Grid(image_size=(6, 15), patch_size=(2, 5), channels=7)
    images = torch.randn(2, 7, 6, 15)
    patches = patchify(images, grid)
    assert grid.size == (3, 3)
    for sample in range(2):
        for row in range(3):
            for column in range(3):
                block = images[sample, :, 2 * row : 2 * row + 2, 5 * column : 5 * column + 5]
                assert torch.equal(patches[sample, 3 * row + column], block.reshape(-1))


def test_patches_of_a_clip_are_in_frame_row_column_order() -> None:
    grid = Grid(image_size=(4, 3, 10), patch_size=(2, 3, 5), channels=2)
    clips = torch.randn(3, 2, 4, 3, 10)
    patches = patchify(clips, grid)
    assert torch.equal(patches[1, 2], clips[1, :, 2:4, 0:3, 0:5].reshape(-1))
    assert torch.equal(patches[1, 1], clips[1, :, 0:2, 0:3, 5:10].reshape(-1))


def test_a_linear_embedding_is_a_convolution_with_its_weight_reshaped() -> None:
    grid = Grid(image_size=(6, 14), patch_size=(3, 2), channels=5)
    images, conv = torch.randn(2, 5, 6, 14), torch.nn.Conv2d(5, 11, (3, 2), stride=(3, 2))
    linear = torch.nn.functional.linear(patchify(images, grid), conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(linear, conv(images).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_counts() -> None:
    grid = Grid(image_size=(128, 96), patch_size=(8, 16), channels=2)
    assert (grid.size, grid.num_patches, grid.patch_values) == ((16, 6), 96, 256)
    assert Grid(image_size=(4,), patch_size=(2,)).channels == 3


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": (8, 8), "patch_size": (4,)}, r"same number of axes. Got \(8, 8\) and \(4,\); give one"),
        ({"image_size": (8, 8), "patch_size": (4, 0)}, r"must be positive. Got .*patch_size=\(4, 0\)"),
        ({"image_size": (0, 8), "patch_size": (4, 4)}, r"must be positive. Got image_size=\(0, 8\)"),
        ({"image_size": (8, 8), "patch_size": (4, 4), "channels": 0}, r"must be positive. Got .*channels=0"),
        (
            {"image_size": (8, 30), "patch_size": (4, 7)},
            r"must divide .* 30 is not a multiple of 7. Use 28 instead of 30",
        ),
        ({"image_size": (3, 8), "patch_size": (8, 4)}, r"3 is not a multiple of 8. Use 8 instead of 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Grid(**sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 3, 10, 6), (2, 1, 6, 10), (2, 3, 6, 20)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    grid = Grid(image_size=(6, 10), patch_size=(3, 5))
    with pytest.raises(
        UserError, match=r"must have 3 channel\(s\) and size \(6, 10\). Got a batch of shape .*; resize"
    ):
        patchify(torch.zeros(shape), grid)
