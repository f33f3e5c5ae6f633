"""What predicted latents are aligned with, and the distance."""

from __future__ import annotations

import pytest
import torch

from contextae.alignment import Alignment, StopGradient, distance
from contextae.encoder import Encoder
from contextae.grid import patchify
from networks import IMAGE, largest, masked_batch, shake


def encoder_of(*, drop_path: float = 0.0) -> Encoder:
    encoder = Encoder(grid=IMAGE, width=22, depth=3, num_heads=2, drop_path=drop_path)
    shake(encoder)
    return encoder


def test_it_is_the_encoder_itself_on_the_masked_patches_alone_without_gradient() -> None:
    encoder, batch = encoder_of(), masked_batch()
    patches = patchify(batch.images, IMAGE)
    aligned_to = StopGradient()(encoder, patches, batch.mask.masked)
    assert not aligned_to.requires_grad
    assert torch.equal(aligned_to, encoder(patches, batch.mask.masked))
    hidden = patches.scatter(1, batch.mask.visible.unsqueeze(-1).expand(-1, -1, 30), 100.0)
    assert torch.equal(StopGradient()(encoder, hidden, batch.mask.masked), aligned_to)


def test_stochastic_depth_stays_on_and_is_drawn_apart_from_the_visible_branch() -> None:
    encoder, batch = encoder_of(drop_path=0.6), masked_batch(size=11)
    patches, masked, key = patchify(batch.images, IMAGE), batch.mask.masked, batch.key
    aligned_to = StopGradient()(encoder, patches, masked, key)
    assert torch.equal(StopGradient()(encoder, patches, masked, key), aligned_to)
    assert largest(aligned_to - encoder(patches, masked, key)) > 1e-3
    encoder.eval()
    assert largest(aligned_to - StopGradient()(encoder, patches, masked, key)) > 1e-3
    assert not encoder.training


def test_without_keys_it_draws_from_torch() -> None:
    encoder, batch = encoder_of(drop_path=0.6), masked_batch(size=11)
    patches, masked = patchify(batch.images, IMAGE), batch.mask.masked
    assert largest(StopGradient()(encoder, patches, masked) - StopGradient()(encoder, patches, masked)) > 1e-3


def test_it_holds_no_weights_and_keeps_to_the_protocol() -> None:
    assert not isinstance(StopGradient(), torch.nn.Module)
    assert not vars(StopGradient())
    assert isinstance(StopGradient(), Alignment)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_distance_is_the_mean_over_all_elements_in_float32(dtype: torch.dtype) -> None:
    one, two = torch.randn(2, 5, 7).to(dtype), torch.randn(2, 5, 7).to(dtype)
    expected = sum((a - b) ** 2 for a, b in zip(one.double().flatten(), two.double().flatten(), strict=True)) / 70
    out = distance(one, two)
    assert out.dtype == torch.float32
    assert float(out) == pytest.approx(float(expected), rel=1e-5)


def test_unrelated_normed_latents_are_about_two_apart() -> None:
    one, two = (torch.nn.functional.layer_norm(torch.randn(5, 11, 96), (96,)) for _ in range(2))
    assert float(distance(one, two)) == pytest.approx(2.0, abs=0.1)
