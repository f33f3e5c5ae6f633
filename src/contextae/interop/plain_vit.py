"""A ViT of timm in our encoder's terms: what the encoder could not hold, and the tensors by our names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.layers import GELU, LayerNorm, LayerNormFp32, LayerScale, Mlp, PatchEmbed
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from contextae.blocks import NORM_EPS
from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.grid import Grid
from contextae.interop.adapt import fixed_layout, without_key_bias

LEFT_OUT = ("head.", "attn_pool.", "mask_token")  # what reads a ViT out, and what DINOv2 trains it with
LARGEST_EPS = 1e-5  # torch's own; up to there the difference is small and said aloud, beyond it is refused
RENAMED = {
    "patch_embed.proj.weight": "patch_embed.weight",
    "patch_embed.proj.bias": "patch_embed.bias",
    "fc_norm.weight": "norm.weight",
    "fc_norm.bias": "norm.bias",
}


def differences(vit: Any) -> list[str]:
    """What the network has and our encoder has not, in words; nothing where the encoder can hold it exactly."""
    found = ["a distillation token"] if hasattr(vit, "dist_token") else []
    if type(vit) is not VisionTransformer:
        return [*found, f"the class {type(vit).__name__} instead of VisionTransformer"]
    norm = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
    ends = not isinstance(norm, nn.Identity)
    checks = {
        "no class token": vit.cls_token is None,
        f"{vit.num_reg_tokens} register token(s)": vit.reg_token is not None,
        "no table of positions": vit.pos_embed is None,
        "a norm before its blocks, as CLIP's": not isinstance(vit.norm_pre, nn.Identity),
        f"a patch embedding of the kind {type(vit.patch_embed).__name__}": type(vit.patch_embed) is not PatchEmbed,
        "a norm in its patch embedding": not isinstance(getattr(vit.patch_embed, "norm", None), nn.Identity | None),
        "no final norm": not ends,
        f"a final norm of the kind {_kind(norm)}": ends and not _is_layer_norm(norm),
    }
    words = [each for each, present in checks.items() if present]
    return [*words, *dict.fromkeys(each for block in vit.blocks for each in _differences_of_block(block))]


def _differences_of_block(block: Any) -> Iterator[str]:
    if type(block) is not Block:
        yield f"blocks of the kind {type(block).__name__}"
        return
    for norm in (block.norm1, block.norm2):
        if not _is_layer_norm(norm):
            yield f"blocks with norms of the kind {_kind(norm)}"
    if type(block.attn) is not Attention:
        yield f"attention of the kind {type(block.attn).__name__}"
    else:
        if not isinstance(block.attn.q_norm, nn.Identity):
            yield "norms of queries and keys"
        if not isinstance(block.attn.norm, nn.Identity):
            yield "a norm within attention"
        if getattr(block.attn, "gate", None) is not None:  # timm before 1.0.28 has none
            yield "gates in attention"
    if type(block.mlp) is not Mlp:
        yield f"MLPs of the kind {type(block.mlp).__name__}"
    else:
        if not isinstance(block.mlp.norm, nn.Identity):
            yield "norms within its MLPs"
        act = block.mlp.act
        if not (isinstance(act, GELU) or (isinstance(act, nn.GELU) and act.approximate == "none")):
            yield f"an activation that is not the exact GELU ({act})"


def _is_layer_norm(norm: Any) -> bool:
    return (
        type(norm) in (nn.LayerNorm, LayerNorm, LayerNormFp32) and norm.elementwise_affine and norm.eps <= LARGEST_EPS
    )


def _kind(norm: Any) -> str:
    return f"{type(norm).__name__} (eps {norm.eps:g})" if hasattr(norm, "eps") else type(norm).__name__


def grid_of(vit: Any) -> Grid:
    """The patches it was built for."""
    embed = vit.patch_embed
    return Grid(image_size=tuple(embed.img_size), patch_size=tuple(embed.patch_size), channels=embed.proj.in_channels)


def our_tensors(vit: Any, tensors: Mapping[str, Tensor], *, origin: str) -> tuple[dict[str, Tensor], list[str]]:
    """All tensors of our encoder out of all of a plain ViT's, and sentences on what is not one to one.

    Exact are: the key bias, which softmax does not see, dropped; a bias that the source lacks, zero; the class token's
    position, added to the class token. The norm that timm puts behind an average over patches, where it has no other,
    becomes the final norm of every token. A table that equals our fixed one is not kept, any other is.
    """
    left = [name for name in tensors if name.startswith(LEFT_OUT)]
    said = [f"left out, for the encoder ends before it: {', '.join(left)}"] if left else []
    _refuse_others(vit, {name: value for name, value in tensors.items() if name not in left}, origin)
    ours: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name == "cls_token":
            ours["class_token"] = value.flatten()
        elif name.endswith("attn.qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            ours[f"{stem}q_bias"], ours[f"{stem}v_bias"] = without_key_bias(value)
        elif name not in left and name != "pos_embed":
            ours[RENAMED.get(name, name)] = value.flatten(1) if value.ndim == 4 else value
    if "fc_norm.weight" in tensors:
        said.append("final norm: the one the source has behind its pooling, now on every token")
    said += _place(ours, tensors["pos_embed"].squeeze(0), vit)
    said += _complete(ours, vit)
    if (eps := vit.blocks[0].norm1.eps) != NORM_EPS:
        said.append(f"norms: the source adds {eps:g} to variances, the encoder {NORM_EPS:g}; latents differ a little")
    return ours, said


def _refuse_others(vit: Any, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Names and shapes must be those of the network, up to where its final norm stands."""
    wanted = {RENAMED.get(name, name): value.shape for name, value in vit.state_dict().items()}
    wanted = {name: shape for name, shape in wanted.items() if not name.startswith(LEFT_OUT)}
    given = {RENAMED.get(name, name): value.shape for name, value in tensors.items()}
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    problems += [
        f"{name} is {tuple(given[name])} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    problems += [f"{old} stands beside {new}" for old, new in RENAMED.items() if old in tensors and new in tensors]
    problems += [f"{name} holds numbers that are not finite" for name, x in tensors.items() if not x.isfinite().all()]
    if problems:
        more = f", and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(
            f"The weights in {origin} are not those of the network they were given for: {', '.join(problems[:4])}{more}"
            ". Name the network they come from; where its image size, patch size or channels are not timm's, give a "
            "folder with a config.json whose model_args say so."
        )


