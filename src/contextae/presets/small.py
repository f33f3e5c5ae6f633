"""Recipes for small images and two CPU cores. They are ours: no published recipe covers them.

What the released CAE recipe fixes and its size does not touch is kept: AdamW, weight decay 0.05, clipping at 3, half
of the patches masked block-wise. The rest was chosen on a held-out part of train (docs/results.md); above all the
weight of the alignment, 0.1 instead of 2: at 2 it draws the latents together before the reconstruction can hold them
apart.
"""

from __future__ import annotations

from contextae.encoder import EncoderConfig
from contextae.experiment import Experiment
from contextae.methods.cae import CAEConfig
from contextae.settings import CropConfig, DataConfig, HealthConfig, OptimizerConfig, Sources, TrainingConfig


def demo(source: Sources) -> Experiment:
    """28 x 28 gray images in a few minutes on two cores: `contextae demo`."""
    return Experiment(
        data=DataConfig(source=source, image_size=(28, 28)),
        crop=CropConfig(scale=(0.5, 1.0)),
        encoder=EncoderConfig(patch_size=(4, 4), width=96, depth=4, num_heads=3),
        method=CAEConfig(regressor_depth=2, decoder_depth=1, alignment_weight=0.1),
        optimizer=OptimizerConfig(lr_per_256_images=4e-3, betas=(0.9, 0.95)),
        training=TrainingConfig(epochs=16, warmup_epochs=1, batch_size=64),
        health=HealthConfig(every_epochs=1),
    )


def cifar10(source: Sources) -> Experiment:
    """32 x 32 colour images in half an hour on two cores."""
    return Experiment(
        data=DataConfig(source=source, image_size=(32, 32)),
        crop=CropConfig(scale=(0.2, 1.0)),
        encoder=EncoderConfig(patch_size=(4, 4), width=128, depth=6, num_heads=4),
        method=CAEConfig(regressor_depth=2, decoder_depth=1, alignment_weight=0.1),
        optimizer=OptimizerConfig(lr_per_256_images=4e-3, betas=(0.9, 0.95)),
        training=TrainingConfig(epochs=10, warmup_epochs=1, batch_size=64),
        health=HealthConfig(every_epochs=1),
    )


def clothing10(source: Sources) -> Experiment:
    """Upright photographs at 128 x 96: 8-pixel patches, 192 of them, of which 115 are masked and 77 visible."""
    return Experiment(
        data=DataConfig(source=source, image_size=(128, 96)),
        crop=CropConfig(scale=(0.3, 1.0)),
        encoder=EncoderConfig(patch_size=(8, 8), width=128, depth=6, num_heads=4),
        method=CAEConfig(regressor_depth=2, decoder_depth=1, alignment_weight=0.1, mask_ratio=0.6),
        optimizer=OptimizerConfig(lr_per_256_images=4e-3, betas=(0.9, 0.95)),
        training=TrainingConfig(epochs=30, warmup_epochs=3, batch_size=64),
        health=HealthConfig(every_epochs=3, images=256),
    )
