"""Regressor H, the latent contextual regressor: latents of visible patches -> latents of masked patches."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contextae.blocks import (
    CrossAttention,
    DropPath,
    Initialisation,
    LayerNorm,
    drop_path_rates,
    initialise,
    initialise_token,
    layer_scale,
    mlp,
)
from contextae.grid import Grid
from contextae.masking import Mask
from contextae.positions import at, sine_cosine


class RegressorBlock(nn.Module):
    """Masked tokens look at the visible latents and at themselves.

    Keys and values are the visible latents, which no block updates, joined by the running masked tokens; positions
    join queries and keys in every block, never values. The second norm replaces the residual stream instead of
    branching off it: the published code and both of OpenMMLab's ports agree on that.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        scale: float | None = None,
        drop_path: float = 0.0,
        salt: int = 0,
    ) -> None:
        super().__init__()
        self.norm_q = LayerNorm(width)
        self.norm_k = LayerNorm(width)
        # it adds one vector to all keys, which softmax does not see; AdamW would let it drift on rounding errors
        self.norm_k.bias.requires_grad_(False)
        self.norm_v = LayerNorm(width)
        self.attn = CrossAttention(width=width, num_heads=num_heads)
        self.ls1 = layer_scale(width, scale)
        self.norm2 = LayerNorm(width)
        self.mlp = mlp(width, mlp_ratio)
        self.ls2 = layer_scale(width, scale)
        self.drop_path1 = DropPath(rate=drop_path, salt=2 * salt)
        self.drop_path2 = DropPath(rate=drop_path, salt=2 * salt + 1)

    def forward(
        self,
        x: Float[Tensor, "b m e"],
        visible: Float[Tensor, "b v e"],
        at_masked: Float[Tensor, "b m e"],
        at_visible: Float[Tensor, "b v e"],
        key: Int[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b m e"]:
        context = torch.cat([visible, x], dim=1)
        positions = torch.cat([at_visible, at_masked], dim=1)
        seen = self.attn(self.norm_q(x + at_masked), self.norm_k(context + positions), self.norm_v(context))
        x = self.norm2(x + self.drop_path1(self.ls1(seen), key))
        return x + self.drop_path2(self.ls2(self.mlp(x)), key)


class Regressor(nn.Module):
    """Predicts the latents of masked patches from those of visible ones, where queries start as one `mask_query`."""

    positions: Tensor

    def __init__(
        self,
        *,
        grid: Grid,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = 0.1,
        drop_path: float = 0.0,
        initialisation: Initialisation = "xavier",
    ) -> None:
        super().__init__()
        self.mask_query = nn.Parameter(torch.zeros(width))
        self.register_buffer("positions", sine_cosine(grid.size, width), persistent=False)
        self.blocks = nn.ModuleList(
            RegressorBlock(
                width=width, num_heads=num_heads, mlp_ratio=mlp_ratio, scale=layer_scale, drop_path=rate, salt=1000 + i
            )
            for i, rate in enumerate(drop_path_rates(drop_path, depth))
        )
        self.norm = LayerNorm(width)
        initialise(self, initialisation)
        initialise_token(self.mask_query)

    def forward(
        self, visible: Float[Tensor, "b v e"], mask: Mask, key: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b m e"]:
        """Predicted latents of the patches that `mask.masked` names, in that order."""
        return self.norm(self.regress(visible, mask, key))

    def regress(
        self, visible: Float[Tensor, "b v e"], mask: Mask, key: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b m e"]:
        """The same before the final norm, which CAE v2 leaves out."""
        at_visible, at_masked = at(self.positions, mask.visible), at(self.positions, mask.masked)
        x = self.mask_query.expand(*mask.masked.shape, -1)
        for block in self.blocks:
            x = block(x, visible, at_masked, at_visible, key)
        return x


def projection(width: int, regressor_width: int, initialisation: Initialisation = "xavier") -> nn.Module:
    """From the encoder's latents to those of a regressor of another width: a linear layer with norm, else nothing.

    Differs from the released code, where it belongs to neither encoder nor regressor: BEiT's initialisation, which
    they have for the large size, passes it by. Here it starts as they do.
    """
    if width == regressor_width:
        return nn.Identity()
    layers = nn.Sequential(nn.Linear(width, regressor_width), LayerNorm(regressor_width))
    initialise(layers, initialisation)
    return layers