def _place(ours: dict[str, Tensor], table: Tensor, vit: Any) -> list[str]:
    """Keeps the table of positions if it is not ours, and adds the class token's row to the class token."""
    said = []
    if not vit.no_embed_class:
        if table[0].any():
            ours["class_token"] = ours["class_token"] + table[0]
            said.append("class token: its position was added to it")
        table = table[1:]
    layout = fixed_layout(table, grid_of(vit).size)
    if layout == "columns first":
        said.append("positions: a fixed table with columns first, as MAE's, kept as a learned one; ours has rows first")
    if layout != "rows first":
        ours["positions"] = table
    return said


def _complete(ours: dict[str, Tensor], vit: Any) -> list[str]:
    """Zeros for the biases of our encoder that the network has not."""
    with torch.device("meta"):
        encoder = Encoder(
            grid=grid_of(vit),
            width=vit.embed_dim,
            depth=len(vit.blocks),
            num_heads=vit.blocks[0].attn.num_heads,
            mlp_ratio=ratio_of(vit.embed_dim, vit.blocks[0].mlp.fc1.out_features),
            layer_scale=1.0 if isinstance(vit.blocks[0].ls1, LayerScale) else None,
            learned_positions="positions" in ours,
        )
    absent = {name: like for name, like in encoder.state_dict().items() if name not in ours and name.endswith("bias")}
    ours.update({name: torch.zeros(like.shape) for name, like in absent.items()})
    kinds = dict.fromkeys(name.rpartition("blocks.")[2].lstrip("0123456789.") for name in absent)
    return [f"biases that the source has not start at zero: {', '.join(kinds)}"] if absent else []


def ratio_of(width: int, mlp_width: int) -> float:
    """`mlp_ratio` that gives this hidden width: `int(width * ratio)` falls one short for some quotients."""
    ratio = mlp_width / width
    return ratio if int(width * ratio) == mlp_width else (mlp_width + 0.5) / width
