"""Presets and the recipe chosen without one: each is an experiment that can be built, written and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.presets import PRESETS, preset
from contextae.presets.choose import IMAGES_ON_ACCELERATOR, IMAGES_ON_CPU, MOST_PATCHES, choose


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_and_is_written_out_in_full(name: str, tmp_path: Path) -> None:
    experiment = preset(name, "some/folder")
    assert experiment.data.source == "some/folder"
    experiment.write(tmp_path / "experiment.yaml")
    assert Experiment.read(tmp_path / "experiment.yaml") == experiment
    if name.startswith("cae_v2"):  # whose teacher is not on every machine
        measured = {"data.mean": [0.5] * 3, "data.deviation": [0.25] * 3, "method.target_size": [160, 160]}
        experiment = experiment.with_values({**measured, "method.target": "features:timm:test_vit=random"})
    method, views = experiment.build_method(3), experiment.build_views()
    assert method.encoder.grid.size == experiment.grid_size
    assert views.masker.num_patches == method.encoder.grid.num_patches
    assert PRESETS[name].__doc__


def test_what_presets_promise() -> None:
    demo, cifar10, clothing10 = (preset(name, "x") for name in ("demo", "cifar10", "clothing10"))
    assert demo.data.image_size == (28, 28) and demo.grid_size == (7, 7)
    assert cifar10.data.image_size == (32, 32) and cifar10.grid_size == (8, 8)
    masker = clothing10.build_views().masker
    assert clothing10.grid_size == (16, 12)
    assert (masker.num_masked, masker.num_patches - masker.num_masked) == (115, 77)
    for experiment in (demo, cifar10, clothing10):  # what the released recipe fixes and size does not touch
        assert experiment.optimizer.weight_decay == 0.05 and experiment.optimizer.clip_norm == 3.0
        assert experiment.method.masker == "block"


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no preset 'cifar'. Did you mean 'cifar10'\? Presets: demo, .*Without"):
        preset("cifar", "x")


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("count", [1, 40, 3_000, 60_000, 2_000_000])
@pytest.mark.parametrize(
    "size", [(28, 28), (32, 32), (480, 640), (640, 480), (5, 3), (20, 2000), (3000, 40), (27, 171)]
)
def test_a_recipe_can_be_chosen_for_any_images(size: tuple[int, int], count: int, accelerator: bool) -> None:
    experiment, reason = choose("x", count=count, size=size, accelerator=accelerator)
    rows, columns = experiment.grid_size
    assert 4 <= rows * columns <= MOST_PATCHES
    height, width = experiment.data.image_size
    patch = experiment.encoder.patch_size[0]
    assert max(height, width) <= (224 if accelerator else 128) + patch
    assert f"{count:,} images of about {size[0]} x {size[1]}" in reason and f"{rows} x {columns} patches" in reason
    assert experiment.training.warmup_epochs < experiment.training.epochs
    assert experiment.training.batch_size >= 16


def test_the_recipe_keeps_the_aspect_and_does_not_enlarge() -> None:
    assert choose("x", count=1000, size=(28, 28), accelerator=False).experiment.data.image_size == (28, 28)
    assert choose("x", count=1000, size=(640, 480), accelerator=False).experiment.data.image_size == (128, 96)
    assert choose("x", count=1000, size=(480, 640), accelerator=True).experiment.data.image_size == (160, 224)


def test_the_recipe_spends_a_budget_of_images() -> None:
    for accelerator, budget in ((False, IMAGES_ON_CPU), (True, IMAGES_ON_ACCELERATOR)):
        experiment = choose("x", count=50_000, size=(32, 32), accelerator=accelerator).experiment
        assert experiment.training.epochs * 50_000 <= max(budget, 100 * 50_000 if accelerator else budget)
    few = choose("x", count=100, size=(32, 32), accelerator=False).experiment
    assert few.training.epochs == 400 and few.training.batch_size == 16
