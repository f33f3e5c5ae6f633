"""Context Autoencoder (Chen et al., arXiv 2202.03026, IJCV 2023).

An encoder sees the visible patches; a regressor predicts the latents of the masked ones from them; a decoder turns the
predicted latents, and nothing else, into the target. Predicted latents are aligned with the encoder's own latents of
the masked patches, so that encoding and decoding stay apart.

Differs from the reference: the default target is per-patch normalised pixels, for which no tokenizer is needed; the
encoder itself gives the latents to align with (the released code keeps a copy that shares its storage).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from contextae.alignment import Alignment, StopGradient, distance
from contextae.blocks import Initialisation
from contextae.decoder import Decoder
from contextae.encoder import Encoder, EncoderConfig
from contextae.grid import patchify
from contextae.methods.masked import MaskedConfig, misfit
from contextae.methods.method import Loss, Method, Pictures, Trace, placed
from contextae.methods.views import MaskedView
from contextae.positions import select
from contextae.regressor import Regressor, projection
from contextae.targets import Target


class CAETrace(NamedTuple):
    """Everything between a batch and its loss, in the paper's names."""

    visible: Float[Tensor, "b v e"]
    predicted: Float[Tensor, "b m e"]
    aligned_to: Float[Tensor, "b m e"]
    prediction: Float[Tensor, "b m k"]
    wanted: Tensor


class CAE(Method):
    """Loss = reconstruction + `alignment_weight` x alignment; lambda is 2 in the published recipe.

    Without the reconstruction (`reconstruction_weight` 0, for experiments) the latents collapse: nothing else holds
    them.

    Where regressor and decoder are not as wide as the encoder, a linear layer with norm leads from one to the other,
    for the visible latents and for those to align with.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        regressor: Regressor,
        decoder: Decoder,
        target: Target,
        alignment: Alignment,
        alignment_weight: float = 2.0,
        reconstruction_weight: float = 1.0,
        initialisation: Initialisation = "xavier",
    ) -> None:
        super().__init__()
        self.encoder, self.regressor, self.decoder = encoder, regressor, decoder
        self.target, self.alignment = target, alignment
        self.alignment_weight, self.reconstruction_weight = alignment_weight, reconstruction_weight
        self.projection = projection(encoder.width, regressor.mask_query.shape[0], initialisation)

    def equations(self, batch: MaskedView) -> CAETrace:
        """Z_v, Z_m, the latents to align with, and Y_m, one line each."""
        patches, mask, key = patchify(batch.images, self.encoder.grid), batch.mask, batch.key
        visible = self.projection(self.encoder(patches, mask.visible, key))
        predicted = self.regressor(visible, mask, key)
        aligned_to = self.projection(self.alignment(self.encoder, patches, mask.masked, key)).detach()
        prediction = self.decoder(predicted, mask.masked, key)
        wanted = select(self.target.value(batch.images, batch.second), mask.masked)
        return CAETrace(visible, predicted, aligned_to, prediction, wanted)

    def forward(self, batch: MaskedView) -> Loss:
        """Reconstruction and weighted alignment, each a mean over all its elements."""
        z = self.equations(batch)
        reconstruction = self.target.loss(z.prediction, z.wanted)
        alignment = distance(z.predicted, z.aligned_to)
        total = self.reconstruction_weight * reconstruction + self.alignment_weight * alignment
        return Loss(total, {"reconstruction": reconstruction.detach(), "alignment": alignment.detach()})

    def trace(self, batch: MaskedView) -> Trace:
        """The latents alone."""
        z = self.equations(batch)
        return Trace(z.visible, z.predicted, z.aligned_to)

    def pictures(self, batch: MaskedView) -> Pictures:
        """Each view of `reconstruct`, with every patch at its place in the image."""
        z = self.equations(batch)
        decoded = self.target.to_patches(z.prediction, batch.mask.masked, batch.images, batch.second)
        error = (z.predicted.float() - z.aligned_to.float()).square().mean(-1)
        return placed(batch, self.encoder.grid, decoded, error)


class CAEConfig(MaskedConfig):
    """What a Context Autoencoder adds to its encoder. Defaults are the released recipe's where it has one."""

    name: Literal["cae"] = Field("cae", description="the Context Autoencoder, arXiv 2202.03026")
    regressor_depth: int = Field(4, ge=1, description="blocks of the regressor [released recipe: 4]")
    decoder_depth: int = Field(4, ge=0, description="blocks of the decoder [released recipe: 4]")
    decoder_width: int | None = Field(None, ge=4, description="width of regressor and decoder; null: the encoder's")
    decoder_num_heads: int | None = Field(None, ge=1, description="their attention heads; null: the encoder's")
    alignment_weight: float = Field(2.0, ge=0, description="lambda [released recipe: 2]")
    reconstruction_weight: float = Field(1.0, ge=0, description="0 leaves the alignment alone, which collapses")

    def problems(self, trunk: EncoderConfig) -> list[str]:
        """Whether the heads fit."""
        return misfit("decoder", self.decoder_num_heads or trunk.num_heads, self.decoder_width or trunk.width)

    def build(self, trunk: EncoderConfig, *, image_size: tuple[int, int], channels: int, target: Target) -> CAE:
        """A freshly initialised CAE for images of this size; regressor and decoder share the trunk's other settings."""
        encoder = trunk.build(image_size=image_size, channels=channels)
        shared: dict[str, Any] = {
            "grid": encoder.grid,
            "width": self.decoder_width or trunk.width,
            "num_heads": self.decoder_num_heads or trunk.num_heads,
            "mlp_ratio": trunk.mlp_ratio,
            "layer_scale": trunk.layer_scale,
            "drop_path": trunk.drop_path,
            "initialisation": trunk.initialisation,
        }
        return CAE(
            encoder=encoder,
            regressor=Regressor(depth=self.regressor_depth, **shared),
            decoder=Decoder(depth=self.decoder_depth, outputs=target.width, **shared),
            target=target,
            alignment=StopGradient(),
            alignment_weight=self.alignment_weight,
            reconstruction_weight=self.reconstruction_weight,
            initialisation=trunk.initialisation,
        )
