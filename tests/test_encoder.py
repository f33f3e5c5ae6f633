"""Encoder F against timm's plain ViT, and what it may and may not see."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from contextae.encoder import Encoder, EncoderConfig
from contextae.errors import UserError
from contextae.grid import Grid, patchify
from networks import GRIDS, IMAGE, image_grid, masked_batch, reordered, shake, shuffles


def encoder_of(grid: Grid = IMAGE, *, drop_path: float = 0.0) -> Encoder:
    encoder = Encoder(grid=grid, width=22, depth=3, num_heads=2, drop_path=drop_path)
    shake(encoder, scale=0.2)
    return encoder


def as_timm(encoder: Encoder, layer_scale: float | None) -> VisionTransformer:
    """timm's ViT with the encoder's weights: convolution for linear layer, zero key bias, our position table."""
    grid, width = encoder.grid, encoder.width
    vit = VisionTransformer(
        img_size=grid.image_size,
        patch_size=grid.patch_size,
        in_chans=grid.channels,
        embed_dim=width,
        depth=encoder.depth,
        num_heads=encoder.num_heads,
        init_values=layer_scale,
        num_classes=0,
        global_pool="token",
    ).eval()

    def renamed() -> Iterator[tuple[str, torch.Tensor]]:
        state = encoder.state_dict()
        for name, value in state.items():
            if name == "patch_embed.weight":
                yield "patch_embed.proj.weight", value.reshape(width, grid.channels, *grid.patch_size)
            elif name == "patch_embed.bias":
                yield "patch_embed.proj.bias", value
            elif name == "class_token":
                yield "cls_token", value.reshape(1, 1, width)
            elif name.endswith("q_bias"):
                values = state[name.replace("q_bias", "v_bias")]
                yield name.replace("q_bias", "qkv.bias"), torch.cat([value, torch.zeros(width), values])
            elif not name.endswith("v_bias"):
                yield name, value

    positions = torch.cat([torch.zeros(1, width), encoder.positions]).unsqueeze(0)
    vit.load_state_dict({**dict(renamed()), "pos_embed": positions})
    return vit


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("layer_scale", [0.1, None])
def test_given_all_patches_it_equals_timms_plain_vit(channels: int, layer_scale: float | None) -> None:
    encoder = Encoder(grid=image_grid(channels), width=22, depth=3, num_heads=2, layer_scale=layer_scale)
    shake(encoder, scale=0.2)
    images = torch.randn(3, channels, *IMAGE.image_size)
    expected = as_timm(encoder, layer_scale).forward_features(images)
    everything = torch.arange(35).expand(3, -1)
    torch.testing.assert_close(encoder(patchify(images, encoder.grid), everything), expected[:, 1:], atol=1e-5, rtol=0)
    summary, latents = encoder.summary_and_latents(images)
    torch.testing.assert_close(summary, expected[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(latents, expected[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.layerwise_latents(images)[-1], expected, atol=1e-5, rtol=0)


def test_layerwise_latents_are_those_after_each_block() -> None:
    encoder, images = encoder_of(), torch.randn(2, *(5, 10, 21))
    seen: list[torch.Tensor] = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    layers = encoder.layerwise_latents(images)
    assert len(layers) == encoder.depth == 3
    for layer, expected in zip(layers[:2], seen[:2], strict=True):
        assert torch.equal(layer, expected)
    assert torch.equal(layers[2], encoder.norm(seen[2]))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_patch_keeps_its_position_in_any_order(grid: Grid) -> None:
    encoder, batch = encoder_of(grid), masked_batch(grid)
    patches, visible = patchify(batch.images, grid), batch.mask.visible
    embeddings = encoder.embed(patches, visible)
    everywhere = encoder.embed(patches)
    for b in range(3):
        torch.testing.assert_close(embeddings[b], everywhere[b, visible[b]], atol=1e-6, rtol=0)
    order = shuffles(*visible.shape)
    shuffled = reordered(visible, order)
    assert torch.equal(encoder.embed(patches, shuffled), reordered(embeddings, order))
    latents = encoder(patches, visible)
    torch.testing.assert_close(encoder(patches, shuffled), reordered(latents, order), atol=1e-5, rtol=0)


def test_the_same_pixels_elsewhere_have_other_latents() -> None:
    encoder = encoder_of()
    patches = torch.randn(2, 1, 30).expand(-1, 35, -1)
    here, there = (encoder(patches, torch.tensor([[i, 3], [i, 3]])) for i in (1, 30))
    assert (here[:, 0] - there[:, 0]).abs().max() > 0.01


def test_the_named_patches_see_each_other_and_no_others() -> None:
    encoder, batch = encoder_of(), masked_batch()
    patches, visible = patchify(batch.images, IMAGE), batch.mask.visible
    latents = encoder(patches, visible)
    others = patches.scatter(1, batch.mask.masked.unsqueeze(-1).expand(-1, -1, 30), 100.0)
    assert torch.equal(encoder(others, visible), latents)
    one_changed = patches.clone()
    one_changed[torch.arange(3), visible[:, 4]] += 1
    assert ((encoder(one_changed, visible) - latents).abs().amax(-1) > 1e-5).all()


def test_the_class_token_joins_with_position_zero_and_is_seen() -> None:
    encoder, images = encoder_of(), torch.randn(2, 5, 10, 21)
    tokens = encoder.encode(encoder.embed(patchify(images, IMAGE)))
    assert tokens.shape == (2, 36, 22)
    first: list[torch.Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _module, inputs: first.append(inputs[0]))
    encoder.summary_and_latents(images)
    assert torch.equal(first[0][:, 0], encoder.class_token.expand(2, -1))
    with torch.no_grad():
        encoder.class_token += torch.randn(22)
    assert (encoder.summary_and_latents(images)[1] - tokens[:, 1:]).abs().max() > 1e-4


def test_positions_are_no_weights() -> None:
    encoder = encoder_of()
    assert "positions" not in encoder.state_dict()
    assert not encoder.positions.requires_grad


def test_stochastic_depth_rises_over_the_blocks_with_salts_of_their_own() -> None:
    encoder = encoder_of(drop_path=0.2)
    parts = [part for block in encoder.blocks for part in (block.drop_path1, block.drop_path2)]
    assert [part.rate for part in parts] == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])
    assert len({part.salt for part in parts}) == 6


def test_initialisation() -> None:
    encoder = Encoder(grid=IMAGE, width=22, depth=2, num_heads=2, layer_scale=0.3)
    bound = (6 / (22 + 30)) ** 0.5
    assert 0.95 * bound < float(encoder.patch_embed.weight.detach().abs().max()) <= bound
    assert 0 < float(encoder.class_token.detach().abs().max()) <= 0.02
    assert (encoder.blocks[1].ls2.gamma == 0.3).all()
    without = Encoder(grid=IMAGE, width=22, depth=1, num_heads=2, layer_scale=None)
    assert isinstance(without.blocks[0].ls1, nn.Identity)


def test_the_config_builds_what_it_says() -> None:
    config = EncoderConfig(
        patch_size=(2, 3), width=20, depth=3, num_heads=5, mlp_ratio=2.5, layer_scale=None, drop_path=0.2
    )
    encoder = config.build(image_size=(10, 21), channels=5)
    assert encoder.grid == IMAGE
    assert (encoder.width, encoder.depth, encoder.num_heads) == (20, 3, 5)
    assert encoder.blocks[0].mlp.fc1.out_features == 50
    assert encoder.blocks[2].drop_path1.rate == 0.2
    assert encoder.blocks[2].attn.num_heads == 5


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"must have 5 channel\(s\) and size \(10, 21\)"):
        encoder_of().summary_and_latents(torch.zeros(1, 5, 21, 10))


def test_learned_positions_are_weights_and_change_nothing_else() -> None:
    torch.manual_seed(0)
    fixed = Encoder(grid=IMAGE, width=22, depth=2, num_heads=2)
    torch.manual_seed(0)
    learned = Encoder(grid=IMAGE, width=22, depth=2, num_heads=2, learned_positions=True)
    assert (fixed.learned_positions, learned.learned_positions) == (False, True)
    assert set(learned.state_dict()) - set(fixed.state_dict()) == {"positions"}
    assert all(torch.equal(value, learned.state_dict()[name]) for name, value in fixed.state_dict().items())
    assert learned.positions.shape == (35, 22) and 0.01 < float(learned.positions.detach().std()) < 0.03
    with torch.no_grad():
        learned.positions.copy_(fixed.positions)
    batch = masked_batch()
    patches = patchify(batch.images, IMAGE)
    latents = learned(patches, batch.mask.visible)
    assert torch.equal(latents, fixed(patches, batch.mask.visible))
    latents.square().sum().backward()
    seen = torch.zeros(35, dtype=torch.bool).index_fill_(0, batch.mask.visible.flatten(), True)
    assert torch.equal(learned.positions.grad.abs().sum(1) > 0, seen) and not seen.all()


def test_the_config_builds_learned_positions() -> None:
    config = EncoderConfig(patch_size=(2, 3), width=20, depth=1, num_heads=5, positions="learned")
    assert config.build(image_size=(10, 21), channels=5).learned_positions
    assert not EncoderConfig().build(image_size=(32, 16), channels=1).learned_positions
