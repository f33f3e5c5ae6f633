"""To timm: the encoder as timm's VisionTransformer, and a folder for `timm.create_model("local-dir:DIR")`.

Given all patches the two are equal. Heads are not in the tensors, so they stand in config.json; nor is the key bias,
which is zero (blocks.Attention); timm's conv weight is the linear embedding's, reshaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from timm.data import create_transform, resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from contextae.encoder import Encoder
from contextae.interop.input_facts import InputFacts
from contextae.interop.reload import Reloaded, compared, in_batches
from contextae.interop.trunk import has_layer_scale, mlp_ratio

ARCHITECTURE = "vit_base_patch16_224"  # any plain ViT of timm's registry; every number of it is overridden
MODES = {1: "L", 3: "RGB"}


def arguments(encoder: Encoder) -> dict[str, Any]:
    """Of `VisionTransformer`."""
    return {
        "img_size": list(encoder.grid.image_size),
        "patch_size": list(encoder.grid.patch_size),
        "in_chans": encoder.grid.channels,
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "mlp_ratio": mlp_ratio(encoder),
        "init_values": 1.0 if has_layer_scale(encoder) else None,
        "num_classes": 0,
        "global_pool": "token",
    }


def weights(encoder: Encoder) -> dict[str, Tensor]:
    """Every tensor of timm's VisionTransformer by its name there. The class token's row of the positions is zero."""
    grid, width = encoder.grid, encoder.width
    ours = encoder.state_dict()
    positions = ours.pop("positions", encoder.positions)  # a weight where they are learned
    named = {}
    for name, value in ours.items():
        if name.endswith(".q_bias"):
            v_bias = ours[name.replace(".q_bias", ".v_bias")]
            named[name.replace(".q_bias", ".qkv.bias")] = torch.cat([value, torch.zeros_like(value), v_bias])
        elif not name.endswith(".v_bias"):
            named[name] = value
    named["patch_embed.proj.weight"] = named.pop("patch_embed.weight").reshape(width, grid.channels, *grid.patch_size)
    named["patch_embed.proj.bias"] = named.pop("patch_embed.bias")
    named["cls_token"] = named.pop("class_token").reshape(1, 1, width)
    named["pos_embed"] = torch.nn.functional.pad(positions, (0, 0, 1, 0)).unsqueeze(0)
    return named


def to_timm(encoder: Encoder) -> VisionTransformer:
    """timm's VisionTransformer with the encoder's weights, in evaluation mode; its positions are frozen where ours are.

    `model(images)` is the summary [b d]; `model.forward_features(images)` the 1 + n tokens after the final norm.
    """
    model = VisionTransformer(**arguments(encoder))
    model.load_state_dict(weights(encoder))
    model.pos_embed.requires_grad_(encoder.learned_positions)
    return model.eval()


def write(encoder: Encoder, facts: InputFacts, folder: Path) -> None:
    """config.json and model.safetensors."""
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": encoder.width,
        "global_pool": "token",
        "model_args": {name: value for name, value in arguments(encoder).items() if value is not None},
        "pretrained_cfg": {
            "input_size": [facts.channels, facts.height, facts.width],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(facts.mean),
            "std": list(facts.deviation),
            "num_classes": 0,
            "pool_size": None,
            # timm before 1.0.31 makes new random weights of the convolution named here where channels are not 1 or 3
            **({"first_conv": "patch_embed.proj"} if facts.channels == 3 else {}),
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tensors(weights(encoder), facts, folder)


def write_tensors(tensors: Mapping[str, Tensor], facts: InputFacts, folder: Path) -> None:
    """model.safetensors, readable for whoever may read files here (safetensors' own writer shuts others out)."""
    apart = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    data = save(apart, metadata={"format": "pt", "contextae": facts.to_json()})  # no two may share memory
    (folder / "model.safetensors").write_bytes(data)


def reload(folder: Path, files: Sequence[Path], allow_missing: Sequence[str]) -> Reloaded:
    """By stock timm, normalised by the mean, deviation and size that timm found in config.json."""
    versions = {"timm": timm.__version__, "torch": torch.__version__}
    name = f"local-dir:{folder}"
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        stored = set(file.keys())
    wanted = set(timm.create_model(name, pretrained=False).state_dict())
    missing, unexpected = sorted(wanted - stored), sorted(stored - wanted)
    if unexpected or set(missing) - set(allow_missing):
        return Reloaded.refused(missing, unexpected, versions)
    model = timm.create_model(name, pretrained=True, **({"pretrained_strict": False} if missing else {})).eval()
    data = resolve_model_data_config(model)
    channels, height, width = data["input_size"]
    read = InputFacts.read(folder)
    found = {"height": height, "width": width, "channels": channels}
    facts = replace(read, **found, mean=tuple(data["mean"]), deviation=tuple(data["std"]))

    def run(images: Float[np.ndarray, "b c h w"]) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            given = torch.from_numpy(images)
            return model(given).numpy(), model.forward_features(given)[:, 1:].numpy()

    images = facts.normalised(facts.pixels(files))
    summary, latents = in_batches(run, images)
    own = None
    if facts.is_photograph:
        own = compared(_by_its_own_transform(data, files, MODES[channels]), images, summary, run, facts)
    return Reloaded(summary, latents, missing, unexpected, versions, own)


def _by_its_own_transform(data: dict[str, Any], files: Sequence[Path], mode: str) -> Float[np.ndarray, "b c h w"]:
    """What a user of timm does with the files."""
    transform = create_transform(**data, is_training=False)
    made = []
    for path in files:
        with Image.open(path) as image:
            made.append(transform(image.convert(mode)).numpy())
    return np.stack(made)
