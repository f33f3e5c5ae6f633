"""The transformer block of encoder and decoder, its attention without key bias, and counted stochastic depth."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers import LayerScale, Mlp
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

NORM_EPS = 1e-6  # timm's VisionTransformer and the published CAE
LayerNorm = partial(nn.LayerNorm, eps=NORM_EPS)


def attend(
    queries: Float[Tensor, "b q i h"],
    keys: Float[Tensor, "b q j h"],
    values: Float[Tensor, "b q j h"],
    bias: Float[Tensor, "q i j"] | None = None,
) -> Float[Tensor, "b q i h"]:
    """Scaled dot-product attention of q heads, scale 1 / sqrt(h); `bias` is added before the softmax.

    torch's fused kernel where there is a GPU. On CPU plain products with softmax: at a few hundred patches the fused
    kernel's backward pass makes a training step slower (benchmarks/step.py prints the ratio).
    """
    if queries.device.type != "cpu":
        mask = None if bias is None else bias.to(queries.dtype)
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    weights = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    if bias is not None:
        weights = weights + bias
    return weights.softmax(dim=-1).to(values.dtype) @ values


def split_heads(x: Float[Tensor, "b s d"], num_heads: int) -> Float[Tensor, "b q s h"]:
    """Width into q heads of width h."""
    return x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2)


def join_heads(x: Float[Tensor, "b q s h"]) -> Float[Tensor, "b s d"]:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def check_heads(width: int, num_heads: int) -> None:
    """Refuses a number of heads that does not divide the width."""
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"num_heads must divide the width. Got num_heads={num_heads} and width={width}.")


class Attention(nn.Module):
    """Self-attention with timm's names, a bias on queries and values and none on keys, as in BEiT and CAE.

    softmax does not see a key bias, so none is kept: AdamW would let it drift. `contextae` adds zeros on export.
    """

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b s d"], bias: Float[Tensor, "q s s"] | None = None) -> Float[Tensor, "b s d"]:
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        parts = F.linear(x, self.qkv.weight, qkv_bias).chunk(3, dim=-1)
        queries, keys, values = (split_heads(part, self.num_heads) for part in parts)
        return self.proj(join_heads(attend(queries, keys, values, bias)))


class CrossAttention(nn.Module):
    """Attention of queries over other tokens: separate projections, bias on queries and values only."""

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self, queries: Float[Tensor, "b i d"], keys: Float[Tensor, "b j d"], values: Float[Tensor, "b j d"]
    ) -> Float[Tensor, "b i d"]:
        q = split_heads(F.linear(queries, self.q.weight, self.q_bias), self.num_heads)
        k = split_heads(self.k(keys), self.num_heads)
        v = split_heads(F.linear(values, self.v.weight, self.v_bias), self.num_heads)
        return self.proj(join_heads(attend(q, k, v)))


def counted_uniform(key: Int[Tensor, "b"], salt: int) -> Float[Tensor, "b"]:
    """One number in [0, 1) per key: splitmix64 (Steele, Lea and Flood 2014) of key and salt, in float64.

    A function of its arguments alone, so stochastic depth repeats itself after a resume and on any number of processes.
    """

    def shifted(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts signed numbers arithmetically

    step = (salt + 1) * 0x9E3779B97F4A7C15 % 2**64
    x = key + (step - 2**64 if step >= 2**63 else step)  # as a signed number
    x = (x ^ shifted(x, 30)) * -4658895280553007687
    x = (x ^ shifted(x, 27)) * -7723592293110705685
    return shifted(x ^ shifted(x, 31), 11).double() * 2.0**-53


class DropPath(nn.Module):
    """Stochastic depth: leaves a residual branch out per sample with probability `rate` and scales the rest.

    With keys the decision is counted (`counted_uniform`), without them it comes from torch's generator.
    """

    def __init__(self, *, rate: float, salt: int) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1. Got {rate}.")
        self.rate, self.salt = rate, salt

    def forward(self, x: Float[Tensor, "b s d"], key: Int[Tensor, "b"] | None) -> Float[Tensor, "b s d"]:
        if self.rate == 0 or not self.training:
            return x
        drawn = torch.rand(len(x), device=x.device) if key is None else counted_uniform(key, self.salt)
        kept = (drawn >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.reshape(-1, 1, 1)


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """0 in the first block to `drop_path` in the last, linearly [published CAE: within each part separately]."""
    return [drop_path * i / max(1, depth - 1) for i in range(depth)]


def layer_scale(width: int, value: float | None) -> nn.Module:
    """Learned per-channel scale of a residual branch, or nothing."""
    return LayerScale(width, init_values=value) if value else nn.Identity()


def mlp(width: int, mlp_ratio: float) -> Mlp:
    """Two linear layers with exact GELU between."""
    return Mlp(width, hidden_features=int(width * mlp_ratio))


class Block(TimmBlock):
    """timm's pre-norm ViT block with `Attention` and counted `DropPath`; the names of its weights are timm's."""

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        salt: int = 0,
    ) -> None:
        super().__init__(width, num_heads, mlp_ratio=mlp_ratio, init_values=layer_scale, norm_layer=LayerNorm)
        self.attn = Attention(width=width, num_heads=num_heads)
        self.drop_path1 = DropPath(rate=drop_path, salt=2 * salt)
        self.drop_path2 = DropPath(rate=drop_path, salt=2 * salt + 1)

    def forward(
        self, x: Float[Tensor, "b s d"], key: Int[Tensor, "b"] | None = None, bias: Float[Tensor, "q s s"] | None = None
    ) -> Float[Tensor, "b s d"]:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), bias)), key)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))), key)


Initialisation = Literal["xavier", "beit"]


def initialise(part: nn.Module, way: Initialisation = "xavier") -> None:
    """Linear weights by `way`, zero biases, unit norms.

    xavier: uniform, a fused qkv as one matrix. It is what the published CAE ends with: its code sets BEiT's first and
    overwrites it, except for the large size, where it means to keep BEiT's.
    beit (arXiv 2106.08254): normal, deviation 0.02, cut at one deviation as CAE cuts it; what ends the two branches of
    the i-th block, counted from 1, is divided by sqrt(2 i).
    """
    for module in part.modules():
        if isinstance(module, nn.Linear):
            if way == "beit":
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.02, b=0.02)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    if way == "beit":
        for i, block in enumerate(getattr(part, "blocks", ())):
            block.attn.proj.weight.data.div_((2 * (i + 1)) ** 0.5)
            block.mlp.fc2.weight.data.div_((2 * (i + 1)) ** 0.5)


def initialise_token(token: nn.Parameter) -> None:
    """Truncated normal, deviation 0.02, cut at one deviation, for class token and mask query [published CAE]."""
    nn.init.trunc_normal_(token, std=0.02, a=-0.02, b=0.02)
