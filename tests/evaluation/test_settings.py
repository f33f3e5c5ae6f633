"""Settings of the protocols as they are: a change of one of them could move a figure, so it needs a new version."""

from __future__ import annotations

import pytest

from contextae.evaluation.attentive import AttentiveSettings
from contextae.evaluation.fewshot import FewShotSettings
from contextae.evaluation.finetune import PUBLISHED, PUBLISHED_LARGE, SMALL
from contextae.evaluation.knn import KnnSettings
from contextae.evaluation.linear import LinearSettings
from contextae.evaluation.ridge import RidgeSettings

KNOWN = [
    (KnnSettings(), "KnnSettings(version=1, neighbours=(5, 10, 20, 50), temperature=0.07, chunk=256)"),
    (
        LinearSettings(),
        "LinearSettings(version=1, l2=(10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001, 1e-05, "
        "1e-06), patience=2, tolerance=0.0001, choosing_tolerance=0.001, max_iterations=300)",
    ),
    (
        AttentiveSettings(),
        "AttentiveSettings(version=1, epochs=10, images_seen=100000, most_epochs=50, warmup=0.1, "
        "batch_size=256, smallest_batch=32, steps_per_epoch=32, learning_rates=(0.006, 0.03, 0.15), "
        "final_learning_rate=1e-06, momentum=0.9, most_to_choose_on=20000, legacy_batch_stats=False)",
    ),
    (RidgeSettings(), "RidgeSettings(version=1, l2=(10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001, 0.0001))"),
    (
        FewShotSettings(),
        "FewShotSettings(version=1, per_class=(1, 5, 10), shares=(0.01, 0.1), draws=5, l2=(100.0, 10.0, 3.0, "
        "1.0, 0.3, 0.1, 0.03, 0.01, 0.001, 0.0001), l2_of_one=10.0)",
    ),
    (
        PUBLISHED,
        "FinetuneSettings(version=2, batch_size=4096, epochs=100, least_steps=1, most_steps=None, "
        "warmup=0.05, learning_rates=(0.00025, 0.0005, 0.001), choice=0.25, held_out=100, final_lr=1e-06, "
        "layer_decay=0.65, layer_decay_from_scratch=1.0, weight_decay=0.05, betas=(0.9, 0.999), "
        "drop_path=0.1, relative_bias=True, head_scale=0.001, precision='float32', "
        "mixing=Mixing(crop_scale=(0.08, 1.0), flip=0.5, "
        "rand_augment=27, erasing=0.25, mixup=0.8, cutmix=1.0, smoothing=0.1))",
    ),
    (
        PUBLISHED_LARGE,
        "FinetuneSettings(version=2, batch_size=4096, epochs=50, least_steps=1, most_steps=None, warmup=0.1, "
        "learning_rates=(6.25e-05, 0.000125, 0.00025), choice=0.25, held_out=100, final_lr=1e-06, "
        "layer_decay=0.75, layer_decay_from_scratch=1.0, weight_decay=0.05, betas=(0.9, 0.999), "
        "drop_path=0.2, relative_bias=True, head_scale=0.001, precision='float32', "
        "mixing=Mixing(crop_scale=(0.08, 1.0), flip=0.5, "
        "rand_augment=27, erasing=0.25, mixup=0.8, cutmix=1.0, smoothing=0.1))",
    ),
    (
        SMALL,
        "FinetuneSettings(version=2, batch_size=64, epochs=20, least_steps=200, most_steps=1000, warmup=0.1, "
        "learning_rates=(0.001, 0.004, 0.016), choice=0.5, held_out=100, final_lr=1e-06, layer_decay=0.75, "
        "layer_decay_from_scratch=1.0, weight_decay=0.05, betas=(0.9, 0.999), drop_path=0.1, "
        "relative_bias=True, head_scale=0.001, precision='float32', "
        "mixing=Mixing(crop_scale=(0.35, 1.0), flip=0.5, "
        "rand_augment=None, erasing=0.0, mixup=0.0, cutmix=0.0, smoothing=0.1))",
    ),
]


@pytest.mark.parametrize(("settings", "known"), KNOWN)
def test_settings_are_those_of_their_version(settings: object, known: str) -> None:
    assert repr(settings) == known, "raise the version of what was changed, here and in its settings"
