"""Masked Autoencoder, MAE (He et al., arXiv 2111.06377, CVPR 2022).

An encoder sees the visible patches. A decoder sees their latents, the class token's, and one learned token in place of
every masked patch, and turns the masked ones into the target. Visible and masked patches are mixed in the decoder, so
that understanding may go on there: what CAE, whose decoder sees predicted latents alone, sets out to prevent.

Differs from the reference: masked tokens come last in the decoder instead of at their places, which attention does not
see; token and class token start at CAE's deviation, cut at one, instead of a plain normal one; attention has no key
bias, which softmax does not see; other targets than pixels can be chosen.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from contextae.blocks import Block, Initialisation, LayerNorm, initialise, initialise_token
from contextae.encoder import Encoder, EncoderConfig
from contextae.grid import Grid, patchify
from contextae.masking import Mask
from contextae.methods.masked import MaskedConfig, misfit
from contextae.methods.method import Loss, Method, Pictures, Trace, placed
from contextae.methods.views import MaskedView
from contextae.positions import at, select, sine_cosine
from contextae.targets import Target


class MAEDecoder(nn.Module):
    """What it knows of the visible patches (`embed`), of the masked ones (`forward`), and their values (`head`)."""

    positions: Tensor

    def __init__(
        self,
        *,
        grid: Grid,
        encoder_width: int,
        width: int,
        depth: int,
        num_heads: int,
        outputs: int,
        mlp_ratio: float = 4.0,
        initialisation: Initialisation = "xavier",
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("positions", sine_cosine(grid.size, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width=width, num_heads=num_heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm, self.head = LayerNorm(width), nn.Linear(width, outputs)
        initialise(self, initialisation)
        initialise_token(self.mask_token)

    def forward(self, known: Float[Tensor, "b s d"], mask: Mask) -> Float[Tensor, "b m d"]:
        """Of the patches that `mask.masked` names, after the norm, from embedded tokens: s = 1 + v, of which the first,
        the class token, has position zero."""
        visible = known[:, 1:] + at(self.positions, mask.visible)
        masked = self.mask_token + at(self.positions, mask.masked)
        x = torch.cat([known[:, :1], visible, masked.to(known.dtype)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, known.shape[1] :])


class MAETrace(NamedTuple):
    """Everything between a batch and its loss; of tokens, s = 1 + v, the first is the class token's.

    `known` are tokens in the decoder's width, `hidden` what it has of the masked patches before its last layer.
    """

    tokens: Float[Tensor, "b s e"]
    known: Float[Tensor, "b s d"]
    hidden: Float[Tensor, "b m d"]
    prediction: Float[Tensor, "b m k"]
    wanted: Tensor


class MAE(Method):
    """Loss = reconstruction of the masked patches, a mean over all elements."""

    def __init__(self, *, encoder: Encoder, decoder: MAEDecoder, target: Target) -> None:
        super().__init__()
        self.encoder, self.decoder, self.target = encoder, decoder, target

    def equations(self, batch: MaskedView) -> MAETrace:
        """Latents, prediction, and what is wanted, one line each."""
        patches, mask = patchify(batch.images, self.encoder.grid), batch.mask
        tokens = self.encoder.encode(self.encoder.embed(patches, mask.visible), batch.key)
        known = self.decoder.embed(tokens)
        hidden = self.decoder(known, mask)
        prediction = self.decoder.head(hidden)
        wanted = select(self.target.value(batch.images, batch.second), mask.masked)
        return MAETrace(tokens, known, hidden, prediction, wanted)

    def forward(self, batch: MaskedView) -> Loss:
        """The reconstruction alone."""
        z = self.equations(batch)
        loss = self.target.loss(z.prediction, z.wanted)
        return Loss(loss, {"reconstruction": loss.detach()})

    def trace(self, batch: MaskedView) -> Trace:
        """In the decoder's width: visible latents, what it has of the masked patches before its last layer, and what
        the encoder says of them. Nothing here trains the last two to agree."""
        z = self.equations(batch)
        return Trace(z.known[:, 1:], z.hidden, self._encoded(batch))

    def pictures(self, batch: MaskedView) -> Pictures:
        """Each view of `reconstruct`, with every patch at its place in the image."""
        z = self.equations(batch)
        decoded = self.target.to_patches(z.prediction, batch.mask.masked, batch.images, batch.second)
        error = (z.hidden.float() - self._encoded(batch).float()).square().mean(-1)
        return placed(batch, self.encoder.grid, decoded, error)

    def _encoded(self, batch: MaskedView) -> Float[Tensor, "b m d"]:
        with torch.no_grad():
            patches = patchify(batch.images, self.encoder.grid)
            key = None if batch.key is None else batch.key + 1
            return self.decoder.embed(self.encoder(patches, batch.mask.masked, key))


class MAEConfig(MaskedConfig):
    """What MAE adds to its encoder. Defaults are those of the published base model."""

    name: Literal["mae"] = Field("mae", description="Masked Autoencoder, arXiv 2111.06377")
    masker: Literal["block", "random"] = Field("random", description="how masked patches are drawn [MAE]")
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="masked patches of all [MAE]")
    decoder_depth: int = Field(8, ge=0, description="blocks of the decoder [MAE]")
    decoder_width: int | None = Field(512, ge=4, description="its width [MAE]; null: the encoder's")
    decoder_num_heads: int | None = Field(16, ge=1, description="its attention heads [MAE]; null: the encoder's")

    def problems(self, trunk: EncoderConfig) -> list[str]:
        """Whether the heads fit."""
        return misfit("decoder", self.decoder_num_heads or trunk.num_heads, self.decoder_width or trunk.width)

    def build(self, trunk: EncoderConfig, *, image_size: tuple[int, int], channels: int, target: Target) -> MAE:
        """Freshly initialised, for images of this size."""
        encoder = trunk.build(image_size=image_size, channels=channels)
        decoder = MAEDecoder(
            grid=encoder.grid,
            encoder_width=trunk.width,
            width=self.decoder_width or trunk.width,
            depth=self.decoder_depth,
            num_heads=self.decoder_num_heads or trunk.num_heads,
            outputs=target.width,
            mlp_ratio=trunk.mlp_ratio,
            initialisation=trunk.initialisation,
        )
        return MAE(encoder=encoder, decoder=decoder, target=target)
