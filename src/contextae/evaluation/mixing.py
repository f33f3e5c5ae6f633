"""What images and labels of a batch go through before a network is trained on them: crops, changes, mixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor
from torchvision.transforms import v2

from contextae.errors import UserError
from contextae.evaluation.bounds import check

SMALL_PIXELS, PADDING = 32, 4
"""Images up to this side are cropped at their size out of a black frame of 4 pixels [published CAE, BEiT, DeiT]."""
BINS = 31
"""Of torchvision's RandAugment; magnitude 27 of 0 to 30 is the 9 of 0 to 10 that timm calls rand-m9."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """`crop_scale` is of larger images alone. `mixup` and `cutmix` are the alphas of their Beta distributions, 0 for
    none; where both are on, each batch takes one of them at random. `rand_augment` is the magnitude of two operations
    out of torchvision's, 0 to 30, or None."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    rand_augment: int | None = 27
    erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        check(self, "above 0 and at most 1", ("crop_scale",))
        check(self, "from 0 to 1", ("flip", "erasing"))
        check(self, "at least 0 and below 1", ("smoothing",))
        check(self, "at least 0", ("mixup", "cutmix"))
        low, high = self.crop_scale
        if low > high:
            raise UserError(f"crop_scale is the smallest share of the area, then the largest. Got {self.crop_scale}.")
        if self.rand_augment is not None and not 0 <= self.rand_augment < BINS:
            raise UserError(
                f"rand_augment is a magnitude from 0 to {BINS - 1}, or null for none. Got {self.rand_augment}; the 9 "
                "of other recipes' 0 to 10 is 27."
            )


class Mix:
    """Called with images of 0 to 255 and classes, gives normalised images and a distribution over classes for each.

    Draws come from torch's generator, one after the other, for each image its own but for the mixture, which is one
    per batch. RandAugment and random erasing know photographs: images that are not uint8 with three channels are
    cropped and flipped, and mixed with each other.
    Differs from the published code: its RandAugment is timm's, with other operations and a magnitude that varies.
    """

    def __init__(
        self,
        mixing: Mixing,
        *,
        num_classes: int,
        image_size: tuple[int, ...],
        mean: Sequence[float],
        deviation: Sequence[float],
        photographs: bool,
    ) -> None:
        self.mixing, self.num_classes, self.photographs = mixing, num_classes, photographs
        self.small = max(image_size) <= SMALL_PIXELS
        self.mean, self.deviation = (torch.tensor(each).reshape(1, -1, 1, 1) for each in (mean, deviation))
        crop: Callable[[Tensor], Tensor] = (
            v2.RandomCrop(list(image_size), padding=PADDING)
            if self.small
            else v2.RandomResizedCrop(
                list(image_size),
                scale=mixing.crop_scale,
                interpolation=v2.InterpolationMode.BICUBIC,
                antialias=True,
            )
        )
        self.changes: list[Callable[[Tensor], Tensor]] = [crop, v2.RandomHorizontalFlip(mixing.flip)]
        if photographs and mixing.rand_augment is not None:
            self.changes.append(v2.RandAugment(num_ops=2, magnitude=mixing.rand_augment, num_magnitude_bins=BINS))
        self.erase = v2.RandomErasing(p=mixing.erasing, value="random") if photographs and mixing.erasing else None
        self.mixtures: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = [
            kind(alpha=alpha, num_classes=num_classes)
            for kind, alpha in ((v2.MixUp, mixing.mixup), (v2.CutMix, mixing.cutmix))
            if alpha
        ]

    def __call__(
        self, images: Real[np.ndarray, "b c h w"], labels: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
        changed = torch.stack([self._changed(torch.from_numpy(image)) for image in images])
        normal = normalised(changed, self.mean, self.deviation)
        if self.erase is not None:
            normal = torch.stack([self.erase(image) for image in normal])
        wanted = F.one_hot(labels, self.num_classes).float()
        if self.mixtures:
            mixture = self.mixtures[int(torch.randint(len(self.mixtures), ()))]
            normal, wanted = mixture(normal, labels)
        return normal, wanted * (1 - self.mixing.smoothing) + self.mixing.smoothing / self.num_classes

    def __str__(self) -> str:
        mixing = self.mixing
        low, high = mixing.crop_scale
        parts = [
            f"crops of a frame of {PADDING} pixels" if self.small else f"crops of {low:g} to {high:g} of the area",
            f"flips {mixing.flip:g}" if mixing.flip else "",
            f"RandAugment 2 x {mixing.rand_augment} of {BINS - 1}"
            if self.photographs and mixing.rand_augment is not None
            else "",
            f"erasing {mixing.erasing:g}" if self.erase else "",
            f"mixup {mixing.mixup:g}" if mixing.mixup else "",
            f"cutmix {mixing.cutmix:g}" if mixing.cutmix else "",
            f"label smoothing {mixing.smoothing:g}" if mixing.smoothing else "",
            "" if self.photographs else "no RandAugment and erasing, which are for 8-bit images of three channels",
        ]
        return ", ".join(part for part in parts if part)

    def _changed(self, image: Tensor) -> Tensor:
        for change in self.changes:
            image = change(image)
        return image


def normalised(
    images: Real[Tensor, "b c h w"], mean: Float[Tensor, "1 c 1 1"], deviation: Float[Tensor, "1 c 1 1"]
) -> Float[Tensor, "b c h w"]:
    """Values of 0 to 255 to the encoder's input, as `features.extract` makes it."""
    return (images.float() / 255 - mean) / deviation
