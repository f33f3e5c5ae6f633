"""Presets and the recipe chosen without one: each is an experiment that can be built, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from contextae.errors import UserError
from contextae.experiment import Experiment
from contextae.masking import BlockMasker
from contextae.presets import PRESETS, preset
from contextae.presets.choose import IMAGES_ON_ACCELERATOR, IMAGES_ON_CPU, MOST_PATCHES, choose
from contextae.targets import Codes, Features


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_and_is_written_out_in_full(name: str, tmp_path: Path) -> None:
    experiment = preset(name, "some/folder")
    assert experiment.data.source == "some/folder"
    experiment.write(tmp_path / "experiment.yaml")
    assert Experiment.read(tmp_path / "experiment.yaml") == experiment
    if name.startswith("cae_v2"):  # whose teacher is not on every machine
        measured = {"data.mean": [0.5] * 3, "data.deviation": [0.25] * 3, "method.target_size": [160, 160]}
        experiment = experiment.with_values({**measured, "method.target": "features:timm:test_vit=random"})
    with torch.device("meta" if name in ("cae_base", "cae_large", "cae_base_v1_arxiv") else "cpu"):  # gigabytes
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


# --- the published recipes, number by number: the fact sheet's sections 1.3 (sizes), 2.3 (CAE v2) and 3 (recipes)


class Published(NamedTuple):
    """One column of the fact sheet, and where a number is this project's own, the number."""

    depth: int
    width: int
    heads: int
    regressor: tuple[int, int]  # blocks, width
    decoder: int | None  # blocks; None: CAE v2 has none
    masked: int
    epochs: tuple[int, int]  # and of warm-up
    drop_path: float = 0.1
    large: bool = False


SHEET = {
    "cae_tiny": Published(12, 192, 12, (4, 192), 4, 98, (1600, 40)),
    "cae_small": Published(12, 384, 12, (4, 384), 4, 98, (1600, 40)),
    "cae_base": Published(12, 768, 12, (4, 768), 4, 98, (1600, 40)),
    "cae_large": Published(24, 1024, 16, (4, 1024), 4, 98, (1600, 40), large=True),
    "cae_base_v1_arxiv": Published(12, 768, 12, (4, 768), 4, 75, (800, 10), drop_path=0.0),
    "cae_v2_tiny": Published(12, 192, 12, (1, 96), None, 30, (300, 10)),
    "cae_v2_small": Published(12, 384, 12, (1, 384), None, 49, (300, 10)),
    "cae_v2_base": Published(12, 768, 12, (4, 768), None, 98, (300, 10)),
    "cae_v2_large": Published(24, 1024, 16, (4, 1024), None, 98, (500, 20), large=True),
}
EVERY_PUBLISHED = pytest.mark.parametrize("name", SHEET)


def published_network(name: str) -> Any:
    """On the meta device, with outputs as in the paper: 8,192 codes of DALL-E, or 512 features of CLIP's ViT-B/16."""
    experiment = preset(name, "x")
    grid = experiment.encoder.grid(image_size=(224, 224), channels=3)
    target = Codes(num_codes=8192, grid=grid) if SHEET[name].decoder is not None else Features(width=512, grid=grid)
    with torch.device("meta"):
        return experiment.method.build(experiment.encoder, image_size=(224, 224), channels=3, target=target)


def millions(part: nn.Module, *, trained: bool = False) -> float:
    return sum(weight.numel() for weight in part.parameters() if weight.requires_grad or not trained) / 1e6


def test_the_sheet_has_a_row_for_every_published_preset() -> None:
    assert set(SHEET) == {name for name in PRESETS if name.startswith("cae_")}


