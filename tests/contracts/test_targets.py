"""What every target must do that a setting can name."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from contextae.encoder import EncoderConfig
from contextae.grid import Grid
from contextae.methods.cae import CAEConfig
from contextae.targets import Pixels, Target
from networks import GRIDS, largest

TARGETS = {
    "pixels, normalised": lambda grid: Pixels(grid=grid, normalise=True),
    "pixels, raw": lambda grid: Pixels(grid=grid, normalise=False),
}
EVERY_TARGET = pytest.mark.parametrize("name", TARGETS)
EVERY_GRID = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def test_the_contract_covers_every_target() -> None:
    assert {name.partition(",")[0] for name in TARGETS} == set(get_args(CAEConfig.model_fields["target"].annotation))


@pytest.mark.parametrize("name", get_args(CAEConfig.model_fields["target"].annotation))
def test_the_setting_builds_it_and_the_decoder_has_its_width(name: str) -> None:
    trunk = EncoderConfig(patch_size=(2, 3), width=22, depth=1, num_heads=2)
    method = CAEConfig(target=name).build(trunk, image_size=(10, 21), channels=5)
    assert isinstance(method.target, Target)
    assert method.decoder.head.out_features == method.target.width


@EVERY_TARGET
@EVERY_GRID
def test_values_are_per_patch_and_of_its_width(name: str, grid: Grid) -> None:
    target = TARGETS[name](grid)
    patches = torch.randn(3, grid.num_patches, grid.patch_values)
    value = target.value(patches)
    assert value.shape == (3, grid.num_patches, target.width) and torch.isfinite(value).all()
    changed = patches.clone()
    changed[:, 4] = torch.randn(3, grid.patch_values)
    differs = (target.value(changed) != value).any(-1)
    assert differs[:, 4].all() and int(differs.sum()) == 3


@EVERY_TARGET
@EVERY_GRID
def test_the_loss_is_least_where_the_prediction_is_what_is_wanted(name: str, grid: Grid) -> None:
    target = TARGETS[name](grid)
    wanted = target.value(torch.randn(3, 5, grid.patch_values))
    prediction = torch.randn(3, 5, target.width, requires_grad=True)
    loss = target.loss(prediction, wanted)
    assert loss.shape == () and torch.isfinite(loss)
    assert target.loss(wanted, wanted).item() < loss.item()
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert target.loss(prediction - 0.1 * gradient, wanted).item() < loss.item()
    assert (gradient.abs().amax(-1) > 0).all()


@EVERY_TARGET
@EVERY_GRID
def test_the_loss_is_float32_under_autocast(name: str, grid: Grid) -> None:
    target = TARGETS[name](grid)
    wanted, prediction = (torch.randn(3, 5, target.width).bfloat16() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert target.loss(prediction, wanted).dtype == torch.float32


@EVERY_TARGET
@EVERY_GRID
def test_a_prediction_can_be_looked_at(name: str, grid: Grid) -> None:
    target = TARGETS[name](grid)
    patches = 1 + 3 * torch.randn(3, 5, grid.patch_values)
    shown = target.to_patches(target.value(patches), patches)
    assert shown.shape == patches.shape
    assert largest(shown - patches) < 1e-4
