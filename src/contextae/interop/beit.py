"""Fine-tuned classifiers of published CAE as timm's Beit, the one network that has their relative positions.

From the released code, Atten4Vis/CAE at a7fd162: the names are timm's own; only the index of the relative positions, a
constant, is left out. Classification pools the patches, without the class token, and norms after that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.models.beit import Beit
from torch import Tensor

from contextae.errors import UserError
from contextae.grid import Grid
from contextae.interop.official_heads import check_heads, check_table_heads
from contextae.interop.official_read import listed, mlp_ratio, unwrap

ARCHITECTURE = "beit_base_patch16_224"  # its name alone; every size is written out
TABLE = "attn.relative_position_bias_table"


def to_beit(
    state: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    patch_size: tuple[int, int],
    num_heads: int,
    allow_other_heads: bool = False,
) -> Beit:
    """The classifier with all its tensors, in evaluation mode; every other size is read from them.

    A tensor that has no place, or is missing, is refused by name.
    """
    given = unwrap(state)
    arguments = _arguments(given, num_heads, allow_other_heads)
    grid = Grid(image_size=image_size, patch_size=patch_size, channels=arguments["in_chans"])
    kernel = tuple(given["patch_embed.proj.weight"].shape[2:])
    if kernel != grid.patch_size:
        raise UserError(
            f"patch_size must be the file's own. patch_embed.proj.weight has patches of {kernel[0]} x {kernel[1]}; got "
            f"{patch_size[0]} x {patch_size[1]}."
        )
    arguments |= {"img_size": list(image_size), "patch_size": list(patch_size)}
    model = timm.create_model(ARCHITECTURE, **arguments)
    _fill(model, given)
    return model.eval()


def write_beit(model: Beit, folder: Path, *, mean: Sequence[float], deviation: Sequence[float]) -> float:
    """config.json and model.safetensors for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    The folder exists. What is written is loaded again by timm; returns the largest difference of its outputs, which
    must not exceed 1e-5.
    """
    arguments = arguments_of(model)
    shown = [arguments["in_chans"], *arguments["img_size"]]
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": arguments["global_pool"],
        "model_args": {name: value for name, value in arguments.items() if name not in ("num_classes", "global_pool")},
        "pretrained_cfg": {
            "input_size": shown,
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 224 / 256,
            "mean": list(mean),
            "std": list(deviation),
            "num_classes": model.num_classes,
            "pool_size": None,
            **({"first_conv": "patch_embed.proj"} if shown[0] == 3 else {}),  # as in timm.py
            "classifier": "head",
        },
    }
    (folder / "model.safetensors").write_bytes(save(model.state_dict(), metadata={"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    images = torch.randn(2, *shown, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        difference = float((again(images) - model(images)).abs().max())
    if not difference <= 1e-5:
        raise UserError(
            f"timm's own reading of these weights gives other outputs, by up to {difference:.2g}, so nothing is "
            "written. It takes the relative positions of some grids that are not square for those of a square one; use "
            "to_beit from Python."
        )
    return difference


def arguments_of(model: Beit) -> dict[str, Any]:
    """What builds the same network again."""
    block = model.blocks[0]
    return {
        "img_size": list(model.patch_embed.img_size),
        "patch_size": list(model.patch_embed.patch_size),
        "in_chans": model.in_chans,
        "num_classes": model.num_classes,
        "global_pool": model.global_pool,
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": mlp_ratio(block.mlp.fc1.out_features, model.embed_dim),
        "init_values": block.init_values or 0.0,
        "use_abs_pos_emb": model.pos_embed is not None,
        "use_rel_pos_bias": block.attn.window_size is not None,
    }


def _arguments(given: Mapping[str, Tensor], num_heads: int, allow_other_heads: bool) -> dict[str, Any]:
    """What timm's Beit is built with, read from the tensors."""

    def need(name: str) -> Tensor:
        if name not in given:
            raise UserError(
                f"A fine-tuned CAE classifier holds {name}, and this file does not: it holds {listed(given)}. "
                "Pretraining checkpoints are read without --to beit."
            )
        return given[name]

    width = need("cls_token").shape[-1]
    classes = need("head.weight").shape[0]
    depth = len({match[1] for name in given if (match := re.match(r"blocks\.(\d+)\.", name))})
    check_heads(width, num_heads, part="classifier", allow_other_heads=allow_other_heads)
    for name, value in given.items():
        if name.endswith(TABLE):
            check_table_heads(name, value.shape[-1], num_heads)
    hidden = need("blocks.0.mlp.fc1.weight").shape[0]
    gamma = given.get("blocks.0.gamma_1")
    return {
        "in_chans": need("patch_embed.proj.weight").shape[1],
        "num_classes": classes,
        "global_pool": "avg" if "fc_norm.weight" in given else "token",
        "embed_dim": width,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": mlp_ratio(hidden, width),
        "init_values": 0.0 if gamma is None else 0.1,  # none: timm takes 0 so, and None for its default
        "use_abs_pos_emb": "pos_embed" in given,
        "use_rel_pos_bias": f"blocks.0.{TABLE}" in given,
    }


def _fill(model: Beit, given: Mapping[str, Tensor]) -> None:
    """Strictly; the saved index of relative positions must be the one that timm computes."""
    wanted, weights = model.state_dict(), {}
    constants = dict(model.named_buffers())
    for name, value in given.items():
        if name not in constants:
            weights[name] = value.float()
        elif not torch.equal(value, constants[name]):
            raise UserError(f"{name} is not the index of relative positions of this grid. Give the file's image size.")
    missing = [name for name in wanted if name not in weights]
    unknown = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} is {list(weights[name].shape)} instead of {list(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if missing or unknown or shapes:
        found = (("missing", missing), ("without a place", unknown), ("of another shape", shapes))
        raise UserError(
            "These tensors are not a whole fine-tuned CAE classifier: "
            + "; ".join(f"{what}: {listed(names)}" for what, names in found if names)
            + ". Nothing was loaded; give its unchanged file, and its image size."
        )
    model.load_state_dict(weights)
