"""An encoder taken apart, and made again for images of another size."""

from __future__ import annotations

import pytest
import torch
from exports import odd_encoder

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.grid import Grid
from contextae.interop.trunk import has_layer_scale, hidden_width, mlp_ratio, resized
from contextae.positions import sine_cosine
from networks import image_grid


def test_the_hidden_width_comes_back_through_the_ratio() -> None:
    for width in (21, 22, 49, 98):
        for hidden in range(1, 4 * width, 37):
            ratio = (hidden + 0.5) / width
            encoder = Encoder(grid=image_grid(1), width=width, depth=1, num_heads=1, mlp_ratio=ratio)
            assert hidden_width(encoder) == hidden == int(width * mlp_ratio(encoder))


def test_a_ratio_that_rounding_spoils() -> None:
    encoder = odd_encoder()
    spoiled = next(h for h in range(1, 400) if int(49 * (h / 49)) != h)
    encoder.width, encoder.blocks[0].mlp.fc1.out_features = 49, spoiled
    assert int(49 * mlp_ratio(encoder)) == spoiled


def test_layer_scale_or_none() -> None:
    assert has_layer_scale(odd_encoder()) and not has_layer_scale(odd_encoder(layer_scale=None))


@pytest.mark.parametrize("layer_scale", [0.3, None])
def test_another_size_has_the_same_weights_and_the_positions_of_its_grid(layer_scale: float | None) -> None:
    encoder = odd_encoder(layer_scale=layer_scale).train()
    larger = resized(encoder, (14, 12))
    assert larger.grid == Grid(image_size=(14, 12), patch_size=(2, 3), channels=5) and not larger.training
    assert torch.equal(larger.positions, sine_cosine((7, 4), 21))
    assert all(torch.equal(a, b) for a, b in zip(larger.parameters(), encoder.parameters(), strict=True))
    assert larger.num_heads == 3 and larger.blocks[1].attn.num_heads == 3
    same = resized(encoder, (10, 21))
    images = torch.randn(2, 5, 10, 21)
    assert torch.equal(same.summary_and_latents(images)[0], encoder.eval().summary_and_latents(images)[0])
    with pytest.raises(UserError, match=r"15 is not a multiple of 2"):
        resized(encoder, (15, 12))


def test_positions_that_are_no_sine_cosine_table_stay_at_their_size() -> None:
    encoder = odd_encoder()
    encoder.positions.add_(0.1)
    assert torch.equal(resized(encoder, (10, 21)).positions, encoder.positions)
    with pytest.raises(UserError, match=r"cannot be computed for another one\. Use it at its own size, \(10, 21\)"):
        resized(encoder, (14, 12))


def test_learned_positions_go_with_the_encoder_and_are_never_resized() -> None:
    encoder = odd_encoder(learned_positions=True)
    same = resized(encoder, (10, 21))
    assert same.learned_positions and torch.equal(same.positions, encoder.positions)
    assert same.positions.data_ptr() != encoder.positions.data_ptr()
    images = torch.randn(2, 5, 10, 21)
    assert torch.equal(same.summary_and_latents(images)[0], encoder.summary_and_latents(images)[0])
    with torch.no_grad():
        encoder.positions.copy_(sine_cosine((5, 7), 21))
    with pytest.raises(
        UserError, match=r"learned for images of 10 x 21 pixels, .* Got 14 x 12\. .*image_size=\[14, 12\]"
    ):
        resized(encoder, (14, 12))
