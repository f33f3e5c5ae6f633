"""Reads numbers captured from the released CAE implementation; its weights come in through `interop.official`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contextae.interop.official import read_state_dict, to_state_dict
from contextae.masking import Mask
from contextae.methods.cae import CAE
from contextae.methods.cae_v2 import CAEv2
from contextae.methods.views import MaskedView
from contextae.targets import Codes, Features

FOLDER = Path(
    os.environ.get("CONTEXTAE_REFERENCE", Path(__file__).parents[2] / ".." / "shared" / "reference")
).resolve()
ASIS: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0)}


class Captured:
    """Stands where a tokenizer or a teacher would: gives what was captured, whatever the images."""

    channels, image_size, name, trained_on = 3, (40, 40), "captured", None

    def __init__(self, values: Tensor, *, width: int) -> None:
        self.values, self.num_codes, self.width = values, width, width

    def to(self, device: torch.device) -> Captured:
        return self

    def input_size(self, grid: tuple[int, int]) -> tuple[int, int]:
        return self.image_size

    def codes(self, images: Tensor) -> Tensor:
        return self.values

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.values


class Capture:
    """One file: arrays by name, the batch they belong to, and the network with the captured weights."""

    def __init__(self, name: str) -> None:
        path = FOLDER / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"no captured numbers at {path}; set CONTEXTAE_REFERENCE to the folder that holds them")
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        hidden = self.arrays["bool_masked_pos"]
        rows = [(torch.nonzero(~row).flatten(), torch.nonzero(row).flatten()) for row in hidden]
        mask = Mask(*(torch.stack(part) for part in zip(*rows, strict=True)))
        self.batch = MaskedView(self.arrays["images"], mask, torch.zeros(len(hidden), dtype=torch.int64))

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The arrays below `state` or `grad`, by the names of the release."""
        return {k.removeprefix(f"{prefix}/"): v for k, v in self.arrays.items() if k.startswith(f"{prefix}/")}

    def method(self, *, num_heads: int = 3) -> Any:
        """Our CAE or CAE v2 of the captured sizes and weights; its tokenizer or teacher gives what was captured."""
        state = self.group("state")
        read = read_state_dict(state, image_size=(40, 40), patch_size=(8, 8), num_heads=num_heads)
        assert read.placed == len(state) and not read.left_out
        method, width = read.module, state["decoder.head.weight"].shape[0]
        assert isinstance(method, CAE | CAEv2)
        grid = method.encoder.grid
        if "codes" in self.arrays:
            captured = Captured(self.arrays["codes"], width=width)
            method.target = Codes(num_codes=width, grid=grid, tokenizer=captured, **ASIS)
        else:
            captured = Captured(self.arrays["teacher_features"], width=width)
            method.target = Features(width=width, grid=grid, teacher=captured, **ASIS)
        return method


def gradients(method: Any) -> dict[str, Tensor]:
    """Gradients of the last backward pass by released names, in released shapes."""
    with torch.no_grad():
        for weight in method.parameters():
            weight.copy_(torch.full_like(weight, float("nan")) if weight.grad is None else weight.grad)
    return to_state_dict(method)
