"""The contract of a pretraining method: the loop, health checks and pictures know this file and no concrete method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.grid import Grid, patchify, unpatchify
from contextae.methods.views import MaskedView
from contextae.positions import select


class Loss(NamedTuple):
    """What is minimised, and its parts by name for the log (unweighted, detached)."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


class Trace(NamedTuple):
    """Latents to judge a training by: `visible` b v e, `predicted` and `aligned_to` b m e (before any loss).

    Where nothing trains the last two to agree, they are what comes nearest to it in a method.
    """

    visible: Tensor
    predicted: Tensor
    aligned_to: Tensor


class Pictures(NamedTuple):
    """What a method makes of masked images, normalised as it saw them; NaN where a view holds nothing.

    `images`, `visible`, `decoded` (masked patches alone) and `pasted` (decoded among visible) are b c h w; `distance`
    is b n: mean squared distance between predicted and aligned-to latents of each masked patch.
    """

    images: Tensor
    visible: Tensor
    decoded: Tensor
    pasted: Tensor
    distance: Tensor


def placed(batch: MaskedView, grid: Grid, decoded: Float[Tensor, "b m p"], distance: Float[Tensor, "b m"]) -> Pictures:
    """Pictures of a masked batch, with every patch and every distance at its place in the image."""
    patches, mask = patchify(batch.images, grid), batch.mask

    def canvas(*parts: tuple[Tensor, Tensor]) -> Tensor:
        whole = torch.full_like(patches, float("nan"))
        for indices, values in parts:
            whole = whole.scatter(1, indices.unsqueeze(-1).expand_as(values), values.to(whole.dtype))
        return unpatchify(whole, grid)

    seen, guessed = (mask.visible, select(patches, mask.visible)), (mask.masked, decoded)
    everywhere = torch.full(patches.shape[:2], float("nan"), device=distance.device)
    return Pictures(
        batch.images,
        canvas(seen),
        canvas(guessed),
        canvas(seen, guessed),
        everywhere.scatter(1, mask.masked, distance),
    )


class Trainable(nn.Module, ABC):
    """A module whose `forward(batch)` is a pure function of weights, buffers and batch: all that the loop asks for."""

    @abstractmethod
    def forward(self, batch: Any) -> Loss:
        """The loss of one batch of its own views."""

    def after_step(self, progress: float) -> None:
        """What moves besides the optimiser, at `progress` in 0..1 of the training: slow copies and nothing else."""


class Method(Trainable):
    """A pretraining method, whose trunk is `encoder`."""

    encoder: Encoder

    @abstractmethod
    def trace(self, batch: Any) -> Trace:
        """The latents behind the loss of one batch."""

    def pictures(self, batch: Any) -> Pictures:
        """Reconstructions of one batch, where the method decodes anything."""
        raise UserError(
            f"{type(self).__name__} has no decoder, so there is nothing to reconstruct. Use weights of a method that "
            "decodes, such as cae."
        )
