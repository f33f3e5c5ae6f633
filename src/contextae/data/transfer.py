"""The way of a batch to the device: arrays become tensors there, and images become normalised numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contextae.data.cuts import Cuts
from contextae.data.device import cropped
from contextae.errors import UserError

DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}


class Transfer:
    """Every array of pixels `.. c h w` of a batch becomes (v - mean) / deviation in float32, where v is 0 to 1 over
    `value_range`, computed as x * scale + shift on the device, to which values travel as they were decoded: of most
    images one byte each. Pixels are the arrays of type `dtype`; others are moved as they are. Cuts become crops of
    `crop_size` (height, width) there.

    Tensors of other arrays share the memory of a batch on the CPU.
    """

    def __init__(
        self,
        device: torch.device,
        mean: Sequence[float],
        deviation: Sequence[float],
        value_range: tuple[float, float] = (0.0, 255.0),
        dtype: str = "uint8",
        crop_size: tuple[int, int] | None = None,
    ) -> None:
        if len(mean) != len(deviation) or min(deviation) <= 0:
            raise UserError(
                f"mean and deviation need one number per channel, deviations above 0. Got {list(mean)} and "
                f"{list(deviation)}."
            )
        self.device, self.dtype, self.crop_size = device, DTYPES[dtype], crop_size
        shape = (-1, 1, 1)
        # one multiplication and one addition instead of three passes over the images
        low, high = value_range
        width = high - low
        self.scale = torch.tensor([1 / (width * value) for value in deviation], device=device).reshape(shape)
        shifts = [-(low / width + m) / d for m, d in zip(mean, deviation, strict=True)]
        self.shift = torch.tensor(shifts, device=device).reshape(shape)

    def __call__(self, batch: Any) -> Any:
        """The same NamedTuples with tensors on the device."""
        if isinstance(batch, Cuts):
            assert self.crop_size
            return self._normalised(cropped(batch, self.crop_size, self.device))
        if isinstance(batch, tuple):
            return type(batch)(*(self(part) for part in batch))
        return None if batch is None else self._tensor(batch)

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))  # copies only what is neither
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        tensor = pinned.to(self.device, non_blocking=True)
        return self._normalised(tensor) if tensor.dtype == self.dtype else tensor

    def _normalised(self, tensor: Tensor) -> Tensor:
        channels = tensor.shape[-3] if tensor.ndim >= 3 else 0
        if channels != len(self.scale):
            raise UserError(
                f"Images of {channels} channel(s) cannot be normalised with the mean of {len(self.scale)}. Set "
                "data.mean and data.deviation to one number per channel, or leave them out."
            )
        return tensor.to(torch.float32, copy=True).mul_(self.scale).add_(self.shift)
