"""The recipe chosen when none is named: from the number, size and channels of the images, and from the device."""

from __future__ import annotations

from typing import NamedTuple

from contextae.encoder import EncoderConfig
from contextae.experiment import Experiment
from contextae.methods.cae import CAEConfig
from contextae.settings import CropConfig, DataConfig, OptimizerConfig, Sources, TrainingConfig

MOST_PATCHES = 256  # of one image: beyond, attention and memory grow for little [ViT-B/16 at 224 px has 196]
IMAGES_ON_CPU, IMAGES_ON_ACCELERATOR = 600_000, 30_000_000  # seen in all: half an hour, or some hours


class Choice(NamedTuple):
    """An experiment and, in one sentence, why it is this one."""

    experiment: Experiment
    reason: str


def choose(source: Sources, *, count: int, size: tuple[int, int], accelerator: bool) -> Choice:
    """Ours, measured at two sizes (docs/results.md): no published recipe covers small sets and odd sizes.

    `size` is the median (height, width) of `count` images. The network keeps their aspect.
    """
    patch, image_size = _geometry(size, 224 if accelerator else 128)
    if accelerator:
        encoder = EncoderConfig(patch_size=(patch, patch), width=384, depth=12, num_heads=6)
        method, optimizer = CAEConfig(), OptimizerConfig()
        epochs, batch_size = min(800, max(100, IMAGES_ON_ACCELERATOR // count)), 256
    else:
        encoder = EncoderConfig(patch_size=(patch, patch), width=128, depth=6, num_heads=4)
        method = CAEConfig(regressor_depth=2, decoder_depth=1, alignment_weight=0.1)
        optimizer = OptimizerConfig(lr_per_256_images=4e-3, betas=(0.9, 0.95))
        epochs, batch_size = min(400, max(10, IMAGES_ON_CPU // count)), 64
    while batch_size > 16 and count // batch_size < 20:
        batch_size //= 2
    experiment = Experiment(
        data=DataConfig(source=source, image_size=image_size),
        crop=CropConfig(),
        encoder=encoder,
        method=method,
        optimizer=optimizer,
        training=TrainingConfig(epochs=epochs, warmup_epochs=max(1.0, epochs / 20), batch_size=batch_size),
    )
    rows, columns = experiment.grid_size
    return Choice(
        experiment,
        f"{count:,} images of about {size[0]} x {size[1]} on {'an accelerator' if accelerator else 'CPU'}: width "
        f"{encoder.width}, depth {encoder.depth}, {image_size[0]} x {image_size[1]} in {rows} x {columns} patches, "
        f"{epochs} epochs with {batch_size} images a step",
    )


def _geometry(size: tuple[int, int], longest: int) -> tuple[int, tuple[int, int]]:
    """Patch length and image size: the images' own aspect, never enlarged beyond `longest`, at most `MOST_PATCHES`."""
    scale = min(1.0, longest / max(size))
    height, width = (max(8, round(side * scale)) for side in size)
    for patch in (4, 8, 16, 32):
        rows, columns = (max(2, round(side / patch)) for side in (height, width))
        if rows * columns <= MOST_PATCHES:
            break
    return patch, (rows * patch, columns * patch)
