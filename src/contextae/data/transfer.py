"""The way of a batch to the device: arrays become tensors there, and images become normalised numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contextae.errors import UserError


class Transfer:
    """Every uint8 array `.. c h w` of a batch becomes (x / 255 - mean) / deviation in float32, computed as x * scale +
    shift on the device, to which one byte a value travels; others keep their type.

    Tensors of other arrays share the memory of a batch on the CPU.
    """

    def __init__(self, device: torch.device, mean: Sequence[float], deviation: Sequence[float]) -> None:
        if len(mean) != len(deviation) or min(deviation) <= 0:
            raise UserError(
                f"mean and deviation need one number per channel, deviations above 0. Got {list(mean)} and "
                f"{list(deviation)}."
            )
        self.device = device
        shape = (-1, 1, 1)
        # one multiplication and one addition instead of three passes over the images
        self.scale = torch.tensor([1 / (255 * value) for value in deviation], device=device).reshape(shape)
        self.shift = torch.tensor([-m / d for m, d in zip(mean, deviation, strict=True)], device=device).reshape(shape)

    def __call__(self, batch: Any) -> Any:
        """The same NamedTuples with tensors on the device."""
        if isinstance(batch, tuple):
            return type(batch)(*(self(part) for part in batch))
        return None if batch is None else self._tensor(batch)

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))  # copies only what is neither
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        tensor = pinned.to(self.device, non_blocking=True)
        if tensor.dtype != torch.uint8:
            return tensor
        channels = tensor.shape[-3] if tensor.ndim >= 3 else 0
        if channels != len(self.scale):
            raise UserError(
                f"Images of {channels} channel(s) cannot be normalised with the mean of {len(self.scale)}. Set "
                "data.mean and data.deviation to one number per channel, or leave them out."
            )
        return tensor.float().mul_(self.scale).add_(self.shift)
