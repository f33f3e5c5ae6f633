"""Small networks under published names: released, earlier, OpenMMLab's, and a fine-tuned classifier.

Names are written here by substitution, from lists of names of those files [mmselfsup #571 for OpenMMLab], and not from
our tables.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from contextae.alignment import StopGradient
from contextae.decoder import Decoder
from contextae.encoder import Encoder
from contextae.grid import Grid
from contextae.interop.official import to_state_dict
from contextae.methods.cae import CAE
from contextae.methods.cae_v2 import CAEv2
from contextae.regressor import Regressor
from contextae.targets import Codes, Features
from networks import shake

GRID = Grid(image_size=(10, 21), patch_size=(2, 3), channels=5)  # 5 x 7 patches of 30 values
SQUARE = Grid(image_size=(12, 12), patch_size=(3, 3), channels=3)
SIZES: dict[str, Any] = {"image_size": (10, 21), "patch_size": (2, 3), "num_heads": 2}
SQUARE_SIZES: dict[str, Any] = {"image_size": (12, 12), "patch_size": (3, 3), "num_heads": 2}

EARLIER = (
    (r"^regresser\.regressor_blocks", "pretext_neck.regressor_blocks"),
    (r"^decoder\.decoder_blocks", "pretext_neck.decoder_blocks"),
    (r"^regresser\.norm\.", "pretext_neck.norm."),
    (r"^decoder\.norm\.", "pretext_neck.norm2."),
    (r"^decoder\.head\.", "pretext_neck.head."),
    (r"^encoder_to_regresser", "encoder_to_decoder"),
    (r"^alignment_encoder\.", "teacher."),
)
OPENMMLAB = (
    (r"^alignment_encoder\.", "teacher."),
    (r"^encoder\.", "backbone."),
    (r"^(backbone|teacher)\.patch_embed\.proj\.", r"\1.patch_embed.projection."),
    (r"^(backbone|teacher)\.norm\.", r"\1.ln1."),
    (r"^(backbone|teacher)\.blocks\.", r"\1.layers."),
    (r"^mask_token", "neck.mask_token"),
    (r"^regresser\.regressor_blocks\.", "neck.regressors."),
    (r"^decoder\.decoder_blocks\.", "neck.decoders."),
    (r"^regresser\.norm\.", "neck.norm_regressor."),
    (r"^decoder\.norm\.", "neck.norm_decoder."),
    (r"^decoder\.head\.", "neck.head."),
    (r"\.norm1_([qkv])\.", r".norm1_\1_cross."),
    (r"(layers|decoders)\.(\d+)\.norm([12])\.", r"\1.\2.ln\3."),
    (r"\.mlp(_cross)?\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp(_cross)?\.fc2\.", ".ffn.layers.1."),
)
WITHOUT_TABLE = ("rd_pos_embed",)


def cae(
    grid: Grid = GRID,
    *,
    width: int = 24,
    decoder_width: int | None = None,
    layer_scale: float | None = 0.1,
    depths: tuple[int, int, int] = (3, 2, 1),
    mlp_ratio: float = 2.0,
) -> CAE:
    """Every weight shaken, so that no two are alike."""
    torch.manual_seed(0)
    narrow = decoder_width or width
    shared: dict[str, Any] = {"grid": grid, "num_heads": 2, "layer_scale": layer_scale, "mlp_ratio": mlp_ratio}
    method = CAE(
        encoder=Encoder(width=width, depth=depths[0], **shared),
        regressor=Regressor(width=narrow, depth=depths[1], **shared),
        decoder=Decoder(width=narrow, depth=depths[2], outputs=13, **shared),
        target=Codes(num_codes=13, grid=grid),
        alignment=StopGradient(),
    )
    shake(method)
    return method.eval()


def cae_v2(grid: Grid = GRID, *, width: int = 24, regressor_width: int | None = None) -> CAEv2:
    """The same of CAE v2."""
    torch.manual_seed(0)
    method = CAEv2(
        encoder=Encoder(grid=grid, width=width, depth=2, num_heads=2),
        regressor=Regressor(grid=grid, width=regressor_width or width, depth=1, num_heads=2),
        target=Features(width=11, grid=grid),
    )
    shake(method)
    return method.eval()


def renamed(state: dict[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The same tensors under the names that `rules` make of theirs; the families named here save no `rd_pos_embed`."""
    names = {}
    for name, value in state.items():
        if name != "rd_pos_embed":
            new = name
            for pattern, replacement in rules:
                new = re.sub(pattern, replacement, new)
            names[new] = value
    return names


