"""What the predicted latents are compared with, and how far apart they are."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from contextae.encoder import Encoder


@runtime_checkable
class Alignment(Protocol):
    """Latents of the masked patches that predictions are aligned with; no gradient may flow into them."""

    def __call__(
        self,
        encoder: Encoder,
        patches: Float[Tensor, "b n p"],
        masked: Int[Tensor, "b m"],
        key: Int[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b m d"]: ...


class StopGradient:
    """The encoder itself on the masked patches alone, without gradient: no second copy, no lag.

    It keeps the encoder's mode, so stochastic depth is on while training, as in the published code (whose copy shares
    its storage with the encoder); the branch draws it independently of the visible one.
    """

    @torch.no_grad()
    def __call__(
        self,
        encoder: Encoder,
        patches: Float[Tensor, "b n p"],
        masked: Int[Tensor, "b m"],
        key: Int[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Latents of the patches that `masked` names; they see each other and the class token, no visible patch."""
        return encoder(patches, masked, None if key is None else key + 1)


def distance(predicted: Float[Tensor, "b m e"], aligned_to: Float[Tensor, "b m e"]) -> Float[Tensor, ""]:
    """Mean squared error over all elements (not a norm per patch), in float32: about 2.0 between unrelated norms."""
    return F.mse_loss(predicted.float(), aligned_to.float())
