"""What the tests of `pretrain --init` share: networks to start from, and weights told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from networks import shake

Tensors = dict[str, Tensor]
DEEP = "encoder.depth=2"  # as all sources here
FAST = ("training.epochs=1", "health.every_epochs=9")


def timm_folder(folder: Path, **arguments: Any) -> Any:
    """A small ViT of timm for the images of `small_run`, shaken, in a folder as timm saves it; the network."""
    sizes = {"img_size": [16, 12], "patch_size": [4, 4], "in_chans": 3, "embed_dim": 16, "depth": 2, "num_heads": 2}
    changed = {**sizes, **arguments}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, **changed).eval()
    shake(vit, scale=0.2)
    folder.mkdir(exist_ok=True)
    save_file(vit.state_dict(), folder / "model.safetensors")
    means = {"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": changed, "pretrained_cfg": means}
    (folder / "config.json").write_text(json.dumps(config))
    return vit


def own(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name.startswith("encoder.")}


def same(left: Tensors, right: Tensors) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