def released(method: Any, **options: Any) -> dict[str, Tensor]:
    """By released names."""
    return to_state_dict(method, **options)


def classifier(
    *, grid: Grid = SQUARE, width: int = 24, depth: int = 2, num_heads: int = 2, layer_scale: bool = True
) -> dict[str, Tensor]:
    """A fine-tuned classifier of 7 classes by its published names [Atten4Vis/CAE], random everywhere."""
    made = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made) * 0.3

    rows, columns = grid.size
    state = {
        "cls_token": random(1, 1, width),
        "pos_embed": random(1, rows * columns + 1, width),
        "patch_embed.proj.weight": random(width, grid.channels, *grid.patch_size),
        "patch_embed.proj.bias": random(width),
        "fc_norm.weight": 1 + random(width),
        "fc_norm.bias": random(width),
        "head.weight": random(7, width),
        "head.bias": random(7),
    }
    for i in range(depth):
        block = {
            "norm1.weight": 1 + random(width),
            "norm1.bias": random(width),
            "attn.q_bias": random(width),
            "attn.v_bias": random(width),
            "attn.relative_position_bias_table": random((2 * rows - 1) * (2 * columns - 1) + 3, num_heads),
            "attn.relative_position_index": relative_index(rows, columns),
            "attn.qkv.weight": random(3 * width, width),
            "attn.proj.weight": random(width, width),
            "attn.proj.bias": random(width),
            "norm2.weight": 1 + random(width),
            "norm2.bias": random(width),
            "mlp.fc1.weight": random(2 * width, width),
            "mlp.fc1.bias": random(2 * width),
            "mlp.fc2.weight": random(width, 2 * width),
            "mlp.fc2.bias": random(width),
        }
        if layer_scale:
            block |= {"gamma_1": random(width), "gamma_2": random(width)}
        state |= {f"blocks.{i}.{name}": value for name, value in block.items()}
    return state


def relative_index(rows: int, columns: int) -> Tensor:
    """For each pair of tokens, the row of the table that BEiT's bias is taken from; the last three are the class's."""
    last = (2 * rows - 1) * (2 * columns - 1)
    tokens = rows * columns + 1
    index = torch.zeros(tokens, tokens, dtype=torch.int64)
    for a in range(tokens - 1):
        for b in range(tokens - 1):
            down, right = a // columns - b // columns, a % columns - b % columns
            index[a + 1, b + 1] = (down + rows - 1) * (2 * columns - 1) + right + columns - 1
    index[0, :], index[:, 0], index[0, 0] = last, last + 1, last + 2
    return index


def classify(state: dict[str, Tensor], images: Tensor, *, num_heads: int) -> Tensor:
    """What such a classifier computes, from its tensors alone, one head at a time."""
    width = state["cls_token"].shape[-1]
    patch = state["patch_embed.proj.weight"].shape[-2:]
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch)
    x = torch.cat([state["cls_token"].expand(len(x), 1, -1), x.flatten(2).mT], dim=1) + state["pos_embed"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    for i in range(sum(name.endswith("q_bias") for name in state)):
        at = f"blocks.{i}"
        q, k, v = (norm(x, f"{at}.norm1") @ state[f"{at}.attn.qkv.weight"].T).chunk(3, dim=-1)
        q, v = q + state[f"{at}.attn.q_bias"], v + state[f"{at}.attn.v_bias"]
        bias = state[f"{at}.attn.relative_position_bias_table"][state[f"{at}.attn.relative_position_index"]]
        heads, size = [], width // num_heads
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            weights = (q[..., part] @ k[..., part].mT * size**-0.5 + bias[..., head]).softmax(-1)
            heads.append(weights @ v[..., part])
        seen = torch.cat(heads, -1) @ state[f"{at}.attn.proj.weight"].T + state[f"{at}.attn.proj.bias"]
        x = x + state.get(f"{at}.gamma_1", 1) * seen
        hidden = F.gelu(norm(x, f"{at}.norm2") @ state[f"{at}.mlp.fc1.weight"].T + state[f"{at}.mlp.fc1.bias"])
        x = x + state.get(f"{at}.gamma_2", 1) * (hidden @ state[f"{at}.mlp.fc2.weight"].T + state[f"{at}.mlp.fc2.bias"])
    pooled = norm(x[:, 1:].mean(1), "fc_norm")
    return pooled @ state["head.weight"].T + state["head.bias"]
