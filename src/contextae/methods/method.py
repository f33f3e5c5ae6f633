"""The contract of a pretraining method: the loop, health checks and pictures know this file and no concrete method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from contextae.encoder import Encoder


class Loss(NamedTuple):
    """What is minimised, and its parts by name for the log (unweighted, detached)."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


class Trace(NamedTuple):
    """Latents to judge a training by: `visible` b v e, `predicted` and `aligned_to` b m e (before any loss)."""

    visible: Tensor
    predicted: Tensor
    aligned_to: Tensor


class Method(nn.Module, ABC):
    """A module whose `forward(batch)` is a pure function of weights and batch, and whose trunk is `encoder`."""

    encoder: Encoder

    @abstractmethod
    def forward(self, batch: Any) -> Loss:
        """The loss of one batch of the method's own views."""

    @abstractmethod
    def trace(self, batch: Any) -> Trace:
        """The latents behind the loss of one batch."""

    def after_step(self, progress: float) -> None:
        """What moves besides the optimiser, at `progress` in 0..1 of the training: slow copies and nothing else."""
