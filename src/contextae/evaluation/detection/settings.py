"""The settings of detection: the published ones as they are, and small ones for two cores."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from contextae.errors import UserError
from contextae.evaluation.bounds import check
from contextae.evaluation.features import Precision
from contextae.evaluation.supervised import Recipe

PROTOCOL = "detection"
LARGE = 24
"""Blocks from which on the published settings of the large model apply."""


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """Defaults: Mask R-CNN on COCO for 12 epochs, as published for the base model (`published` for the large one).

    Sizes of images. Without `object_side` the shorter side of a training image becomes one of `short_sides`, and its
    longer one at most `long_side`; for half of them (`crop_share`) a part of `crop_sides` pixels per side is cut out
    first, of the image at one of `crop_short_sides` [published: the crops of DETR, arXiv 2005.12872]. In tests the
    shorter side is the last of `short_sides`. With `object_side` images are enlarged or reduced by one factor, from
    1/8 to 2, with which the median object of train is so many pixels wide, while training times one of `jitter`.

    With `tile` the network sees squares of so many pixels: random ones in training, in tests overlapping ones by at
    least `overlap` pixels, whose detections are merged. A training object of which less than `least_visible` of its
    box lies in the part that is seen, or less than 2 pixels along an axis, is left out.

    The best `detections` of an image with a score of `least_score` count; COCO's are 100, and images of nuclei hold
    more.

    Network. `pyramid` released: maps after 1/3, 1/2, 2/3 and all of the blocks, at 4, 2, 1 and 1/2 times their size,
    and a feature pyramid network; simple: all from the last [ViTDet, arXiv 2203.16527]. `channels` wide; anchors have
    `anchor_scales` times the stride of their level and `anchor_ratios` of height to width. The head for boxes has
    `box_convolutions` and one layer of `box_width`; `regions` of an image are trained on, a quarter of them objects.

    A network from scratch has `scratch_layer_decay`: it holds nothing yet that slow learning would preserve.

    Differs from the published code: layer norm over channels takes the place of synchronised batch norm; the 500 steps
    of warm-up are of mmdetection's 1x schedule, since the source does not tell.
    """

    version: int = 2
    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    long_side: int = 1333
    crop_share: float = 0.5
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_sides: tuple[int, int] = (384, 600)
    object_side: float | None = None
    jitter: tuple[float, float] = (0.8, 1.25)
    tile: int | None = None
    overlap: int = 64
    least_visible: float = 0.25
    flip: float = 0.5
    pyramid: Literal["released", "simple"] = "released"
    channels: int = 256
    anchor_scales: tuple[float, ...] = (8.0,)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchors: int = 256
    proposals: tuple[int, int] = (2_000, 1_000)
    regions: int = 512
    box_convolutions: int = 4
    box_width: int = 1_024
    mask_convolutions: int = 4
    masks: bool = True
    giou_weight: float = 10.0
    least_score: float = 0.05
    nms: float = 0.5
    detections: int = 100
    epochs: float = 12.0
    steps: int | None = None
    batch_size: int = 32
    lr: float = 3e-4
    schedule: Literal["step", "cosine", "poly"] = "step"
    milestones: tuple[float, ...] = (9 / 12, 11 / 12)
    layer_decay: float = 0.75
    scratch_layer_decay: float = 1.0
    weight_decay: float = 0.05
    drop_path: float = 0.2
    warmup_steps: int = 500
    clip_norm: float | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.tile is not None and not 0 <= self.overlap < self.tile:
            raise UserError(
                f"Tiles overlap by less than their side, and by 0 or more. Got overlap={self.overlap} and tile="
                f"{self.tile}; half of the side is plenty."
            )
        if not self.short_sides or min(self.short_sides) < 1 or not self.anchor_scales or not self.anchor_ratios:
            raise UserError(
                f"Detection needs a size for images and for anchors. Got short_sides={self.short_sides}, anchor_scales="
                f"{self.anchor_scales} and anchor_ratios={self.anchor_ratios}; give one of each at least."
            )
        if self.detections < 1 or self.regions < 4 or self.batch_size < 1 or self.epochs <= 0:
            raise UserError(
                f"Detection needs detections and batch_size of at least 1, regions of at least 4 and epochs above 0. "
                f"Got {self.detections}, {self.batch_size}, {self.regions} and {self.epochs:g}."
            )
        for name in ("jitter", "crop_sides"):
            if (pair := getattr(self, name))[0] > pair[1]:
                raise UserError(f"{name} are two numbers, the smaller first. Got {pair}.")
        sizes = ("short_sides", "long_side", "crop_short_sides", "crop_sides", "tile")
        check(self, "at least 1", (*sizes, "channels", "anchors", "proposals", "box_width", "steps"))
        check(self, "above 0", ("object_side", "jitter", "anchor_scales", "anchor_ratios", "epochs", "lr", "clip_norm"))
        check(self, "from 0 to 1", ("crop_share", "flip", "least_visible", "least_score", "nms"))
        check(self, "above 0 and at most 1", ("layer_decay", "scratch_layer_decay"))
        check(self, "at least 0 and below 1", ("drop_path",))
        at_least_0 = ("box_convolutions", "mask_convolutions", "giou_weight", "weight_decay", "warmup_steps")
        check(self, "at least 0", at_least_0)
        self.recipe(1)  # whose own rules are of the schedule and its milestones

    def steps_of(self, num_images: int) -> int:
        """Updates of a training on so many images."""
        return self.steps or max(1, math.ceil(self.epochs * num_images / self.batch_size))

    def recipe(self, num_images: int, *, from_scratch: bool = False) -> Recipe:
        """The warm-up is at most a fifth of the training."""
        steps = self.steps_of(num_images)
        return Recipe(
            steps=steps,
            batch_size=self.batch_size,
            lr=self.lr,
            schedule=self.schedule,
            milestones=self.milestones,
            layer_decay=self.scratch_layer_decay if from_scratch else self.layer_decay,
            weight_decay=self.weight_decay,
            warmup_steps=min(self.warmup_steps, steps // 5),
            clip_norm=self.clip_norm,
            precision=self.precision,
        )


def published(depth: int) -> DetectionSettings:
    """For an encoder of so many blocks: base, or large."""
    base = DetectionSettings()
    return replace(base, lr=2e-4, layer_decay=0.85) if depth >= LARGE else base


def small() -> DetectionSettings:
    """For minutes on two cores: 64 regions, 128 channels, tiles of 256 pixels, objects of about 40. Our own choice."""
    return DetectionSettings(
        object_side=40.0,
        tile=256,
        channels=128,
        regions=64,
        anchors=128,
        proposals=(500, 300),
        box_convolutions=0,
        box_width=256,
        mask_convolutions=2,
        anchor_scales=(6.0,),
        detections=400,
        steps=600,
        batch_size=4,
        lr=5e-4,
        schedule="cosine",
        milestones=(),
        drop_path=0.1,
        warmup_steps=50,
        clip_norm=10.0,
    )
