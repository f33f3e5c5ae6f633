"""Small Vision Transformers of timm, shaken and saved as timm saves them, and a table of positions as MAE's."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from contextae.encoder import Encoder, EncoderConfig
from contextae.errors import UserError
from contextae.grid import Grid, patchify
from contextae.interop.start import Source, encoder_settings, read_timm
from networks import shake

GRID = Grid(image_size=(10, 21), patch_size=(2, 3), channels=3)  # 5 x 7 patches
SMALL: dict[str, Any] = {
    "img_size": [10, 21],
    "patch_size": [2, 3],
    "in_chans": 3,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 2.5,
}


def foreign(folder: Path, *, table: Tensor | None = None, **arguments: Any) -> tuple[Any, str]:
    """A small timm ViT with shaken weights (and this table of positions), saved as timm saves; and its spec."""
    changed = {**SMALL, **arguments}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=4, **changed).eval()
    shake(vit, scale=0.2)
    if table is not None:
        with torch.no_grad():
            vit.pos_embed.copy_(torch.cat([torch.zeros(1, table.shape[1]), table]))
    folder.mkdir(exist_ok=True)
    save_file(vit.state_dict(), folder / "model.safetensors")
    means = {"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}
    write_config(folder, {"architecture": "vit_tiny_patch16_224", "model_args": changed, "pretrained_cfg": means})
    return vit, f"timm:{folder}"


def write_config(folder: Path, config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def built(source: Source, *, image_size: tuple[int, int] = (10, 21), channels: int = 3, **changed: Any) -> Encoder:
    """The encoder that the settings of the source ask for."""
    settings = {name.removeprefix("encoder."): value for name, value in encoder_settings(source).items()}
    config = EncoderConfig(**{"patch_size": (2, 3), **settings, **changed})
    return config.build(image_size=image_size, channels=channels).eval()


def tokens(encoder: Encoder, images: Tensor) -> Tensor:
    return encoder.encode(encoder.embed(patchify(images, encoder.grid)))


def columns_first(height: int, width: int, values: int) -> Tensor:
    """MAE's table as its paper describes it, patch by patch: sines and cosines of the column, then of the row."""
    table = []
    for row in range(height):
        for column in range(width):
            angles = [[at / 10_000 ** (k / (values // 4)) for k in range(values // 4)] for at in (column, row)]
            table.append([f(angle) for each in angles for f in (math.sin, math.cos) for angle in each])
    return torch.tensor(table)


def refused(spec: str, message: str, **arguments: Any) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_timm(spec, **arguments)
    assert "\n" not in str(caught.value)
