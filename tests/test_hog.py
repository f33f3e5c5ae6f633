"""HOG against scikit-image's, and what its interpolation and channels mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from contextae.errors import UserError
from contextae.hog import cell_histograms, hog


@pytest.mark.parametrize(("size", "cell", "block"), [((32, 32), (4, 4), (2, 2)), ((29, 43), (5, 7), (2, 3))])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_scikit_image(
    size: tuple[int, int], cell: tuple[int, int], block: tuple[int, int], channels: int
) -> None:
    feature = pytest.importorskip("skimage.feature")
    images = np.random.default_rng(0).integers(0, 256, (3, channels, *size)).astype(np.float64)
    ours = hog(torch.from_numpy(images), cell_size=cell, block_size=block, interpolate=False)
    for image, got in zip(images, ours, strict=True):
        wanted = feature.hog(
            image.transpose(1, 2, 0),
            pixels_per_cell=cell,
            cells_per_block=block,
            block_norm="L2-Hys",
            channel_axis=2,
        )
        assert got.numpy() == pytest.approx(wanted, abs=1e-6)


def ramp(degrees: float, size: tuple[int, int] = (12, 20)) -> torch.Tensor:
    """An image whose gradient points everywhere at one angle, [1 1 h w]."""
    row, column = torch.meshgrid(*(torch.arange(length).double() for length in size), indexing="ij")
    angle = math.radians(degrees)
    return (row * math.sin(angle) + column * math.cos(angle))[None, None]


@pytest.mark.parametrize(
    ("degrees", "shares"),
    [(10, {0: 1.0}), (25, {0: 0.25, 1: 0.75}), (100, {4: 0.5, 5: 0.5}), (0, {8: 0.5, 0: 0.5}), (190, {0: 1.0})],
)
def test_magnitude_is_shared_between_the_two_nearest_orientations(degrees: float, shares: dict[int, float]) -> None:
    inner = cell_histograms(ramp(degrees), cell_size=(4, 5))[0, :, 1, 1]
    wanted = torch.zeros(9, dtype=torch.float64)
    for orientation, share in shares.items():
        wanted[orientation] = 2 * share  # central differences span two pixels
    assert torch.allclose(inner, wanted, atol=1e-9)


def test_the_strongest_channel_counts() -> None:
    weak, strong = ramp(10), 3 * ramp(90)
    both = cell_histograms(torch.cat([weak, strong, weak], dim=1), cell_size=(4, 5))
    inner = (slice(None), slice(None), 1, slice(1, 3))  # on the border the strong one has no gradient
    assert torch.equal(both[inner], cell_histograms(strong, cell_size=(4, 5))[inner])


def test_contrast_and_brightness_do_not_matter_and_rows_are_not_columns() -> None:
    images = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    assert torch.allclose(hog(images, cell_size=(4, 4)), hog(255 * images + 7, cell_size=(4, 4)), atol=1e-3)
    assert hog(images, cell_size=(4, 6)).shape == (2, 3 * 3 * 36)
    assert hog(images, cell_size=(8, 24)).shape == (2, 2 * 9), "fewer columns than a block"


def test_a_cell_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"must fit into the image of 8 x 9\. Got cells of 4 x 10"):
        hog(torch.zeros(1, 1, 8, 9), cell_size=(4, 10))
