"""Decoder G: predicted latents of masked patches -> predictions. It is given nothing else, so it cannot cheat."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from contextae.blocks import Block, Initialisation, LayerNorm, drop_path_rates, initialise
from contextae.grid import Grid
from contextae.positions import at, sine_cosine


class Decoder(nn.Module):
    """Self-attention among masked patches alone, a norm and one linear layer to `outputs` values per patch.

    Positions join once, at the input. Depth 0 sends the predicted latents straight to norm and linear layer.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        grid: Grid,
        width: int,
        depth: int,
        num_heads: int,
        outputs: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = 0.1,
        drop_path: float = 0.0,
        initialisation: Initialisation = "xavier",
    ) -> None:
        super().__init__()
        self.register_buffer("positions", sine_cosine(grid.size, width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                layer_scale=layer_scale,
                drop_path=rate,
                salt=2000 + i,
            )
            for i, rate in enumerate(drop_path_rates(drop_path, depth))
        )
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        initialise(self, initialisation)

    def forward(
        self, predicted: Float[Tensor, "b m e"], masked: Int[Tensor, "b m"], key: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b m k"]:
        """Predictions for the patches that `masked` names, in that order."""
        x = predicted + at(self.positions, masked)
        for block in self.blocks:
            x = block(x, key)
        return self.head(self.norm(x))
