"""Features of a frozen encoder, which is left exactly as it was found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from contextae.errors import UserError
from contextae.evaluation.features import extract, fingerprint
from evaluation.stand_in import DEVIATION, MEAN, StandIn, separable


def test_features_are_the_encoders_in_evaluation_mode() -> None:
    encoder, (images, _) = StandIn(), separable(11)
    told: list[float] = []
    features = extract(
        encoder,
        images,
        mean=MEAN,
        deviation=DEVIATION,
        with_tokens=True,
        batch_size=4,
        progress=lambda _, share: told.append(share),
    )
    normal = (torch.from_numpy(images) / 255 - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(DEVIATION).reshape(
        3, 1, 1
    )
    summary, latents = encoder.eval().summary_and_latents(normal)
    assert torch.allclose(features.summary, summary, atol=1e-5)
    assert torch.allclose(features.mean_latents, latents.mean(1), atol=1e-5)
    assert features.tokens is not None and features.tokens.dtype == torch.float16
    tokens = torch.cat([summary[:, None], latents], 1)
    normal_tokens = (tokens - tokens.mean(2, keepdim=True)) / tokens.std(2, correction=0, keepdim=True)
    assert torch.allclose(features.tokens.float(), normal_tokens, atol=1e-2)
    assert told == [4 / 11, 8 / 11, 1.0]
    assert list(features.vectors) == ["class token", "mean of latents"]


def test_the_encoder_is_left_as_found() -> None:
    encoder, (images, _) = StandIn(), separable(5)
    encoder.norm.eval()
    encoder.embed.weight.grad = torch.ones_like(encoder.embed.weight)
    before = fingerprint(encoder)
    modes = [module.training for module in encoder.modules()]
    flags = [parameter.requires_grad for parameter in encoder.parameters()]
    features = extract(encoder, images, mean=MEAN, deviation=DEVIATION, precision="bfloat16")
    assert fingerprint(encoder) == before
    assert [module.training for module in encoder.modules()] == modes and True in modes and False in modes
    assert [parameter.requires_grad for parameter in encoder.parameters()] == flags
    assert encoder.embed.weight.grad is not None and not features.summary.requires_grad
    assert features.tokens is None and features.summary.dtype == torch.float32


def test_mode_is_restored_after_a_failure() -> None:
    class Failing(StandIn):
        def summary_and_latents(self, images: Tensor) -> tuple[Tensor, Tensor]:
            raise RuntimeError("planted")

    encoder = Failing()
    with pytest.raises(RuntimeError, match="planted"):
        extract(encoder, separable(2)[0], mean=MEAN, deviation=DEVIATION)
    assert encoder.training


def test_fingerprint_sees_one_bit_and_one_name() -> None:
    encoder = StandIn()
    before = fingerprint(encoder)
    with torch.no_grad():
        encoder.embed.weight[0, 0, 0, 0] += 1e-6
    assert fingerprint(encoder) != before


def test_refusals() -> None:
    encoder, (images, _) = StandIn(), separable(6)
    with pytest.raises(UserError, match=r"6 images x 7 tokens x 8 values in float16 are .* over the limit"):
        extract(encoder, images, mean=MEAN, deviation=DEVIATION, with_tokens=True, token_bytes_limit=600)
    with pytest.raises(UserError, match="one number per channel, deviations above 0"):
        extract(encoder, images, mean=(0.5,), deviation=(0.5,))
    with pytest.raises(UserError, match="one number per channel, deviations above 0"):
        extract(encoder, images, mean=MEAN, deviation=(0.5, 0.0, 0.5))
    with pytest.raises(UserError, match="at least one image"):
        extract(encoder, images[:0], mean=MEAN, deviation=DEVIATION)
    with torch.no_grad():
        encoder.class_token[0] = np.nan
    with pytest.raises(UserError, match="must be finite"):
        extract(encoder, images, mean=MEAN, deviation=DEVIATION)
