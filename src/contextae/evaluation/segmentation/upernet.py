"""Segmentation by an encoder that is trained on: UPerNet over the feature pyramid of its blocks.

Differs from the published recipe: no photometric distortion of the crops; positions are those of the encoder's own
layout, computed for the crop's grid where they are a fixed table, instead of interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.bounds import check
from contextae.evaluation.features import Precision
from contextae.evaluation.heads.dense import at_size, pixel_loss
from contextae.evaluation.heads.pyramid import ViTPyramid
from contextae.evaluation.heads.upernet import FCNHead, UPerHead
from contextae.evaluation.progress import Progress, part_of
from contextae.evaluation.segmentation.batches import CropBatches, Decoded
from contextae.evaluation.segmentation.classes import VOID
from contextae.evaluation.segmentation.data import Annotated
from contextae.evaluation.segmentation.metrics import mean_value
from contextae.evaluation.segmentation.predict import Logits
from contextae.evaluation.segmentation.task import CHOSEN_BY, Task, Trained
from contextae.evaluation.segmentation.views import CropSettings
from contextae.evaluation.supervised import DivergedError, Recipe, fit
from contextae.evaluation.trunk import Trunk
from contextae.randomness import key
from contextae.training.precision import autocast

LARGE = 24
"""Blocks from which on the published settings of the large model apply."""


@dataclass(frozen=True, kw_only=True)
class UPerNetSettings:
    """The published recipe of the base model on ADE20K (`published` for the large one): 512 x 512 crops, 160,000 steps
    of 16, AdamW.

    Published rates are 3e-4, 2e-4 and 1e-4 for encoders of 300, 800 and 1,600 epochs. Of several the best on held-out
    images is taken. An encoder that starts from random weights has no layers to spare, so that it is trained with
    `scratch_layer_decay`. `image_size` is that of crops and windows, height and width; none: the encoder's own.
    """

    version: int = 1
    image_size: tuple[int, int] | None = (512, 512)
    steps: int = 160_000
    batch_size: int = 16
    learning_rates: tuple[float, ...] = (1e-4,)
    warmup_steps: int = 1_500
    schedule: Literal["poly", "cosine"] = "poly"
    layer_decay: float = 0.65
    scratch_layer_decay: float = 1.0
    weight_decay: float = 0.05
    drop_path: float = 0.1
    relative_bias: bool = True
    channels: int = 768
    auxiliary_channels: int = 256
    auxiliary_weight: float = 0.4
    crop: CropSettings = field(default_factory=CropSettings)
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise UserError(
                f"UPerNet normalises the mean of a whole map over the batch, which takes two crops or more. Got "
                f"batch_size={self.batch_size}."
            )
        if not self.learning_rates:
            raise UserError("UPerNet needs a learning rate. Got none; several are tried on held-out images.")
        check(self, "at least 1", ("image_size", "steps", "channels", "auxiliary_channels"))
        check(self, "above 0", ("learning_rates",))
        check(self, "above 0 and at most 1", ("layer_decay", "scratch_layer_decay"))
        check(self, "at least 0 and below 1", ("drop_path",))
        check(self, "at least 0", ("warmup_steps", "weight_decay", "auxiliary_weight"))


def published(depth: int) -> UPerNetSettings:
    """For an encoder of so many blocks: base, or large [published CAE]."""
    base = UPerNetSettings()
    if depth < LARGE:
        return base
    return replace(base, version=2, learning_rates=(4e-5,), layer_decay=0.95, drop_path=0.15, channels=1_024)


SMALL = UPerNetSettings(
    image_size=None,
    steps=400,
    batch_size=8,
    learning_rates=(1e-3,),
    warmup_steps=40,
    layer_decay=0.75,
    drop_path=0.0,
    relative_bias=False,
    channels=128,
    auxiliary_channels=64,
)
"""For small encoders and some minutes on a CPU; nobody has published it."""


class Segmenter(nn.Module):
    """Trunk, pyramid, UPerNet and, while training, the auxiliary head on the map at x1."""

    def __init__(self, *, trunk: Trunk, channels: int, auxiliary_channels: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.pyramid = ViTPyramid(width=trunk.width)
        self.head = UPerHead(width=trunk.width, channels=channels, num_classes=num_classes)
        self.auxiliary = FCNHead(width=trunk.width, channels=auxiliary_channels, num_classes=num_classes)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        """Logits at four times the grid of patches."""
        return self.head(self.pyramid(self.trunk.maps(images)))

    def loss(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"], auxiliary_weight: float
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of both heads over pixels that are not void."""
        maps = self.pyramid(self.trunk.maps(images))
        main = pixel_loss(self.head(maps), labels, VOID)
        return main + auxiliary_weight * pixel_loss(self.auxiliary(maps[2]), labels, VOID)