@EVERY_PUBLISHED
def test_a_published_network_has_the_published_shape(name: str) -> None:
    sheet, method = SHEET[name], published_network(name)
    encoder, blocks, width = method.encoder, *sheet.regressor
    assert encoder.grid.size == (14, 14) and encoder.grid.patch_size == (16, 16)
    assert (len(encoder.blocks), encoder.width, encoder.num_heads) == (sheet.depth, sheet.width, sheet.heads)
    assert (len(method.regressor.blocks), method.regressor.mask_query.shape[0]) == (blocks, width)
    parts = [encoder.blocks, method.regressor.blocks]
    if sheet.decoder is None:
        assert not hasattr(method, "decoder") and method.head.weight.shape == (512, width)
    else:
        assert len(method.decoder.blocks) == sheet.decoder and method.decoder.head.weight.shape == (8192, width)
        parts.append(method.decoder.blocks)
    assert isinstance(method.projection, nn.Identity) == (width == sheet.width)
    for part in parts:
        rates = [block.drop_path1.rate for block in part]
        last = sheet.drop_path if len(part) > 1 else 0  # a single block is a first one
        assert (rates[0], rates[-1]) == pytest.approx((0, last))
        for block in part:
            assert block.attn.num_heads == sheet.heads
            assert block.mlp.fc1.out_features == 4 * block.attn.proj.in_features


@EVERY_PUBLISHED
def test_a_published_recipe_has_the_published_numbers(name: str) -> None:
    sheet, experiment = SHEET[name], preset(name, "x")
    assert experiment.data.image_size == (224, 224)
    masker = experiment.method.build_masker(experiment.grid_size)
    assert masker == BlockMasker(size=(14, 14), num_masked=sheet.masked, min_block=16)
    training, optimizer, crop = experiment.training, experiment.optimizer, experiment.crop
    assert (training.epochs, training.warmup_epochs, training.batch_size) == (*sheet.epochs, 2048)
    assert experiment.peak_lr == pytest.approx(1.5e-3)
    assert experiment.peak_lr * optimizer.final_lr_share == pytest.approx(1e-5)
    assert (optimizer.weight_decay, optimizer.betas, optimizer.clip_norm) == (0.05, (0.9, 0.999), 3.0)
    assert optimizer.layer_decay == 1 and experiment.init.source is None
    v2 = sheet.decoder is None
    assert (crop.scale, crop.colour_jitter) == (((0.4, 1.0), 0.4) if v2 else ((0.08, 1.0), 0.0))
    assert crop.ratio == pytest.approx((3 / 4, 4 / 3)) and crop.flip == 0.5
    trunk = experiment.encoder
    assert trunk.drop_path == sheet.drop_path and trunk.positions == "sine-cosine"
    assert (trunk.layer_scale, trunk.initialisation) == ((1e-5, "beit") if sheet.large else (0.1, "xavier"))
    if v2:
        assert experiment.method.target == "features:timm:vit_base_patch16_clip_quickgelu_224.openai"
    else:
        assert (experiment.method.alignment_weight, experiment.method.reconstruction_weight) == (2.0, 1.0)
        assert experiment.method.target == "pixels", "DALL-E's file has to be brought along"


def test_cae_base_has_the_published_148_7_million_trained_parameters() -> None:
    """Without its tables of positions, which are frozen: only the encoder's 85.8 counts one of them, 0.15."""
    method = published_network("cae_base")
    assert millions(method, trained=True) == pytest.approx(148.7, abs=0.05)
    assert millions(method.encoder) + 197 * 768 / 1e6 == pytest.approx(85.8, abs=0.05)
    assert millions(method.regressor) == pytest.approx(28.4, abs=0.05)
    assert millions(method.decoder) == pytest.approx(34.7, abs=0.05)
    assert millions(method.decoder.head) == pytest.approx(6.3, abs=0.05)


@pytest.mark.parametrize(("name", "count"), [("cae_v2_base", 114.7), ("cae_v2_small", 23.7), ("cae_v2_tiny", 5.7)])
def test_cae_v2_has_the_published_number_of_parameters(name: str, count: float) -> None:
    """Of all parameters there, two frozen tables of 197 positions among them, the encoder's and the regressor's, which
    are no weights here: without them 114.4, 23.6 and 5.67 million."""
    method, sheet = published_network(name), SHEET[name]
    tables = 197 * (sheet.width + sheet.regressor[1]) / 1e6
    assert millions(method) + tables == pytest.approx(count, abs=0.05)
    depth, width = sheet.regressor
    untrained = (2 + depth) * width / 1e6  # the regressor's norm, which nothing uses, and a bias of each block's keys
    assert millions(method) - millions(method, trained=True) == pytest.approx(untrained)
    if name != "cae_v2_tiny":
        assert millions(method) != pytest.approx(count, abs=0.05), "the tables make the difference"
