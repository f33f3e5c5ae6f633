"""Pixels: a patch's own statistics, the loss, and the way back to something to look at."""

from __future__ import annotations

import pytest
import torch

from contextae.grid import Grid
from contextae.targets import VARIANCE_FLOOR, Pixels, Target
from networks import IMAGE


def test_each_patch_loses_its_own_mean_and_unbiased_deviation() -> None:
    patches = 3 + 2 * torch.randn(3, 35, 30)
    wanted = Pixels(grid=IMAGE).value(patches)
    for b, n in ((0, 0), (1, 17), (2, 34)):
        patch = patches[b, n].double()
        mean = patch.sum() / 30
        variance = ((patch - mean) ** 2).sum() / 29
        expected = (patch - mean) / (variance + 1e-6).sqrt()
        torch.testing.assert_close(wanted[b, n].double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(wanted.var(-1), torch.ones(3, 35), atol=1e-4, rtol=0)
    assert VARIANCE_FLOOR == 1e-6


def test_statistics_are_over_all_channels_of_a_patch_together() -> None:
    patches = torch.randn(2, 35, 30)
    patches[..., :6] += 10  # the first of five channels is much brighter, and stays so
    wanted = Pixels(grid=IMAGE).value(patches)
    assert (wanted[..., :6] > wanted[..., 6:].amax(-1, keepdim=True)).all()


def test_flat_patches_stay_finite() -> None:
    wanted = Pixels(grid=IMAGE).value(torch.full((1, 35, 30), 0.7))
    assert torch.isfinite(wanted).all() and wanted.abs().max() < 1e-2
    one_value = Grid(image_size=(5, 7), patch_size=(1, 1), channels=1)
    assert torch.equal(Pixels(grid=one_value).value(torch.randn(2, 35, 1)), torch.zeros(2, 35, 1))


def test_raw_pixels_are_the_patches_themselves() -> None:
    patches = torch.randn(2, 35, 30)
    raw = Pixels(grid=IMAGE, normalise=False)
    assert torch.equal(raw.value(patches), patches)
    prediction = torch.randn(2, 11, 30)
    assert torch.equal(raw.to_patches(prediction, patches[:, :11]), prediction)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_perfect_prediction_has_no_loss_and_shows_the_patches_again(normalise: bool) -> None:
    target, patches = Pixels(grid=IMAGE, normalise=normalise), 3 + 2 * torch.randn(3, 11, 30)
    wanted = target.value(patches)
    assert float(target.loss(wanted, wanted)) == 0
    torch.testing.assert_close(target.to_patches(wanted, patches), patches, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_the_mean_over_all_elements_in_float32(dtype: torch.dtype) -> None:
    prediction, wanted = torch.randn(2, 5, 7).to(dtype), torch.randn(2, 5, 7).to(dtype)
    expected = (prediction.double() - wanted.double()).square().sum() / 70
    out = Pixels(grid=IMAGE).loss(prediction, wanted)
    assert out.dtype == torch.float32
    assert float(out) == pytest.approx(float(expected), rel=1e-5)


def test_its_width_is_the_number_of_values_of_a_patch() -> None:
    assert Pixels(grid=IMAGE).width == 30
    assert isinstance(Pixels(grid=IMAGE), Target)