def train_upernet(
    encoder: Encoder,
    task: Task,
    settings: UPerNetSettings,
    *,
    from_scratch: bool,
    seed: int,
    state: Path | None,
    identity: str,
    progress: Progress | None,
) -> Trained:
    """Trains a copy of the encoder with its heads; with several rates, those on the part to fit on first."""
    rates, data = settings.learning_rates, task.data

    def trained(rate: float, on: Annotated, place: str, told: Progress | None) -> Segmenter:
        return _fitted(
            encoder,
            task,
            settings,
            rate,
            on=on,
            from_scratch=from_scratch,
            seed=seed,
            state=state / f"{place}-{rate:g}" if state else None,
            identity=identity,
            progress=told,
        )

    best, held_out, model = 0, None, None
    share = 0.5 if data.refits else 0.95
    for number, rate in enumerate(rates if len(rates) > 1 else ()):
        first, last = share * number / len(rates), share * (number + 1) / len(rates)
        trained_at = first + 0.9 * (last - first)
        try:
            tried = trained(rate, data.fit, "fit", part_of(progress, f"UPerNet, rate {rate:g}", first, trained_at))
        except DivergedError:
            if held_out is None and number == len(rates) - 1:
                raise
            continue
        (found,) = task.tallied(
            logits_of(tried, task, settings), data.held_out, progress=part_of(progress, "choosing", trained_at, last)
        )
        score = mean_value([found], CHOSEN_BY)
        if held_out is None or score > held_out:
            best, held_out, model = number, score, tried
    if model is None or data.refits:
        model = trained(
            rates[best],
            data.train,
            "train",
            part_of(progress, "UPerNet, all of train", share if len(rates) > 1 else 0.0),
        )
    return Trained(logits_of(model, task, settings), {"learning rate": rates[best]}, held_out)


def _fitted(
    encoder: Encoder,
    task: Task,
    settings: UPerNetSettings,
    rate: float,
    *,
    on: Annotated,
    from_scratch: bool,
    seed: int,
    state: Path | None,
    identity: str,
    progress: Progress | None,
) -> Segmenter:
    """One training at one rate."""
    trunk = Trunk(encoder, image_size=task.window, drop_path=settings.drop_path, relative_bias=settings.relative_bias)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("segmentation heads", seed))
        model = Segmenter(
            trunk=trunk,
            channels=settings.channels,
            auxiliary_channels=settings.auxiliary_channels,
            num_classes=task.num_classes,
        ).to(task.device)
    recipe = Recipe(
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=rate,
        layer_decay=settings.scratch_layer_decay if from_scratch else settings.layer_decay,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        precision=settings.precision,
    )
    with CropBatches(
        Decoded(on),
        window=task.window,
        batch_size=settings.batch_size,
        crop=settings.crop,
        normalise=task.normalise,
        seed=seed,
        device=task.device,
    ) as batches:
        fit(
            model,
            lambda step: model.loss(*batches(step), settings.auxiliary_weight),
            recipe,
            encoder="trunk",
            seed=seed,
            state=state,
            progress=progress,
            identity=identity,
        )
    return model


def logits_of(model: Segmenter, task: Task, settings: UPerNetSettings) -> Logits:
    """Of windows, at their own size; dropout off and batch norms at their running statistics."""

    def of(images: Tensor) -> Tensor:
        with autocast(settings.precision, task.device):
            logits = model(images)
        return at_size(logits, task.window)

    return of
