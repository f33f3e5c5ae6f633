"""Training of a discrete VAE on images (Ramesh et al., arXiv 2102.12092; Jang et al., arXiv 1611.01144).

The choice of a code is relaxed: Gumbel noise joins the logits and a softmax of falling temperature stands for the
choice, so that gradients reach the encoder. Differs from the reference: squared error instead of the logit-Laplace
likelihood; besides the divergence of each choice from a uniform one, the entropy of the codes over the whole batch is
kept up, because a codebook for few images otherwise falls out of use.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from contextae.data.augment import Crop
from contextae.encoder import EncoderConfig
from contextae.methods.method import Loss, Trainable
from contextae.methods.views import PlainView, PlainViews
from contextae.tokenizers.dvae import DVAE


class DVAETraining(Trainable):
    """Loss = mean squared error + `kl_weight` x divergence - `usage_weight` x entropy of the batch's mean choice.

    The error is of images in 0..1 divided by their variance, `deviation` squared, so that dull images count like
    bright ones. `temperature` is the one thing that moves by itself, in `after_step`, and is part of the state.
    """

    temperature: Tensor

    def __init__(
        self,
        *,
        dvae: DVAE,
        first_temperature: float,
        last_temperature: float,
        kl_weight: float,
        usage_weight: float,
        mean: tuple[float, ...],
        deviation: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.dvae = dvae
        self.first_temperature, self.last_temperature = first_temperature, last_temperature
        self.kl_weight, self.usage_weight = kl_weight, usage_weight
        self.register_buffer("temperature", torch.tensor(first_temperature))
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    def forward(self, batch: PlainView) -> Loss:
        """All parts in nats or in shares of the images' variance; means over all elements."""
        images = batch.images * self.deviation + self.mean
        logits = self.dvae.logits(images).float()
        share = logits.log_softmax(1)
        chosen = ((logits + self._noise(batch.key, logits)) / self.temperature).softmax(1)
        error = ((self.dvae.images(chosen).float() - images) / self.deviation).square().mean()
        kl = (share.exp() * (share + math.log(self.dvae.num_codes))).sum(1).mean()
        mean_choice = share.exp().mean((0, 2, 3))
        # the slope of x log x is infinite at the 0 to which a code that is never chosen underflows
        usage = -torch.xlogy(mean_choice, mean_choice.clamp(min=1e-30)).sum()
        total = error + self.kl_weight * kl - self.usage_weight * usage
        return Loss(total, {"reconstruction": error.detach(), "kl": kl.detach(), "usage": usage.detach()})

    @staticmethod
    def _noise(key: Int[Tensor, "b"], like: Float[Tensor, "b k i j"]) -> Float[Tensor, "b k i j"]:
        """Gumbel's, a function of each sample's key: minus the logarithm of exponential noise."""
        generator = torch.Generator(like.device)
        noise = torch.empty_like(like)
        for sample, seed in zip(noise, key.tolist(), strict=True):
            sample.exponential_(generator=generator.manual_seed(seed))
        return -noise.clamp(min=1e-30).log()

    def after_step(self, progress: float) -> None:
        """The temperature falls along a half cosine, from the first to the last."""
        share = (1 + math.cos(math.pi * progress)) / 2
        self.temperature.fill_(self.last_temperature + (self.first_temperature - self.last_temperature) * share)


class DVAEConfig(BaseModel):
    """A d-VAE for `contextae fit-tokenizer`. Of the encoder's settings it reads patch_size alone: pixels a code."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["dvae"] = Field("dvae", description="the tokenizer of fit-tokenizer, after arXiv 2102.12092")
    num_codes: int = Field(
        512, ge=2, le=2**20, description="length of the codebook [DALL-E: 8192, for 250 million images]"
    )
    width: int = Field(32, ge=8, le=2**12, description="channels of the convolutions")
    first_temperature: float = Field(1.0, gt=0, description="of the relaxed choice at the start [DALL-E: 1]")
    last_temperature: float = Field(1 / 16, gt=0, description="at the end [DALL-E: 1/16]")
    kl_weight: float = Field(0.0, ge=0, description="of the divergence of a choice from a uniform one")
    usage_weight: float = Field(0.01, ge=0, description="of the entropy of the codes over a batch")

    def problems(self, trunk: EncoderConfig) -> list[str]:
        """Whether the patches can be codes."""
        rows, columns = trunk.patch_size
        if rows != columns or rows < 2 or rows & (rows - 1):
            return [
                "encoder.patch_size of a d-VAE is the pixels of a code: square, a power of two, 2 at least. Got "
                f"{list(trunk.patch_size)}"
            ]
        return []

    def check_grid(self, size: tuple[int, ...]) -> None:
        """Every grid will do."""

    def build_views(self, crop: Crop, size: tuple[int, int]) -> PlainViews:
        """Random crops, nothing hidden."""
        return PlainViews(crop=crop)

    def build(
        self, trunk: EncoderConfig, *, channels: int, mean: tuple[float, ...], deviation: tuple[float, ...]
    ) -> DVAETraining:
        """Freshly initialised."""
        dvae = DVAE(channels=channels, num_codes=self.num_codes, stride=trunk.patch_size[0], width=self.width)
        return DVAETraining(
            dvae=dvae,
            first_temperature=self.first_temperature,
            last_temperature=self.last_temperature,
            kl_weight=self.kl_weight,
            usage_weight=self.usage_weight,
            mean=mean,
            deviation=deviation,
        )
