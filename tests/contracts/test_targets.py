"""What every target must do that a setting can name."""

from __future__ import annotations

import pytest
import torch

from contextae.grid import Grid
from contextae.methods.masked import TARGET
from contextae.targets import HOG, Codes, Features, Pixels, Target
from contextae.tokenizers.kmeans import PatchCodebook
from networks import GRIDS, IMAGE, ColourTeacher

FACTS = {"mean": [0.5] * 5, "deviation": [0.25] * 5}


def codes(grid: Grid) -> Codes:
    codebook = PatchCodebook(channels=5, patch_size=(2, 3), num_codes=13)
    codebook.patches.copy_(torch.rand_like(codebook.patches))
    return Codes(num_codes=13, grid=grid, tokenizer=codebook, **FACTS)


def features(grid: Grid) -> Features:
    return Features(width=15, grid=grid, teacher=ColourTeacher(), **FACTS)


TARGETS = {
    "pixels, normalised": lambda grid: Pixels(grid=grid, normalise=True),
    "pixels, raw": lambda grid: Pixels(grid=grid, normalise=False),
    "hog": lambda grid: HOG(grid=grid),
    "codes": codes,
    "features": features,
}
ANY_GRID = ("pixels, normalised", "pixels, raw")  # the others are of images with height and width
CASES = [
    pytest.param(name, grid, id=f"{name}, {axes}")
    for name in TARGETS
    for axes, grid in GRIDS.items()
    if axes == "2-D" or name in ANY_GRID
]
EVERY_CASE = pytest.mark.parametrize(("name", "grid"), CASES)


def images_of(grid: Grid, size: int = 3) -> torch.Tensor:
    return torch.randn(size, grid.channels, *grid.image_size)


def test_the_contract_covers_every_target() -> None:
    assert {name.partition(",")[0] for name in TARGETS} == {name.partition(":")[0] for name in TARGET.split("|")}


@EVERY_CASE
def test_values_are_per_patch_and_of_its_width(name: str, grid: Grid) -> None:
    target, images = TARGETS[name](grid), images_of(grid)
    assert isinstance(target, Target)
    value = target.value(images)
    assert value.shape == (3, grid.num_patches, 1 if name == "codes" else target.width)
    assert torch.isfinite(value).all() if value.is_floating_point() else value.max() < target.width
    changed = images.clone()
    last = tuple(slice(-length, None) for length in grid.patch_size)
    changed[(1, slice(None), *last)] = torch.randn(grid.channels, *grid.patch_size)  # the last patch of one image
    differs = (target.value(changed) != value).any(-1)
    assert not differs[[0, 2]].any() and (differs[1, -1] or name == "codes")
    assert int(differs.sum()) <= (1 if name != "hog" else 4)  # gradients look one pixel beyond


@EVERY_CASE
def test_the_loss_is_least_where_the_prediction_is_what_is_wanted(name: str, grid: Grid) -> None:
    target = TARGETS[name](grid)
    wanted = target.value(images_of(grid))[:, :5]
    prediction = torch.randn(3, 5, target.width, requires_grad=True)
    perfect = 50 * torch.nn.functional.one_hot(wanted.squeeze(-1), target.width) if name == "codes" else wanted
    loss = target.loss(prediction, wanted)
    assert loss.shape == () and torch.isfinite(loss)
    assert target.loss(perfect.float(), wanted).item() < loss.item()
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert target.loss(prediction - 0.1 * gradient, wanted).item() < loss.item()
    assert (gradient.abs().amax(-1) > 0).all()


@EVERY_CASE
def test_the_loss_is_float32_under_autocast(name: str, grid: Grid) -> None:
    target = TARGETS[name](grid)
    wanted, prediction = target.value(images_of(grid))[:, :5], torch.randn(3, 5, target.width).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert target.loss(prediction, wanted).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "features"])
def test_a_prediction_can_be_looked_at(name: str) -> None:
    target, images = TARGETS[name](IMAGE), images_of(IMAGE)
    masked = torch.tensor([[0, 3, 34], [7, 8, 9], [33, 1, 20]])
    shown = target.to_patches(torch.randn(3, 3, target.width), masked, images, None)
    assert shown.shape == (3, 3, IMAGE.patch_values) and torch.isfinite(shown).all()


def test_frozen_networks_keep_no_gradient_and_their_values_do_not_depend_on_autocast() -> None:
    images = images_of(IMAGE)
    for name in ("codes", "features"):
        target = TARGETS[name](IMAGE)
        value = target.value(images)
        with torch.autocast("cpu", torch.bfloat16):
            again = target.value(images)
        assert not value.requires_grad
        assert torch.equal(value, again) if name == "codes" else torch.allclose(value, again, atol=0.05)
