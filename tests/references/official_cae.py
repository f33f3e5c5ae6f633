"""Reads numbers captured from the released CAE implementation, and gives its weights our names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from contextae.alignment import StopGradient
from contextae.decoder import Decoder
from contextae.encoder import Encoder
from contextae.grid import Grid
from contextae.masking import Mask
from contextae.methods.cae import CAE
from contextae.methods.views import MaskedView
from contextae.regressor import Regressor

FOLDER = Path(
    os.environ.get("CONTEXTAE_REFERENCE", Path(__file__).parents[2] / ".." / "shared" / "reference")
).resolve()

RENAMED = (
    (r"^mask_token$", "regressor.mask_query"),
    (r"^encoder\.cls_token$", "encoder.class_token"),
    (r"^encoder\.patch_embed\.proj\.", "encoder.patch_embed."),
    (r"^encoder_to_regresser\.", "projection.0."),
    (r"^encoder_to_regresser_norm\.", "projection.1."),
    (r"^regresser\.regressor_blocks\.", "regressor.blocks."),
    (r"^regresser\.norm\.", "regressor.norm."),
    (r"^decoder\.decoder_blocks\.", "decoder.blocks."),
    (r"\.gamma_([12])(_cross)?$", r".ls\1.gamma"),
    (r"\.norm1_([qkv])\.", r".norm_\1."),
    (r"\.norm2_cross\.", ".norm2."),
    (r"\.cross_attn\.", ".attn."),
    (r"\.mlp_cross\.", ".mlp."),
)
TABLES = {"encoder.pos_embed": "encoder", "rd_pos_embed": "regressor"}


class Codes:
    """Cross-entropy with given codes per patch, mean over all patches."""

    def __init__(self, codes: Tensor, *, width: int) -> None:
        self.codes, self.width = codes, width

    def value(self, patches: Tensor) -> Tensor:
        return self.codes.unsqueeze(-1).float()  # small integers are exact

    def loss(self, prediction: Tensor, wanted: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(prediction.flatten(0, 1), wanted.flatten().long())

    def to_patches(self, prediction: Tensor, like: Tensor) -> Tensor:
        raise NotImplementedError


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

    def method(self, *, num_heads: int) -> CAE:
        """Our CAE of the captured sizes; loading is strict on both sides, position tables apart."""
        state = self.group("state")

        def depth(pattern: str) -> int:
            return len({match[1] for key in state if (match := re.match(pattern + r"\.(\d+)\.", key))})

        grid = Grid(image_size=(40, 40), patch_size=(8, 8), channels=3)
        width, narrow = state["encoder.cls_token"].shape[-1], state["mask_token"].shape[-1]
        outputs = state["decoder.head.weight"].shape[0]
        method = CAE(
            encoder=Encoder(grid=grid, width=width, depth=depth(r"encoder\.blocks"), num_heads=num_heads),
            regressor=Regressor(
                grid=grid, width=narrow, depth=depth(r"regresser\.regressor_blocks"), num_heads=num_heads
            ),
            decoder=Decoder(
                grid=grid, width=narrow, depth=depth(r"decoder\.decoder_blocks"), num_heads=num_heads, outputs=outputs
            ),
            target=Codes(self.arrays["codes"], width=outputs),
            alignment=StopGradient(),
        )
        method.load_state_dict({ours(key): shaped(value, key) for key, value in state.items() if key not in TABLES})
        return method


def ours(name: str) -> str:
    """Our name of a released tensor."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def shaped(value: Tensor, name: str) -> Tensor:
    """A released tensor in our shape: tokens without leading axes, the convolution as a linear layer."""
    if name in ("mask_token", "encoder.cls_token"):
        return value.flatten()
    return value.flatten(1) if name == "encoder.patch_embed.proj.weight" else value
