"""Decoder G: masked latents and positions in, predictions out."""

from __future__ import annotations

import pytest
import torch

from contextae.decoder import Decoder
from networks import IMAGE, largest, masked_batch, reordered, shake, shuffles


def decoder_of(*, depth: int = 2, drop_path: float = 0.0) -> Decoder:
    decoder = Decoder(grid=IMAGE, width=22, depth=depth, num_heads=2, outputs=31, drop_path=drop_path)
    shake(decoder, scale=0.2)
    return decoder


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_it_is_blocks_norm_and_one_linear_layer_over_latents_with_positions(depth: int) -> None:
    decoder, masked = decoder_of(depth=depth), masked_batch().mask.masked
    predicted = torch.randn(3, 13, 22)
    x = torch.stack([predicted[b] + decoder.positions[masked[b]] for b in range(3)])
    for block in decoder.blocks:
        x = block(x)
    expected = decoder.head(decoder.norm(x))
    out = decoder(predicted, masked)
    assert len(decoder.blocks) == depth and out.shape == (3, 13, 31)
    assert torch.equal(out, expected)


def test_positions_join_once() -> None:
    decoder, masked = decoder_of(depth=2), masked_batch().mask.masked
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    decoder.blocks[1].register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    decoder.blocks[0].register_forward_hook(lambda _module, _given, out: outputs.append(out))
    decoder(torch.randn(3, 13, 22), masked)
    assert torch.equal(inputs[0], outputs[0])


def test_permuting_the_masked_patches_permutes_the_prediction() -> None:
    decoder, masked = decoder_of(), masked_batch().mask.masked
    predicted, order = torch.randn(3, 13, 22), shuffles(3, 13)
    out = decoder(predicted, masked)
    shuffled = decoder(reordered(predicted, order), reordered(masked, order))
    torch.testing.assert_close(shuffled, reordered(out, order), atol=1e-5, rtol=0)
    assert largest(decoder(predicted, reordered(masked, order)) - out) > 0.05


def test_stochastic_depth_has_salts_apart_from_the_regressors() -> None:
    decoder = decoder_of(drop_path=0.3)
    parts = [part for block in decoder.blocks for part in (block.drop_path1, block.drop_path2)]
    assert [part.rate for part in parts] == pytest.approx([0, 0, 0.3, 0.3])
    assert len({part.salt for part in parts}) == 4 and min(part.salt for part in parts) >= 4_000


def test_initialisation() -> None:
    decoder = Decoder(grid=IMAGE, width=22, depth=1, num_heads=2, outputs=31, layer_scale=0.3)
    bound = (6 / (22 + 31)) ** 0.5
    assert 0.95 * bound < largest(decoder.head.weight) <= bound
    assert (decoder.head.bias == 0).all() and (decoder.blocks[0].ls1.gamma == 0.3).all()
