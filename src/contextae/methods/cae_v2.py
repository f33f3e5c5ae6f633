"""CAE v2: Context Autoencoder with CLIP Latent Alignment (Zhang et al., arXiv 2211.09799, TMLR 2023).

An encoder sees the visible patches and a regressor predicts the masked ones, as in CAE; then one norm and one linear
layer lead from the class token, the visible and the masked patches to the features that a frozen teacher has of the
whole image. There is no decoder and no alignment: supervising the visible patches is what the paper adds.

Differs from the reference: the teacher is any network of `tokenizers/teacher.py`, not CLIP's ViT-B/16 alone.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from contextae.blocks import Initialisation, LayerNorm, initialise
from contextae.encoder import Encoder, EncoderConfig
from contextae.grid import patchify
from contextae.methods.masked import MaskedConfig, misfit
from contextae.methods.method import Loss, Method, Trace
from contextae.methods.views import MaskedView
from contextae.positions import select
from contextae.regressor import Regressor, projection
from contextae.targets import Features


class CAEv2Trace(NamedTuple):
    """Everything between a batch and its loss; tokens are the class token, then visible, then masked patches."""

    visible: Float[Tensor, "b v e"]
    predicted: Float[Tensor, "b m e"]
    prediction: Float[Tensor, "b s k"]
    wanted: Float[Tensor, "b s k"]


class CAEv2(Method):
    """Loss = 1 - cosine between prediction and teacher, mean over all tokens, so parts weigh as many as they are.

    Visible latents and class token pass two norms, the encoder's and this one's, as in the released code, whose
    regressor has a norm of its own that nothing uses: it is kept, so that published weights survive a round trip.
    """

    def __init__(
        self, *, encoder: Encoder, regressor: Regressor, target: Features, initialisation: Initialisation = "xavier"
    ) -> None:
        super().__init__()
        self.encoder, self.regressor, self.target = encoder, regressor, target
        self.regressor.norm.requires_grad_(False)
        width = regressor.mask_query.shape[0]
        self.projection = projection(encoder.width, width, initialisation)
        self.norm, self.head = LayerNorm(width), nn.Linear(width, target.width)
        initialise(self.norm)
        initialise(self.head, initialisation)

    def latents(self, batch: MaskedView) -> tuple[Float[Tensor, "b s e"], Float[Tensor, "b m e"]]:
        """Class token and Z_v, and Z_m: all of it without the teacher."""
        patches, mask, key = patchify(batch.images, self.encoder.grid), batch.mask, batch.key
        tokens = self.projection(self.encoder.encode(self.encoder.embed(patches, mask.visible), key))
        return tokens, self.regressor.regress(tokens[:, 1:], mask, key)

    def equations(self, batch: MaskedView) -> CAEv2Trace:
        """Z_v, Z_m, Y and what is wanted, one line each."""
        mask = batch.mask
        tokens, predicted = self.latents(batch)
        prediction = self.head(self.norm(torch.cat([tokens, predicted], dim=1)))
        teacher = self.target.tokens(batch.images, batch.second)
        first, rest = teacher[:, :1], teacher[:, 1:]
        wanted = torch.cat([first, select(rest, mask.visible), select(rest, mask.masked)], dim=1)
        return CAEv2Trace(tokens[:, 1:], predicted, prediction, wanted)

    def forward(self, batch: MaskedView) -> Loss:
        """The loss over all tokens; its parts are of masked patches, of visible ones and of the class token."""
        z = self.equations(batch)
        last = 1 + batch.mask.visible.shape[1]
        total = self.target.loss(z.prediction, z.wanted)
        spans = {"summary": slice(0, 1), "visible": slice(1, last), "masked": slice(last, None)}
        parts = {name: self.target.loss(z.prediction[:, s], z.wanted[:, s]).detach() for name, s in spans.items()}
        return Loss(total, {"reconstruction": total.detach(), **parts})

    def trace(self, batch: MaskedView) -> Trace:
        """Latents, and what the encoder says of the masked patches: nothing here trains them to agree."""
        tokens, predicted = self.latents(batch)
        patches = patchify(batch.images, self.encoder.grid)
        with torch.no_grad():
            aligned_to = self.projection(self.encoder(patches, batch.mask.masked, batch.key + 1))
        return Trace(tokens[:, 1:], self.norm(predicted), aligned_to)


class CAEv2Config(MaskedConfig):
    """What CAE v2 adds to its encoder. Defaults are the released recipe of the base size."""

    name: Literal["cae_v2"] = Field("cae_v2", description="CAE v2, arXiv 2211.09799")
    regressor_depth: int = Field(4, ge=1, description="blocks of the regressor [released recipe: 4, small sizes 1]")
    regressor_width: int | None = Field(None, ge=4, description="its width; null: the encoder's")
    regressor_num_heads: int | None = Field(None, ge=1, description="its attention heads; null: the encoder's")
    target: str = Field(
        "features:timm:vit_base_patch16_clip_quickgelu_224.openai",
        description="features:TEACHER [released recipe: CLIP B/16]",
    )

    def problems(self, trunk: EncoderConfig) -> list[str]:
        """Whether the heads fit, and whether there is a teacher."""
        found = misfit("regressor", self.regressor_num_heads or trunk.num_heads, self.regressor_width or trunk.width)
        if not self.target.startswith("features:"):
            found.append(f"method.target of cae_v2 is a teacher, features:TEACHER. Got {self.target!r}")
        return found

    def build(self, trunk: EncoderConfig, *, image_size: tuple[int, int], channels: int, target: Any) -> CAEv2:
        """Freshly initialised, for images of this size; the regressor shares the trunk's other settings."""
        encoder = trunk.build(image_size=image_size, channels=channels)
        regressor = Regressor(
            grid=encoder.grid,
            width=self.regressor_width or trunk.width,
            depth=self.regressor_depth,
            num_heads=self.regressor_num_heads or trunk.num_heads,
            mlp_ratio=trunk.mlp_ratio,
            layer_scale=trunk.layer_scale,
            drop_path=trunk.drop_path,
            initialisation=trunk.initialisation,
        )
        return CAEv2(encoder=encoder, regressor=regressor, target=target, initialisation=trunk.initialisation)
