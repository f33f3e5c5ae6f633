"""Encoder F: a Vision Transformer that sees only the patches it is given."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from contextae.blocks import Block, Initialisation, LayerNorm, drop_path_rates, initialise, initialise_token
from contextae.errors import UserError
from contextae.grid import Grid, patchify
from contextae.positions import adapt_positions, at, select, sine_cosine


class Encoder(nn.Module):
    """Linear patch embedding, class token, positions, timm's blocks, final norm.

    `encoder(patches, indices)` gives the latents of the named patches, which see each other, the class token and
    nothing else. Given all patches it equals timm's VisionTransformer with the same weights. The class token has
    position zero, is never masked, and its output leaves only through `encode` and `summary_and_latents`.

    Positions are a fixed sine-cosine table, which is no weight, or with `learned_positions` a trained one, which is.
    The second is for weights of others: their tables are learned, or fixed in another layout, and have to be kept.
    """

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
        learned_positions: bool = False,
        initialisation: Initialisation = "xavier",
    ) -> None:
        super().__init__()
        self.grid, self.width, self.num_heads = grid, width, num_heads
        self.patch_embed = nn.Linear(grid.patch_values, width)
        self.class_token = nn.Parameter(torch.zeros(width))
        if learned_positions:
            self.positions = nn.Parameter(torch.zeros(grid.num_patches, width))
        else:
            self.register_buffer("positions", sine_cosine(grid.size, width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                layer_scale=layer_scale,
                drop_path=rate,
                salt=i,
            )
            for i, rate in enumerate(drop_path_rates(drop_path, depth))
        )
        self.norm = LayerNorm(width)
        initialise(self, initialisation)
        initialise_token(self.class_token)
        if learned_positions:
            nn.init.trunc_normal_(self.positions, std=0.02)  # [timm]; last, so that the other weights stay as they are

    @property
    def learned_positions(self) -> bool:
        """Whether positions are trained and stored, instead of computed."""
        return isinstance(self.positions, nn.Parameter)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def hidden_width(self) -> int:
        """Width inside the MLP of a block."""
        return self._first_block.mlp.fc1.out_features

    @property
    def mlp_ratio(self) -> float:
        """A ratio of which `int(width * ratio)` is the hidden width: rounding can take the plain one below it."""
        ratio = self.hidden_width / self.width
        return ratio if int(self.width * ratio) == self.hidden_width else (self.hidden_width + 0.5) / self.width

    @property
    def has_layer_scale(self) -> bool:
        """Whether its residual branches are scaled."""
        return not isinstance(self._first_block.ls1, nn.Identity)

    @property
    def _first_block(self) -> Block:
        """All of them are alike."""
        block = self.blocks[0]
        assert isinstance(block, Block)
        return block

    def embed(
        self, patches: Float[Tensor, "b n p"], indices: Int[Tensor, "b v"] | None = None
    ) -> Float[Tensor, "b v d"]:
        """Embeddings of the named patches (of all, in order, without `indices`), positions added."""
        if indices is None:
            return self.patch_embed(patches) + self.positions
        return self.patch_embed(select(patches, indices)) + at(self.positions, indices)

    def encode(
        self, embeddings: Float[Tensor, "b v d"], key: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b 1+v d"]:
        """All tokens after the final norm, the class token first."""
        x = self._with_class_token(embeddings)
        for block in self.blocks:
            x = block(x, key)
        return self.norm(x)

    def forward(
        self, patches: Float[Tensor, "b n p"], indices: Int[Tensor, "b v"], key: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b v d"]:
        """Latents of the patches that `indices` name, in that order; `key` counts stochastic depth."""
        return self.encode(self.embed(patches, indices), key)[:, 1:]

    def summary_and_latents(
        self, images: Float[Tensor, "b c *size"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"]]:
        """The class token's output and the latents of all patches of whole, normalised images."""
        tokens = self.encode(self.embed(patchify(images, self.grid)))
        return tokens[:, 0], tokens[:, 1:]

    def layerwise_latents(self, images: Float[Tensor, "b c *size"]) -> list[Float[Tensor, "b s d"]]:
        """The 1 + n tokens after each block, the class token first; the final norm is for the last one alone."""
        x = self._with_class_token(self.embed(patchify(images, self.grid)))
        layers = []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return [*layers[:-1], self.norm(layers[-1])]

    def positions_at(self, size: tuple[int, ...]) -> Float[Tensor, "n d"]:
        """Positions for a grid of another size: computed where they are fixed, interpolated where they are learned.

        UserError for positions that are fixed but are not the sine-cosine table of their grid.
        """
        if self.learned_positions:
            return adapt_positions(self.positions, self.grid.size, size)
        if not torch.equal(self.positions.cpu(), sine_cosine(self.grid.size, self.width)):
            raise UserError(
                "The positions of this encoder are not the sine-cosine table of its grid, so they cannot be computed "
                f"for another one. Use it at its own size, {self.grid.image_size}."
            )
        return sine_cosine(size, self.width).to(self.positions)

    def _with_class_token(self, embeddings: Float[Tensor, "b v d"]) -> Float[Tensor, "b 1+v d"]:
        return torch.cat([self.class_token.expand(len(embeddings), 1, -1), embeddings], dim=1)


def resized(encoder: Encoder, image_size: tuple[int, ...], *, drop_path: float = 0.0) -> Encoder:
    """A copy for images of `image_size`, on the CPU, in evaluation mode.

    Sine-cosine positions are computed anew, which is exact; a learned table is interpolated (bicubic, antialiased, by
    timm). UserError for positions that are fixed but are not the sine-cosine table of their grid.
    """
    grid = Grid(image_size=image_size, patch_size=encoder.grid.patch_size, channels=encoder.grid.channels)
    own = grid == encoder.grid
    positions = (encoder.positions if own else encoder.positions_at(grid.size)).detach().cpu()
    copy = Encoder(
        grid=grid,
        width=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.num_heads,
        mlp_ratio=encoder.mlp_ratio,
        layer_scale=1.0 if encoder.has_layer_scale else None,
        drop_path=drop_path,
        learned_positions=encoder.learned_positions,
    )
    copy.load_state_dict({**encoder.state_dict(), **({"positions": positions} if encoder.learned_positions else {})})
    if not encoder.learned_positions:
        copy.positions.copy_(positions)
    return copy.eval()


class EncoderConfig(BaseModel):
    """The trunk that every method shares."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    patch_size: tuple[int, int] = Field((16, 16), description="(height, width) of a patch in pixels")
    width: int = Field(384, ge=4, description="width of the latents")
    depth: int = Field(12, ge=1, description="number of blocks")
    num_heads: int = Field(6, ge=1, description="attention heads; must divide the width")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of a block's MLP over its width")
    layer_scale: float | None = Field(0.1, gt=0, description="initial layer scale, or null for none")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the last block")
    initialisation: Initialisation = Field("xavier", description="of linear weights; the released large model: beit")
    positions: Literal["sine-cosine", "learned"] = Field(
        "sine-cosine", description="a fixed table, or a trained one, as many weights of others need it"
    )

    def grid(self, *, image_size: tuple[int, int], channels: int) -> Grid:
        """The patches of images of this size."""
        return Grid(image_size=image_size, patch_size=self.patch_size, channels=channels)

    def build(self, *, image_size: tuple[int, int], channels: int) -> Encoder:
        """A freshly initialised encoder for images of this size."""
        return Encoder(
            grid=self.grid(image_size=image_size, channels=channels),
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            layer_scale=self.layer_scale,
            drop_path=self.drop_path,
            learned_positions=self.positions == "learned",
            initialisation=self.initialisation,
        )
