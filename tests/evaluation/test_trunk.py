"""A trunk is its encoder, at any size: the same tokens, maps of the right blocks, and a bias that begins as none."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_rel import gen_relative_position_index

from contextae.blocks import Attention, Block
from contextae.encoder import Encoder, resized
from contextae.evaluation.features import fingerprint
from contextae.evaluation.trunk import RelativeBias, Trunk, offsets
from contextae.grid import Grid
from networks import image_grid, shake

IMAGES = torch.randn(2, 3, 10, 21, generator=torch.Generator().manual_seed(3))
LARGER = torch.randn(2, 3, 14, 12, generator=torch.Generator().manual_seed(4))


def small_encoder(*, depth: int = 3, learned_positions: bool = False) -> Encoder:
    """5 x 7 patches of 2 x 3 pixels; its weights are nobody's start."""
    torch.manual_seed(0)
    encoder = Encoder(
        grid=image_grid(3), width=12, depth=depth, num_heads=3, mlp_ratio=2.5, learned_positions=learned_positions
    )
    shake(encoder)
    return encoder.eval()


def test_its_tokens_are_the_encoders_and_the_encoder_stays_as_it_is() -> None:
    encoder = small_encoder()
    before = fingerprint(encoder)
    trunk = Trunk(encoder, relative_bias=True, drop_path=0.4).eval()
    summary, latents = encoder.summary_and_latents(IMAGES)
    assert torch.allclose(trunk.tokens(IMAGES), torch.cat([summary[:, None], latents], 1), atol=1e-6)
    assert torch.equal(trunk.encoder.norm(trunk.unnormed(IMAGES)), trunk.tokens(IMAGES))
    assert (trunk.width, trunk.depth, trunk.grid) == (12, 3, encoder.grid)
    for parameter in trunk.parameters():
        parameter.data.add_(1.0)
    assert fingerprint(encoder) == before and not encoder.training


@pytest.mark.parametrize("learned", [False, True])
def test_another_size_has_positions_of_its_own(learned: bool) -> None:
    encoder = small_encoder(learned_positions=learned)
    trunk = Trunk(encoder, image_size=(14, 12)).eval()
    assert trunk.grid == Grid(image_size=(14, 12), patch_size=(2, 3), channels=3)
    wanted = resized(encoder, (14, 12))
    assert torch.equal(trunk.tokens(LARGER)[:, 0], wanted.summary_and_latents(LARGER)[0])
    if learned:
        table = resample_abs_pos_embed(encoder.positions.detach()[None], [7, 4], [5, 7], num_prefix_tokens=0)
        assert torch.equal(trunk.encoder.positions, table[0]) and trunk.encoder.learned_positions


@pytest.mark.parametrize(("depth", "blocks"), [(12, (4, 6, 8, 12)), (24, (8, 12, 16, 24)), (2, (1, 1, 1, 2))])
def test_maps_are_of_the_published_blocks_without_class_token_and_norm(depth: int, blocks: tuple[int, ...]) -> None:
    encoder = small_encoder(depth=depth)
    layers = encoder.layerwise_latents(IMAGES)
    maps = Trunk(encoder, frozen=True).maps(IMAGES)
    assert [each.shape for each in maps] == [(2, 12, 5, 7)] * 4
    for each, block in zip(maps, blocks, strict=True):
        tokens = each.flatten(2).mT
        tokens = encoder.norm(tokens) if block == depth else tokens
        assert torch.allclose(tokens, layers[block - 1][:, 1:], atol=1e-5)


def test_offsets_are_beits() -> None:
    for size in ((5, 7), (3, 2), (1, 4)):
        assert torch.equal(offsets(*size), gen_relative_position_index(size, class_token=True))
    bias = RelativeBias(size=(5, 7), num_heads=3)
    assert bias.table.shape == (9 * 13 + 3, 3) and not bias.table.any()
    bias.table.data.normal_()
    made = bias()
    # patches 8 = (1, 1) and 24 = (3, 3): two rows up and two columns to the left, for every head
    assert torch.equal(made[:, 1 + 8, 1 + 24], bias.table[(5 - 1 - 2) * 13 + 7 - 1 - 2])
    assert torch.equal(made[:, 0, 0], bias.table[-1]) and torch.equal(made[:, 5, 0], bias.table[-2])


def test_a_bias_is_added_to_the_products_before_the_softmax() -> None:
    torch.manual_seed(0)
    attention, bias, x = Attention(width=12, num_heads=3), torch.randn(3, 6, 6), torch.randn(2, 6, 12)
    q, k, v = (part.reshape(2, 6, 3, 4).transpose(1, 2) for part in attention.qkv(x).chunk(3, -1))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(2, 3, 6, 6))
    assert torch.allclose(attention(x, bias), attention.proj(wanted.transpose(1, 2).flatten(2)), atol=1e-6)
    assert torch.equal(attention(x, torch.zeros(3, 6, 6)), attention(x))
    block = Block(width=12, num_heads=3)
    assert not torch.equal(block(x, None, bias), block(x))


def test_every_block_has_a_bias_of_its_own_that_learns() -> None:
    trunk = Trunk(small_encoder(), relative_bias=True)
    trunk.tokens(IMAGES)[:, :3].square().sum().backward()
    tables = [bias.table for bias in trunk.biases]
    assert len(tables) == 3 and all(table.grad is not None and table.grad.any() for table in tables)
    changed = copy.deepcopy(trunk).eval()
    changed.biases[1].table.data.normal_()
    assert not torch.allclose(changed.tokens(IMAGES), trunk.eval().tokens(IMAGES))


def test_a_frozen_trunk_stays_frozen() -> None:
    trunk = Trunk(small_encoder(), drop_path=0.9, frozen=True)
    torch.nn.ModuleList([trunk]).train()
    assert not trunk.training and not trunk.encoder.training
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    images = IMAGES.clone().requires_grad_()
    assert not trunk.tokens(images).requires_grad and not trunk.maps(images)[0].requires_grad
    assert torch.equal(trunk.tokens(IMAGES), trunk.tokens(IMAGES))


def test_drop_path_is_counted_by_its_key() -> None:
    trunk = Trunk(small_encoder(), drop_path=0.9).train()
    key = torch.tensor([11, 12])
    assert torch.equal(trunk.tokens(IMAGES, key), trunk.tokens(IMAGES, key))
    assert torch.equal(trunk.tokens(IMAGES, key)[:1], trunk.tokens(IMAGES[:1], key[:1]))
    assert not torch.equal(trunk.tokens(IMAGES, key), trunk.eval().tokens(IMAGES, key))


def test_layers_of_weights() -> None:
    trunk = Trunk(small_encoder(learned_positions=True), relative_bias=True)
    layers = {name: trunk.layer_of(name) for name, _ in trunk.named_parameters()}
    wanted = {
        "encoder.class_token": 0,
        "encoder.positions": 0,
        "encoder.patch_embed.weight": 0,
        "encoder.blocks.0.attn.q_bias": 1,
        "encoder.blocks.2.mlp.fc2.bias": 3,
        "biases.0.table": 1,
        "biases.2.table": 3,
        "encoder.norm.weight": 4,
    }
    assert {name: layers[name] for name in wanted} == wanted
    assert set(layers.values()) == {0, 1, 2, 3, 4}
